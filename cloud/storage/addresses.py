"""Addresses of servers that may carry a password: how they are shown, and how a NATS address is read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from secondlook.shared.errors import ConfigError

# Everything between "scheme://" and the last "@" before the path; a password may hold "@" or ":" itself.
_CREDENTIALS = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*://)(?P<user>[^/?#\s:]*)(?::[^/?#\s]*)?@")
_SECRET_OPTION = re.compile(r"(?P<name>[?&](?:password|token|secret|key)=)[^&#\s]*", re.IGNORECASE)
# All before the last "@", whatever a password holds; looked at for a secret, so too much is better than too little.
_LOGIN = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*)://(?P<login>\S*)@")
_FILES = frozenset({"sqlite", "file"})
_TOKENS = frozenset({"nats", "tls"})
_NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")
_PORT = 4222


def redacted(text: str) -> str:
    """``text`` with the passwords of all addresses in it replaced by ``***``."""
    hidden = _CREDENTIALS.sub(lambda found: f"{found['scheme']}{found['user']}:***@", text)
    return _SECRET_OPTION.sub(lambda found: f"{found['name']}***", hidden)


def has_secret(address: str) -> bool:
    """Whether an address carries a password or another secret. A name alone is a secret to NATS only: a token."""
    if _SECRET_OPTION.search(address):
        return True
    login = _LOGIN.search(address)
    if login is None or login["scheme"].lower() in _FILES:
        return False
    _, colon, password = login["login"].partition(":")
    return bool(password) if colon else login["scheme"].lower() in _TOKENS


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
