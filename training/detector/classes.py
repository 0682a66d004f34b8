"""The classes that ship, in the order of the exported model's class outputs."""

from __future__ import annotations

SHIPPED_CLASSES = (
    "person",
    "bicycle",
    "car",
    "motorcycle",
    "bus",
    "truck",
    "cat",
    "dog",
    "horse",
    "sheep",
    "cow",
)
