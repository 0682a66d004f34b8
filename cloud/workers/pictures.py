"""Making the pictures of a review: the base image, and the enhanced and refined ones once the enhancement is here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from secondlook.cloud.catalogue import LeasedReview, Refinement
from secondlook.cloud.decoding.files import lossless
from secondlook.cloud.decoding.groups import GroupDecoders
from secondlook.cloud.decoding.limits import check_layer
from secondlook.cloud.storage.blobs import Blobs, image_key
from secondlook.cloud.workers.poison import cause_of
from secondlook.shared.errors import ModelCorrupt, ReferenceMissing, StoreCorrupt
from secondlook.shared.layers import LayeredCodec, Layers
from secondlook.shared.videobits import is_of_group, split_layers

U8Image = npt.NDArray[np.uint8]

_TEST_SHAPE, _TEST_GREY = (64, 64, 3), 128


class ImageFilter(Protocol):
    """What the refiner needs of ``cloud.workers.postfilter``."""

    name: str
    model_hash: bytes

    def apply(self, image: U8Image, progress: Callable[[], None] = ...) -> U8Image: ...


@dataclass(frozen=True)
class StoredPicture:
    """A picture in the blob store, lossless."""

    key: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class PictureMaker:
    """Decodes, refines and stores. Layers of more than ``max_pixels`` raise PictureTooLarge before they are decoded.

    ``hold`` is called between the steps and after every tile of the post-filter; what it raises ends the work.
    """

    codec: LayeredCodec
    postfilter: ImageFilter
    blobs: Blobs
    max_pixels: int

    def check(self) -> None:
        """Whether the post-filter works at all. Raises ModelCorrupt."""
        try:
            self.postfilter.apply(np.full(_TEST_SHAPE, _TEST_GREY, np.uint8))
        except Exception as error:  # whatever a post-filter has to say
            raise ModelCorrupt(
                f"post-filter {self.postfilter.name} fails on a grey picture: {cause_of(error)}"
            ) from error

    def stands_alone(self, review: LeasedReview) -> bool:
        """Whether the frame's enhancement needs no other: not that of a key, though its base layer refers to one."""
        try:
            return review.key_seq is None or is_of_group(self.blobs.get(review.base_blob))
        except StoreCorrupt:
            return False  # whoever decodes it says what is wrong

    def make_base(self, review: LeasedReview, hold: Callable[[], None]) -> StoredPicture:
        """Decode and store the base image."""
        base = self._layer(review.base_blob)
        if is_of_group(base):
            groups = GroupDecoders(self.blobs, self.max_pixels)
            image = groups.decode(review.edge_id, review.boot_id, review.seq, review.key_seq, base, hold)
        else:
            image = self.codec.decode_base(base, key=self._key_base(review))
        hold()
        return self._store(review, "base", image)

    def refine(
        self,
        review: LeasedReview,
        enhancement_blobs: Sequence[str],
        hold: Callable[[], None],
        *,
        base_image_bytes: int,
    ) -> Refinement:
        """Decode both layers and refine. The second of ``enhancement_blobs`` is that of a delta's key.

        ``base_image_bytes``: of the base image made before; 0 where another worker made it.
        """
        enhancement = self._layer(enhancement_blobs[0])
        image = self._enhanced(review, enhancement, enhancement_blobs)
        hold()
        enhanced = self._store(review, "enhanced", image)
        filtered = self.postfilter.apply(image, hold)
        hold()
        refined = self._store(review, "refined", filtered)
        return Refinement(
            enhancement_blob=enhancement_blobs[0],
            enhancement_bytes=len(enhancement),
            base_image=image_key(review.review_id, "base"),
            enhanced_image=enhanced.key,
            refined_image=refined.key,
            shown_sha256=refined.sha256,
            postfilter=f"{self.postfilter.name}:{self.postfilter.model_hash.hex()}",
            codec_model=self.codec.model_hash.hex(),
            image_bytes=base_image_bytes + enhanced.size_bytes + refined.size_bytes,
        )

    def _enhanced(
        self, review: LeasedReview, enhancement: bytes, enhancement_blobs: Sequence[str]
    ) -> U8Image:
        base = self._layer(review.base_blob)
        if is_of_group(base):  # its enhancement is a picture of its own, in both layers of another family
            layers = split_layers(enhancement)
            for layer in (layers.base, layers.enhancement):
                check_layer(layer, self.max_pixels)
            return self.codec.decode_enhanced(layers.base, layers.enhancement)
        key_base = self._key_base(review)
        key = None if key_base is None else Layers(key_base, self._layer(enhancement_blobs[1]))
        return self.codec.decode_enhanced(base, enhancement, key=key)

    def _key_base(self, review: LeasedReview) -> bytes | None:
        """The base layer of a delta's key; None for a frame that is a key itself."""
        if review.key_seq is None:
            return None
        if review.key_base_blob is None:
            raise ReferenceMissing(f"its key frame {review.key_seq} is not in the catalogue")
        return self._layer(review.key_base_blob)

    def _layer(self, key: str) -> bytes:
        """A layer, of a size that may be decoded. Raises ReferenceMissing where it is gone: the store has others."""
        try:
            layer = self.blobs.get(key)
        except StoreCorrupt as error:
            raise ReferenceMissing(str(error)) from error
        check_layer(layer, self.max_pixels)
        return layer

    def _store(self, review: LeasedReview, kind: str, image: U8Image) -> StoredPicture:
        """Store an image as it will be shown."""
        data = lossless(image)
        key = image_key(review.review_id, kind)
        self.blobs.put(key, data)
        return StoredPicture(key, hashlib.sha256(data).hexdigest(), len(data))
