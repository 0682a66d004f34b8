"""`python -m tests.reference` writes docs/cli.md, config.md, metrics.md and alert rules; test_docs.py checks them."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from secondlook.cloud.config import CloudConfig
from secondlook.edge.config import EdgeConfig
from secondlook.main import build_parser
from secondlook.shared.conditions import WatchConfig, conditions
from secondlook.shared.config import EDGE_VARIABLES, VARIABLES, variable
from secondlook.shared.metrics import METRICS, PREFIX
from secondlook.shared.settings import (
    DatabaseUrl,
    Endpoint,
    FolderOrUrl,
    NameOrPath,
    Settings,
    SourceAddress,
    describe,
    item_type,
    kinds,
    plain,
)

_VALUES = {
    NameOrPath: "a name or a path",
    SourceAddress: "a path or an address",
    FolderOrUrl: "a path or a URL",
    DatabaseUrl: "a URL; the path in one of SQLite is one",
    Endpoint: "tcp://HOST:PORT or ipc://PATH",
}

_INTRODUCTION = """\
Configuration is TOML; a key that is not listed here is an error. What comes later wins: the default, the file,
the environment variable, the flag (docs/cli.md).

Every setting that is a path, or may be one beside a name or URL, is relative to the file, so every role that
reads the file finds the same place, wherever it is started; so is a default that is a path. Given by flag or
variable, or where there is no file, it is relative to the working folder. `~` is the home folder. A model or
detector is a path when there is a slash in it or when it ends in `.onnx`; else it is a name, unless something
called so lies beside the file.

A variable that is empty counts as not set; one with the prefix that names no setting is an error, except
`SECONDLOOK_MODELS` (docs/detector.md), `SECONDLOOK_EDGE_SOURCE_CREDENTIALS` (docs/sources.md) and
`SECONDLOOK_TOKEN` (`secondlook pull`). Lists are written `a,b` or as JSON. In a range both ends are allowed; nothing
may be infinite.
"""

ROOT = Path(__file__).parents[1]
NOTE = "<!-- Written by `make docs`; change the code instead. -->\n"


def commands() -> dict[str, argparse.ArgumentParser]:
    """Every sub-command by the words that call it, nested ones included."""
    return dict(_walk(build_parser(), ""))


def cli_page() -> str:
    """Every command and flag, as Markdown."""
    parts = [NOTE, "# Commands\n"]
    for name, parser in commands().items():
        parts.append(f"## `secondlook {name}`\n\n{_sentence(parser.description or '')}\n")
        rows = [_flag_row(action) for action in parser._actions if not _is_plumbing(action)]
        if rows:
            parts.append("| argument | meaning |\n|---|---|\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def config_page() -> str:
    """Every setting of both configuration files, as Markdown."""
    parts = [
        NOTE,
        "# Settings\n",
        _INTRODUCTION,
    ]
    pages = (("`edge.toml`", EdgeConfig, EDGE_VARIABLES), ("`cloud.toml`", CloudConfig, VARIABLES))
    for title, cls, variables in pages:
        parts.append(f"## {title}\n")
        for section, table in _tables(cls, ""):
            heading = f"### `[{section}]`\n\n" if section else ""
            listed = section.startswith("[")  # tables of an array have no variables of their own
            means = _comments(table)
            own = list(inspect.get_annotations(table))  # in their order, and before those of its base
            rows = [
                f"| `{field.name}` | {_type_name(table, field)} | {_default(field)} | {means[field.name]} "
                f"| {'' if listed else _variable(section, field.name, variables)} |"
                for field in sorted(
                    dataclasses.fields(table), key=lambda field: (*own, field.name).index(field.name)
                )
                if not _is_table(table, field)
            ]
            if rows:
                parts.append(
                    f"{heading}{_sentence(inspect.getdoc(table) or '')}\n\n"
                    "| setting | value | default | meaning | variable |\n|---|---|---|---|---|\n"
                    + "\n".join(rows)
                    + "\n"
                )
    return "\n".join(parts)


_METRICS_INTRODUCTION = """\
Every role tells what it counts and measures at `[metrics] address` (flag `--metrics`), in Prometheus' text format,
and answers `/healthz` and `/readyz` there too. These names stay; a role shows those of its own, once they were touched.
`camera` is the edge id. Besides these there are the usual `process_*` and `python_info` (docs/operations.md).
"""


def metrics_page() -> str:
    """Every metric, as Markdown."""
    rows = [
        f"| `{PREFIX}{one.name}` | {one.kind} | {', '.join(map('`{}`'.format, one.labels))} | {one.roles} "
        f"| {one.text} |"
        for one in METRICS
    ]
    head = "| metric | kind | labels | of | what |\n|---|---|---|---|---|\n"
    return "\n".join([NOTE, "# Metrics\n", _METRICS_INTRODUCTION, head + "\n".join(rows) + "\n"])


# Of what `secondlook status` finds for itself: the processes that would tell are away.
TOLD_BY_STATUS = ("gateway-away", "station-away", "retention-late")


def alerts_page() -> str:
    """An alert for each condition, and for a process that is away, as rules of Prometheus."""
    rules = [
        {
            "alert": f"Secondlook{''.join(part.title() for part in one.name.split('-'))}",
            "expr": f'{PREFIX}condition{{condition="{one.name}"}} == 1',
            "labels": {"severity": one.severity},
            "annotations": {
                "summary": f"{one.name}: {{{{ $labels.subject }}}}",
                "description": one.cure,
                "runbook": f"docs/troubleshooting.md#{one.name}",
            },
        }
        for one in conditions(WatchConfig()).values()
        if one.name not in TOLD_BY_STATUS
    ]
    rules += [
        {
            "alert": "SecondlookDown",
            "expr": 'up{job="secondlook"} == 0',
            "for": "30s",
            "labels": {"severity": "critical"},
            "annotations": {
                "summary": "{{ $labels.instance }} does not answer",
                "description": "a process has ended, or its host cannot be reached",
                "runbook": "docs/troubleshooting.md#a-process-is-away",
            },
        },
        {
            "alert": "SecondlookNotReady",
            "expr": f"{PREFIX}ready == 0",
            "for": "2m",
            "labels": {"severity": "warning"},
            "annotations": {
                "summary": "{{ $labels.instance }} cannot be given work",
                "description": "it starts, hangs, or waits for a store or the gateway; its log says for which",
                "runbook": "docs/troubleshooting.md#a-process-is-not-ready",
            },
        },
    ]
    text = yaml.safe_dump({"groups": [{"name": "secondlook", "rules": rules}]}, sort_keys=False, width=1000)
    return f"# Written by `make docs`; change shared/conditions.py instead.\n{text}"


PAGES = {
    ROOT / "docs" / "cli.md": cli_page,
    ROOT / "docs" / "config.md": config_page,
    ROOT / "docs" / "metrics.md": metrics_page,
    ROOT / "deploy" / "prometheus" / "secondlook.rules.yaml": alerts_page,
}


def _walk(parser: argparse.ArgumentParser, prefix: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name in sorted(action.choices):
                path = f"{prefix} {name}".strip()
                yield path, action.choices[name]
                yield from _walk(action.choices[name], path)


def _is_plumbing(action: argparse.Action) -> bool:
    return isinstance(action, argparse._HelpAction | argparse._SubParsersAction)


def _flag_row(action: argparse.Action) -> str:
    names = ", ".join(action.option_strings) or str(action.metavar or action.dest)
    if action.option_strings and action.nargs != 0:
        choices = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else None
        metavar = action.metavar or choices or action.dest.upper()
        names += f" {metavar if isinstance(metavar, str) else ' '.join(metavar)}"
    text = (action.help or "") % {**vars(action), "prog": "secondlook"}
    return f"| `{names}` | {text} |"


def _sentence(text: str) -> str:
    return " ".join(text.split())


def _tables(cls: type[Any], section: str) -> Iterator[tuple[str, type[Any]]]:
    yield section, cls
    for field in dataclasses.fields(cls):
        if _is_table(cls, field):
            yield from _tables(get_type_hints(cls)[field.name], f"{section}.{field.name}".strip("."))
        elif dataclasses.is_dataclass(item := item_type(kinds(cls)[field.name])):
            yield f"[{field.name}]", item


def _is_table(cls: type[Any], field: dataclasses.Field[Any]) -> bool:
    return dataclasses.is_dataclass(get_type_hints(cls)[field.name])


def _variable(section: str, name: str, variables: str) -> str:
    return f"`{variable(f'{section}.{name}'.strip('.'), variables)}`"


def _type_name(cls: type[Any], field: dataclasses.Field[Any]) -> str:
    return _VALUES.get(plain(kinds(cls)[field.name])) or describe(kinds(cls)[field.name])


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return "required"
    if field.default is None:
        return ""
    value = list(field.default) if isinstance(field.default, tuple) else field.default
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _comments(cls: type[Any]) -> dict[str, str]:
    """What the comment behind a field, or those on the lines above it, say of it; a class's own before its base's."""
    tables = [
        base for base in reversed(cls.__mro__) if dataclasses.is_dataclass(base) and base is not Settings
    ]
    blank = {field.name: "" for field in dataclasses.fields(cls)}
    return blank | {name: text for base in tables for name, text in _own_comments(base).items() if text}


def _own_comments(cls: type[Any]) -> dict[str, str]:
    lines = iter(inspect.getsource(cls).splitlines(keepends=True))
    found: dict[str, str] = {field.name: "" for field in dataclasses.fields(cls)}
    above: list[str] = []
    name: str | None = None
    for token in tokenize.generate_tokens(lambda: next(lines, "")):
        if token.type == tokenize.COMMENT:
            text = token.string.lstrip("# ")
            if name is None:
                above.append(text)
            else:
                found[name] = " ".join([*above, text])
        elif token.type == tokenize.NEWLINE:
            if name is not None and not found[name]:
                found[name] = " ".join(above)
            if name is not None:
                above = []
            name = None
        elif token.type == tokenize.NAME and token.start[1] == 4 and token.string in found:
            name = token.string
    return found


def main() -> int:
    """Write all of them."""
    for path, page in PAGES.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
