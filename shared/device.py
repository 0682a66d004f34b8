"""The names of devices that networks run on, as settings and flags give them."""

from __future__ import annotations

import re

from secondlook.shared.errors import ConfigError

DEVICES = "auto, cpu, cuda or cuda:N"
_DEVICE = re.compile(r"auto|cpu|cuda(?::(\d{1,2}))?", re.ASCII)


def check_device(name: str) -> None:
    """Raises ConfigError unless `name` is a device: `auto`, `cpu`, `cuda` (the first GPU) or `cuda:N`."""
    if _DEVICE.fullmatch(name) is None:
        raise ConfigError(f"device {name!r} is not one of {DEVICES}")


def gpu_of(name: str) -> int | None:
    """The GPU that a device stands for or, with `auto`, prefers: its number. None for the CPU.

    Raises ConfigError for a name that is none.
    """
    check_device(name)
    if name == "cpu":
        return None
    return int(name.partition(":")[2] or 0)
