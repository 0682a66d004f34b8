"""The line that tells how a demo does: a bar where its end is known, and what has been counted."""

from __future__ import annotations

from secondlook.cloud.demo.edgestatus import EdgeTotals
from secondlook.cloud.demo.report import Counts

_BAR_CELLS = 20


class Progress:
    """Of one run. `frames`: how many will be captured; None: until it is stopped, or the source ends."""

    def __init__(self, frames: int | None) -> None:
        self._frames = frames
        self._share = 0.0

    def shown(self, edge: EdgeTotals, counts: Counts, columns: int | None) -> str:
        """The line, in no more than so many columns."""
        text = line_of(edge, counts)
        if (share := self.share(edge, counts)) is not None:
            filled = int(share * _BAR_CELLS)
            text = f"[{'#' * filled}{'.' * (_BAR_CELLS - filled)}] {share:4.0%}  {text}"
        if columns is not None and len(text) > columns:
            text = text[: max(0, columns - 1)] + "…"
        return text

    def share(self, edge: EdgeTotals, counts: Counts) -> float | None:
        """What is done, 0 to 1, never less than it was: frames that were looked at or dropped, reviews that ended.

        None while nobody knows how many frames there will be.
        """
        frames = edge.captured if edge.source == "ended" else self._frames
        if frames is None:
            return None
        ended = counts.reviews_created - counts.reviews_open
        done = min(frames, counts.detected + counts.tombstoned) + ended
        all_of_it = frames + counts.reviews_created
        self._share = max(self._share, done / all_of_it if all_of_it else 1.0)
        return self._share


def line_of(edge: EdgeTotals, counts: Counts) -> str:
    """What has been counted, for people."""
    parts = [
        f"captured {edge.captured}",
        f"acknowledged {edge.acknowledged}",
        f"detected {counts.detected}",
        f"reviews {counts.reviews_refined} ready of {counts.reviews_created}",
    ]
    if counts.reviews_settled:
        parts.append(f"{counts.reviews_settled} settled")
    if counts.reviews_expired:
        parts.append(f"{counts.reviews_expired} expired")
    if counts.tombstoned:
        parts.append(f"{counts.tombstoned} dropped")
    parts.append(f"base {_kilobytes(edge.bytes_base)}")
    sent, stored = _kilobytes(edge.bytes_enhancement_sent), _kilobytes(edge.bytes_enhancement_stored)
    parts.append(f"enhancement {sent} sent of {stored}")
    return "  ".join(parts)


def _kilobytes(count: int) -> str:
    return f"{count / 1000:.0f} kB" if count < 10_000_000 else f"{count / 1_000_000:.1f} MB"
