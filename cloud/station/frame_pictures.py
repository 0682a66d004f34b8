"""Pictures of any stored frame: small ones are kept in the blob store, base pictures for a while in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict

from secondlook.cloud.catalogue import Catalogue, Frame
from secondlook.cloud.decoding.base import BaseDecoder, StoredFrame
from secondlook.cloud.decoding.files import lossless, pixels, thumbnail
from secondlook.cloud.station import frames
from secondlook.cloud.storage.blobs import Blobs, thumb_key
from secondlook.shared.errors import BlobMissing

_MOST_BYTES = 64 << 20


class FramePictures:
    """May be used by several threads: one of them decodes at a time."""

    def __init__(self, catalogue: Catalogue, blobs: Blobs, decoder: BaseDecoder) -> None:
        self._catalogue, self._blobs, self._decoder = catalogue, blobs, decoder
        self._kept: OrderedDict[int, bytes] = OrderedDict()  # frame -> its base picture
        self._lock = threading.Lock()

    def thumb(self, frame_id: int) -> bytes:
        """A small picture, WebP. Raises FrameNotFound, and what decoding raises."""
        frame = frames.get_frame(self._catalogue, frame_id)
        key = thumb_key(frame.edge_id, frame.boot_id, frame.seq)
        try:
            return self._blobs.get(key)
        except BlobMissing:
            data = thumbnail(pixels(self._base(frame)))
            self._blobs.put(key, data)
            return data

    def base(self, frame_id: int) -> bytes:
        """The base picture, lossless. Raises FrameNotFound, and what decoding raises."""
        return self._base(frames.get_frame(self._catalogue, frame_id))

    def _base(self, frame: Frame) -> bytes:
        with self._lock:
            if frame.id in self._kept:
                self._kept.move_to_end(frame.id)
                return self._kept[frame.id]
        data = self._made(frame)
        with self._lock:
            self._kept[frame.id] = data
            while len(self._kept) > 1 and sum(map(len, self._kept.values())) > _MOST_BYTES:
                self._kept.popitem(last=False)
        return data

    def _made(self, frame: Frame) -> bytes:
        """What a review worker has made of it already, else decoded here."""
        if frame.review is not None and frame.review.base_image is not None:
            try:
                return self._blobs.get(frame.review.base_image)
            except BlobMissing:
                pass  # it may still be decoded
        stored = StoredFrame(frame.edge_id, frame.boot_id, frame.seq, frame.key_seq, frame.base_blob)
        return lossless(self._decoder.decode(stored))
