"""Addresses of servers that may carry a password: how a NATS address is read. `shared.redact` shows them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from secondlook.shared.errors import ConfigError
from secondlook.shared.redact import has_secret, redacted

__all__ = ["NatsAddress", "has_secret", "parse_nats", "redacted"]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")
_PORT = 4222


@dataclass(frozen=True)
class NatsAddress:
    """Where NATS is: servers as ``scheme://host:port``, how to log in, and the name that our streams begin with."""

    servers: tuple[str, ...]
    encrypted: bool
    user: str | None
    password: str | None
    name: str


def parse_nats(address: str) -> NatsAddress:
    """Read ``nats://[user:password@]host[:port][,host...][/name]``; ``tls://`` encrypts. Raises ConfigError."""
    parts = urlsplit(address)
    shown = redacted(address)
    if parts.scheme not in ("nats", "tls"):
        raise ConfigError(f"queue {shown}: only nats:// and tls:// addresses are known")
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    name = parts.path.strip("/") or "secondlook"
    if not hosts or _NAME.fullmatch(name) is None or parts.query or parts.fragment:
        raise ConfigError(f"queue {shown} is not nats://HOST:PORT/NAME")
    return NatsAddress(
        servers=tuple(f"{parts.scheme}://{_with_port(host)}" for host in hosts.split(",")),
        encrypted=parts.scheme == "tls",
        user=unquote(user) or None,
        password=unquote(password) or None,
        name=name,
    )


def _with_port(host: str) -> str:
    return host if re.search(r":\d+$", host) else f"{host}:{_PORT}"
