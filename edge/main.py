"""`secondlook edge`: reads settings and flags, and runs the agent until it is done or told to stop."""

from __future__ import annotations

import argparse
import os
import signal
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from secondlook.shared.flags import Flag, add_flags
from secondlook.shared.quality import parse_quality

if TYPE_CHECKING:
    from secondlook.edge.config import EdgeConfig

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
    ("--linger-seconds", "linger_seconds", float, "answer enhancement requests this long before that exit"),
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
    ("--metrics", "metrics.address", str, "HOST:PORT where /metrics answers, by HTTP, and they too"),
)
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
    text = "Capture, encode and deliver the frames of one camera, and answer requests for their enhancements."
    parser = subparsers.add_parser("edge", help="run the agent of a camera host", description=text)
    add_flags(parser, _FLAGS, "secondlook.edge.config:EdgeConfig")
    for flag, setting, meaning in _SWITCHES:
        parser.add_argument(flag, dest=setting, action="store_true", default=None, help=meaning)
    parser.set_defaults(run=run)
    _register_snapshot(parser)


def _register_snapshot(edge: argparse.ArgumentParser) -> None:
    actions = edge.add_subparsers(title="actions", metavar="ACTION", dest="action")
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
    for action in parser._actions:
        if action.dest != "help":
            action.default = argparse.SUPPRESS  # what stands ahead of the action holds
    parser.add_argument("out", type=Path, metavar="FILE", help="the picture: .png, .jpg or .webp")
    parser.add_argument("--see-through", action="store_true", help="draw privacy masks as outlines only")
    parser.set_defaults(run=run_snapshot)


def run_snapshot(args: argparse.Namespace) -> int:
    """Write a picture with the polygons. Returns 0."""
    from secondlook.edge.regions import Regions
    from secondlook.edge.snapshot import check_ending, first_frame, write

    check_ending(args.out)
    config = _config(args)
    regions = Regions(config.regions)
    frame = first_frame(config.source)
    write(args.out, frame, regions, see_through=args.see_through)
    height, width = frame.image.shape[:2]
    print(f"{args.out}: {width}x{height}")
    return 0


def run(args: argparse.Namespace) -> int:
    """Run the agent. Returns 0 when it ended as asked."""
    # Imported here so that `--help` does not wait for ONNX Runtime, OpenCV and ZeroMQ.
    from secondlook.edge.agent import Agent
    from secondlook.shared.codec import load_codec
    from secondlook.shared.health import serve_health
    from secondlook.shared.inference import tell_providers
    from secondlook.shared.logs import set_up_logs
    from secondlook.shared.watchdog import Watchdog

    config = _config(args)
    set_up_logs(config.log, "edge")
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    watchdog = Watchdog.from_environment(os.environ)
    with serve_health(config.health, watchdog, telling=config.metrics):
        codec = load_codec(config.codec.model, threads=config.codec.threads, device=config.codec.device)
        tell_providers()
        Agent(config, codec).run(stop, watchdog)
        watchdog.stopping()
    return 0


def _config(args: argparse.Namespace) -> EdgeConfig:
    """The settings of a command line, with the credentials of the source."""
    from secondlook.edge.config import EdgeConfig
    from secondlook.edge.credentials import CURE, with_credentials
    from secondlook.shared.config import EDGE_VARIABLES, load
    from secondlook.shared.redact import refuse_on_command_line

    refuse_on_command_line("--source", getattr(args, "source.address"), CURE)
    names = {setting: flag for flag, setting, *_ in _FLAGS}
    names |= {setting: flag for flag, setting, _ in _SWITCHES}
    config = load(
        args.config,
        EdgeConfig,
        {setting: getattr(args, setting) for setting in names},
        os.environ,
        variables=EDGE_VARIABLES,
        flag_names=names,
    )
    return replace(config, source=with_credentials(config.source, args.config, os.environ))
