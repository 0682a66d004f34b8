"""One demo run: lay out a data folder, start the six processes, follow them, stop them, write the report."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import sys
import tempfile
import time
import urllib.request
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError

from secondlook.cloud.catalogue import Catalogue, open_catalogue
from secondlook.cloud.demo.children import Children
from secondlook.cloud.demo.edgestatus import EdgeStatus, EdgeTotals
from secondlook.cloud.demo.progress import Progress, line_of
from secondlook.cloud.demo.report import Counts, count, make_report
from secondlook.cloud.demo.settings import DemoConfig, choose_ports, cloud_settings, edge_settings, to_toml
from secondlook.cloud.storage.blobs import open_blobs
from secondlook.shared.errors import FramesLost, PipelineStalled, SecondlookError, Unwritable
from secondlook.shared.files import PUBLIC_FILE, make_folder, write_atomically

# Downstream first: whoever asks goes before whoever answers.
STOP_ORDER = ("edge", "retention", "refiner", "worker", "station", "gateway")

_LOOK_SECONDS = 0.5
_LINE_SECONDS = 5.0  # between status lines where a line cannot be overwritten
_START_SECONDS = 60.0
_GRACE_SECONDS = 10.0


class Demo:
    """The running demo in the data folder `folder`."""

    def __init__(self, config: DemoConfig, folder: Path) -> None:
        self._config = config
        self._folder = folder
        self._ports = choose_ports(config.port)
        self._children = Children(folder / "logs", restart=config.restart)
        self._edge = EdgeStatus(folder / "edge" / "status.json")
        self._progress = Progress(config.frames)
        self._shown, self._shown_at = "", 0.0
        self._line_is_open = False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._ports.station}/"

    def run(self) -> dict[str, Any] | None:
        """Run until done or interrupted; returns the report if one was asked for."""
        catalogue = open_catalogue(f"sqlite:///{self._folder / 'cloud' / 'catalogue.db'}")
        try:
            try:
                self._start()
                self._await_station()
                self._follow(catalogue)
            except KeyboardInterrupt:
                self._end_line()
                _say("stopping; Ctrl-C again ends at once")
            finally:
                self._stop()
                self._end_line()
            if not self._config.exit_when_done and self._config.report is None:
                return None
            return make_report(
                catalogue,
                open_blobs(str(self._folder / "cloud" / "blobs")),
                self._folder / "frames" if self._config.records_frames else None,
                self._edge.read(),
                self._edge.boots(),
            )
        finally:
            catalogue.close()

    def _stop(self) -> None:
        """End all processes in good order; when interrupted meanwhile, at once."""
        try:
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)  # they are heard already
            self._children.stop(STOP_ORDER, grace_seconds=_GRACE_SECONDS)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            self._children.kill()
            raise

    def _start(self) -> None:
        _say("starting six processes, from a camera's agent to the page where people look")
        cloud = self._write_settings("cloud.toml", cloud_settings(self._config, self._folder, self._ports))
        edge = self._write_settings("edge.toml", edge_settings(self._config, self._folder, self._ports))
        for role in ("gateway", "worker", "refiner", "station", "retention"):
            self._children.start(role, [role, "--config", str(cloud)])
        self._children.start("edge", ["edge", "--config", str(edge)])
        self._tell_processes()

    def _await_station(self) -> None:
        """Wait until the station answers, then tell where it is."""
        deadline = time.monotonic() + _START_SECONDS
        while True:
            self._check_children()
            try:
                with urllib.request.urlopen(self.address, timeout=2.0):
                    break
            except (URLError, OSError) as cause:
                if time.monotonic() > deadline:
                    raise PipelineStalled(f"the station does not answer at {self.address}") from cause
            time.sleep(0.1)
        _say(f"station  {self.address}")
        _say(
            "look     frames that need a person appear there: drag the slider from what machines saw to full quality"
        )
        _say(f"data     {self._folder}")
        if self._config.open_browser:
            webbrowser.open(self.address)

    def _follow(self, catalogue: Catalogue) -> None:
        """Show the state of things until all is done. Raises PipelineStalled, ChildEnded."""
        before: tuple[EdgeTotals, Counts] | None = None
        moved = time.monotonic()
        while True:
            self._check_children()
            edge = self._edge.read()
            counts = count(catalogue, self._edge.boots())
            now = time.monotonic()
            if before != (edge, counts):
                before, moved = (edge, counts), now
            done = _is_done(edge, counts)
            line = self._progress.shown(edge, counts, self._columns())
            self._show(line, now, last=done and self._config.exit_when_done)
            if self._config.exit_when_done:
                if done:
                    return
                if now - moved > self._config.stall_seconds:
                    raise PipelineStalled(
                        f"nothing moved for {self._config.stall_seconds:g} s: {line_of(edge, counts)}"
                    )
            time.sleep(_LOOK_SECONDS)

    def _check_children(self) -> None:
        restarted = self._children.check()
        if restarted:
            self._end_line()
        for role in restarted:
            _say(f"the {role} was killed and is started again")
        if restarted:
            self._tell_processes()

    def _tell_processes(self) -> None:
        """Write who runs where, for scripts that follow a demo, or kill parts of it to see what happens."""
        described = {"station": self.address, "pids": self._children.pids()}
        write_atomically(self._folder / "demo.json", json.dumps(described, indent=2).encode())

    def _show(self, line: str, now: float, *, last: bool) -> None:
        """Overwrite the status line on a terminal; elsewhere add one now and then, when it says something new."""
        if sys.stdout.isatty():
            print(f"\r\x1b[K{line}", end="\n" if last else "", flush=True)
            self._line_is_open = not last
        elif line != self._shown and (last or now - self._shown_at >= _LINE_SECONDS):
            self._shown, self._shown_at = line, now
            _say(line)

    def _end_line(self) -> None:
        """What comes next on a terminal begins on a line of its own."""
        if self._line_is_open:
            print(flush=True)
            self._line_is_open = False

    @staticmethod
    def _columns() -> int | None:
        """Of the terminal; None where lines may have any length."""
        return shutil.get_terminal_size().columns - 1 if sys.stdout.isatty() else None

    def _write_settings(self, name: str, settings: dict[str, Any]) -> Path:
        path = self._folder / name
        write_atomically(path, to_toml(settings).encode())
        return path


def run_demo(config: DemoConfig) -> int:
    """Run a demo and write its report. Raises DemoError, PortBusy, StorageError."""
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup wants it
        signal.signal(signal.SIGHUP, _interrupt)
    with _data_folder(config.data_dir) as folder:
        report = Demo(config, folder).run()
        if report is None:
            return 0
        text = json.dumps(report, indent=2)
        if config.report is not None:
            write_atomically(config.report, f"{text}\n".encode(), mode=PUBLIC_FILE)
        else:
            _say(text)
        frames = report["frames"]
        if config.exit_when_done and (frames["lost"] or frames["duplicated"]):
            raise FramesLost(f"{frames['lost']} frames lost, {frames['duplicated']} duplicated")
    return 0


def _interrupt(*_: object) -> None:
    """A supervisor's SIGTERM, and a terminal that is closed, end the demo as Ctrl-C does."""
    raise KeyboardInterrupt


@contextlib.contextmanager
def _data_folder(wanted: Path | None) -> Iterator[Path]:
    """The wanted folder, which stays; or a temporary one, which stays only after an error of ours, for its logs."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="secondlook-demo-")) if wanted is None else wanted.absolute()
    except OSError as cause:
        raise Unwritable(
            f"cannot use the data folder {wanted or 'for temporary files'}: {cause.strerror}"
        ) from cause
    for name in ("logs", "edge", "cloud", "frames"):
        try:
            make_folder(folder / name)
        except Unwritable as cause:
            raise Unwritable(f"cannot use the data folder {folder}: {cause}") from cause
    keep = wanted is not None
    try:
        yield folder
    except SecondlookError:
        keep = True
        _say(f"logs     {folder / 'logs'}")
        raise
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _is_done(edge: EdgeTotals, counts: Counts) -> bool:
    """Every captured frame is detected, or known to be dropped, and every review it caused has ended."""
    return (
        edge.source == "ended"
        and edge.captured > 0
        and counts.detected + counts.tombstoned >= edge.captured
        and counts.reviews_open == 0
    )


def _say(text: str) -> None:
    print(text, flush=True)
