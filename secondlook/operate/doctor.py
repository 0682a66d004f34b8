"""`secondlook doctor`: looks at everything that a camera host or a site's machine needs, and says what helps."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict

from secondlook.operate.findings import Finding, fault, lines
from secondlook.operate.host import check_clock, check_heat, check_packages
from secondlook.operate.places import Places, add_place_flags, find_places
from secondlook.shared.commands import Subparsers
from secondlook.shared.errors import SecondlookError


def register(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "doctor",
        help="find what is wrong on this machine, and say what helps",
        description="Check packages, models, devices, cameras, disk, clock, ports, keys, the link and databases; each "
        "fault comes with its cure. The exit status is 0 where there is no fault, 1 where there is one.",
    )
    add_place_flags(parser)
    parser.add_argument("--json", action="store_true", help="print findings as JSON")
    parser.add_argument(
        "--no-rate", action="store_true", help="do not measure the uplink's rate, which costs up to 2 s of it"
    )
    parser.set_defaults(run=run, extra="edge")


def run(args: argparse.Namespace) -> int:
    """Print findings. Returns 1 when there is a fault."""
    try:
        found = list(findings(find_places(args), with_rate=not args.no_rate))
    except SecondlookError as error:
        found = [fault("settings", str(error), "`secondlook config check` names every setting")]
    counts = Counter(one.level for one in found)
    if args.json:
        print(json.dumps({"findings": [asdict(one) for one in found], "counts": dict(counts)}, indent=1))
    else:
        print("\n".join(lines(found)))
        print(f"{counts['fault']} faults, {counts['warning']} warnings, {counts['ok']} checks went well")
    return 1 if counts["fault"] else 0


def findings(places: Places, *, with_rate: bool) -> Iterator[Finding]:
    """All that can be said of the roles whose settings were found."""
    extras = ["edge"] if places.edges else []
    if places.cloud is not None:
        extras.append("cloud")
        if places.cloud.queue is not None or "://" in places.cloud.blobs_url:
            extras.append("scale")
    packages = list(check_packages(extras or ["edge"]))
    yield from packages
    yield from check_clock()
    yield from check_heat()
    if any(one.level == "fault" for one in packages):
        return  # what follows would fail over them
    if places.cloud is not None and places.cloud_file is not None:
        from secondlook.operate.cloudside import check_cloud

        yield from check_cloud(places.cloud_file, places.cloud)
    if places.edges:
        from secondlook.operate.edgeside import check_edge

        for file, config in places.edges:
            yield from check_edge(file, config, with_rate=with_rate)
