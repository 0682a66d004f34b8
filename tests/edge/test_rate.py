"""Rate control: three clips over links that are thin, become thinner and recover, simulated; then the real uplink."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from secondlook.edge.agent import Agent
from secondlook.edge.coding.encode import FrameEncoder
from secondlook.edge.config import CodecConfig, EdgeConfig, LinkConfig, RateConfig, SourceConfig, SpoolConfig
from secondlook.edge.link.enhance import Responder
from secondlook.edge.link.identity import AgentIdentity
from secondlook.edge.link.pacing import OVERHEAD_BYTES, Pacer
from secondlook.edge.link.rate import RateControl
from secondlook.edge.link.uplink import Uplink
from secondlook.edge.spool import Spool
from secondlook.edge.spooled import SpooledFrame
from secondlook.shared.errors import ConfigError
from secondlook.shared.packet import ChunkCredit, EnhancementRequest, FrameInfo
from tests.edge.gateway import Memory, SmallGateway, wait_until
from tests.edge.linkmodel import CLIPS, FPS, falling, simulate
from tests.edge.test_agent import PlainCodec, still

RATES = {"car-detection": 16.0, "one-by-one": 14.0, "highway-1": 40.0}  # kbit/s that each clip can fill
ROOM = 1.15  # times uplink_kbps that the link carries
FALLS, RISES, END = 120.0, 240.0, 400.0
BOOT = "ab" * 16


@pytest.fixture(scope="module", params=[0.0, 1.0], ids=["each frame at once", "gathered"])
def gather(request) -> float:
    return request.param


@pytest.fixture(scope="module", params=list(CLIPS))
def fall(request, gather: float):
    kbps = RATES[request.param]
    config = RateConfig(uplink_kbps=kbps, gather_seconds=gather)
    run = simulate(request.param, config, falling(kbps * 125 * ROOM, FALLS, RISES), END)
    return kbps, run


def held(windows: Sequence[float], kbps: float) -> float:
    """Share of the windows of 10 s within 10 %."""
    return sum(0.9 <= one / kbps <= 1.1 for one in windows) / len(windows)


def test_the_rate_is_held_within_ten_per_cent(fall) -> None:
    kbps, run = fall
    windows = run.windows(40, FALLS) + run.windows(290, END)
    assert held(windows, kbps) >= 0.97
    # A window that ends behind a large packet may hold a little more than its share.
    assert 0.85 * kbps < min(windows) and max(windows) < 1.15 * kbps


def test_a_link_that_falls_to_a_third_is_followed(fall) -> None:
    kbps, run = fall
    third = kbps * ROOM / 3
    assert held(run.windows(140, RISES), third) >= 0.95, (
        "what the link carries is used, and no frame waits for minutes"
    )
    late = [delay for at, delay in run.delays if FALLS <= at < RISES]
    settled = [delay for at, delay in run.delays if 170 <= at < RISES]
    assert max(late) < 25 and sum(settled) / len(settled) < 8


def test_a_link_that_recovers_is_used_again(fall) -> None:
    kbps, run = fall
    assert max(run.windows(RISES, RISES + 50)) > 0.9 * kbps
    before = [quality for at, quality in run.qualities if 60 <= at < FALLS]
    after = [quality for at, quality in run.qualities if at >= 300]
    assert abs(sum(before) / len(before) - sum(after) / len(after)) < 5


def test_the_quantiser_goes_before_the_frame_rate(fall) -> None:
    _, run = fall
    in_time = [at for at in run.thinned if 40 <= at < FALLS]
    assert len(in_time) < 0.05 * FPS * (FALLS - 40), "while quality can give way, few frames are thinned out"
    fine = [
        at
        for at in run.thinned
        if 140 <= at < RISES and [quality for when, quality in run.qualities if when <= at][-1] > 16
    ]
    assert len(fine) <= 1, "but for a moment in which much waits"


def test_every_frame_is_delivered_thinned_out_waiting_or_given_up(fall) -> None:
    _, run = fall
    counted = len(run.delays) + len(run.thinned) + len(run.given_up)
    assert 0 <= run.captured - counted <= 10 * FPS


def test_the_log_tells_when_it_begins_to_be_behind_and_when_it_ends(fall) -> None:
    _, run = fall
    begins, ends = run.said("behind: "), run.said("not behind any more")
    assert len(begins) == len(ends) == 1 and FALLS < begins[0] < ends[0] < RISES
    thinning, over = run.said("frames are thinned out to"), run.said("frames are not thinned out any more")
    assert thinning and len(thinning) - len(over) in (0, 1)
    assert len(thinning) <= 10, "it is not said with every frame"


def test_frames_that_share_headers_leave_more_for_the_pictures() -> None:
    """And they cost a delay that is about the time they wait."""

    def settled(seconds: float) -> tuple[float, float]:
        config = RateConfig(uplink_kbps=16, gather_seconds=seconds)
        run = simulate("car-detection", config, lambda _: 16 * 125 * ROOM, 120)
        qualities = [quality for at, quality in run.qualities if at >= 40]
        delays = [delay for at, delay in run.delays if at >= 40]
        return sum(qualities) / len(qualities), sum(delays) / len(delays)

    (coarse, soon), (fine, late) = settled(0.0), settled(1.0)
    assert fine > coarse + 4 and late < soon + 2.0


def test_a_link_with_a_long_way_is_found_out_too(gather: float) -> None:
    config = RateConfig(uplink_kbps=16, gather_seconds=gather)
    run = simulate("car-detection", config, falling(16 * 125 * ROOM, FALLS, RISES), END, trip=0.7)
    assert held(run.windows(300, END), 16) > 0.9
    assert held(run.windows(150, RISES), 16 / 3 * ROOM) > 0.9


def test_a_link_that_is_dead_for_a_minute_is_caught_up_with(gather: float) -> None:
    def carries(now: float) -> float:
        return 0.0 if 100 <= now < 160 else 16 * 125 * ROOM

    config = RateConfig(uplink_kbps=16, behind_seconds=20, gather_seconds=gather)
    newest = simulate("car-detection", config, carries, 300)
    everything = simulate("car-detection", replace(config, when_behind="all"), carries, 300)
    assert newest.given_up and not everything.given_up
    recent = [delay for at, delay in newest.delays if at >= 200]
    assert max(recent) < 10
    assert held(newest.windows(230, 300), 16) > 0.9
    last = [delay for at, delay in everything.delays if at >= 280]
    assert max(last) < 15, "all was sent in the end, and nothing was given up"


def test_a_scene_without_movement_leaves_the_link_alone_and_the_estimate_in_place(gather: float) -> None:
    config = RateConfig(uplink_kbps=16, gather_seconds=gather)
    run = simulate("car-detection", config, lambda _: 16 * 125 * ROOM, 300, still=[(100, 200)])
    assert run.kbps(150) == 0
    assert held(run.windows(240, 300), 16) > 0.9
    assert not run.said("behind: ")


def test_more_room_than_the_best_quality_needs_is_left_empty() -> None:
    run = simulate("one-by-one", RateConfig(uplink_kbps=500, max_quality=32), lambda _: 1e6, 120)
    assert {quality for at, quality in run.qualities if at > 60} == {32}
    assert not run.thinned and max(run.windows(30, 120)) < 30


@pytest.mark.parametrize(("gather_seconds", "kbps"), [(0.0, 4.0), (1.0, 2.5)])
def test_quality_stays_within_its_bounds_but_where_even_few_frames_are_too_many(
    gather_seconds: float, kbps: float
) -> None:
    config = RateConfig(
        uplink_kbps=kbps, min_quality=10, max_quality=20, min_fps=1, gather_seconds=gather_seconds
    )
    run = simulate("highway-1", config, lambda _: kbps * 125, 200)
    coded = len(run.qualities) / 200
    assert min(quality for _, quality in run.qualities) < 10 and 0.8 < coded < 1.6


def test_a_pacer_lets_through_what_is_allowed_and_no_more() -> None:
    pacer, sent, now = Pacer(1000.0, 0.0), 0, 0.0
    while now < 20:
        now += 0.01
        if pacer.may_send(0, now):
            pacer.sent(300)
            sent += 300
            pacer.acknowledged(300, now)
    assert sent == pytest.approx(20_000, rel=0.03)


def test_enhancements_get_a_share_and_frames_the_rest() -> None:
    pacer, base, more, now = Pacer(10_000.0, 0.0), 0, 0, 0.0
    while now < 30:
        now += 0.01
        if pacer.may_send(0, now):
            pacer.sent(500)
            base += 500
            pacer.acknowledged(500, now)
        if size := pacer.chunk_bytes(now):
            pacer.chunk_sent(size)
            more += size + OVERHEAD_BYTES
    assert (base + more) / 30 == pytest.approx(10_000, rel=0.1)
    assert more / base == pytest.approx(3 / 7, rel=0.15)


def test_small_chunks_keep_to_four_on_their_way() -> None:
    responder = Responder(4)
    request = EnhancementRequest(7, BOOT, 1, 10**18, 50)
    responder.request(request)
    assert not responder.is_answering
    assert responder.next_load() is request and responder.loaded(request, b"x" * 10_000) is None
    ends = []
    while (chunk := responder.next_chunk(1000)) is not None:
        responder.sent(chunk)
        ends.append(chunk.offset + len(chunk.payload))
    assert ends == [1000, 2000, 3000, 4000] and responder.is_answering
    assert responder.confirm(ChunkCredit(7, 3000)) is None
    while (chunk := responder.next_chunk(2000)) is not None:
        responder.sent(chunk)
        ends.append(chunk.offset + len(chunk.payload))
    assert ends[4:] == [6000, 8000, 10_000]


def test_frames_that_are_given_up_go_under_tombstones_with_those_that_need_them(tmp_path: Path) -> None:
    spool = Spool(tmp_path, SpoolConfig(min_free_bytes=0), BOOT, 1)
    encoder = FrameEncoder(PlainCodec(), CodecConfig(key_interval=4), BOOT)
    frames = [encoder.encode(still()) for _ in range(10)]
    spool.put(frames, 2)
    assert spool.waiting == (10, sum(len(frame.base) for frame in frames))
    assert spool.give_up(5, 3, overhead_bytes=0) == 8, "the second key goes with its deltas"
    (tombstone,) = spool.tombstones(0)
    assert (tombstone.first_seq, tombstone.last_seq, tombstone.reason) == (0, 7, "behind")
    assert [pending.info.seq for pending in spool.read(BOOT, 0, 1 << 20)] == [8, 9]
    assert spool.waiting == (2, sum(len(frame.base) for frame in frames[8:]))
    assert spool.give_up(100, 4, overhead_bytes=0) == 2 and spool.waiting == (0, 0)
    spool.close()


def test_the_uplink_keeps_to_its_rate(tmp_path: Path) -> None:
    frames = [SpooledFrame(FrameInfo(BOOT, seq, 5, 64, 48, None, 1), bytes(2000), b"e") for seq in range(40)]
    rate = RateConfig(uplink_kbps=(2000 + OVERHEAD_BYTES) * 8 / 1000 * 20)  # twenty of them a second
    spool = Spool(tmp_path, SpoolConfig(min_free_bytes=0), BOOT, 1)
    spool.put(frames, 2)
    memory = Memory()
    gateway = SmallGateway(memory)
    link = LinkConfig(gateway=gateway.address, retry_min_seconds=0.02, retry_max_seconds=0.1)
    uplink = Uplink(
        link,
        AgentIdentity("gate", BOOT, "camera"),
        spool,
        random.Random(1),
        pacer=Pacer(rate.uplink_bytes, time.monotonic()),
    )
    began = time.monotonic()
    uplink.start()
    wait_until(lambda: len(memory.frames) == 40, 30)
    seconds = time.monotonic() - began
    uplink.stop()
    gateway.stop()
    spool.close()
    assert seconds > 0.95 * (40 - 7) / 20, "0.3 s of the rate may go at once"
    assert spool.waiting == (0, 0)


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_quality is below min_quality"):
        RateConfig(min_quality=30, max_quality=20)
    with pytest.raises(ConfigError, match="uplink_kbps is 0, it must be a number from 1"):
        RateConfig(uplink_kbps=0)


def test_a_control_begins_within_its_bounds() -> None:
    assert RateControl(RateConfig(uplink_kbps=9, max_quality=12), 40, 0.0).quality == 12
    assert RateControl(RateConfig(uplink_kbps=9, min_quality=12), 4, 0.0).quality == 12


def test_whatever_happens_quality_and_frame_rate_stay_within_their_bounds() -> None:
    rng = random.Random(4)
    for _ in range(30):
        config = RateConfig(uplink_kbps=rng.uniform(1, 5000), min_quality=5, max_quality=50, min_fps=0.5)
        control, now = RateControl(config, 16, 0.0), 0.0
        coded_at = [0.0]
        for _ in range(300):
            now += rng.choice((0.001, 0.2, 0.2, 3.0))
            control.link(config.uplink_bytes * rng.uniform(0.02, 1), int(10 ** rng.uniform(0, 8)), now)
            if control.is_coded(now):
                control.coded(int(10 ** rng.uniform(0, 6)), first=rng.random() < 0.1, now=now)
                coded_at.append(now)
            assert 0 <= control.quality <= 50 and control.surplus() >= 0
            control.news()
        pauses = [late - early for early, late in pairwise(coded_at)]
        assert max(pauses) < 60, "the camera is never switched off"


def filled(folder: Path, link_bytes: float, base_bytes: int) -> Spool:
    """A spool in which so many bytes wait for the link, headers included, in frames of one size."""
    spool = Spool(folder, SpoolConfig(min_free_bytes=0), BOOT, 1)
    many = int(link_bytes / (base_bytes + OVERHEAD_BYTES))
    info = FrameInfo(BOOT, 0, 5, 64, 48, None, 1)
    spool.put([SpooledFrame(replace(info, seq=seq), bytes(base_bytes), b"e") for seq in range(many)], 2)
    return spool


@pytest.mark.parametrize("base_bytes", [60, 2000])
@pytest.mark.parametrize("behind_seconds", [40, 120])
def test_what_is_given_up_counts_as_the_link_counts_it(
    tmp_path: Path, base_bytes: int, behind_seconds: float
) -> None:
    """A frame of a fixed camera has 60 bytes, and more than twice that in headers."""
    rate = RateConfig(uplink_kbps=20, behind_seconds=behind_seconds)
    control = RateControl(rate, 16, 0.0)
    spool = filled(tmp_path, 180 * rate.uplink_bytes, base_bytes)
    newest = spool.bounds(BOOT)[1] - 1

    def seconds() -> float:
        frames, waiting = spool.waiting
        return (waiting + frames * OVERHEAD_BYTES) / rate.uplink_bytes

    control.link(rate.uplink_bytes, int(seconds() * rate.uplink_bytes), 1.0)
    dropped = spool.give_up(control.surplus(), 3, overhead_bytes=OVERHEAD_BYTES)
    assert seconds() == pytest.approx(behind_seconds / 2, abs=1.0), "half of it is left"
    (tombstone,) = spool.tombstones(0)
    assert (tombstone.first_seq, tombstone.last_seq, tombstone.reason) == (0, dropped - 1, "behind")
    assert spool.read(BOOT, newest, 1 << 20)[0].info.seq == newest, "the newest frames come through"
    spool.close()


@pytest.mark.parametrize(
    ("link", "camera", "when_behind", "gives_up"),
    [
        ("up", "running", "newest", True),
        ("up", "running", "all", False),
        ("down", "running", "newest", False),  # nothing newer could go in their place
        ("up", "ended", "newest", False),
    ],
)
def test_the_oldest_frames_are_given_up_only_where_newer_ones_can_go(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, link: str, camera: str, when_behind: str, gives_up: bool
) -> None:
    rate = RateConfig(uplink_kbps=20, when_behind=when_behind, behind_seconds=40)
    agent = Agent(EdgeConfig("gate", SourceConfig("demo:"), rate=rate, data_dir=tmp_path), PlainCodec())
    spool = filled(tmp_path, 600 * rate.uplink_bytes, 2000)
    before = spool.waiting[0]
    uplink = SimpleNamespace(state=link, link_rate=rate.uplink_bytes)
    now = time.monotonic()
    for turn in range(4):
        agent._keep_to_rate(spool, uplink, SimpleNamespace(state=camera), now + turn)
    frames, base_bytes = spool.waiting
    assert (frames < before) is gives_up
    if gives_up:
        assert base_bytes + frames * OVERHEAD_BYTES == pytest.approx(
            20 * rate.uplink_bytes, abs=2000 + OVERHEAD_BYTES
        )
        told = f"{before - frames} frames are given up that waited for more than 40 s of the link"
        assert caplog.text.count("are given up") == 1 and told in caplog.text, "it is done once"
        assert agent._tombstoned == before - frames
    spool.close()
    if link == "up" and camera == "running":
        assert caplog.text.count("behind: 10 min 0 s of frames wait for a link that carries 20.0 kbit/s") == 1
