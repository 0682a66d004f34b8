"""The camera: source → `Frame`, through a capture process that is killed when it stalls.

It stalls when it sends neither frames nor heartbeats: frames that are passed over, or wait for their time, are life
as well, at whatever rate frames are wanted.

A file or folder that fails is an error, and one that ends has ended. A live source that fails at the very
first try is an error as well, most likely a wrong address; one that worked before is opened again, after a
pause that doubles each time, up to a limit, with jitter.
"""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.connection
import random
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import resource_tracker
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from secondlook.edge.backoff import Backoff
from secondlook.edge.config import SourceConfig
from secondlook.edge.source import capture
from secondlook.edge.source.capture import Alive, Captured, Ended, Opened, Told
from secondlook.edge.source.sources import is_live, shown
from secondlook.shared import errors
from secondlook.shared.errors import SourceError, SourceStalled, SourceUnreadable

log = logging.getLogger(__name__)

SourceState = Literal["running", "reconnecting", "ended"]


@dataclass(frozen=True)
class Frame:
    """One captured image, height x width x 3 uint8 RGB, and the wall clock when it was taken.

    `place`: from where its source can be read on behind it; None where that has no meaning. `source_ns`: Unix
    nanoseconds by the clock of the source, where it says them.
    """

    image: npt.NDArray[np.uint8]
    captured_ns: int
    place: str | None = None
    source_ns: int | None = None


class Camera:
    """Reads one source. Not for use by several threads."""

    can_reopen = True

    def __init__(
        self,
        config: SourceConfig,
        rng: random.Random,
        after: str | None = None,
        *,
        is_patient: bool = False,
        from_server: bool = False,
        wakes: Sequence[int] = (),
    ) -> None:
        """`after`: the place of the last frame that an earlier run took. `wakes`: descriptors that end a wait.

        `is_patient`: a live source that fails at the very first try is tried again, too. `from_server`: the capture is
        a fork of a small process that has loaded what it needs, where many share the memory of that.
        """
        self._config = config
        self._after = after
        self._live = is_live(config.address)
        self._wakes = list(wakes)
        self._backoff = Backoff(config.retry_min_seconds, config.retry_max_seconds, rng)
        self._process: Any = None  # of either way to start one
        self._pipe: multiprocessing.connection.Connection | None = None
        self._deadline = 0.0  # the capture is killed if it has said nothing by then
        self._retry_at = 0.0
        self._worked = is_patient
        self._method = "forkserver" if from_server else "spawn"
        self.trouble: SourceError | None = None  # why the source does not work at the moment
        self.state: SourceState = "running"

    def read(self, timeout_seconds: float) -> Frame | None:
        """The next frame, or None when none came in time or the source has ended (see `state`).

        :raises SourceError: the source failed, and trying again would not help
        """
        if self.state == "ended":
            return None
        pause = self._retry_at - time.monotonic()
        if self._pipe is None and pause > 0:
            multiprocessing.connection.wait(self._wakes, min(pause, timeout_seconds))
            return None
        try:
            pipe = self._pipe or self._start()
        except (OSError, EOFError) as error:
            why = getattr(error, "strerror", None) or type(error).__name__
            self._failed(SourceUnreadable(f"capture from source {self._name} cannot be started: {why}"))
            return None
        try:
            ready = multiprocessing.connection.wait([pipe, *self._wakes], timeout_seconds)
            if pipe in ready:
                message = pipe.recv()
                if isinstance(message, Captured):
                    return self._receive(pipe, message)
                self._hear(message)
            elif time.monotonic() > self._deadline:
                self._failed(SourceStalled(f"source {self._name} delivered no frame in time"))
        except (EOFError, OSError):  # OSError: it ended in the middle of a message
            self._failed(SourceUnreadable(f"capture from source {self._name} ended unexpectedly"))
        return None

    def close(self) -> None:
        """End the capture; the state is "ended" from then on."""
        self._kill()
        self.state = "ended"

    @property
    def _name(self) -> str:
        return shown(self._config.address)

    def _start(self) -> multiprocessing.connection.Connection:
        """Start the capture. Raises OSError, or EOFError where the process that all captures are forks of has ended."""
        # Not fork: the agent has threads and sockets that a copy of it must not share.
        context: Any = multiprocessing.get_context(self._method)
        if self._method == "forkserver":
            context.set_forkserver_preload(["secondlook.edge.source.capture"])
        with ExitStack() as undo:
            near_end, far_end = context.Pipe(duplex=False)
            undo.callback(near_end.close)
            with far_end:
                process = context.Process(
                    target=capture.run, args=(far_end, self._config, self._after), daemon=True
                )
                resource_tracker.ensure_running()  # else it is started on the way, and unblocks the signals
                # It begins with the signals blocked that it is going to ignore: they may come to the whole group.
                before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
                try:
                    process.start()
                finally:
                    signal.pthread_sigmask(signal.SIG_SETMASK, before)
            undo.pop_all()
        self._process, self._pipe = process, near_end
        self._deadline = time.monotonic() + self._config.open_seconds
        return self._pipe

    def _receive(self, pipe: multiprocessing.connection.Connection, header: Captured) -> Frame:
        image = np.empty((header.height, header.width, 3), np.uint8)
        pipe.recv_bytes_into(image.data.cast("B"))
        self._alive()
        return Frame(image, header.captured_ns, header.place, header.source_ns)

    def _alive(self) -> None:
        self._deadline = time.monotonic() + self._config.stall_seconds
        self._worked = True
        self.trouble = None
        self._backoff.reset()
        if self.state == "reconnecting":
            log.info("source %s is back", self._name)
            self.state = "running"

    def _hear(self, message: Opened | Alive | Told | Ended) -> None:
        match message:
            case Opened():
                self._live = message.live
            case Alive():
                self._alive()
            case Told():
                log.warning("%s", message.text)
            case Ended(error=None):
                self.close()
            case Ended():
                self._failed(getattr(errors, str(message.error))(message.text))

    def _failed(self, error: SourceError) -> None:
        self._kill()
        self.trouble = error
        if not (self._live and self._worked):
            self.state = "ended"
            raise error
        pause = self._backoff.next()
        self._retry_at = time.monotonic() + pause
        self.state = "reconnecting"
        log.warning("%s; opening it again in %.1f s", error, pause)

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
            self._process = None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
