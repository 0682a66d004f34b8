"""The record of captured frames on this host (`source.record_dir`): a PNG each, and a line with its times."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2

from secondlook.edge.source.camera import Frame
from secondlook.shared.files import PRIVATE_FILE, storage_error, write_atomically

TIMES_FILE = "times.jsonl"


def record(folder: Path, name: str, frame: Frame) -> None:
    """Keep a frame as NAME.png, compressed little but fast, and its times in a line of `times.jsonl`.

    The line has `captured_ns`, by this host's clock, and `source_ns`, by that of the camera, which may be null. Raises
    DiskFull or Unwritable.
    """
    image = cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    write_atomically(folder / f"{name}.png", data.tobytes())
    line = {"frame": f"{name}.png", "captured_ns": frame.captured_ns, "source_ns": frame.source_ns}
    path = folder / TIMES_FILE
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
        with os.fdopen(descriptor, "ab") as stream:
            stream.write(json.dumps(line).encode() + b"\n")
    except OSError as error:
        raise storage_error(path, error) from error
