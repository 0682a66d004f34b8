"""Watches the conditions of one process, and says each where it belongs: log, metric, webhook, status."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from secondlook.shared import metrics
from secondlook.shared.conditions import Change, Conditions, WatchConfig, conditions

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0


class Watch:
    """Use in one thread. A clock that is handed in counts seconds, Unix or monotonic; only differences matter."""

    def __init__(
        self,
        config: WatchConfig,
        *,
        silent: Collection[str] = (),
        alert: Callable[[Change], None] | None = None,
    ) -> None:
        """`silent`: conditions of which the log hears elsewhere; `alert` hears of every change."""
        self._conditions = Conditions(conditions(config))
        self._silent = frozenset(silent)
        self._alert = alert
        self._looked_at = float("-inf")

    def configure(self, config: WatchConfig) -> None:
        """Other limits from now on; what holds goes on until its new limit ends it."""
        self._conditions.table = conditions(config)

    def is_due(self, now: float) -> bool:
        """Whether it is time for another look, a second after the last one or when the clock was set back."""
        if 0 <= now - self._looked_at < _LOOK_SECONDS:
            return False
        self._looked_at = now
        return True

    def look(self, figures: Mapping[str, Mapping[str, float | None]], now: float) -> None:
        """Take in figures, by condition and subject; see `Conditions.observe`."""
        for name, values in figures.items():
            for change in self._conditions.observe(name, values, now):
                self._say(change)

    def _say(self, change: Change) -> None:
        about = change.condition
        metrics.condition(about.name, about.subject, active=change.began)
        if about.name not in self._silent:
            level = logging.INFO if not change.began else logging.WARNING
            more = {"condition": about.name, "subject": about.subject, "began": change.began}
            log.log(level, "%s", change.line, extra=more)
        if self._alert is not None:
            self._alert(change)

    def told(self, now: float) -> list[dict[str, Any]]:
        """What holds now, for a status: `since` is Unix seconds."""
        lag = time.time() - now
        return [{**one.as_dict(), "since": one.since + lag} for one in self._conditions.active]
