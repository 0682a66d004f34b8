"""What a check found, and how findings are shown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "fault", "skipped"]
_SIGNS: dict[Level, str] = {"ok": "ok     ", "warning": "WARNING", "fault": "FAULT  ", "skipped": "skipped"}


@dataclass(frozen=True)
class Finding:
    """One line of `secondlook doctor`: what was looked at, how it is, and what helps where it is not well."""

    about: str
    level: Level
    text: str
    cure: str = ""


def ok(about: str, text: str) -> Finding:
    return Finding(about, "ok", text)


def warning(about: str, text: str, cure: str) -> Finding:
    return Finding(about, "warning", text, cure)


def fault(about: str, text: str, cure: str) -> Finding:
    return Finding(about, "fault", text, cure)


def skipped(about: str, text: str) -> Finding:
    return Finding(about, "skipped", text)


def lines(findings: Iterable[Finding]) -> list[str]:
    """For a terminal: a line each, and the cure below."""
    shown = []
    for one in findings:
        shown.append(f"{_SIGNS[one.level]}  {one.about}: {one.text}")
        if one.cure:
            shown.append(f"         cure: {one.cure}")
    return shown
