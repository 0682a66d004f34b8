"""A camera host's link as a cable between two network namespaces: what is cut here, the kernel drops.

Connections do not end when the cable is out. They hang, as they do in the field, until somebody loses patience.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from itertools import count

from tests.chaos.proxy import Weather

# 198.18.0.0/15 is set aside for tests of network devices (RFC 2544); every run of this machine takes its own part.
_NETWORK = f"198.{18 + os.getpid() // 256 % 2}.{os.getpid() % 256}"
_SLOW = ("tbf", "rate", "120kbit", "burst", "4kb", "latency", "400ms")
_numbers = count()


class Namespace:
    """A network namespace with one cable to this one. `weather` may be changed at any time."""

    def __init__(self, target_port: int) -> None:
        """The server behind `target_port` has to listen on all addresses."""
        number = next(_numbers)
        if number >= 64:
            raise RuntimeError("a run has 64 cables at most")
        self._name = f"chaos-{os.getpid()}-{number}"
        self._near, self._far = (
            f"c{os.getpid()}n{number}",
            f"c{os.getpid()}f{number}",
        )  # 15 characters at most
        here, there = f"{_NETWORK}.{4 * number + 1}", f"{_NETWORK}.{4 * number + 2}"
        self.gateway = f"tcp://{here}:{target_port}"
        self.prefix = ("nsenter", f"--net=/run/netns/{self._name}", "--")
        self._weather = Weather.FINE
        _ip("netns", "add", self._name)
        _ip("link", "add", self._near, "type", "veth", "peer", "name", self._far, "netns", self._name)
        _ip("addr", "add", f"{here}/30", "dev", self._near)
        self._inside("addr", "add", f"{there}/30", "dev", self._far)
        self._inside("link", "set", "lo", "up")
        self._plug(near="up", far="up")

    @property
    def weather(self) -> Weather:
        return self._weather

    @weather.setter
    def weather(self, weather: Weather) -> None:
        # Cut: the camera host sees its own end go. Half open: the other end is gone, and it hears nothing of that.
        self._plug(
            near="down" if weather is Weather.HALF_OPEN else "up",
            far="down" if weather is Weather.CUT else "up",
        )
        if (weather is Weather.SLOW) != (self._weather is Weather.SLOW):
            self._slow(weather is Weather.SLOW)
        self._weather = weather

    def close(self) -> None:
        _ip("netns", "del", self._name)  # its end of the cable goes with it, and so the other one

    def _plug(self, *, near: str, far: str) -> None:
        _ip("link", "set", self._near, near)
        self._inside("link", "set", self._far, far)

    def _slow(self, slow: bool) -> None:
        for where, device in (((), self._near), (("-n", self._name), self._far)):
            change = ("add", "dev", device, "root", *_SLOW) if slow else ("del", "dev", device, "root")
            _run("tc", *where, "qdisc", *change)

    def _inside(self, *command: str) -> None:
        _ip("-n", self._name, *command)


def namespaces_permitted() -> bool:
    """Whether this process may make them, and has the programs."""
    if not all(map(shutil.which, ("ip", "tc", "nsenter"))):
        return False
    try:
        Namespace(1).close()
    except subprocess.CalledProcessError:
        return False
    return True


def _ip(*command: str) -> None:
    _run("ip", *command)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
