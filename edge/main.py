"""`secondlook edge`: reads settings and flags, and runs the agent until it is done or told to stop."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from secondlook.shared.errors import ConfigError
from secondlook.shared.flags import Flag, add_flags
from secondlook.shared.quality import parse_quality

if TYPE_CHECKING:
    from secondlook.edge.config import EdgeConfig
    from secondlook.edge.site import Given, Site

_FLAGS: tuple[Flag, ...] = (
    (
        "--source",
        "source.address",
        str,
        "video file, image or folder, USB index, rtsp: or http: address, demo:",
    ),
    ("--fps", "source.fps", float, "take this many frames a second of the source's own time"),
    ("--frames", "source.frames", int, "stop capturing after this many frames"),
    ("--resize", "source.resize", str, "longest side in pixels, or WIDTHxHEIGHT"),
    ("--transport", "source.transport", str, "of RTSP: auto (TCP, then UDP), tcp or udp"),
    (
        "--source-credentials",
        "source.credentials_file",
        Path,
        "private file with USER:PASSWORD of the source",
    ),
    ("--record-frames", "source.record_dir", Path, "keep every captured frame as PNG in this folder"),
    ("--edge-id", "edge_id", str, "name of this host: a-z, 0-9 and hyphen"),
    ("--camera", "camera", str, "name of the camera, for people"),
    ("--data-dir", "data_dir", Path, "folder of the spool and status.json"),
    (
        "--linger-seconds",
        "linger_seconds",
        float,
        "with --exit-when-acknowledged: answer enhancement requests for this long before the end",
    ),
    ("--model", "codec.model", str, "codec: name of a model, or a model folder"),
    ("--base-quality", "codec.base_quality", parse_quality, "quality of the base layer, 0 to 63"),
    (
        "--quality",
        "codec.quality",
        parse_quality,
        "quality of both layers together, 0 to 63 or lambda-0.005, -0.010, -0.020, -0.030",
    ),
    ("--family", "codec.family", str, "what base layers are coded by: auto, lite (the model) or video"),
    ("--key-interval", "codec.key_interval", int, "one key frame in this many"),
    ("--threads", "codec.threads", int, "threads of the network, 0 = one per core"),
    ("--device", "codec.device", str, "where networks run: auto, cpu, cuda or cuda:N"),
    ("--gateway", "link.gateway", str, "address of the gateway, tcp://HOST:PORT"),
    ("--server-public-key", "link.server_public_key_file", Path, "file with the gateway's public key"),
    ("--secret-key", "link.secret_key_file", Path, "file with this host's key pair"),
    ("--health", "health.address", str, "HOST:PORT where /healthz and /readyz answer, by HTTP"),
    ("--metrics", "metrics.address", str, "HOST:PORT that serves /metrics, /healthz and /readyz, by HTTP"),
)
_DATA_FLAGS = ("--source", "--edge-id", "--data-dir")
_SOURCE_FLAGS = ("--source", "--resize", "--transport", "--source-credentials", "--edge-id")
_SWITCHES = (
    (
        "--from-start",
        "source.from_start",
        "read a file or folder from its start, also after an interrupted run",
    ),
    ("--realtime", "source.realtime", "play files and demo: at the speed of a clock"),
    ("--exit-when-acknowledged", "exit_when_acknowledged", "end when the source ended and all is safe"),
)


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    text = (
        "Capture, encode and deliver the frames of one camera, or of each [[camera]] table of the configuration, and "
        "answer requests for their enhancements."
    )
    parser = subparsers.add_parser("edge", help="run the agent of a camera host", description=text)
    add_flags(parser, _FLAGS, "secondlook.edge.config:EdgeConfig")
    for flag, setting, meaning in _SWITCHES:
        parser.add_argument(flag, dest=setting, action="store_true", default=None, help=meaning)
    parser.set_defaults(run=run)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action")
    _register_snapshot(actions)
    _register_looks(actions)


def _register_looks(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    status = _add_action(
        actions,
        "status",
        run_status,
        "print what each camera of this host does",
        "Print a row for each camera of this host: its state, source and link, what waits, and what is wrong with it.",
    )
    status.add_argument("--json", action="store_true", help="print all that is known, as JSON")
    pause = _add_action(
        actions,
        "pause",
        run_pause,
        "let a camera capture nothing for a while",
        "Let a camera of this host capture nothing; what waits is delivered. A running agent obeys within a second.",
    )
    pause.add_argument(
        "--for", dest="pause_for", type=parse_duration, metavar="TIME", help="so long: 90s, 30m, 8h, 2d"
    )
    resume = _add_action(
        actions,
        "resume",
        run_resume,
        "let a camera capture again",
        "Let a camera of this host capture again, after a pause.",
    )
    for parser in (pause, resume):
        parser.add_argument(
            "which", nargs="*", metavar="EDGE_ID", help="cameras of the configuration (default: all)"
        )


def _add_action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    help_text: str,
    text: str,
) -> argparse.ArgumentParser:
    """An action that takes the settings which say where a camera keeps its data."""
    parser = actions.add_parser(name, help=help_text, description=text)
    flags = [flag for flag in _FLAGS if flag[0] in _DATA_FLAGS]
    add_flags(parser, flags, "secondlook.edge.config:EdgeConfig")
    _keep_what_stands_ahead(parser)
    parser.set_defaults(run=run)
    return parser


def _keep_what_stands_ahead(parser: argparse.ArgumentParser) -> None:
    """Flags ahead of the action hold where it has none of its own."""
    for action in parser._actions:
        if action.dest != "help":
            action.default = argparse.SUPPRESS


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def parse_duration(text: str) -> float:
    """Seconds of a length of time such as ``90s``, ``30m``, ``8h`` or ``2d``; the type of a flag."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no length of time such as 90s, 30m, 8h or 2d")
    return float(found[1]) * _UNITS[found[2]]


def _register_snapshot(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = (
        "Write one picture of the source with the polygons of the settings drawn on it: privacy masks (filled) in red, "
        "ignored regions in orange, regions of interest in green."
    )
    parser = actions.add_parser(
        "snapshot", help="write a picture with the polygons drawn on it", description=text
    )
    add_flags(
        parser, [flag for flag in _FLAGS if flag[0] in _SOURCE_FLAGS], "secondlook.edge.config:EdgeConfig"
    )
    _keep_what_stands_ahead(parser)
    parser.add_argument("out", type=Path, metavar="FILE", help="the picture: .png, .jpg or .webp")
    parser.add_argument("--see-through", action="store_true", help="draw privacy masks as outlines only")
    parser.set_defaults(run=run_snapshot)


def run_snapshot(args: argparse.Namespace) -> int:
    """Write a picture with the polygons. Returns 0."""
    from secondlook.edge.coding.classmasks import PrivacyMasks
    from secondlook.edge.coding.regions import Regions
    from secondlook.edge.coding.snapshot import check_ending, first_frame, write

    check_ending(args.out)
    config = _only_camera(_site(args), args)
    regions = Regions(config.regions)
    masks = None if args.see_through else PrivacyMasks.open(config, regions)
    frame = first_frame(config.source)
    write(args.out, frame, regions, masks)
    height, width = frame.image.shape[:2]
    print(f"{args.out}: {width}x{height}")
    return 0


def run_status(args: argparse.Namespace) -> int:
    """Print the cameras of this host. Returns 0, or 1 where one of them does not run as it should."""
    from secondlook.edge.status import camera_statuses, table

    now = time.time()
    statuses = camera_statuses(_site(args, credentials=False), now)
    if args.json:
        print(json.dumps(statuses, indent=1))
    else:
        print(table(statuses, now))
    return 0 if all(status["state"] in ("running", "paused", "done") for status in statuses) else 1


def run_pause(args: argparse.Namespace) -> int:
    """Pause cameras. Returns 0."""
    from secondlook.edge.pause import pause

    for config in _chosen(_site(args, credentials=False), args.which):
        pause(config.data_dir, time.time(), args.pause_for)
        print(f"{config.edge_id} is paused" + (f" for {args.pause_for:.0f} s" if args.pause_for else ""))
    return 0


def run_resume(args: argparse.Namespace) -> int:
    """End pauses. Returns 0."""
    from secondlook.edge.pause import resume

    for config in _chosen(_site(args, credentials=False), args.which):
        was_paused = resume(config.data_dir)
        print(f"{config.edge_id} goes on" if was_paused else f"{config.edge_id} was not paused")
    return 0


def run(args: argparse.Namespace) -> int:
    """Run the agent. Returns 0 when it ended as asked."""
    # Imported here so that `--help` does not wait for ONNX Runtime, OpenCV and ZeroMQ.
    from secondlook.edge.agent import Agent
    from secondlook.edge.fleet import Codecs, Fleet
    from secondlook.edge.memory import share_heaps
    from secondlook.shared.codec import load_codec
    from secondlook.shared.health import serve_health
    from secondlook.shared.inference import tell_providers
    from secondlook.shared.logs import set_up_logs
    from secondlook.shared.reload import ask_for_restart
    from secondlook.shared.stop import SignalEvent, Stop
    from secondlook.shared.tracing import set_up_tracing
    from secondlook.shared.watchdog import Watchdog

    site = _site(args)
    set_up_logs(site.host.log, "edge", threads=site.has_tables)  # which bear the edge id of a camera
    set_up_tracing(site.host.tracing, "edge", os.environ)
    stop = Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    watchdog = Watchdog.from_environment(os.environ)
    with serve_health(site.host.health, watchdog, telling=site.host.metrics):
        if site.has_tables:
            share_heaps()
            reload = SignalEvent()
            signal.signal(signal.SIGHUP, lambda *_: reload.set())
            codecs = Codecs(lambda codec: load_codec(codec.model, threads=codec.threads, device=codec.device))
            Fleet(site, codecs, lambda: _site(args)).run(stop, reload, watchdog)
        else:
            ask_for_restart()
            config = site.host
            codec = load_codec(config.codec.model, threads=config.codec.threads, device=config.codec.device)
            tell_providers()
            Agent(config, codec).run(stop, watchdog)
        watchdog.stopping()
    return 0


def _chosen(site: Site, names: list[str]) -> list[EdgeConfig]:
    """The cameras of these edge ids, or all. Raises ConfigError."""
    known = {config.edge_id: config for config in site.cameras}
    for name in names:
        if name not in known:
            raise ConfigError(f"there is no camera {name} (there are: {', '.join(known)})")
    return [known[name] for name in names or known]


def _only_camera(site: Site, args: argparse.Namespace) -> EdgeConfig:
    """The camera that is meant, where the configuration has several: that of `--edge-id`. Raises ConfigError."""
    edge_id = getattr(args, "edge_id", None)
    if not site.has_tables:
        return site.host
    if edge_id is None:
        raise ConfigError(
            f"which camera? --edge-id is one of {', '.join(config.edge_id for config in site.cameras)}"
        )
    return _chosen(site, [edge_id])[0]


def _site(args: argparse.Namespace, *, credentials: bool = True) -> Site:
    """The settings of a command line, with the credentials of the sources. Raises ConfigError, SecretExposed."""
    from secondlook.edge.site import read_site
    from secondlook.edge.source.credentials import CURE
    from secondlook.shared.redact import refuse_on_command_line

    refuse_on_command_line("--source", getattr(args, "source.address"), CURE)
    # Of a single camera; in an action it says which.
    names = ("edge_id",) if args.action == "snapshot" else ()
    return read_site(args.config, _given(args), names=names, credentials=credentials)


def _given(args: argparse.Namespace) -> Given:
    from secondlook.edge.site import Given

    names = {setting: flag for flag, setting, *_ in _FLAGS}
    names |= {setting: flag for flag, setting, _ in _SWITCHES}
    return Given({setting: getattr(args, setting, None) for setting in names}, names, os.environ)
