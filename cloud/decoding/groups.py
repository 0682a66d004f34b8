"""Decoding frames of the family `video`: the decoders of the cameras that a worker serves, and the packets before.

A frame decodes behind those before it in its group. Mostly the decoder of its camera stands right before it; else the
decoder goes on, or begins anew, through the packets in the blob store. Nobody is asked for anything: a packet that is
not stored yet is in another worker's hands or in the queue, and the frame comes again later.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from secondlook.cloud.decoding.limits import check_layer
from secondlook.cloud.storage.blobs import Blobs, base_key
from secondlook.shared.errors import BitstreamError, MalformedBitstream, ReferenceMissing, StoreCorrupt
from secondlook.shared.layers import U8Image
from secondlook.shared.video import GroupDecoder
from secondlook.shared.videobits import GroupHead, parse_base

MAX_DECODERS = 32
MAX_PIXELS = 1 << 25  # of all decoders together; one keeps up to 25 bytes a pixel

_Group = tuple[str, str, int]  # edge id, boot id, sequence of its first frame


class GroupDecoders:
    """Decoders of the groups decoded last, a bounded number of them. One object serves one thread at a time."""

    def __init__(self, blobs: Blobs, max_pixels: int) -> None:
        """`max_pixels`: of a picture; a larger one raises PictureTooLarge before it is decoded."""
        self._blobs, self._max_pixels = blobs, max_pixels
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
        ReferenceMissing names the frame that is not stored.
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
            decoder = GroupDecoder(head.background.to_bytes())
            if not isinstance(packet, GroupHead):
                decoder.decode(head.frame.to_bytes())
        try:
            while decoder.place + 1 < frame.place:
                # Packets are decoded one by one as they are read: memory is bounded, whatever a group has.
                decoder.decode(self._load(group, first + decoder.place))
                progress()
            image = decoder.decode(frame.to_bytes())
        except ReferenceMissing:
            self._keep(group, decoder)  # as far as it came
            raise
        self._keep(group, decoder)
        return image

    def _head(self, group: _Group) -> GroupHead:
        head = parse_base(self._load(group, group[2]))
        if not isinstance(head, GroupHead):
            raise ReferenceMissing(f"frame {group[2]} is not the first of its group")
        return head

    def _load(self, group: _Group, seq: int) -> bytes:
        key = base_key(group[0], group[1], seq)
        if not self._blobs.exists(key):
            raise ReferenceMissing(f"frame {seq} of its group has not come")
        try:
            base = self._blobs.get(key)
        except StoreCorrupt as error:  # this one blob
            raise ReferenceMissing(f"frame {seq} of its group is gone: {error}") from error
        try:
            check_layer(base, self._max_pixels)
            parse_base(base)
        except BitstreamError as error:
            raise ReferenceMissing(f"frame {seq} of its group cannot be decoded: {error}") from error
        return base

    def _keep(self, group: _Group, decoder: GroupDecoder) -> None:
        """The decoder of a camera's group, instead of that of its group before; the oldest go where there are many."""
        for other in [known for known in self._decoders if known[:2] == group[:2]]:
            if other[2] < group[2]:
                del self._decoders[other]
        self._decoders[group] = decoder
        while len(self._decoders) > 1 and (
            len(self._decoders) > MAX_DECODERS
            or sum(one.pixels for one in self._decoders.values()) > MAX_PIXELS
        ):
            self._decoders.popitem(last=False)
