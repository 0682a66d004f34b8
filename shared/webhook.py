"""Posts changes of conditions as JSON to one address, from a thread of its own: whoever works waits for nobody."""

from __future__ import annotations

import http.client
import json
import logging
import queue
import socket
import threading
import time
import urllib.error
import urllib.request
from typing import Any

from secondlook.shared.conditions import Change
from secondlook.shared.redact import redacted

log = logging.getLogger(__name__)

_MOST_WAITING = 100
_TIMEOUT_SECONDS = 5.0
_PAUSES = (1.0, 10.0, 60.0)  # between attempts; then it is given up


class Webhook:
    """Call it with changes; what the receiver does not take in four attempts is dropped, with a line in the log."""

    def __init__(self, url: str, role: str, pauses: tuple[float, ...] = _PAUSES) -> None:
        self._url = url
        self._role = role
        self._pauses = pauses
        self._waiting: queue.Queue[Change] = queue.Queue(_MOST_WAITING)
        threading.Thread(target=self._run, name="webhook", daemon=True).start()

    def __call__(self, change: Change) -> None:
        try:
            self._waiting.put_nowait(change)
        except queue.Full:
            log.warning("webhook: %d changes wait already, one is dropped: %s", _MOST_WAITING, change.line)

    def _run(self) -> None:
        while True:
            change = self._waiting.get()
            body = self.body(change)
            for pause in (*self._pauses, None):
                why = self._post(body)
                if why is None:
                    break
                if pause is None:
                    log.warning("webhook: %s; dropped: %s", redacted(why), change.line)
                else:
                    time.sleep(pause)

    def body(self, change: Change) -> dict[str, Any]:
        about = change.condition
        return {
            "event": "began" if change.began else "ended",
            "condition": about.name,
            "severity": about.severity,
            "subject": about.subject,
            "value": about.value,
            "text": change.line,
            "cure": about.cure,
            "lasted_seconds": None if change.began else change.seconds,
            "role": self._role,
            "host": socket.gethostname(),
            "time": time.time(),
        }

    def _post(self, body: dict[str, Any]) -> str | None:
        """Why it was not taken; None when it was."""
        request = urllib.request.Request(
            self._url,
            json.dumps(body).encode(),
            {"content-type": "application/json", "user-agent": "secondlook"},
        )
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS):
                return None
        except urllib.error.HTTPError as error:
            error.close()
            return f"the receiver answers {error.code}"
        except (OSError, http.client.HTTPException, ValueError) as error:
            return f"no answer ({error})"
