"""Frames of video groups at the cloud's side: in order at the gateway, decoded from stored packets by any worker."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from secondlook.cloud import catalogue as cat
from secondlook.cloud.config import PolicyConfig, WorkerConfig
from secondlook.cloud.decoding import groups
from secondlook.cloud.decoding.groups import GroupDecoders
from secondlook.cloud.decoding.limits import check_layer
from secondlook.cloud.storage.blobs import Blobs, base_key, open_blobs
from secondlook.cloud.storage.ledger import with_keys
from secondlook.cloud.storage.queue import QueuedFrame, QueueLimits
from secondlook.cloud.workers.broker_client import BrokerClient
from secondlook.cloud.workers.machine import MachineWorker
from secondlook.shared import packet as p
from secondlook.shared.detection import Detection
from secondlook.shared.errors import (
    DetectorError,
    FrameMissing,
    MalformedBitstream,
    PictureTooLarge,
    ReferenceMissing,
    SymbolMismatch,
    TruncatedBitstream,
)
from secondlook.shared.layers import Layers
from secondlook.shared.link import Received
from secondlook.shared.packet import FrameInfo
from secondlook.shared.video import VideoEncoder, VideoSettings
from secondlook.shared.videobits import GroupHead, join_layers
from tests.cloud.helpers import (
    BOOT,
    Edge,
    OneBox,
    PlainCodec,
    base_frame,
    grey,
    running,
    settings,
    wait_until,
)
from tests.cloud.test_workers import Site
from tests.pictures import photo, psnr

WIDTH, HEIGHT = 96, 64
GROUND = photo(HEIGHT, WIDTH)
FIRST = 10  # sequence of the first frame of the first group
LENGTH = 4  # of a group


def image(number: int) -> np.ndarray:
    picture = GROUND.copy()
    left = (23 * number) % 70
    picture[20:40, left : left + 20] = (230, 220, 200)
    return picture


def coded(count: int, *, length: int = LENGTH) -> list[tuple[int, int | None, bytes]]:
    """Sequence, sequence of the group's first frame, and base layer of each frame."""
    encoder = VideoEncoder(VideoSettings(group_frames=length))
    encoder.set_background(GROUND)
    frames = []
    for number in range(count):
        frame = encoder.encode(image(number), base_quality=40).frame
        seq = FIRST + number
        if frame.place == 1:
            frames.append((seq, None, GroupHead(encoder.background, frame).to_bytes()))
        else:
            frames.append((seq, seq - frame.place + 1, frame.to_bytes()))
    return frames


FRAMES = coded(3 * LENGTH)


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return open_blobs(str(tmp_path / "blobs"))


def store(blobs: Blobs, *frames: tuple[int, int | None, bytes]) -> None:
    for seq, _, base in frames:
        blobs.put(base_key("gate", BOOT, seq), base)


def decoded(at_work: GroupDecoders, frame: tuple[int, int | None, bytes], edge: str = "gate") -> bool:
    """Whether the frame comes out as its picture."""
    seq, key_seq, base = frame
    picture = at_work.decode(edge, BOOT, seq, key_seq, base)
    assert psnr(picture, image(seq - FIRST + 1)) < 22 and picture.shape == (HEIGHT, WIDTH, 3)
    return psnr(picture, image(seq - FIRST)) > 26


def test_frames_in_order_are_decoded_without_a_look_into_the_store(blobs: Blobs) -> None:
    at_work = GroupDecoders(blobs, 1 << 20)
    assert all(decoded(at_work, frame) for frame in FRAMES)


@pytest.mark.parametrize("order", [[11, 5, 0, 3, 2, 1, 9, 4, 8, 10, 7, 6], [3, 3, 2, 3, 7, 3, 6]])
def test_in_any_order_and_again_they_are_decoded_from_what_is_stored(blobs: Blobs, order: list[int]) -> None:
    store(blobs, *FRAMES)
    at_work = GroupDecoders(blobs, 1 << 20)
    assert all(decoded(at_work, FRAMES[number]) for number in order)


def test_three_workers_share_a_camera(blobs: Blobs) -> None:
    workers = [GroupDecoders(blobs, 1 << 20) for _ in range(3)]
    for number, frame in enumerate(FRAMES):
        store(blobs, frame)
        assert decoded(workers[number % 3], frame)


def test_what_is_missing_is_named_and_what_comes_later_is_decoded_then(blobs: Blobs) -> None:
    at_work = GroupDecoders(blobs, 1 << 20)
    assert decoded(at_work, FRAMES[0])
    with pytest.raises(ReferenceMissing, match="frame 11 of its group has not come"):
        decoded(at_work, FRAMES[3])
    store(blobs, FRAMES[1])
    with pytest.raises(ReferenceMissing, match="frame 12 of its group has not come"):
        decoded(at_work, FRAMES[3])
    store(blobs, FRAMES[2])
    assert decoded(at_work, FRAMES[3])
    with pytest.raises(ReferenceMissing, match="frame 14 of its group has not come"):
        decoded(at_work, FRAMES[5])
    store(blobs, (14, None, FRAMES[5][2]))
    with pytest.raises(ReferenceMissing, match="frame 14 is not the first"):
        decoded(at_work, FRAMES[5])


def test_a_damaged_packet_before_a_frame_is_a_hole(blobs: Blobs) -> None:
    store(blobs, *FRAMES[:3])
    blobs.put(base_key("gate", BOOT, 11), FRAMES[1][2][:9])
    with pytest.raises(ReferenceMissing, match="frame 11 of its group cannot be decoded: frame ends"):
        decoded(GroupDecoders(blobs, 1 << 20), FRAMES[2])


def test_a_damaged_frame_leaves_no_decoder_behind(blobs: Blobs) -> None:
    store(blobs, *FRAMES)
    at_work = GroupDecoders(blobs, 1 << 20)
    assert decoded(at_work, FRAMES[0])
    seq, key_seq, base = FRAMES[1]
    with pytest.raises(SymbolMismatch):
        at_work.decode("gate", BOOT, seq, key_seq, base[:8] + b"\0\0\0\0" + base[12:])
    assert decoded(at_work, FRAMES[1]) and decoded(at_work, FRAMES[2])


def test_places_that_do_not_suit_the_sequence_are_refused(blobs: Blobs) -> None:
    store(blobs, *FRAMES)
    at_work = GroupDecoders(blobs, 1 << 20)
    for seq, key_seq, base in ((12, 10, FRAMES[1][2]), (11, None, FRAMES[1][2]), (10, 9, FRAMES[0][2])):
        with pytest.raises(MalformedBitstream, match=r"place \d of a group, in frame"):
            at_work.decode("gate", BOOT, seq, key_seq, base)
    with pytest.raises(TruncatedBitstream):
        at_work.decode("gate", BOOT, 11, 10, b"\x8a")


def test_decoders_are_few(blobs: Blobs) -> None:
    at_work = GroupDecoders(blobs, 1 << 20)
    for number in range(3 * groups.MAX_DECODERS):
        assert decoded(at_work, FRAMES[0], f"gate-{number}")
    assert len(at_work._decoders) == groups.MAX_DECODERS
    small = GroupDecoders(blobs, 1 << 20, kept_pixels=2 * WIDTH * HEIGHT)
    for name in ("first", "second", "third"):
        assert decoded(small, FRAMES[0], name)
    assert list(small._decoders) == [("second", BOOT, FIRST), ("third", BOOT, FIRST)]


def test_the_decoder_of_a_group_gives_way_to_that_of_the_next(blobs: Blobs) -> None:
    at_work = GroupDecoders(blobs, 1 << 20)
    assert decoded(at_work, FRAMES[0]) and decoded(at_work, FRAMES[LENGTH])
    assert list(at_work._decoders) == [("gate", BOOT, FIRST + LENGTH)]


def test_a_picture_too_large_is_refused_by_its_header(blobs: Blobs) -> None:
    with pytest.raises(PictureTooLarge):
        check_layer(FRAMES[0][2], 1000)
    with pytest.raises(MalformedBitstream, match="in its header"):
        check_layer(FRAMES[0][2], 1 << 20, announced=(WIDTH, HEIGHT + 1))
    check_layer(FRAMES[1][2], 1000, announced=(1, 1))  # no size in it: that of its group's head counts
    store(blobs, FRAMES[0])
    with pytest.raises(ReferenceMissing, match="at most 1000"):
        decoded(GroupDecoders(blobs, 1000), FRAMES[1])


def queued(seq: int, key_seq: int | None, payload: bytes) -> QueuedFrame:
    return QueuedFrame("gate", "", 0, FrameInfo(BOOT, seq, 0, WIDTH, HEIGHT, key_seq, 1), payload)


def test_the_gateway_takes_no_frame_of_a_group_ahead_of_the_one_before() -> None:
    frames = [queued(seq - FIRST, None if key is None else key - FIRST, base) for seq, key, base in FRAMES]
    known = Received(0, ())

    def taken(*numbers: int) -> list[int]:
        kept = with_keys([frames[number] for number in numbers], lambda *_: known)
        return [frame.info.seq for frame in kept]

    assert taken(1, 2, 3) == [1, 2, 3]
    assert taken(1, 3) == [1]
    assert taken(2, 3) == []
    assert taken(4, 6, 5) == [4, 5]
    plain = [queued(1, 0, b"\x89"), queued(3, 0, b"\x89")]
    assert [frame.info.seq for frame in with_keys(plain, lambda *_: known)] == [1, 3]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    config = settings(tmp_path, queue=QueueLimits(max_attempts=2))
    with running(config) as gateway, Edge(gateway.edge_address) as edge:
        edge.hello()
        edge.hello("control")
        site = Site(gateway, edge, tmp_path)
        with site.broker:
            yield site
        site.catalogue.close()


def packets(count: int) -> list[p.BaseFrame]:
    return [
        base_frame(
            seq - FIRST,
            base,
            key_seq=None if key_seq is None else key_seq - FIRST,
            width=WIDTH,
            height=HEIGHT,
        )
        for seq, key_seq, base in FRAMES[:count]
    ]


def test_groups_are_filed_and_reviewed_with_one_enhancement_a_frame(site: Site) -> None:
    site.deliver(*packets(6))
    wait_until(lambda: site.machine.step() == 0 and len(site.frames()) == 6)
    assert site.frames() == [(seq, 1) for seq in range(6)]
    with site.catalogue.reading() as session:
        wanted = [
            (review.id, review.frame.seq) for review in session.query(cat.Review).order_by(cat.Review.id)
        ]
    assert len(wanted) == 6
    # Each frame's own enhancement is asked for, whatever group it is of.
    site.refiner.step()
    enhancement = join_layers(Layers(grey(7), grey(9)))
    asked = [site.edge.expect("control") for _ in range(site.refiner.config.in_flight)]
    assert len({request.seq for request in asked}) == len(asked)
    for request in asked:
        site.edge.send(
            p.Chunk(request.request_id, 0, len(enhancement), zlib.crc32(enhancement), enhancement), "control"
        )
        assert site.edge.expect("control") == p.ChunkCredit(request.request_id, len(enhancement))
    of = dict(wanted)
    number = next(id_ for id_, seq in of.items() if seq == asked[0].seq)
    wait_until(lambda: site.refiner.step() >= 0 and site.review(number).state is cat.ReviewState.READY)
    review = site.review(number)
    assert review.base_image is not None and review.enhanced_image is not None
    shown = cv2.imdecode(np.frombuffer(site.blobs.get(review.base_image), np.uint8), cv2.IMREAD_COLOR)
    assert psnr(np.ascontiguousarray(shown[:, :, ::-1]), image(of[number])) > 26
    enhanced = cv2.imdecode(np.frombuffer(site.blobs.get(review.enhanced_image), np.uint8), cv2.IMREAD_COLOR)
    assert int(enhanced[0, 0, 0]) == 7 + 9


def test_a_worker_that_takes_over_rebuilds_the_group(site: Site, tmp_path: Path) -> None:
    first, *rest = packets(4)
    site.deliver(first, *rest[:1])
    assert site.machine.step() == 2
    site.machine._groups = GroupDecoders(site.blobs, 1 << 20)  # as another worker has it
    site.deliver(*rest[1:])
    assert site.machine.step() == 2
    assert site.frames() == [(seq, 1) for seq in range(4)]
    assert all(later - former == 1 for former, later in pairwise(seq for seq, _ in site.frames()))


def test_a_damaged_packet_on_the_way_is_not_taken_for_the_frame_itself(blobs: Blobs) -> None:
    """Its CRC is wrong, not its form: only decoding shows it."""
    store(blobs, *FRAMES[:4])
    seq, _, base = FRAMES[1]
    blobs.put(base_key("gate", BOOT, seq), base[:8] + b"\0\0\0\0" + base[12:])
    with pytest.raises(FrameMissing, match="frame 11 of its group cannot be decoded") as told:
        decoded(GroupDecoders(blobs, 1 << 20), FRAMES[3])
    assert told.value.seq == 11
    head = FRAMES[0][2]
    blobs.put(base_key("gate", BOOT, FIRST), head[:12] + b"\0\0\0\0" + head[16:])
    with pytest.raises(FrameMissing, match="frame 10 of its group cannot be decoded"):
        decoded(GroupDecoders(blobs, 1 << 20), FRAMES[3])


def lose(site: Site, seq: int) -> None:
    """The stored packet of a frame is gone, and the decoders with it."""
    site.blobs.delete(base_key("gate", BOOT, seq))
    site.machine._groups = GroupDecoders(site.blobs, 1 << 20)


@pytest.fixture
def patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A site whose queue gives each frame four attempts, one right after the other."""
    monkeypatch.setattr("secondlook.cloud.workers.machine.retry_delay", lambda _: 0.0)
    config = settings(tmp_path, queue=QueueLimits(max_attempts=4))
    with running(config) as gateway, Edge(gateway.edge_address) as edge:
        edge.hello()
        site = Site(gateway, edge, tmp_path)
        with site.broker:
            yield site
        site.catalogue.close()


def test_what_a_frame_needs_and_is_lost_is_asked_for_and_sent_again(patient: Site) -> None:
    packets_ = packets(4)
    patient.deliver(*packets_[:2])
    assert patient.machine.step() + patient.machine.step() == 2
    lose(patient, 1)
    patient.deliver(*packets_[2:])
    wait_until(lambda: patient.machine.step() >= 0 and patient.edge.hear(seconds=0.01) is not None)
    # It says hello anew, and hears that the frame is not held.
    heard = patient.edge.hello()
    while not isinstance(heard, p.Ack):
        heard = patient.edge.expect()
    assert (heard.cumulative, heard.selective) == (0, ((2, 3),))
    patient.edge.expect()  # the welcome
    patient.deliver(packets_[1])
    wait_until(lambda: patient.machine.step() == 0 and len(patient.frames()) == 4)
    assert patient.frames() == [(seq, 1) for seq in range(4)]
    assert patient.broker.tombstones(0) == [] and patient.broker.stats()["dead"] == 0


def test_frames_behind_a_hole_go_under_tombstones_and_the_next_group_is_decoded(patient: Site) -> None:
    packets_ = packets(6)
    patient.deliver(*packets_[:2])
    assert patient.machine.step() + patient.machine.step() == 2
    lose(patient, 1)
    patient.deliver(*packets_[2:])
    wait_until(lambda: patient.machine.step() == 0 and patient.broker.stats()["depth"] == 0)
    assert [seq for seq, _ in patient.frames()] == [0, 1, 4, 5]
    told = [one for _, one in patient.broker.tombstones(0)]
    assert sorted((one.first_seq, one.last_seq, one.reason) for one in told) == [
        (2, 2, "reference-missing"),
        (3, 3, "reference-missing"),
    ]
    assert patient.broker.stats()["dead"] == 0
    assert patient.broker.ask_again("gate", BOOT, 1) is False, "it was asked for"
    assert patient.broker.ask_again("gate", BOOT, 77) is False, "it never came"


def test_of_three_workers_one_dies_in_the_middle_of_a_group(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every picture that the detector sees is the frame's own, and each frame is filed once."""
    monkeypatch.setattr("secondlook.cloud.workers.machine.retry_delay", lambda _: 0.05)
    seen: list[np.ndarray] = []

    class Watching(OneBox):
        def detect(self, picture: np.ndarray) -> list[Detection]:
            seen.append(picture)
            return super().detect(picture)

    with ExitStack() as opened:
        workers = []
        for name in ("w1", "w2", "w3"):
            broker = opened.enter_context(BrokerClient(site.broker._config, name))
            config = WorkerConfig(batch=2, lease_seconds=0.5)
            workers.append(
                MachineWorker(
                    broker, PlainCodec(), Watching(), site.catalogue, site.blobs, PolicyConfig(), config
                )
            )
        site.deliver(*packets(5))
        assert workers[0].step() == 2
        # This one takes two frames from the middle, and is not heard of any more.
        assert len(workers[1].broker.lease(2, 0.5)) == 2
        site.deliver(*packets(len(FRAMES))[5:])
        wait_until(
            lambda: [workers[0].step(), workers[2].step()] == [0, 0] and len(site.frames()) == len(FRAMES)
        )
    assert site.frames() == [(seq, 1) for seq in range(len(FRAMES))]
    assert site.broker.stats()["dead"] == 0 and site.broker.tombstones(0) == []
    alike = [max(range(len(FRAMES)), key=lambda n, one=one: psnr(one, image(n))) for one in seen]
    assert sorted(alike) == list(range(len(FRAMES)))


class Inverting:
    """A filter for machines that shows which two pictures it was given."""

    name = "inverting"

    def __init__(self) -> None:
        self.backgrounds: list[np.ndarray] = []

    def apply(self, picture: np.ndarray, background: np.ndarray) -> np.ndarray:
        self.backgrounds.append(background)
        return 255 - picture


def test_what_a_machine_filter_makes_is_seen_by_the_detector_alone(site: Site) -> None:
    seen: list[np.ndarray] = []

    class Watching(OneBox):
        def detect(self, picture: np.ndarray) -> list[Detection]:
            seen.append(picture)
            return super().detect(picture)

    between = Inverting()
    site.machine.detector, site.machine.machine_filter = Watching(), between
    site.deliver(*packets(LENGTH + 2))
    wait_until(lambda: site.machine.step() == 0 and len(site.frames()) == LENGTH + 2)
    for number, picture in enumerate(seen):
        assert psnr(255 - picture, image(number)) > 26
    assert len(between.backgrounds) == LENGTH + 2
    assert all(psnr(one, GROUND) > max(26, psnr(one, image(3))) for one in between.backgrounds)
    stored = GroupDecoders(site.blobs, 1 << 20)
    assert decoded(stored, FRAMES[0]), "what is kept for people is as it was sent"


def test_stills_are_not_filtered_and_a_filter_that_fails_is_found_before_a_frame(site: Site) -> None:
    site.machine.machine_filter = between = Inverting()
    site.deliver(base_frame(0, grey(5)))
    wait_until(lambda: site.machine.step() == 0 and len(site.frames()) == 1)
    assert between.backgrounds == []
    site.machine.check()
    assert len(between.backgrounds) == 1

    def failing(picture: np.ndarray, background: np.ndarray) -> np.ndarray:
        raise RuntimeError("no memory")

    between.apply = failing  # type: ignore[method-assign]
    with pytest.raises(DetectorError, match="fails on a grey picture: RuntimeError: no memory"):
        site.machine.check()
