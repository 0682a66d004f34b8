"""The classes that detectors and reviewers have named, one spelling each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from secondlook.cloud.catalogue import Catalogue
from secondlook.cloud.station import queries
from secondlook.shared.detection import COCO_CLASSES
from secondlook.shared.texts import class_key

_FRESH_NS = 60_000_000_000


class ClassBook:
    """Knows how a class is written: as a detector does, else as COCO does, else as whoever named it first.

    What others name meanwhile is read again once a minute; ``now_ns`` tells the time in Unix nanoseconds.
    """

    def __init__(self, catalogue: Catalogue, *, now_ns: Callable[[], int]) -> None:
        self._catalogue = catalogue
        self._now_ns = now_ns
        self._read_at = 0
        self._spellings: dict[str, str] = {}
        self._lock = threading.Lock()

    def spelling(self, label: str) -> str:
        """The known spelling of a class, else the one given."""
        spellings = self._known()
        with self._lock:
            return spellings.setdefault(class_key(label), label)

    def names(self) -> list[str]:
        """All classes in use, then those of COCO."""
        used = spellings_of(*queries.named_classes(self._catalogue))
        rest = [label for label in COCO_CLASSES if class_key(label) not in used]
        return sorted(used.values()) + rest

    def _known(self) -> dict[str, str]:
        now = self._now_ns()
        if not self._spellings or not 0 <= now - self._read_at < _FRESH_NS:
            detected, named = queries.named_classes(self._catalogue)
            self._spellings = spellings_of(detected, COCO_CLASSES, named)
            self._read_at = now
        return self._spellings


def spellings_of(*sources: Iterable[str]) -> dict[str, str]:
    """One spelling for each class, by its key; earlier sources win, then the alphabet."""
    spellings: dict[str, str] = {}
    for labels in sources:
        for label in sorted(labels):
            spellings.setdefault(class_key(label), label)
    return spellings
