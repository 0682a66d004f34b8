"""`python -m tests.vectors.coder` codes the symbols of the golden bitstreams again: the bytes must be the kept ones.

No float graph takes part, so the bytes are the same on every machine; what is under test is the range coder that is
installed, and `shared.entropy` around it. With `--bounds` it is the lowest and the highest version that pyproject.toml
allows, each fetched into a folder of its own.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
from packaging.requirements import Requirement

from secondlook.shared.bitstream import parse
from secondlook.shared.codec import LiteCodec, _grid, load_codec
from secondlook.shared.delta import unpack_map
from secondlook.shared.errors import SecondlookError
from tests.vectors import FOLDER, RECIPES, layers_of, problems

ROOT = Path(__file__).parents[2]


def coder_problems(codec: LiteCodec, folder: Path = FOLDER) -> list[str]:
    """A line for every layer whose symbols do not decode, or become other bytes when they are coded again."""
    return [line for name in RECIPES for line in _recoded(codec, name, folder)]


def _recoded(codec: LiteCodec, name: str, folder: Path) -> Iterator[str]:
    layers = layers_of(name, folder)
    base, enhancement = parse(layers.base), parse(layers.enhancement)
    rows, columns = _grid(base.width, base.height)
    keep, payload = np.ones((rows, columns), bool), base.payload
    if base.reference is not None:
        keep, payload = unpack_map(base.payload, rows, columns)
    try:
        z_base, y_base = codec._unpack(payload, "base", base.quality, keep, None)
        z_more, y_more = codec._unpack(enhancement.payload, "enhancement", enhancement.quality, keep, y_base)
    except SecondlookError as error:
        yield f"{name}: {type(error).__name__}: {error}"
        return
    scales = {part: codec._layers[part].scales for part in ("base", "enhancement")}
    coded = {
        "z_base": z_base[None],
        "symbols_base": y_base[None],
        "indexes_base": scales["base"].indexes(z_base, base.quality)[None],
        "z_enhancement": z_more[None],
        "symbols_enhancement": y_more[None],
        "indexes_enhancement": scales["enhancement"].indexes(z_more, enhancement.quality, y_base)[None],
    }
    packed = codec._pack(coded, base.quality, enhancement.quality, keep)
    for part, kept in (("base", payload), ("enhancement", enhancement.payload)):
        if packed[part][0] != bytes(kept):
            yield f"{name}: its {part} symbols become other bytes"


def bounds(project: Path = ROOT / "pyproject.toml") -> tuple[str, str]:
    """The lowest and the highest version of constriction that the project takes."""
    listed = tomllib.loads(project.read_text())["project"]["dependencies"]
    (needed,) = (one for one in map(Requirement, listed) if one.name == "constriction")
    ends = {one.operator: one.version for one in needed.specifier}
    if set(ends) != {">=", "<="}:
        raise ValueError(f"constriction is not bounded by two versions that can be tried: {needed}")
    return ends[">="], ends["<="]


def try_version(wanted: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run this module in a process that finds the wanted version of constriction, installed into `folder`."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    subprocess.run([*pip, f"constriction=={wanted}"], check=True)
    return subprocess.run(
        [sys.executable, "-m", "tests.vectors.coder"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )


def main() -> int:
    """0 when pictures and bytes are the kept ones."""
    parser = argparse.ArgumentParser(prog="python -m tests.vectors.coder", description=__doc__)
    parser.add_argument(
        "--bounds",
        action="store_true",
        help="with the lowest and the highest version allowed, from the package index",
    )
    if parser.parse_args().bounds:
        return max(map(_try_and_show, bounds()))
    codec = load_codec(threads=1)
    assert isinstance(codec, LiteCodec)
    found = [*problems(codec), *coder_problems(codec)]
    for line in found:
        print(f"vectors: {line}", file=sys.stderr)
    if not found:
        print(f"vectors: {len(RECIPES)} decode and code as kept with constriction {version('constriction')}")
    return 1 if found else 0


def _try_and_show(wanted: str) -> int:
    with tempfile.TemporaryDirectory() as folder:
        done = try_version(wanted, Path(folder))
    print(done.stdout + done.stderr, end="")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
