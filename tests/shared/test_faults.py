"""Causes are never hidden: one place catches any exception, names it and has it chained."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from secondlook.shared.errors import DiskFull, StorageError, Unforeseen
from secondlook.shared.faults import cause_of, unforeseen_named

ROOT = Path(__file__).parents[2]
BROAD = {"Exception", "BaseException"}


def broad_handlers(text: str) -> Iterator[int]:
    """Lines of handlers that take any exception."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ExceptHandler):
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            if any(kind is None or (isinstance(kind, ast.Name) and kind.id in BROAD) for kind in kinds):
                yield node.lineno


def test_one_place_catches_any_exception() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for pattern in ("shared/*.py", "edge/**/*.py", "cloud/**/*.py", "secondlook/*.py")
        for path in sorted(ROOT.glob(pattern))
        for line in broad_handlers(path.read_text())
    ]
    assert [place.partition(":")[0] for place in found] == ["shared/faults.py"], found


def test_broad_handlers_are_seen() -> None:
    text = "try: pass\nexcept (ValueError, Exception): pass\ntry: pass\nexcept: pass\ntry: pass\nexcept OSError: pass\n"
    assert list(broad_handlers(text)) == [2, 4]


def test_what_nobody_foresaw_is_named_and_chained() -> None:
    crash = ZeroDivisionError("division\n by  zero")
    with (
        pytest.raises(Unforeseen, match=r"^ZeroDivisionError: division by zero$") as raised,
        unforeseen_named(),
    ):
        raise crash
    assert raised.value.__cause__ is crash
    with pytest.raises(DiskFull), unforeseen_named(StorageError):
        raise DiskFull("no space left")
    with pytest.raises(Unforeseen, match=r"^DiskFull: no space left$"), unforeseen_named(ValueError):
        raise DiskFull("no space left")


def test_what_ends_a_process_passes() -> None:
    for end in (KeyboardInterrupt, SystemExit):
        with pytest.raises(end), unforeseen_named():
            raise end


def test_a_cause_is_one_short_line() -> None:
    assert cause_of(ValueError()) == "ValueError"
    assert len(cause_of(ValueError("x" * 5000))) < 300
