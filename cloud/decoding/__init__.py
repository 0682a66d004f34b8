"""From the layers of a frame to pictures, for workers that look at them and for the station that shows them."""
