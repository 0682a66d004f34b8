"""What groups cost: bits of `video` in groups of N against one endless group, at equal quantiser.

    python -m secondlook.training.machine.groups --videos FILE ... [--write FILE.md]

Both count the same headers, and the quantiser is constant, so a difference is that of prediction: each group begins
from the background again, and each new background is a key. The background is learned from the frames as a camera
host learns it, from the first frame on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from secondlook.edge.coding.background import Background
from secondlook.shared.video import SOFTWARE, GroupEncoder, VideoEncoder, VideoSettings, finer_quality
from secondlook.shared.videobits import MAX_PLACE
from secondlook.training.machine.codecs import U8
from secondlook.training.machine.measure import find_videos, read_clip
from secondlook.training.machine.report import put_between

MARKS = "<!-- groups -->", "<!-- end of groups -->"
LENGTHS = (5, 25, 100, 250)


class _Endless(GroupEncoder):
    """A group without a last place: its places begin again at 1, its prediction does not."""

    def encode(self, image: U8) -> object:  # type: ignore[override]
        if self.place == MAX_PLACE:
            self.place = 0
        return super().encode(image)


def endless(frames: Sequence[U8], encoder: str, quality: int) -> int:
    """Bytes of all frames in one group that begins with the first."""
    finer = finer_quality(quality)
    group = _Endless(SOFTWARE[encoder], frames[0], 0, base_quality=quality, background_quality=finer)
    total = len(group.background.to_bytes())
    for image in frames[1:]:
        total += len(group.encode(image).to_bytes())  # type: ignore[attr-defined]
    group.close()
    return total


def grouped(frames: Sequence[U8], encoder: str, quality: int, length: int, fps: float) -> tuple[int, int]:
    """Bytes of all frames in groups of `length`, and how many backgrounds were sent."""
    coder = VideoEncoder(VideoSettings(encoder, group_frames=length))  # type: ignore[arg-type]
    background, total, sent = Background(), 0, 0
    for number, image in enumerate(frames):
        learned = background.learn(image, number / fps)
        if learned is not None:
            coder.set_background(learned[0])
        coded = coder.encode(image, base_quality=quality)
        total, sent = total + coded.bytes, sent + (coded.background is not None)
    coder.end_group()
    return total, sent


def table(
    videos: Sequence[Path], encoder: str, qualities: Sequence[int], *, fps: float, most_frames: int
) -> str:
    """Kilobits a frame in one endless group, and by how many percent groups are longer; Markdown."""
    lines = [
        f"| clip | base quality | endless, kbit a frame | {' | '.join(f'G + {n}' for n in LENGTHS)} | backgrounds |",
        f"|---|---|---|{'---|' * len(LENGTHS)}---|",
    ]
    for path in videos:
        clip = read_clip(path, fps=fps, most_frames=most_frames)
        for quality in qualities:
            whole = endless(clip.frames, encoder, quality)
            found = [grouped(clip.frames, encoder, quality, length, fps) for length in LENGTHS]
            costs = [f"{100 * (total / whole - 1):+.0f} %" for total, _ in found]
            kbit = 8 * whole / len(clip.frames) / 1000
            backgrounds = ", ".join(str(sent) for _, sent in found)
            name = f"{clip.name}, {len(clip.frames)} frames"
            lines.append(f"| {name} | {quality} | {kbit:.2f} | {' | '.join(costs)} | {backgrounds} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m secondlook.training.machine.groups", description=__doc__)
    parser.add_argument("--videos", type=Path, nargs="+", required=True, metavar="DIR|FILE")
    parser.add_argument("--encoder", choices=list(SOFTWARE), default="x265")
    parser.add_argument("--qualities", type=int, nargs="+", default=[10, 16, 30])
    parser.add_argument("--fps", type=float, default=5.0)
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--write", type=Path, metavar="FILE.md", help="put the table between the marks")
    args = parser.parse_args(argv)
    made = table(
        find_videos(args.videos), args.encoder, args.qualities, fps=args.fps, most_frames=args.frames
    )
    print(made)
    if args.write:
        put_between(args.write, MARKS, made)
    return 0


if __name__ == "__main__":
    np.seterr(all="raise")
    raise SystemExit(main())
