"""Settings of whoever is told by `secondlook notify`: webhooks, e-mail, a broker, and how they are told."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from secondlook.shared.errors import ConfigError
from secondlook.shared.mail import check_addresses
from secondlook.shared.redact import redacted_address
from secondlook.shared.settings import DAY_SECONDS, Seconds, Settings, within

_Score = Annotated[float, within(0, 1, "")]
_Cooldown = Annotated[float, within(0, 7 * DAY_SECONDS, "seconds")]

_EVENTS = ("detection", "verdict", "review", "comment", "tombstone", "camera")


def _check_name(name: str) -> None:
    if re.fullmatch(r"[A-Za-z0-9._-]{1,56}", name) is None:
        raise ConfigError(f"name: {name!r} is not 1 to 56 of letters, digits and . _ -")


@dataclass(frozen=True, kw_only=True)
class ReceiverConfig(Settings):
    """What a receiver of any kind is told of."""

    events: tuple[str, ...] = ("detection", "verdict", "camera")  # of these, review, comment, tombstone
    cameras: tuple[str, ...] = ()  # of these camera hosts; none: of all
    labels: tuple[str, ...] = ()  # detections of these classes; none: of every one
    min_score: _Score = 0.5  # detections of this score or a higher one
    once_per_object: bool = True  # each object once, when it is first seen so; else in every frame
    # after one about a camera and class, none about the same; what is passed over is counted in the next
    cooldown_seconds: _Cooldown = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for event in self.events:
            if event not in _EVENTS:
                raise ConfigError(f"events: {event!r} is none of {', '.join(_EVENTS)}")


@dataclass(frozen=True)
class WebhookConfig(ReceiverConfig):
    """A receiver of signed messages, by HTTP. There may be several of these tables; docs/api.md says what is sent."""

    name: str  # what its messages are kept under: another name begins anew
    url: str  # https://, or http:// on a network of one's own
    secret_file: Path  # whsec_ and base64, for its owner's eyes alone
    # a receiver that is silent for so long has not taken the message
    timeout_seconds: Annotated[float, within(0.1, 120, "seconds")] = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_name(self.name)
        try:
            parts = urlsplit(self.url)
            known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            known = False
        if not known:
            raise ConfigError(f"url: {redacted_address(self.url)!r} is not as https://name/path")
        if parts.username is not None or parts.password is not None:
            raise ConfigError("url: no user and password in it; the signature says who sends")


@dataclass(frozen=True, kw_only=True)
class EmailConfig(ReceiverConfig):
    """People who get mails, by the server of `[smtp]`. There may be several of these tables; docs/api.md has more."""

    name: str  # what its messages are kept under: another name begins anew
    to: tuple[str, ...]  # addresses, all in one mail
    events: tuple[str, ...] = ("detection", "camera")  # of these, verdict, review, comment, tombstone
    # after one about a camera and class, none about the same; what is passed over is counted in the next
    cooldown_seconds: _Cooldown = 300.0
    station: str = ""  # address of the station, https://name: mails link to their frame there

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_name(self.name)
        if not self.to:
            raise ConfigError("to: nobody is named")
        check_addresses("to", self.to)
        if self.station and not self.station.startswith(("http://", "https://")):
            raise ConfigError(f"station {self.station!r} does not begin with http:// or https://")


@dataclass(frozen=True)
class MqttConfig(ReceiverConfig):
    """A broker that is told what happens. Needs the extra `mqtt`; docs/api.md names the topics."""

    host: str = ""  # name or address of the broker; none: no broker
    port: Annotated[int, within(1, 65_535, "")] = 1883  # 8883 with TLS, as a rule
    tls: bool = False  # whether the broker speaks TLS there
    ca_file: Path | None = None  # who signed its certificate; else the system's
    user: str = ""  # who logs in; none: nobody
    password_file: Path | None = None  # the user's; for its owner's eyes alone
    topic: str = "secondlook"  # all topics begin so
    discovery_topic: str = "homeassistant"  # where Home Assistant learns of cameras; empty: nowhere
    # a broker that is silent for so long has not taken the message
    timeout_seconds: Annotated[float, within(0.1, 120, "seconds")] = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("topic", "discovery_topic"):
            if re.fullmatch(r"[^+#\0]{0,200}", getattr(self, name)) is None:
                raise ConfigError(f"{name}: a topic has no + and # in it")
        if not self.topic:
            raise ConfigError("topic is empty")


@dataclass(frozen=True)
class NotifyConfig(Settings):
    """How other systems are told, by `secondlook notify`."""

    # between two looks at what has happened
    interval_seconds: Annotated[float, within(0.01, 3600, "seconds")] = 0.5
    silent_seconds: Seconds = 300.0  # a camera host of which nothing was stored for so long is silent
    # a message that was not taken for so long is given up, and kept in the dead-letter list
    give_up_hours: Annotated[float, within(0.0001, 8760, "hours")] = 24.0
    # of one receiver; beyond, what happens waits in the catalogue
    max_waiting: Annotated[int, within(1, 10_000_000, "messages")] = 100_000
    # of one receiver in the dead-letter list; beyond, the oldest go
    max_dead: Annotated[int, within(1, 10_000_000, "messages")] = 10_000
