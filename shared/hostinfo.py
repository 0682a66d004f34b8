"""What a Linux host tells of its temperature, of its processor being slowed down, and of its clock."""

from __future__ import annotations

import ctypes
from pathlib import Path

_SYS = Path("/sys")
_TIME_ERROR = 5  # of adjtimex(2): the clock is not synchronized


def temperatures(root: Path = _SYS) -> dict[str, float]:
    """Degrees Celsius by sensor, such as ``cpu-thermal``; sensors of one name are numbered."""
    found: dict[str, float] = {}
    for zone in sorted(root.glob("class/thermal/thermal_zone*")):
        value = _number(zone / "temp")
        if value is not None and -100_000 < value < 300_000:
            name = _text(zone / "type") or zone.name
            found[name if name not in found else f"{name}-{zone.name.removeprefix('thermal_zone')}"] = (
                value / 1000
            )
    return found


def throttle_counts(root: Path = _SYS) -> dict[str, int]:
    """How often cores, and the package, were slowed down since the start of the host."""
    found: dict[str, int] = {}
    for what in ("core", "package"):
        counts = [
            value
            for path in root.glob(f"devices/system/cpu/cpu[0-9]*/thermal_throttle/{what}_throttle_count")
            if (value := _number(path)) is not None
        ]
        if counts:
            found[what] = sum(counts) if what == "core" else max(counts)
    # A Raspberry Pi tells in bits: 0 to 3 are now (under-voltage, capped, slowed), 16 to 19 are since the start.
    bits = _text(root / "devices/platform/soc/soc:firmware/get_throttled")
    if bits:
        try:
            found["firmware"] = (int(bits, 16) >> 16).bit_count()
        except ValueError:
            return found
    return found


def clock_is_kept() -> bool | None:
    """Whether something keeps this host's clock in time (NTP, PTP); None where the kernel does not say."""
    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except (OSError, AttributeError):
        return None
    asked = ctypes.create_string_buffer(512)  # struct timex with modes = 0: nothing is changed
    state = int(adjtimex(asked))
    return None if state < 0 else state != _TIME_ERROR


def _number(path: Path) -> int | None:
    try:
        return int(_text(path) or "")
    except ValueError:
        return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:  # a sensor that sleeps answers with an error
        return None
