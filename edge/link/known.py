"""Which backgrounds of video groups the gateway has, as far as this host knows: what may be left out of a packet.

A background goes along with the first group that uses it; later groups refer to it by its hash. A gateway that lacks it
says so, and gets what is under way once more, whole. Nothing is remembered over a restart of the agent.
"""

from __future__ import annotations

from collections import OrderedDict

from secondlook.shared.packet import BaseFrame, LeanFrame
from secondlook.shared.videobits import background_digest, split_head

MAX_KNOWN = 64


class KnownBackgrounds:
    """The owner makes a packet, says whether it was sent, and hears which frames to send again where it was wrong."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, None] = OrderedDict()
        self._lean: dict[str, set[int]] = {}  # sent so on this connection, by boot
        self._refused = False  # this gateway takes no lean frames

    def connected(self) -> None:
        """A new connection: what was under way is sent anew, perhaps to another gateway."""
        self._lean.clear()
        self._refused = False

    def packet(self, frame: BaseFrame) -> BaseFrame | LeanFrame:
        """A frame as it is to be sent: without its background where the gateway has that."""
        parts = None if self._refused else split_head(frame.payload)
        if parts is None:
            return frame
        background, payload = parts
        digest = background_digest(background)
        return LeanFrame(frame.info, digest, payload) if digest in self._known else frame

    def sent(self, packet: BaseFrame | LeanFrame) -> None:
        """The packet was handed to the connection, on which order holds."""
        if isinstance(packet, LeanFrame):
            self._lean.setdefault(packet.info.boot_id, set()).add(packet.info.seq)
            return
        parts = split_head(packet.payload)
        if parts is not None:
            digest = background_digest(parts[0])
            self._known[digest] = None
            self._known.move_to_end(digest)
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)

    def safe(self, boot_id: str, cumulative: int) -> None:
        """Frames up to this one have arrived."""
        lean = self._lean.get(boot_id)
        if lean:
            lean -= {seq for seq in lean if seq <= cumulative}

    def unknown(self) -> dict[str, int]:
        """The gateway lacks a background: by boot, the first frame to send again."""
        again = {boot_id: min(lean) for boot_id, lean in self._lean.items() if lean}
        self._known.clear()
        self._lean.clear()
        return again

    def refused(self) -> dict[str, int]:
        """The gateway rejects a packet: if that was a lean frame, it may be of an earlier version, and gets no more."""
        again = self.unknown() if any(self._lean.values()) else {}
        self._refused = self._refused or bool(again)
        return again
