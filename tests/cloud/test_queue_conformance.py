"""What every ``FrameQueue`` must do, whatever engine it stands on. Leases run in real time: a server has its own."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from secondlook.cloud.storage.affinity import STAY_SECONDS
from secondlook.cloud.storage.queue import OVER_LIMIT, PURGED, FrameQueue, QueuedFrame
from secondlook.shared.errors import LeaseLost, QueueFull
from secondlook.shared.packet import MAX_BASE_BYTES, FrameInfo
from tests.cloud.helpers import wait_until
from tests.cloud.queues import LIMITS, Engine, await_lease, await_leases, lease, put, queued, seqs


def test_items_leave_in_the_order_they_came_and_whole(engine: Engine) -> None:
    queue, batch = engine.open(), [queued(2), queued(0), queued(1)]
    assert put(queue, *batch) == 3
    assert queue.depth == 3
    assert 30 <= queue.depth_bytes < 3000
    found = lease(queue, 2)
    assert [item.frame for item in found] == batch[:2]
    assert [item.attempts for item in found] == [1, 1]
    assert seqs(lease(queue)) == [1]
    assert lease(queue) == []
    queue.ack([item.id for item in found], worker="w1")
    queue.ack([item.id for item in found], worker="w1")
    assert queue.depth == 1


def test_every_field_survives(engine: Engine) -> None:
    queue = engine.open()
    odd = QueuedFrame(
        "a-1", "Höfe 7", 1, FrameInfo("0f" * 16, 2**53 - 1, 2**63 - 1, 65_535, 1, 2**53 - 2, 0), b"\0\xff"
    )
    assert put(queue, odd, queued(0)) == 2
    assert [item.frame for item in lease(queue)] == [odd, queued(0)]


def test_the_largest_packet_fits(engine: Engine) -> None:
    queue, frame = engine.open(), queued(7, MAX_BASE_BYTES)
    assert put(queue, frame) == 1
    assert lease(queue)[0].frame == frame


def test_a_duplicate_put_is_skipped(engine: Engine) -> None:
    queue, other = engine.open(), engine.open()
    assert put(queue, queued(0), queued(0)) == 1
    assert put(other, queued(0), queued(1)) == 1
    held = lease(queue)
    assert seqs(held) == [0, 1]
    assert put(queue, *(item.frame for item in held)) == 0
    assert queue.depth == 2


def test_what_was_begun_is_put_once(engine: Engine) -> None:
    queue = engine.open()
    settled = queue.begin([queued(0), queued(1)])
    if settled is not None:
        wait_until(settled)
        assert queue.depth == 2  # it is there before it is put: so the server has its time
    assert put(queue, queued(0), queued(1), queued(2)) == 3
    assert put(queue, queued(0), queued(3)) == 1
    assert [item.frame for item in lease(queue)] == [queued(n) for n in range(4)]


def test_what_was_begun_and_never_put_leaves_the_next_batch_alone(engine: Engine) -> None:
    queue = engine.open()
    queue.begin([queued(0)])
    assert put(queue, queued(1)) == 1
    assert 1 in [item.frame.info.seq for item in lease(queue)]
    queue.begin([queued(2)])
    queue.begin([queued(3)])
    assert put(queue, queued(3)) == 1


def test_what_cannot_be_begun_is_refused_by_put(engine: Engine) -> None:
    queue = engine.open(max_bytes=4000)
    assert queue.begin([queued(0, 5000)]) is None
    with pytest.raises(QueueFull):
        put(queue, queued(0, 5000))
    assert queue.begin([]) is None
    assert queue.depth == 0


def test_an_expired_lease_makes_the_item_available_again(engine: Engine) -> None:
    queue = engine.open()
    put(queue, queued(0))
    (held,) = lease(queue, ttl=0.5)
    assert lease(queue, worker="w2") == []
    again = await_lease(queue, worker="w2")
    assert (again.id, again.attempts, again.frame.info.seq) == (held.id, 2, 0)
    with pytest.raises(LeaseLost):
        queue.extend([held.id], ttl_seconds=5, worker="w1", now=time.time())
    with pytest.raises(LeaseLost):
        queue.nack(held.id, delay_seconds=0, worker="w1", why="late", now=time.time())
    with pytest.raises(LeaseLost):
        queue.ack([held.id], worker="w1")
    queue.ack([again.id], worker="w2")
    assert queue.depth == 0
    with pytest.raises(LeaseLost):
        queue.extend([again.id], ttl_seconds=5, worker="w2", now=time.time())


def test_what_was_finished_too_late_need_not_be_done_again(engine: Engine) -> None:
    queue = engine.open()
    put(queue, queued(0))
    (held,) = lease(queue, ttl=0.1)
    time.sleep(0.3)
    queue.ack([held.id], worker="w1")
    assert queue.depth == 0
    assert lease(queue, worker="w2") == []


def test_a_worker_acknowledges_its_own_leases_alone(engine: Engine) -> None:
    queue, other = engine.open(), engine.open()
    put(queue, *map(queued, range(4)))
    mine, theirs = lease(queue, 2), await_leases(other, 2, worker="w2")
    for handle in (queue, other):
        with pytest.raises(LeaseLost):
            handle.ack([item.id for item in theirs], worker="w1")
        with pytest.raises(LeaseLost):
            handle.nack(theirs[0].id, delay_seconds=0, worker="w1", why="x", now=time.time())
        with pytest.raises(LeaseLost):
            handle.extend([theirs[0].id], ttl_seconds=9, worker="w1", now=time.time())
    assert queue.depth == 4
    with pytest.raises(LeaseLost):
        queue.ack([mine[0].id, theirs[0].id, mine[1].id], worker="w1")
    assert queue.depth == 2  # its own are done
    queue.ack([item.id for item in theirs], worker="w2")
    assert queue.depth == 0


def test_an_item_whose_lease_ran_out_comes_alone_and_its_neighbours_lose_no_attempt(engine: Engine) -> None:
    queue = engine.open(max_attempts=2)
    put(queue, *map(queued, range(4)))
    held = lease(queue, 4, ttl=0.3)  # the worker dies over number 1
    assert [item.attempts for item in held] == [1] * 4
    put(queue, *map(queued, range(4, 7)))
    time.sleep(0.5)
    done: list[int] = []
    deadline = time.monotonic() + 20
    while queue.depth:
        assert time.monotonic() < deadline, done
        found = lease(queue, 4, ttl=0.3)
        if not found:
            time.sleep(0.05)
            continue
        if any(item.frame.info.seq < 4 for item in found):
            (alone,) = found
            if alone.frame.info.seq == 1:
                continue  # it kills its worker again
            assert alone.attempts == 1
        queue.ack([item.id for item in found], worker="w1")
        done += seqs(found)
    assert sorted(done) == [0, 2, 3, 4, 5, 6]
    (dead,) = queue.dead(9)
    assert (dead.seq, dead.attempts) == (1, 2)


def test_an_item_given_back_may_come_with_others(engine: Engine) -> None:
    queue = engine.open()
    put(queue, queued(0), queued(1))
    held = lease(queue, 2)
    for item in held:
        queue.nack(item.id, delay_seconds=0, worker="w1", why="its key is not here", now=time.time())
    again = lease(queue, 2)
    assert [(item.frame.info.seq, item.attempts) for item in again] == [(0, 2), (1, 2)]


def test_extend_holds_an_item_beyond_its_first_lease(engine: Engine) -> None:
    queue = engine.open()
    put(queue, queued(0))
    (held,) = lease(queue, ttl=1.0)
    queue.extend([held.id], ttl_seconds=30, worker="w1", now=time.time())
    time.sleep(1.5)
    assert lease(queue, worker="w2") == []


def test_extend_is_all_or_nothing(engine: Engine) -> None:
    queue = engine.open()
    put(queue, queued(0))
    (held,) = lease(queue, ttl=0.5)
    with pytest.raises(LeaseLost):
        queue.extend([held.id, held.id + 1], ttl_seconds=60, worker="w1", now=time.time())
    assert await_lease(queue, worker="w2").frame.info.seq == 0


def test_what_was_acknowledged_is_held_by_nobody(engine: Engine) -> None:
    queue = engine.open()
    put(queue, queued(0))
    (held,) = lease(queue)
    queue.ack([held.id], worker="w1")
    with pytest.raises(LeaseLost):
        queue.extend([held.id], ttl_seconds=60, worker="w1", now=time.time())
    with pytest.raises(LeaseLost):
        queue.nack(held.id, delay_seconds=0, worker="w1", why="late", now=time.time())
    assert lease(queue, worker="w2") == []


def test_an_item_given_back_comes_after_its_delay(engine: Engine) -> None:
    queue = engine.open()
    put(queue, queued(0), queued(1))
    slow, quick = lease(queue)
    queue.nack(slow.id, delay_seconds=1.5, worker="w1", why="its key is not here", now=time.time())
    queue.nack(quick.id, delay_seconds=0, worker="w1", why="its key is not here", now=time.time())
    assert seqs(lease(queue)) == [1]
    given_back = time.monotonic()
    assert await_lease(queue).frame.info.seq == 0
    assert time.monotonic() - given_back > 0.8


def test_a_poison_item_dies_with_its_reason_and_leaves_the_rest_alone(engine: Engine) -> None:
    queue = engine.open()
    put(queue, queued(0), queued(1))
    for attempt in range(LIMITS.max_attempts):
        held = await_lease(queue)
        assert (held.frame.info.seq, held.attempts) == (0, attempt + 1)
        queue.nack(held.id, delay_seconds=0, worker="w1", why=f"bad magic {attempt}", now=time.time())
    assert seqs(lease(queue)) == [1]
    (dead,) = queue.dead(5)
    assert (dead.edge_id, dead.boot_id, dead.seq) == ("gate", queued(0).info.boot_id, 0)
    assert (dead.attempts, dead.why) == (3, "bad magic 2")
    assert (queue.depth, queue.dead_count) == (1, 1)
    queue.ack([dead.id], worker="w1")
    assert queue.dead_count == 1
    assert engine.open().dead(5) == [dead]


def test_a_hopeless_item_goes_under_a_tombstone_after_its_last_attempt(engine: Engine) -> None:
    queue = engine.open()
    put(queue, queued(0), queued(1))
    for attempt in range(LIMITS.max_attempts):
        assert engine.removed == []
        held = await_lease(queue)
        assert (held.frame.info.seq, held.attempts) == (0, attempt + 1)
        queue.nack(
            held.id, delay_seconds=0, worker="w1", why="lacks a key", now=time.time(), hopeless="lacks"
        )
    ((gone, reason),) = engine.removed
    assert (gone.edge_id, gone.seq, gone.why, reason) == ("gate", 0, "lacks a key", "lacks")
    assert (queue.depth, queue.dead_count) == (1, 0)
    assert seqs(lease(queue)) == [1]
    with pytest.raises(LeaseLost):
        queue.nack(held.id, delay_seconds=0, worker="w1", why="x", now=time.time(), hopeless="lacks")
    queue.ack([held.id], worker="w1")
    assert len(engine.removed) == 1


def test_an_item_that_kills_its_workers_dies_too(engine: Engine) -> None:
    queue = engine.open()
    put(queue, queued(0))
    for _ in range(LIMITS.max_attempts):
        held = await_lease(queue)
        queue.extend([held.id], ttl_seconds=0.1, worker="w1", now=time.time())
    put(queue, queued(1))
    while not queue.dead_count:
        assert seqs(lease(queue)) in ([], [1])
        time.sleep(0.05)
    assert "lease ran out" in queue.dead(1)[0].why


def test_the_newest_dead_come_first(engine: Engine) -> None:
    queue = engine.open(max_attempts=1)
    put(queue, *map(queued, range(4)))
    for item in lease(queue):
        queue.nack(item.id, delay_seconds=0, worker="w1", why="x", now=time.time())
    assert [dead.seq for dead in queue.dead(2)] == [3, 2]


def test_a_full_queue_refuses_a_batch_whole_and_takes_it_when_there_is_room(engine: Engine) -> None:
    queue = engine.open(max_bytes=1_000_000)
    put(queue, *(queued(seq, 100_000) for seq in range(6)))
    with pytest.raises(QueueFull):
        put(queue, *(queued(seq, 100_000) for seq in range(6, 11)))
    assert queue.depth == 6
    assert queue.room_bytes <= 400_000
    done = lease(queue, 3)
    queue.ack([item.id for item in done], worker="w1")
    assert put(queue, *(queued(seq, 100_000) for seq in range(6, 11))) == 5
    assert sorted(seqs(lease(queue))) == list(range(3, 11))


def kill(queue: FrameQueue, *frames: QueuedFrame) -> None:
    """Put frames that die at their first attempt."""
    put(queue, *frames)
    for item in lease(queue, len(frames)):
        queue.nack(item.id, delay_seconds=0, worker="w1", why="bad magic", now=time.time())


def test_the_dead_leave_the_living_their_room(engine: Engine) -> None:
    queue = engine.open(max_bytes=1_000_000, max_attempts=1)
    kill(queue, queued(0, 600_000))
    assert put(queue, queued(1, 600_000)) == 1
    assert 600_000 <= queue.depth_bytes < 700_000
    assert 600_000 <= queue.dead_bytes < 700_000
    with pytest.raises(QueueFull):
        put(queue, queued(2, 600_000))


def test_the_oldest_dead_go_first_and_are_told_of(engine: Engine) -> None:
    queue = engine.open(max_attempts=1, max_dead=3)
    for seq in range(5):
        kill(queue, queued(seq))
    assert [dead.seq for dead in queue.dead(9)] == [4, 3, 2]
    assert queue.dead_count == 3
    assert [(dead.seq, why) for dead, why in engine.removed] == [(0, OVER_LIMIT), (1, OVER_LIMIT)]
    assert engine.removed[0][0].edge_id == "gate"
    tight = engine.open(max_attempts=1, max_dead_bytes=250_000)
    for seq in range(5, 8):
        kill(tight, queued(seq, 100_000))
    assert [dead.seq for dead in queue.dead(9)] == [7, 6]
    assert 200_000 <= queue.dead_bytes < 250_000


def test_the_dead_are_shown_requeued_and_purged(engine: Engine) -> None:
    queue = engine.open(max_attempts=1)
    for seq in range(3):
        kill(queue, queued(seq))
    newest, middle, oldest = queue.dead(9)
    shown = queue.dead_frame(middle.id)
    assert shown is not None
    assert shown == (middle, queued(1))
    assert (middle.why, middle.size_bytes, middle.attempts) == ("bad magic", 10, 1)
    assert abs(middle.died_at - time.time()) < 60
    assert queue.requeue([middle.id, 10**9], now=time.time()) == 1
    assert queue.dead_frame(middle.id) is None
    (again,) = lease(queue)
    assert (again.frame, again.attempts) == (queued(1), 1)
    queue.ack([again.id], worker="w1")
    assert queue.purge([oldest.id, 10**9]) == 1
    assert [(dead.seq, why) for dead, why in engine.removed] == [(0, PURGED)]
    assert queue.dead(9) == [newest]
    assert (queue.depth, queue.dead_count) == (0, 1)


def test_what_was_requeued_dies_again_and_is_there_once(engine: Engine) -> None:
    queue = engine.open(max_attempts=1)
    kill(queue, queued(0))
    for _ in range(3):
        (dead,) = queue.dead(9)
        assert queue.requeue([dead.id], now=time.time()) == 1
        assert queue.dead(9) == []
        (held,) = lease(queue)
        queue.nack(held.id, delay_seconds=0, worker="w1", why="again", now=time.time())
    assert [(dead.seq, dead.why) for dead in queue.dead(9)] == [(0, "again")]


def test_a_full_queue_takes_no_dead_back(engine: Engine) -> None:
    queue = engine.open(max_bytes=1_000_000, max_attempts=1)
    kill(queue, queued(0, 600_000))
    put(queue, queued(1, 600_000))
    (dead,) = queue.dead(1)
    with pytest.raises(QueueFull):
        queue.requeue([dead.id], now=time.time())
    assert queue.dead(9) == [dead]


def test_camera_hosts_are_served_in_turn(engine: Engine) -> None:
    """One that floods the queue does not hold up the others."""
    queue = engine.open()
    put(queue, *(queued(seq, edge_id="flood") for seq in range(3000)))
    put(queue, queued(0, edge_id="honest"), queued(1, edge_id="honest"), queued(0, edge_id="third"))
    found = lease(queue, 2) + lease(queue, 2) + lease(queue, 2)
    served = [(item.frame.edge_id, item.frame.info.seq) for item in found]
    assert {("honest", 0), ("honest", 1), ("third", 0)} < set(served)
    assert [seq for edge_id, seq in served if edge_id == "honest"] == [0, 1]
    assert [seq for edge_id, seq in served if edge_id == "flood"] == [0, 1, 2]
    put(queue, queued(2, edge_id="honest"))
    assert ("honest", 2) in [(item.frame.edge_id, item.frame.info.seq) for item in lease(queue, 2)]


def test_one_camera_host_leaves_room_for_others(engine: Engine) -> None:
    queue = engine.open(max_bytes=10_000_000)
    put(queue, *(queued(seq, 900_000, edge_id="flood") for seq in range(6)))
    wait_until(lambda: queue.room_of("flood") == 0, seconds=5)
    assert queue.room_of("honest") > 2_000_000
    held = lease(queue, 3)
    queue.ack([item.id for item in held], worker="w1")
    wait_until(lambda: queue.room_of("flood") > 0, seconds=5)


def test_the_age_of_the_oldest_item(engine: Engine) -> None:
    queue = engine.open()
    assert queue.oldest_age(time.time()) == 0.0
    put(queue, queued(0, received_ns=7_000_000_000), queued(1))
    assert queue.oldest_age(10.0) == 3.0


def test_a_slow_consumer_holds_up_nobody_else(engine: Engine) -> None:
    queue, other = engine.open(), engine.open()
    put(queue, *map(queued, range(60)))
    slow = lease(queue, 16, ttl=1.0, worker="slow")
    seen: list[int] = []
    for seq in range(60, 70):
        put(queue, queued(seq))
    while len(seen) < 54:
        found = await_leases(other, 16, worker="quick")
        seen += seqs(found)
        other.ack([item.id for item in found], worker="quick")
    assert seen == list(range(16, 70))
    late = [await_lease(other, worker="quick") for _ in slow]
    assert sorted(seqs(late)) == list(range(16))


def test_what_one_gateway_leased_another_acknowledges(engine: Engine) -> None:
    first, second = engine.open(), engine.open()
    put(first, *map(queued, range(4)))
    leased = lease(first, 4, ttl=30)
    second.extend([item.id for item in leased], ttl_seconds=30, worker="w1", now=time.time())
    second.ack([leased[0].id], worker="w1")
    second.nack(leased[1].id, delay_seconds=0, worker="w1", why="x", now=time.time())
    engine.close()  # both gateways go, and one comes back
    third = engine.open()
    assert seqs(lease(third, worker="w2")) == [1]
    third.extend([leased[2].id], ttl_seconds=30, worker="w1", now=time.time())
    third.ack([leased[2].id, leased[3].id], worker="w1")
    assert third.depth == 1


def test_many_workers_of_many_gateways_share_the_work(engine: Engine) -> None:
    total = 300
    put(engine.open(), *map(queued, range(total)))
    handles = [engine.open() for _ in range(4)] if not engine.is_embedded else []

    def work(number: int) -> list[int]:
        # SQLite connections belong to the thread that opened them.
        own = Engine(engine.where)
        queue = handles[number] if handles else own.open()
        done: list[int] = []
        while found := lease(queue, 7, worker=f"w{number}"):
            done += seqs(found)
            queue.ack([item.id for item in found], worker=f"w{number}")
        own.close()
        return done

    with ThreadPoolExecutor(4) as pool:
        shares = list(pool.map(work, range(4)))
    assert Counter(seq for share in shares for seq in share) == Counter(range(total))
    assert engine.open().depth == 0


def test_a_reopened_queue_holds_what_was_put(engine: Engine) -> None:
    put(engine.open(), *map(queued, range(3)))
    engine.close()
    again = engine.open()
    assert again.depth == 3
    assert seqs(lease(again)) == [0, 1, 2]


def test_frames_of_groups_stay_with_a_worker_and_are_anybodys_when_it_is_gone(engine: Engine) -> None:
    queue, now = engine.open(), time.time()
    edges, workers = ("a", "b", "c"), ("w1", "w2", "w3")

    def served(seq: int, at: float, *asking: str) -> dict[str, str]:
        """Which worker gets the next frame of each camera host, when these ask in turn."""
        frames = [queued(seq, edge_id=edge_id, payload=b"\x8a group") for edge_id in edges]
        queue.put(frames, now=at)
        found: dict[str, str] = {}
        deadline = time.monotonic() + 10
        while len(found) < len(edges):
            assert time.monotonic() < deadline, f"nobody gets the frames of {set(edges) - set(found)}"
            for worker in asking:
                leased = queue.lease(9, ttl_seconds=60, worker=worker, now=at)
                found.update((item.frame.edge_id, worker) for item in leased)
                queue.ack([item.id for item in leased], worker=worker)
        return found

    served(0, now, *workers)
    first = served(1, now + 0.5, *workers)
    for seq in range(2, 8):
        assert served(seq, now + seq / 2, *reversed(workers)) == first
        assert sorted(first.values()) == list(workers)
    gone = first["a"]
    rest = [worker for worker in workers if worker != gone]
    later = served(8, now + 4 + STAY_SECONDS, *rest)
    assert set(later.values()) <= set(rest)
