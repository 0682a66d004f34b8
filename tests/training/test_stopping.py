"""Runs that are stopped, and what they leave: nothing learned is lost, nothing there is overwritten."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("compressai")

import torch

from secondlook.main import main
from secondlook.training.provenance import describe_images
from secondlook.training.stopping import SaveClock, StopSignals


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pictures to train on, with boundaries, and one to judge by."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(5)
    for name, count in (("train/images", 5), ("train/boundaries", 5), ("val", 1)):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            picture = rng.integers(0, 256, (96, 80) if "boundaries" in name else (96, 80, 3), np.uint8)
            cv2.imwrite(str(folder / name / f"{number}.png"), picture)
    return folder


def send_when(number: int, condition: Path, seconds: float = 60.0) -> threading.Thread:
    """Send this process a signal a moment after a file appears."""

    def wait() -> None:
        end = time.monotonic() + seconds
        while not condition.exists() and time.monotonic() < end:
            time.sleep(0.02)
        if condition.exists():
            os.kill(os.getpid(), number)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def lite(data: Path, work: Path, *more: str) -> list[str]:
    flags = ["--data", str(data), "--work", str(work), "--minutes", "5", "--steps", "100000", "--crop", "64"]
    return ["train", "lite", *flags, "--batch", "1", "--threads", "1", "--mask-floor", "1", *more]


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, None), (signal.SIGTERM, SystemExit)])
def test_a_run_that_is_stopped_saves_and_says_where(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    raised: type[BaseException] | None,
) -> None:
    monkeypatch.setattr("secondlook.training.lite.train.SaveClock", lambda: SaveClock(0.0))
    before = signal.getsignal(number)
    thread = send_when(number, tmp_path / "lite.pt")
    if raised is None:
        assert main(lite(data, tmp_path)) == 130
    else:
        with pytest.raises(raised, match="143"):
            main(lite(data, tmp_path))
    thread.join()
    state = torch.load(tmp_path / "lite.pt", weights_only=True)
    told = capsys.readouterr().err
    assert (
        f"{number.name} after step {state['step']}: saved as {tmp_path / 'lite.pt'}: --resume goes on" in told
    )
    assert state["step"] >= 1 and signal.getsignal(number) is before
    assert state["source"] == {
        **describe_images((data / "train" / "images").iterdir()),
        "seed": 7,
        "command": state["source"]["command"],
    }
    assert state["source"]["images"] == 5


def test_a_second_signal_ends_it_at_once() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job begins with it ignored
    with pytest.raises(KeyboardInterrupt), StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        assert stop.asked is signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_run_that_nobody_stops_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with StopSignals() as stop:
        stop.end(Path("x.pt"), 3)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "flags",
    [
        ("--minutes", "-1"),
        ("--minutes", "0"),
        ("--minutes", "soon"),
        ("--batch", "0"),
        ("--crop", "100"),
        ("--steps", "0"),
        ("--threads", "0"),
        ("--lr", "-0.1"),
        ("--lr", "nan"),
    ],
)
def test_numbers_out_of_range_are_one_line(
    data: Path, tmp_path: Path, flags: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*lite(data, tmp_path), *flags])
    assert ended.value.code == 2
    assert f"argument {flags[0]}: '{flags[1]}' is no" in capsys.readouterr().err


def test_an_export_names_its_data_and_overwrites_nothing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(lite(data, tmp_path, "--steps", "1")) == 0
    state = torch.load(tmp_path / "lite.pt", weights_only=True)
    export = ["export", "lite", "--work", str(tmp_path), "--out", str(tmp_path)]
    told = ["--trained-on", "five pictures of noise", "--licence", "CC0-1.0"]
    assert main([*export, *told]) == 0
    manifest = json.loads((tmp_path / "lite" / "manifest.json").read_text())
    assert manifest["licence"] == "CC0-1.0"
    training = manifest["training"]
    assert training["data"] == "five pictures of noise" and training["steps"] == 1 and training["seed"] == 7
    assert {name: training[name] for name in ("images", "images_sha256")} == describe_images(
        (data / "train" / "images").iterdir()
    )
    assert "command" in training and state["step"] == 1
    capsys.readouterr()
    assert main(export) == 1
    assert "holds a model already: give another --out, or --force to replace it" in capsys.readouterr().err
    assert json.loads((tmp_path / "lite" / "manifest.json").read_text()) == manifest
    assert main([*export, "--force"]) == 0
    assert json.loads((tmp_path / "lite" / "manifest.json").read_text())["licence"] == "not stated"
