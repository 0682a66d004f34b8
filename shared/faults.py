"""The one place that catches any exception, where nobody can list what foreign code raises over crafted bytes.

A codec, a detector, a post-filter or a database may raise anything over what a camera host sent, and that must not end
a process that serves other camera hosts too. What is caught becomes an `Unforeseen` that names its cause and has it
chained; whoever catches that says it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from secondlook.shared.errors import Unforeseen

_MOST_TEXT = 240


def cause_of(error: Exception) -> str:
    """An exception in one line: its class, and what it says."""
    original = getattr(error, "orig", None)  # a database's own words, without the statement around them
    said = " ".join(str(error if original is None else original).split())[:_MOST_TEXT]
    name = type(error).__name__
    return f"{name}: {said}" if said else name


@contextmanager
def unforeseen_named(*foreseen: type[Exception]) -> Iterator[None]:
    """Let ``foreseen`` errors pass, and turn any other into `Unforeseen`, with `cause_of` as its text."""
    try:
        yield
    except foreseen:
        raise
    except Exception as error:
        raise Unforeseen(cause_of(error)) from error
