"""What groups cost: shorter ones more, and the table is of real bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pycocotools")

from secondlook.shared.errors import ConfigError
from secondlook.training.machine.groups import endless, grouped, main
from tests.pictures import photo
from tests.training.test_bench_machine import write_video


def scene(number: int) -> np.ndarray:
    """A square in front of a ground that is there before it comes."""
    image = photo(64, 96)
    if number > 2:
        left = (11 * number) % 70
        image[20:40, left : left + 20] = (230, 220, 40)
    return image


FRAMES = [scene(number) for number in range(24)]


def test_shorter_groups_take_more_bytes_and_a_long_one_what_an_endless_one_takes() -> None:
    whole = endless(FRAMES, "x264", 30)
    totals = [grouped(FRAMES, "x264", 30, length, 5.0)[0] for length in (2, 6, 100)]
    assert totals[0] > totals[1] > totals[2]
    assert totals[2] == pytest.approx(whole, rel=0.05)
    assert grouped(FRAMES, "x264", 30, 2, 5.0)[1] == 1


def test_the_command_puts_its_table_between_the_marks(tmp_path: Path, capsys) -> None:
    write_video(tmp_path / "clip.mp4")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- groups -->\nold\n<!-- end of groups -->\nafter\n")
    command = ["--videos", str(tmp_path / "clip.mp4"), "--qualities", "16", "--write", str(page)]
    assert main(command) == 0
    made = page.read_text()
    assert "| clip, 6 frames | 16 | " in made and "old" not in made and made.endswith("after\n")
    assert "| clip, 6 frames | 16 | " in capsys.readouterr().out
    page.write_text("no marks")
    with pytest.raises(ConfigError, match="has no lines"):
        main(command)
