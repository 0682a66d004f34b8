"""The version of the distribution, read by the build and by everything that says who it is."""

__version__ = "0.1.0"
