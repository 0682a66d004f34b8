"""What one connection may cost the station: heads of bounded size, senders and readers that get on.

uvicorn hands over whatever arrived, in pieces of up to 256 KB, and waits for ever; here a head has a size and a time,
a reader who takes nothing is cut, and when all places are taken the connection that has waited longest gives way.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from secondlook.cloud.config import ConnectionLimits

MAX_HEAD_BYTES = 32 * 1024
_PIECE_BYTES = 4096  # h11 gets so much at a time, so that it never holds more than a head and one piece
_TOO_LARGE = b"the request line and headers are too large"


def limited_protocol(limits: ConnectionLimits) -> type[H11Protocol]:
    """The protocol class for ``uvicorn.Config(http=...)``."""
    return type("LimitedProtocol", (_LimitedProtocol,), {"limits": limits})


class _LimitedProtocol(H11Protocol):
    limits: ConnectionLimits

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unread = bytearray()  # what came while the request before it is still being answered
        self._head_bytes = 0  # of the head that is not complete yet
        self._waits_since = 0.0
        self._request_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._unsent_bytes = 0

    # --- places

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_request()
        if len(self.connections) > self.limits.max_connections:
            waiting = [
                one for one in self.connections if isinstance(one, _LimitedProtocol) and one._is_idle()
            ]
            min(waiting, key=lambda one: one._waits_since, default=self)._cut()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._request_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        self._unread.clear()
        super().connection_lost(exc)

    def _is_idle(self) -> bool:
        """No request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _cut(self) -> None:
        self.connections.discard(self)
        self.transport.abort()

    # --- what comes in

    def data_received(self, data: bytes) -> None:
        self._unread += data
        self._feed()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._await_request()
        if self._unread:
            # Not from within: a hundred requests in one packet would call each other.
            self.loop.call_soon(self._feed)

    def _feed(self) -> None:
        while self._unread and not self.transport.is_closing():
            if self.conn.their_state is h11.DONE:  # one request after the other
                self.flow.pause_reading()
                return
            if self.conn.their_state is h11.MUST_CLOSE:
                self._unread.clear()
                return
            piece = bytes(self._unread[:_PIECE_BYTES])
            del self._unread[:_PIECE_BYTES]
            before = self.conn.their_state
            super().data_received(piece)
            if self.conn.their_state is h11.IDLE:
                self._head_bytes = self._head_bytes + len(piece) if before is h11.IDLE else len(piece)
                if self._head_bytes > MAX_HEAD_BYTES:
                    self._refuse()
            else:
                self._head_bytes = 0
                if self.conn.their_state is not h11.SEND_BODY:
                    self._stop_request_timer()

    def _refuse(self) -> None:
        self._unread.clear()
        headers = [("content-type", "text/plain; charset=utf-8"), ("connection", "close")]
        for event in (
            h11.Response(status_code=431, headers=headers, reason=b"Request Header Fields Too Large"),
            h11.Data(data=_TOO_LARGE),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _await_request(self) -> None:
        """A request, or the next one, must have come in so long."""
        self._stop_request_timer()
        self._waits_since = self.loop.time()
        self._request_timer = self.loop.call_later(self.limits.request_seconds, self._cut)

    def _stop_request_timer(self) -> None:
        if self._request_timer is not None:
            self._request_timer.cancel()
            self._request_timer = None

    # --- what goes out

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _watch_reader(self) -> None:
        self._unsent_bytes = self.transport.get_write_buffer_size()
        self._stall_timer = self.loop.call_later(self.limits.stall_seconds, self._check_reader)

    def _check_reader(self) -> None:
        if self.transport.get_write_buffer_size() >= self._unsent_bytes:
            self._cut()
        else:
            self._watch_reader()


class OneASecond(logging.Filter):
    """Lets each message of uvicorn through once a second: strangers must not fill the log."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if record.levelno >= logging.ERROR or now - self._said.get(record.msg, float("-inf")) >= 1.0:
            self._said[record.msg] = now
            return True
        return False
