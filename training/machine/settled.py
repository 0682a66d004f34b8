"""How many of the reviews that doubt calls for a second look settles, and whether it is right.

    python -m secondlook.training.machine.settled --videos DIR|FILE ... [--write FILE.md]

Each clip is coded as a camera is, and a detector looks at the decoded frames. Of each that it doubts, what would be
fetched is coded as an agent would, decoded, and put into its place; the detector looks again, by the very comparison
that a refiner makes, and once more at the frame as it was before any coding, which says what is right.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from secondlook.cloud.catalogue import Doubts
from secondlook.cloud.config import PolicyConfig
from secondlook.cloud.workers.detectors import load_detector
from secondlook.cloud.workers.policy import FrameIdentity, crop_wanted, wish_for_review
from secondlook.cloud.workers.secondlook import Outcome, SecondLook, look_again
from secondlook.edge.coding.originals import keep, picture
from secondlook.shared.codec import load_codec
from secondlook.shared.crop import Crop
from secondlook.shared.detection import Detection, Detector, U8Image
from secondlook.shared.layers import LayeredCodec
from secondlook.shared.video import VideoSettings
from secondlook.training.machine.codecs import as_decoded, code_frames
from secondlook.training.machine.measure import Clip, find_videos, read_clip
from secondlook.training.machine.report import put_between

MARKS = "<!-- second looks -->", "<!-- end of second looks -->"
DOUBT_ALONE = PolicyConfig(audit_every=0, fetch="boxes")
_KEPT_QUALITY = 90  # of the pictures in an agent's spool
_BASE_QUALITY, _QUALITY = 16, 40  # of an agent where nothing is set


@dataclass
class Settled:
    """Of a clip: reviews for doubt, those settled, and what the original says of these: `as_it`, `unsure`, `against`.

    A review counts as `against` with one box that is confirmed here and refuted there, or the other way round.
    """

    reviews: int = 0
    said: Counter[str] = field(default_factory=Counter)

    def add(self, seen: SecondLook, original: SecondLook) -> None:
        self.reviews += 1
        if not seen.settles:
            return
        pairs = [(one.outcome, other.outcome) for one, other in zip(seen.boxes, original.boxes, strict=True)]
        if all(one is other for one, other in pairs):
            self.said["as_it"] += 1
        elif all(one is other or other is Outcome.IN_DOUBT for one, other in pairs):
            self.said["unsure"] += 1
        else:
            self.said["against"] += 1

    def __iadd__(self, other: Settled) -> Settled:
        self.reviews, self.said = self.reviews + other.reviews, self.said + other.said
        return self

    def row(self, name: str) -> str:
        settled = self.said.total()
        share = f" ({100 * settled / self.reviews:.0f} %)" if self.reviews else ""
        said = " | ".join(str(self.said[word]) for word in ("as_it", "unsure", "against"))
        return f"| {name} | {self.reviews} | {settled}{share} | {said} |"


def settled(
    clip: Clip, detector: Detector, codec: LayeredCodec, policies: Sequence[PolicyConfig]
) -> list[Settled]:
    """Code a clip and look twice, once for each policy."""
    height, width = clip.frames[0].shape[:2]
    counts = [Settled() for _ in policies]
    coded = code_frames(clip.frames, VideoSettings(), _BASE_QUALITY)
    for number, (decoded, _) in enumerate(as_decoded(coded)):
        found, name = detector.detect(decoded), FrameIdentity(clip.name, "", number)
        wishes = wish_for_review(policies[0], name, found, secret=b"none", size=(width, height))
        if not wishes:
            continue
        indexes = wishes[0].boxes or ()
        doubts = Doubts(detector.name, tuple((index, found[index]) for index in indexes))
        original = clip.frames[number]
        truth = look_again(
            policies[0], name, doubts, detector.detect(original), size=(width, height), crop=None
        )
        shown: dict[Crop | None, list[Detection]] = {}
        for policy, count in zip(policies, counts, strict=True):
            crop = crop_wanted(policy, wishes, found, (width, height))
            if crop not in shown:
                shown[crop] = detector.detect(fetched(original, decoded, crop, codec))
            count.add(look_again(policy, name, doubts, shown[crop], size=(width, height), crop=crop), truth)
    return counts


def fetched(original: U8Image, decoded: U8Image, crop: Crop | None, codec: LayeredCodec) -> U8Image:
    """What a person sees of a frame, uint8[H,W,3]: a crop in its place in the base picture, or all in full quality."""
    kept = keep(original, _KEPT_QUALITY)
    assert kept is not None
    source = picture(kept)
    where = (slice(None), slice(None)) if crop is None else crop.index
    part = np.ascontiguousarray(source[where])
    layers = codec.encode(part, base_quality=_BASE_QUALITY, quality=_QUALITY).layers
    image = decoded.copy()
    image[where] = codec.decode_enhanced(layers.base, layers.enhancement)
    return image


def table(videos: Sequence[Path], detector: Detector, *, fps: float, most_frames: int) -> str:
    """A row for each clip with a doubt, and the sums of crops and of whole frames; Markdown."""
    codec = load_codec("lite", threads=1)
    policies = [DOUBT_ALONE, replace(DOUBT_ALONE, fetch="frame")]
    crops, wholes = Settled(), Settled()
    lines = [
        "| clip | reviews for doubt | settled | as the original says | in doubt there | the other way round |",
        "|---|---|---|---|---|---|",
    ]
    for path in videos:
        clip = read_clip(path, fps=fps, most_frames=most_frames)
        height, width = clip.frames[0].shape[:2]
        with_crop, with_whole = settled(clip, detector, codec, policies)
        crops += with_crop
        wholes += with_whole
        if with_crop.reviews:
            lines.append(with_crop.row(f"{clip.name}, {width}x{height}"))
    lines.append(crops.row('**all, `fetch = "boxes"`**'))
    lines.append(wholes.row('**all, `fetch = "frame"`**'))
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m secondlook.training.machine.settled", description=__doc__
    )
    parser.add_argument("--videos", type=Path, nargs="+", required=True, metavar="DIR|FILE")
    parser.add_argument("--detector", default="auto")
    parser.add_argument("--fps", type=float, default=1.0)
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--write", type=Path, metavar="FILE.md", help="put the table between the marks")
    args = parser.parse_args(argv)
    detector = load_detector(args.detector, threads=1)
    made = table(find_videos(args.videos), detector, fps=args.fps, most_frames=args.frames)
    print(made)
    if args.write:
        put_between(args.write, MARKS, made)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
