"""Mutated groups of the family `video` against its decoder, which hands them to libavcodec in this very process.

What has to come of a group: for each frame one of our errors or a true picture of the group it came from, never
another picture, in little time and memory. A crash ends the child that decodes, and is told.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

import numpy as np

from secondlook.shared.errors import BitstreamError
from secondlook.shared.video import (
    EncoderName,
    GroupDecoder,
    VideoEncoder,
    VideoSettings,
    _Planes,
    planes_crc,
)
from secondlook.shared.videobits import FRAME_HEADER_BYTES, BackgroundPacket, GroupFrame
from tests.mutations import MAX_CPU_SECONDS, PeakMemory, Tally
from tests.pictures import noise, photo

SEALED = "under their own checksums"
FRAMES = 5
BACKGROUND_HEADER_BYTES = 10
MAX_BYTES = 96 << 20  # that decoding one of these small groups may add to the process


@dataclass(frozen=True)
class Group:
    """The packets of a group: its background and its frames in order."""

    background: bytes
    frames: tuple[bytes, ...]


def corpus() -> list[Group]:
    """Small groups of every encoder: photographs and noise, at low and high qualities. H.264 first."""
    groups = []
    recipes: list[tuple[EncoderName, int, int, int]] = [
        ("x264", 32, 48, 16),
        ("x264", 37, 71, 40),
        ("x264", 64, 64, 63),
        ("x265", 48, 64, 16),
        ("x265", 64, 71, 50),
        ("svtav1", 64, 64, 16),
        ("svtav1", 71, 80, 50),
    ]
    for number, (encoder, height, width, quality) in enumerate(recipes):
        coder = VideoEncoder(VideoSettings(encoder))
        ground = noise(height, width) if quality == 63 else photo(height, width, seed=number)
        coder.set_background(ground)
        coded = []
        for place in range(FRAMES):
            frame = ground.copy()
            frame[4:24, 5 * place : 5 * place + 16] = (230, 220, 200)
            coded.append(coder.encode(frame, base_quality=quality))
        assert coded[0].background is not None
        frames = tuple(one.frame.to_bytes() for one in coded)
        groups.append(Group(coded[0].background.to_bytes(), frames))
    return groups


def _flip(rng: Random, data: bytes, first: int = 0) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8, 32])):
        out[rng.randrange(first, len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def _cut(rng: Random, data: bytes, first: int) -> bytes:
    return data[: rng.randrange(first, len(data))]


def _splice(rng: Random, data: bytes, first: int, other: bytes) -> bytes:
    """Some bytes overwritten, inserted or left out."""
    at = rng.randrange(first, len(data) + 1)
    end = rng.choice([at, min(len(data), at + rng.randrange(40))])
    start = rng.randrange(len(other))
    return data[:at] + other[start : start + rng.randrange(40)] + data[end:]


def _in_a_frame(rng: Random, group: Group, change: Callable[[bytes], bytes]) -> Group:
    frames = list(group.frames)
    for place in rng.sample(range(len(frames)), rng.choice([1, 1, 3])):
        frames[place] = change(frames[place])
    return replace(group, frames=tuple(frames))


def _rehung(rng: Random, group: Group, other: Group) -> Group:
    """The payload of a strange frame under the header of one of the group's."""
    strange = rng.choice([*other.frames, *group.frames])[FRAME_HEADER_BYTES:]
    return _in_a_frame(rng, group, lambda data: data[:FRAME_HEADER_BYTES] + strange)


def _shuffled(rng: Random, group: Group, other: Group) -> Group:
    frames = [*group.frames, *rng.choices([*group.frames, *other.frames], k=2)]
    rng.shuffle(frames)
    return replace(group, frames=tuple(frames[: rng.randrange(1, len(frames) + 1)]))


def _other_sets(rng: Random, group: Group, other: Group) -> Group:
    """A background whose parameter sets or size are those of another, or bent."""
    head, payload = bytearray(group.background[:BACKGROUND_HEADER_BYTES]), group.background[10:]
    if rng.random() < 0.5:
        head[2:6] = rng.choice([other.background[2:6], bytes(rng.choices(range(256), k=4)), b"\0\x10\0\x10"])
    if rng.random() < 0.7:
        payload = rng.choice([_flip(rng, payload[:40]) + payload[40:], other.background[10:]])
    return replace(group, background=bytes(head) + payload)


def _sealed(rng: Random, group: Group, other: Group) -> Group:
    """What somebody hostile would send: bent payloads under the checksums of what they decode to, where they do."""
    for _ in range(rng.choice([1, 2])):
        kind = rng.choice(
            ["bits of payloads", "spliced", "rehung", "bits of the background", "other parameter sets"]
        )
        group = KINDS[kind][1](rng, group, other)
    try:
        background = BackgroundPacket.parse(group.background)
        planes = _Planes(background.coding, *background.coded_size)
        background = replace(background, picture_crc=planes_crc(planes.decode(background.payload)))
    except BitstreamError:
        return group
    frames = []
    for place, data in enumerate(group.frames, 1):
        try:
            frame = GroupFrame.parse(data)
            crc = planes_crc(planes.decode(frame.payload))
        except BitstreamError:
            continue
        frame = replace(frame, picture_crc=crc, place=place, background_id=background.id)
        frames.append(frame.to_bytes())
    return Group(background.to_bytes(), tuple(frames))


KINDS: dict[str, tuple[int, Callable[[Random, Group, Group], Group]]] = {
    "bits of payloads": (
        30,
        lambda rng, group, other: _in_a_frame(rng, group, lambda data: _flip(rng, data, FRAME_HEADER_BYTES)),
    ),
    "bits of frames": (8, lambda rng, group, other: _in_a_frame(rng, group, lambda data: _flip(rng, data))),
    "cut": (8, lambda rng, group, other: _in_a_frame(rng, group, lambda data: _cut(rng, data, 0))),
    "spliced": (
        16,
        lambda rng, group, other: _in_a_frame(
            rng, group, lambda data: _splice(rng, data, FRAME_HEADER_BYTES, rng.choice(other.frames))
        ),
    ),
    "rehung": (10, _rehung),
    "shuffled": (6, _shuffled),
    "bits of the background": (
        10,
        lambda rng, group, other: replace(group, background=_flip(rng, group.background, 2)),
    ),
    "cut background": (
        4,
        lambda rng, group, other: replace(group, background=_cut(rng, group.background, 0)),
    ),
    "spliced background": (
        8,
        lambda rng, group, other: replace(
            group, background=_splice(rng, group.background, 10, other.background)
        ),
    ),
    "other parameter sets": (8, _other_sets),
    SEALED: (20, _sealed),
}


class GroupAttack:
    """Decodes mutated groups and judges what comes of them; a group is known by its seed and number."""

    def __init__(self, groups: list[Group], seed: int) -> None:
        self._groups, self._seed = groups, seed
        self._memory = PeakMemory()
        self._true: list[list[np.ndarray]] = []
        for group in groups:
            decoder = GroupDecoder(group.background)
            self._true.append([decoder.decode(data) for data in group.frames])
        self._memory.restart()
        self._at_rest = self._memory.bytes()

    def attempt(self, number: int) -> tuple[str, Group, int]:
        """Kind, mutated group, and which good one it came from."""
        rng = Random(f"{self._seed} {number}")
        origin = int(len(self._groups) * rng.random() ** 1.5)
        kind = rng.choices(list(KINDS), [weight for weight, _ in KINDS.values()])[0]
        return kind, KINDS[kind][1](rng, self._groups[origin], rng.choice(self._groups)), origin

    def one(self, number: int, tally: Tally) -> None:
        kind, group, origin = self.attempt(number)
        self._memory.restart()
        started = time.thread_time()
        told = f"group {number} ({kind})"
        decoder = self._count(tally, told, lambda: GroupDecoder(group.background), "background ")
        for data in group.frames if decoder is not None else ():
            picture = self._count(tally, told, lambda data=data: decoder.decode(data), "")
            if picture is None:
                continue
            if kind == SEALED:
                tally.outcomes["picture of another sender"] += 1
            elif any(np.array_equal(picture, true) for true in self._true[origin]):
                tally.outcomes["picture, a true one"] += 1
            else:
                tally.outcomes["FAILED picture"] += 1
                tally.failures.append(f"{told}: a picture that is none of the group's")
        seconds, peak = time.thread_time() - started, self._memory.bytes()
        tally.slowest = max(tally.slowest, seconds)
        if seconds > MAX_CPU_SECONDS:
            tally.failures.append(f"{told}: {seconds:.1f} s of CPU")
        if self._memory.measured:
            tally.largest = max(tally.largest, peak / (self._at_rest + MAX_BYTES))
            if peak > self._at_rest + MAX_BYTES:
                tally.failures.append(f"{told}: {(peak - self._at_rest) / 2**20:.0f} MiB")

    def _count(self, tally: Tally, told: str, decode, prefix: str):
        """What `decode` gives, or None and a line in the tally."""
        try:
            result = decode()
        except BitstreamError as error:
            tally.outcomes[prefix + type(error).__name__] += 1
            if "\n" in str(error):
                tally.failures.append(f"{told}: its error has several lines")
            return None
        except BaseException as error:  # noqa: BLE001 - any other is what we are here to find
            tally.outcomes[f"FAILED {type(error).__name__}"] += 1
            tally.failures.append(f"{told}: {type(error).__name__}: {error}")
            return None
        if prefix:
            tally.outcomes["background decoded"] += 1
        return result
