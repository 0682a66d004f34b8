"""The `secondlook` command: finds the sub-commands, runs one, and turns errors into one line.

The packages register their own sub-commands. They are named here as strings and imported when the command
runs, so that `shared` depends on none of them and a camera host needs only what it uses.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from secondlook.shared.errors import ConfigError, SecondlookError
from secondlook.shared.redact import redacted
from secondlook.shared.version import __version__

DESCRIPTION = "Machines look at every camera frame; people get a second look at the few that need one."


@dataclass(frozen=True)
class Provider:
    """A module that has `register(subparsers)`, and the extra that brings what its commands need."""

    module: str
    extra: str


PROVIDERS = (
    Provider("secondlook.edge.main", "edge"),
    Provider("secondlook.cloud.main", "cloud"),
    Provider("secondlook.stills", "edge"),
    Provider("secondlook.training.main", "training"),
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
    for provider in PROVIDERS:
        package = provider.module.partition(".")[0]
        if importlib.util.find_spec(package) is None:
            continue
        before = set(subparsers.choices)
        importlib.import_module(provider.module).register(subparsers)
        for name in set(subparsers.choices) - before:
            subparsers.choices[name].set_defaults(extra=provider.extra)
    return parser


def _missing(cause: ModuleNotFoundError, extra: str) -> SecondlookError:
    """Say which extra brings a package that is not installed; a missing module of our own is a bug."""
    name = (cause.name or "").partition(".")[0]
    if not name or name in {provider.module.partition(".")[0] for provider in PROVIDERS}:
        raise cause
    return ConfigError(f"the package {name} is not installed: pip install 'secondlook[{extra}]'")


def _fail(cause: BaseException) -> int:
    text = redacted(" ".join(str(cause).split())) or type(cause).__name__
    print(f"secondlook: error: {text}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
