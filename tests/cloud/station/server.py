"""The station on a real socket, for the time of a test."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import uvicorn
from fastapi import FastAPI


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """Serve ``app`` on a free loopback port; gives its address, as ``http://127.0.0.1:port``."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none", proxy_headers=False))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.002)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)


@contextmanager
def client_of(app: FastAPI, host: str | None = None) -> Iterator[httpx.Client]:
    """A client of ``app``, which it names ``host`` when that is given."""
    headers = {} if host is None else {"host": host}
    with serving(app) as address, httpx.Client(base_url=address, headers=headers, timeout=20) as client:
        yield client
