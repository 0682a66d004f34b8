"""`make pythons`: the demo from the wheel with each Python that is claimed, of those on PATH.

Each gets an environment of its own, which goes afterwards, with all extras but `training`, `cloud-gpu` and `dev`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
VERSIONS = ("3.11", "3.12", "3.13")
EXTRAS = "edge,cloud,models,completion,scale"
DEMO = ("demo", "--frames", "6", "--exit", "--no-open", "--port", "0")


def main() -> int:
    """1 where one of them fails, or where none is there."""
    found = {version: program for version in VERSIONS if (program := shutil.which(f"python{version}"))}
    for version in VERSIONS:
        if version not in found:
            print(f"python{version} is not on PATH")
    if not found:
        return 1
    with tempfile.TemporaryDirectory(prefix="secondlook-pythons-") as name:
        folder = Path(name)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
        subprocess.run([*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", name, str(ROOT)], check=True)
        (wheel,) = folder.glob("*.whl")
        return 1 if [version for version in found if not tried(version, found[version], wheel, folder)] else 0


def tried(version: str, program: str, wheel: Path, folder: Path) -> bool:
    """Whether the demo runs with one Python."""
    place = folder / version
    subprocess.run([program, "-m", "venv", str(place)], check=True)
    python = str(place / "bin" / "python")
    install = [
        python,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--quiet",
        "--only-binary=:all:",
    ]
    # nkeys, of the extra scale, comes as source alone.
    install += ["--no-binary=nkeys", f"secondlook[{EXTRAS}] @ {wheel.as_uri()}"]
    for what, command in (("install", install), ("demo", [python, "-m", "secondlook", *DEMO])):
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            print(f"Python {version}: {what} fails\n{done.stdout}{done.stderr}")
            return False
    print(f"Python {version}: the demo runs from the wheel with the extras {EXTRAS}", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
