"""A pause of one camera, as a small file in its data folder: a running agent heeds it, and it outlives restarts."""

from __future__ import annotations

import json
from pathlib import Path

from secondlook.shared.files import make_folder, write_atomically

_FILE = "paused.json"


def pause(data_dir: Path, now: float, seconds: float | None) -> None:
    """Capture nothing from now on, for so long or until `resume`. Raises DiskFull or Unwritable."""
    make_folder(data_dir)
    until = None if seconds is None else now + seconds
    write_atomically(data_dir / _FILE, json.dumps({"since": now, "until": until}).encode())


def resume(data_dir: Path) -> bool:
    """Capture again. False where there was no pause. Raises OSError."""
    was_paused = (data_dir / _FILE).exists()
    (data_dir / _FILE).unlink(missing_ok=True)
    return was_paused


def is_paused(data_dir: Path, now: float) -> bool:
    """Whether a pause holds, at an instant of the wall clock; one that cannot be read holds, too."""
    try:
        until = json.loads((data_dir / _FILE).read_bytes())["until"]
        return until is None or now < float(until)
    except FileNotFoundError:
        return False
    except (OSError, ValueError, TypeError, KeyError):
        return True
