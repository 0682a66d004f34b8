"""Machine worker and refiner against a real gateway and real stores, with a codec of a few lines."""

from __future__ import annotations

import hashlib
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from sqlalchemy import select

from secondlook.cloud import catalogue as cat
from secondlook.cloud.catalogue import Catalogue, open_catalogue
from secondlook.cloud.config import (
    BrokerConfig,
    CloudConfig,
    PolicyConfig,
    QueueLimits,
    RefinerConfig,
    WorkerConfig,
)
from secondlook.cloud.gateway.server import Gateway
from secondlook.cloud.storage.blobs import Blobs, open_blobs
from secondlook.cloud.workers.broker_client import BrokerClient
from secondlook.cloud.workers.machine import MachineWorker, retry_delay
from secondlook.cloud.workers.refiner import Refiner
from secondlook.shared import packet as p
from secondlook.shared.errors import GatewayUnreachable, PacketMalformed
from tests.cloud.helpers import (
    BOOT,
    Brighter,
    Edge,
    OneBox,
    PlainCodec,
    base_frame,
    grey,
    running,
    settings,
    wait_until,
)


class Site:
    """A gateway, an edge that has said hello, stores, and one worker of each kind."""

    def __init__(self, gateway: Gateway, edge: Edge, folder: Path) -> None:
        self.edge = edge
        self.catalogue: Catalogue = open_catalogue(f"sqlite:///{folder}/catalogue.db")
        self.blobs: Blobs = open_blobs(str(folder / "blobs"))
        self.broker = BrokerClient(BrokerConfig(address=gateway.broker_address), "w1")
        self.skew_seconds = 0.0
        self.machine = MachineWorker(
            self.broker,
            PlainCodec(),
            OneBox(),
            self.catalogue,
            self.blobs,
            PolicyConfig(uncertain_apart_seconds=0, once_per_object=False),
            WorkerConfig(),
        )
        self.refiner = self.make_refiner("r1")

    def make_refiner(self, owner: str) -> Refiner:
        return Refiner(
            owner,
            self.broker,
            PlainCodec(),
            Brighter(),
            self.catalogue,
            self.blobs,
            RefinerConfig(deadline_seconds=60),
            lambda: time.time() + self.skew_seconds,
        )

    def deliver(self, *frames: p.BaseFrame | p.Tombstone) -> None:
        for frame in frames:
            self.edge.send(frame)
        last = max(frame.last_seq if isinstance(frame, p.Tombstone) else frame.info.seq for frame in frames)
        while self.edge.expect().cumulative < last:
            pass

    def frames(self) -> list[tuple[int, int]]:
        """Sequence and number of detections of every filed frame."""
        with self.catalogue.reading() as session:
            rows = session.scalars(select(cat.Frame).order_by(cat.Frame.seq)).all()
            return [(row.seq, len(row.detections)) for row in rows]

    def review(self, id_: int = 1) -> cat.Review:
        with self.catalogue.reading() as session:
            return session.get_one(cat.Review, id_)

    def answer(self, layer_of: dict[int, bytes]) -> None:
        """Answer as many requests as there are layers."""
        for request in [self.edge.expect("control") for _ in layer_of]:
            layer = layer_of[request.seq]
            self.edge.send(p.Chunk(request.request_id, 0, len(layer), zlib.crc32(layer), layer), "control")
            assert self.edge.expect("control") == p.ChunkCredit(request.request_id, len(layer))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    config: CloudConfig = settings(tmp_path, queue=QueueLimits(max_attempts=2))
    with running(config) as gateway, Edge(gateway.edge_address) as edge:
        edge.hello()
        edge.hello("control")
        site = Site(gateway, edge, tmp_path)
        with site.broker:
            yield site
        site.catalogue.close()


def test_a_frame_is_decoded_searched_filed_and_acknowledged(site: Site) -> None:
    site.deliver(base_frame(0, grey(10)), base_frame(1, grey(20), key_seq=0))
    assert site.machine.step() == 2
    assert site.frames() == [(0, 1), (1, 1)]
    assert site.broker.stats()["depth"] == 0
    review = site.review()
    assert (review.state, review.reason, review.priority) == (cat.ReviewState.DUE, "uncertain: cat 0.40", 50)
    assert site.blobs.get(f"base/gate/{BOOT}/1.slk") == grey(20)


def test_every_filed_frame_is_told_as_progress(site: Site) -> None:
    told: list[int] = []
    site.machine.heartbeat = lambda: told.append(1)
    site.deliver(base_frame(0, grey(1)), base_frame(1, grey(2)))
    assert site.machine.step() == 2
    assert len(told) == 2


def test_a_redelivered_frame_is_only_acknowledged(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.deliver(base_frame(0, grey(10)))

    def cut_off(_: object) -> None:
        raise GatewayUnreachable("cut off")

    site.machine.config = replace(site.machine.config, lease_seconds=0.2)
    with monkeypatch.context() as patched:
        patched.setattr(site.broker, "ack", cut_off)
        with pytest.raises(GatewayUnreachable):
            site.machine.step()
    assert site.broker.stats()["depth"] == 1
    wait_until(lambda: site.machine.step() == 1)
    assert site.frames() == [(0, 1)]
    assert site.broker.stats()["depth"] == 0


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (base_frame(0, b"junk"), "NotABitstream"),
        (base_frame(0, grey(9), width=9), "8x6 decoded, 9x6 announced"),
    ],
)
def test_a_frame_that_cannot_be_decoded_dies_and_the_others_live(
    site: Site, monkeypatch: pytest.MonkeyPatch, frame: p.BaseFrame, why: str
) -> None:
    monkeypatch.setattr("secondlook.cloud.workers.machine.retry_delay", lambda _: 0.0)
    site.edge.send(frame)
    site.edge.expect()
    site.edge.send(base_frame(7, grey(10)))
    site.edge.expect()
    for _ in range(3):
        site.machine.step()
    assert site.frames() == [(7, 1)]
    (dead,) = site.broker.stats()["dead_frames"]
    assert dead["seq"] == frame.info.seq
    assert why in dead["why"]


def test_a_delta_whose_key_never_comes_goes_under_a_tombstone(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secondlook.cloud.workers.machine.retry_delay", lambda _: 0.0)
    # The gateway takes no delta ahead of its key, unless that is given up.
    site.deliver(p.Tombstone(BOOT, 0, 0, "spool-full"))
    site.deliver(base_frame(1, grey(9), key_seq=0))
    wait_until(lambda: site.machine.step() == 0 and site.broker.stats()["depth"] == 0)
    assert site.broker.stats()["dead"] == 0
    assert [(one.first_seq, one.reason) for _, one in site.broker.tombstones(0)] == [
        (0, "spool-full"),
        (1, "reference-missing"),
    ]


def test_a_delta_waits_for_its_key(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its key is in the hands of another worker, which has not kept it yet."""
    monkeypatch.setattr("secondlook.cloud.workers.machine.retry_delay", lambda _: 0.0)
    site.deliver(base_frame(0, grey(10)))
    (key,) = site.broker.lease(1, 60.0)
    site.deliver(base_frame(1, grey(20), key_seq=0))
    site.machine.step()
    assert site.frames() == []
    site.broker.nack(key.id, delay_seconds=0.0, why="")
    site.machine.step()
    site.machine.step()
    assert site.frames() == [(0, 1), (1, 1)]


def test_waiting_for_a_key_outlasts_a_lease() -> None:
    attempts = QueueLimits().max_attempts
    assert sum(map(retry_delay, range(1, attempts))) > 2 * WorkerConfig().lease_seconds


def test_tombstones_are_copied_into_the_catalogue(site: Site) -> None:
    site.deliver(base_frame(0, grey(1)), p.Tombstone(BOOT, 1, 3, "spool-full"))
    site.machine.step()
    with site.catalogue.reading() as session:
        row = session.scalars(select(cat.Tombstone)).one()
    assert (row.first_seq, row.last_seq, row.reason) == (1, 3, "spool-full")


def test_tombstones_are_copied_after_the_clock_was_set_back(site: Site) -> None:
    site.machine._tombstones_at = time.time() + 3600.0
    site.deliver(base_frame(0, grey(1)), p.Tombstone(BOOT, 1, 3, "spool-full"))
    site.machine.step()
    with site.catalogue.reading() as session:
        assert session.scalars(select(cat.Tombstone)).one().first_seq == 1


def test_how_far_a_camera_hosts_clock_is_off_is_copied_into_the_catalogue(site: Site) -> None:
    site.edge.send(p.Ping(time.time_ns() - 600 * 10**9), "control")
    site.edge.expect("control")
    site.deliver(base_frame(0, grey(1)))
    site.machine.step()  # the camera has no row before its first frame
    site.machine._clocks_at = 0.0
    site.machine.step()
    with site.catalogue.reading() as session:
        offset = session.get_one(cat.Camera, site.edge.edge_id).clock_offset_seconds
    assert offset == pytest.approx(600.0, abs=1.0)


def test_a_gateway_of_an_earlier_version_is_not_asked_for_clocks(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown() -> dict[str, float]:
        raise PacketMalformed("operation is not known")

    monkeypatch.setattr(site.broker, "clocks", unknown)
    site.deliver(base_frame(0, grey(1)))
    assert site.machine.step() == 1


def test_a_review_is_fetched_refined_and_ready(site: Site) -> None:
    site.deliver(base_frame(0, grey(10)))
    site.machine.step()
    assert site.refiner.step() == 0
    waiting = site.review()
    assert waiting.state is cat.ReviewState.LEASED
    assert waiting.base_image == "image/1/base.webp"
    assert waiting.shown_sha256 == hashlib.sha256(site.blobs.get("image/1/base.webp")).hexdigest()
    site.answer({0: grey(5)})
    assert site.refiner.step() == 1
    ready = site.review()
    assert ready.state is cat.ReviewState.READY
    assert (ready.enhancement_bytes, ready.postfilter, ready.codec_model) == (
        5,
        f"brighter:{b'bright12'.hex()}",
        b"plain123".hex(),
    )
    levels = {}
    for kind in ("base", "enhanced", "refined"):
        png = site.blobs.get(f"image/1/{kind}.webp")
        levels[kind] = int(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR).mean())
    assert levels == {"base": 10, "enhanced": 15, "refined": 16}
    assert ready.shown_sha256 == hashlib.sha256(site.blobs.get("image/1/refined.webp")).hexdigest()
    with site.catalogue.reading() as session:
        stored = session.get_one(cat.Frame, ready.frame_id).stored_bytes
    assert stored == sum(blob.bytes for blob in site.blobs.listing())


def test_the_enhancement_of_a_deltas_key_is_fetched_too(site: Site) -> None:
    site.machine.policy = PolicyConfig(uncertain_low=0, uncertain_high=0, audit_every=0)
    site.deliver(base_frame(0, grey(10)))
    site.machine.step()
    site.machine.policy = PolicyConfig(uncertain_apart_seconds=0)
    site.deliver(base_frame(1, grey(20), key_seq=0))
    site.machine.step()
    site.refiner.step()
    site.answer({0: grey(3), 1: grey(4)})
    assert site.refiner.step() == 1
    picture = cv2.imdecode(np.frombuffer(site.blobs.get("image/1/enhanced.webp"), np.uint8), cv2.IMREAD_COLOR)
    assert int(picture.mean()) == 37


@pytest.mark.parametrize("reason", ["expired", "unknown"])
def test_a_refused_review_expires_with_its_reason(site: Site, reason: str) -> None:
    site.deliver(base_frame(0, grey(10)))
    site.machine.step()
    site.refiner.step()
    request = site.edge.expect("control")
    site.edge.send(p.Refusal(request.request_id, reason), "control")
    wait_until(lambda: site.refiner.step() == 1)
    review = site.review()
    assert (review.state, review.why_expired) == (
        cat.ReviewState.EXPIRED,
        f"enhancement refused: {reason}",
    )
    assert review.base_image == "image/1/base.webp"


def test_an_enhancement_that_cannot_be_decoded_expires_the_review(site: Site) -> None:
    site.deliver(base_frame(0, grey(10)))
    site.machine.step()
    site.refiner.step()
    site.answer({0: b"junk"})
    assert site.refiner.step() == 1
    review = site.review()
    assert review.state is cat.ReviewState.EXPIRED
    assert "NotABitstream" in str(review.why_expired)


def test_a_review_whose_camera_host_stays_away_expires_at_the_deadline(site: Site) -> None:
    site.refiner.config = RefinerConfig(deadline_seconds=0.2)
    site.deliver(base_frame(0, grey(10)))
    site.machine.step()
    site.refiner.step()
    wait_until(lambda: site.refiner.step() == 1)
    assert site.review().why_expired == "enhancement expired: deadline"


def test_another_refiner_takes_over_when_a_lease_runs_out(site: Site) -> None:
    site.deliver(base_frame(0, grey(10)))
    site.machine.step()
    site.refiner.step()
    site.skew_seconds = RefinerConfig().lease_seconds + 1
    second = site.make_refiner("r2")
    second.step()
    site.answer({0: grey(5)})
    assert second.step() == 1
    assert site.review().state is cat.ReviewState.READY
    assert site.refiner.step() == 1  # the first one notices that the review is not its own any more
    assert site.review().state is cat.ReviewState.READY
