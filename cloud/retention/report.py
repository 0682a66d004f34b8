"""What a run of retention did, in figures and in one line."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from secondlook.cloud.catalogue import Retention
from secondlook.cloud.catalogue.retention import Held

# Frames are taken in this order when room is needed.
CLASSES = (Retention.UNREVIEWED, Retention.AUDIT, Retention.DECIDED)

_UNITS = ("B", "kB", "MB", "GB", "TB")


@dataclass
class Deleted:
    """What one run deleted, or would have; with what was left of a run that died in ``resumed``."""

    by_class: dict[Retention, Held] = field(default_factory=lambda: dict.fromkeys(CLASSES, Held()))
    resumed: Held = field(default_factory=Held)
    failed_frames: int = 0  # whose blobs could not be deleted; they are tried again
    tombstones: int = 0
    orphan_blobs: int = 0
    orphan_bytes: int = 0
    unfinished_files: int = 0

    @property
    def anything(self) -> bool:
        frames = (
            sum(held.frames for held in self.by_class.values()) + self.resumed.frames + self.failed_frames
        )
        return bool(frames or self.tombstones or self.orphan_blobs or self.unfinished_files)

    def as_dict(self) -> dict[str, Any]:
        classes = {retention.value: asdict(held) for retention, held in self.by_class.items()}
        return {**asdict(self), "by_class": classes}


@dataclass(frozen=True)
class Report:
    """One run in figures: ``kept`` is what is there after it; ``missing_bytes`` is how far the limits are passed."""

    at: float  # Unix seconds
    seconds: float
    dry_run: bool
    deleted: Deleted
    kept: dict[Retention, Held]
    free_bytes: int | None
    missing_bytes: int

    def as_dict(self) -> dict[str, Any]:
        return {
            "at": self.at,
            "seconds": round(self.seconds, 3),
            "dry_run": self.dry_run,
            "deleted": self.deleted.as_dict(),
            "kept": {retention.value: asdict(held) for retention, held in self.kept.items()},
            "free_bytes": self.free_bytes,
            "missing_bytes": self.missing_bytes,
        }

    def line(self) -> str | None:
        """For the log; None when there is nothing to tell."""
        deleted = self.deleted
        groups = [(retention.value, held) for retention, held in deleted.by_class.items()]
        groups.append(("half-deleted", deleted.resumed))
        parts = [
            f"{held.frames} {name} frames ({size_of(held.bytes)})" for name, held in groups if held.frames
        ]
        if deleted.tombstones:
            parts.append(f"{deleted.tombstones} tombstones")
        if deleted.orphan_blobs:
            parts.append(f"{deleted.orphan_blobs} blobs without a row ({size_of(deleted.orphan_bytes)})")
        if deleted.unfinished_files:
            parts.append(f"{deleted.unfinished_files} half-written files")
        if not parts:
            return None
        return f"{'would delete' if self.dry_run else 'deleted'} {', '.join(parts)}"


def size_of(count: int) -> str:
    """Bytes for people."""
    size = float(count)
    for unit in _UNITS[:-1]:
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} {_UNITS[-1]}"
