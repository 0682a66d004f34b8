"""The pictures of a frame by layer, and by the hash of their bytes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

from sqlalchemy import select

from secondlook.cloud.catalogue import Catalogue, Review
from secondlook.cloud.decoding.files import media_type
from secondlook.cloud.station.api import schema
from secondlook.cloud.station.frame_pictures import FramePictures
from secondlook.cloud.storage.blobs import Blobs
from secondlook.shared.errors import BitstreamError, BlobMissing, FrameNotFound, ModelError, StoreCorrupt

LAYERS: tuple[schema.Layer, ...] = (
    "refined",
    "enhanced",
    "base",
    "thumb",
)  # what was most likely shown comes first
SHA256 = re.compile(r"[0-9a-f]{64}")


class LayerPictures:
    """May be used by several threads."""

    def __init__(self, catalogue: Catalogue, blobs: Blobs, pictures: FramePictures) -> None:
        self._catalogue, self._blobs, self._pictures = catalogue, blobs, pictures

    def listed(self, frame_id: int) -> list[schema.Picture]:
        """The pictures that there are, and that can be made here. Raises FrameNotFound."""
        return [
            schema.Picture(
                layer=layer,
                sha256=hashlib.sha256(data).hexdigest(),
                media_type=media_type(data),
                bytes=len(data),
            )
            for layer, data in self._all(frame_id)
        ]

    def get(self, frame_id: int, name: str) -> bytes:
        """`name`: a layer, or the SHA-256 of a picture in hex. Raises FrameNotFound where there is none."""
        for layer in LAYERS:
            if name == layer:
                return self._of(frame_id, layer)
        if SHA256.fullmatch(name):
            for _, data in self._all(frame_id):
                if hashlib.sha256(data).hexdigest() == name:
                    return data
        raise FrameNotFound(f"frame {frame_id} has no picture {name[:64]}")

    def _all(self, frame_id: int) -> Iterator[tuple[schema.Layer, bytes]]:
        missing = 0
        for layer in LAYERS:
            try:
                yield layer, self._of(frame_id, layer)
            except FrameNotFound:
                missing += 1
                if missing == len(LAYERS):
                    raise

    def _of(self, frame_id: int, layer: schema.Layer) -> bytes:
        try:
            if layer == "thumb":
                return self._pictures.thumb(frame_id)
            if layer == "base":
                return self._pictures.base(frame_id)
        except (BitstreamError, ModelError, StoreCorrupt) as error:
            raise FrameNotFound(f"the picture of frame {frame_id} cannot be made here: {error}") from error
        column = Review.refined_image if layer == "refined" else Review.enhanced_image
        with self._catalogue.reading() as session:
            key = session.scalars(select(column).where(Review.frame_id == frame_id)).one_or_none()
        if key is None:
            raise FrameNotFound(f"frame {frame_id} has no {layer} picture")
        try:
            return self._blobs.get(key)
        except BlobMissing as error:
            raise FrameNotFound(f"the {layer} picture of frame {frame_id} is gone") from error
