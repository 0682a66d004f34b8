"""The spool: bounds and their tombstones, what survives SIGKILL, and errors of the disk."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from secondlook.edge.config import SpoolConfig
from secondlook.edge.restored import Restored
from secondlook.edge.spool import Spool
from secondlook.edge.spooled import Safe, SpooledFrame, SpooledTombstone, UnspooledTombstone
from secondlook.shared import packet as p
from secondlook.shared.errors import ConfigError, DiskFull, StorageError, StoreCorrupt, Unwritable
from secondlook.shared.link import Received
from secondlook.shared.packet import FrameInfo

BOOT, LATER = "a" * 32, "b" * 32
SECOND = 10**9
ROOT = Path(__file__).parents[2]


def frame(seq: int, *, size: int = 100, key: int | None = None, at: int = 0) -> SpooledFrame:
    return SpooledFrame(
        FrameInfo(BOOT, seq, at, 64, 48, key, size - size // 2),
        bytes([seq % 256]) * (size // 2),
        b"e" * (size - size // 2),
    )


def spool(folder: Path, boot: str = BOOT, now_ns: int = 0, **settings: object) -> Spool:
    return Spool(folder, SpoolConfig(**{"min_free_bytes": 0, **settings}), boot, now_ns)


def held(store: Spool, boot: str = BOOT) -> list[int]:
    return [pending.info.seq for pending in store.read(boot, 0, 10**9)]


def spans(tombstones: list[SpooledTombstone]) -> list[tuple[int, int, str]]:
    return [(tombstone.first_seq, tombstone.last_seq, tombstone.reason) for tombstone in tombstones]


def test_frames_come_back_in_order_until_safe(tmp_path: Path) -> None:
    store = spool(tmp_path)
    store.put([frame(0), frame(1, key=0), frame(2)], 0)
    (first, second, _) = store.read(BOOT, 0, 10**9)
    assert (first.payload, first.info.enhancement_bytes, first.info.key_seq, second.info.key_seq) == (
        b"\0" * 50,
        50,
        None,
        0,
    )
    assert [pending.info.seq for pending in store.read(BOOT, 1, 60)] == [1]
    assert [pending.info.seq for pending in store.read(BOOT, 1, 1)] == [1], (
        "one frame comes whatever its size"
    )
    assert store.bounds(BOOT) == (0, 3)
    assert store.mark_safe([Safe(BOOT, 0, ((2, 2),))]) == 2
    assert store.mark_safe([Safe(BOOT, 0)]) == 0
    assert held(store) == [1]
    assert store.bounds(BOOT) == (1, 3)
    assert store.mark_safe([Safe(BOOT, 2)]) == 1
    assert store.undelivered_boots() == []
    assert store.bounds(BOOT) == (3, 3)


def test_what_a_restored_gateway_lacks_is_undelivered_again_or_under_a_tombstone(tmp_path: Path) -> None:
    store = spool(tmp_path, max_bytes=1000)
    store.put([frame(0), *(frame(seq, key=0) for seq in range(1, 5)), frame(5), frame(6, key=5)], 0)
    store.mark_safe([Safe(BOOT, 6)])
    store.put([frame(7, key=5), frame(8), frame(9, key=8), *(frame(seq, key=8) for seq in range(10, 16))], 0)
    # Room was needed: 0 to 5 are gone, of the second group of frames only its deltas 6 and 7 are left.
    assert held(store) == list(range(7, 16))
    assert store.compare(BOOT, Received(6)) == Restored()
    store.mark_safe([Safe(BOOT, 6, ((8, 10),))])
    assert store.compare(BOOT, Received(2, [(8, 8)])) == Restored(again=2, again_from=9, gone=5)
    assert held(store) == list(range(9, 16)), "deltas to a key that nobody has are not sent"
    assert spans(store.tombstones(0)) == [(3, 7, "restored")]
    assert store.bounds(BOOT) == (3, 16)
    assert store.compare(BOOT, Received(2, [(8, 8)])) == Restored(), "what waits is not lost again"
    store.put([frame(16, key=5), frame(17, key=8)], 0)
    assert spans(store.tombstones(0))[-1] == (16, 16, "key-dropped")
    assert held(store) == [*range(9, 16), 17]


def test_delivered_boots_are_known_for_long(tmp_path: Path) -> None:
    for number in range(300):
        store = spool(tmp_path, f"{number:032x}", now_ns=number * 86_400 * SECOND)
        store.put([frame(0)], number)
        store.mark_safe([Safe(f"{number:032x}", 0)])
        store._db.execute("DELETE FROM frames")
        store.close()
    store = spool(tmp_path, now_ns=300 * 86_400 * SECOND)
    assert store.delivered_boots() == [f"{number:032x}" for number in range(299, 43, -1)]
    assert store.compare(f"{100:032x}", Received()) == Restored(again=0, again_from=None, gone=1)
    assert store.undelivered_boots() == [f"{100:032x}"]


def test_enhancements_stay_after_delivery(tmp_path: Path) -> None:
    store = spool(tmp_path, retention_seconds=10)
    store.put([frame(0)], 0)
    store.mark_safe([Safe(BOOT, 0)])
    assert store.enhancement(BOOT, 0) == b"e" * 50
    assert store.enhancement(BOOT, 1) == "unknown"
    assert store.enhancement(LATER, 0) == "unknown"
    store.put([frame(1, at=11 * SECOND)], 11 * SECOND)
    assert store.enhancement(BOOT, 0) == "expired"
    assert store.tombstones(0) == [], "a delivered frame leaves no tombstone"


def test_delivered_frames_go_before_undelivered_ones(tmp_path: Path) -> None:
    store = spool(tmp_path, max_bytes=300)
    store.put([frame(0), frame(1), frame(2)], 0)
    store.mark_safe([Safe(BOOT, -1, ((2, 2),))])
    assert store.put([frame(3)], 0) == 0
    assert held(store) == [0, 1, 3]
    assert store.size_bytes == 300


def test_full_spool_drops_the_oldest_and_says_so(tmp_path: Path) -> None:
    store = spool(tmp_path, max_bytes=300)
    assert store.put([frame(seq) for seq in range(5)], 0) == 2
    assert held(store) == [2, 3, 4]
    (tombstone,) = store.tombstones(0)
    assert (tombstone.boot_id, tombstone.first_seq, tombstone.last_seq, tombstone.reason) == (
        BOOT,
        0,
        1,
        "spool-full",
    )
    assert store.put([frame(5)], 0) == 1
    assert spans(store.tombstones(tombstone.id)) == [(0, 2, "spool-full")], (
        "a tombstone that grew must be sent again"
    )
    assert store.bounds(BOOT) == (0, 6)
    store.mark_safe([Safe(BOOT, 2)])
    assert store.tombstones(0) == []


def test_full_spool_drops_the_newest_by_policy(tmp_path: Path) -> None:
    store = spool(tmp_path, max_bytes=300, drop="newest")
    assert store.put([frame(seq) for seq in range(5)], 0) == 2
    assert held(store) == [0, 1, 2]
    assert spans(store.tombstones(0)) == [(3, 4, "spool-full")]
    assert store.bounds(BOOT) == (0, 5)


def test_a_frame_larger_than_the_spool_drops_only_itself(tmp_path: Path) -> None:
    store = spool(tmp_path, max_bytes=300)
    assert store.put([frame(0), frame(1, size=301)], 0) == 1
    assert held(store) == [0]


def test_a_dropped_key_takes_its_deltas_along(tmp_path: Path) -> None:
    store = spool(tmp_path, max_bytes=300)
    store.put([frame(0), frame(1, key=0), frame(2)], 0)
    assert store.put([frame(3)], 0) == 2
    assert held(store) == [2, 3]
    assert store.put([frame(4, size=200), frame(5, key=2)], 0) == 2
    assert held(store) == [3, 4], "2 made room for 4, and 5 needs 2"
    assert spans(store.tombstones(0)) == [(0, 2, "spool-full"), (5, 5, "key-dropped")]


def test_a_delta_whose_key_was_refused_is_refused(tmp_path: Path) -> None:
    store = spool(tmp_path, max_bytes=150, drop="newest")
    assert store.put([frame(0), frame(1), frame(2, size=10, key=1), frame(3, size=10)], 0) == 2
    assert held(store) == [0, 3]


def test_undelivered_frames_are_given_up_by_age(tmp_path: Path) -> None:
    store = spool(tmp_path, max_age_seconds=10)
    store.put([frame(0)], 0)
    store.put([frame(1)], 5 * SECOND)
    assert store.put([frame(2)], 11 * SECOND) == 1
    assert held(store) == [1, 2]
    assert spans(store.tombstones(0)) == [(0, 0, "spool-age")]


def test_ages_count_while_nothing_is_put(tmp_path: Path) -> None:
    """A camera that is paused, or whose commits bring more frames than one look takes."""
    store = spool(tmp_path, retention_seconds=3600, max_age_seconds=7200)
    store.put([frame(seq, size=10) for seq in range(1000)], 0)
    store.mark_safe([Safe(BOOT, 599)])
    assert store.age(3500 * SECOND) == 0 and store.size_bytes == 10_000
    assert store.age(3700 * SECOND) == 0 and store.size_bytes == 4000, "all that were delivered went at once"
    assert store.enhancement(BOOT, 0) == "expired" and held(store) == list(range(600, 1000))
    assert store.age(7300 * SECOND) == 400 and store.size_bytes == 0
    assert spans(store.tombstones(0)) == [(600, 999, "spool-age")]


def test_a_look_for_what_is_old_writes_nothing_where_nothing_is(tmp_path: Path) -> None:
    """An idle host would else write to its card every minute."""
    store = spool(tmp_path, max_age_seconds=86_400)
    store.put([frame(0)], 0)

    def written() -> tuple[int, int]:
        (clock,) = store._db.execute("SELECT wall_ns FROM clock").fetchone()
        return (tmp_path / "spool.db-wal").stat().st_size, clock

    before = written()
    for minute in range(1, 60):
        assert store.age(minute * 60 * SECOND) == 0
        assert written() == before
    store.age(3600 * SECOND)
    assert written()[1] == 3600 * SECOND, (
        "but once an hour, or a host that is switched off each day would forget"
    )
    store.close()
    again = spool(tmp_path, LATER, 3600 * SECOND, max_age_seconds=86_400)
    assert sum(again.age(hour * 3600 * SECOND) for hour in range(1, 24)) == 0
    assert again.age(86_000 * SECOND) == 0
    assert again.age(86_401 * SECOND) == 1, "the minutes between two writings count"


def test_a_clock_that_jumps_makes_nothing_old(tmp_path: Path) -> None:
    store = spool(tmp_path, max_age_seconds=7 * 86_400)
    store.put([frame(0, at=0)], 0)
    found_a_time_server = 56 * 365 * 86_400 * SECOND
    assert store.put([frame(1)], found_a_time_server) == 0
    assert store.put([frame(2)], found_a_time_server - 86_400 * SECOND) == 0
    store.close()
    again = spool(tmp_path, LATER, found_a_time_server * 2, max_age_seconds=7 * 86_400)
    assert again.put([], found_a_time_server * 2) == 0
    assert held(again) == [0, 1, 2]
    dropped = sum(again.put([], found_a_time_server * 2 + hour * 3600 * SECOND) for hour in range(169))
    assert dropped == 3, "seven days that were lived through count"


def test_a_frame_that_no_packet_can_carry_goes_under_a_tombstone_with_those_that_need_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = spool(tmp_path)
    times = {1: -5, 2: 2**63 - 1, 6: p.MAX_NS + 1, 8: p.MAX_NS}
    frames = [frame(seq, key={3: 2, 5: 4}.get(seq), at=times.get(seq, 7)) for seq in range(9)]
    store.put(frames, 0)
    assert [one.info.seq for one in store.read(BOOT, 0, 10**9, max_frames=4)] == [0, 4, 5, 7], "3 needs 2"
    assert held(store) == [0, 4, 5, 7, 8] and spans(store.tombstones(0)) == [
        (1, 3, "damaged"),
        (6, 6, "damaged"),
    ]
    assert store.waiting == (5, 250) and store.size_bytes == 500
    assert "2 frames from 1 on cannot be sent, and are given up: " in caplog.text
    assert "captured_ns is -5, outside" in caplog.text
    store.put([frame(9, at=-1), frame(10, at=-1), frame(11)], 0)
    assert [one.info.seq for one in store.read(BOOT, 9, 10**9, max_frames=2)] == [11], (
        "where none of those that were looked at can be sent, it goes on behind them"
    )


def test_a_full_disk_does_not_keep_the_others_from_being_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = spool(tmp_path)
    store.put([frame(0, at=-1), frame(1)], 0)
    with monkeypatch.context() as patch:

        @contextmanager
        def full(connection: sqlite3.Connection) -> Iterator[None]:
            raise DiskFull("no space left")
            yield

        patch.setattr("secondlook.edge.spool.immediate", full)
        assert held(store) == [1] and store.waiting[0] == 2
    assert held(store) == [1] and store.waiting[0] == 1


def test_keep_keys_drops_deltas_first_and_then_the_oldest_key(tmp_path: Path) -> None:
    store = spool(tmp_path, max_bytes=400, drop="keep-keys")
    store.put([frame(0), frame(1, key=0), frame(2), frame(3, key=2)], 0)
    assert store.put([frame(4)], 0) == 1
    assert store.put([frame(5, key=4)], 0) == 1
    assert held(store) == [0, 2, 4, 5]
    assert store.put([frame(6)], 0) == 1
    assert store.put([frame(7, key=6)], 0) == 1
    assert held(store) == [0, 2, 4, 6], "a delta never drives out a key"
    assert store.put([frame(8)], 0) == 1
    assert held(store) == [2, 4, 6, 8]
    gone = [seq for first, last, _ in spans(store.tombstones(0)) for seq in range(first, last + 1)]
    assert sorted(gone) == [0, 1, 3, 5, 7]


@pytest.mark.parametrize("drop", ["oldest", "newest", "keep-keys"])
def test_a_pinned_frame_stays_whatever_room_is_wanted(tmp_path: Path, drop: str) -> None:
    store = spool(tmp_path, max_bytes=300, drop=drop, retention_seconds=60)
    store.put([frame(0), frame(1)], 0)
    store.mark_safe([Safe(BOOT, 1)])
    assert store.pin(BOOT, 0, 50.0)
    assert not store.pin(BOOT, 9, 50.0)
    store.put([frame(seq) for seq in range(2, 9)], 40 * SECOND)
    assert store.enhancement(BOOT, 0) == b"e" * 50
    assert store.enhancement(BOOT, 1) == "expired"
    store.close()
    again = spool(tmp_path, LATER, 41 * SECOND, max_bytes=300, drop=drop, retention_seconds=30)
    again.put([frame(0)], 42 * SECOND)
    assert again.enhancement(BOOT, 0) == b"e" * 50, "a pin outlives the agent"
    again.unpin(BOOT, 0)
    again.put([frame(1)], 43 * SECOND)
    assert again.enhancement(BOOT, 0) == "expired"


def test_a_pin_ends_with_its_deadline_and_pins_are_few(tmp_path: Path) -> None:
    store = spool(tmp_path, retention_seconds=20, max_pinned=1)
    store.put([frame(0), frame(1)], 0)
    store.mark_safe([Safe(BOOT, 1)])
    assert store.pin(BOOT, 0, 10.0)
    assert not store.pin(BOOT, 1, 10.0)
    store.put([], 21 * SECOND)
    assert store.enhancement(BOOT, 0) == "expired"


def test_a_spool_of_version_1_is_taken_over(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "spool.db")) as db:
        db.executescript(VERSION_1)
        db.execute("INSERT INTO boots VALUES (1, ?, 0, 2)", (BOOT,))
        db.execute("INSERT INTO frames VALUES (1, 1, 0, 5, 64, 48, NULL, 6, 0, ?, ?)", (b"abc", b"def"))
        db.commit()
    store = spool(tmp_path, LATER, 10**18, max_age_seconds=3600)
    store.put([frame(0)], 10**18)
    (pending,) = store.read(BOOT, 0, 10**9)
    assert (pending.payload, pending.info.captured_ns) == (b"abc", 5)
    assert store.pin(BOOT, 0, 5.0)


def test_the_spool_stops_growing_when_the_disk_is_nearly_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = spool(tmp_path, min_free_bytes=10**6)
    store.put([frame(seq, size=20_000) for seq in range(3)], 0)
    monkeypatch.setattr("secondlook.edge.spool.shutil.disk_usage", lambda _: SimpleNamespace(free=900_000))
    assert store.put([frame(3, size=20_000)], 0) == 1
    assert held(store) == [1, 2, 3]
    assert store.size_bytes == 60_000


def test_a_later_boot_still_delivers_the_earlier_ones(tmp_path: Path) -> None:
    first = spool(tmp_path)
    first.put([frame(0), frame(1)], 0)
    first.close()
    store = spool(tmp_path, LATER, now_ns=1)
    assert store.undelivered_boots() == [BOOT]
    store.put([frame(0)], 1)
    assert store.undelivered_boots() == [BOOT, LATER]
    assert (held(store), held(store, LATER)) == ([0, 1], [0])
    assert store.bounds(BOOT) == (0, 2)
    assert store.size_bytes == 300


def test_a_full_disk_is_one_clear_error_and_nothing_is_half_written(tmp_path: Path) -> None:
    store = spool(tmp_path)
    store.put([frame(0)], 0)
    store._db.execute("PRAGMA max_page_count = 20")
    with pytest.raises(DiskFull, match="no space left"):
        store.put([frame(seq, size=20_000) for seq in range(1, 9)], 0)
    assert held(store) == [0]
    assert store.size_bytes == 100
    assert store.put([frame(1)], 0) == 0


def test_counts_go_back_with_a_commit_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = spool(tmp_path)
    store.put([frame(seq) for seq in range(4)], 0)
    counted = store.size_bytes, store.waiting

    @contextmanager
    def full(connection: sqlite3.Connection) -> Iterator[None]:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")
        raise DiskFull("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("secondlook.edge.spool.immediate", full)
        for change in (
            lambda: store.put([frame(4)], 0),
            lambda: store.mark_safe([Safe(BOOT, 2)]),
            lambda: store.give_up(1, 0, overhead_bytes=9),
        ):
            with pytest.raises(DiskFull):
                change()
            assert (store.size_bytes, store.waiting) == counted
    assert store.mark_safe([Safe(BOOT, 2)]) == 3
    assert store.waiting[0] == 1


def test_what_a_full_disk_cost_is_told_once_there_is_room(tmp_path: Path) -> None:
    store = spool(tmp_path)
    store.put([frame(0)], 0)
    lost = UnspooledTombstone(1, 2, 1).followed_by(UnspooledTombstone(3, 4, None))
    assert store.put([frame(5, key=1), frame(6)], 0, before=lost) == 1
    assert held(store) == [0, 6]
    assert spans(store.tombstones(0)) == [(1, 4, "disk-full"), (5, 5, "key-dropped")]


def test_a_batch_that_fails_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = spool(tmp_path)
    answers = [SimpleNamespace(free=10**9)]

    def disk_usage(_: Path) -> SimpleNamespace:
        if not answers:
            raise OSError(5, "the disk is gone")
        return answers.pop()

    monkeypatch.setattr("secondlook.edge.spool.shutil.disk_usage", disk_usage)
    with pytest.raises(Unwritable, match="the disk is gone"):
        store.put([frame(0), frame(1)], 0)
    assert (held(store), store.size_bytes, store.bounds(BOOT)) == ([], 0, (0, 0))


def test_a_folder_that_cannot_be_made_is_unwritable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Unwritable):
        spool(tmp_path / "file" / "spool")


def test_a_damaged_file_is_corrupt(tmp_path: Path) -> None:
    (tmp_path / "spool.db").write_bytes(b"not a database, and long enough to be told from an empty one" * 30)
    with pytest.raises(StoreCorrupt):
        spool(tmp_path)


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    spool(tmp_path).close()
    with sqlite3.connect(tmp_path / "spool.db") as db:
        db.execute("PRAGMA user_version = 9")
    db.close()
    with pytest.raises(StorageError, match="version 9"):
        spool(tmp_path, LATER)


@pytest.mark.parametrize("settings", [{"max_bytes": 0}, {"retention_seconds": 0.0}, {"commit_seconds": -1.0}])
def test_settings_are_checked(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        SpoolConfig(**settings)


VERSION_1 = """
CREATE TABLE boots (number INTEGER PRIMARY KEY, boot_id TEXT NOT NULL UNIQUE, started_ns INTEGER NOT NULL,
    next_seq INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE TABLE frames (id INTEGER PRIMARY KEY, boot INTEGER NOT NULL REFERENCES boots (number),
    seq INTEGER NOT NULL, captured_ns INTEGER NOT NULL, width INTEGER NOT NULL, height INTEGER NOT NULL,
    key_seq INTEGER, size_bytes INTEGER NOT NULL, safe INTEGER NOT NULL DEFAULT 0, base BLOB NOT NULL,
    enhancement BLOB NOT NULL, UNIQUE (boot, seq)) STRICT;
CREATE INDEX frames_undelivered ON frames (boot, seq) WHERE safe = 0;
CREATE INDEX frames_safe ON frames (id) WHERE safe = 1;
CREATE TABLE tombstones (id INTEGER PRIMARY KEY AUTOINCREMENT, boot INTEGER NOT NULL REFERENCES boots (number),
    first_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL, reason TEXT NOT NULL) STRICT;
PRAGMA user_version = 1;
"""

_WRITER = """
import sys
from pathlib import Path
from secondlook.edge.config import SpoolConfig
from secondlook.edge.spool import Spool
from secondlook.edge.spooled import SpooledFrame
from secondlook.shared.packet import FrameInfo

store = Spool(Path(sys.argv[1]), SpoolConfig(min_free_bytes=0, max_bytes=400_000), sys.argv[2], 0)
seq = 0
while True:
    bases = [bytes([(seq + n) % 251]) * 3000 for n in range(3)]
    infos = [FrameInfo(sys.argv[2], seq + n, 0, 8, 8, None, 9000) for n in range(3)]
    store.put([SpooledFrame(info, base, b"e" * 9000) for info, base in zip(infos, bases)], 0)
    seq += 3
    print(seq, flush=True)
"""


@pytest.mark.parametrize("lines", [1, 5, 17, 40])
def test_nothing_that_was_put_is_lost_by_sigkill(tmp_path: Path, lines: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(tmp_path), BOOT], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as writer:
        assert writer.stdout is not None
        for _ in range(lines):
            written = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read().split()
    # The pipe may hold more than was read before the kill; its last line may be cut.
    written = max([written, *(int(line) for line in rest[:-1])])
    store = spool(tmp_path, LATER)
    found = store.read(BOOT, 0, 10**9)
    seqs = {pending.info.seq for pending in found}
    for tombstone in store.tombstones(0):
        seqs |= set(range(tombstone.first_seq, tombstone.last_seq + 1))
    _, following = store.bounds(BOOT)
    assert following >= written
    assert seqs == set(range(following)), "each frame is there or under a tombstone, and nothing half"
    assert following % 3 == 0, "a batch is there whole or not at all"
    assert all(pending.payload == bytes([pending.info.seq % 251]) * 3000 for pending in found)
    assert store._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert store.size_bytes == 12_000 * len(found) <= 400_000
