"""`secondlook bench pipeline`, small: real processes, real sockets, every packet accounted for."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from secondlook.cloud.bench import pipeline
from secondlook.cloud.bench.pipeline import Plan
from secondlook.main import main
from secondlook.shared.errors import ConfigError, FramesLost

pytestmark = pytest.mark.process

KEYS = {
    *("backend", "edges", "packet_bytes", "packets_per_s", "raw_packets_per_s", "ratio"),
    *("p50_ms", "p99_ms", "rss_mb", "lost", "duplicated"),
}


def test_every_packet_is_acknowledged_once_and_the_report_is_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.slk").write_bytes(b"a" * 3000)
    (tmp_path / "b.slk").write_bytes(b"b" * 1000)
    out = tmp_path / "out.json"
    command = ["bench", "pipeline", "--edges", "7", "--packets", "1400", "--processes", "2"]
    recorded = ["--recorded", str(tmp_path / "a.slk"), str(tmp_path / "b.slk")]
    assert main([*command, *recorded, "--data-dir", str(tmp_path), "--json", str(out)]) == 0
    figures = json.loads(out.read_text())
    assert set(figures) >= KEYS
    assert (figures["backend"], figures["edges"], figures["packet_bytes"]) == ("sqlite", 7, 2000)
    assert (figures["packets"], figures["lost"], figures["duplicated"]) == (1400, 0, 0)
    assert 0 < figures["p50_ms"] <= figures["p99_ms"]
    assert figures["ratio"] == pytest.approx(
        figures["packets_per_s"] / min(figures["raw"].values()), abs=0.002
    )
    both = sum(1 / rate for rate in figures["raw"].values())
    assert figures["ratio_in_series"] == pytest.approx(figures["packets_per_s"] * both, abs=0.002)
    assert "1,400 packets" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.slk", "b.slk", "out.json"]


def test_storing_alone_is_measured_on_a_server_too(tmp_path: Path, nats_url: str) -> None:
    """Workers begin when all is acknowledged, and still find every packet; a second run is not taken for the first."""
    payloads = (os.urandom(2000),)
    plan = Plan(
        edges=5, packets=500, payloads=payloads, in_flight=4, processes=1, queue=nats_url, store_only=True
    )
    for _ in range(2):
        figures = pipeline.run(plan, tmp_path)
        pipeline.check(figures)
    assert (figures["backend"], figures["store_only"], figures["lost"]) == ("nats", True, 0)
    assert "workers afterwards" in pipeline.report(figures)


def test_the_gateway_does_not_grow_with_what_it_has_taken(tmp_path: Path) -> None:
    plan = Plan(edges=20, packets=10_000, payloads=(os.urandom(2000),), in_flight=8, processes=1)
    figures = pipeline.run(plan, tmp_path)
    pipeline.check(figures)
    series = figures["rss_series_mb"]
    # Buffers and SQLite's cache fill up in the beginning; what follows would be a leak.
    assert series[-1] - series[len(series) // 2] < 12


def test_a_loss_is_an_error() -> None:
    with pytest.raises(FramesLost):
        pipeline.check({"lost": 1, "duplicated": 0})


@pytest.mark.parametrize("wrong", [{"edges": 0}, {"packets": 1}, {"payloads": (b"",)}, {"processes": 3}])
def test_plans_are_checked(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        Plan(**{"edges": 2, "packets": 4, "payloads": (b"x",), "in_flight": 1, "processes": 1, **wrong})
