"""`python -m tests.chaos --rounds N`: random faults against a running fleet, then an audit.

The last line on stdout is one JSON object; all else goes to stderr. Exit status 1 if anything was lost, counted
twice, or went wrong otherwise. `make chaos ROUNDS=N` calls this.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Collection
from contextlib import ExitStack, closing
from pathlib import Path

from sqlalchemy import func, select

from secondlook.cloud.catalogue import Review, ReviewState, open_catalogue
from secondlook.cloud.config import BrokerConfig
from secondlook.cloud.workers.broker_client import BrokerClient
from secondlook.shared.errors import LinkError
from tests.chaos.audit import Audit, audit
from tests.chaos.faults import KINDS, choose, inject, small_disks
from tests.chaos.fleet import BACKENDS, Fleet, backends
from tests.chaos.namespace import Namespace
from tests.chaos.settings import EDGES

_WARM_UP_SECONDS = 600.0  # a busy machine may take long
_STUCK_SECONDS = 120.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="of each backend (default %(default)s)")
    parser.add_argument("--seed", type=int, help="repeat the faults of an earlier run (default: a new one)")
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=["sqlite"])
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep logs and stores here")
    parser.add_argument(
        "--only", nargs="+", choices=KINDS, default=KINDS, help="kinds of faults (default: all)"
    )
    parser.add_argument(
        "--family", choices=("lite", "video"), default="lite", help="what base layers are coded by"
    )
    args = parser.parse_args()
    seed = random.randrange(2**32) if args.seed is None else args.seed
    say(f"seed {seed}")
    missing = set(args.backends) - set(backends())
    if missing:
        parser.error(f"not installed here: {', '.join(missing)}")
    results = []
    for backend in args.backends:
        with tempfile.TemporaryDirectory(prefix="chaos-") as name:
            asked = args.only, args.family
            results.append(storm(Path(name), backend, args.rounds, random.Random(seed), args.keep, *asked))
    figures = {
        "rounds": args.rounds * len(results),
        "frames": sum(result.frames for result in results),
        "lost": sum(len(result.lost) for result in results),
        "duplicated": sum(len(result.duplicated) for result in results),
        "tombstones": sum(result.tombstones for result in results),
        "backends": args.backends,
    }
    sys.stdout.write(json.dumps(figures) + "\n")
    return 1 if any(result.lost or result.duplicated or result.problems for result in results) else 0


def storm(
    folder: Path,
    backend: str,
    rounds: int,
    rng: random.Random,
    keep: Path | None,
    only: Collection[str] = KINDS,
    family: str = "lite",
) -> Audit:
    """All rounds against one fleet, and what the audit found."""
    with small_disks(folder) as disks:
        if not disks:
            say("small file systems cannot be mounted here: no full disks")
        fleet = Fleet(folder, folder / "cloud", {name: folder / name for name in EDGES}, backend, family)
        cables = all(isinstance(link, Namespace) for link in fleet.links.values())
        say(f"{backend}: camera hosts in {'network namespaces' if cables else 'one network, behind proxies'}")
        try:
            fleet.start()
            _warm_up(fleet)
            if fleet.problems:
                raise SystemExit("\n".join(fleet.problems))
            for number in range(rounds):
                _round(number, fleet, rng, disks=disks, only=only)
            _settle(fleet)
            found = audit(fleet.catalogue_url, fleet.blobs_url, fleet.spools)
        finally:
            fleet.close()
        found.problems += fleet.problems
        for text in [
            *found.problems,
            *(f"lost {i}" for i in found.lost),
            *(f"twice {i}" for i in found.duplicated),
        ]:
            say(f"{backend}: {text}")
        if keep is not None:
            sockets = shutil.ignore_patterns(".s.PGSQL.*")
            shutil.copytree(folder, keep / backend, ignore=sockets, dirs_exist_ok=True)
    return found


def _warm_up(fleet: Fleet) -> None:
    deadline = time.monotonic() + _WARM_UP_SECONDS
    while fleet.ready != fleet.names:
        fleet.tend()
        if fleet.problems or time.monotonic() > deadline:
            fleet.problems.append(f"did not start: {set(fleet.names) - set(fleet.ready)}")
            return
        time.sleep(0.2)


def _round(number: int, fleet: Fleet, rng: random.Random, *, disks: bool, only: Collection[str]) -> None:
    faults = [choose(rng, fleet, disks=disks, only=only)]
    if rng.random() < 0.25:
        second = choose(rng, fleet, disks=disks, only=only)
        if second.kind != faults[0].kind:
            faults.append(second)
    say(f"round {number + 1}: {' and '.join(map(str, faults))}")
    with ExitStack() as stack:
        for fault in faults:
            stack.enter_context(inject(fault, fleet, rng))
        end = time.monotonic() + max(fault.seconds for fault in faults)
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(0.2, left))
            fleet.tend()
    time.sleep(rng.uniform(0.0, 0.8))
    fleet.tend()
    fleet.excused -= set(fleet.ready)  # who has begun to start while a disk was full may end yet


def _settle(fleet: Fleet) -> None:
    """Let everything that is on its way arrive: from the spools, through the queue, to the reviews."""
    fleet.stop_capturing()
    before, moved = "", time.monotonic()
    while (still := _unfinished(fleet)) is not None:
        fleet.tend()
        if still != before:
            before, moved = still, time.monotonic()
        if time.monotonic() - moved > _STUCK_SECONDS:
            fleet.problems.append(f"did not come to rest: {still}")
            break
        time.sleep(0.5)
    time.sleep(5.0)  # workers bring tombstones to the catalogue every two seconds
    for name in reversed(fleet.names):
        if name != "database":  # the audit asks it
            fleet.retire(name)


def _unfinished(fleet: Fleet) -> str | None:
    """What is still on its way; None when nothing is."""
    for name, folder in fleet.spools.items():
        with closing(sqlite3.connect(folder / "spool.db")) as spool:
            (left,) = spool.execute(
                "SELECT (SELECT count(*) FROM frames WHERE safe = 0) + (SELECT count(*) FROM tombstones)"
            ).fetchone()
        if left or name not in fleet.ready:
            return f"{left} undelivered at {name}"
    try:
        with BrokerClient(BrokerConfig(address=fleet.broker_address(fleet.gateways[0])), "audit") as broker:
            depth = broker.stats()["depth"]
    except LinkError as error:
        return str(error)
    if depth:
        return f"{depth} frames in the queue"
    catalogue = open_catalogue(fleet.catalogue_url)
    try:
        with catalogue.reading() as session:
            still_open = Review.state.in_([ReviewState.DUE, ReviewState.LEASED])
            reviews = session.scalar(select(func.count()).select_from(Review).where(still_open))
    finally:
        catalogue.close()
    return f"{reviews} reviews open" if reviews else None


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
