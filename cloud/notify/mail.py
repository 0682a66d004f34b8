"""Telling people by e-mail: a message as a few lines of text, with a link to its frame in the station."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from secondlook.cloud.catalogue.deliveries import Message
from secondlook.cloud.notify.messages import wanted_by
from secondlook.cloud.receivers import EmailConfig
from secondlook.cloud.station.api.cameras import CAMERA
from secondlook.shared.mail import Mailer, SmtpConfig


class Email:
    """A sink: each message is one mail, to all addresses of its table."""

    def __init__(self, config: EmailConfig, smtp: SmtpConfig) -> None:
        """Raises ConfigError, SecretExposed for a password or certificate that cannot be used."""
        self.name = config.name
        self.wanted = wanted_by(config)
        self._to, self._station = config.to, config.station
        self._mailer = Mailer(smtp)

    def send(self, message: Message) -> None:
        subject, text = mail_of(message.kind, json.loads(message.body), self._station)
        self._mailer.send(self._to, subject, text, message.uid)

    def close(self) -> None:
        """Nothing is open between two mails."""


def mail_of(kind: str, body: Mapping[str, Any], station: str) -> tuple[str, str]:
    """Subject and text. `body` is the message as a webhook gets it, `station` its address, or empty."""
    event, _, what = kind.partition(".")
    facts: dict[str, Any] = body["data"][event]
    lines = [
        f"{name.replace('_', ' '):14}  {_shown(value)}" for name, value in facts.items() if _tells(value)
    ]
    if passed_over := body.get("passed_over"):
        lines += ["", f"{passed_over} more like it were not mailed meanwhile (cooldown_seconds)."]
    if station and (page := _page(event, facts)):
        lines += ["", f"{station.rstrip('/')}/{page}"]
    text = "\n".join([f"{kind} at {body['timestamp']}", "", *lines]) + "\n"
    return f"[secondlook] {_subject(event, what, facts)}", text


def _subject(event: str, what: str, facts: Mapping[str, Any]) -> str:
    if event == CAMERA:
        return f"camera {facts['name'] or facts['id']} is {what}"
    camera = facts["camera"]
    if event == "detection":
        return f"{facts['label']} at {camera} ({facts['score']:.2f})"
    if event == "verdict":
        return f"{facts['verdict']} {what} by {facts['reviewer']}: review {facts['review_id']} of {camera}"
    if event == "tombstone":
        return (
            f"frames {facts['first_seq']} to {facts['last_seq']} of {camera} were dropped: {facts['reason']}"
        )
    if event == "comment":
        return f"comment {what} by {facts['author']}: review {facts['review_id']} of {camera}"
    return f"review {facts['id']} of {camera} {what}"


def _page(event: str, facts: Mapping[str, Any]) -> str:
    """Where the station shows it; empty for what has no page."""
    if event == "detection":
        return f"frames/{facts['frame_id']}"
    if event in ("verdict", "comment"):
        return f"reviews/{facts['review_id']}"
    if event == "review":
        return f"reviews/{facts['id']}"
    return "cameras" if event == CAMERA else ""


def _tells(value: object) -> bool:
    return value not in (None, "", [], {})


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
