"""Who takes mail in tests: aiosmtpd on a real socket, which does what it is told."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

OK = "250 taken"
Answer = Callable[[str], str]


@dataclass
class MailServer:
    """`of_address` answers an address, `of_mail` says what a whole mail gets by its number, 1 being the first."""

    port: int = 0
    of_address: Answer = lambda _address: OK
    of_mail: Callable[[int], str] = lambda _number: OK
    password: bytes | None = None
    tried: int = 0
    taken: list[tuple[list[str], EmailMessage]] = field(default_factory=list)
    logins: list[tuple[bytes, bytes]] = field(default_factory=list)

    # --- what aiosmtpd calls

    async def handle_RCPT(
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        answer = self.of_address(address)
        if answer.startswith("2"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:
        self.tried += 1
        answer = self.of_mail(self.tried)
        if answer.startswith("2"):
            assert isinstance(envelope.content, bytes)
            message: Any = BytesParser(policy=default).parsebytes(envelope.content.replace(b"\r\n", b"\n"))
            self.taken.append((list(envelope.rcpt_tos), message))
        return answer

    def log_in(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _how: str, given: Any
    ) -> AuthResult:
        assert isinstance(given, LoginPassword)
        self.logins.append((given.login, given.password))
        return AuthResult(success=given.password == self.password, handled=False)


@contextmanager
def taking_mail(
    password: bytes | None = None, tls: ssl.SSLContext | None = None, *, implicit: bool = False
) -> Iterator[MailServer]:
    """`tls`: offered by STARTTLS, or, if `implicit`, spoken from the first byte on."""
    server = MailServer(password=password)
    loop = asyncio.new_event_loop()

    def session() -> SMTP:
        return SMTP(
            server,
            hostname="mail.test",
            tls_context=None if implicit else tls,
            require_starttls=tls is not None and not implicit,
            authenticator=server.log_in,
            auth_required=password is not None and not implicit,  # it warns, for it does not know of the TLS
            auth_require_tls=tls is not None and not implicit,
            loop=loop,
        )

    listener = socket.create_server(("127.0.0.1", 0))
    server.port = listener.getsockname()[1]
    opened = loop.run_until_complete(
        loop.create_server(session, sock=listener, ssl=tls if implicit else None)
    )
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(_closed(opened), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _closed(opened: asyncio.Server) -> None:
    opened.close()
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0.05)  # transports end


def certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate of 127.0.0.1 that signs itself, and what serves it; raises FileNotFoundError without openssl."""
    names = "subjectAltName=IP:127.0.0.1"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=mail.test"
    files = ["-addext", names, "-keyout", "mail.key", "-out", "mail.pem"]
    subprocess.run([*command.split(), *files], cwd=folder, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "mail.pem", folder / "mail.key")
    return folder / "mail.pem", context
