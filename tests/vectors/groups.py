"""Golden groups of the family `video`: packets that decode to kept pictures, whatever the encoder does by now.

Decoders are exact by the standards, so each packet's own CRC of the decoded planes has to hold; `groups.json` keeps it
once more. RGB comes of the planes by a conversion that may round otherwise, so the last picture is kept as PNG and
compared up to that. Files a group: video/NAME.background.slk, NAME.1.slk to NAME.N.slk, NAME.png.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from secondlook.shared.errors import SecondlookError
from secondlook.shared.video import EncoderName, VideoEncoder, VideoSettings, decode_group
from secondlook.shared.videobits import BackgroundPacket, GroupFrame
from tests.pictures import U8Image, photo, psnr

FOLDER = Path(__file__).parent / "video"
VERSION = 2
LEAST_PSNR = 45.0
FRAMES = 4

# name: encoder, height, width, base quality
RECIPES: dict[str, tuple[EncoderName, int, int, int]] = {
    "h264": ("x264", 64, 96, 16),
    "h264-odd": ("x264", 37, 71, 30),
    "h264-low": ("x264", 64, 96, 0),
    "h265": ("x265", 64, 96, 16),
    "h265-odd": ("x265", 49, 71, 40),
    "av1": ("svtav1", 64, 96, 16),
    "av1-odd": ("svtav1", 79, 71, 30),
}


def pictures(height: int, width: int) -> list[U8Image]:
    """A background, and frames in which a square stands at another place each time."""
    ground = photo(height, width)
    frames = [ground]
    for number in range(FRAMES):
        frame = ground.copy()
        left = 5 + 13 * number
        frame[8:30, left : left + 20] = (230, 220, 200)
        frames.append(frame)
    return frames


def packets_of(name: str, folder: Path = FOLDER) -> tuple[bytes, list[bytes]]:
    """The kept background and frames of a group."""
    frames = [(folder / f"{name}.{place}.slk").read_bytes() for place in range(1, FRAMES + 1)]
    return (folder / f"{name}.background.slk").read_bytes(), frames


def problems(folder: Path = FOLDER) -> list[str]:
    """A line for whatever is not as it was kept; empty when all is well."""
    listed: dict[str, Any] = json.loads((folder / "groups.json").read_text())
    if listed["format_version"] != VERSION or set(listed["groups"]) != set(RECIPES):
        return ["the groups listed are not those of tests/vectors"]
    return [line for name, kept in listed["groups"].items() for line in _compare(name, kept, folder)]


def _compare(name: str, kept: dict[str, Any], folder: Path) -> Iterator[str]:
    background, frames = packets_of(name, folder)
    try:
        if describe(background, frames) != kept:
            yield f"{name}: its packets are not those that were kept"
        *_, last = decode_group(background, frames)
    except SecondlookError as error:
        yield f"{name}: {type(error).__name__}: {error}"
        return
    image = cv2.imread(str(folder / f"{name}.png"), cv2.IMREAD_COLOR)
    found = psnr(last, np.ascontiguousarray(np.asarray(image, np.uint8)[:, :, ::-1]))
    if found < LEAST_PSNR:
        yield f"{name}: {found:.1f} dB from the kept picture, and {LEAST_PSNR} are asked for"


def describe(background: bytes, frames: list[bytes]) -> dict[str, Any]:
    """What the list keeps of a group."""
    parsed = [GroupFrame.parse(data) for data in frames]
    first = BackgroundPacket.parse(background)
    return {
        "sha256": [hashlib.sha256(data).hexdigest() for data in (background, *frames)],
        "background_id": first.id.hex(),
        "picture_crc": [f"{packet.picture_crc:08x}" for packet in (first, *parsed)],
        "places": [[packet.group, packet.place] for packet in parsed],
    }


def write(folder: Path = FOLDER) -> list[str]:
    """Make the groups that are missing. Kept ones that do not decode are told, and nothing is written."""
    folder.mkdir(exist_ok=True)
    path = folder / "groups.json"
    groups: dict[str, Any] = json.loads(path.read_text())["groups"] if path.exists() else {}
    lost = [line for name, kept in groups.items() for line in _compare(name, kept, folder)]
    if lost:
        return [*lost, "the format has changed: give it another version, then write"]
    for name in RECIPES.keys() - groups.keys():
        encoder, height, width, quality = RECIPES[name]
        coder = VideoEncoder(VideoSettings(encoder))
        ground, *frames = pictures(height, width)
        coder.set_background(ground)
        coded = [coder.encode(frame, base_quality=quality) for frame in frames]
        assert coded[0].background is not None
        background, packets = coded[0].background.to_bytes(), [one.frame.to_bytes() for one in coded]
        (folder / f"{name}.background.slk").write_bytes(background)
        for place, data in enumerate(packets, 1):
            (folder / f"{name}.{place}.slk").write_bytes(data)
        *_, last = decode_group(background, packets)
        cv2.imwrite(str(folder / f"{name}.png"), last[:, :, ::-1])
        groups[name] = describe(background, packets)
    listed = {"format_version": VERSION, "groups": {name: groups[name] for name in RECIPES}}
    path.write_text(json.dumps(listed, indent=1) + "\n")
    return []
