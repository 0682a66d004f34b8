"""The machine worker with the real codec, and a detector that finds one thing in every frame."""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path
from threading import Event

import numpy as np

from secondlook.cloud.catalogue import open_catalogue
from secondlook.cloud.config import CloudConfig
from secondlook.cloud.storage.blobs import open_blobs
from secondlook.cloud.workers.broker_client import BrokerClient
from secondlook.cloud.workers.machine import MachineWorker
from secondlook.shared.codec import load_codec
from secondlook.shared.config import load
from secondlook.shared.detection import Detection


class OneBox:
    """One box a frame: two boxes in the catalogue would show that a frame was filed twice."""

    name = "one-box"

    def detect(self, image: np.ndarray) -> list[Detection]:
        return [Detection("thing", 0.9, (1.0, 1.0, 5.0, 4.0))]


def main(config_file: str, name: str) -> None:
    config = load(Path(config_file), CloudConfig, {})
    stop = Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    codec = load_codec(config.worker.codec, threads=1)
    catalogue, blobs = open_catalogue(config.catalogue_url), open_blobs(config.blobs_url)
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s %(levelname)s {name} %(message)s")
    logging.info("ready")
    with BrokerClient(config.broker, name) as broker:
        MachineWorker(broker, codec, OneBox(), catalogue, blobs, config.policy, config.worker).run(stop)
    catalogue.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
