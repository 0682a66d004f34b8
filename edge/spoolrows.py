"""What the spool holds: its tables, and the records that go in and come out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from secondlook.shared.packet import BaseFrame, Tombstone
from secondlook.shared.videobits import is_of_group

SCHEMA_VERSION = 2
INDEXES = """
CREATE INDEX frames_undelivered ON frames (boot, seq) WHERE safe = 0;
CREATE INDEX frames_deltas ON frames (id) WHERE safe = 0 AND key_seq IS NOT NULL;
CREATE INDEX frames_safe ON frames (id) WHERE safe = 1;
CREATE INDEX frames_pinned ON frames (pinned_until_ns) WHERE pinned_until_ns > 0;
"""
CLOCK = """
CREATE TABLE clock (spool_ns INTEGER NOT NULL, wall_ns INTEGER NOT NULL) STRICT;
INSERT INTO clock VALUES (0, 0);
"""
SCHEMA = f"""
CREATE TABLE boots (
    number INTEGER PRIMARY KEY,
    boot_id TEXT NOT NULL UNIQUE,
    started_ns INTEGER NOT NULL,
    next_seq INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE frames (
    id INTEGER PRIMARY KEY,
    boot INTEGER NOT NULL REFERENCES boots (number),
    seq INTEGER NOT NULL,
    captured_ns INTEGER NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    key_seq INTEGER,
    size_bytes INTEGER NOT NULL,
    put_ns INTEGER NOT NULL DEFAULT 0,  -- by the spool's own clock
    pinned_until_ns INTEGER NOT NULL DEFAULT 0,  -- by the same clock
    safe INTEGER NOT NULL DEFAULT 0,
    base BLOB NOT NULL,
    enhancement BLOB NOT NULL,
    UNIQUE (boot, seq)
) STRICT;
{INDEXES}CREATE TABLE tombstones (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    boot INTEGER NOT NULL REFERENCES boots (number),
    first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    reason TEXT NOT NULL
) STRICT;
{CLOCK}"""
# From version 1: frames begin to age anew, and none is pinned.
UPGRADE = f"""
ALTER TABLE frames ADD COLUMN put_ns INTEGER NOT NULL DEFAULT 0;
ALTER TABLE frames ADD COLUMN pinned_until_ns INTEGER NOT NULL DEFAULT 0;
DROP INDEX frames_undelivered;
DROP INDEX frames_safe;
{INDEXES}{CLOCK}"""


@dataclass(frozen=True)
class SpooledFrame:
    """One encoded frame: its place in the boot, what the gateway must know of it, both layers."""

    seq: int
    captured_ns: int
    width: int
    height: int
    key_seq: int | None
    base: bytes
    enhancement: bytes

    @property
    def size_bytes(self) -> int:
        return len(self.base) + len(self.enhancement)

    @property
    def first_seq(self) -> int:
        return self.seq

    @property
    def last_seq(self) -> int:
        return self.seq

    @property
    def needed_seq(self) -> int | None:
        """Of the key that nobody can decode others without, when this frame is dropped: its own, or its group's."""
        if self.key_seq is not None and is_of_group(self.base):
            return self.key_seq
        return self.seq if self.key_seq is None else None


PassedReason = Literal["idle", "thinned"]


@dataclass(frozen=True)
class PassedOver:
    """Frames `first_seq` to `last_seq` that were captured and not coded, on purpose: no other frame depends on them."""

    first_seq: int
    last_seq: int
    reason: PassedReason

    @property
    def needed_seq(self) -> None:
        """Of a key: see `SpooledFrame`."""
        return None


Spoolable: TypeAlias = SpooledFrame | PassedOver


@dataclass(frozen=True)
class UnspooledTombstone:
    """Frames `first_seq` to `last_seq` that could not be stored; the latest key that cannot be decoded by now."""

    first_seq: int
    last_seq: int
    key_seq: int | None

    def followed_by(self, later: UnspooledTombstone) -> UnspooledTombstone:
        key_seq = self.key_seq if later.key_seq is None else later.key_seq
        return UnspooledTombstone(self.first_seq, later.last_seq, key_seq)


@dataclass(frozen=True)
class PendingBase:
    """An undelivered base layer as it is read for sending."""

    seq: int
    captured_ns: int
    width: int
    height: int
    key_seq: int | None
    enhancement_bytes: int
    base: bytes

    def packet(self, boot_id: str) -> BaseFrame:
        return BaseFrame(
            *(boot_id, self.seq, self.captured_ns, self.width, self.height, self.key_seq),
            *(self.enhancement_bytes, self.base),
        )


@dataclass(frozen=True)
class SpooledTombstone:
    """Frames `first_seq` to `last_seq` of a boot were dropped. A tombstone that grows gets a new `id`."""

    id: int
    boot_id: str
    first_seq: int
    last_seq: int
    reason: str

    def packet(self) -> Tombstone:
        return Tombstone(self.boot_id, self.first_seq, self.last_seq, self.reason)


@dataclass(frozen=True)
class SpoolCounts:
    """What the boots that the spool knows have come to; a frame that is neither undelivered nor dropped is safe."""

    boots: int
    frames: int  # that were given a number, dropped ones too
    undelivered: int  # frames that are held and not yet acknowledged
    dropped_untold: int  # frames under tombstones that are not yet acknowledged
    oldest_undelivered_ns: int | None  # when it was captured

    @property
    def acknowledged(self) -> int:
        return self.frames - self.undelivered - self.dropped_untold


@dataclass(frozen=True)
class Safe:
    """What one `Welcome` or `Ack` said of one boot."""

    boot_id: str
    cumulative: int
    selective: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Restored:
    """What a gateway was told to be safe and holds no more, because an older copy of its data was put back."""

    again: int = 0  # frames to send again
    again_from: int | None = None  # the first of them
    gone: int = 0  # frames that are not in the spool any more, and those that need them: under tombstones now
