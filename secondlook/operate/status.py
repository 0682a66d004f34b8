"""`secondlook status`: cameras, queue, workers, reviews, disk and what is wrong, at a glance or live."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from secondlook.operate.places import Places, add_place_flags, find_places
from secondlook.shared.commands import Subparsers
from secondlook.shared.conditions import WatchConfig, conditions, judge, shown
from secondlook.shared.errors import SecondlookError

_FRESH_SECONDS = 10.0  # a status file that is older is of an agent that hangs or has ended
_CLEAR = "\x1b[H\x1b[2J"


def register(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "status",
        help="show cameras, queue, workers, reviews and disk, and what is wrong",
        description="Show how a site does: cameras, queue, workers, reviews, disk, and every condition that holds, "
        "with what helps. The exit status is 0 where nothing is wrong, 1 where something is.",
    )
    add_place_flags(parser)
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--watch", action="store_true", help="show it anew every few seconds, until Ctrl-C")
    parser.add_argument(
        "--interval", type=float, default=2.0, metavar="SECONDS", help="of --watch (default %(default)g)"
    )
    parser.add_argument("--no-station", action="store_true", help="do not ask whether the station lives")
    parser.set_defaults(run=run, extra="edge")


def run(args: argparse.Namespace) -> int:
    """Print the status, once or for ever. Returns 1 when something is wrong."""
    places = find_places(args)
    while True:
        status = gather(places, with_station=not args.no_station)
        text = json.dumps(status) if args.json else "\n".join(table(status))
        print(f"{_CLEAR if args.watch and not args.json else ''}{text}", flush=True)
        if not args.watch:
            return 1 if status["conditions"] else 0
        time.sleep(max(0.2, args.interval))


def gather(places: Places, *, with_station: bool = True) -> dict[str, Any]:
    """All that can be learned now, as plain values."""
    now = time.time()
    status: dict[str, Any] = {
        "time": now,
        "gateway": None,
        "reviews": None,
        "disks": {},
        "agents": [],
        "conditions": [],
    }
    if places.cloud is not None:
        _gather_cloud(places, status, now, with_station=with_station)
    for _, config in places.edges:
        _gather_agent(config.edge_id, config.data_dir, config.watch, status, now)
    seen: dict[tuple[str, str], dict[str, Any]] = {}
    for one in status["conditions"]:
        seen.setdefault((one["name"], one["subject"]), one)  # gateway and agent may tell of the same
    status["conditions"] = list(seen.values())
    if places.cloud is None and not places.edges:
        status["note"] = (
            "no cloud.toml or edge.toml here or in /etc/secondlook: name one with --config or --edge"
        )
    return status


def _gather_cloud(places: Places, status: dict[str, Any], now: float, *, with_station: bool) -> None:
    from secondlook.operate.cloudside import ask_gateway, station_answer

    config = places.cloud
    assert config is not None
    figures: list[tuple[str, str, float | None]] = []
    try:
        status["gateway"] = ask_gateway(config)
    except SecondlookError as error:
        status["gateway_error"] = str(error)
        figures.append(("gateway-away", config.broker.address, 1.0))
    else:
        status["conditions"] += status["gateway"].get("conditions", ())
    _gather_reviews(config, status, figures)
    for folder in {config.data_dir, Path(config.blobs_url)}:
        if "://" not in str(folder) and folder.exists():
            free = shutil.disk_usage(folder).free
            status["disks"][str(folder)] = free
            figures.append(("disk-low", str(folder), float(free)))
    figures += _retention_figures(config, status, now)
    if with_station:
        wrong = station_answer(config)
        status["station"] = wrong or "live"
        figures.append(("station-away", f"port {config.station.port}", 0.0 if wrong is None else 1.0))
    told = {(one["name"], one["subject"]) for one in status["conditions"]}
    found = judge(conditions(config.watch), figures, now)
    status["conditions"] += [one.as_dict() for one in found if (one.name, one.subject) not in told]


def _gather_reviews(
    config: Any, status: dict[str, Any], figures: list[tuple[str, str, float | None]]
) -> None:
    from secondlook.cloud.catalogue.figures import review_figures
    from secondlook.cloud.catalogue.migrate import current_schema
    from secondlook.cloud.catalogue.store import Catalogue
    from secondlook.cloud.storage.sql import named_errors, open_engine
    from secondlook.operate.cloudside import sqlite_path

    path = sqlite_path(config.catalogue_url)
    if path is not None and not path.exists():
        return
    try:
        # Not `open_catalogue`, which would bring its schema up to date.
        engine = open_engine(config.catalogue_url, "catalogue")
        try:
            with named_errors(engine, "catalogue"):
                missing = current_schema(engine).missing
            if missing:
                status["reviews_error"] = (
                    f"{len(missing)} migrations are missing: secondlook catalogue upgrade"
                )
                return
            reviews = review_figures(Catalogue(engine), now_ns=time.time_ns())
        finally:
            engine.dispose()
    except SecondlookError as error:
        status["reviews_error"] = str(error)
        return
    status["reviews"] = {
        "by_state": reviews.by_state,
        "open": reviews.open,
        "oldest_seconds": reviews.unrefined_seconds,
    }
    figures += [
        (name, subject, value)
        for name, values in reviews.figures(config.policy).items()
        for subject, value in values.items()
    ]


def _retention_figures(
    config: Any, status: dict[str, Any], now: float
) -> Iterator[tuple[str, str, float | None]]:
    """How many intervals late retention is, where it ever ran."""
    try:
        last = json.loads((config.data_dir / "retention.json").read_text())
        finished = float(last["at"]) + float(last["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    interval = max(10.0, config.retention.interval_seconds)
    status["retention_seconds_ago"] = now - finished
    yield "retention-late", "retention", (now - finished) / interval


def _gather_agent(
    edge_id: str, data_dir: Path, watch: WatchConfig, status: dict[str, Any], now: float
) -> None:
    from secondlook.operate.edgeside import is_running, read_status

    told = read_status(data_dir)
    running = is_running(data_dir)
    agent = {"edge_id": edge_id, "data_dir": str(data_dir), "running": running, "status": told}
    status["agents"].append(agent)
    fresh = told is not None and told["age_seconds"] < _FRESH_SECONDS
    if told is not None and running and fresh:
        status["conditions"] += told.get("conditions", ())
    elif told is not None:
        age = max(told["age_seconds"], 20.0)
        status["conditions"] += [
            one.as_dict() for one in judge(conditions(watch), [("camera-away", edge_id, age)], now)
        ]
    if data_dir.exists():
        status["disks"][str(data_dir)] = shutil.disk_usage(data_dir).free


def table(status: Mapping[str, Any]) -> list[str]:
    """The status for a terminal: first what is wrong, then the parts."""
    shown_time = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(status["time"]))
    wrong = status["conditions"]
    out = [f"{shown_time} UTC   {f'{len(wrong)} things are wrong' if wrong else 'nothing is wrong'}"]
    if "note" in status:
        out.append(status["note"])
    for one in wrong:
        lasts = shown(max(0.0, status["time"] - one["since"]), "seconds")
        out += [f"  ! {one['name']}, for {lasts}: {one['text']}", f"      {one['cure']}"]
    for part in (_cameras, _queue, _workers, _reviews, _agents, _rest):
        lines = part(status)
        out += ["", *lines] if lines else []
    return out


def _cameras(status: Mapping[str, Any]) -> list[str]:
    gateway = status["gateway"]
    if gateway is None:
        return []
    rows = [("cameras", "name", "link", "heard", "frame", "waits there", "clock", "software")]
    for one in gateway["edges"]:
        rows.append(
            (
                one["edge_id"],
                one["camera"][:24],
                "+".join(one["channels"]) or "away",
                _ago(one.get("heard_at"), gateway["now"]),
                _ago(one.get("delivered_at"), gateway["now"]),
                _spooled(one.get("report"), gateway["now"]),
                "?" if one["clock_offset_seconds"] is None else f"{one['clock_offset_seconds']:+.1f} s",
                one["software"],
            )
        )
    return _aligned(rows)


def _queue(status: Mapping[str, Any]) -> list[str]:
    gateway = status["gateway"]
    if gateway is None:
        return [f"gateway  {status['gateway_error']}"] if "gateway_error" in status else []
    oldest = shown(gateway["oldest_age_seconds"], "seconds") if gateway["depth"] else "none"
    size, received = shown(gateway["depth_bytes"], "bytes"), gateway["received"]
    return [
        f"queue    {gateway['depth']} frames, {size}, oldest {oldest}, {gateway['dead']} dead",
        f"ever     {received} received, {gateway['redelivered']} repeated, {gateway['tombstones']} under tombstones",
    ]


def _workers(status: Mapping[str, Any]) -> list[str]:
    gateway = status["gateway"]
    if gateway is None:
        return []
    rows = [("workers", "name", "progress", "done", "device", "waits for")]
    for one in gateway.get("workers", ()):
        progress = f"{shown(one['silent_seconds'], 'seconds')} ago"
        rows.append(
            (one["role"], one["name"], progress, str(one["done"]), one["device"], one["waits"] or "-")
        )
    return _aligned(rows) if len(rows) > 1 else ["workers  none is heard"]


def _reviews(status: Mapping[str, Any]) -> list[str]:
    if "reviews_error" in status:
        return [f"reviews  {status['reviews_error']}"]
    reviews = status["reviews"]
    if reviews is None:
        return []
    states = ", ".join(f"{many} {state}" for state, many in sorted(reviews["by_state"].items())) or "none"
    oldest = f"; the oldest waits for a refiner for {shown(reviews['oldest_seconds'], 'seconds')}"
    return [f"reviews  {states}{oldest if reviews['oldest_seconds'] else ''}"]


def _agents(status: Mapping[str, Any]) -> list[str]:
    if not status["agents"]:
        return []
    rows = [("agents", "running", "source", "link", "captured", "waiting", "oldest", "spool")]
    for one in status["agents"]:
        told = one["status"]
        if told is None:
            rows.append((one["edge_id"], "no", "-", "-", "-", "-", "-", "-"))
            continue
        boots = told["all_boots"] or {}
        rows.append(
            (
                one["edge_id"],
                "yes" if one["running"] else "no",
                told["source"],
                told["link"],
                str(told["captured"]),
                str(boots.get("undelivered", "?")),
                str(boots.get("oldest_undelivered") or "-"),
                shown(told["spool_bytes"], "bytes"),
            )
        )
    return _aligned(rows)


def _rest(status: Mapping[str, Any]) -> list[str]:
    out = [
        f"disk     {shown(free, 'bytes')} free at {folder}"
        for folder, free in sorted(status["disks"].items())
    ]
    if "station" in status:
        out.append(f"station  {status['station']}")
    if "retention_seconds_ago" in status:
        out.append(f"retention  ran {shown(status['retention_seconds_ago'], 'seconds')} ago")
    return out


def _spooled(report: Mapping[str, Any] | None, now: float) -> str:
    """How old the oldest frame on a camera host is that is not delivered, and how many there are, as it told."""
    if report is None:
        return "?"
    if report["oldest_at"] is None:
        return "-"
    return f"{shown(max(0.0, now - report['oldest_at']), 'seconds')}, {report['waiting']}"


def _ago(instant: float | None, now: float) -> str:
    return "-" if instant is None else f"{shown(max(0.0, now - instant), 'seconds')} ago"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
