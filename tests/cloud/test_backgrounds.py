"""Groups that begin without their background: the gateway puts it back, or asks for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from secondlook.cloud.gateway import backgrounds
from secondlook.cloud.gateway.backgrounds import Backgrounds
from secondlook.cloud.storage.blobs import Blobs, background_key, open_blobs
from secondlook.shared import packet as p
from secondlook.shared.errors import StoreUnavailable
from secondlook.shared.videobits import background_digest, split_head
from tests.cloud.helpers import BOOT, base_frame
from tests.cloud.test_groups import FRAMES, HEIGHT, LENGTH, WIDTH
from tests.cloud.test_intake import Room, enter

HEADS = [FRAMES[number][2] for number in (0, LENGTH, 2 * LENGTH)]
BACKGROUND, _ = split_head(HEADS[0]) or (b"", b"")
DIGEST = background_digest(BACKGROUND)


def lean(seq: int, head: bytes, digest: str = DIGEST) -> p.LeanFrame:
    parts = split_head(head)
    assert parts is not None
    return p.LeanFrame(p.FrameInfo(BOOT, seq, 7, WIDTH, HEIGHT, None, 99), digest, parts[1])


def head(seq: int) -> p.BaseFrame:
    return base_frame(seq, HEADS[0], width=WIDTH, height=HEIGHT)


@pytest.fixture
def room(tmp_path: Path):
    room = enter(tmp_path, max_bytes=1 << 20)
    yield room
    room.stores.close()


def payloads(room: Room) -> list[bytes]:
    return [
        item.frame.payload for item in room.queue.lease(100, ttl_seconds=1, worker="w", now=room.now + 99)
    ]


def test_a_lean_frame_is_queued_with_its_background(room: Room) -> None:
    room.hello()
    assert room.say(head(0)) == [] == room.say(lean(1, HEADS[1]))
    assert [type(answer) for answer in room.flush()] == [p.Ack]
    assert payloads(room) == HEADS[:2]


def test_what_is_not_here_is_asked_for_and_not_acknowledged(room: Room) -> None:
    room.hello()
    (fault,) = room.say(lean(0, HEADS[0]))
    assert isinstance(fault, p.Fault) and fault.code == "background-unknown"
    assert room.flush() == [] and room.queue.depth == 0
    room.say(head(0))
    assert room.say(lean(1, HEADS[1])) == []
    room.flush()
    assert payloads(room) == HEADS[:2]


def test_it_is_another_hosts_affair(room: Room) -> None:
    room.hello()
    room.say(head(0))
    room.hello(peer=b"other", edge_id="yard")
    (fault,) = room.say(lean(0, HEADS[1]), peer=b"other")
    assert isinstance(fault, p.Fault) and fault.code == "background-unknown"


def test_it_outlives_the_gateway_and_a_store_that_lost_it_asks_again(tmp_path: Path) -> None:
    for lost in (False, True):
        room = enter(tmp_path, max_bytes=1 << 20)
        room.hello()
        if not lost:
            room.say(head(0))
        room.stores.close()
        room = enter(tmp_path, max_bytes=1 << 20)
        if lost:
            open_blobs(str(tmp_path / "blobs")).delete(background_key("gate", DIGEST))
        room.hello()
        answers = room.say(lean(1, HEADS[1]))
        assert [getattr(answer, "code", "") for answer in answers] == (["background-unknown"] if lost else [])
        room.stores.close()


def test_frames_that_do_not_suit_their_background_are_rejected(room: Room) -> None:
    room.hello()
    room.say(head(0))
    info = p.FrameInfo(BOOT, 1, 7, WIDTH, HEIGHT, None, 99)
    for packet in (p.LeanFrame(info, DIGEST, FRAMES[1][2]), p.LeanFrame(info, DIGEST, b"no frame")):
        (fault,) = room.say(packet)
        assert isinstance(fault, p.Fault) and fault.code == "rejected"
    assert room.say(lean(1, HEADS[1])) == []


def test_what_a_few_bytes_turn_into_counts_as_sent_and_within_the_share(tmp_path: Path) -> None:
    # Room for one head and a half: a lean frame takes as much of the queue as a whole one.
    room = enter(tmp_path, max_bytes=3 * len(HEADS[0]))
    room.hello()
    room.say(head(0))
    room.flush()
    (answer,) = room.say(lean(1, HEADS[1]))
    assert isinstance(answer, p.Ack) and answer.credit_bytes == 0
    assert room.flush() == [] and room.queue.depth == 1
    room.stores.close()


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return open_blobs(str(tmp_path / "blobs"))


def test_memory_and_store_are_bounded_and_a_place_taken_by_another_is_no_answer(blobs: Blobs) -> None:
    many = [b"\x8a\x31" + bytes([30, 0, 0, 0]) + bytes([number]) * 30 + b"frame" for number in range(40)]
    digests = [background_digest(bytes([number]) * 30) for number in range(40)]
    at_work = Backgrounds(blobs, memory_bytes=90)
    for second, one in enumerate(many):
        at_work.keep("gate", one, may_write=True, now=2.0 * second)
    found = [at_work.find("gate", digest, now=0.0) for digest in digests]
    assert found.count(None) >= 40 - 8 - 3 and found[-1] == bytes([39]) * 30
    assert all(
        one is None or background_digest(one) == digest for one, digest in zip(found, digests, strict=True)
    )
    assert len(list(blobs.listing())) <= 8
    before = len(list(blobs.listing()))
    at_work.keep("yard", b"\x8a\x31\x00", may_write=True, now=0.0)
    at_work.keep("yard", many[0], may_write=False, now=0.0)
    at_work.keep("yard", b"\x89 a layer of another family", may_write=True, now=0.0)
    assert len(list(blobs.listing())) == before


def test_a_host_that_sends_ever_new_backgrounds_writes_one_a_second_and_takes_nobodys_room(
    blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    put = type(blobs).put
    monkeypatch.setattr(
        type(blobs), "put", lambda self, key, data: written.append(key) or put(self, key, data)
    )
    at_work = Backgrounds(blobs)
    at_work.keep("honest", HEADS[0], may_write=True, now=0.0)
    honest = len(written)
    for number in range(200):
        at_work.keep(
            "hostile",
            b"\x8a\x31" + bytes([30, 0, 0, 0]) + number.to_bytes(30, "big") + b"frame",
            may_write=True,
            now=0.01 * number,
        )
    assert honest == 1 and len(written) - honest == 2
    assert at_work.find("honest", DIGEST, now=2.0) == BACKGROUND
    assert len(at_work._known) == 1 + backgrounds.MAX_OF_HOST


def test_a_store_that_is_away_costs_one_attempt(blobs: Blobs) -> None:
    class Away:
        asked = 0

        def get(self, key: str) -> bytes:
            self.asked += 1
            raise StoreUnavailable("no answer")

        def put(self, key: str, data: bytes) -> None:
            self.get(key)

    away = Away()
    at_work = Backgrounds(away)  # type: ignore[arg-type]
    at_work.keep("gate", HEADS[0], may_write=True, now=0.0)
    assert at_work.find("gate", DIGEST, now=1.0) == BACKGROUND, "it is in memory"
    assert at_work.find("gate", "ab" * 32, now=1.0) is None
    assert away.asked == 1
    assert at_work.find("gate", "ab" * 32, now=1.0 + backgrounds._QUIET_SECONDS) is None
    assert away.asked == 2
