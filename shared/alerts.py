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
import uuid
from typing import Any

from secondlook.shared.conditions import Change, WatchConfig
from secondlook.shared.errors import ConfigError
from secondlook.shared.keyfiles import read_private
from secondlook.shared.redact import redacted
from secondlook.shared.webhooks import parse_secret, signed_headers

log = logging.getLogger(__name__)

_MAX_WAITING = 100
_TIMEOUT_SECONDS = 5.0
_PAUSES = (1.0, 10.0, 60.0)  # between attempts; then it is given up


def open_alerts(config: WatchConfig, role: str) -> AlertSender | None:
    """What hears of changes as the settings have it; None where nobody shall. Raises ConfigError, SecretExposed."""
    if config.webhook is None:
        return None
    if config.webhook_secret_file is None:
        return AlertSender(config.webhook, role)
    try:
        key = parse_secret(read_private(config.webhook_secret_file))
    except OSError as error:
        raise ConfigError(f"webhook: cannot read {config.webhook_secret_file}: {error}") from error
    return AlertSender(config.webhook, role, key)


class AlertSender:
    """Call it with changes; what the receiver does not take in four attempts is dropped, with a line in the log."""

    def __init__(
        self, url: str, role: str, key: bytes | None = None, *, pauses: tuple[float, ...] = _PAUSES
    ) -> None:
        """`key` signs what is sent, as `shared.webhooks` has it."""
        self._url, self._role, self._key = url, role, key
        self._pauses = pauses
        self._waiting: queue.Queue[Change] = queue.Queue(_MAX_WAITING)
        threading.Thread(target=self._run, name="alerts", daemon=True).start()

    def __call__(self, change: Change) -> None:
        try:
            self._waiting.put_nowait(change)
        except queue.Full:
            log.warning("webhook: %d changes wait already, one is dropped: %s", _MAX_WAITING, change.line)

    def _run(self) -> None:
        while True:
            change = self._waiting.get()
            body, uid = json.dumps(self.body(change)).encode(), str(uuid.uuid4())
            for pause in (*self._pauses, None):
                why = self._post(body, uid)
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

    def _post(self, body: bytes, uid: str) -> str | None:
        """Why it was not taken; None when it was. `uid` is the same in each attempt."""
        headers = {"content-type": "application/json", "user-agent": "secondlook"}
        if self._key is not None:
            headers |= signed_headers(self._key, uid, int(time.time()), body)
        request = urllib.request.Request(self._url, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS):
                return None
        except urllib.error.HTTPError as error:
            error.close()
            return f"the receiver answers {error.code}"
        except (OSError, http.client.HTTPException, ValueError) as error:
            return f"no answer ({error})"
