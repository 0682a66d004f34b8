"""Frames in which nothing moved: which ones they are, and that they cost nothing but are accounted for."""

from __future__ import annotations

import logging
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest

from secondlook.edge.agent import Agent
from secondlook.edge.coding.encode import FrameEncoder, choose_encoder
from secondlook.edge.coding.still import StillGate
from secondlook.edge.config import CodecConfig, EdgeConfig, IdleConfig, LinkConfig, SourceConfig, SpoolConfig
from secondlook.edge.source.camera import Frame
from secondlook.edge.spool import Spool
from secondlook.edge.spooled import PassedOver, SpooledFrame
from secondlook.shared.codec import load_codec
from secondlook.shared.videobits import GroupHead, parse_base
from tests.edge.gateway import Memory, SmallGateway
from tests.edge.test_agent import PlainCodec
from tests.pictures import photo

BOOT = "a" * 32
SCENE = photo(240, 320)
GATED = IdleConfig(heartbeat_seconds=10, after_seconds=2)
FPS = 5


def noisy(image: np.ndarray, sigma: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, sigma, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def with_walker(at: int, contrast: int = 40) -> np.ndarray:
    """Somebody far away: 10x20 pixels."""
    image = SCENE.astype(int)
    image[100:120, at : at + 10] += contrast if image[100:120, at : at + 10].mean() < 128 else -contrast
    return np.clip(image, 0, 255).astype(np.uint8)


def is_idle(gate: StillGate, image: np.ndarray, now: float, watched: np.ndarray | None = None) -> bool:
    """What the gate says of a frame, which is sent where it is not idle."""
    idle = gate.is_idle(image, now, watched)
    if not idle:
        gate.sent()
    return idle


def passed(gate: StillGate, images: list[np.ndarray]) -> list[bool]:
    return [is_idle(gate, image, number / FPS) for number, image in enumerate(images)]


def test_without_a_heartbeat_all_frames_are_sent() -> None:
    assert not any(passed(StillGate(IdleConfig()), [SCENE] * 40))


def test_a_still_scene_is_sent_for_a_while_and_then_at_each_heartbeat() -> None:
    idle = passed(StillGate(GATED), [SCENE] * 30 * FPS)
    sent = [number / FPS for number, gone in enumerate(idle) if not gone]
    assert sent[:10] == [number / FPS for number in range(10)], "two seconds of stillness first"
    assert sent[10:] == pytest.approx([11.8, 21.8])


@pytest.mark.parametrize("sigma", [0, 3, 8, 15])
def test_noise_is_no_movement(sigma: float) -> None:
    gate = StillGate(GATED)
    idle = passed(gate, [noisy(SCENE, sigma, number) for number in range(60)])
    assert sum(idle[12:]) >= 47, (sigma, gate.threshold)


@pytest.mark.parametrize("sigma", [0, 3])
def test_somebody_far_away_opens_the_gate_at_once(sigma: float) -> None:
    gate = StillGate(GATED)
    still = [noisy(SCENE, sigma, number) for number in range(40)]
    walking = [noisy(with_walker(50 + 4 * number), sigma, 99 + number) for number in range(5)]
    idle = passed(gate, [*still, *walking])
    assert idle[39] and not any(idle[40:])


def test_what_moves_slowly_is_seen_once_it_has_moved_far_enough() -> None:
    gate = StillGate(IdleConfig(heartbeat_seconds=1000, after_seconds=0))
    crawling = [with_walker(60 + number // 10) for number in range(400)]  # two seconds a pixel
    sent = [number for number, idle in enumerate(passed(gate, crawling)) if not idle and number > 0]
    assert 3 <= len(sent) <= 40, "each frame is compared with the last one sent, not with the one before"


def test_frames_are_compared_with_what_was_sent_not_with_what_was_thinned_out() -> None:
    gate = StillGate(GATED)
    assert passed(gate, [SCENE] * 20)[-1]
    for number in range(30):  # somebody came and stands still, and no frame of it goes out
        assert not gate.is_idle(with_walker(80), 4 + number / FPS)
    gate.sent()
    assert not gate.is_idle(with_walker(80), 10.2), "it moved less than two seconds ago"
    assert gate.is_idle(with_walker(80), 12.5)


def test_light_that_changes_is_a_change() -> None:
    gate = StillGate(GATED)
    assert passed(gate, [SCENE] * 20)[-1]
    assert not is_idle(gate, np.clip(SCENE.astype(int) + 12, 0, 255).astype(np.uint8), 20 / FPS)


def test_movement_counts_where_it_is_watched() -> None:
    watched = np.ones(SCENE.shape[:2], bool)
    for counts, inside in ((True, watched), (False, ~watched)):
        gate = StillGate(GATED)
        images = [SCENE] * 20 + [with_walker(80)]
        assert [is_idle(gate, image, at / FPS, inside) for at, image in enumerate(images)][-1] != counts


def test_another_size_and_a_clock_that_jumps_do_no_harm() -> None:
    gate = StillGate(GATED)
    assert passed(gate, [SCENE] * 20)[-1]
    assert not is_idle(gate, SCENE[:100], 4.0)
    assert not is_idle(gate, SCENE[:100], 4.2)
    assert is_idle(gate, SCENE[:100], 8.0)
    assert not is_idle(gate, SCENE[:100], -1000.0), "set back: one frame, to be sure"
    assert is_idle(gate, SCENE[:100], -999.0)
    assert not is_idle(gate, SCENE[:100], 1e9)


@pytest.fixture(scope="module")
def codec():
    return load_codec(threads=1)


def frame(number: int, image: np.ndarray = SCENE) -> Frame:
    return Frame(image, int(number / FPS * 1e9) + 10**9)


def test_a_group_ends_where_nothing_moves_and_its_numbers_have_no_hole(codec) -> None:
    encoder = choose_encoder(codec, CodecConfig(family="video"), SourceConfig("demo:"), BOOT)
    small = SCENE[:64, :96]
    made: list[SpooledFrame | PassedOver] = []
    for number, reason in enumerate(["", "", "thinned", "", "idle", "idle", "idle", "", "thinned", ""]):
        if reason:
            encoder.pass_over(frame(number, small), reason)
        else:
            coded = encoder.encode(frame(number, small))
            made += [*encoder.take_passed(), coded]
    made += encoder.take_passed(all_of_them=True)
    assert [
        item if isinstance(item, PassedOver) else (item.info.seq, item.info.key_seq) for item in made
    ] == [
        (0, None),
        (1, 0),
        (2, 0),  # the frame before it was thinned out, and has its number behind the group
        PassedOver(3, 3, "thinned"),
        PassedOver(4, 6, "idle"),
        (7, None),
        (8, 7),
        PassedOver(9, 9, "thinned"),
    ]
    assert isinstance(parse_base(made[5].base), GroupHead)
    coded = encoder.encode(frame(11, small))
    assert (coded.info.seq, coded.info.key_seq) == (10, None), "what was handed out is over"


def test_deltas_go_on_over_frames_that_are_passed_over() -> None:
    encoder = FrameEncoder(PlainCodec(), CodecConfig(key_interval=4), BOOT)
    made = []
    for number in range(10):
        if number in (3, 4, 5):
            encoder.pass_over(frame(number), "thinned")
        else:
            made.append(encoder.encode(frame(number)))
            made[-1:] = [*encoder.take_passed(), made[-1]]
    # The turn of a key was passed over: the next frame is one.
    assert [
        item if isinstance(item, PassedOver) else (item.info.seq, item.info.key_seq) for item in made
    ] == [*((0, None), (1, 0), (2, 0), PassedOver(3, 5, "thinned"), (6, None), (7, 6), (8, None), (9, 8))]


def test_the_spool_buries_what_was_passed_over_and_counts_no_loss(tmp_path: Path) -> None:
    spool = Spool(tmp_path, SpoolConfig(min_free_bytes=0), BOOT, 1)
    encoder = FrameEncoder(PlainCodec(), CodecConfig(), BOOT)
    first, last = encoder.encode(frame(0)), PassedOver(1, 7, "idle")
    assert spool.put([first, last], 2) == 0
    (tombstone,) = spool.tombstones(0)
    assert (tombstone.first_seq, tombstone.last_seq, tombstone.reason) == (1, 7, "idle")
    assert spool.next_seq(BOOT) == 8
    spool.close()


@pytest.mark.parametrize("family", ["lite", "video"])
def test_an_idle_camera_sends_next_to_nothing_and_every_frame_is_accounted_for(
    codec, tmp_path: Path, family: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder of one picture, many times, 5 a second by its own clock: the agent as a whole."""
    caplog.set_level(logging.INFO)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(12):
        cv2.imwrite(str(folder / f"{number:02}.png"), SCENE[:64, :96, ::-1])
    memory = Memory()
    gateway = SmallGateway(memory)
    config = EdgeConfig(
        "gate",
        SourceConfig(str(folder)),
        data_dir=tmp_path / "edge",
        codec=CodecConfig(family=family),
        idle=IdleConfig(heartbeat_seconds=3600, after_seconds=0),
        spool=SpoolConfig(min_free_bytes=0),
        link=LinkConfig(gateway=gateway.address),
        exit_when_acknowledged=True,
    )
    agent = Agent(config, codec)
    agent.run(threading.Event())
    gateway.stop()
    assert sorted(seq for _, seq in memory.frames) == [0]
    told = {(one.first_seq, one.last_seq, one.reason) for one in memory.tombstones}
    assert told == {(1, 11, "idle")}
    assert len(memory.tombstones) == 1, "eleven frames, one packet"
    with closing(sqlite3.connect(tmp_path / "edge" / "spool.db")) as spool:
        assert spool.execute("SELECT count(*) FROM tombstones").fetchone() == (0,)
    assert agent._passed == {"idle": 11} and agent._tombstoned == 0
