"""Commands on single images and layers: `encode`, `decode`, `inspect`."""

from __future__ import annotations

import argparse
import dataclasses
import enum
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secondlook.shared.errors import ConfigError, SourceNotFound, SourceUnreadable
from secondlook.shared.quality import parse_quality
from secondlook.shared.settings import model_argument

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    U8Image = npt.NDArray[np.uint8]  # (height, width, 3), RGB


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the three commands to the `secondlook` parser."""
    _register_encode(subparsers)
    _register_decode(subparsers)
    inspect = subparsers.add_parser(
        "inspect",
        help="print the header of a layer",
        description="Print what the header of a .slk file says.",
    )
    inspect.add_argument("file", type=Path, help="a .slk file")
    inspect.add_argument("--json", action="store_true", help="print JSON instead of a table")
    inspect.set_defaults(run=run_inspect)


def _register_encode(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    encode = subparsers.add_parser(
        "encode",
        help="encode an image into its two layers",
        description="Encode one image into two .slk files.",
    )
    encode.add_argument("image", type=Path, help="an image, see docs/sources.md")
    encode.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="OUT.slk",
        help="writes OUT.base.slk and OUT.enh.slk (default: named after the image, in this folder)",
    )
    encode.add_argument("--base-quality", type=parse_quality, default=16, help="base layer, 0 to 63")
    encode.add_argument(
        "--quality",
        type=parse_quality,
        default=40,
        help="both layers, 0 to 63 or lambda-0.005, -0.010, -0.020, -0.030",
    )
    encode.add_argument("--model", type=model_argument, default="lite", help="codec name or folder")
    encode.add_argument(
        "--device",
        default="cpu",
        help="where networks run: auto, cpu, cuda or cuda:N (the CPU is quickest for one picture)",
    )
    encode.set_defaults(run=run_encode)


def _register_decode(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    decode = subparsers.add_parser(
        "decode",
        help="decode one or both layers into an image",
        description="Decode a base layer, with its enhancement if given, into an image file.",
    )
    decode.add_argument("base", type=Path, metavar="BASE.slk", help="the base layer")
    decode.add_argument("enhancement", type=Path, metavar="ENH.slk", nargs="?", help="its enhancement layer")
    decode.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT.png", help="the image to write"
    )
    decode.add_argument(
        "--key",
        type=Path,
        nargs="+",
        metavar="SLK",
        default=[],
        help="base layer, and enhancement when decoding one, of the key that a delta refers to",
    )
    decode.add_argument(
        "--postfilter",
        type=model_argument,
        metavar="MODEL",
        help="clean the picture with this one: rrdb-fast, rrdb-l1, rrdb-l2, a folder, or one that a package brings",
    )
    decode.add_argument(
        "--model",
        type=model_argument,
        help="codec name or folder (default: the model that the layer names)",
    )
    decode.add_argument(
        "--device",
        default="cpu",
        help="where networks run: auto, cpu, cuda or cuda:N (the CPU is quickest for one picture)",
    )
    decode.set_defaults(run=run_decode)


def run_encode(args: argparse.Namespace) -> int:
    """Write both layers, or neither."""
    from secondlook.shared.codec import load_codec
    from secondlook.shared.files import PUBLIC_FILE, write_all

    image = read_image(args.image)
    codec = load_codec(args.model, device=args.device)
    layers = codec.encode(image, base_quality=args.base_quality, quality=args.quality).layers
    stem = args.output or Path(args.image.name)
    stem = stem.with_suffix("") if stem.suffix == ".slk" or args.output is None else stem
    outputs = {
        stem.with_name(f"{stem.name}.base.slk"): layers.base,
        stem.with_name(f"{stem.name}.enh.slk"): layers.enhancement,
    }
    write_all(outputs, mode=PUBLIC_FILE)
    pixels = image.shape[0] * image.shape[1]
    for path, data in outputs.items():
        print(f"{path}  {len(data)} bytes  {8 * len(data) / pixels:.4f} bpp")
    return 0


def run_decode(args: argparse.Namespace) -> int:
    """Write the decoded image, or nothing."""
    from secondlook.cloud.workers.postfilter import load_postfilter
    from secondlook.shared.codec import codec_of, load_codec
    from secondlook.shared.layers import Layers

    if len(args.key) > 2:
        raise ConfigError("--key takes the base layer of a key and at most its enhancement")
    base = read_layer(args.base)
    key = [read_layer(path) for path in args.key]
    codec = load_codec(args.model, device=args.device) if args.model else codec_of(base, device=args.device)
    if args.enhancement is None:
        image = codec.decode_base(base, key=key[0] if key else None)
    else:
        if len(key) == 1:
            raise ConfigError("the enhancement of a delta needs both layers of its key: --key BASE ENH")
        enhancement = read_layer(args.enhancement)
        image = codec.decode_enhanced(base, enhancement, key=Layers(*key) if key else None)
    if args.postfilter:
        image = load_postfilter(args.postfilter, device=args.device).apply(image)
    write_image(args.output, image)
    print(f"{args.output}  {image.shape[1]}x{image.shape[0]}")
    return 0


def run_inspect(args: argparse.Namespace) -> int:
    """Print every header field, and the payload's length."""
    from secondlook.shared.bitstream import parse

    bitstream = parse(read_layer(args.file))
    names = [field.name for field in dataclasses.fields(bitstream) if field.name != "family_name"]
    fields = {name: _plain(getattr(bitstream, name)) for name in names} | {"codec": bitstream.family}
    if args.json:
        print(json.dumps(fields, indent=2))
    else:
        width = max(map(len, fields))
        for name, value in fields.items():
            print(f"{name:<{width}}  {value}")
    return 0


def read_layer(path: Path) -> bytes:
    """The bytes of a .slk file. Raises SourceNotFound or SourceUnreadable."""
    try:
        return path.read_bytes()
    except FileNotFoundError as cause:
        raise SourceNotFound(f"no such file: {path}") from cause
    except OSError as cause:
        raise SourceUnreadable(f"cannot read {path}: {cause.strerror}") from cause


def read_image(path: Path) -> U8Image:
    """An image file as uint8 (height, width, 3) RGB. Raises SourceError."""
    from secondlook.shared.pictures import read_picture

    return read_picture(path).image


def write_image(path: Path, image: U8Image) -> None:
    """Write an RGB image in the format its name asks for, whole or not at all."""
    import cv2

    from secondlook.shared.files import PUBLIC_FILE, write_atomically

    try:
        _, data = cv2.imencode(path.suffix or ".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    except cv2.error as cause:
        raise ConfigError(f"no image format is known by the name {path.suffix}") from cause
    write_atomically(path, data.tobytes(), mode=PUBLIC_FILE)


def _plain(value: Any) -> Any:
    """A header field as something JSON can hold."""
    if isinstance(value, enum.Enum):
        return value.name.lower()
    if isinstance(value, bytes):
        return value.hex() if len(value) <= 32 else f"{len(value)} bytes"
    return value
