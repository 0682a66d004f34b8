"""The station's socket, and the app that is run on it."""

from __future__ import annotations

import logging
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from secondlook.cloud.config import ConnectionLimits
from secondlook.cloud.station.connections import MAX_HEAD_BYTES, OneASecond, limited_protocol
from secondlook.shared.errors import ConfigError, PortBusy
from secondlook.shared.keyfiles import check_private


@dataclass(frozen=True)
class Certificate:
    """A chain in PEM, and its key, which its owner alone may read."""

    chain_file: Path
    key_file: Path


def check_certificate(certificate: Certificate) -> None:
    """Raises ConfigError naming what is wrong with the files, SecretExposed."""
    try:
        check_private(certificate.key_file, certificate.key_file.stat())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # An empty password: a key that wants one is refused, instead of asking a terminal that is not there.
        context.load_cert_chain(certificate.chain_file, certificate.key_file, password="")
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"cannot use {certificate.chain_file} with {certificate.key_file}: {error.strerror or error}"
        ) from error


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket. Raises PortBusy, ConfigError."""
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except UnicodeError as error:
        raise ConfigError(f"station.host {host!r} is no name or address") from error
    except OSError as error:
        if listener is not None:
            listener.close()
        if isinstance(error, socket.gaierror):
            raise ConfigError(f"station.host {host}: {error.strerror}") from error
        raise PortBusy(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return listener


_LIMITS = ConnectionLimits()
_STOP_SECONDS = 5  # what is being answered may go on for so long


def serve(
    app: FastAPI,
    listener: socket.socket,
    certificate: Certificate | None = None,
    limits: ConnectionLimits = _LIMITS,
) -> None:
    """Serve until SIGTERM or SIGINT. uvicorn raises that signal once more when it has ended: have a handler.

    Forwarded headers are the app's business: uvicorn by itself would trust them from every process of this machine.
    """
    config = uvicorn.Config(
        app,
        http=limited_protocol(limits),
        h11_max_incomplete_event_size=2 * MAX_HEAD_BYTES,  # the protocol itself refuses before
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_graceful_shutdown=_STOP_SECONDS,
        ssl_certfile=None if certificate is None else certificate.chain_file,
        ssl_keyfile=None if certificate is None else certificate.key_file,
    )
    logger = logging.getLogger("uvicorn.error")
    if not any(isinstance(known, OneASecond) for known in logger.filters):
        logger.addFilter(OneASecond())
    _Server(config, app).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Tells streams to end before it waits for what is being answered."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.stopping.set()
        await super().shutdown(sockets)
