"""SIGHUP: a role reads its settings again, and takes those that it can take without a restart."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

from secondlook.shared.config import schema
from secondlook.shared.errors import ConfigError

log = logging.getLogger(__name__)

T = TypeVar("T")


class Reloader(Generic[T]):
    """Hears SIGHUP; whoever works calls `take` when it suits. Make it in the main thread."""

    def __init__(self, current: T, load: Callable[[], T], safe: Sequence[str]) -> None:
        """`safe`: the tables that can change while the role runs."""
        self.current = current
        self._load = load
        self._safe = tuple(safe)
        self._wanted = False
        signal.signal(signal.SIGHUP, self._hear)

    def _hear(self, *_: object) -> None:
        self._wanted = True

    def take(self) -> T | None:
        """The settings as they hold from now on, after a SIGHUP; None where there is nothing new."""
        if not self._wanted:
            return None
        self._wanted = False
        try:
            new = self._load()
        except ConfigError as error:
            log.error("the settings stay as they were: %s", error)
            return None
        changed = changes(self.current, new)
        now = [name for name in changed if name.partition(".")[0] in self._safe]
        later = [name for name in changed if name not in now]
        if later:
            log.warning("read again; these want a restart: %s", ", ".join(later))
        if not now:
            log.info("read again; nothing changed that can change now")
            return None
        log.info("read again; these hold from now on: %s", ", ".join(now))
        tables: dict[str, Any] = {name: getattr(new, name) for name in self._safe}
        self.current = replace(self.current, **tables)  # type: ignore[type-var]
        return self.current


def ask_for_restart() -> None:
    """Let a role that reads its settings only at its start outlive a SIGHUP, and say so. Call in the main thread."""
    line = "SIGHUP: settings are read at the start; restart this process to apply a change"

    def hear(*_: object) -> None:
        # Not in the handler: it may have interrupted whoever writes the log.
        threading.Thread(target=log.warning, args=(line,), daemon=True).start()

    signal.signal(signal.SIGHUP, hear)


def changes(before: Any, after: Any) -> list[str]:
    """The settings, by dotted name, that differ between two configurations of one class."""
    found = []
    for dotted, setting in schema(type(before)):
        if setting.is_table:
            continue
        old, new = before, after
        for key in dotted.split("."):
            old, new = getattr(old, key), getattr(new, key)
        if old != new:
            found.append(dotted)
    return found
