"""Decoding frames of the family `video`: the decoders of the cameras that a worker serves, and the packets before.

A frame decodes behind those before it in its group. Mostly the decoder of its camera stands right before it; else the
decoder goes on, or begins anew, through the packets in the blob store. A packet that is not stored there is in another
worker's hands or in the queue, or lost; the error names it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from secondlook.cloud.decoding.limits import check_layer
from secondlook.cloud.storage.blobs import Blobs, base_key
from secondlook.shared.errors import (
    BitstreamError,
    FrameMissing,
    MalformedBitstream,
    ReferenceMissing,
    StoreCorrupt,
)
from secondlook.shared.layers import U8Image
from secondlook.shared.video import GroupDecoder
from secondlook.shared.videobits import GroupHead, parse_base

MAX_DECODERS = 32
MAX_PIXELS = 1 << 25  # of all decoders of a worker together; one keeps up to 25 bytes a pixel

_Group = tuple[str, str, int]  # edge id, boot id, sequence of its first frame


class GroupDecoders:
    """Decoders of the groups decoded last, a bounded number of them. One object serves one thread at a time."""

    def __init__(self, blobs: Blobs, max_pixels: int, kept_pixels: int = MAX_PIXELS) -> None:
        """`max_pixels`: of a picture; a larger one raises PictureTooLarge before it is decoded. `kept_pixels`: of the
        pictures of all decoders together."""
        self._blobs, self._max_pixels, self._kept_pixels = blobs, max_pixels, kept_pixels
        self._decoders: OrderedDict[_Group, GroupDecoder] = OrderedDict()

    def decode(
        self,
        edge_id: str,
        boot_id: str,
        seq: int,
        key_seq: int | None,
        base: bytes,
        progress: Callable[[], None] = lambda: None,
    ) -> U8Image:
        """The picture of a base layer, uint8[H,W,3]. `key_seq`: sequence of the first frame of its group, None for it.

        `progress` is called for each frame that is decoded on the way. Raises subclasses of BitstreamError:
        FrameMissing names the one before it that is not stored, or not as it was sent.
        """
        first = seq if key_seq is None else key_seq
        packet = parse_base(base)
        frame = packet.frame if isinstance(packet, GroupHead) else packet
        if isinstance(packet, GroupHead) != (key_seq is None) or frame.place != seq - first + 1:
            raise MalformedBitstream(
                f"place {frame.place} of a group, in frame {seq} of one that begins at {first}"
            )
        group = (edge_id, boot_id, first)
        decoder = self._decoders.pop(group, None)
        if decoder is None or not decoder.place < frame.place:
            head = packet if isinstance(packet, GroupHead) else self._head(group)
            decoder = self._begun(group, head, is_own=head is packet)
        try:
            while decoder.place + 1 < frame.place:
                # Packets are decoded one by one as they are read: memory is bounded, whatever a group has.
                self._advance(group, decoder)
                progress()
            image = decoder.decode(frame.to_bytes())
        except ReferenceMissing:
            self._keep(group, decoder)  # as far as it came
            raise
        self._keep(group, decoder)
        return image

    def background(self, edge_id: str, boot_id: str, seq: int, key_seq: int | None) -> U8Image:
        """Of the group of a frame that was just decoded, uint8[H,W,3]. Raises KeyError for another."""
        return self._decoders[(edge_id, boot_id, seq if key_seq is None else key_seq)].background

    def _begun(self, group: _Group, head: GroupHead, *, is_own: bool) -> GroupDecoder:
        """A decoder at the beginning of a group: before its first frame if that is the one wanted, else behind it."""
        if is_own:
            return GroupDecoder(head.background.to_bytes())
        try:
            decoder = GroupDecoder(head.background.to_bytes())
            decoder.decode(head.frame.to_bytes())
        except BitstreamError as error:
            raise _undecodable(group[2], error) from error
        return decoder

    def _advance(self, group: _Group, decoder: GroupDecoder) -> None:
        """Decode the next frame, which is not the one wanted, from the store."""
        seq = group[2] + decoder.place
        base = self._load(group, seq)
        try:
            decoder.decode(base)
        except BitstreamError as error:
            raise _undecodable(seq, error) from error

    def _head(self, group: _Group) -> GroupHead:
        head = parse_base(self._load(group, group[2]))
        if not isinstance(head, GroupHead):
            raise FrameMissing(f"frame {group[2]} is not the first of its group", group[2])
        return head

    def _load(self, group: _Group, seq: int) -> bytes:
        key = base_key(group[0], group[1], seq)
        if not self._blobs.exists(key):
            raise FrameMissing(f"frame {seq} of its group has not come", seq)
        try:
            base = self._blobs.get(key)
        except StoreCorrupt as error:  # this one blob
            raise FrameMissing(f"frame {seq} of its group is gone: {error}", seq) from error
        try:
            check_layer(base, self._max_pixels)
            parse_base(base)
        except BitstreamError as error:
            raise _undecodable(seq, error) from error
        return base

    def _keep(self, group: _Group, decoder: GroupDecoder) -> None:
        """The decoder of a camera's group, instead of that of its group before; the oldest go where there are many."""
        for other in [known for known in self._decoders if known[:2] == group[:2]]:
            if other[2] < group[2]:
                del self._decoders[other]
        self._decoders[group] = decoder
        while len(self._decoders) > 1 and (
            len(self._decoders) > MAX_DECODERS
            or sum(one.pixels for one in self._decoders.values()) > self._kept_pixels
        ):
            self._decoders.popitem(last=False)


def _undecodable(seq: int, error: BitstreamError) -> FrameMissing:
    return FrameMissing(f"frame {seq} of its group cannot be decoded: {error}", seq)
