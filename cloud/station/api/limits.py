"""How much each caller may ask: requests a second, and streams at a time."""

from __future__ import annotations

import math
import threading

from secondlook.cloud.accounts import Principal
from secondlook.cloud.config import ApiLimits
from secondlook.cloud.gateway.ratelimit import Latest, TokenBucket

_MAX_REMEMBERED = 10_000  # callers


class CallerLimits:
    """Counts requests by token, or by person where none came; without a clock, ``now`` is seconds. For all threads."""

    def __init__(self, limits: ApiLimits) -> None:
        self._buckets = Latest(
            lambda now: TokenBucket(limits.requests_per_second, limits.burst_requests, now=now),
            most=_MAX_REMEMBERED,
        )
        self._max_streams = limits.max_streams
        self._streams = 0
        self._lock = threading.Lock()

    def wait_seconds(self, caller: Principal, now: float) -> int:
        """0 where a request may pass, and is counted; else in how many seconds the next one may."""
        with self._lock:
            bucket = self._buckets.of(caller.key, now)
            wait = bucket.seconds_until(1.0, now)
            if wait <= 0:
                bucket.take(1.0, now)
        return math.ceil(wait)

    def open_stream(self) -> bool:
        """Whether there is a place for one more; it is taken until `close_stream`."""
        with self._lock:
            if self._streams >= self._max_streams:
                return False
            self._streams += 1
            return True

    def close_stream(self) -> None:
        with self._lock:
            self._streams -= 1
