"""Where distortion counts in the base layer: masks from several sources behind one interface (see docs/training.md)."""
