"""The filter for machines at run time, between the decoder of the family `video` and the detector.

It costs no bits, and people never see what it makes. It runs in overlapping tiles, as a post-filter does.
"""

from __future__ import annotations

from pathlib import Path

from secondlook.cloud.workers.postfilter import DEFAULT_TILE, U8Image, in_tiles, reach_of
from secondlook.shared.errors import ConfigError, ModelCorrupt
from secondlook.shared.inference import Session, open_session
from secondlook.shared.models import find_model
from secondlook.shared.precision import FLOAT32
from secondlook.shared.tiles import tile_is_done


class MachineFilter:
    """Makes decoded frames easier for detectors.

    `identity`: its name, the hash of its weights, and the precision where that is not float32.
    """

    def __init__(
        self, session: Session, *, name: str, model_hash: bytes, radius: int, multiple: int, tile: int
    ) -> None:
        """`radius`: receptive radius in pixels; `multiple`: sides must be multiples of it; `tile`: core side."""
        self.name = name
        suffix = "" if session.precision == FLOAT32 else f":{session.precision}"
        self.identity = f"{name}:{model_hash.hex()}{suffix}"
        self._session, self._radius, self._multiple, self._tile = session, radius, multiple, tile

    def apply(self, image: U8Image, background: U8Image) -> U8Image:
        """Decoded frame and the background of its group, uint8[H,W,3] RGB -> filtered frame, the same.

        Raises ConfigError on other shapes or dtypes.
        """
        if image.shape != background.shape:
            raise ConfigError(f"a frame of {image.shape[:2]} has no background of {background.shape[:2]}")
        return in_tiles(
            self._session,
            {"image": image, "background": background},
            radius=self._radius,
            multiple=self._multiple,
            side=self._tile,
            progress=tile_is_done,
        )


def load_machine_filter(
    model: str | Path,
    *,
    threads: int = 0,
    tile: int = DEFAULT_TILE,
    device: str = "cpu",
    precision: str = "exact",
) -> MachineFilter:
    """Open a folder of the kind `machine-filter`, by name or path.

    Raises ModelNotFound, ModelCorrupt, or as `open_session` does DeviceUnavailable and PrecisionUnavailable.
    """
    folder = find_model(model, kind="machine-filter")
    radius, multiple = reach_of(folder, "machine filter")
    session = open_session(folder.file("filter.onnx"), threads, device=device, precision=precision)
    if session.inputs != ("image", "background") or session.outputs != ("filtered",):
        raise ModelCorrupt(
            f"machine filter {folder.name}: its graph does not turn `image` and `background` into `filtered`"
        )
    return MachineFilter(
        session, name=folder.name, model_hash=folder.model_hash, radius=radius, multiple=multiple, tile=tile
    )
