"""`python -m tests.mutations --streams N` hands the decoder N mutated streams; `--start` goes on where
a run ended or was stopped.

Children do the decoding, one at a time, so that a crash, a hang or an endless allocation ends a child and is told
with the number of its stream.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from typing import Any

from secondlook.shared.codec import load_codec
from tests.mutations import Tally, groups
from tests.mutations.child import attack_lite, run_chunk
from tests.mutations.groups import GroupAttack
from tests.mutations.streams import corpus

FAMILIES: dict[str, tuple[Any, Any]] = {
    "lite": (attack_lite, lambda: corpus(load_codec(threads=1))),
    "video": (GroupAttack, groups.corpus),
}
CHUNK = 10_000  # streams a child decodes
ENOUGH = 20  # failures to stop at


def main(argv: list[str] | None = None) -> int:
    """0 when every stream ended as it should."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__)
    parser.add_argument("--streams", type=int, default=1_000_000, help="how many (default %(default)s)")
    parser.add_argument("--start", type=int, default=0, help="number of the first (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of all mutations (default %(default)s)")
    parser.add_argument("--family", choices=FAMILIES, default="lite", help="codec (default %(default)s)")
    arguments = parser.parse_args(argv)
    make, streams = FAMILIES[arguments.family][0], FAMILIES[arguments.family][1]()
    total = Tally()
    try:
        _attack(make, streams, arguments.seed, arguments.start, arguments.start + arguments.streams, total)
    except KeyboardInterrupt:
        print("stopped: the streams since the last line are not counted")
    for outcome, count in total.outcomes.most_common():
        print(f"{count:9d}  {outcome}")
    print(f"slowest {total.slowest:.2f} s of CPU; memory at most {total.largest:.2f} of a good frame's")
    print(f"{len(total.failures)} streams went wrong (seed {arguments.seed})")
    return 1 if total.failures else 0


def _attack(make: Any, streams: list[Any], seed: int, start: int, end: int, total: Tally) -> None:
    number, began = start, time.monotonic()
    while number < end and len(total.failures) < ENOUGH:
        tally, number = run_chunk(streams, seed, number, min(CHUNK, end - number), make)
        total.add(tally)
        for line in tally.failures:
            print(line, flush=True)
        milliseconds = 1000 * (time.monotonic() - began) / (number - start)
        print(f"{number - start} streams, next is {number}; {milliseconds:.2f} ms a stream", flush=True)


if __name__ == "__main__":
    # Read by children: for products as small as these, threads take longer to wake than to compute.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    for stop in (signal.SIGINT, signal.SIGTERM):  # also in the background, where a shell ignores the first
        signal.signal(stop, signal.default_int_handler)
    sys.exit(main())
