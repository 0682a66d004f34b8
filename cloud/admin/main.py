"""The commands `secondlook keys`: make, register, rotate and revoke the CURVE keys of machines."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

_HOUR = 3600.0


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `keys` to the `secondlook` parser."""
    keys = subparsers.add_parser(
        "keys",
        help="make and register CURVE keys",
        description="Make CURVE keys, and keep the gateway's registry of those that may connect.",
    )
    actions = keys.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    new = actions.add_parser(
        "new", help="make a key pair", description="Make a key pair: NAME.key and NAME.key_secret."
    )
    add = actions.add_parser(
        "add", help="register a public key", description="Register a public key that was made elsewhere."
    )
    listing = actions.add_parser(
        "list", help="list registered keys", description="List registered keys, revoked ones too."
    )
    revoke = actions.add_parser(
        "revoke",
        help="revoke keys",
        description="Revoke the keys of one name: the gateway cuts their connections within a second.",
    )
    revoke.add_argument(
        "--rotated", action="store_true", help="only those that were rotated out and still overlap"
    )
    nats = _nats(actions)
    rotate = _rotate(actions)
    for parser in (new, add, revoke, rotate, nats):
        parser.add_argument("name", metavar="NAME", help="edge id, or name of the worker or gateway")
    add.add_argument("public_key_file", type=Path, metavar="FILE", help="the file NAME.key")
    rotate.add_argument(
        "public_key_file",
        type=Path,
        metavar="FILE",
        nargs="?",
        help="public key that was made elsewhere; without it a pair is made here",
    )
    for parser in (new, rotate, nats):
        parser.add_argument(
            "--folder", type=Path, default=Path("keys"), help="where the files go (default %(default)s)"
        )
    for parser in (new, add):
        parser.add_argument(
            "--role",
            choices=("edge", "worker", "gateway"),
            default="edge",
            help="what the key is for; a gateway's is not registered (default %(default)s)",
        )
    runs = ((new, run_new), (add, run_add), (listing, run_list), (revoke, run_revoke), (rotate, run_rotate))
    for parser, run in runs:
        parser.add_argument(
            "--registry",
            type=Path,
            default=Path("keys/registry.json"),
            metavar="FILE",
            help="the registry (default %(default)s)",
        )
        parser.set_defaults(run=run, extra="cloud")


def _nats(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    nats = actions.add_parser(
        "nats",
        help="make an NKey for the queue",
        description="Make the NKey with which gateways log in at a NATS server: NAME.nkey, a secret, and"
        " NAME.nkey_public, which the server's configuration names.",
    )
    nats.set_defaults(run=run_nats, extra="scale")
    return nats


def _rotate(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    rotate = actions.add_parser(
        "rotate",
        help="give a name another key",
        description="Register another key for a name. The present one is refused once the overlap has passed.",
    )
    rotate.add_argument(
        "--overlap-hours",
        type=_hours,
        default=24.0,
        metavar="HOURS",
        help="how long both keys are good, 0 to cut the present one at once (default %(default)g)",
    )
    return rotate


def run_new(args: argparse.Namespace) -> int:
    """Make a key pair, and register it unless it is the gateway's own."""
    from secondlook.cloud.gateway.keys import Registry, Role, create_key_files, key_paths

    pair = create_key_files(args.folder, args.name)
    if args.role != Role.GATEWAY:
        Registry(args.registry).add(args.name, Role(args.role), pair.public.decode(), now=time.time())
    print(key_paths(args.folder, args.name)[1])
    return 0


def run_nats(args: argparse.Namespace) -> int:
    """Make an NKey."""
    from secondlook.cloud.gateway.keys import create_nkey_files

    print(create_nkey_files(args.folder, args.name))
    return 0


def run_add(args: argparse.Namespace) -> int:
    """Register a public key."""
    from secondlook.cloud.gateway.keys import Registry, Role
    from secondlook.shared.keyfiles import read_public_key

    key = read_public_key(args.public_key_file).decode()
    Registry(args.registry).add(args.name, Role(args.role), key, now=time.time())
    return 0


def run_list(args: argparse.Namespace) -> int:
    """Print one line a key."""
    from secondlook.cloud.gateway.keys import Registry

    now = time.time()
    for entry in Registry(args.registry).entries:
        state = "revoked" if entry.revoked else "active" if entry.in_force(now) else "ended"
        until = ""
        if entry.valid_until is not None:
            until = time.strftime("  until %Y-%m-%d %H:%M:%S UTC", time.gmtime(entry.valid_until))
        print(f"{entry.public_key}  {entry.role:7}  {state:7}  {entry.name}{until}")
    return 0


def run_revoke(args: argparse.Namespace) -> int:
    """Revoke the keys of one name."""
    from secondlook.cloud.gateway.keys import Registry

    Registry(args.registry).revoke(args.name, only_rotated=args.rotated, now=time.time())
    return 0


def run_rotate(args: argparse.Namespace) -> int:
    """Register another key for a name, made here unless a public key is given."""
    from secondlook.cloud.gateway.keys import Registry, create_key_files, key_paths
    from secondlook.shared.keyfiles import read_public_key

    registry = Registry(args.registry)
    secret_path = None
    if args.public_key_file is None:
        stem = registry.next_stem(args.name)
        secret_path = key_paths(args.folder, stem)[1]
        key = create_key_files(args.folder, args.name, stem).public.decode()
    else:
        key = read_public_key(args.public_key_file).decode()
    registry.rotate(args.name, key, overlap_seconds=args.overlap_hours * _HOUR, now=time.time())
    if secret_path is not None:
        print(secret_path)
    return 0


def _hours(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 24 * 365:
        raise argparse.ArgumentTypeError("must lie between 0 and a year")
    return value
