"""Who takes webhooks in tests, on a real socket, and does what it is told."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from secondlook.webhooks import verify_webhook

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


@dataclass
class Receiver:
    """Answers with what `status` says of the number of the request; keeps what it has taken."""

    status: Callable[[int], int] = lambda _number: 204
    url: str = ""
    requests: int = 0
    taken: list[dict[str, Any]] = field(default_factory=list)
    refused: list[dict[str, Any]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ids(self) -> list[str]:
        with self.lock:
            return [message["id"] for message in self.taken]

    def types(self) -> list[str]:
        with self.lock:
            return [message["type"] for message in self.taken]


def secret_file(folder: Path) -> Path:
    path = folder / "hook.secret"
    path.write_text(SECRET + "\n")
    path.chmod(0o600)
    return path


@contextmanager
def receiving(status: Callable[[int], int] = lambda _number: 204) -> Iterator[Receiver]:
    receiver = Receiver(status)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            message = verify_webhook(body, dict(self.headers), SECRET)
            with receiver.lock:
                receiver.requests += 1
                answer = receiver.status(receiver.requests)
                (receiver.taken if answer < 300 else receiver.refused).append(message)
            self.send_response(answer)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False
    receiver.url = f"http://127.0.0.1:{server.server_address[1]}/hook"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
