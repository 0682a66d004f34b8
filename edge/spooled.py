"""What goes into the spool and comes out of it: frames, ranges of frames that are gone, figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from secondlook.shared.packet import MAX_BASE_BYTES, MAX_ENHANCEMENT_BYTES, FrameInfo, Tombstone
from secondlook.shared.videobits import is_of_group


@dataclass(frozen=True)
class SpooledFrame:
    """One encoded frame: what the gateway must know of it, and both layers."""

    info: FrameInfo
    base: bytes
    enhancement: bytes

    @property
    def size_bytes(self) -> int:
        return len(self.base) + len(self.enhancement)

    @property
    def first_seq(self) -> int:
        return self.info.seq

    @property
    def last_seq(self) -> int:
        return self.info.seq

    @property
    def needed_seq(self) -> int | None:
        """Of the key that nobody can decode others without, when this frame is dropped: its own, or its group's."""
        if self.info.key_seq is not None and is_of_group(self.base):
            return self.info.key_seq
        return self.info.seq if self.info.key_seq is None else None

    def too_large(self, most_bytes: int) -> str | None:
        """Why it goes under a tombstone: what no packet carries, or no spool of so many bytes holds; else None."""
        limits = (
            ("base layer", len(self.base), MAX_BASE_BYTES),
            ("enhancement", len(self.enhancement), MAX_ENHANCEMENT_BYTES),
            ("two layers", self.size_bytes, most_bytes),
        )
        for what, size, most in limits:
            if size > most:
                place = f"frame {self.info.seq} is too large ({self.info.width}x{self.info.height})"
                return f"{place}: {what} of {size} bytes, at most {most} are possible"
        return None


PassedReason = Literal["idle", "thinned", "unmasked"]


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
