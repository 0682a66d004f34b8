"""axe-core, which finds what keeps people out of a page: taken from its npm package, one version, by its hash.

`python -m tests.cloud.station.axe` fetches it, as `make setup` does. It is a tool of the tests alone and not committed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE, VERSION = "axe-core", "4.10.3"
SHA256 = "0f2b4d7dcdf7d1219df8d1959ad68e565f51d14c3f0d88bb71cd59abeb956292"  # of the archive
FILE = "package/axe.min.js"
_PACK_SECONDS = 120


def kept_at() -> Path:
    """Where the script is kept from one run to the next."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "secondlook" / f"{PACKAGE}-{VERSION}-{SHA256[:12]}.js"


def axe_script() -> tuple[str | None, str]:
    """The script, and why there is none."""
    path = kept_at()
    if not path.is_file():
        reason = fetch(path)
        if reason is not None:
            return None, reason
    return path.read_text(encoding="utf-8"), ""


def fetch(path: Path) -> str | None:
    """Load the package and keep its script; the reason where that cannot be done. npm runs nothing of it."""
    npm = shutil.which("npm")
    if npm is None:
        return f"npm is not installed, which loads {PACKAGE}"
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", "--ignore-scripts", "--silent", "--fetch-retries=1", f"{PACKAGE}@{VERSION}"]
        try:
            subprocess.run(command, cwd=folder, capture_output=True, timeout=_PACK_SECONDS, check=True)
        except (subprocess.SubprocessError, OSError) as error:
            return f"npm cannot load {PACKAGE}@{VERSION}: {error}"
        (archive,) = Path(folder).glob("*.tgz")
        data = archive.read_bytes()
        if hashlib.sha256(data).hexdigest() != SHA256:
            raise ValueError(f"{archive.name} is not the {PACKAGE}@{VERSION} that was pinned")
        with tarfile.open(archive) as packed:
            file = packed.extractfile(FILE)
            assert file is not None
            script = file.read()
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_bytes(script)
    beside.replace(path)
    return None


def main() -> int:
    script, reason = axe_script()
    if script is None:
        print(f"{reason}: its tests will be skipped", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
