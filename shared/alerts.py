"""Tells of changes of conditions, by webhook and e-mail, from threads of their own: whoever works waits for nobody.

Each way is a `Channel`; one that is away keeps no other from its turn. What a channel does not take after several
attempts is dropped, with a line in the log: the condition itself is still in log, metric and `secondlook status`.
"""

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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from secondlook.shared.conditions import Change, WatchConfig, shown
from secondlook.shared.cooldown import CalmChanges
from secondlook.shared.errors import ConfigError, DeliveryFailed
from secondlook.shared.keyfiles import read_private
from secondlook.shared.mail import Mailer, SmtpConfig
from secondlook.shared.redact import redacted
from secondlook.shared.webhooks import parse_secret, signed_headers

log = logging.getLogger(__name__)

_MAX_WAITING = 100
_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class Alert:
    """One change as it is told. `at` is Unix seconds, `uid` the same in each attempt."""

    change: Change
    role: str
    at: float = field(default_factory=time.time)
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))

    def facts(self) -> dict[str, Any]:
        change, about = self.change, self.change.condition
        return {
            "event": "began" if change.began else "ended",
            "condition": about.name,
            "severity": about.severity,
            "subject": about.subject,
            "value": about.value,
            "text": change.line,
            "cure": about.cure,
            "lasted_seconds": None if change.began else change.seconds,
            "role": self.role,
            "host": socket.gethostname(),
            "time": self.at,
        }


class Channel(Protocol):
    """A way to tell. Used by one thread."""

    name: str
    pauses: tuple[float, ...]  # seconds between attempts; then it is given up

    def send(self, alert: Alert) -> None:
        """Returns when the receiver has it. Raises DeliveryFailed."""
        ...


class WebhookChannel:
    """Posts an object of JSON, signed where there is a key (`shared.webhooks`)."""

    name = "webhook"

    def __init__(
        self, url: str, key: bytes | None = None, *, pauses: tuple[float, ...] = (1.0, 10.0, 60.0)
    ) -> None:
        self._url, self._key = url, key
        self.pauses = pauses

    def send(self, alert: Alert) -> None:
        body = json.dumps(alert.facts()).encode()
        headers = {"content-type": "application/json", "user-agent": "secondlook"}
        if self._key is not None:
            headers |= signed_headers(self._key, alert.uid, int(time.time()), body)
        request = urllib.request.Request(self._url, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS):
                return
        except urllib.error.HTTPError as error:
            error.close()
            raise DeliveryFailed(f"the receiver answers {error.code}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise DeliveryFailed(f"no answer ({error})") from error


class MailChannel:
    """Sends a mail. Servers that do not know us may ask for patience of minutes: it tries for two hours."""

    name = "e-mail"

    def __init__(
        self,
        mailer: Mailer,
        to: Sequence[str],
        *,
        pauses: tuple[float, ...] = (10.0, 60.0, 300.0, 900.0, 1800.0, 3600.0),
    ) -> None:
        self._mailer, self._to = mailer, to
        self.pauses = pauses

    def send(self, alert: Alert) -> None:
        self._mailer.send(self._to, *mail_of(alert), alert.uid)


def mail_of(alert: Alert) -> tuple[str, str]:
    """Subject and text of a mail for an operator."""
    change, about = alert.change, alert.change.condition
    instant = datetime.fromtimestamp(alert.at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    state = about.severity if change.began else "over"
    lines = [f"{change.line}.", ""]
    if change.began:
        lines += [f"What helps: {about.cure}", ""]
    else:
        lines += [f"It lasted {shown(change.seconds, 'seconds')}.", ""]
    lines += [
        f"condition  {about.name} (docs/troubleshooting.md)",
        f"subject    {about.subject}",
        f"seen by    {alert.role} on {socket.gethostname()}",
        f"at         {instant}",
    ]
    return f"[secondlook] {state}: {about.name} {about.subject}", "\n".join(lines) + "\n"


class AlertSender:
    """Call it with changes: they go to one channel, in order."""

    def __init__(self, channel: Channel, role: str, *, cooldown_seconds: float = 0.0) -> None:
        self._channel, self._role = channel, role
        self._calm = CalmChanges(cooldown_seconds)
        self._waiting: queue.Queue[Change] = queue.Queue(_MAX_WAITING)
        threading.Thread(target=self._run, name=f"alerts by {channel.name}", daemon=True).start()

    def __call__(self, change: Change) -> None:
        try:
            self._waiting.put_nowait(change)
        except queue.Full:
            log.warning(
                "%s: %d changes wait already, one is dropped: %s",
                self._channel.name,
                _MAX_WAITING,
                change.line,
            )

    def _run(self) -> None:
        while True:
            try:
                change = self._waiting.get(timeout=self._calm.wait_seconds(time.monotonic()))
                due = [change] if self._calm.take(change, time.monotonic()) else []
            except queue.Empty:
                due = self._calm.due(time.monotonic())
            for one in due:
                self._deliver(Alert(one, self._role))

    def _deliver(self, alert: Alert) -> None:
        for pause in (*self._channel.pauses, None):
            try:
                self._channel.send(alert)
                return
            except DeliveryFailed as error:
                if pause is None:
                    log.warning(
                        "%s: %s; dropped: %s", self._channel.name, redacted(str(error)), alert.change.line
                    )
                else:
                    time.sleep(pause)


def open_alerts(config: WatchConfig, smtp: SmtpConfig, role: str) -> Callable[[Change], None] | None:
    """What hears of changes as the settings have it; None where nobody shall. Raises ConfigError, SecretExposed."""
    senders = [
        AlertSender(channel, role, cooldown_seconds=config.cooldown_seconds)
        for channel in _channels(config, smtp)
    ]
    if not senders:
        return None

    def tell(change: Change) -> None:
        for sender in senders:
            sender(change)

    return tell


def _channels(config: WatchConfig, smtp: SmtpConfig) -> list[Channel]:
    channels: list[Channel] = []
    if config.webhook is not None:
        channels.append(WebhookChannel(config.webhook, _key(config)))
    if config.email:
        channels.append(MailChannel(Mailer(smtp), config.email))
    return channels


def _key(config: WatchConfig) -> bytes | None:
    if config.webhook_secret_file is None:
        return None
    try:
        return parse_secret(read_private(config.webhook_secret_file))
    except OSError as error:
        raise ConfigError(f"webhook: cannot read {config.webhook_secret_file}: {error}") from error
