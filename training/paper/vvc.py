"""VVC intra pictures through Fraunhofer's command-line tools `vvencapp` and `vvdecapp`, where somebody installed them.

VVenC codes 4:2:0 only, 10 bits here: its chroma has half the resolution, which bounds PSNR over RGB at high rates.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorRange

from secondlook.shared.errors import ConfigError
from secondlook.shared.peers import Peer

U8 = npt.NDArray[np.uint8]
QPS = (47, 42, 37, 32, 27, 22)
PRESET = "medium"
TIMEOUT_S = 600


def find_tools(vvenc: str | None, vvdec: str | None) -> tuple[Path, Path] | str:
    """Paths of both tools, given ones first, then those on PATH; or a line that says what is missing.

    Raises ConfigError when one is given and is no program.
    """
    found = []
    for flag, given, name in (("--vvenc", vvenc, "vvencapp"), ("--vvdec", vvdec, "vvdecapp")):
        path = shutil.which(given or name)
        if path is None and given:
            raise ConfigError(f"{flag} {given}: there is no such program")
        if path is None:
            return f"VVC is not measured: {name} is not on PATH. Install VVenC and VVdeC, or give --vvenc and --vvdec."
        found.append(Path(path))
    return found[0], found[1]


def encode_command(
    tool: Path, yuv: Path, out: Path, *, width: int, height: int, qp: int, threads: int
) -> list[str]:
    """One intra picture at a constant QP, without the perceptual QP adaptation that costs PSNR."""
    return [
        str(tool),
        "-i",
        str(yuv),
        "-s",
        f"{width}x{height}",
        "-c",
        "yuv420_10",
        "-r",
        "1",
        "-f",
        "1",
        "--preset",
        PRESET,
        "-q",
        str(qp),
        "--qpa",
        "0",
        "-t",
        str(threads),
        "-v",
        "1",
        "-o",
        str(out),
    ]


def decode_command(tool: Path, bitstream: Path, out: Path, *, threads: int) -> list[str]:
    """Decode to a Y4M file, whose header has the size."""
    return [str(tool), "-b", str(bitstream), "-o", str(out), "--y4m", "-t", str(threads), "-v", "1"]


def to_yuv(image: U8) -> tuple[bytes, int, int]:
    """RGB uint8[H,W,3] -> planar 4:2:0 of 10 bits, full range, sides padded to even; with its width and height."""
    height, width = image.shape[:2]
    even = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(even, format="rgb24")
    planes = frame.reformat(format="yuv420p10le", dst_color_range=ColorRange.JPEG).to_ndarray()
    return planes.astype("<u2").tobytes(), even.shape[1], even.shape[0]


def read_y4m(path: Path) -> U8:
    """The first picture of a Y4M file of full range, as RGB uint8[H,W,3]. Raises ConfigError when there is none."""
    try:
        with av.open(str(path), format="yuv4mpegpipe") as container:
            frame = next(container.decode(video=0))
    except (av.FFmpegError, StopIteration, IndexError) as error:
        raise ConfigError("vvdecapp wrote no picture") from error
    assert isinstance(frame, av.VideoFrame)
    shown = frame.reformat(format="rgb24", src_color_range=ColorRange.JPEG)
    return np.asarray(shown.to_ndarray(), np.uint8)


def version(tool: Path) -> str:
    """What `--version` prints, on one line."""
    done = subprocess.run([str(tool), "--version"], capture_output=True, text=True, timeout=60, check=False)
    return " ".join((done.stdout or done.stderr).split())[:80] or tool.name


def vvc_peer(encoder: Path, decoder: Path, *, threads: int) -> Peer:
    """VVC as a peer: `quality` is the QP. Decoded pictures have even sides. Raises ConfigError when a tool fails."""

    def encode(image: U8, qp: int) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            yuv, out = Path(folder) / "in.yuv", Path(folder) / "out.266"
            data, width, height = to_yuv(image)
            yuv.write_bytes(data)
            _run(encode_command(encoder, yuv, out, width=width, height=height, qp=qp, threads=threads))
            return out.read_bytes()

    def decode(data: bytes) -> U8:
        with tempfile.TemporaryDirectory() as folder:
            bitstream, out = Path(folder) / "in.266", Path(folder) / "out.y4m"
            bitstream.write_bytes(data)
            _run(decode_command(decoder, bitstream, out, threads=threads))
            return read_y4m(out)

    return Peer(encode, decode, QPS)


def _run(command: list[str]) -> None:
    """Raises ConfigError with the tool's last line when it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{command[0]} cannot be run: {error}") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"status {done.returncode}"]
        raise ConfigError(f"{Path(command[0]).name} failed: {said[-1]}")
