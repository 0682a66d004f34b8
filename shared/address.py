"""Which ZeroMQ addresses stay on this machine, so that a connection needs no encryption."""

from __future__ import annotations

import re

# Matched as a whole: "tcp://127.0.0.1:0;192.0.2.1:7601" is libzmq's way of naming a source address before the
# real one, and "127.0.0.1.example.org" is a host like any other.
_LOOPBACK = re.compile(r"tcp://(localhost|\[::1\]|127(\.\d{1,3}){3}):(\d{1,5}|\*)")
_LOCAL = ("ipc://", "inproc://")


def is_loopback(address: str) -> bool:
    """Whether a ZeroMQ address can be reached from this machine only."""
    return address.startswith(_LOCAL) or _LOOPBACK.fullmatch(address) is not None


def is_ipv6(address: str) -> bool:
    """Whether a ZeroMQ address names an IPv6 address; a host's name is looked up for IPv4.

    ZeroMQ's option for IPv6 stays off elsewhere: it would look up names such as localhost for IPv6 alone.
    """
    return address.startswith("tcp://[")
