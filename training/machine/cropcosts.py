"""What a crop of a frame costs beside the whole, in the reviews that doubt calls for.

    python -m secondlook.training.machine.cropcosts --videos DIR|FILE ... [--write FILE.md]

Each clip is coded as a camera is, a detector looks at the decoded frames, and of each that it doubts the crop around
the doubtful boxes and the whole frame are coded as an agent would, in both layers of the model: real bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from secondlook.cloud.config import PolicyConfig
from secondlook.cloud.workers.policy import FrameIdentity, crop_wanted, wish_for_review
from secondlook.edge.coding.originals import EnhancementCoder, keep
from secondlook.shared.codec import load_codec
from secondlook.shared.detection import Detector
from secondlook.shared.video import VideoSettings
from secondlook.training.machine.codecs import as_decoded, code_frames
from secondlook.training.machine.detectortables import run_table
from secondlook.training.machine.measure import Clip, read_clip

MARKS = "<!-- crops -->", "<!-- end of crops -->"
DOUBT_ALONE = PolicyConfig(audit_every=0, fetch="boxes")
_KEPT_QUALITY = 90  # of the pictures in an agent's spool
_BASE_QUALITY, _QUALITY = 16, 40  # of an agent where nothing is set


@dataclass(frozen=True)
class Costs:
    """Of a clip: frames, those with doubt, and the bytes of the crops and the wholes of those that have a crop."""

    frames: int
    in_doubt: int
    crops: tuple[int, ...]
    wholes: tuple[int, ...]

    def row(self, name: str) -> str:
        if not self.crops:
            return f"| {name} | {self.frames} | {self.in_doubt} | 0 | - | - | - |"
        crop, whole = (float(np.median(each)) / 1000 for each in (self.crops, self.wholes))
        share = 100 * sum(self.crops) / sum(self.wholes)
        counts = f"{self.frames} | {self.in_doubt} | {len(self.crops)}"
        return f"| {name} | {counts} | {crop:.1f} | {whole:.1f} | {share:.0f} % |"


def costs(clip: Clip, detector: Detector, coder: EnhancementCoder) -> Costs:
    """Code a clip, look for doubt, and code what would be fetched."""
    height, width = clip.frames[0].shape[:2]
    in_doubt, crops, wholes = 0, [], []
    coded = code_frames(clip.frames, VideoSettings(), _BASE_QUALITY)
    for number, (decoded, _) in enumerate(as_decoded(coded)):
        found = detector.detect(decoded)
        wishes = wish_for_review(
            DOUBT_ALONE, FrameIdentity(clip.name, "", number), found, secret=b"none", size=(width, height)
        )
        crop = crop_wanted(DOUBT_ALONE, wishes, found, (width, height))
        in_doubt += bool(wishes)
        kept = keep(clip.frames[number], _KEPT_QUALITY) if crop is not None else None
        if kept is not None:
            crops.append(len(coder(kept, crop)))
            wholes.append(len(coder(kept)))
    return Costs(len(clip.frames), in_doubt, tuple(crops), tuple(wholes))


def table(videos: Sequence[Path], detector: Detector, *, fps: float, most_frames: int) -> str:
    """A row for each clip; Markdown."""
    coder = EnhancementCoder(load_codec("lite", threads=1), _BASE_QUALITY, _QUALITY)
    lines = [
        "| clip | frames | in doubt | of these with a crop | crop, KB, median | whole, KB, median | crops, of wholes |",
        "|---|---|---|---|---|---|---|",
    ]
    for path in videos:
        clip = read_clip(path, fps=fps, most_frames=most_frames)
        height, width = clip.frames[0].shape[:2]
        lines.append(costs(clip, detector, coder).row(f"{clip.name}, {width}x{height}"))
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    return run_table("cropcosts", __doc__, table, MARKS, argv, frames=60)


if __name__ == "__main__":
    raise SystemExit(main())
