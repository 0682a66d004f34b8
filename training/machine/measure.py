"""Measures every codec on every clip, and what of it follows: bits at a share of AP50, ratios between codecs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
import numpy.typing as npt

from secondlook.shared.detection import Detector
from secondlook.shared.errors import ConfigError, SourceEmpty, SourceUnreadable
from secondlook.training.machine.accuracy import Judge
from secondlook.training.machine.codecs import ClipCodec
from secondlook.training.machine.crops import SecondLook

U8 = npt.NDArray[np.uint8]

SHARES = (80, 90, 95)  # percent of AP50 = 100 at which bits are compared
VIDEO_SUFFIXES = {".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v"}
_WIDEST = 1280
_PAN_SECONDS = 12.0
_TREMBLE = 2.0  # pixels, standard deviation


@dataclass(frozen=True)
class Clip:
    """Frames of one video, uint8[H,W,3] RGB of equal size."""

    name: str
    frames: tuple[U8, ...]


@dataclass(frozen=True)
class Row:
    """One codec at one quality on one clip, for one judge. `kbit`: a frame, of real bytes; `ap50` in percent."""

    codec: str
    quality: int
    judge: str
    kbit: float
    ap50: float
    ap50_error: float
    encode_cpu_ms: float


@dataclass
class Measured:
    """All rows of one clip."""

    clip: str
    size: tuple[int, int]  # width, height
    frames: int
    objects: dict[str, int]  # by judge
    rows: list[Row] = field(default_factory=list)

    def curve(self, codec: str, judge: str) -> list[Row]:
        return sorted((r for r in self.rows if (r.codec, r.judge) == (codec, judge)), key=lambda r: r.kbit)

    def bits_at(self, codec: str, judge: str, share: float) -> float | None:
        """Kilobits a frame at which AP50 reaches `share` percent for good; None where the curve does not bracket it.

        Linear in the logarithm of the bits between the last point below and the first of those above.
        """
        curve = self.curve(codec, judge)
        above = len(curve)
        while above > 0 and curve[above - 1].ap50 >= share:
            above -= 1
        if above in (0, len(curve)):
            return None
        low, high = curve[above - 1], curve[above]
        place = (share - low.ap50) / (high.ap50 - low.ap50)
        return math.exp(math.log(low.kbit) + place * (math.log(high.kbit) - math.log(low.kbit)))


def find_videos(given: Sequence[Path]) -> list[Path]:
    """The files given, and the videos in the folders given, by name. Raises ConfigError when there are none."""
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            found += sorted(one for one in path.rglob("*") if one.suffix.lower() in VIDEO_SUFFIXES)
        else:
            found.append(path)
    if not found:
        raise ConfigError(f"no video in {', '.join(map(str, given))}")
    return found


def read_clip(path: Path, *, fps: float, most_frames: int) -> Clip:
    """Frames at about `fps` a second from the beginning. Raises SourceUnreadable, SourceEmpty."""
    frames: list[U8] = []
    due = 0.0
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                seconds = frame.time if frame.time is not None else len(frames) / fps
                if seconds + 1e-3 < due:
                    continue
                due = max(due + 1.0 / fps, seconds + 0.5 / fps)
                width = min(_WIDEST, frame.width)
                height = round(frame.height * width / frame.width)
                shown = frame.reformat(width=width, height=height, format="rgb24")
                frames.append(np.asarray(shown.to_ndarray(), np.uint8))
                if len(frames) == most_frames:
                    break
    except (av.error.FFmpegError, OSError) as error:
        raise SourceUnreadable(f"{path} cannot be decoded: {error.strerror or error}") from error
    if not frames:
        raise SourceEmpty(f"{path} holds no frame")
    return Clip(path.stem, tuple(frames))


def as_moving(clip: Clip, fps: float) -> Clip:
    """What a camera would see that pans and trembles: a window of three quarters of each side wanders over the frames.

    It goes to and fro in `_PAN_SECONDS`, and trembles by some pixels a frame; the same way in every clip.
    """
    height, width = clip.frames[0].shape[:2]
    tall, wide = (side * 3 // 4 // 2 * 2 for side in (height, width))
    rng, frames = np.random.default_rng(0), []
    for number, frame in enumerate(clip.frames):
        turn = 2 * np.pi * number / fps / _PAN_SECONDS
        shares = 0.5 + 0.5 * np.array([0.5 * np.sin(2 * turn), np.sin(turn)])
        room = np.array([height - tall, width - wide])
        place = np.clip(shares * room + rng.normal(0, _TREMBLE, 2), 0, room)
        top, left = (round(float(one)) for one in place)
        frames.append(np.ascontiguousarray(frame[top : top + tall, left : left + wide]))
    return Clip(f"{clip.name}, moving", tuple(frames))


def measure_clip(
    clip: Clip,
    codecs: Iterable[ClipCodec],
    judges: dict[str, Detector],
    say: Callable[[str], None] = lambda _: None,
) -> Measured:
    """Every codec at every quality. A codec whose curve is above every share already is not coded finer."""
    height, width = clip.frames[0].shape[:2]
    at_work = {name: Judge(detector, clip.frames) for name, detector in judges.items()}
    measured = Measured(
        clip.name, (width, height), len(clip.frames), {name: judge.objects for name, judge in at_work.items()}
    )
    for codec in codecs:
        settled = 0
        again = SecondLook() if codec.second_look else None
        for quality in codec.qualities:
            coded = codec.encode(clip.frames, quality)
            milliseconds = 1000 * coded.cpu_seconds / len(clip.frames)
            scores = []
            for name, judge in at_work.items():
                shown, more = list(coded.decoded), 0
                if again is not None:
                    shown, more = again.look(shown, clip.frames, judges[name])
                kbit = 8 * (sum(coded.sizes) + more) / len(clip.frames) / 1000
                ap50, error = judge.score(shown)
                scores.append(ap50)
                measured.rows.append(Row(codec.name, quality, name, kbit, ap50, error, milliseconds))
            settled = settled + 1 if all(not ap50 < max(SHARES) + 1 for ap50 in scores) else 0
            if settled == 2:  # one point might be luck
                break
        say(f"{clip.name}: {codec.name}")
    return measured


def ratio(
    clips: Sequence[Measured], codec: str, peer: str, judge: str, share: float
) -> tuple[float, int] | None:
    """Geometric mean over clips of bits of `codec` over bits of `peer`, and of how many; None where none has both."""
    logs = []
    for clip in clips:
        ours, theirs = clip.bits_at(codec, judge, share), clip.bits_at(peer, judge, share)
        if ours is not None and theirs is not None:
            logs.append(math.log(ours / theirs))
    return (math.exp(sum(logs) / len(logs)), len(logs)) if logs else None


def from_json(figures: dict[str, Any]) -> list[Measured]:
    """What `as_json` made of clips. Raises ConfigError on anything else."""
    try:
        return [
            Measured(
                video["name"],
                (video["size"][0], video["size"][1]),
                video["frames"],
                dict(video["objects"]),
                [Row(**row) for row in video["rows"]],
            )
            for video in figures["videos"]
        ]
    except (KeyError, TypeError, IndexError) as error:
        raise ConfigError(f"these are no figures of bench machine: {error!r}") from error


def missing_codecs(
    known: Measured, clip: Clip, codecs: Sequence[ClipCodec], judges: Iterable[str]
) -> list[ClipCodec]:
    """Those of `codecs` not yet measured of a clip. Raises ConfigError for figures of other frames or judges."""
    height, width = clip.frames[0].shape[:2]
    if (known.size, known.frames, set(known.objects)) != ((width, height), len(clip.frames), set(judges)):
        raise ConfigError(
            f"the figures of {known.clip} are of other frames or judges: they cannot be resumed"
        )
    done = {row.codec for row in known.rows}
    return [codec for codec in codecs if codec.name not in done]


def as_json(clips: Sequence[Measured], codec: str, peers: dict[str, str], at: float = 90) -> dict[str, Any]:
    """The figures as `--json` writes them; `peers` names each by its key, ratios are means over judges."""
    judges = sorted({judge for clip in clips for judge in clip.objects})
    overall: dict[str, float | None] = {}
    for key, peer in peers.items():
        found = [r for judge in judges if (r := ratio(clips, codec, peer, judge, at)) is not None]
        overall[key] = math.exp(sum(math.log(value) for value, _ in found) / len(found)) if found else None
    return {
        "overall": {"codec": codec, "ratio": overall, "at": at / 100},
        "videos": [
            {
                "name": clip.clip,
                "size": clip.size,
                "frames": clip.frames,
                "objects": clip.objects,
                "rows": [vars(row) for row in clip.rows],
                "bits_at": {
                    name: {
                        judge: {str(share): clip.bits_at(name, judge, share) for share in SHARES}
                        for judge in judges
                    }
                    for name in dict.fromkeys(row.codec for row in clip.rows)
                },
                "encode_cpu_ms": {
                    name: float(np.median([row.encode_cpu_ms for row in clip.rows if row.codec == name]))
                    for name in dict.fromkeys(row.codec for row in clip.rows)
                },
            }
            for clip in clips
        ],
    }
