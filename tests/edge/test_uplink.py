"""The uplink against a real ROUTER on loopback: delivery, restarts, enhancement requests, keys."""

from __future__ import annotations

import random
import re
import sqlite3
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import zmq
import zmq.auth

from secondlook.edge.config import LinkConfig, SpoolConfig
from secondlook.edge.link.identity import AgentIdentity
from secondlook.edge.link.keys import load_keys
from secondlook.edge.link.uplink import Uplink
from secondlook.edge.spool import Spool
from secondlook.edge.spooled import Safe, SpooledFrame
from secondlook.shared import packet as p
from secondlook.shared.errors import ConfigError, KeyRejected, SecretExposed
from secondlook.shared.link import Received
from secondlook.shared.packet import FrameInfo
from tests.chaos.proxy import Proxy, Weather
from tests.edge.gateway import Memory, SmallGateway, wait_until

BOOT, EARLIER = "a" * 32, "b" * 32
LARGE = bytes(range(256)) * 1500  # an enhancement of six chunks
QUICK = LinkConfig(retry_min_seconds=0.02, retry_max_seconds=0.1, hello_seconds=0.2, resend_seconds=0.5)
FAR = 2**62


def frame(seq: int, enhancement: bytes = b"e" * 50) -> SpooledFrame:
    return SpooledFrame(
        FrameInfo(BOOT, seq, 7, 64, 48, None, len(enhancement)), bytes([seq]) * 2000, enhancement
    )


class Edge:
    """A spool with an uplink at `address`."""

    def __init__(self, folder: Path, config: LinkConfig, spool: Spool | None = None) -> None:
        self.spool = spool or Spool(folder, SpoolConfig(min_free_bytes=0), BOOT, 0)
        self.uplink = Uplink(config, AgentIdentity("gate", BOOT, "door"), self.spool, random.Random(1))
        self.uplink.start()

    def put(self, *frames: SpooledFrame) -> None:
        self.spool.put(frames, 0)
        self.uplink.wake()

    def all_safe(self) -> bool:
        return self.spool.undelivered_boots() == []

    def stop(self) -> None:
        self.uplink.stop()
        self.spool.close()
        assert self.uplink.failure is None


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def gateway(memory: Memory) -> Iterator[SmallGateway]:
    gateway = SmallGateway(memory)
    yield gateway
    gateway.stop()


@pytest.fixture
def edge(tmp_path: Path, gateway: SmallGateway) -> Iterator[Edge]:
    edge = Edge(tmp_path, replace(QUICK, gateway=gateway.address))
    yield edge
    edge.stop()


def test_frames_arrive_once_and_become_safe(edge: Edge, memory: Memory) -> None:
    edge.put(*(frame(seq) for seq in range(10)))
    edge.put(frame(10))
    wait_until(edge.all_safe)
    assert memory.arrivals == {(BOOT, seq): 1 for seq in range(11)}
    assert memory.frames[BOOT, 3] == p.BaseFrame(p.FrameInfo(BOOT, 3, 7, 64, 48, None, 50), bytes([3]) * 2000)
    wait_until(lambda: edge.uplink.acknowledged == 11)
    assert edge.uplink.state == "up"
    assert {hello.channel for hello in memory.hellos} == {"bulk", "control"}
    assert all((hello.edge_id, hello.camera) == ("gate", "door") for hello in memory.hellos)


def test_frames_of_an_earlier_version_that_no_packet_can_carry_end_no_uplink(
    tmp_path: Path, memory: Memory, gateway: SmallGateway
) -> None:
    before = Spool(tmp_path, SpoolConfig(min_free_bytes=0), EARLIER, 0)
    times = (-(10**15), 7, p.MAX_NS + 1)  # a picture may say that it was taken whenever
    infos = [replace(frame(seq).info, captured_ns=at) for seq, at in enumerate(times)]
    before.put([replace(frame(info.seq), info=info) for info in infos], 0)
    before.close()
    edge = Edge(tmp_path, replace(QUICK, gateway=gateway.address))
    edge.put(frame(0))
    wait_until(edge.all_safe)
    edge.stop()
    assert set(memory.arrivals) == {(EARLIER, 1), (BOOT, 0)}
    assert [(one.first_seq, one.last_seq, one.reason) for one in memory.tombstones] == [
        (0, 0, "damaged"),
        (2, 2, "damaged"),
    ]


def test_a_restarted_gateway_gets_the_rest_and_nothing_twice(tmp_path: Path, memory: Memory) -> None:
    first = SmallGateway(memory)
    edge = Edge(tmp_path, replace(QUICK, gateway=first.address))
    edge.put(*(frame(seq) for seq in range(5)))
    wait_until(edge.all_safe)
    first.stop()
    edge.put(*(frame(seq) for seq in range(5, 20)))
    wait_until(lambda: edge.uplink.state == "down")
    assert not edge.all_safe()
    second = SmallGateway(memory, first.port)
    wait_until(edge.all_safe)
    assert memory.arrivals == {(BOOT, seq): 1 for seq in range(20)}
    edge.stop()
    second.stop()


def test_a_gateway_that_was_given_an_older_copy_gets_what_it_lost(
    tmp_path: Path, memory: Memory, caplog: pytest.LogCaptureFixture
) -> None:
    before = Spool(tmp_path, SpoolConfig(min_free_bytes=0), EARLIER, 0)
    before.put([frame(seq) for seq in range(3)], 0)
    before.mark_safe([Safe(EARLIER, 2)])
    before.close()
    first = SmallGateway(memory)
    memory.safe[EARLIER] = Received(2)
    edge = Edge(tmp_path, replace(QUICK, gateway=first.address))
    edge.put(*(frame(seq) for seq in range(10)))
    wait_until(edge.all_safe)
    first.stop()
    with sqlite3.connect(tmp_path / "spool.db") as db:
        db.execute("DELETE FROM frames WHERE seq IN (5, 6) AND boot = 2")  # as when room is needed
    older = Memory({BOOT: Received(3, [(8, 8)])})
    second = SmallGateway(older, first.port)
    wait_until(
        lambda: (
            sorted(older.arrivals) == [(BOOT, seq) for seq in (4, 7, 9)] + [(EARLIER, s) for s in range(3)]
        )
    )
    wait_until(edge.all_safe)
    assert older.tombstones == [p.Tombstone(BOOT, 5, 6, "restored")]
    assert set(older.arrivals.values()) == {1}
    assert (
        f"has lost frames of boot {BOOT} that it had called safe: 3 are sent again, 2 are gone" in caplog.text
    )
    assert f"{EARLIER} that it had called safe: 3 are sent again, 0 are gone" in caplog.text
    edge.stop()
    second.stop()


def test_an_idle_link_is_asked_seldom_and_its_silence_is_no_outage(tmp_path: Path) -> None:
    memory = Memory()
    gateway = SmallGateway(memory)
    settings = replace(
        QUICK, gateway=gateway.address, ping_seconds=0.1, idle_ping_seconds=60.0, silence_seconds=0.6
    )
    edge = Edge(tmp_path, settings)
    edge.put(frame(0))
    wait_until(edge.all_safe)
    time.sleep(0.3)
    before = len(memory.control)
    time.sleep(1.5)
    assert len(memory.control) == before and edge.uplink.state == "up"
    edge.put(frame(1))
    wait_until(edge.all_safe)
    assert len(memory.hellos) == 2, "over the same two connections"
    edge.stop()
    gateway.stop()


def test_a_link_that_rests_is_closed_and_opened_again(tmp_path: Path) -> None:
    memory = Memory()
    gateway = SmallGateway(memory)
    edge = Edge(tmp_path, replace(QUICK, gateway=gateway.address))
    wait_until(lambda: len(memory.hellos) == 2)
    edge.uplink.rest(True)
    wait_until(lambda: edge.uplink.state == "down")
    edge.put(frame(0))
    time.sleep(0.5)
    assert not memory.arrivals and len(memory.hellos) == 2
    edge.uplink.rest(False)
    wait_until(edge.all_safe)
    assert len(memory.hellos) > 2
    edge.stop()
    gateway.stop()


@pytest.mark.parametrize("weather", [Weather.HALF_OPEN, Weather.CUT])
def test_a_link_that_goes_dead_is_given_up_and_made_anew(
    tmp_path: Path, gateway: SmallGateway, memory: Memory, weather: Weather
) -> None:
    proxy = Proxy(gateway.port)
    settings = replace(
        QUICK,
        gateway=f"tcp://127.0.0.1:{proxy.port}",
        ping_seconds=0.1,
        idle_ping_seconds=0.1,
        silence_seconds=0.5,
    )
    edge = Edge(tmp_path, settings)
    edge.put(frame(0))
    wait_until(edge.all_safe)
    proxy.weather = weather
    edge.put(frame(1))
    wait_until(lambda: edge.uplink.state == "down")
    assert not edge.all_safe()
    proxy.weather = Weather.FINE
    wait_until(edge.all_safe)
    edge.stop()
    proxy.close()
    assert {seq for _, seq in memory.frames} == {0, 1}


def test_a_pinned_frame_waits_for_its_last_confirmation(
    edge: Edge, gateway: SmallGateway, memory: Memory
) -> None:
    edge.put(frame(0))
    wait_until(edge.all_safe)
    wait_until(lambda: any(hello.channel == "control" for hello in memory.hellos))
    gateway.answers_chunks = False
    in_an_hour = time.time_ns() + 3600 * 10**9
    gateway.ask(p.EnhancementRequest(1, BOOT, 0, in_an_hour, 5))
    wait_until(lambda: any(isinstance(packet, p.Chunk) for packet in memory.control))
    assert pinned(edge) == 1
    gateway.ask(p.ChunkCredit(1, 4 << 20))
    wait_until(lambda: pinned(edge) == 0)


def pinned(edge: Edge) -> int:
    return edge.spool._one("SELECT count(*) FROM frames WHERE pinned_until_ns > 0")


def test_unacknowledged_frames_are_sent_again_in_time_and_after_a_restart(
    tmp_path: Path, memory: Memory
) -> None:
    deaf = SmallGateway(
        memory, acknowledges=lambda it: it.info.seq not in (2, 3) or memory.arrivals[BOOT, 2] > 2
    )
    edge = Edge(tmp_path, replace(QUICK, gateway=deaf.address))
    edge.put(*(frame(seq) for seq in range(6)))
    wait_until(edge.all_safe)
    assert memory.arrivals[BOOT, 2] == 3
    assert {memory.arrivals[BOOT, seq] for seq in (0, 1, 4, 5)} == {1}, (
        "what was acknowledged is not repeated"
    )
    edge.stop()
    deaf.stop()


def test_credit_limits_what_is_in_flight(tmp_path: Path, memory: Memory) -> None:
    gateway = SmallGateway(memory, credit_bytes=4500, acknowledges=lambda _: False)
    edge = Edge(tmp_path, replace(QUICK, gateway=gateway.address, resend_seconds=60.0))
    edge.put(*(frame(seq) for seq in range(10)))
    wait_until(lambda: len(memory.arrivals) == 2)
    time.sleep(0.3)
    assert sorted(memory.arrivals) == [(BOOT, 0), (BOOT, 1)]
    edge.stop()
    gateway.stop()


def test_without_credit_the_edge_waits_and_asks_again(tmp_path: Path, memory: Memory) -> None:
    gateway = SmallGateway(memory, credit_bytes=0)
    edge = Edge(tmp_path, replace(QUICK, gateway=gateway.address))
    edge.put(frame(0))
    wait_until(lambda: sum(hello.channel == "bulk" for hello in memory.hellos) >= 2)
    assert not memory.arrivals
    gateway.credit_bytes = 1 << 20
    wait_until(edge.all_safe)
    edge.stop()
    gateway.stop()


def test_a_gateway_that_is_busy_is_told_of_once_and_again_when_it_goes_on(
    edge: Edge, gateway: SmallGateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    wait_until(lambda: "control" in gateway._greeted.values())
    wait_until(lambda: edge.uplink.state == "up")
    for _ in range(3):
        gateway.ask(p.Fault("busy", "disk full"))
    wait_until(lambda: edge.uplink._busy.why is not None)
    time.sleep(0.2)
    edge.put(frame(0))  # acknowledged with credit
    wait_until(edge.all_safe)
    busy = f"gateway {gateway.address} takes no frames: disk full"
    lines = [line for line in caplog.messages if busy in line]
    assert lines[0] == f"waiting: {busy}"
    assert lines[1].startswith("going on after ")
    assert len(lines) == 2
    assert edge.uplink.state == "up"


def test_earlier_boots_and_tombstones_are_delivered(
    tmp_path: Path, gateway: SmallGateway, memory: Memory
) -> None:
    before = Spool(tmp_path, SpoolConfig(min_free_bytes=0, max_bytes=7000), EARLIER, 0)
    before.put([frame(seq) for seq in range(5)], 0)
    before.close()
    edge = Edge(tmp_path, replace(QUICK, gateway=gateway.address))
    wait_until(edge.all_safe)
    assert sorted(memory.arrivals) == [(EARLIER, 2), (EARLIER, 3), (EARLIER, 4)]
    assert memory.tombstones == [p.Tombstone(EARLIER, 0, 1, "spool-full")]
    hello = next(hello for hello in memory.hellos if hello.boot_id == EARLIER)
    assert (hello.channel, hello.oldest_seq, hello.next_seq) == ("bulk", 0, 5)
    edge.stop()


@pytest.mark.parametrize("restarts", [True, False])
def test_unconfirmed_tombstones_are_sent_again(tmp_path: Path, memory: Memory, restarts: bool) -> None:
    gateway = SmallGateway(memory, forgets_tombstones=True)
    spool = Spool(tmp_path, SpoolConfig(min_free_bytes=0, max_bytes=7000), BOOT, 0)
    patience = 60.0 if restarts else 0.3
    edge = Edge(tmp_path, replace(QUICK, gateway=gateway.address, resend_seconds=patience), spool)
    edge.put(*(frame(seq) for seq in range(5)))
    wait_until(lambda: len(memory.tombstones) == 1)
    if restarts:
        gateway.stop()
        gateway = SmallGateway(memory, gateway.port)
    else:
        gateway.forgets_tombstones = False
    wait_until(edge.all_safe)
    assert memory.tombstones == [p.Tombstone(BOOT, 0, 1, "spool-full")] * 2
    edge.stop()
    gateway.stop()


def chunks(memory: Memory) -> list[p.Chunk]:
    return [packet for packet in memory.control if isinstance(packet, p.Chunk)]


def test_a_requested_enhancement_comes_in_chunks(edge: Edge, gateway: SmallGateway, memory: Memory) -> None:
    edge.put(frame(0, LARGE), frame(1))
    wait_until(edge.all_safe)
    gateway.ask(p.EnhancementRequest(9, BOOT, 0, FAR, 50))
    wait_until(lambda: sum(len(chunk.payload) for chunk in chunks(memory)) == len(LARGE))
    assert b"".join(chunk.payload for chunk in chunks(memory)) == LARGE
    assert {(chunk.request_id, chunk.total, chunk.crc32) for chunk in chunks(memory)} == {
        (9, len(LARGE), zlib.crc32(LARGE))
    }
    wait_until(lambda: edge.uplink.enhancement_bytes_sent == len(LARGE))


def test_at_most_four_chunks_go_unconfirmed(edge: Edge, gateway: SmallGateway, memory: Memory) -> None:
    gateway.answers_chunks = False
    edge.put(frame(0, LARGE))
    gateway.ask(p.EnhancementRequest(9, BOOT, 0, FAR, 50))
    wait_until(lambda: len(chunks(memory)) == 4)
    time.sleep(0.25)
    assert len(chunks(memory)) == 4
    gateway.ask(p.ChunkCredit(9, 4 * 65536))
    wait_until(lambda: len(chunks(memory)) == 6)


def test_after_a_restart_only_what_is_asked_again_is_answered(tmp_path: Path, memory: Memory) -> None:
    gateway = SmallGateway(memory, answers_chunks=False)
    edge = Edge(tmp_path, replace(QUICK, gateway=gateway.address))
    edge.put(frame(0, LARGE), frame(1))
    gateway.ask(p.EnhancementRequest(9, BOOT, 0, FAR, 50))
    wait_until(lambda: len(chunks(memory)) == 4)
    gateway.stop()
    gateway = SmallGateway(memory, gateway.port)
    gateway.ask(p.EnhancementRequest(10, BOOT, 1, FAR, 50))
    gateway.ask(p.ChunkCredit(9, 4 * 65536))
    wait_until(lambda: len(chunks(memory)) == 5)
    time.sleep(0.25)
    assert [chunk.request_id for chunk in chunks(memory)] == [9, 9, 9, 9, 10]
    edge.stop()
    gateway.stop()


@pytest.mark.parametrize(
    ("request_packet", "reason"),
    [
        (p.EnhancementRequest(4, BOOT, 0, 1, 50), "expired"),
        (p.EnhancementRequest(4, BOOT, 77, FAR, 50), "unknown"),
        (p.EnhancementRequest(4, EARLIER, 0, FAR, 50), "unknown"),
    ],
)
def test_requests_that_cannot_be_answered_are_refused(
    edge: Edge, gateway: SmallGateway, memory: Memory, request_packet: p.EnhancementRequest, reason: str
) -> None:
    edge.put(frame(0))
    wait_until(edge.all_safe)
    gateway.ask(request_packet)
    wait_until(lambda: p.Refusal(4, reason) in memory.control)
    assert chunks(memory) == []


def test_a_gateway_that_forgot_us_is_greeted_again(edge: Edge, gateway: SmallGateway, memory: Memory) -> None:
    edge.put(frame(0))
    wait_until(edge.all_safe)
    gateway._greeted.clear()
    edge.put(frame(1))
    wait_until(edge.all_safe)


def test_rubbish_from_the_gateway_is_ignored(edge: Edge, gateway: SmallGateway, memory: Memory) -> None:
    gateway.say([b"rubbish", b"", b"and more"])
    edge.put(frame(0))
    wait_until(edge.all_safe)
    gateway.ask(p.EnhancementRequest(4, BOOT, 0, FAR, 50))
    wait_until(lambda: len(chunks(memory)) == 1)


@pytest.mark.parametrize("code", ["wrong-edge", "too-many-connections"])
def test_a_gateway_that_refuses_this_host_is_left_alone_for_longer_each_time(
    tmp_path: Path, memory: Memory, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = SmallGateway(memory, fault=code)
    patient = replace(QUICK, gateway=gateway.address, retry_min_seconds=0.1, retry_max_seconds=10.0)
    edge = Edge(tmp_path, patient)
    edge.put(frame(0))
    time.sleep(3.0)
    # Pauses of 0.1, 0.2, 0.4, 0.8, 1.6 s at most, two connections each.
    assert 2 <= len(memory.hellos) <= 14
    lines = [record.getMessage() for record in caplog.records]
    assert 1 <= len(lines) <= 7
    assert all("refuses this host: no; frames are kept" in line for line in lines)
    gateway.fault = None
    wait_until(edge.all_safe)
    edge.stop()
    gateway.stop()


def test_a_gateway_that_always_wants_a_hello_gets_one_a_second(
    tmp_path: Path, memory: Memory, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = SmallGateway(memory, fault="hello-first")
    edge = Edge(tmp_path, replace(QUICK, gateway=gateway.address, hello_seconds=60.0))
    edge.put(frame(0))
    time.sleep(2.5)
    assert (
        gateway.faults_sent <= 16
    )  # hello and ping on one connection, hello on the other, each once a second
    assert len(caplog.records) <= 4
    gateway.fault = None
    wait_until(edge.all_safe)
    edge.stop()
    gateway.stop()


def test_a_gateway_cannot_flood_the_log(
    edge: Edge, gateway: SmallGateway, memory: Memory, caplog: pytest.LogCaptureFixture
) -> None:
    edge.put(frame(0))
    wait_until(edge.all_safe)
    wait_until(lambda: "control" in gateway._greeted.values())
    caplog.clear()
    for number in range(3000):
        gateway.say(p.Fault(f"code-{number % 100}", "x" * 200).to_frames())
        gateway.say([b"rubbish", b""])
    gateway.ask(p.EnhancementRequest(4, BOOT, 0, FAR, 50))
    wait_until(lambda: len(chunks(memory)) == 1)
    assert len(caplog.records) < 120
    edge.uplink._complaints.flush()
    told = sum(
        int(found[1]) for line in caplog.messages if (found := re.search(r"(\d+) more", line)) is not None
    )
    assert told + sum("more" not in line.partition(": ")[2][:9] for line in caplog.messages) >= 6000


def test_the_gateways_clock_is_compared_and_a_difference_told_once(
    tmp_path: Path, memory: Memory, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    gateway = SmallGateway(memory, clock_ahead_seconds=600.0)
    edge = Edge(tmp_path, replace(QUICK, gateway=gateway.address, ping_seconds=0.05, idle_ping_seconds=0.05))
    wait_until(lambda: edge.uplink.clock_offset_seconds is not None)
    assert edge.uplink.clock_offset_seconds == pytest.approx(600.0, abs=0.5)
    time.sleep(0.3)
    gateway.clock_ahead_ns = -int(1.5e9)
    wait_until(lambda: (edge.uplink.clock_offset_seconds or 0.0) < 0)
    edge.stop()
    gateway.stop()
    lines = [line for line in caplog.messages if "clock" in line]
    assert lines == [
        "this host's clock is 600.0 s behind that of the gateway: times of frames will be wrong",
        "this host's clock agrees with that of the gateway again",
    ]


def test_an_encrypted_link(tmp_path: Path, memory: Memory) -> None:
    for name in ("gateway", "edge"):
        zmq.auth.create_certificates(tmp_path, name)
        (tmp_path / f"{name}.key_secret").chmod(0o600)
    public, secret = zmq.auth.load_certificate(tmp_path / "gateway.key_secret")
    assert secret is not None
    gateway = SmallGateway(memory, curve=(public, secret))
    config = replace(
        QUICK,
        gateway=gateway.address,
        server_public_key_file=tmp_path / "gateway.key",
        secret_key_file=tmp_path / "edge.key_secret",
    )
    edge = Edge(tmp_path, config)
    edge.put(frame(0))
    wait_until(edge.all_safe)
    edge.stop()
    gateway.stop()


def test_keys_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    zmq.auth.create_certificates(tmp_path, "edge")
    public = tmp_path / "edge.key"
    for server, own, complaint in (
        (tmp_path / "nowhere", public, "cannot read the key file .*nowhere"),
        (public, public, "holds no secret key"),
        (Path(__file__), public, "holds no public key"),
    ):
        with pytest.raises(KeyRejected, match=complaint):
            load_keys(replace(QUICK, server_public_key_file=server, secret_key_file=own))
    secret = tmp_path / "edge.key_secret"
    secret.chmod(0o640)
    with pytest.raises(SecretExposed, match="chmod 600"):
        load_keys(replace(QUICK, server_public_key_file=public, secret_key_file=secret))


@pytest.mark.parametrize(
    "address",
    [
        "tcp://192.0.2.1:7601",
        "tcp://gateway.example:7601",
        "ipc://x",
        "tcp://127.0.0.1.example.org:7601",
        "tcp://127.0.0.1:0;192.0.2.1:7601",
    ],
)
def test_a_plain_link_stays_on_this_machine(address: str) -> None:
    with pytest.raises(ConfigError):
        LinkConfig(gateway=address)
