"""What only the JetStream queue can meet: foreign messages, a server that forgets, limits of the server, log lines."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import nats
import nkeys
import pytest

from secondlook.cloud.config import CloudConfig, JetStreamConfig, QueueLimits
from secondlook.cloud.gateway.server import Gateway
from secondlook.cloud.storage.queue_jetstream import JetStreamQueue
from secondlook.shared.errors import ConfigError, LeaseLost, StoreUnavailable
from tests.cloud.helpers import free, wait_until
from tests.cloud.queues import BOOT, JETSTREAM, LIMITS, await_lease, lease, put, queued, seqs
from tests.cloud.servers import NatsServer, nats_running


@pytest.fixture
def queue(nats_url: str) -> Iterator[JetStreamQueue]:
    queue = JetStreamQueue(nats_url, LIMITS, JETSTREAM)
    yield queue
    queue.close()


def publish(server: NatsServer, subject: str, payload: bytes) -> None:
    async def send() -> None:
        client = await nats.connect(server.url)
        await client.jetstream().publish(subject, payload)
        await client.close()

    asyncio.run(send())


def test_a_message_that_is_no_frame_goes_to_the_dead(nats_server: NatsServer, queue: JetStreamQueue) -> None:
    for number, payload in enumerate((b"", b"\xc1", b"\x93\x01\x02\x03", b"\x81\x01\x02")):
        publish(nats_server, f"{queue._streams.frames}.frame.stranger.{number}", payload)
    put(queue, queued(0))
    assert seqs(lease(queue)) == [0]

    def gives_them_up() -> bool:  # nobody told this gateway of them: it finds what lies about
        assert lease(queue) == []
        return queue.dead_count == 4

    wait_until(gives_them_up, seconds=15)
    assert [(dead.edge_id, dead.seq, dead.why) for dead in queue.dead(9)] == [
        ("", -1, "it is not a frame")
    ] * 4


def test_beside_a_ledger_in_a_file_each_step_commits_by_itself_and_nobody_waits_here(
    nats_url: str, tmp_path: Path
) -> None:
    """What NATS forgets must not come back by a rollback, and its outage must not meet a worker that waits."""
    with Gateway(free(CloudConfig(data_dir=tmp_path, queue=nats_url))) as gateway:
        assert gateway._broker.longest_wait_seconds == 0.0
        stores = gateway._stores
        with stores.one_commit(synced=True):
            assert stores._database is not None and not stores._database.in_transaction


def test_a_host_that_a_look_took_out_meanwhile_is_served_all_the_same(queue: JetStreamQueue) -> None:
    put(queue, queued(0))
    queue._streams._edges.clear()
    queue._streams.pause("gate")
    queue._streams.served("gate")
    assert await_lease(queue).frame == queued(0)


def test_a_reason_may_hold_any_text(queue: JetStreamQueue) -> None:
    put(queue, queued(0))
    for _ in range(LIMITS.max_attempts):
        held = await_lease(queue)
        queue.nack(held.id, delay_seconds=0, worker="w1", why="bad\r\nX-Header: ü\0", now=time.time())
    assert queue.dead(1)[0].why == "bad\r\nX-Header: ü\0"


def test_a_frame_is_known_for_a_while_after_it_was_worked_off(nats_url: str) -> None:
    queue = JetStreamQueue(nats_url, LIMITS, JetStreamConfig(duplicate_seconds=1.0))
    put(queue, queued(0))
    queue.ack([item.id for item in lease(queue)], worker="w1")
    assert put(queue, queued(0)) == 0
    time.sleep(1.5)
    # From here on the ledger, and in the last line the catalogue, know it.
    assert put(queue, queued(0)) == 1
    # While it is queued it is known however long ago it was put.
    time.sleep(1.5)
    assert put(queue, queued(0)) == 0
    queue.close()


def test_a_frame_that_was_worked_off_can_be_put_again_where_the_catalogue_lost_it(nats_url: str) -> None:
    queue = JetStreamQueue(nats_url, LIMITS, JETSTREAM)
    put(queue, queued(0), queued(1))
    queue.ack([lease(queue)[0].id], worker="w1")
    assert put(queue, queued(0)) == 0
    queue.forget_names("gate", BOOT)
    assert put(queue, queued(0)) == 1
    assert put(queue, queued(1)) == 0, "it is still queued"
    queue.ack([item.id for item in lease(queue)], worker="w1")
    assert put(queue, queued(0)) == 0, "its new name is known, too"
    queue.close()


def test_a_server_started_anew_forgets_leases_but_no_frame() -> None:
    with nats_running() as server:
        queue = JetStreamQueue(f"{server.url}/anew", LIMITS, JETSTREAM)
        put(queue, queued(0), queued(1))
        first, second = lease(queue, ttl=60)
        time.sleep(0.5)  # for the server to write down what it delivered
        server.kill()
        server.start()
        wait_until(lambda: _answers(queue), seconds=20)
        with pytest.raises(LeaseLost):
            queue.extend([second.id], ttl_seconds=60, worker="w1", now=time.time())
        queue.ack([first.id], worker="w1")
        assert queue.depth == 1
        put(queue, queued(2))
        assert seqs(lease(queue)) in ([2], [1, 2])
        queue.close()


def _answers(queue: JetStreamQueue) -> bool:
    with contextlib.suppress(StoreUnavailable):
        return queue.depth > 0
    return False


def test_a_consumer_that_was_removed_is_made_again(nats_server: NatsServer, queue: JetStreamQueue) -> None:
    async def remove() -> None:
        client = await nats.connect(nats_server.url)
        await client.jetstream().delete_consumer(queue._streams.frames, "edge-gate")
        await client.close()

    put(queue, queued(0))
    asyncio.run(remove())

    def comes() -> bool:
        with contextlib.suppress(StoreUnavailable):
            return seqs(lease(queue)) == [0]
        return False

    wait_until(comes, seconds=10)


def test_limits_of_the_configuration_reach_a_queue_that_is_there(nats_url: str) -> None:
    for max_bytes in (1_000_000, 3_000_000):
        queue = JetStreamQueue(nats_url, QueueLimits(max_bytes=max_bytes), JETSTREAM)
        assert queue.room_bytes == max_bytes
        put(queue, *(queued(seq, 500_000) for seq in range(max_bytes // 600_000)))
        queue.ack([item.id for item in lease(queue)], worker="w1")
        queue.close()


def test_a_server_that_takes_small_messages_only_is_refused() -> None:
    with nats_running(options="max_payload: 1MB") as server, pytest.raises(ConfigError, match="max_payload"):
        JetStreamQueue(server.url, LIMITS, JETSTREAM)


def test_log_in_is_needed_where_the_server_says_so_and_no_password_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    options = 'max_payload: 8MB\nauthorization { user: "gateway", password: "hush@:1" }'
    with nats_running(options=options) as server:
        where = server.url.removeprefix("nats://")
        with pytest.raises(StoreUnavailable) as refused:
            JetStreamQueue(f"nats://gateway:wrong-one@{where}/a", LIMITS, JetStreamConfig(timeout_seconds=1))
        assert "wrong-one" not in str(refused.value)
        queue = JetStreamQueue(f"nats://gateway:hush%40%3A1@{where}/a", LIMITS, JETSTREAM)
        put(queue, queued(0))
        server.kill()
        with pytest.raises(StoreUnavailable) as away:
            while True:
                put(queue, queued(1))
        queue.close()
        told = caplog.text + str(away.value)
        assert "hush" not in told and "wrong-one" not in told
        assert where in told


def test_gateways_log_in_with_a_key(tmp_path: Path) -> None:
    seed = nkeys.encode_seed(bytes(range(32)), nkeys.PREFIX_BYTE_USER)
    public = nkeys.from_seed(bytearray(seed)).public_key.decode()
    file = tmp_path / "gateway.nk"
    options = f"max_payload: 8MB\nauthorization {{ users: [ {{ nkey: {public} }} ] }}"
    with nats_running(options=options) as server:
        for text, error in ((None, ConfigError), ("SUnothing", ConfigError)):
            if text is not None:
                file.write_text(text)
            with pytest.raises(error, match=r"gateway\.nk"):
                JetStreamQueue(server.url, LIMITS, JetStreamConfig(nkey_file=file))
        file.write_bytes(seed + b"\n")
        queue = JetStreamQueue(server.url, LIMITS, JetStreamConfig(nkey_file=file))
        assert put(queue, queued(0)) == 1
        queue.close()


def test_tls_is_checked_against_the_authority_that_is_named(tmp_path: Path) -> None:
    def make(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=tmp_path, check=True, capture_output=True)

    make(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"),
        *(
            "-keyout",
            "key.pem",
            "-out",
            "cert.pem",
            "-subj",
            "/CN=broker",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
        ),
    )
    files = f'cert_file: "{tmp_path}/cert.pem", key_file: "{tmp_path}/key.pem"'
    with nats_running(options=f"max_payload: 8MB\ntls {{ {files} }}") as server:
        address = server.url.replace("nats:", "tls:")
        queue = JetStreamQueue(address, LIMITS, JetStreamConfig(ca_file=tmp_path / "cert.pem"))
        assert put(queue, queued(0)) == 1
        queue.close()
        with pytest.raises(StoreUnavailable):
            JetStreamQueue(address, LIMITS, JetStreamConfig(timeout_seconds=1))
        with pytest.raises(ConfigError, match="certificates"):
            JetStreamQueue(address, LIMITS, JetStreamConfig(ca_file=tmp_path / "none.pem"))


def test_only_so_many_are_out_at_a_time_and_a_gateway_does_not_wait_for_more(nats_url: str) -> None:
    queue = JetStreamQueue(nats_url, LIMITS, JetStreamConfig(max_ack_pending=3))
    put(queue, *map(queued, range(6)))
    held = lease(queue, 9)
    assert seqs(held) == [0, 1, 2]
    started = time.monotonic()
    for _ in range(50):
        assert lease(queue) == []
    assert time.monotonic() - started < 5
    queue.ack([item.id for item in held], worker="w1")
    wait_until(lambda: seqs(lease(queue)) == [3, 4, 5])
    queue.close()
