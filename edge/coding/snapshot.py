"""`secondlook edge snapshot`: one picture of the source, with the polygons of the settings drawn on it."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path

import cv2

from secondlook.edge.coding.classmasks import PrivacyMasks
from secondlook.edge.coding.regions import Regions
from secondlook.edge.config import SourceConfig
from secondlook.edge.source.camera import Camera, Frame
from secondlook.edge.source.sources import check_path, local_path, shown
from secondlook.shared.errors import ConfigError, SourceEmpty, SourceStalled
from secondlook.shared.files import write_atomically

_WAIT_SECONDS = 0.1
_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def check_ending(path: Path) -> None:
    """Raises ConfigError for a file that no picture can be written into."""
    if path.suffix.lower() not in _ENDINGS:
        raise ConfigError(f"{path} does not end in one of {', '.join(_ENDINGS)}")


def first_frame(source: SourceConfig) -> Frame:
    """The first picture that the source delivers; a folder that is watched has to be there. Raises SourceError."""
    folder = local_path(source.address)
    if source.watch and folder is not None:
        check_path(folder)
    camera = Camera(replace(source, frames=1, from_start=True), random.Random())
    deadline = time.monotonic() + source.open_seconds + source.stall_seconds
    try:
        while time.monotonic() < deadline:
            frame = camera.read(_WAIT_SECONDS)
            if frame is not None:
                return frame
            if camera.state == "ended":
                raise SourceEmpty(f"source {shown(source.address)} has no picture")
        raise SourceStalled(f"source {shown(source.address)} delivered no picture in time")
    finally:
        camera.close()


def write(path: Path, frame: Frame, regions: Regions, masks: PrivacyMasks | None) -> None:
    """Write the frame with its polygons; what `masks` hide is black, without them it is seen through the outlines.

    Raises DiskFull, Unwritable, or MaskFailed.
    """
    picture = regions.drawn_on(frame.image if masks is None else masks.hide(frame.image))
    _, data = cv2.imencode(path.suffix.lower(), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    write_atomically(path, data.tobytes())
