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
class _Wire:
    descriptor: int
    remote: _Address


class Wires:
    """The connections that were noted, by peer."""

    def __init__(self) -> None:
        self._wires: dict[Peer, _Wire] = {}

    def note(self, peer: Peer, descriptor: int) -> None:
        """Remember through which descriptor a peer's messages come."""
        with _duplicate(descriptor) as wire:
            remote = _remote(wire)
            if remote is not None:
                self._wires[peer] = _Wire(descriptor, remote)

    def __contains__(self, peer: Peer) -> bool:
        return peer in self._wires

    def __len__(self) -> int:
        return len(self._wires)

    def keep(self, wanted: Callable[[Peer], bool]) -> None:
        """Forget all peers but those."""
        self._wires = {peer: wire for peer, wire in self._wires.items() if wanted(peer)}

    def cut(self, peer: Peer) -> None:
        """End a noted peer's connection, unless it has ended already."""
        wire = self._wires.pop(peer, None)
        if wire is not None:
            cut(wire.descriptor, wire.remote)


def cut(descriptor: int, remote: _Address | None = None) -> None:
    """End the TCP connection of a descriptor; with ``remote`` only if that is its other end."""
    with _duplicate(descriptor) as wire:
        found = _remote(wire)
        if wire is not None and found is not None and remote in (None, found):
            with contextlib.suppress(OSError):  # the other side was faster
                wire.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def _duplicate(descriptor: int) -> Iterator[socket.socket | None]:
    """The socket behind a descriptor of another owner; None when it is closed or no socket any more."""
    wire: socket.socket | None = None
    copy = None
    try:
        copy = os.dup(descriptor)
        wire = socket.socket(fileno=copy)
    except OSError:
        if copy is not None:
            os.close(copy)
    try:
        yield wire
    finally:
        if wire is not None:
            wire.close()


def _remote(wire: socket.socket | None) -> _Address | None:
    """Address and port of the other end; None for what is not a TCP connection that stands."""
    if wire is None or wire.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    try:
        host, port = wire.getpeername()[:2]
    except OSError:
        return None
    return str(host), int(port)
