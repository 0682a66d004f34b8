"""What the machine's filter learns from: frames as workers decode them, with their backgrounds and originals.

Clips are coded as cameras are: a background learned, groups, one quantiser. As there are few clips and many images,
most scenes are made of images: pieces of some move over another, or the whole picture moves, under a sensor's noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from secondlook.shared.video import EncoderName, VideoSettings
from secondlook.training.data import U8, read_rgb
from secondlook.training.machine.codecs import as_decoded, code_frames
from secondlook.training.machine.measure import Clip

QUALITIES = (0, 54)  # base qualities of scenes, both included: the quantisers 51 to 24 of H.264 and H.265
QUALITY_SKEW = 1.5  # above 1: more scenes of low quality, where there is most to win
CLIP_QUALITIES = (2, 8, 16, 26, 42)
CLIP_STEP = 2  # every how many frames of a clip one is kept
SCENE_FRAMES = 4
SEEN_AT = 416  # pixels of the longer side of what detectors are shown
OBJECTS = (1, 4)
OBJECT_SIDES = (32, 200)
SPEED = 10.0  # pixels a frame, at most, along each axis
NOISE = 4.0  # grey levels, at most, of a sensor's noise
MOVING_CAMERA, NO_BACKGROUND, H264 = 0.15, 0.25, 0.25  # shares of the scenes
_TRIES = 4  # places for a crop, of which the one where most was lost is taken


@dataclass(frozen=True)
class Sample:
    """uint8[H,W,3] RGB each. `scale`: by which a detector scales the whole frame."""

    decoded: U8
    background: U8
    original: U8
    scale: float


def samples_of_clip(
    clip: Clip, encoder: EncoderName = "x265", qualities: Sequence[int] = CLIP_QUALITIES
) -> list[Sample]:
    """Frames of a clip at each quality, every second one, each time others."""
    scale = SEEN_AT / max(clip.frames[0].shape[:2])
    samples = []
    for turn, quality in enumerate(qualities):
        coded = code_frames(clip.frames, VideoSettings(encoder), quality)
        for number, (decoded, background) in enumerate(as_decoded(coded)):
            if number % CLIP_STEP == turn % CLIP_STEP:
                samples.append(Sample(decoded, background, clip.frames[number], scale))
    return samples


def samples_of_images(
    paths: Sequence[Path], side: int, rng: np.random.Generator, *, is_over: Callable[[], bool]
) -> list[Sample]:
    """Two crops of `side` pixels of a scene around each image, in random order, until `is_over`; of one at least."""
    samples: list[Sample] = []
    for place in rng.permutation(len(paths)):
        if samples and is_over():
            break
        others = [read_rgb(paths[int(one)]) for one in rng.integers(len(paths), size=OBJECTS[1])]
        frames = list(scene(read_rgb(paths[place]), others, rng))
        low, high = QUALITIES
        quality = int(low + (high + 1 - low) * rng.random() ** QUALITY_SKEW)
        encoder: EncoderName = "x264" if rng.random() < H264 else "x265"
        # Without a stored background the first frame becomes one; with it, all move over what stands still.
        still = None if rng.random() < NO_BACKGROUND else frames[0]
        coded = code_frames(frames[1:], VideoSettings(encoder), quality, background=still)
        seen = list(as_decoded(coded))
        for number in (1, SCENE_FRAMES - 1):
            whole = Sample(*seen[number], frames[1 + number], SEEN_AT / max(frames[0].shape[:2]))
            samples.append(cropped(whole, side, rng))
    return samples


def scene(image: U8, others: Sequence[U8], rng: np.random.Generator) -> Iterator[U8]:
    """The picture without its objects, then `SCENE_FRAMES` frames in which pieces of `others` move over it."""
    height, width = image.shape[:2]
    if rng.random() < MOVING_CAMERA:
        speed = rng.uniform(-SPEED, SPEED, 2)
        layers: list[_Piece] = []
    else:
        speed = np.zeros(2)
        count = int(rng.integers(OBJECTS[0], OBJECTS[1] + 1))
        layers = [_Piece.cut(one, (height, width), rng) for one in others[:count]]
    noise = NOISE * rng.random() ** 2
    for number in range(SCENE_FRAMES + 1):
        shift = np.array([[1, 0, speed[0] * number], [0, 1, speed[1] * number]])
        frame = cv2.warpAffine(image, shift, (width, height), borderMode=cv2.BORDER_REFLECT)
        if number:
            for piece in layers:
                piece.paste(frame, number)
        # What is learned as a background has no noise: it is a median.
        noisy = frame + rng.normal(0, noise, frame.shape) if number and noise > 0.5 else frame
        yield np.clip(noisy, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class _Piece:
    """The middle of an image with soft edges, at a place, with a speed, in pixels."""

    picture: U8
    alpha: np.ndarray  # float[H,W,1]
    place: np.ndarray
    speed: np.ndarray

    @classmethod
    def cut(cls, image: U8, frame: tuple[int, int], rng: np.random.Generator) -> _Piece:
        low, high = OBJECT_SIDES
        tall, wide = (int(low * (high / low) ** rng.random()) for _ in range(2))
        tall, wide = min(tall, frame[0] - 2), min(wide, frame[1] - 2)
        rows, columns = (length // 8 for length in image.shape[:2])
        middle = image[rows:-rows, columns:-columns]
        picture = cv2.resize(middle, (wide, tall), interpolation=cv2.INTER_AREA)
        alpha = np.zeros((tall, wide), np.float32)
        cv2.ellipse(alpha, (wide // 2, tall // 2), (wide // 2 - 2, tall // 2 - 2), 0, 0, 360, 1, -1)
        place = rng.uniform(0, (frame[0] - tall, frame[1] - wide))
        return cls(
            np.asarray(picture, np.uint8),
            cv2.GaussianBlur(alpha, (5, 5), 0)[..., None],
            place,
            rng.uniform(-SPEED, SPEED, 2),
        )

    def paste(self, frame: U8, number: int) -> None:
        tall, wide = self.picture.shape[:2]
        limit = np.array(frame.shape[:2]) - (tall, wide)
        top, left = np.clip(self.place + number * self.speed, 0, limit).astype(int)
        under = frame[top : top + tall, left : left + wide]
        under[:] = (self.alpha * self.picture + (1 - self.alpha) * under).astype(np.uint8)


def cropped(sample: Sample, side: int, rng: np.random.Generator) -> Sample:
    """A square of a sample, of a few at random the one where coding lost most: there is something in it."""
    height, width = sample.original.shape[:2]
    best, most = (0, 0), -1.0
    for _ in range(_TRIES):
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        window = (slice(top, top + side, 4), slice(left, left + side, 4))
        lost = float(cv2.norm(sample.decoded[window], sample.original[window]))
        if lost > most:
            best, most = (top, left), lost
    window = (slice(best[0], best[0] + side), slice(best[1], best[1] + side))
    pictures = (np.ascontiguousarray(each[window]) for each in _pictures(sample))
    return Sample(*pictures, sample.scale)


def _pictures(sample: Sample) -> tuple[U8, U8, U8]:
    return sample.decoded, sample.background, sample.original
