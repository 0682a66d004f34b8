"""What a gateway was told to be safe and has lost: an older copy of its data was put back.

The spool marks a frame safe when the gateway says so, and keeps it a while. On every connection it compares what it
marked with what the gateway says it holds. What the gateway lacks is sent again where the spool still has it, and goes
under a tombstone with the reason `restored` where it has not. A delta whose key neither of them has goes along:
nobody could decode it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from secondlook.shared.link import Received
from secondlook.shared.videobits import GROUP_MARK

REASON = "restored"
_ISLANDS = (
    "SELECT min(seq), max(seq) FROM (SELECT seq, seq - row_number() OVER (ORDER BY seq) AS island FROM frames"
    " WHERE boot = ? AND safe = ? AND seq BETWEEN ? AND ?) GROUP BY island ORDER BY 1"
)


@dataclass(frozen=True)
class Restored:
    """What a gateway was told to be safe and holds no more, because an older copy of its data was put back."""

    again: int = 0  # frames to send again
    again_from: int | None = None  # the first of them
    gone: int = 0  # frames that are not in the spool any more, and those that need them: under tombstones now


def take_back(
    db: sqlite3.Connection,
    boot: int,
    next_seq: int,
    held: Received,
    bury: Callable[[int, int, int, str], None],
) -> tuple[Restored, Received]:
    """Within the caller's transaction: what became of `boot`, and the sequences that nobody has any more.

    `held` is what the gateway says it has; `bury` makes a tombstone (boot, first, last, reason).
    """
    waiting = _ranges(_islands(db, boot, 0, held.cumulative + 1, next_seq - 1))
    for first, last in db.execute("SELECT first_seq, last_seq FROM tombstones WHERE boot = ?", (boot,)):
        waiting.add(first, last)
    lost = [part for gap in held.missing(0, next_seq - 1) for part in waiting.missing(*gap)]
    gone = Received()
    for first, last in lost:
        kept = _ranges(_islands(db, boot, 1, first, last))
        for part in kept.missing(first, last):
            gone.add(*part)
        db.execute("UPDATE frames SET safe = 0 WHERE boot = ? AND seq BETWEEN ? AND ?", (boot, first, last))
    for part in gone.parts():
        for seq in _orphans(db, boot, *part):
            gone.add(seq)
    for part in gone.parts():
        bury(boot, *part, REASON)
    again = [
        db.execute(
            "SELECT count(*), min(seq) FROM frames WHERE boot = ? AND safe = 0 AND seq BETWEEN ? AND ?",
            (boot, first, last),
        ).fetchone()
        for first, last in lost
    ]
    again_from = min((least for _, least in again if least is not None), default=None)
    buried = sum(last - first + 1 for first, last in gone.parts())
    return Restored(sum(count for count, _ in again), again_from, buried), gone


def _orphans(db: sqlite3.Connection, boot: int, first: int, last: int) -> list[int]:
    """Undelivered deltas to keys that are gone, and frames of video groups behind one that is. They stay for their
    enhancements, and are not sent."""
    which = (
        "boot = ?1 AND safe = 0 AND (key_seq BETWEEN ?2 AND ?3"
        " OR (key_seq <= ?3 AND seq > ?2 AND substr(base, 1, 1) = ?4))"
    )
    values = (boot, first, last, GROUP_MARK)
    rows = db.execute(f"SELECT seq FROM frames WHERE {which}", values).fetchall()
    db.execute(f"UPDATE frames SET safe = 1 WHERE {which}", values)
    return [seq for (seq,) in rows]


def _islands(db: sqlite3.Connection, boot: int, safe: int, first: int, last: int) -> list[tuple[int, int]]:
    """Frames in the spool, as ranges."""
    return db.execute(_ISLANDS, (boot, safe, first, last)).fetchall()


def _ranges(parts: Iterable[tuple[int, int]]) -> Received:
    found = Received()
    for first, last in parts:
        found.add(first, last)
    return found
