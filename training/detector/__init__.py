"""Training of the detector that ships: a small student distilled from a YOLOX teacher."""
