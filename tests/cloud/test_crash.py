"""SIGKILL at the worst moments, with real processes: nothing is lost, nothing comes twice."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import func, select

from secondlook.cloud import catalogue as cat
from secondlook.cloud.config import BrokerConfig
from secondlook.cloud.workers.broker_client import BrokerClient
from secondlook.shared import packet as p
from secondlook.shared.link import Received
from tests.cloud.helpers import BOOT, Edge, base_frame, grey, running, settings

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
FRAMES = 400
IN_FLIGHT = 40

# A worker as the real one is put together, but for the model, and killed at a point that argv names.
WORKER = """
import os, signal, sys
from secondlook.cloud.storage.blobs import open_blobs
from secondlook.cloud.workers.broker_client import BrokerClient
from secondlook.cloud.catalogue import open_catalogue
from secondlook.cloud.config import BrokerConfig, WorkerConfig
from secondlook.cloud.workers.machine import MachineWorker
from secondlook.cloud.config import PolicyConfig
from tests.cloud.helpers import OneBox, PlainCodec

address, folder, dies_at = sys.argv[1:]

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

class Codec(PlainCodec):
    pass

class Detector(OneBox):
    pass

with BrokerClient(BrokerConfig(address=address), dies_at) as broker:
    if dies_at == "decode":
        Codec.decode_base = die
    if dies_at == "detect":
        Detector.detect = die
    if dies_at == "ack":
        broker.ack = die
    worker = MachineWorker(
        broker, Codec(), Detector(), open_catalogue(f"sqlite:///{folder}/catalogue.db"),
        open_blobs(f"{folder}/blobs"), PolicyConfig(uncertain_apart_seconds=0), WorkerConfig(lease_seconds=0.3),
    )
    while broker.stats()["depth"]:
        worker.step()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def gateway_process(folder: Path, edges: int, workers: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "secondlook", "gateway", "--data-dir", str(folder)]
    command += ["--listen", f"tcp://127.0.0.1:{edges}", "--listen-workers", f"tcp://127.0.0.1:{workers}"]
    with subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def deliver_until(edge: Edge, safe: Received, target: int) -> None:
    """Send what is not acknowledged, a window at a time, until ``target`` is safe; greet when asked to."""
    deadline = time.monotonic() + 30
    while safe.cumulative < target:
        assert time.monotonic() < deadline, safe.cumulative
        window = [seq for seq in range(safe.cumulative + 1, safe.cumulative + 1 + IN_FLIGHT) if seq < FRAMES]
        for seq in window:
            if seq not in safe:
                edge.send(base_frame(seq, seq.to_bytes(4, "big") * 200))
        while (heard := edge.hear(seconds=0.3)) is not None:
            if isinstance(heard, p.Fault):
                assert heard.code == "hello-first"
                edge.send(p.Hello(edge.edge_id, BOOT, "bulk", "yard", 0, 0, "test"))
            elif isinstance(heard, p.Welcome | p.Ack):
                # What was safe must stay safe, whatever happened to the gateway.
                assert isinstance(heard, p.Ack) or heard.cumulative >= safe.cumulative
                if heard.cumulative >= 0:
                    safe.add(0, heard.cumulative)
                for first, last in getattr(heard, "selective", ()):
                    safe.add(first, last)
                if safe.cumulative >= min(window[-1], target):
                    break


def test_a_gateway_killed_again_and_again_keeps_every_acknowledged_frame_once(tmp_path: Path) -> None:
    edges, workers = free_port(), free_port()
    safe = Received()
    with Edge(f"tcp://127.0.0.1:{edges}") as edge:
        for target in (70, 190, 300, FRAMES - 1):
            with gateway_process(tmp_path, edges, workers) as process:
                edge.send(p.Hello("gate", BOOT, "bulk", "yard", 0, 0, "test"))
                deliver_until(edge, safe, target)
                # Still more is on its way when it dies.
                for seq in range(safe.cumulative + 1, min(FRAMES, safe.cumulative + IN_FLIGHT)):
                    edge.send(base_frame(seq, seq.to_bytes(4, "big") * 200))
                os.kill(process.pid, signal.SIGKILL)
    with (
        gateway_process(tmp_path, edges, workers),
        BrokerClient(BrokerConfig(address=f"tcp://127.0.0.1:{workers}", timeout_seconds=20), "w1") as broker,
    ):
        seen: Counter[int] = Counter()
        while leased := broker.lease(16, 60):
            for item in leased:
                assert item.frame.payload == item.frame.info.seq.to_bytes(4, "big") * 200
                seen[item.frame.info.seq] += 1
        assert seen == Counter(range(FRAMES))
        assert broker.stats()["received"] == FRAMES


def test_a_worker_killed_at_any_step_files_every_frame_once(tmp_path: Path) -> None:
    with running(settings(tmp_path)) as gateway, Edge(gateway.edge_address) as edge:
        edge.hello()
        for seq in range(6):
            edge.send(base_frame(seq, grey(seq + 1)))
        while edge.expect().cumulative < 5:
            pass
        for dies_at in ("decode", "detect", "ack", "never"):
            command = [sys.executable, "-c", WORKER, gateway.broker_address, str(tmp_path), dies_at]
            ended = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, check=False, timeout=60)
            assert ended.returncode == (0 if dies_at == "never" else -signal.SIGKILL)
            time.sleep(0.3)  # the dead worker's lease
        with BrokerClient(BrokerConfig(address=gateway.broker_address), "w1") as broker:
            stats = broker.stats()
            assert (stats["depth"], stats["dead"]) == (0, 0)
    catalogue = cat.open_catalogue(f"sqlite:///{tmp_path}/catalogue.db")
    with catalogue.reading() as session:
        assert session.scalars(select(cat.Frame.seq).order_by(cat.Frame.seq)).all() == list(range(6))
        for table in (cat.DetectedBox, cat.Review):
            assert session.scalar(select(func.count()).select_from(table)) == 6
    catalogue.close()
