"""The commands `secondlook webhooks`: how receivers stand, and the messages that they would not take."""

from __future__ import annotations

import argparse
import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from secondlook.cloud.admin.store import add_store_flags, store_config

if TYPE_CHECKING:
    from secondlook.cloud.catalogue import Catalogue


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `webhooks` to the `secondlook` parser."""
    webhooks = subparsers.add_parser(
        "webhooks",
        help="look after messages to other systems",
        description="Look after the messages that `secondlook notify` sends to webhooks and brokers.",
    )
    actions = webhooks.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    listing = actions.add_parser(
        "list",
        help="how receivers stand",
        description="Print one line a receiver: messages that wait, messages that were given up, the last error.",
    )
    dead = actions.add_parser(
        "dead",
        help="what was given up",
        description="List messages that were given up, the newest first, as lines of JSON.",
    )
    dead.add_argument("--receiver", metavar="NAME", help="of one receiver")
    dead.add_argument("-n", type=int, default=50, metavar="N", help="how many (default %(default)s)")
    retry = actions.add_parser(
        "retry", help="send again", description="Have messages that were given up sent again."
    )
    drop = actions.add_parser(
        "drop", help="throw away", description="Throw messages that were given up away."
    )
    for parser in (retry, drop):
        parser.add_argument(
            "ids", type=int, nargs="*", metavar="NUMBER", help="as `webhooks dead` shows them"
        )
        parser.add_argument("--all", action="store_true", help="all of them")
    for parser, run in ((listing, run_list), (dead, run_dead), (retry, run_retry), (drop, run_drop)):
        add_store_flags(parser)
        parser.set_defaults(run=run, extra="cloud")


def run_list(args: argparse.Namespace) -> int:
    """Print one line a receiver."""
    from secondlook.cloud.catalogue.deliveries import standings

    catalogue = _catalogue(args)
    for one in standings(catalogue):
        print(f"{one.sink:20}  {one.waiting:6} waiting  {one.dead:6} dead  {one.last_error or ''}".rstrip())
    catalogue.close()
    return 0


def run_dead(args: argparse.Namespace) -> int:
    """Print one line of JSON a message."""
    from secondlook.cloud.catalogue.deliveries import list_dead

    catalogue = _catalogue(args)
    for one in list_dead(catalogue, sink=args.receiver, limit=args.n):
        given_up = datetime.fromtimestamp((one.dead_ns or 0) / 1e9, UTC).isoformat(timespec="seconds")
        line = {
            "number": one.id,
            "receiver": one.sink,
            "id": one.message.uid,
            "type": one.message.kind,
            "given_up": given_up,
            "attempts": one.attempts,
            "error": one.last_error,
            "message": json.loads(one.message.body),
        }
        print(json.dumps(line))
    catalogue.close()
    return 0


def run_retry(args: argparse.Namespace) -> int:
    """Have messages sent again."""
    from secondlook.cloud.catalogue.deliveries import revive

    chosen, catalogue = _chosen(args), _catalogue(args)
    count = revive(catalogue, chosen, now_ns=time.time_ns())
    print(f"{count} will be sent again")
    catalogue.close()
    return 0


def run_drop(args: argparse.Namespace) -> int:
    """Throw messages away."""
    from secondlook.cloud.catalogue.deliveries import drop_dead

    chosen, catalogue = _chosen(args), _catalogue(args)
    print(f"{drop_dead(catalogue, chosen)} thrown away")
    catalogue.close()
    return 0


def _chosen(args: argparse.Namespace) -> list[int] | None:
    """Raises ConfigError where it is not clear which are meant."""
    from secondlook.shared.errors import ConfigError

    if bool(args.ids) == args.all:
        raise ConfigError("name the numbers of messages, or --all")
    ids: list[int] = args.ids
    return None if args.all else ids


def _catalogue(args: argparse.Namespace) -> Catalogue:
    from secondlook.cloud.catalogue import open_catalogue

    return open_catalogue(store_config(args).catalogue_url)
