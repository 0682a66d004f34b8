"""A background goes over the link once: later groups refer to it, and a gateway that lacks it gets it again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from secondlook.edge.link import known
from secondlook.edge.link.known import KnownBackgrounds
from secondlook.edge.spooled import SpooledFrame
from secondlook.shared import packet as p
from secondlook.shared.video import VideoEncoder, VideoSettings
from secondlook.shared.videobits import GroupHead, background_digest, join_head
from tests.edge.gateway import Memory, SmallGateway, wait_until
from tests.edge.test_uplink import BOOT, QUICK, Edge
from tests.pictures import photo

GROUND = photo(64, 96)


def coded(count: int, *, length: int = 3, first: int = 0, ground=GROUND) -> list[SpooledFrame]:
    """Frames of groups that share a background, each with its head as the spool keeps it."""
    encoder = VideoEncoder(VideoSettings(group_frames=length))
    encoder.set_background(ground)
    frames = []
    for seq in range(first, first + count):
        frame = encoder.encode(ground, base_quality=20).frame
        is_head = frame.place == 1
        base = GroupHead(encoder.background, frame).to_bytes() if is_head else frame.to_bytes()
        key = None if is_head else seq - frame.place + 1
        frames.append(SpooledFrame(p.FrameInfo(BOOT, seq, 7, 96, 64, key, 50), base, b"e" * 50))
    return frames


FRAMES = coded(9)
BACKGROUND = GroupHead.parse(FRAMES[0].base).background.to_bytes()


def whole(packet: p.BaseFrame | p.LeanFrame) -> bytes:
    """The base layer that a gateway makes of a packet."""
    return packet.payload if isinstance(packet, p.BaseFrame) else join_head(BACKGROUND, packet.payload)


def lean(memory: Memory) -> list[int]:
    return sorted(seq for (_, seq), packet in memory.frames.items() if isinstance(packet, p.LeanFrame))


def check(memory: Memory, frames: list[SpooledFrame] = FRAMES) -> None:
    assert {seq: whole(packet) for (_, seq), packet in memory.frames.items()} == {
        frame.info.seq: frame.base for frame in frames
    }


def test_later_groups_leave_the_background_out(tmp_path: Path) -> None:
    gateway = SmallGateway(memory := Memory())
    edge = Edge(tmp_path, replace(QUICK, gateway=gateway.address))
    edge.put(*FRAMES)
    wait_until(edge.all_safe)
    edge.stop()
    gateway.stop()
    assert lean(memory) == [3, 6] and set(memory.arrivals.values()) == {1}
    packet = memory.frames[BOOT, 3]
    assert packet.background == background_digest(BACKGROUND)
    assert len(packet.payload) == len(FRAMES[3].base) - len(BACKGROUND) - 6
    check(memory)


def test_over_a_new_connection_it_is_still_known_and_a_gateway_that_lost_it_gets_it(tmp_path: Path) -> None:
    first = SmallGateway(memory := Memory())
    edge = Edge(tmp_path, replace(QUICK, gateway=first.address))
    edge.put(*FRAMES[:3])
    wait_until(edge.all_safe)
    first.stop()
    second = SmallGateway(memory, first.port)
    edge.put(*FRAMES[3:6])
    wait_until(edge.all_safe)
    assert lean(memory) == [3]
    memory.backgrounds.clear()
    edge.put(*FRAMES[6:])
    wait_until(edge.all_safe)
    assert lean(memory) == [3] and len(memory.backgrounds) == 1
    edge.stop()
    second.stop()
    check(memory)


def test_what_is_asked_for_again_does_not_wait_for_the_resend(tmp_path: Path) -> None:
    gateway = SmallGateway(memory := Memory())
    edge = Edge(tmp_path, replace(QUICK, gateway=gateway.address, resend_seconds=60.0))
    edge.put(*FRAMES[:3])
    wait_until(edge.all_safe)
    memory.backgrounds.clear()
    edge.put(*FRAMES[3:])
    wait_until(edge.all_safe)
    edge.stop()
    gateway.stop()
    check(memory)


def test_a_gateway_of_an_earlier_version_gets_every_background(tmp_path: Path) -> None:
    gateway = SmallGateway(memory := Memory(), is_old=True)
    edge = Edge(tmp_path, replace(QUICK, gateway=gateway.address))
    for begin in (0, 3, 6):
        edge.put(*FRAMES[begin : begin + 3])
        wait_until(edge.all_safe)
    edge.stop()
    gateway.stop()
    assert lean(memory) == []
    check(memory)


def test_it_is_sent_again_when_it_is_new_and_few_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "MAX_KNOWN", 2)
    at_work = KnownBackgrounds()
    heads = []
    for number in range(3):
        ground = GROUND // (number + 1)
        frame = coded(1, ground=ground)[0]
        heads.append(p.BaseFrame(replace(frame.info, seq=number), frame.base))
    for head in (heads[0], heads[1], heads[2]):
        packet = at_work.packet(head)
        assert isinstance(packet, p.BaseFrame)
        at_work.sent(packet)
    assert isinstance(at_work.packet(heads[2]), p.LeanFrame)
    assert isinstance(at_work.packet(heads[0]), p.BaseFrame), "the oldest is forgotten"
    plain = p.BaseFrame(FRAMES[0].info, b"\x89SLK")
    assert at_work.packet(plain) is plain


def test_what_is_safe_is_not_sent_again() -> None:
    at_work = KnownBackgrounds()
    heads = [p.BaseFrame(replace(FRAMES[0].info, seq=seq), FRAMES[0].base) for seq in range(4)]
    for head in heads:
        at_work.sent(at_work.packet(head))
    at_work.safe(BOOT, 2)
    assert at_work.unknown() == {BOOT: 3}
    assert at_work.unknown() == {} and at_work.refused() == {}
    assert isinstance(at_work.packet(heads[3]), p.BaseFrame)
