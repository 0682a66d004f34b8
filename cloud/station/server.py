"""Runs the station's app on a socket that is listening already."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from secondlook.shared.errors import ConfigError
from secondlook.shared.keyfiles import check_private

_GOODBYE_SECONDS = 10  # requests that take longer are cut off when the station is told to end


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


def serve(app: FastAPI, listener: socket.socket, certificate: Certificate | None = None) -> None:
    """Serve until SIGTERM or SIGINT. uvicorn raises that signal once more when it has ended: have a handler.

    Forwarded headers are the app's business: uvicorn by itself would trust them from every process of this machine.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_GOODBYE_SECONDS,
        ws="none",
        ssl_certfile=None if certificate is None else certificate.chain_file,
        ssl_keyfile=None if certificate is None else certificate.key_file,
    )
    uvicorn.Server(config).run(sockets=[listener])
