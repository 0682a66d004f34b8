"""What a run tells: CSV rows that go on where a run is resumed, samples, a line about changed settings."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from secondlook.shared.errors import ConfigError
from secondlook.training.provenance import tell_changes
from secondlook.training.runlog import RunLog


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_each_line_is_json_on_standard_output_and_a_row_of_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunLog(tmp_path, "lite", minutes=1) as log:
        log.tell(100, {"loss": 0.123456789, "mode": "apart"})
        log.tell(200, {"loss": 0.5, "val_gain_db": 0.25})
    assert [json.loads(line)["loss"] for line in capsys.readouterr().out.splitlines()] == [0.123457, 0.5]
    first, second = rows(tmp_path / "lite.csv")
    assert (first["step"], first["loss"], first["mode"], first["val_gain_db"]) == (
        "100",
        "0.123457",
        "apart",
        "",
    )
    assert (second["step"], second["val_gain_db"]) == ("200", "0.25")


def test_a_resumed_run_goes_on_below_what_its_checkpoint_holds(tmp_path: Path) -> None:
    with RunLog(tmp_path, "lite", minutes=1) as log:
        for step in (100, 200, 300):
            log.tell(step, {"loss": step / 1000})
    with RunLog(tmp_path, "lite", minutes=1, start=250) as log:
        log.tell(300, {"loss": 0.9})
    assert [(row["step"], row["loss"]) for row in rows(tmp_path / "lite.csv")] == [
        ("100", "0.1"),
        ("200", "0.2"),
        ("300", "0.9"),
    ]
    with RunLog(tmp_path, "lite", minutes=1):
        pass
    assert rows(tmp_path / "lite.csv") == []  # a run of its own


def test_samples_are_kept_by_step(tmp_path: Path) -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[..., 0] = 200  # red
    with RunLog(tmp_path, "quick", minutes=1) as log:
        log.picture(2000, picture)
    assert cv2.imread(str(tmp_path / "samples" / "quick-0002000.png"))[0, 0].tolist() == [0, 0, 200]


def test_events_for_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with RunLog(tmp_path, "lite", minutes=1, tensorboard=True) as log:
        log.tell(100, {"loss": 0.5})
    (events,) = (tmp_path / "tensorboard" / "lite").iterdir()
    assert b"loss" in events.read_bytes()


def test_without_tensorboard_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match="pip install tensorboard"):
        RunLog(tmp_path, "lite", minutes=1, tensorboard=True)


def test_other_settings_of_a_resumed_run_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    tell_changes({"batch": 8, "lr": 1e-3, "gone": 1}, {"batch": 6, "lr": 1e-3, "new": 2})
    assert capsys.readouterr().err == "resumed with other settings: batch 8 -> 6\n"
    tell_changes({"batch": 8}, {"batch": 8})
    assert capsys.readouterr().err == ""
