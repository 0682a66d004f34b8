"""The commands `secondlook keys`: make, register, rotate and revoke the CURVE keys of machines."""

from __future__ import annotations

import argparse
import os
import pwd
import shutil
import stat
import sys
import time
from contextlib import ExitStack
from pathlib import Path

_HOUR = 3600.0
_SERVICE_USER = "secondlook"  # of the units in deploy/


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
    admit = actions.add_parser(
        "admit",
        help="let a revoked name in again",
        description="Let a name in again with the key that it had last: it was revoked, or has ended.",
    )
    nats = _nats(actions)
    rotate = _rotate(actions)
    _arguments(new, add, revoke, rotate, admit, nats)
    runs = (
        *((new, run_new), (add, run_add), (listing, run_list), (revoke, run_revoke), (rotate, run_rotate)),
        (admit, run_admit),
    )
    for parser, run in runs:
        parser.add_argument(
            "--registry",
            type=Path,
            default=Path("keys/registry.json"),
            metavar="FILE",
            help="the registry (default %(default)s)",
        )
        parser.set_defaults(run=run, extra="cloud")


def _arguments(
    new: argparse.ArgumentParser,
    add: argparse.ArgumentParser,
    revoke: argparse.ArgumentParser,
    rotate: argparse.ArgumentParser,
    admit: argparse.ArgumentParser,
    nats: argparse.ArgumentParser,
) -> None:
    """What the actions are told."""
    for parser in (new, add, revoke, rotate, admit, nats):
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
    for parser in (new, rotate):
        parser.add_argument(
            "--owner",
            metavar="USER",
            help="give the secret key to this user; as root, a gateway's or worker's goes to the user secondlook",
        )
    for parser in (new, add, rotate):
        parser.add_argument(
            "--role",
            choices=("edge", "worker", "gateway"),
            default=None if parser is rotate else "edge",
            help="what the key is for; a gateway's is not registered (default %(default)s)"
            if parser is not rotate
            else "gateway: rotate a gateway's own key; else the name keeps the role that it has",
        )


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
    steps = rotate.add_mutually_exclusive_group()
    steps.add_argument(
        "--finish",
        action="store_true",
        help="of a gateway: once all hosts and workers have the file with both keys, put the next one in its place",
    )
    steps.add_argument(
        "--drop-old",
        action="store_true",
        help="of a gateway: once it runs with the next key, forget the old one",
    )
    return rotate


def run_new(args: argparse.Namespace) -> int:
    """Make a key pair, and register it unless it is the gateway's own."""
    from secondlook.cloud.gateway.keys import Registry, Role, create_key_files, key_paths, remove_key_files

    now, stem = time.time(), args.name
    if args.role == Role.GATEWAY:
        create_key_files(args.folder, args.name)
    else:
        registry = Registry(args.registry)
        registry.check_room_for(args.name, now=now)
        if any(entry.name == args.name for entry in registry.entries):
            stem = registry.next_stem(
                args.name
            )  # of earlier ones, which were revoked, the files may be there
        pair = create_key_files(args.folder, args.name, stem)
        with ExitStack() as undo:
            undo.callback(remove_key_files, args.folder, stem)
            registry.add(args.name, Role(args.role), pair.public.decode(), now=now)
            undo.pop_all()
    _hand_over(key_paths(args.folder, stem)[1], args.owner, goes_elsewhere=args.role == Role.EDGE)
    return 0


def _hand_over(path: Path, owner: str | None, *, goes_elsewhere: bool) -> None:
    """Give a secret key file to the user of the service that reads it, and say whose it is. Raises ConfigError."""
    from secondlook.shared.errors import ConfigError

    if owner is None and os.geteuid() == 0 and not goes_elsewhere and _is_user(_SERVICE_USER):
        owner = _SERVICE_USER
    if owner is not None:
        try:
            shutil.chown(path, owner)
        except LookupError as error:
            raise ConfigError(f"--owner: there is no user {owner}; {path} is made and stays yours") from error
        except PermissionError as error:
            raise ConfigError(
                f"--owner: only root may give {path} to {owner}; it is made and stays yours"
            ) from error
    status = path.stat()
    try:
        name = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        name = str(status.st_uid)
    print(path)
    print(
        f"owner {name}, mode {stat.S_IMODE(status.st_mode):04o}: that user alone can use it", file=sys.stderr
    )


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


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
    from secondlook.cloud.gateway.keys import Registry, Role, create_key_files, key_paths, remove_key_files
    from secondlook.shared.errors import ConfigError
    from secondlook.shared.keyfiles import read_public_key

    if args.role == Role.GATEWAY:
        return _rotate_gateway(args)
    if args.finish or args.drop_old:
        raise ConfigError("--finish and --drop-old are steps of a gateway's rotation: --role gateway")
    registry, now = Registry(args.registry), time.time()
    overlap = args.overlap_hours * _HOUR
    registry.check_rotates(args.name, now=now)
    if args.public_key_file is not None:
        key = read_public_key(args.public_key_file).decode()
        registry.rotate(args.name, key, overlap_seconds=overlap, now=now)
        return 0
    stem = registry.next_stem(args.name)
    key = create_key_files(args.folder, args.name, stem).public.decode()
    with ExitStack() as undo:
        undo.callback(remove_key_files, args.folder, stem)
        registry.rotate(args.name, key, overlap_seconds=overlap, now=now)
        undo.pop_all()
    _hand_over(key_paths(args.folder, stem)[1], args.owner, goes_elsewhere=args.owner is None)
    return 0


def _rotate_gateway(args: argparse.Namespace) -> int:
    """The steps of a gateway's rotation: a file with both keys, the next key in its place, the old one forgotten."""
    from secondlook.cloud.gateway.keys import (
        drop_old_gateway_key,
        finish_gateway_key,
        key_paths,
        rotate_gateway_key,
    )

    public = key_paths(args.folder, args.name)[0]
    if args.finish:
        _hand_over(finish_gateway_key(args.folder, args.name), args.owner, goes_elsewhere=False)
        print("now: restart the gateway; hosts and workers find its new key in their file", file=sys.stderr)
    elif args.drop_old:
        drop_old_gateway_key(args.folder, args.name)
        print(public)
        print("now: this file to all camera hosts and workers, when it suits", file=sys.stderr)
    else:
        _hand_over(rotate_gateway_key(args.folder, args.name), args.owner, goes_elsewhere=False)
        print(
            f"now: {public}, which has both keys, to all camera hosts and workers; then --finish",
            file=sys.stderr,
        )
    return 0


def run_admit(args: argparse.Namespace) -> int:
    """Let a revoked name in again."""
    from secondlook.cloud.gateway.keys import Registry

    Registry(args.registry).admit(args.name, now=time.time())
    return 0


def _hours(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 24 * 365:
        raise argparse.ArgumentTypeError("must lie between 0 and a year")
    return value
