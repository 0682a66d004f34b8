"""A broker of MQTT 3.1.1 for tests: takes log-ins and messages of quality 1, and keeps what is retained."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class TestBroker:
    __test__ = False

    port: int
    password: bytes | None = None
    answers: bool = True  # whether it acknowledges what is published
    published: list[tuple[str, str, bool]] = field(default_factory=list)
    logins: list[tuple[bytes, bytes]] = field(default_factory=list)

    def retained(self) -> dict[str, str]:
        return {topic: payload for topic, payload, retain in self.published if retain}

    def serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError, EOFError):
            stream = connection.makefile("rb")
            with stream:
                while True:
                    first = stream.read(1)
                    if not first:
                        return
                    body = stream.read(_length(stream))
                    kind = first[0] >> 4
                    if kind == 1:
                        connection.sendall(b"\x20\x02\x00" + bytes([0 if self._admits(body) else 5]))
                    elif kind == 3 and self.answers:
                        size = struct.unpack(">H", body[:2])[0]
                        number, payload = body[2 + size : 4 + size], body[4 + size :]
                        topic = body[2 : 2 + size].decode()
                        self.published.append((topic, payload.decode(), bool(first[0] & 1)))
                        connection.sendall(b"\x40\x02" + number)
                    elif kind == 12:
                        connection.sendall(b"\xd0\x00")
                    elif kind == 14:
                        return

    def _admits(self, body: bytes) -> bool:
        flags, fields, at = body[7], [], 10
        while at < len(body):
            size = struct.unpack(">H", body[at : at + 2])[0]
            fields.append(body[at + 2 : at + 2 + size])
            at += 2 + size
        user, password = fields[-2:] if flags & 0xC0 == 0xC0 else (b"", b"")
        self.logins.append((user, password))
        return self.password in (None, password)


def _length(stream: object) -> int:
    value = shift = 0
    while True:
        byte = stream.read(1)[0]  # type: ignore[attr-defined]
        value |= (byte & 127) << shift
        if byte < 128:
            return value
        shift += 7


@contextmanager
def broker_running(password: bytes | None = None) -> Iterator[TestBroker]:
    listener = socket.create_server(("127.0.0.1", 0))
    broker = TestBroker(listener.getsockname()[1], password)
    open_now: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            open_now.append(connection)
            threads.append(threading.Thread(target=broker.serve, args=(connection,)))
            threads[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield broker
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for connection in open_now:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in (accepting, *threads):
            thread.join(10)
