"""Frames kept on the camera host as near-lossless pictures, until somebody asks for an enhancement.

Few frames are ever asked for. Where base layers are coded by a standard encoder, to code each frame by the model too
would cost most of the host's time; so the picture itself is kept, as a JPEG of high quality, in the place of the
enhancement in the spool. On request it is coded by the model, and both of its layers are the enhancement.
"""

from __future__ import annotations

import cv2
import numpy as np

from secondlook.shared.crop import Crop
from secondlook.shared.errors import MalformedBitstream
from secondlook.shared.layers import LayeredCodec, Layers, U8Image
from secondlook.shared.packet import MAX_ENHANCEMENT_BYTES
from secondlook.shared.videobits import CropLayers, join_layers

MARK = b"\x8aORIGINAL1"  # no layer of ours begins so
_STEP = 10  # of the quality, while a picture is larger than the spool takes


def keep(image: U8Image, quality: int) -> bytes | None:
    """A frame, uint8[H,W,3] RGB, as the spool keeps it; `quality` as JPEG counts it, 1 to 100.

    None for one that is too large at any quality.
    """
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    for least in range(quality, 0, -_STEP):
        _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, least])
        if len(MARK) + data.size <= MAX_ENHANCEMENT_BYTES:
            return MARK + data.tobytes()
    return None


def is_original(kept: bytes) -> bool:
    return kept.startswith(MARK)


def picture(kept: bytes) -> U8Image:
    """The frame that was kept, uint8[H,W,3] RGB. Raises MalformedBitstream on damage."""
    data = np.frombuffer(kept, np.uint8, offset=len(MARK))
    try:
        bgr = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error as error:  # its header claims a size beyond all limits
        raise MalformedBitstream(
            f"a frame that was kept for enhancements cannot be read: {error.err}"
        ) from error
    if bgr is None:
        raise MalformedBitstream("a frame that was kept for enhancements cannot be read")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


class EnhancementCoder:
    """Makes of what the spool keeps the enhancement that is sent. Another thread may use the codec meanwhile."""

    def __init__(self, codec: LayeredCodec, base_quality: int, quality: int) -> None:
        """Qualities of the layers of the model, where it codes a picture that was kept."""
        self._codec, self._base_quality, self._quality = codec, base_quality, quality

    def __call__(self, kept: bytes, crop: Crop | None = None) -> bytes:
        """`crop`: what is wanted, where that is cheaper than all of it; what was coded before is sent whole.

        Raises a subclass of BitstreamError or ModelError.
        """
        if not is_original(kept):
            return kept
        image = picture(kept)
        inside = None if crop is None else crop.within(image.shape[1], image.shape[0])
        if inside is None:
            return self.code(image)
        layers = self._layers(np.ascontiguousarray(image[inside.index]))
        return CropLayers(inside.left, inside.top, layers).to_bytes()

    def code(self, image: U8Image) -> bytes:
        """The enhancement of a frame whose base layer another family codes: both layers of the model."""
        return join_layers(self._layers(image))

    def _layers(self, image: U8Image) -> Layers:
        return self._codec.encode(image, base_quality=self._base_quality, quality=self._quality).layers
