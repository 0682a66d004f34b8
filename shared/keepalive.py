"""How a ZeroMQ socket finds out that the machine at the other end is gone.

TCP itself asks, and gives up on what stays unacknowledged. ZeroMQ's heartbeats must stay off: when a connection breaks
whose messages wait to be read (as many as RCVHWM), libzmq 4.3.5 keeps it until they are, and the next heartbeat
on it aborts the process (zeromq/libzmq#4841). Any peer could bring that about. Whether the other *program* still
works is asked by what it should say: `silence_seconds` at a camera host, `timeout_seconds` at a worker.
"""

from __future__ import annotations

_GONE_SECONDS = 15  # without a sign of the other machine
_PROBES = 3
_OPTIONS = {
    "tcp_keepalive": 1,
    "tcp_keepalive_idle": _GONE_SECONDS // _PROBES,
    "tcp_keepalive_intvl": _GONE_SECONDS // _PROBES,
    "tcp_keepalive_cnt": _PROBES - 1,
    "tcp_maxrt": 1000 * _GONE_SECONDS,
}


IDLE_SECONDS = 30  # on the links of camera hosts, where each probe may cost money


def set_keepalive(socket: object, *, idle_seconds: int | None = None) -> None:
    """Connections of a pyzmq socket end 15 s after the last sign of the other machine. Before `bind`, `connect`.

    Where nothing is under way, that is asked every 5 s, or every `idle_seconds`; what is under way is never unanswered
    for longer than the 15 s.
    """
    for name, value in _OPTIONS.items():
        setattr(socket, name, value)
    if idle_seconds is not None:
        setattr(socket, "tcp_keepalive_idle", idle_seconds)  # noqa: B010 an attribute of pyzmq's own making
