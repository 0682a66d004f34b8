"""Machines look at every camera frame; people get a second look at the few that need one."""

from secondlook.shared.version import __version__

__all__ = ["__version__"]
