"""Asking a station, as a program does: with a token, and again where it does not answer."""

from __future__ import annotations

import http.client
import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from secondlook.shared.errors import ConfigError, RequestRefused, StationUnreachable

_ANSWER_SECONDS = 60.0
_WAITS_SECONDS = (0.5, 2.0, 8.0)  # before another attempt
_LATER = frozenset({408, 425, 429, 500, 502, 503, 504})


class Station:
    """A review station at an address, which may end in the folder of a proxy."""

    def __init__(
        self,
        address: str,
        token: str | None = None,
        ca_file: Path | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Raises ConfigError."""
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ConfigError(f"{address!r} is no station: it is as https://review.example.org")
        self.address = address.rstrip("/")
        self._token, self._sleep = token, sleep
        try:
            context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"cannot read certificates from {ca_file}: {error}") from error
        # No redirect: a token goes to nobody but the station that was named.
        self._opener = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=context), _NoRedirect()
        )

    def json(self, path: str, query: Mapping[str, Any]) -> Any:
        """An answer in JSON. Raises RequestRefused, StationUnreachable."""
        data = self.data(f"{path}?{urlencode(query)}" if query else path)
        try:
            return json.loads(data)
        except ValueError as error:
            raise RequestRefused(f"{self.address}{path} answered with something else than JSON") from error

    def data(self, path: str) -> bytes:
        """The body of an answer. Raises RequestRefused, StationUnreachable after some attempts."""
        for wait in (*_WAITS_SECONDS, None):
            try:
                return self._attempt(path)
            except StationUnreachable:
                if wait is None:
                    raise
                self._sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def _attempt(self, path: str) -> bytes:
        headers = {"accept": "*/*"}
        if self._token is not None:
            headers["authorization"] = f"Bearer {self._token}"
        request = urllib.request.Request(self.address + path, headers=headers)
        try:
            with self._opener.open(request, timeout=_ANSWER_SECONDS) as answer:
                data: bytes = answer.read()
                return data
        except urllib.error.HTTPError as error:
            what = f"{self.address}{urlsplit(path).path}: {error.code} {_reason(error)}"
            raise (StationUnreachable if error.code in _LATER else RequestRefused)(what) from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise StationUnreachable(f"{self.address} is not reached: {reason}") from error


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        detail = json.loads(error.read(65_536))["detail"]
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
        return str(error.reason)
    return detail if isinstance(detail, str) else json.dumps(detail)
