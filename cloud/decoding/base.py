"""The picture of any stored frame's base layer, whichever family it is of."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from secondlook.cloud.decoding.files import U8Image
from secondlook.cloud.decoding.groups import GroupDecoders
from secondlook.cloud.decoding.limits import check_layer
from secondlook.cloud.storage.blobs import Blobs, base_key
from secondlook.shared.errors import ReferenceMissing, StoreCorrupt
from secondlook.shared.layers import LayeredCodec
from secondlook.shared.videobits import is_of_group


@dataclass(frozen=True)
class StoredFrame:
    """Where a frame's base layer is, and what it refers to."""

    edge_id: str
    boot_id: str
    seq: int
    key_seq: int | None
    base_blob: str


class BaseDecoder:
    """Decodes one frame at a time; others wait. The codec is opened by ``codec`` when the first frame needs it."""

    def __init__(self, codec: Callable[[], LayeredCodec], blobs: Blobs, max_pixels: int) -> None:
        """Layers of more than ``max_pixels`` raise PictureTooLarge before they are decoded."""
        self._open, self._blobs, self._max_pixels = codec, blobs, max_pixels
        self._codec: LayeredCodec | None = None
        self._groups = GroupDecoders(blobs, max_pixels)
        self._lock = threading.Lock()

    def decode(self, frame: StoredFrame) -> U8Image:
        """uint8[H,W,3] in RGB. Raises subclasses of BitstreamError, and what opening the codec raises."""
        base = self._layer(frame.base_blob)
        with self._lock:
            if is_of_group(base):
                return self._groups.decode(frame.edge_id, frame.boot_id, frame.seq, frame.key_seq, base)
            if self._codec is None:
                self._codec = self._open()
            key = None
            if frame.key_seq is not None:
                key = self._layer(base_key(frame.edge_id, frame.boot_id, frame.key_seq))
            return self._codec.decode_base(base, key=key)

    def _layer(self, key: str) -> bytes:
        try:
            layer = self._blobs.get(key)
        except StoreCorrupt as error:  # this one blob; the store has others
            raise ReferenceMissing(str(error)) from error
        check_layer(layer, self._max_pixels)
        return layer
