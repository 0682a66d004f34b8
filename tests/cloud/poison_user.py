"""A supervised worker that meets a poisoned picture: ``python -m tests.cloud.poison_user ROLE HARM ADDRESS FOLDER``.

As under systemd: whatever ends the worker, it is started again, and a watchdog kills it when it moves no more. It ends
with its parent, by SIGTERM. ROLE is ``machine`` or ``refiner``; HARM is what the poison does to it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np

import secondlook.cloud.workers.machine
import secondlook.cloud.workers.refiner
from secondlook.cloud.catalogue import open_catalogue
from secondlook.cloud.config import BrokerConfig, PolicyConfig, RefinerConfig, WorkerConfig
from secondlook.cloud.storage.blobs import open_blobs
from secondlook.cloud.workers.broker_client import BrokerClient
from secondlook.cloud.workers.machine import MachineWorker
from secondlook.cloud.workers.refiner import Refiner
from secondlook.shared.detection import Detection
from tests.cloud.helpers import Brighter, OneBox, PlainCodec

LEASE_SECONDS = 1.0
WATCHDOG_SECONDS = 2.0
ENHANCEMENT_LEVEL = 5
POISON_LEVEL = 66  # grey level of the base layer of a frame that harms machine workers
POISON_REVIEW_LEVEL = 77  # the same for refiners

HARMS: dict[str, Callable[[], None]] = {}


def harm(kind: Callable[[], None]) -> Callable[[], None]:
    HARMS[kind.__name__] = kind
    return kind


@harm
def raises() -> None:
    raise OverflowError("Python int too large to convert to SQLite INTEGER")


@harm
def memory() -> None:
    raise MemoryError


@harm
def kills() -> None:
    os._exit(9)


@harm
def hangs() -> None:
    time.sleep(3600)


def is_level(image: np.ndarray, level: int) -> bool:
    return int(image[0, 0, 0]) == level


class PoisonedBox(OneBox):
    def __init__(self, harm: Callable[[], None]) -> None:
        self.harm = harm

    def detect(self, image: np.ndarray) -> list[Detection]:
        if is_level(image, POISON_LEVEL):
            self.harm()
        return super().detect(image)


class PoisonedFilter(Brighter):
    def __init__(self, harm: Callable[[], None]) -> None:
        self.harm = harm

    def apply(
        self, image: np.ndarray, progress: Callable[[], None] = lambda: None, *, quality: int = 40
    ) -> np.ndarray:
        if is_level(image, POISON_REVIEW_LEVEL + ENHANCEMENT_LEVEL):
            self.harm()
        return super().apply(image, progress)


def work(
    role: str, harm: Callable[[], None], address: str, folder: str, beat: Callable[[], None]
) -> NoReturn:
    secondlook.cloud.workers.refiner._RETRY_SECONDS = 0.2
    secondlook.cloud.workers.machine.retry_delay = lambda _: 0.1  # type: ignore[assignment]
    name = f"{role}-{os.getpid()}"
    catalogue, blobs = open_catalogue(f"sqlite:///{folder}/catalogue.db"), open_blobs(f"{folder}/blobs")
    with BrokerClient(BrokerConfig(address=address), name) as broker:
        worker: MachineWorker | Refiner
        if role == "machine":
            worker = MachineWorker(
                broker,
                PlainCodec(),  # type: ignore[arg-type]
                PoisonedBox(harm),
                catalogue,
                blobs,
                PolicyConfig(uncertain_apart_seconds=0, once_per_object=False),
                WorkerConfig(lease_seconds=LEASE_SECONDS),
                heartbeat=beat,
            )
        else:
            worker = Refiner(
                name,
                broker,
                PlainCodec(),  # type: ignore[arg-type]
                PoisonedFilter(harm),
                catalogue,
                blobs,
                RefinerConfig(lease_seconds=LEASE_SECONDS, deadline_seconds=60),
                heartbeat=beat,
            )
        worker.run(threading.Event())
    os._exit(0)


def supervise(role: str, harm: Callable[[], None], address: str, folder: str) -> NoReturn:
    beats = Path(folder) / f"beat-{role}-{os.getpid()}"
    while True:
        beats.touch()
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            work(role, harm, address, folder, beats.touch)
        signal.signal(signal.SIGTERM, lambda *_, child=child: (os.kill(child, signal.SIGKILL), os._exit(0)))
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.time() - beats.stat().st_mtime > WATCHDOG_SECONDS:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.02)


if __name__ == "__main__":
    role, kind, address, folder = sys.argv[1:]
    supervise(role, HARMS[kind], address, folder)
