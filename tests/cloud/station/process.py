"""The station as a process that a test can kill, stop and start again, and a line to it that can be cut."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx

from tests.cloud.servers import free_port, freeze, wait_for_port
from tests.cloud.test_crash import ENVIRONMENT, ROOT

_CHUNK = 65_536


class StationProcess:
    """`secondlook station` on a data folder, always on the same port."""

    def __init__(self, data_dir: Path, *flags: str) -> None:
        self.port = free_port()
        self._data_dir = data_dir
        self._flags = flags
        self._log = data_dir / "station.log"
        self.process = self._started()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _started(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "secondlook", "station", "--data-dir", str(self._data_dir)]
        with self._log.open("ab") as stream:
            process = subprocess.Popen(
                [*command, "--port", str(self.port), *self._flags],
                cwd=ROOT,
                env=ENVIRONMENT,
                stdout=stream,
                stderr=stream,
            )
        wait_for_port(self.port, process, self._log)
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(httpx.HTTPError):
                httpx.get(f"{self.address}/login", timeout=30)
                return process
            assert time.monotonic() < deadline, self._log.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        self.process = self._started()

    def freeze(self, frozen: bool) -> None:
        freeze(self.process.pid, frozen)

    def log(self) -> str:
        return self._log.read_text()

    def memory_mb(self) -> float:
        """Resident memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024


class Line:
    """Passes connections on to a port of this machine, until it is cut, or answers are kept back."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._is_cut = False
        self._keeps_answers = False
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def cut(self) -> None:
        """End all connections, and every new one at once."""
        self._is_cut = True
        self._end_all()

    def keep_answers(self) -> None:
        """Requests arrive, answers do not."""
        self._keeps_answers = True

    def mend(self) -> None:
        """End what hangs; new connections pass again."""
        self._is_cut = self._keeps_answers = False
        self._end_all()

    def close(self) -> None:
        self._listener.close()
        self._end_all()

    def _end_all(self) -> None:
        for end in list(self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                if self._is_cut:
                    raise ConnectionRefusedError
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                near.close()
                continue
            self._open |= {near, far}
            for source, sink in ((near, far), (far, near)):
                threading.Thread(
                    target=self._pass_on, args=(source, sink, source is far), daemon=True
                ).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK):
                if not (answers and self._keeps_answers):
                    sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._open.discard(source)
        source.close()
