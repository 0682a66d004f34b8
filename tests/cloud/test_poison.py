"""One picture that raises, runs out of memory, kills or hangs whoever looks at it: nobody else's is harmed.

Supervised workers, one and two of each kind, against a real gateway; see ``poison_user``.
"""

from __future__ import annotations

import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import select

from secondlook.cloud import catalogue as cat
from secondlook.cloud.config import BrokerConfig, QueueLimits
from secondlook.cloud.workers.broker_client import BrokerClient
from secondlook.shared import packet as p
from tests.cloud.helpers import Edge, base_frame, grey, running, settings
from tests.cloud.poison_user import ENHANCEMENT_LEVEL, HARMS, POISON_LEVEL, POISON_REVIEW_LEVEL

ROOT = Path(__file__).resolve().parents[2]
FRAMES = 8  # of each of two camera hosts
POISON_SEQ, POISON_REVIEW_SEQ = 1, 4
UNFINISHED = (cat.ReviewState.DUE, cat.ReviewState.LEASED)


@contextmanager
def supervised(roles: list[str], harm: str, address: str, folder: Path) -> Iterator[None]:
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.cloud.poison_user", role, harm, address, str(folder)], cwd=ROOT
        )
        for role in roles
    ]
    try:
        yield
        assert all(process.poll() is None for process in started)
    finally:
        for process in started:
            process.terminate()
            process.wait()


def level_of(edge_id: str, seq: int) -> int:
    if edge_id == "barn":
        poison = {POISON_SEQ: POISON_LEVEL, POISON_REVIEW_SEQ: POISON_REVIEW_LEVEL}
        return poison.get(seq, 10 + seq)
    return 30 + seq


def deliver(edge: Edge) -> None:
    edge.hello()
    edge.hello("control")
    for seq in range(FRAMES):
        edge.send(base_frame(seq, grey(level_of(edge.edge_id, seq))))
    while edge.expect().cumulative < FRAMES - 1:
        pass


def answer(edge: Edge) -> None:
    layer = grey(ENHANCEMENT_LEVEL)
    while (heard := edge.hear("control", 0.02)) is not None:
        if isinstance(heard, p.EnhancementRequest):
            edge.send(p.Chunk(heard.request_id, 0, len(layer), zlib.crc32(layer), layer), "control")


def reviews(catalogue: cat.Catalogue) -> dict[tuple[str, int], tuple[cat.ReviewState, str | None]]:
    with catalogue.reading() as session:
        rows = session.execute(
            select(cat.Frame.edge_id, cat.Frame.seq, cat.Review.state, cat.Review.why_expired).join(
                cat.Review, cat.Review.frame_id == cat.Frame.id
            )
        ).all()
    return {(edge_id, seq): (state, why) for edge_id, seq, state, why in rows}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("harm", sorted(HARMS))
def test_one_picture_harms_no_other(tmp_path: Path, harm: str, workers: int) -> None:
    config = settings(tmp_path, queue=QueueLimits(max_attempts=4))
    everything = {(edge_id, seq) for edge_id in ("barn", "gate") for seq in range(FRAMES)}
    honest = everything - {("barn", POISON_SEQ)}
    with (
        running(config) as gateway,
        Edge(gateway.edge_address, "barn") as barn,
        Edge(gateway.edge_address, "gate") as gate,
    ):
        deliver(barn)
        deliver(gate)
        catalogue = cat.open_catalogue(f"sqlite:///{tmp_path}/catalogue.db")
        roles = ["machine", "refiner"] * workers
        with (
            BrokerClient(BrokerConfig(address=gateway.broker_address), "looker") as broker,
            supervised(roles, harm, gateway.broker_address, tmp_path),
        ):
            deadline = time.monotonic() + 90
            while True:
                answer(barn)
                answer(gate)
                found, stats = reviews(catalogue), broker.stats()
                ended = [state for state, _ in found.values() if state not in UNFINISHED]
                if stats["depth"] == 0 and len(ended) == len(honest):
                    break
                assert time.monotonic() < deadline, (found, stats)
        catalogue.close()
    assert set(found) == honest
    bad = found.pop(("barn", POISON_REVIEW_SEQ))
    assert {state for state, _ in found.values()} == {cat.ReviewState.READY}
    assert bad[0] is cat.ReviewState.EXPIRED
    assert str(bad[1]).startswith("set aside: ")
    (dead,) = stats["dead_frames"]
    assert (dead["edge_id"], dead["seq"], dead["attempts"]) == ("barn", POISON_SEQ, 4)
    causes = {"raises": "OverflowError: Python int too large", "memory": "MemoryError"}
    assert causes.get(harm, "its last lease ran out") in dead["why"]
    assert causes.get(harm, "died or hung") in str(bad[1])
