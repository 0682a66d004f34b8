"""The long run itself, in a short form, and that it would find what it looks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from secondlook.cloud import catalogue as cat
from secondlook.cloud.config import CloudConfig
from secondlook.edge.site import Given, read_site
from secondlook.shared.config import load
from tests.cloud.test_catalogue import RESULT, box, frame
from tests.soak import Outcome, Samples, Soak, growth, problems, run, shortcomings

MB = 1 << 20


def flat(kilobytes: int) -> list[int]:
    return [kilobytes + 500 * (step % 3) for step in range(40)]


def test_growth_leaves_the_warming_up_out() -> None:
    assert growth([0] * 10 + [100] * 30) == (100, 100)
    assert growth(list(range(40))) == (14.5, 34.5)
    assert growth([7]) == (7, 7)


def test_a_run_that_is_flat_and_quiet_has_no_problem(tmp_path: Path) -> None:
    (tmp_path / "worker.log").write_text(
        "12:00:00 INFO worker 3 reviews\n12:00:01 WARNING worker waiting: x\n"
    )
    samples = Samples({"worker": flat(300_000)}, {"cloud": flat(50 * MB), "edge": flat(30 * MB)})
    assert problems(samples, tmp_path) == []


def test_each_kind_of_problem_is_found(tmp_path: Path) -> None:
    (tmp_path / "worker.log").write_text("12:00:00 ERROR worker lost\n")
    (tmp_path / "edge.log").write_text("Traceback (most recent call last):\n")
    leaking = [300_000 + 1500 * step for step in range(40)]
    samples = Samples(
        {"worker": leaking, "edge's process 7": leaking, "gateway": flat(90_000)},
        {"cloud": [step * 4 * MB for step in range(40)], "edge": [step * 3 * MB for step in range(40)]},
    )
    found = problems(samples, tmp_path)
    assert [one.partition(" grew")[0].partition(":")[0] for one in found] == [
        "memory of the worker",
        "memory of the edge's process 7",
        "bytes of the cloud",
        "bytes of the edge",
        "edge.log",
        "worker.log",
    ]


def test_a_run_that_comes_to_nothing_is_a_problem() -> None:
    well = Outcome({"a": 9, "b": 8}, 20, 5, 12, 3)
    assert shortcomings(well, 60) == []
    assert shortcomings(Outcome({"a": 9, "b": 0}, 20, 5, 12, 3), 60) == ["camera b delivered nothing"]
    assert shortcomings(Outcome({"a": 9}, 20, 5, 0, 3), 60) == ["retention deleted no frame"]
    assert shortcomings(Outcome({"a": 9}, 20, 5, 0, 3), 3) == []
    assert shortcomings(Outcome(), 60) == [
        "no agent told how it did",
        "no frame was looked at",
        "retention deleted no frame",
        "no review was made ready and judged",
    ]


def test_ten_cameras_are_ten_agents_of_one_process(tmp_path: Path) -> None:
    Soak(tmp_path, 10, 1.0)
    site = read_site(tmp_path / "edge.toml", Given({}, {}, {}))
    assert [one.edge_id for one in site.cameras] == [f"camera-{number}" for number in range(1, 11)]
    assert {one.source.address for one in site.cameras} == {"demo:"} and site.host.source.realtime
    assert sum(one.spool.max_bytes for one in site.cameras) <= 64 * MB
    cloud = load(tmp_path / "cloud.toml", CloudConfig)
    assert cloud.retention.unreviewed_days * 24 * 60 == pytest.approx(2)


def test_what_is_ready_is_judged(tmp_path: Path) -> None:
    soak = Soak(tmp_path, 1, 1.0)
    catalogue = cat.open_catalogue(f"sqlite:///{tmp_path}/cloud/catalogue.db")
    wish = [cat.NewReview(reason="x", priority=5)]
    for seq in (1, 2):
        cat.store_frame(catalogue, frame(seq), [box()], detector="t", reasons=wish, now_ns=1)
    lease = cat.lease_due_review(catalogue, "r", lease_seconds=9, now_ns=1)
    assert lease is not None
    cat.mark_ready(catalogue, lease.review_id, "r", RESULT, now_ns=2)
    soak._judge(catalogue)
    soak._judge(catalogue)
    assert soak._outcome(catalogue).judged == 1
    with catalogue.reading() as session:
        assert session.get_one(cat.Review, lease.review_id).state is cat.ReviewState.DECIDED
    catalogue.close()


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.timeout(900)
def test_three_minutes_of_ten_cameras(tmp_path: Path) -> None:
    assert run(3.0, 1.0, tmp_path, 10) == 0
