"""The spool and video groups: whatever drops a frame of a group drops what lies behind it, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from secondlook.edge.spool import Safe, Spool, SpooledFrame
from secondlook.shared.link import Received
from secondlook.shared.packet import MAX_BASE_BYTES, FrameInfo
from tests.edge.test_spool import BOOT, LATER, SECOND, held, spans, spool


def grouped(seq: int, first: int, *, size: int = 100) -> SpooledFrame:
    """A frame of the group that begins at `first`."""
    base = b"\x8a" + bytes(size // 2 - 1)
    return SpooledFrame(
        FrameInfo(BOOT, seq, 0, 64, 48, None if seq == first else first, size // 2),
        base,
        b"e" * (size // 2),
    )


def group(first: int, count: int) -> list[SpooledFrame]:
    return [grouped(seq, first) for seq in range(first, first + count)]


def spans_of(store: Spool) -> list[tuple[int, int, str]]:
    return spans(store.tombstones(0))


def test_the_oldest_policy_drops_a_whole_group_with_its_head(tmp_path: Path) -> None:
    store = spool(tmp_path, max_bytes=600)
    assert store.put([*group(0, 3), *group(3, 3)], 0) == 0
    assert store.put([grouped(6, 3)], 0) == 3
    assert held(store) == [3, 4, 5, 6]
    assert spans_of(store) == [(0, 2, "spool-full")]


def test_what_is_dropped_in_mid_group_takes_what_lies_behind_it(tmp_path: Path) -> None:
    """keep-keys: the oldest frame that is no head goes, and those behind it in its group alone."""
    store = spool(tmp_path, max_bytes=600, drop="keep-keys")
    store.put([*group(0, 3), *group(3, 3)], 0)
    assert store.put([grouped(6, 3)], 0) == 2
    assert held(store) == [0, 3, 4, 5, 6]
    assert spans_of(store) == [(1, 2, "spool-full")]


def test_what_arrives_behind_a_hole_is_dropped_until_a_new_group_begins(tmp_path: Path) -> None:
    store = spool(tmp_path, max_bytes=300, drop="keep-keys")
    store.put(group(0, 3), 0)
    # Of its own group: 1 and 2 go for it, and then it cannot be decoded itself.
    assert store.put([grouped(3, 0), grouped(4, 0)], 0) == 4
    assert held(store) == [0]
    store.put([grouped(5, 5), grouped(6, 5)], 0)
    assert held(store) == [0, 5, 6]


@pytest.mark.parametrize("drop", ["newest", "oldest"])
def test_a_frame_too_large_ends_its_group(tmp_path: Path, drop: str) -> None:
    store = spool(tmp_path, drop=drop)
    huge = SpooledFrame(FrameInfo(BOOT, 2, 0, 64, 48, 0, 0), b"\x8a" + bytes(MAX_BASE_BYTES), b"")
    assert store.put([*group(0, 2), huge, grouped(3, 0), *group(4, 2)], 0) == 2
    assert held(store) == [0, 1, 4, 5]
    assert spans_of(store) == [(2, 2, "too-large"), (3, 3, "key-dropped")]


def test_the_newest_policy_ends_the_group_at_the_frame_that_found_no_room(tmp_path: Path) -> None:
    store = spool(tmp_path, max_bytes=300, drop="newest")
    assert store.put(group(0, 5), 0) == 2
    store.mark_safe([Safe(BOOT, 1)])
    assert store.put([grouped(5, 0)], 0) == 1, "there is room again, and a hole before it"
    assert store.put([grouped(6, 6)], 0) == 0
    assert held(store) == [2, 6]


def test_a_delivered_head_stays_good_when_the_rest_of_its_group_ages(tmp_path: Path) -> None:
    store = spool(tmp_path, max_age_seconds=10)
    store.put(group(0, 4), 0)
    store.mark_safe([Safe(BOOT, 1)])
    assert store.put([grouped(4, 0)], 20 * SECOND) == 3, "2 and 3 are too old, and 4 lies behind them"
    assert spans_of(store) == [(2, 3, "spool-age"), (4, 4, "key-dropped")]


def test_an_older_group_that_goes_does_not_hide_the_hole_in_the_newest(tmp_path: Path) -> None:
    store = spool(tmp_path, max_bytes=600)
    huge = SpooledFrame(FrameInfo(BOOT, 4, 0, 64, 48, 3, 0), b"\x8a" + bytes(MAX_BASE_BYTES), b"")
    store.put([*group(0, 3), grouped(3, 3), huge], 0)
    store.put([SpooledFrame(FrameInfo(BOOT, 9, 0, 64, 48, None, 0), b"\x8a" + bytes(399), b"")], 0)
    assert held(store) == [3, 9]
    assert store.put([grouped(10, 3)], 0) == 1


def test_groups_of_an_earlier_boot_do_not_touch_this_one(tmp_path: Path) -> None:
    store = spool(tmp_path)
    store.put(group(0, 3), 0)
    store.close()
    store = spool(tmp_path, boot=LATER, max_bytes=600, drop="keep-keys")
    store.put(group(0, 3), 0)
    assert store.put([grouped(3, 0)], 0) == 2
    assert held(store) == [0] and held(store, LATER) == [0, 1, 2, 3]


def test_what_a_restored_gateway_lacks_in_mid_group_takes_what_lies_behind_it(tmp_path: Path) -> None:
    store = spool(tmp_path, retention_seconds=10)
    store.put(group(0, 3), 0)
    store.mark_safe([Safe(BOOT, 2)])
    store.put([grouped(3, 0), grouped(4, 0)], 20 * SECOND)  # the delivered ones have outlived their time
    store.put([*group(5, 2)], 20 * SECOND)
    assert held(store) == [3, 4, 5, 6]
    held_there = Received()
    held_there.add(0, 1)
    store.compare(BOOT, held_there)
    assert held(store) == [5, 6], "2 is nowhere any more: 3 and 4 cannot be decoded"
    assert spans_of(store) == [(2, 4, "restored")]
    assert store.put([grouped(7, 5)], 20 * SECOND) == 0


def test_a_frame_that_arrives_for_a_group_with_a_lost_middle_is_dropped(tmp_path: Path) -> None:
    store = spool(tmp_path, retention_seconds=10)
    store.put(group(0, 3), 0)
    store.mark_safe([Safe(BOOT, 2)])
    store.put([], 20 * SECOND)
    held_there = Received()
    held_there.add(0, 1)
    store.compare(BOOT, held_there)
    assert store.put([grouped(3, 0)], 20 * SECOND) == 1
    assert store.put([grouped(4, 4)], 20 * SECOND) == 0


def test_deltas_of_a_model_need_their_key_alone(tmp_path: Path) -> None:
    store = spool(tmp_path, max_bytes=300, drop="keep-keys")
    deltas = [
        SpooledFrame(FrameInfo(BOOT, seq, 0, 64, 48, 0 if seq else None, 50), bytes(50), bytes(50))
        for seq in range(4)
    ]
    store.put(deltas[:3], 0)
    assert store.put(deltas[3:], 0) == 1
    assert held(store) == [0, 2, 3]
