"""`python -m tests.vectors` decodes the golden bitstreams; with `--write` it makes them again."""

from __future__ import annotations

import argparse
import sys

from secondlook.shared.codec import load_codec
from tests import vectors


def main() -> int:
    """0 when all vectors decode to what was kept, or were written."""
    parser = argparse.ArgumentParser(prog="python -m tests.vectors", description=__doc__)
    parser.add_argument("--write", action="store_true", help="make the vectors with the shipped model")
    arguments = parser.parse_args()
    found = vectors.write() if arguments.write else vectors.problems(load_codec(threads=1))
    for line in found:
        print(f"vectors: {line}", file=sys.stderr)
    if not found:
        print(f"vectors: {len(vectors.RECIPES)} {'written' if arguments.write else 'decode as kept'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
