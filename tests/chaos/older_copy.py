"""A copy of all the cloud's stores, taken while everything runs, and put back after a while.

The order is that of docs/delivery.md: what a later copy has, an earlier one may lack, never the other way round. The
embedded stores are copied by SQLite itself. Servers are frozen while their files are copied, which leaves what a power
cut would; so that nothing leaves the queue between two copies, the machine workers are frozen for as long.
"""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

from tests.chaos.fleet import Fleet
from tests.chaos.settings import EDGES, WORKERS
from tests.cloud.servers import freeze

_FILES = ("gateway.db", "catalogue.db")
_SERVERS = {"database": "database", "broker": "nats"}  # ledger before queue; and their folders


class OlderCopy:
    """Of the stores of a fleet, in a folder beside them."""

    def __init__(self, fleet: Fleet) -> None:
        """Takes the copy."""
        self._fleet = fleet
        self._folder = fleet.folder / "older"
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        self._folder.chmod(0o711)
        if fleet.backend == "sqlite":
            self._copy_all()
            return
        working = [name for name in WORKERS if name in fleet.names]
        for name in working:
            fleet.signal(name, signal.SIGSTOP)
        self._copy_all()
        for name in working:
            fleet.signal(name, signal.SIGCONT)

    def put_back(self) -> None:
        """End everything but the camera hosts, and replace all stores. The fleet starts what has ended."""
        for name in self._fleet.names:
            if name not in EDGES:
                self._fleet.halt(name)
        # All start at once then, and who finds no database yet ends with an error, to be started again.
        self._fleet.excused |= {name for name in self._fleet.names if name not in EDGES}
        for name in _FILES:
            if (self._folder / name).exists():
                for ending in ("", "-wal", "-shm"):
                    (self._fleet.cloud / f"{name}{ending}").unlink(missing_ok=True)
                _copy_tree(self._folder / name, self._fleet.cloud)
        for name in (*_SERVERS.values(), "blobs"):
            if (self._folder / name).exists():
                shutil.rmtree(self._fleet.cloud / name, ignore_errors=True)
                _copy_tree(self._folder / name, self._fleet.cloud)

    def _copy_all(self) -> None:
        cloud = self._fleet.cloud
        self._copy_file(cloud / "gateway.db")
        for name, folder in _SERVERS.items():
            if name in self._fleet.names:
                pids = self._fleet.processes(name)
                for pid in pids:
                    freeze(pid, True)
                _copy_tree(cloud / folder, self._folder)
                for pid in pids:
                    freeze(pid, False)
        self._copy_file(cloud / "catalogue.db")
        _copy_tree(cloud / "blobs", self._folder)

    def _copy_file(self, path: Path) -> None:
        if path.exists():
            with (
                closing(sqlite3.connect(path)) as source,
                closing(sqlite3.connect(self._folder / path.name)) as copy,
            ):
                source.backup(copy)


def _copy_tree(source: Path, into: Path) -> None:
    """With owners and modes. What is renamed or deleted meanwhile is no part of it."""
    subprocess.run(["cp", "-a", str(source), str(into)], check=False, capture_output=True)
