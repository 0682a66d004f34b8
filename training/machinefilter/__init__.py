"""The filter that a worker puts between the decoder of the family `video` and its detector."""
