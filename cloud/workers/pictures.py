"""Making the pictures of a review: the base image, and the enhanced and refined ones once the enhancement is here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from secondlook.cloud.catalogue import LeasedReview, Refinement
from secondlook.cloud.decoding.files import lossless
from secondlook.cloud.decoding.groups import GroupDecoders
from secondlook.cloud.decoding.limits import check_layer
from secondlook.cloud.storage.blobs import Blobs, image_key
from secondlook.shared.bitstream import parse
from secondlook.shared.crop import Crop
from secondlook.shared.errors import (
    BitstreamError,
    MalformedBitstream,
    ModelCorrupt,
    ReferenceMissing,
    StoreCorrupt,
    Unforeseen,
)
from secondlook.shared.faults import unforeseen_named
from secondlook.shared.filters import ImageFilter
from secondlook.shared.layers import LayeredCodec, Layers
from secondlook.shared.quality import DEFAULT_QUALITY
from secondlook.shared.videobits import CropLayers, is_crop, is_of_group, split_layers

U8Image = npt.NDArray[np.uint8]

KEPT_PIXELS = 1 << 23  # of decoders of cameras; beside them pictures wait for the filter
_TEST_SHAPE, _TEST_GREY = (64, 64, 3), 128


def quality_of(enhancement: bytes) -> int:
    """The quality that an enhancement was encoded at; the usual one for another codec's bytes."""
    try:
        if is_crop(enhancement):
            return parse(CropLayers.parse(enhancement).layers.enhancement).quality
        of_group = is_of_group(enhancement)
        return parse(split_layers(enhancement).enhancement if of_group else enhancement).quality
    except BitstreamError:
        return DEFAULT_QUALITY


@dataclass(frozen=True)
class StoredPicture:
    """A picture in the blob store, lossless."""

    key: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class EnhancedPicture:
    """Both layers decoded, and stored; `layer` is the enhancement's blob and size in bytes.

    `crop`: what of the frame was enhanced, None for all of it.
    """

    image: U8Image
    stored: StoredPicture
    layer: tuple[str, int]
    quality: int
    crop: Crop | None = None

    @property
    def pixels(self) -> int:
        return int(self.image.shape[0] * self.image.shape[1])


@dataclass(frozen=True)
class PictureMaker:
    """Decodes, refines and stores. Layers of more than ``max_pixels`` raise PictureTooLarge before they are decoded.

    ``hold`` is called between the steps and after every tile of the post-filter; what it raises ends the work.
    """

    codec: LayeredCodec
    postfilter: ImageFilter
    blobs: Blobs
    max_pixels: int
    groups: GroupDecoders

    def check(self) -> None:
        """Whether the post-filter works at all. Raises ModelCorrupt."""
        try:
            with unforeseen_named():
                self.postfilter.apply(np.full(_TEST_SHAPE, _TEST_GREY, np.uint8))
        except Unforeseen as error:
            raise ModelCorrupt(
                f"post-filter {self.postfilter.name} fails on a grey picture: {error}"
            ) from error

    def stands_alone(self, review: LeasedReview) -> bool:
        """Whether the frame's enhancement needs no other: not that of a key, though its base layer refers to one."""
        try:
            return review.key_seq is None or is_of_group(self.blobs.get(review.base_blob))
        except StoreCorrupt:
            return False  # whoever decodes it says what is wrong

    def make_base(self, review: LeasedReview, hold: Callable[[], None]) -> StoredPicture:
        """Decode and store the base image."""
        image = self._base(review, hold)
        hold()
        return self._store(review, "base", image)

    def _base(self, review: LeasedReview, hold: Callable[[], None]) -> U8Image:
        base = self._layer(review.base_blob)
        if is_of_group(base):
            return self.groups.decode(review.edge_id, review.boot_id, review.seq, review.key_seq, base, hold)
        return self.codec.decode_base(base, key=self._key_base(review))

    def enhance(
        self, review: LeasedReview, enhancement_blobs: Sequence[str], hold: Callable[[], None]
    ) -> EnhancedPicture:
        """Decode both layers and store what they show. The second of ``enhancement_blobs`` is that of a delta's key.

        That of a crop is shown in its place in the base image.
        """
        enhancement, crop = self._layer(enhancement_blobs[0]), None
        if is_crop(enhancement):
            image, crop = self._with_crop(self._base(review, hold), CropLayers.parse(enhancement))
        else:
            image = self._enhanced(review, enhancement, enhancement_blobs)
        hold()
        stored = self._store(review, "enhanced", image)
        layer = (enhancement_blobs[0], len(enhancement))
        return EnhancedPicture(image, stored, layer, quality_of(enhancement), crop)

    def _with_crop(self, base: U8Image, coded: CropLayers) -> tuple[U8Image, Crop]:
        """Raises MalformedBitstream for a crop that does not lie in its frame."""
        for layer in (coded.layers.base, coded.layers.enhancement):
            check_layer(layer, base.shape[0] * base.shape[1])
        better = self.codec.decode_enhanced(coded.layers.base, coded.layers.enhancement)
        crop = Crop(coded.left, coded.top, coded.left + better.shape[1], coded.top + better.shape[0])
        if crop.within(base.shape[1], base.shape[0]) != crop:
            raise MalformedBitstream(f"a crop at {crop} of a frame of {base.shape[1]}x{base.shape[0]}")
        image = base.copy()
        image[crop.index] = better
        return image, crop

    def refine(
        self,
        review: LeasedReview,
        enhanced: EnhancedPicture,
        hold: Callable[[], None],
        *,
        base_image_bytes: int,
    ) -> Refinement:
        """Refine an enhanced picture.

        ``base_image_bytes``: of the base image made before; 0 where another worker made it.
        """
        if enhanced.crop is None:
            filtered = self.postfilter.apply(enhanced.image, hold, quality=enhanced.quality)
        else:
            filtered, where = enhanced.image.copy(), enhanced.crop.index
            cut = np.ascontiguousarray(filtered[where])
            filtered[where] = self.postfilter.apply(cut, hold, quality=enhanced.quality)
        hold()
        refined = self._store(review, "refined", filtered)
        without = self.unfiltered(review, enhanced, base_image_bytes=base_image_bytes)
        return replace(
            without,
            refined_image=refined.key,
            shown_sha256=refined.sha256,
            postfilter=self.postfilter.identity,
            image_bytes=without.image_bytes + refined.size_bytes,
        )

    def unfiltered(
        self, review: LeasedReview, enhanced: EnhancedPicture, *, base_image_bytes: int
    ) -> Refinement:
        """An enhanced picture as the best that is made of a review; ``base_image_bytes`` as for `refine`."""
        blob, size_bytes = enhanced.layer
        return Refinement(
            enhancement_blob=blob,
            enhancement_bytes=size_bytes,
            base_image=image_key(review.review_id, "base"),
            enhanced_image=enhanced.stored.key,
            refined_image=None,
            shown_sha256=enhanced.stored.sha256,
            postfilter=None,
            codec_model=self.codec.model_hash.hex(),
            image_bytes=base_image_bytes + enhanced.stored.size_bytes,
            crop=enhanced.crop,
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
        # What is seen until the refined picture is there is wanted soon.
        data = lossless(image, quick=kind != "refined")
        key = image_key(review.review_id, kind)
        self.blobs.put(key, data)
        return StoredPicture(key, hashlib.sha256(data).hexdigest(), len(data))
