"""Encoding and decoding time of our codecs beside CompressAI's learned codecs: same run, same threads.

The peers' weights are random, since time does not depend on what they say: every convolution runs at its published
size, and the range coder visits every latent. Turns are interleaved, and medians are compared.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import cv2
import torch

from secondlook.shared.codec import LiteCodec
from secondlook.shared.layers import LayeredCodec
from secondlook.training.data import U8

SIDES = (768, 512)
TURNS = 7
CALLS = 5  # of ours in a turn: a call of a few hundredths of a second is noisier than a peer's of a second
SHARE_TURNS = 25  # of a figure that is small beside what it is a share of
# The models whose published PSNR on Kodak lies around our default quality: 32.95 and 34.97 dB, 33.39 dB.
LEARNED = {"mbt2018-mean": (4, 5), "cheng2020-anchor": (4,)}


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call()
    return 1e3 * (time.perf_counter() - start), result


def learned_peer(name: str, quality: int) -> torch.nn.Module:
    """A CompressAI model of its published size, random weights, ready to code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CompressAI still scripts functions the way torch 2 warns of
        from compressai.zoo import cheng2020_anchor, mbt2018_mean

        torch.manual_seed(0)
        build = {"mbt2018-mean": mbt2018_mean, "cheng2020-anchor": cheng2020_anchor}[name]
        model: torch.nn.Module = build(quality, pretrained=False).eval()
        model.update()  # type: ignore[operator]
    return model


@torch.no_grad()
def time_learned(model: Any, image: U8, turns: int) -> tuple[list[float], list[float]]:
    """Milliseconds of `compress` and of `decompress`, a turn each, after a call that is not timed."""
    x = torch.from_numpy(image.transpose(2, 0, 1)[None].copy()).float() / 255
    encode, decode = [], []
    model.compress(x)
    for _ in range(turns):
        ms, coded = _timed(lambda: model.compress(x))
        encode.append(ms)
        decode.append(_timed(lambda c=coded: model.decompress(c["strings"], c["shape"]))[0])
    return encode, decode


def time_ours(codec: LayeredCodec, image: U8, base_quality: int, quality: int) -> list[list[float]]:
    """Milliseconds of encoding both layers, of decoding the base layer, of decoding both: some calls of each.

    A call of each that is not timed comes first, as a camera host meets its frames: one after the other.
    """
    coded = codec.encode(image, base_quality=base_quality, quality=quality).layers
    codec.decode_base(coded.base)
    codec.decode_enhanced(coded.base, coded.enhancement)
    calls: tuple[Callable[[], Any], ...] = (
        lambda: codec.encode(image, base_quality=base_quality, quality=quality),
        lambda: codec.decode_base(coded.base),
        lambda: codec.decode_enhanced(coded.base, coded.enhancement),
    )
    return [[_timed(call)[0] for _ in range(CALLS)] for call in calls]


class PackClock:
    """Milliseconds that a codec spends on entropy coding while this is open: sorting, range coder, checksums."""

    def __init__(self, codec: LiteCodec) -> None:
        self._codec, self._pack, self.ms = codec, codec._pack, 0.0

    def __enter__(self) -> PackClock:
        self._codec._pack = self._timed_pack  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        del self._codec._pack  # the class's own is seen again

    def _timed_pack(self, *given: Any) -> Any:
        ms, packed = _timed(lambda: self._pack(*given))
        self.ms += ms
        return packed


def entropy_share(codec: LiteCodec, image: U8, base_quality: int, quality: int) -> float:
    """The share of encoding time that is entropy coding: median of some turns."""
    shares = []
    for _ in range(SHARE_TURNS):
        with PackClock(codec) as clock:
            ms, _ = _timed(lambda: codec.encode(image, base_quality=base_quality, quality=quality))
        shares.append(clock.ms / ms)
    return statistics.median(shares)


def compare_speed(
    codec: LayeredCodec, image: U8, *, base_quality: int, quality: int, threads: int, peers: tuple[str, ...]
) -> dict[str, Any]:
    """Median times in ms of an image scaled to 768x512, and ratios peer/ours (above 1: ours is faster).

    `entropy_share` is None of codecs other than `lite`, which do not show their entropy coder.
    """
    image = cv2.resize(image, SIDES, interpolation=cv2.INTER_AREA)
    torch.set_num_threads(threads)
    models = {f"{name} q{q}": learned_peer(name, q) for name in peers for q in LEARNED[name]}
    ours: tuple[list[float], list[float], list[float]] = ([], [], [])
    theirs: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in models}
    for turn in range(TURNS + 1):
        for times, new in zip(ours, time_ours(codec, image, base_quality, quality), strict=True):
            times.extend(new)
        for name, model in models.items():
            if turn > 2 and name.startswith("cheng"):
                continue  # seconds a turn, and far from any bound
            for kept, new in zip(theirs[name], time_learned(model, image, 1), strict=True):
                kept.extend(new)
    encode, base, both = (statistics.median(times[CALLS:]) for times in ours)
    result: dict[str, Any] = {
        "size": list(SIDES),
        "threads": threads,
        "quality": quality,
        "ours": {"encode_ms": encode, "decode_base_ms": base, "decode_ms": both},
        "entropy_share": entropy_share(codec, image, base_quality, quality)
        if isinstance(codec, LiteCodec)
        else None,
        "peers": {},
    }
    for name, times in theirs.items():
        their_encode, their_decode = (statistics.median(t[1:]) for t in times)
        result["peers"][name] = {
            "encode_ms": their_encode,
            "decode_ms": their_decode,
            "encode_ratio": their_encode / encode,
            "decode_base_ratio": their_decode / base,
        }
    return result
