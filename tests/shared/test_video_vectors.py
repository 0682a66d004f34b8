"""Golden groups decode to what was kept, and a change would be seen."""

from __future__ import annotations

import json
import shutil

import cv2
import pytest

from secondlook.shared import video, videobits
from tests.vectors import groups


@pytest.fixture
def copied(tmp_path):
    folder = tmp_path / "video"
    shutil.copytree(groups.FOLDER, folder)
    return folder


def test_groups_decode_as_kept() -> None:
    assert groups.problems() == []


def test_a_header_that_is_written_otherwise_is_seen(monkeypatch) -> None:
    monkeypatch.setattr(videobits, "MARK", 0x8B)
    assert len(groups.problems()) == len(groups.RECIPES)


def test_another_checksum_is_seen(monkeypatch) -> None:
    real = video.planes_crc
    monkeypatch.setattr(video, "planes_crc", lambda picture: real(picture) ^ 1)
    assert all("SymbolMismatch" in line for line in groups.problems())


def test_other_packets_pictures_and_groups_are_seen(copied) -> None:
    (copied / "h264.2.slk").write_bytes((copied / "h264.1.slk").read_bytes())
    image = cv2.imread(str(copied / "av1.png"))
    cv2.imwrite(str(copied / "av1.png"), image ^ 16)
    found = groups.problems(copied)
    assert [line.split(":")[0] for line in found] == ["h264", "h264", "av1"]
    listed = json.loads((copied / "groups.json").read_text())
    del listed["groups"]["h265"]
    (copied / "groups.json").write_text(json.dumps(listed))
    assert groups.problems(copied) == ["the groups listed are not those of tests/vectors"]


def test_writing_keeps_what_is_there_and_makes_what_is_missing(copied) -> None:
    listed = json.loads((copied / "groups.json").read_text())
    del listed["groups"]["h264"]
    (copied / "groups.json").write_text(json.dumps(listed))
    before = (copied / "h265.1.slk").read_bytes()
    assert groups.write(copied) == [] and groups.problems(copied) == []
    assert (copied / "h265.1.slk").read_bytes() == before
    (copied / "h265.1.slk").write_bytes(b"\x8a")
    assert groups.write(copied)[-1].startswith("the format has changed")
