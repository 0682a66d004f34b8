"""`python -m tests.vectors` decodes the golden bitstreams; with `--write` it makes them again."""

from __future__ import annotations

import argparse
import sys

from secondlook.shared.codec import load_codec
from tests import vectors
from tests.vectors import groups


def main() -> int:
    """0 when all vectors decode to what was kept, or were written."""
    parser = argparse.ArgumentParser(prog="python -m tests.vectors", description=__doc__)
    parser.add_argument(
        "--write",
        action="store_true",
        help="make them again with the shipped model; groups that are there stay",
    )
    arguments = parser.parse_args()
    if arguments.write:
        found = vectors.write() or groups.write()
    else:
        found = vectors.problems(load_codec(threads=1)) + groups.problems()
    for line in found:
        print(f"vectors: {line}", file=sys.stderr)
    if not found:
        count = len(vectors.RECIPES) + len(groups.RECIPES)
        print(f"vectors: {count} {'written' if arguments.write else 'decode as kept'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
