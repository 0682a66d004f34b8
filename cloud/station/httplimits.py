"""Settings of the station's HTTP: what connections may cost, and how the origins of pages are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from secondlook.shared.errors import ConfigError
from secondlook.shared.settings import Settings, within

_Stall = Annotated[float, within(0.001, 3600, "seconds")]


@dataclass(frozen=True)
class ConnectionLimits(Settings):
    """What connections of the station may cost."""

    # at once; one more takes the place of the one that has waited longest. A browser opens six.
    max_connections: Annotated[int, within(8, 65_535, "connections")] = 256
    request_seconds: _Stall = 15.0  # in which a request, head and body, must have come
    stall_seconds: _Stall = 30.0  # a reader who takes nothing for so long is cut


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
