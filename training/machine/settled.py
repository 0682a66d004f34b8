"""How many doubts of a detector a second look settles, whether it is right, and how many reviews that spares people.

    python -m secondlook.training.machine.settled --videos DIR|FILE ... [--write FILE.md]

Each clip is coded as a camera is, and a detector looks at the decoded frames. Of each that it doubts, what would be
fetched is coded as an agent would, decoded, and put into its place; the detector looks again, by the very comparison
that a refiner makes, and once more at the frame as it was before any coding, which says what is right. The reviews
are those that the catalogue makes of these frames where nothing is set: of each object once, and 5 s apart.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from sqlalchemy import select

from secondlook.cloud import catalogue as cat
from secondlook.cloud.config import PolicyConfig
from secondlook.cloud.workers.policy import FrameIdentity, ReviewReason, crop_wanted, wish_for_review
from secondlook.cloud.workers.secondlook import SETTLING, Outcome, SeenAgain, look_again
from secondlook.edge.coding.originals import keep, picture
from secondlook.shared.codec import load_codec
from secondlook.shared.crop import Crop
from secondlook.shared.detection import Detection, Detector, U8Image
from secondlook.shared.layers import LayeredCodec
from secondlook.shared.packet import FrameInfo
from secondlook.shared.video import VideoSettings
from secondlook.training.machine.codecs import as_decoded, code_frames
from secondlook.training.machine.detectortables import run_table
from secondlook.training.machine.measure import Clip, read_clip

MARKS = "<!-- second looks -->", "<!-- end of second looks -->"
DOUBT_ALONE = PolicyConfig(audit_every=0, fetch="boxes")
_KEPT_QUALITY = 90  # of the pictures in an agent's spool
_BASE_QUALITY, _QUALITY = 16, 40  # of an agent where nothing is set
_NANOSECONDS = 1_000_000_000


@dataclass
class Settled:
    """Doubts by their outcome; of those that are not in doubt any more what the original says; reviews, and those
    settled."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    as_original: int = 0
    unsure_there: int = 0
    against: int = 0
    reviews: int = 0
    settled: int = 0
    certain: int = 0  # what would be settled if those refuted were, too

    def add(self, seen: SeenAgain, original: SeenAgain) -> None:
        self.outcomes[seen.outcome] += 1
        if seen.outcome is Outcome.IN_DOUBT:
            return
        self.as_original += seen.outcome is original.outcome
        self.unsure_there += original.outcome is Outcome.IN_DOUBT
        self.against += original.outcome not in (seen.outcome, Outcome.IN_DOUBT)

    def __iadd__(self, other: Settled) -> Settled:
        self.outcomes += other.outcomes
        for name in ("as_original", "unsure_there", "against", "reviews", "settled", "certain"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self

    def row(self, name: str) -> str:
        confirmed, refuted = self.outcomes[Outcome.CONFIRMED], self.outcomes[Outcome.REFUTED]
        doubts = self.outcomes.total()
        cells = [
            doubts,
            confirmed,
            refuted,
            _share(confirmed + refuted, doubts),
            self.as_original,
            self.unsure_there,
            self.against,
            self.reviews,
            f"{self.settled} ({_share(self.settled, self.reviews)})",
            f"{self.certain} ({_share(self.certain, self.reviews)})",
        ]
        return f"| {name} | {' | '.join(map(str, cells))} |"


def _share(part: int, of: int) -> str:
    return f"{100 * part / of:.0f} %" if of else "-"


class _Reviews:
    """The catalogue of one clip, a frame a period: which frames become reviews, and what they are in doubt about."""

    def __init__(self, catalogue: cat.Catalogue, detector: str, fps: float) -> None:
        self._catalogue, self._detector, self._fps = catalogue, detector, fps

    def file(
        self, number: int, size: tuple[int, int], found: Sequence[Detection], wishes: Sequence[ReviewReason]
    ) -> list[int] | None:
        """The indexes of the doubts that are in question; None without a review."""
        at_ns = round(number / self._fps * _NANOSECONDS)
        info = FrameInfo(
            boot_id="00" * 16,
            seq=number,
            captured_ns=at_ns,
            width=size[0],
            height=size[1],
            key_seq=None,
            enhancement_bytes=0,
        )
        reasons = [
            cat.NewReview(
                wish.reason,
                wish.priority,
                round(wish.apart_seconds * _NANOSECONDS),
                wish.rule,
                boxes=wish.boxes,
                once=wish.once,
            )
            for wish in wishes
        ]
        new = cat.NewFrame("clip", "clip", at_ns, info, f"base/{number}", 0)
        cat.store_frame(self._catalogue, new, found, detector=self._detector, reasons=reasons, now_ns=number)
        with self._catalogue.reading() as session:
            query = select(cat.Review.doubts).join(cat.Frame).where(cat.Frame.seq == number)
            doubts = session.scalars(query).one_or_none()
        return None if doubts is None else [box["index"] for box in doubts["boxes"]]


def settled(
    clip: Clip, detector: Detector, codec: LayeredCodec, policies: Sequence[PolicyConfig], fps: float
) -> list[Settled]:
    """Code a clip and look twice, once for each policy; they differ in what is fetched alone."""
    height, width = clip.frames[0].shape[:2]
    counts = [Settled() for _ in policies]
    coded = code_frames(clip.frames, VideoSettings(), _BASE_QUALITY)
    with tempfile.TemporaryDirectory() as folder:
        catalogue = cat.open_catalogue(f"sqlite:///{folder}/catalogue.db")
        reviews = _Reviews(catalogue, detector.name, fps)
        for number, (decoded, _) in enumerate(as_decoded(coded)):
            found, name = detector.detect(decoded), FrameIdentity(clip.name, "", number)
            wishes = wish_for_review(policies[0], name, found, secret=b"none", size=(width, height))
            asked = reviews.file(number, (width, height), found, wishes)
            if not wishes:
                continue
            boxes = tuple((index, found[index]) for index in wishes[0].boxes or ())
            doubts = cat.Doubts(detector.name, boxes)
            original = clip.frames[number]
            there = detector.detect(original)
            truth = look_again(policies[0], name, doubts, there, size=(width, height), crop=None)
            shown: dict[Crop | None, list[Detection]] = {}
            for policy, count in zip(policies, counts, strict=True):
                crop = crop_wanted(policy, wishes, found, (width, height))
                if crop not in shown:
                    shown[crop] = detector.detect(fetched(original, decoded, crop, codec))
                seen = look_again(policy, name, doubts, shown[crop], size=(width, height), crop=crop)
                for one, other in zip(seen.boxes, truth.boxes, strict=True):
                    count.add(one, other)
                if asked is not None:
                    count.reviews += 1
                    in_question = replace(seen, boxes=tuple(box for box in seen.boxes if box.index in asked))
                    count.settled += in_question.settles
                    count.certain += replace(in_question, settling=SETTLING["certain"]).settles
        catalogue.close()
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
    columns = ["clip", "doubts", "confirmed", "refuted", "together", "as the original says", "in doubt there"]
    columns += ["the other way round", "reviews", "settled by `confirmed`", "by `certain`"]
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for path in videos:
        clip = read_clip(path, fps=fps, most_frames=most_frames)
        height, width = clip.frames[0].shape[:2]
        with_crop, with_whole = settled(clip, detector, codec, policies, fps)
        crops += with_crop
        wholes += with_whole
        if with_crop.outcomes:
            lines.append(with_crop.row(f"{clip.name}, {width}x{height}"))
    lines.append(crops.row('**all, `fetch = "boxes"`**'))
    lines.append(wholes.row('**all, `fetch = "frame"`**'))
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    return run_table("settled", __doc__, table, MARKS, argv, frames=30)


if __name__ == "__main__":
    raise SystemExit(main())
