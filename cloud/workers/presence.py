"""Tells the gateway every few seconds that a worker or refiner is there, and how its heartbeat does.

A thread with a connection of its own, so that it speaks while a picture takes minutes. It is no heartbeat: it passes on
the age of the one that the loop gives, so a loop that hangs is seen for what it is.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

from secondlook.cloud.config import BrokerConfig
from secondlook.cloud.workers.broker_client import BrokerClient
from secondlook.shared.errors import PacketMalformed, SecondlookError
from secondlook.shared.watchdog import Watchdog

log = logging.getLogger(__name__)

TELL_SECONDS = 5.0
_ANSWER_SECONDS = 1.0  # longer nobody who ends waits for it


@contextmanager
def told_of(
    config: BrokerConfig,
    name: str,
    role: Literal["worker", "refiner"],
    watchdog: Watchdog,
    done: Callable[[], int],
    device: str,
    seconds: float = TELL_SECONDS,
    shed: Callable[[], int] = lambda: 0,
) -> Iterator[None]:
    """Tell of this process while the block lasts; ``done`` counts its frames or reviews, ``shed`` those frames that
    it does not look at while it cannot keep up."""
    stop = threading.Event()

    def run() -> None:
        brief = replace(config, timeout_seconds=min(config.timeout_seconds, _ANSWER_SECONDS))
        tells_shed = True
        with BrokerClient(brief, name) as line:
            while True:
                leaves, many = stop.is_set(), shed() if tells_shed else 0
                try:
                    line.present(
                        role=role,
                        host=socket.gethostname()[:64],
                        age_seconds=watchdog.age_seconds,
                        waits=watchdog.waits_for or "",
                        done=done(),
                        device=device,
                        leaves=leaves,
                        shed=many,
                    )
                except PacketMalformed as error:  # a gateway of an earlier version
                    if many:
                        tells_shed = False
                        continue
                    log.info("the gateway does not want to know of workers: %s", error)
                    return
                except SecondlookError as error:  # it is away, and the loop that works says so
                    log.debug("%s", error)
                if leaves:
                    return
                stop.wait(seconds)

    thread = threading.Thread(target=run, name="presence", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        with contextlib.suppress(RuntimeError):
            thread.join(_ANSWER_SECONDS + 1)
