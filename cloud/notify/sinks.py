"""Where messages go: what a sink is, and the one that posts webhooks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import httpx

from secondlook.cloud.catalogue.deliveries import Message
from secondlook.cloud.notify.messages import Wanted, wanted_by
from secondlook.cloud.receivers import WebhookConfig
from secondlook.shared.errors import ConfigError, DeliveryFailed
from secondlook.shared.keyfiles import read_private
from secondlook.shared.version import __version__
from secondlook.shared.webhooks import parse_secret, signed_headers


class Sink(Protocol):
    """Takes messages. Used by one thread."""

    name: str
    wanted: Wanted

    def send(self, message: Message) -> None:
        """Returns when the receiver has it. Raises DeliveryFailed."""
        ...

    def close(self) -> None: ...


class Webhook:
    """Posts each message, signed. A receiver answers with a status of 200 to 299 when it has it."""

    def __init__(self, config: WebhookConfig, *, now: Callable[[], float] = time.time) -> None:
        """Raises ConfigError, SecretExposed for a secret that cannot be used."""
        self.name = config.name
        self.wanted = wanted_by(config)
        self._url, self._now = config.url, now
        try:
            self._key = parse_secret(read_private(config.secret_file))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"webhook {config.name}: cannot read {config.secret_file}: {error}") from error
        # Whoever was posted to does not say where else a message goes.
        self._http = httpx.Client(timeout=config.timeout_seconds, follow_redirects=False)

    def send(self, message: Message) -> None:
        body = message.body.encode()
        headers = {
            **signed_headers(self._key, message.uid, int(self._now()), body),
            "content-type": "application/json",
            "user-agent": f"secondlook/{__version__}",
        }
        try:
            # What it says beside its status is of no interest, however long it is.
            with self._http.stream("POST", self._url, content=body, headers=headers) as answer:
                status = answer.status_code
        except httpx.HTTPError as error:
            raise DeliveryFailed(" ".join(str(error).split()) or type(error).__name__) from error
        if not 200 <= status < 300:
            raise DeliveryFailed(f"it answered {status}")

    def close(self) -> None:
        self._http.close()
