"""The TCP connections behind a ROUTER's peers, so that one of them can be cut.

ZeroMQ authenticates a connection once, at its handshake, and has no call to end one of many. A message tells the
descriptor it came through; what is shut down by it is checked to be the same connection still, on a duplicate that
cannot become another one in between.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Peer = bytes
_Address = tuple[str, int]


@dataclass(frozen=True)
class _Connection:
    descriptor: int
    remote: _Address


class ConnectionTable:
    """The connections that were noted, by peer."""

    def __init__(self) -> None:
        self._connections: dict[Peer, _Connection] = {}

    def note(self, peer: Peer, descriptor: int) -> None:
        """Remember through which descriptor a peer's messages come."""
        with _duplicate(descriptor) as connection:
            remote = _remote(connection)
            if remote is not None:
                self._connections[peer] = _Connection(descriptor, remote)

    def __contains__(self, peer: Peer) -> bool:
        return peer in self._connections

    def __len__(self) -> int:
        return len(self._connections)

    def keep(self, wanted: Callable[[Peer], bool]) -> None:
        """Forget all peers but those."""
        self._connections = {
            peer: connection for peer, connection in self._connections.items() if wanted(peer)
        }

    def disconnect(self, peer: Peer) -> None:
        """End a noted peer's connection, unless it has ended already."""
        connection = self._connections.pop(peer, None)
        if connection is not None:
            disconnect(connection.descriptor, connection.remote)


def disconnect(descriptor: int, remote: _Address | None = None) -> None:
    """End the TCP connection of a descriptor; with ``remote`` only if that is its other end."""
    with _duplicate(descriptor) as connection:
        found = _remote(connection)
        if connection is not None and found is not None and remote in (None, found):
            with contextlib.suppress(OSError):  # the other side was faster
                connection.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def _duplicate(descriptor: int) -> Iterator[socket.socket | None]:
    """The socket behind a descriptor of another owner; None when it is closed or no socket any more."""
    connection: socket.socket | None = None
    copy = None
    try:
        copy = os.dup(descriptor)
        connection = socket.socket(fileno=copy)
    except OSError:
        if copy is not None:
            os.close(copy)
    try:
        yield connection
    finally:
        if connection is not None:
            connection.close()


def _remote(connection: socket.socket | None) -> _Address | None:
    """Address and port of the other end; None for what is not a TCP connection that stands."""
    if connection is None or connection.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    try:
        host, port = connection.getpeername()[:2]
    except OSError:
        return None
    return str(host), int(port)
