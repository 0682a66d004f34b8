"""Asking a station over HTTP: with a token, and again where it does not answer. `Client` and `pull` use it."""

from __future__ import annotations

import random
import ssl
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx

from secondlook.shared.errors import ConfigError, StationRefused, StationUnreachable
from secondlook.shared.version import __version__

FIRST_PAUSE = 0.2  # seconds between two attempts; each is twice the one before
_ATTEMPTS = 4  # of a request that may be sent again
_AGAIN = (408, 425, 429, 502, 503, 504)


class StationLink:
    """For one thread at a time. No redirect is followed: a token goes to nobody but the station that was named."""

    def __init__(
        self,
        address: str,
        token: str | None = None,
        *,
        base: str = "",
        timeout_seconds: float = 30.0,
        ca_file: str | Path | None = None,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        """`address`: as browsers reach it, with the folder of a proxy if there is one; paths begin with `base`.
        `ca_file`: who signed its certificate, if that is nobody the system knows. Raises ConfigError."""
        headers = {"user-agent": f"secondlook/{__version__}"}
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        self.address = address.rstrip("/")
        self.timeout_seconds = timeout_seconds
        self._sleep = sleep or (lambda seconds: wait(seconds, None))
        try:
            url = httpx.URL(self.address)
            self.http = httpx.Client(
                base_url=self.address + base,
                headers=headers,
                timeout=timeout_seconds,
                verify=True if ca_file is None else ssl.create_default_context(cafile=str(ca_file)),
            )
        except (httpx.InvalidURL, OSError, ValueError) as error:
            raise ConfigError(f"cannot use the station at {address!r}: {error}") from error
        if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
            self.http.close()
            raise ConfigError(f"a station's address is http:// or https:// and a name, not {address!r}")

    def __enter__(self) -> StationLink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.http.close()

    def json(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        """An answer in JSON. Raises StationRefused, StationUnreachable."""
        try:
            return self.request("GET", path, query=query).json()
        except ValueError as error:
            raise StationUnreachable(f"the station's answer is not understood: {error}") from error

    def data(self, path: str) -> bytes:
        """The body of an answer. Raises StationRefused, StationUnreachable."""
        return self.request("GET", path).content

    def request(
        self, method: str, path: str, *, query: Mapping[str, Any] | None = None, body: object = None
    ) -> httpx.Response:
        """An answer that is a success. Raises StationRefused, and StationUnreachable after some attempts."""
        pause = FIRST_PAUSE
        for attempt in range(_ATTEMPTS):
            try:
                answer = self.http.request(method, path, params=given(query or {}), json=body)
                check(answer)
                return answer
            except httpx.TransportError as error:
                gone = self.unreached(error)
                gone.__cause__ = error
            except StationUnreachable as error:
                gone = error
            if attempt == _ATTEMPTS - 1:
                raise gone
            self._sleep(max(random.uniform(pause / 2, pause), gone.wait_seconds))
            pause *= 2
        raise AssertionError("the last attempt returns or raises")

    def unreached(self, error: Exception) -> StationUnreachable:
        return StationUnreachable(f"{self.address}: {' '.join(str(error).split()) or type(error).__name__}")


def check(answer: httpx.Response) -> None:
    """Raises StationUnreachable for what may be otherwise in a moment, StationRefused for any other refusal."""
    if answer.is_success:
        return
    try:
        detail = str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        detail = answer.reason_phrase
    if answer.status_code in _AGAIN:
        again = answer.headers.get("retry-after", "")
        raise StationUnreachable(
            f"the station answered {answer.status_code}: {detail}",
            wait_seconds=min(float(again) if again.isdecimal() else 0.0, 60.0),
        )
    raise StationRefused(answer.status_code, detail)


def given(query: Mapping[str, Any]) -> dict[str, Any]:
    """A query without what is left open."""
    return {name: value for name, value in query.items() if value is not None and value != []}


def wait(seconds: float, stop: threading.Event | None) -> None:
    """Until the time is over, or `stop` is set."""
    (stop or threading.Event()).wait(seconds)
