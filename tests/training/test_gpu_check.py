"""The script of three minutes, as far as a machine without a GPU goes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="training is not installed")


from secondlook.shared.inference import choose_device
from secondlook.training import gpu_check


def test_without_a_gpu_it_says_so_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    choose_device.cache_clear()
    try:
        choose_device("cuda")
    except Exception:  # noqa: BLE001 - whatever the machine lacks
        assert gpu_check.main(["--device", "cuda", "--seconds", "0"]) == 1
        assert "device cuda" in capsys.readouterr().out
    else:
        pytest.skip("there is a GPU here")


def test_every_figure_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "SIZE", (64, 96))
    monkeypatch.setattr(gpu_check, "picture", lambda seed: np.full((64, 96, 3), 10 * seed, np.uint8))
    out = tmp_path / "out.json"
    arguments = ["--device", "cpu", "--seconds", "0", "--filters", "rrdb-fast", "--json", str(out)]
    assert gpu_check.main(arguments) == 0
    figures = json.loads(out.read_text())
    assert figures["grey levels apart"] == 0
    timed = {name: value for name, value in figures.items() if isinstance(value, float)}
    assert len(timed) == 2 + len(gpu_check.BATCHES) + len(gpu_check.TILES) and min(timed.values()) > 0


def test_a_device_that_computes_something_else_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "measure", lambda *_: {"grey levels apart": 2})
    assert gpu_check.main(["--device", "cpu"]) == 1
