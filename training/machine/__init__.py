"""`secondlook bench machine`: how many bits a detector needs of a camera's frames, by codec."""
