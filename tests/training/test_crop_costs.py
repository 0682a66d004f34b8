"""What a crop of a frame costs beside the whole: real bytes of both, of frames in doubt alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pycocotools")

from secondlook.edge.coding.originals import EnhancementCoder
from secondlook.shared.codec import load_codec
from secondlook.shared.detection import Detection
from secondlook.training.machine import cropcosts
from secondlook.training.machine.measure import Clip
from tests.pictures import photo
from tests.training.test_bench_machine import write_video


class Doubtful:
    """Doubts a small thing in every second frame, and something as large as the frame in every third."""

    name = "doubtful"
    classes = ("cat",)

    def __init__(self) -> None:
        self.seen = 0

    def detect(self, image: np.ndarray) -> list[Detection]:
        self.seen += 1
        height, width = image.shape[:2]
        if self.seen % 2 == 0:
            return [Detection("cat", 0.42, (20.0, 20.0, 50.0, 50.0))]
        large = (0.0, 0.0, float(width), float(height))
        return [Detection("cat", 0.42, large)] if self.seen % 3 == 0 else [Detection("cat", 0.9, large)]


def test_crops_are_counted_where_doubt_has_one() -> None:
    clip = Clip("yard", (photo(160, 256),) * 6)
    found = cropcosts.costs(clip, Doubtful(), EnhancementCoder(load_codec("lite", threads=1), 16, 40))
    assert (found.frames, found.in_doubt, len(found.crops)) == (6, 4, 3)
    assert all(0 < crop < whole / 2 for crop, whole in zip(found.crops, found.wholes, strict=True))
    share = 100 * sum(found.crops) / sum(found.wholes)
    assert found.row("yard").startswith("| yard | 6 | 4 | 3 | ") and f"| {share:.0f} % |" in found.row("yard")
    assert cropcosts.Costs(5, 0, (), ()).row("yard") == "| yard | 5 | 0 | 0 | - | - | - |"


def test_the_command_puts_its_table_between_the_marks(tmp_path: Path, capsys) -> None:
    write_video(tmp_path / "clip.mp4")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- crops -->\n<!-- end of crops -->\nafter\n")
    command = ["--videos", str(tmp_path / "clip.mp4"), "--detector", "builtin", "--write", str(page)]
    assert cropcosts.main(command) == 0
    assert "| clip, " in page.read_text() and page.read_text().endswith("after\n")
    assert "| clip, " in capsys.readouterr().out
