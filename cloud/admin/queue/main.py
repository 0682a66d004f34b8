"""The commands `secondlook queue dead`: frames that were given up, shown, leased again or thrown away.

They ask a running gateway, as a worker does, and so work with every queue. Beyond this machine they need a worker's
key.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from secondlook.cloud.workers.broker_client import BrokerClient

_PAGE = 500  # items of one call
_BROKER_FLAGS = (
    ("--gateway", "address", str, "where the gateway serves workers, tcp://HOST:PORT"),
    ("--server-public-key", "server_public_key_file", Path, "file with the gateway's public key"),
    ("--secret-key", "secret_key_file", Path, "file with a worker's key pair"),
)


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `queue` to the `secondlook` parser."""
    queue = subparsers.add_parser(
        "queue",
        help="look after the queue of a gateway",
        description="Look after the queue of a running gateway.",
    )
    parts = queue.add_subparsers(title="parts", metavar="PART", dest="part", required=True)
    dead = parts.add_parser(
        "dead",
        help="frames that were given up",
        description="Frames that were given up after too many attempts, in a dead-letter list of bounded size.",
    )
    actions = dead.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    listing = actions.add_parser(
        "list", help="list the newest", description="List dead frames, the newest first."
    )
    listing.add_argument(
        "-n", type=_count, default=50, metavar="N", help=f"how many, 1 to {_PAGE} (default %(default)s)"
    )
    show = actions.add_parser(
        "show", help="show one", description="Show all that is known of one dead frame."
    )
    show.add_argument("id", type=int, metavar="NUMBER", help="as `queue dead list` shows it")
    requeue = actions.add_parser(
        "requeue", help="try again", description="Give dead frames to workers again, with all their attempts."
    )
    purge = actions.add_parser(
        "purge",
        help="throw away",
        description="Remove dead frames for good. The catalogue hears of each as of a frame that was dropped.",
    )
    for parser in (requeue, purge):
        parser.add_argument(
            "ids", type=int, nargs="*", metavar="NUMBER", help="as `queue dead list` shows them"
        )
        parser.add_argument("--all", action="store_true", help="all that are dead now")
    for parser, run in ((listing, run_list), (show, run_show), (requeue, run_requeue), (purge, run_purge)):
        parser.add_argument("--config", type=Path, metavar="FILE", help="settings, TOML; flags win over them")
        for flag, setting, kind, meaning in _BROKER_FLAGS:
            parser.add_argument(
                flag, dest=setting, type=kind, help=meaning, metavar=flag.rpartition("-")[2].upper()
            )
        parser.set_defaults(run=run, extra="cloud")


def run_list(args: argparse.Namespace) -> int:
    """Print one line a dead frame: number, time of death, camera host, boot, sequence, bytes, attempts, reason."""
    with _broker(args) as broker:
        for dead in broker.dead(args.n):
            died = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(dead.died_at))
            frame = f"{dead.edge_id} {dead.boot_id} {dead.seq}"
            why = _printable(dead.why)
            print(f"{dead.id}  {died} UTC  {frame}  {dead.size_bytes} bytes  {dead.attempts} attempts  {why}")
    return 0


def run_show(args: argparse.Namespace) -> int:
    """Print one line a field."""
    with _broker(args) as broker:
        for name, value in broker.dead_item(args.id).items():
            print(f"{name}: {_printable(str(value))}")
    return 0


def run_requeue(args: argparse.Namespace) -> int:
    """Print how many are leased again."""
    with _broker(args) as broker:
        print(f"{_change(args, broker, broker.requeue)} requeued")
    return 0


def run_purge(args: argparse.Namespace) -> int:
    """Print how many are gone."""
    with _broker(args) as broker:
        print(f"{_change(args, broker, broker.purge)} purged")
    return 0


def _change(args: argparse.Namespace, broker: BrokerClient, change: Callable[[list[int]], int]) -> int:
    """Change what was chosen, a call's worth at a time; returns how many there were. Raises ConfigError."""
    from secondlook.shared.errors import ConfigError

    if bool(args.ids) == args.all:
        raise ConfigError("give numbers of dead frames, or --all")
    if not args.all:
        return sum(change(args.ids[start : start + _PAGE]) for start in range(0, len(args.ids), _PAGE))
    changed, left = 0, int(broker.stats()["dead"])  # those that die meanwhile stay
    while left > 0 and (ids := [dead.id for dead in broker.dead(min(left, _PAGE))]):
        changed += change(ids)
        left -= len(ids)
    return changed


def _broker(args: argparse.Namespace) -> BrokerClient:
    from secondlook.cloud.config import CloudConfig
    from secondlook.cloud.workers.broker_client import BrokerClient
    from secondlook.shared.config import load

    given = {f"broker.{setting}": getattr(args, setting) for _, setting, *_ in _BROKER_FLAGS}
    return BrokerClient(load(args.config, CloudConfig, given).broker, "queue-admin")


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= _PAGE:
        raise argparse.ArgumentTypeError(f"must lie between 1 and {_PAGE}")
    return value
