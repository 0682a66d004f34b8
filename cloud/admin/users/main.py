"""The commands `secondlook users` and `secondlook tokens`: who may use the station.

A password comes from a prompt, from a file that its owner alone may read, or from standard input; never from an
argument, which every process of the machine can see.
"""

from __future__ import annotations

import argparse
import getpass
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from secondlook.cloud.admin.store import add_store_flags, store_config

if TYPE_CHECKING:
    from secondlook.cloud.catalogue import Catalogue

_ROLES = ("viewer", "reviewer", "admin")
_SCOPES = ("read", "review", "admin", "unsettled")
_DAY_NS = 86_400 * 1_000_000_000


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `users` and `tokens` to the `secondlook` parser."""
    _register_users(subparsers)
    _register_tokens(subparsers)


def _register_users(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    users = subparsers.add_parser(
        "users",
        help="manage users of the station",
        description="Manage who may use the station. It asks for a log-in as soon as there is a user.",
    )
    actions = users.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    add = actions.add_parser("add", help="add a user", description="Add a user; the password is asked for.")
    listing = actions.add_parser("list", help="list users", description="List users, removed ones too.")
    passwd = actions.add_parser(
        "passwd", help="set a password", description="Set a user's password, and log the user out everywhere."
    )
    role = actions.add_parser("role", help="change a role", description="Change the role of a user.")
    remove = actions.add_parser(
        "remove",
        help="remove a user",
        description="Remove a user with all sessions and tokens; the name is not given out again.",
    )
    for parser in (add, passwd, role, remove):
        parser.add_argument("name", metavar="NAME", help="1 to 64 of a-z, 0-9 and . _ @ -")
    add.add_argument("--role", choices=_ROLES, default="reviewer", help="default %(default)s")
    role.add_argument("role", choices=_ROLES, help="the new role")
    add.add_argument(
        "--unless-any",
        action="store_true",
        help="do nothing where there is a user already: for the first one",
    )
    for parser in (add, passwd):
        parser.add_argument(
            "--password-file",
            type=Path,
            metavar="FILE",
            help="first line is the password; without it a prompt, or the first line of standard input",
        )
    runs = ((add, run_add), (listing, run_list), (passwd, run_passwd), (role, run_role), (remove, run_remove))
    for parser, run in runs:
        add_store_flags(parser)
        parser.set_defaults(run=run, extra="cloud")


def _register_tokens(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    tokens = subparsers.add_parser(
        "tokens",
        help="manage API tokens of the station",
        description="Manage the tokens with which programs use the station's API.",
    )
    actions = tokens.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    new = actions.add_parser(
        "new",
        help="make a token",
        description="Make a token for a user, and print it: it is shown this once.",
    )
    new.add_argument("name", metavar="USER", help="whose token it is")
    new.add_argument("--label", required=True, help="what it is for")
    new.add_argument(
        "--role", choices=_ROLES, default="viewer", help="at most the user's (default %(default)s)"
    )
    new.add_argument(
        "--scope",
        choices=_SCOPES,
        action="append",
        metavar="SCOPE",
        help="what it is for: read, review or admin; unsettled: verdicts on frames that others have yet to judge, for "
        "programs that judge nothing; may be given several times, without it all that its role may but unsettled",
    )
    new.add_argument("--days", type=int, metavar="N", help="it expires after so many days; never without it")
    listing = actions.add_parser("list", help="list tokens", description="List tokens, revoked ones too.")
    revoke = actions.add_parser("revoke", help="revoke a token", description="Revoke a token by its number.")
    revoke.add_argument("id", type=int, metavar="NUMBER", help="as `tokens list` shows it")
    for parser, run in ((new, run_token_new), (listing, run_token_list), (revoke, run_token_revoke)):
        add_store_flags(parser)
        parser.set_defaults(run=run, extra="cloud")


def run_add(args: argparse.Namespace) -> int:
    """Add a user."""
    from secondlook.cloud.accounts import Role, add_user, any_users

    catalogue = _catalogue(args)
    if args.unless_any and any_users(catalogue):
        catalogue.close()
        print("there is a user already")
        return 0
    password = _password(args)
    add_user(catalogue, args.name, Role(args.role), password, actor=_actor(), now_ns=time.time_ns())
    catalogue.close()
    return 0


def run_list(args: argparse.Namespace) -> int:
    """Print one line a user."""
    from secondlook.cloud.accounts import list_users

    catalogue = _catalogue(args)
    for user in list_users(catalogue):
        print(f"{'removed' if user.removed else user.role.value:8}  {user.name}")
    catalogue.close()
    return 0


def run_passwd(args: argparse.Namespace) -> int:
    """Set a password."""
    from secondlook.cloud.accounts import set_password

    catalogue = _catalogue(args)
    set_password(catalogue, args.name, _password(args), actor=_actor(), now_ns=time.time_ns())
    catalogue.close()
    return 0


def run_role(args: argparse.Namespace) -> int:
    """Change a role."""
    from secondlook.cloud.accounts import Role, set_role

    catalogue = _catalogue(args)
    set_role(catalogue, args.name, Role(args.role), actor=_actor(), now_ns=time.time_ns())
    catalogue.close()
    return 0


def run_remove(args: argparse.Namespace) -> int:
    """Remove a user."""
    from secondlook.cloud.accounts import remove_user

    catalogue = _catalogue(args)
    remove_user(catalogue, args.name, actor=_actor(), now_ns=time.time_ns())
    catalogue.close()
    return 0


def run_token_new(args: argparse.Namespace) -> int:
    """Make a token and print it."""
    from secondlook.cloud.accounts import Role, Scope, create_token

    catalogue = _catalogue(args)
    now_ns = time.time_ns()
    _, token = create_token(
        catalogue,
        args.name,
        label=args.label,
        role=Role(args.role),
        expires_ns=None if args.days is None else now_ns + args.days * _DAY_NS,
        actor=_actor(),
        now_ns=now_ns,
        scopes=[Scope(scope) for scope in args.scope or ()],
    )
    print(token)
    catalogue.close()
    return 0


def run_token_list(args: argparse.Namespace) -> int:
    """Print one line a token."""
    from secondlook.cloud.accounts import list_tokens

    catalogue = _catalogue(args)
    now_ns = time.time_ns()
    for token in list_tokens(catalogue):
        ended = token.expires_ns is not None and token.expires_ns <= now_ns
        state = "revoked" if token.revoked else "expired" if ended else token.role.value
        scopes = ",".join(sorted(token.scopes))
        print(f"{token.id:4}  {state:8}  {scopes:17}  {token.user}  {token.label}")
    catalogue.close()
    return 0


def run_token_revoke(args: argparse.Namespace) -> int:
    """Revoke a token."""
    from secondlook.cloud.accounts import revoke_token

    catalogue = _catalogue(args)
    revoke_token(catalogue, args.id, actor=_actor(), now_ns=time.time_ns())
    catalogue.close()
    return 0


def _catalogue(args: argparse.Namespace) -> Catalogue:
    from secondlook.cloud.catalogue import open_catalogue

    return open_catalogue(store_config(args).catalogue_url)


def _password(args: argparse.Namespace) -> str:
    """Raises ConfigError, SecretExposed."""
    from secondlook.shared.errors import ConfigError
    from secondlook.shared.keyfiles import read_private

    if args.password_file is not None:
        try:
            return read_private(args.password_file).partition("\n")[0]
        except UnicodeDecodeError as error:
            raise ConfigError(f"{args.password_file} is not text") from error
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    password = getpass.getpass(f"Password of {args.name}: ")
    if getpass.getpass("Once more: ") != password:
        raise ConfigError("the two are not the same")
    return password


def _actor() -> str:
    """Who the audit trail names for a change from the command line."""
    return f"{getpass.getuser()} (command line)"[:128]
