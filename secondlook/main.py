"""The `secondlook` command: finds the sub-commands, runs one, and turns errors into one line.

Every package registers its own sub-commands, and imports what they need only when one runs: `secondlook --help` loads
nothing heavy, and a camera host needs only what it uses.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import secondlook.cloud.main
import secondlook.cloud.models.main
import secondlook.edge.main
import secondlook.training.main
from secondlook import stills
from secondlook.operate import main as operate
from secondlook.shared.commands import Subparsers
from secondlook.shared.errors import ConfigError, SecondlookError
from secondlook.shared.flags import show_defaults
from secondlook.shared.redact import redacted
from secondlook.shared.version import __version__

DESCRIPTION = "Machines look at every camera frame; people get a second look at the few that need one."

# What registers sub-commands, and the extra that brings what these need.
_PROVIDERS: tuple[tuple[Callable[[Subparsers], None], str], ...] = (
    (secondlook.edge.main.register, "edge"),
    (secondlook.cloud.main.register, "cloud"),
    (secondlook.cloud.models.main.register, "cloud,models"),
    (stills.register, "edge"),
    (operate.register, "edge"),
    (secondlook.training.main.register, "training"),
)

GROUPS = {
    "run": ("edge", "gateway", "worker", "refiner", "station", "notify", "retention", "demo"),
    "look": ("encode", "decode", "inspect", "bench", "evaluate", "paper"),
    "make models": ("train", "export", "import-checkpoint", "models"),
    "operate": ("status", "doctor", "audit", "backup", "restore", "config", "pull"),
    "administer": ("keys", "users", "tokens", "webhooks", "queue", "catalogue", "completion"),
}


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
    parser = _Parser(prog="secondlook", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"secondlook {__version__}")
    subparsers = parser.add_subparsers(
        title="commands",
        metavar="COMMAND",
        dest="command",
        required=True,
        parser_class=argparse.ArgumentParser,
    )
    for register, extra in _PROVIDERS:
        before = set(subparsers.choices)
        register(subparsers)
        for name in set(subparsers.choices) - before:
            subparsers.choices[name].set_defaults(extra=extra)
    completion = subparsers.add_parser(
        "completion",
        help="print a completion script for a shell",
        description="Print what makes a shell complete commands and flags; its first lines say where it goes.",
    )
    completion.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell")
    completion.set_defaults(run=run_completion, extra="completion")
    show_defaults(parser)
    return parser


def run_completion(args: argparse.Namespace) -> int:
    """Print a completion script."""
    import shtab

    parser = build_parser()
    _complete_files(parser, shtab.FILE)
    print(shtab.complete(parser, args.shell))
    return 0


def _complete_files(parser: argparse.ArgumentParser, files: object) -> None:
    """Mark the arguments for which a shell shall offer files."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                _complete_files(child, files)
        elif action.type is Path or action.metavar in ("FILE", "DIR", "FOLDER"):
            setattr(action, "complete", files)  # noqa: B010 an attribute that shtab looks for


class _Parser(argparse.ArgumentParser):
    """The parser of `secondlook` itself, whose help lists the commands in `GROUPS`."""

    def format_help(self) -> str:
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        formatter.add_text(self.description)
        formatter.start_section("options")
        formatter.add_arguments(one for one in self._actions if one.option_strings)
        formatter.end_section()
        (commands,) = (one for one in self._actions if isinstance(one, argparse._SubParsersAction))
        for title, names in GROUPS.items():
            formatter.start_section(title)
            formatter.add_arguments(one for one in commands._choices_actions if one.dest in names)
            formatter.end_section()
        formatter.add_text("secondlook COMMAND --help tells more of each.")
        return formatter.format_help()


def _missing(cause: ModuleNotFoundError, extra: str) -> SecondlookError:
    """Say which extra brings a package that is not installed; a missing module of our own is a bug."""
    name = (cause.name or "").partition(".")[0]
    if not name or name == "secondlook":
        raise cause
    return ConfigError(f"the package {name} is not installed: pip install 'secondlook[{extra}]'")


def _fail(cause: BaseException) -> int:
    text = redacted(" ".join(str(cause).split())) or type(cause).__name__
    print(f"secondlook: error: {text}", file=sys.stderr)
    return 1
