"""What conditioning the enhancement on the decoded base layer of `video` saves: bits at equal PSNR, real ones.

    python -m secondlook.training.lite.conditioned_gain --clips FILE ... --conditioned runs/conditioned.pt \
        --control runs/lite.pt

The control is an independent enhancement with a base layer of its own, as agents send it today; both count. Frames are
cropped to multiples of 64, so neither pays for what is outside; headers, a few dozen bytes and fewer without a base
layer, are left out. Both take the tables of the shipped model.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load_file
from torch import Tensor

from secondlook.shared.entropy import EntropyTables, SymbolEncoder
from secondlook.shared.files import write_atomically
from secondlook.shared.models import find_model
from secondlook.training.data import U8
from secondlook.training.lite.conditioned import ConditionedCodec, Known
from secondlook.training.lite.decoded_pairs import FPS, MOST_FRAMES, chosen, decode
from secondlook.training.lite.export import load_lite
from secondlook.training.lite.fit_scales import Coded, code_layer
from secondlook.training.lite.model import LayerEntropy, LiteCodec
from secondlook.training.machine.measure import find_videos, read_clip
from secondlook.training.rate_distortion import Point, bd_rate, bpp, psnr

QUALITIES = (22, 31, 40, 49, 58)  # of the enhancement
USUAL = 40  # what an edge agent takes where nothing is set
Tables = dict[str, EntropyTables]


@dataclass(frozen=True)
class Saved:
    """Of one clip at one base quality of `video`; means over frames.

    `bd_rate`: percent, below zero where the condition saves bits; `error` its standard error over frames.
    `bytes_control`, `psnr`: of the control at quality 40; `bytes_conditioned` at equal PSNR; `psnr_decoded`: of what
    the condition is made of.
    """

    clip: str
    base_quality: int
    frames: int
    bd_rate: float
    error: float
    bytes_control: float
    bytes_conditioned: float
    psnr: float
    psnr_decoded: float


def load_tables() -> Tables:
    """Those of the shipped model, by what they code: hyper, base, enhancement."""
    held = load_file(find_model("lite", kind="codec").file("entropy.safetensors"))
    listed = int(held["listed_below"][0])
    names = ("hyper", "base", "enhancement")
    return {name: EntropyTables(held[f"{name}.frequencies"], held["reach"], listed) for name in names}


def sizes_of(layer: LayerEntropy, coded: Coded, quality: Tensor, tables: Tables, name: str) -> list[int]:
    """Bytes of each payload of a batch, as the encoder writes it."""
    indexes = layer.hyper_scale_index(quality).expand_as(coded.hyper)
    sizes = []
    for hyper, hyper_index, symbols, index in zip(
        coded.hyper, indexes, coded.symbols, coded.index, strict=True
    ):
        encoder = SymbolEncoder()
        encoder.put(_flat(hyper, np.int16), _flat(hyper_index, np.uint8), tables["hyper"])
        encoder.put(_flat(symbols, np.int16), _flat(index, np.uint8), tables[name])
        sizes.append(len(encoder.payload()))
    return sizes


def _flat(values: Tensor, kind: type) -> npt.NDArray[Any]:
    return values.flatten().numpy().astype(kind)


def as_planes(image: U8) -> Tensor:
    """float[1,3,H,W] of the largest part of a frame, from its top left, with sides in steps of 64."""
    height, width = (side // 64 * 64 for side in image.shape[:2])
    return torch.from_numpy(np.ascontiguousarray(image[:height, :width])).permute(2, 0, 1)[None].float() / 255


def points_of(sizes: Sequence[int], shown: Tensor, x: Tensor) -> list[Point]:
    """Of payloads and the pictures float[B,3,H,W] that they decode to, rounded; `x` is the original."""
    original, pictures = (
        (planes.clamp(0, 1) * 255).round().permute(0, 2, 3, 1).numpy().astype(np.uint8)
        for planes in (x, shown)
    )
    return [
        Point(bpp(size, original[0]), psnr(one, original[0]))
        for size, one in zip(sizes, pictures, strict=True)
    ]


@torch.no_grad()
def independent(model: LiteCodec, tables: Tables, image: U8, base_quality: int) -> list[Point]:
    """Both layers, at each of `QUALITIES`."""
    x, q_b, q = as_planes(image), torch.tensor([base_quality]), torch.tensor(QUALITIES)
    y_b, y_e = model.analyse(x)
    base = code_layer(model.base, y_b, q_b, torch.zeros(()).expand_as(y_b), None, None)
    (size,) = sizes_of(model.base, base, q_b, tables, "base")
    _, features = model.base_latents(base.latents, q_b)
    features, symbols = (part.expand(len(q), -1, -1, -1) for part in (features, base.symbols))
    prior = model.enhancement_prior(features, q)
    coded = code_layer(model.enhancement, y_e, q, prior, features, symbols)
    shown = model.synthesise_enhanced(coded.latents, features, q)
    return points_of(
        [size + more for more in sizes_of(model.enhancement, coded, q, tables, "enhancement")], shown, x
    )


@torch.no_grad()
def conditioned(
    model: ConditionedCodec, tables: Tables, image: U8, decoded: U8, base_quality: int
) -> list[Point]:
    """The enhancement of a frame that `video` has coded at a base quality, at each of `QUALITIES`."""
    x, q = as_planes(image), torch.tensor(QUALITIES)
    one = model.known(as_planes(decoded), torch.tensor([base_quality]))
    known = Known(*(part.expand(len(q), -1, -1, -1) for part in one))
    prior = known.prior * torch.exp(model.enhancement.log_gain(q))
    coded = code_layer(model.enhancement, model.analyse(x)[1], q, prior, known.features, known.symbols)
    shown = model.synthesise_conditioned(coded.latents, known, q)
    return points_of(sizes_of(model.enhancement, coded, q, tables, "enhancement"), shown, x)


def mean_curve(curves: Sequence[Sequence[Point]]) -> list[Point]:
    return [
        Point(float(np.mean([p.bpp for p in row])), float(np.mean([p.psnr for p in row])))
        for row in zip(*curves, strict=True)
    ]


def rate_at(points: Sequence[Point], quality: float) -> float:
    """Bits a pixel at a PSNR in dB, linear in their logarithm between the points; nan outside."""
    line = sorted(points, key=lambda p: p.psnr)
    found = np.interp(
        quality, [p.psnr for p in line], [np.log(p.bpp) for p in line], left=np.nan, right=np.nan
    )
    return float(np.exp(found))


def judge_clip(
    path: Path,
    model: ConditionedCodec,
    control: LiteCodec,
    *,
    base_qualities: Sequence[int],
    control_quality: int,
    frames: int,
) -> list[Saved]:
    """One row for each base quality of `video`."""
    clip, tables = read_clip(path, fps=FPS, most_frames=MOST_FRAMES), load_tables()
    places = chosen(len(clip.frames), frames)
    images = [clip.frames[place] for place in places]
    pixels = as_planes(images[0])[0, 0].numel()
    theirs = [independent(control, tables, image, control_quality) for image in images]
    usual = mean_curve(theirs)[QUALITIES.index(USUAL)]
    rows = []
    for base_quality in base_qualities:
        decoded = decode(clip.frames, base_quality)
        shown = [decoded[place] for place in places]
        ours = [
            conditioned(model, tables, image, seen, base_quality)
            for image, seen in zip(images, shown, strict=True)
        ]
        each = [bd_rate(mine, other) for mine, other in zip(ours, theirs, strict=True)]
        rows.append(
            Saved(
                clip.name,
                base_quality,
                len(images),
                bd_rate(mean_curve(ours), mean_curve(theirs)),
                float(np.std(each) / len(each) ** 0.5),
                usual.bpp * pixels / 8,
                rate_at(mean_curve(ours), usual.psnr) * pixels / 8,
                usual.psnr,
                float(np.mean([psnr(image, seen) for image, seen in zip(images, shown, strict=True)])),
            )
        )
    return rows


def table(rows: Sequence[Saved]) -> str:
    """Markdown."""
    lines = [
        "| clip | base quality | decoded, dB | BD-rate | bytes at quality 40 | conditioned, at equal PSNR |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        saved = 100 * (row.bytes_conditioned / row.bytes_control - 1)
        lines.append(
            f"| {row.clip}, {row.frames} frames | {row.base_quality} | {row.psnr_decoded:.2f} "
            f"| {row.bd_rate:+.1f} ± {row.error:.1f} % | {row.bytes_control:.0f} ({row.psnr:.2f} dB) "
            f"| {row.bytes_conditioned:.0f} ({saved:+.1f} %) |"
        )
    return "\n".join(lines)


def _load(path: Path, model: LiteCodec) -> LiteCodec:
    """From a checkpoint, or, the control, from a model folder."""
    if path.is_dir():
        return load_lite(path).eval()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["model"])
    return model.eval()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m secondlook.training.lite.conditioned_gain", description=__doc__
    )
    parser.add_argument("--clips", type=Path, nargs="+", required=True, metavar="DIR|FILE")
    parser.add_argument("--conditioned", type=Path, required=True, metavar="CHECKPOINT")
    parser.add_argument("--control", type=Path, required=True, metavar="CHECKPOINT|FOLDER")
    parser.add_argument("--base-qualities", type=int, nargs="+", default=[8, 16, 30], help="of video")
    parser.add_argument(
        "--control-quality", type=int, default=16, help="of the control's base layer (default %(default)s)"
    )
    parser.add_argument("--frames", type=int, default=6, help="of each clip (default %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="OUT")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    model, control = _load(args.conditioned, ConditionedCodec()), _load(args.control, LiteCodec())
    assert isinstance(model, ConditionedCodec)
    rows: list[Saved] = []
    for path in find_videos(args.clips):
        rows += judge_clip(
            path,
            model,
            control,
            base_qualities=args.base_qualities,
            control_quality=args.control_quality,
            frames=args.frames,
        )
        if args.json:
            figures = [asdict(row) for row in rows]
            write_atomically(args.json, (json.dumps(figures, indent=1) + "\n").encode())
    print(table(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
