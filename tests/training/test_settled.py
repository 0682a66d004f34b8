"""How many doubts a second look settles: counted by the comparison of a refiner, against the frame before coding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pycocotools")

from secondlook.cloud.workers.secondlook import Outcome, SeenAgain
from secondlook.shared.codec import load_codec
from secondlook.shared.crop import Crop
from secondlook.shared.detection import Detection
from secondlook.training.machine import settled
from secondlook.training.machine.measure import Clip
from tests.pictures import photo
from tests.training.test_bench_machine import write_video

BOX = (20.0, 20.0, 50.0, 50.0)


class Scripted:
    """What it finds in the decoded frame, in the frame before coding, and in what was fetched, in turn."""

    name = "scripted"
    classes = ("cat",)

    def __init__(self, *scores: float | None) -> None:
        self.scores = list(scores)

    def detect(self, image: np.ndarray) -> list[Detection]:
        score = self.scores.pop(0)
        return [] if score is None else [Detection("cat", score, BOX)]


def test_doubts_and_reviews_are_counted() -> None:
    clip = Clip("yard", (photo(160, 256),) * 3)
    boxes, frame = settled.DOUBT_ALONE, replace(settled.DOUBT_ALONE, fetch="frame")
    # Each frame: decoded, original, with the crop, with the whole.
    detector = Scripted(0.42, 0.9, 0.8, 0.45, 0.42, None, 0.8, None, 0.95)
    crops, wholes = settled.settled(clip, detector, load_codec("lite", threads=1), [boxes, frame], 1.0)
    assert (crops.outcomes[Outcome.CONFIRMED], crops.as_original, crops.against) == (2, 1, 1)
    assert wholes.outcomes == {Outcome.IN_DOUBT: 1, Outcome.REFUTED: 1}
    assert (crops.reviews, crops.settled, wholes.reviews, wholes.settled) == (1, 1, 1, 0), "one object, once"
    assert crops.row("yard") == "| yard | 2 | 2 | 0 | 100 % | 1 | 0 | 1 | 1 | 1 (100 %) | 1 (100 %) |"
    crops += wholes
    assert (crops.outcomes.total(), crops.reviews, crops.settled) == (4, 2, 1)


def test_what_the_original_leaves_open_is_no_contradiction() -> None:
    count, seen = settled.Settled(), SeenAgain(0, "cat", 0.42, 0.8, Outcome.CONFIRMED)
    count.add(seen, replace(seen, outcome=Outcome.IN_DOUBT))
    assert (count.as_original, count.unsure_there, count.against) == (0, 1, 0)
    assert settled.Settled().row("none") == "| none | 0 | 0 | 0 | - | 0 | 0 | 0 | 0 | 0 (-) | 0 (-) |"


def test_the_crop_is_put_into_its_place() -> None:
    image = photo(160, 256)
    dark, crop = np.zeros_like(image), Crop(16, 32, 96, 128)
    codec = load_codec("lite", threads=1)
    part = settled.fetched(image, dark, crop, codec)
    assert np.abs(part[crop.index].astype(int) - image[crop.index]).mean() < 8
    outside = np.ones((160, 256), bool)
    outside[crop.index] = False
    assert not part[outside].any()
    assert np.abs(settled.fetched(image, dark, None, codec).astype(int) - image).mean() < 8


def test_the_command_puts_its_table_between_the_marks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(tmp_path / "clip.mp4")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- second looks -->\n<!-- end of second looks -->\nafter\n")
    command = ["--videos", str(tmp_path / "clip.mp4"), "--detector", "builtin", "--write", str(page)]
    assert settled.main([*command, "--frames", "4"]) == 0
    assert '| **all, `fetch = "boxes"`** |' in page.read_text() and page.read_text().endswith("after\n")
    assert "| clip | doubts |" in capsys.readouterr().out
