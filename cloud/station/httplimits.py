"""Settings of the station's HTTP: what connections may cost, and how the origins of pages are written."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from secondlook.shared.errors import ConfigError

_MOST_SECONDS = 3600.0
_FEWEST_CONNECTIONS = 8


@dataclass(frozen=True)
class ConnectionLimits:
    """What connections of the station may cost."""

    max_connections: int = 256  # at once; one more takes the place of the one that has waited longest
    request_seconds: float = 15.0  # in which a request, head and body, must have come
    stall_seconds: float = 30.0  # a reader who takes nothing for so long is cut

    def __post_init__(self) -> None:
        if self.max_connections < _FEWEST_CONNECTIONS:
            raise ConfigError(f"max_connections must be {_FEWEST_CONNECTIONS} or more: a browser opens six")
        times = (self.request_seconds, self.stall_seconds)
        if not all(0 < seconds <= _MOST_SECONDS for seconds in times):
            raise ConfigError(f"request_seconds and stall_seconds must be above 0, at most {_MOST_SECONDS:g}")


def parse_origin(text: str) -> str:
    """An address as the Origin header gives it, ``https://review.example.org:8443``. Raises ConfigError."""
    try:
        parts = urlsplit(text.lower().removesuffix("/"))
        name, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise ConfigError(f"origins: {text!r} is no address: {error}") from error
    host = f"[{name}]" if ":" in name else name
    origin = f"{parts.scheme}://{host}" + ("" if port is None else f":{port}")
    if parts.scheme not in ("http", "https") or not name or origin != parts.geturl():
        raise ConfigError(f"origins: {text!r} is not as https://name or https://name:port")
    return origin
