"""The `secondlook` command: finds the sub-commands, runs one, and turns errors into one line.

Every package registers its own sub-commands, and imports what they need only when one runs: `secondlook --help` loads
nothing heavy, and a camera host needs only what it uses.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

import secondlook.cloud.main
import secondlook.edge.main
import secondlook.training.main
from secondlook import stills
from secondlook.shared.commands import Subparsers
from secondlook.shared.errors import ConfigError, SecondlookError
from secondlook.shared.version import __version__

DESCRIPTION = "Machines look at every camera frame; people get a second look at the few that need one."

# What registers sub-commands, and the extra that brings what these need.
_PROVIDERS: tuple[tuple[Callable[[Subparsers], None], str], ...] = (
    (secondlook.edge.main.register, "edge"),
    (secondlook.cloud.main.register, "cloud"),
    (stills.register, "edge"),
    (secondlook.training.main.register, "training"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0, 1 after an error, 130 when interrupted; wrong usage exits with 2."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    try:
        status = int(args.run(args))
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # The reader of a pipe has gone; keep the interpreter from complaining while it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    except ModuleNotFoundError as cause:
        return _fail(_missing(cause, args.extra))
    except (SecondlookError, OSError) as cause:
        return _fail(cause)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line, with the sub-commands of every package that is installed."""
    parser = argparse.ArgumentParser(prog="secondlook", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"secondlook {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    for register, extra in _PROVIDERS:
        before = set(subparsers.choices)
        register(subparsers)
        for name in set(subparsers.choices) - before:
            subparsers.choices[name].set_defaults(extra=extra)
    return parser


def _missing(cause: ModuleNotFoundError, extra: str) -> SecondlookError:
    """Say which extra brings a package that is not installed; a missing module of our own is a bug."""
    name = (cause.name or "").partition(".")[0]
    if not name or name == "secondlook":
        raise cause
    return ConfigError(f"the package {name} is not installed: pip install 'secondlook[{extra}]'")


def _fail(cause: BaseException) -> int:
    text = " ".join(str(cause).split()) or type(cause).__name__
    print(f"secondlook: error: {text}", file=sys.stderr)
    return 1
