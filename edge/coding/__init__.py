"""What becomes of a frame on the camera host: masks, stillness, the base layer, the picture that is kept."""
