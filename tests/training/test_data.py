"""Pictures that are no use are named and counted; the others are trained on."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from secondlook.shared.errors import ConfigError
from secondlook.training.data import list_images, usable_images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    (tmp_path / "deeper").mkdir()
    (tmp_path / ".thumbnails").mkdir()
    for name, side in (("a.jpg", 160), ("b.png", 100), ("deeper/c.jpg", 160), (".thumbnails/d.jpg", 160)):
        cv2.imwrite(str(tmp_path / name), rng.integers(0, 255, (side, side, 3), np.uint8))
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_folders_in_it_are_read_and_hidden_ones_are_not(folder: Path) -> None:
    assert names(list_images(folder)) == ["a.jpg", "b.png", "c.jpg"]


def test_half_a_jpeg_and_small_pictures_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (folder / "a.jpg").read_bytes()
    (folder / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("no picture at all")
    assert names(usable_images(list_images(folder), 128)) == ["a.jpg", "c.jpg"]
    broken, small = capsys.readouterr().err.splitlines()
    assert broken.startswith("left out, 2 of 5 images cannot be decoded whole: ")
    assert "half.jpg (" in broken and "text.png (" in broken
    assert small == f"left out, 1 of 5 images have less than 128 pixels a side: {folder / 'b.png'}"


def test_a_folder_of_nothing_usable_is_one_line(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"none of 3 images is of use: 0 cannot be .* 3 have less than 256"):
        usable_images(list_images(folder), 256)
    with pytest.raises(FileNotFoundError, match="no image in"):
        list_images(folder / ".thumbnails" / "none")
