"""A machine worker in a process of its own, with a detector that takes its time, and little patience with a backlog."""

from __future__ import annotations

import logging
import signal
import sys
import time
from pathlib import Path
from threading import Event

import numpy as np

from secondlook.cloud.catalogue import open_catalogue
from secondlook.cloud.config import CloudConfig
from secondlook.cloud.storage.blobs import open_blobs
from secondlook.cloud.workers import shedding
from secondlook.cloud.workers.broker_client import BrokerClient
from secondlook.cloud.workers.machine import MachineWorker
from secondlook.cloud.workers.presence import told_of
from secondlook.shared.config import load
from secondlook.shared.detection import Detection
from secondlook.shared.watchdog import Watchdog
from tests.cloud.helpers import PlainCodec

LOOK_SECONDS = 0.4


class SlowBox:
    name = "slow-box"

    def detect(self, image: np.ndarray) -> list[Detection]:
        time.sleep(LOOK_SECONDS)
        return [Detection("cat", 0.9, (1.0, 1.0, 5.0, 4.0))]


def main(config_file: str) -> None:
    config = load(Path(config_file), CloudConfig, {})
    # What takes minutes elsewhere takes seconds here.
    shedding.PERIOD_SECONDS, shedding.TRIAL_SECONDS, shedding.REST_SECONDS = 0.5, 3.0, 4.0
    stop, watchdog = Event(), Watchdog()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    catalogue, blobs = open_catalogue(config.catalogue_url), open_blobs(config.blobs_url)
    with BrokerClient(config.broker, "slow") as broker:
        worker = MachineWorker(
            broker,
            PlainCodec(),
            SlowBox(),
            catalogue,
            blobs,
            config.policy,
            config.worker,
            heartbeat=watchdog.heartbeat,
        )
        told = told_of(
            config.broker, "slow", "worker", watchdog, lambda: worker.done, "cpu", 0.2, lambda: worker.shed
        )
        with told:
            worker.run(stop)
    catalogue.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
