"""A way to a station that is cut at random, in the middle of an answer."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit


class CuttingProxy:
    """Passes bytes on; each connection is cut after a random number of bytes of the answer."""

    def __init__(self, address: str, seed: int, most_bytes: int) -> None:
        parts = urlsplit(address)
        self._to = (str(parts.hostname), int(parts.port or 0))
        self._random, self._most_bytes = random.Random(seed), most_bytes
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.cuts = 0
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._listener.accept()
            except OSError:
                return
            there = socket.create_connection(self._to)
            thread = threading.Thread(target=self._serve, args=(here, there))
            thread.start()
            self._threads.append(thread)

    def _serve(self, here: socket.socket, there: socket.socket) -> None:
        with here, there:
            asked = threading.Thread(target=self._pass, args=(here, there, None))
            asked.start()
            self._pass(there, here, self._random.randint(1, self._most_bytes))
            asked.join()

    def _pass(self, source: socket.socket, target: socket.socket, limit: int | None) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if limit is not None and len(data) >= limit:
                    target.sendall(data[:limit])
                    self.cuts += 1
                    break
                target.sendall(data)
                limit = None if limit is None else limit - len(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@contextmanager
def cutting(address: str, *, seed: int = 1, most_bytes: int = 300_000) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(address, seed, most_bytes)
    try:
        yield proxy
    finally:
        proxy.close()
