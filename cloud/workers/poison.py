"""What is made of an exception over one frame."""

from __future__ import annotations

_MOST_TEXT = 240


def cause_of(error: Exception) -> str:
    """An exception in one line: its class, and what it says."""
    original = getattr(error, "orig", None)  # a database's own words, without the statement around them
    said = " ".join(str(error if original is None else original).split())[:_MOST_TEXT]
    name = type(error).__name__
    return f"{name}: {said}" if said else name
