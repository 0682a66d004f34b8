"""Stills: folders as cameras leave them, damage, limits, depth, orientation, and when a picture was taken."""

from __future__ import annotations

import os
import random
import shutil
import struct
import time
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from secondlook.edge.config import SourceConfig
from secondlook.edge.source.sources import SourceFrame, open_shots
from secondlook.edge.source.stills import natural_key
from secondlook.main import main
from secondlook.shared import pictures
from secondlook.shared.errors import SourceEmpty, SourceError, SourceTooLarge, SourceUnreadable
from secondlook.shared.packet import MAX_NS
from secondlook.shared.pictures import read_picture, suffixes, to_eight_bits
from tests.edge.test_streams import Heard
from tests.pictures import U8Image, photo


def save(path: Path, level: int = 100, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((48, 64, 3), level, np.uint8)).save(path, **options)
    return path


def claims(path: Path, width: int, height: int) -> Path:
    """A PNG whose header claims a size, and that holds nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    return path


def take(address: Path, after: str | None = None, **settings: object) -> tuple[list[SourceFrame], Heard]:
    heard = Heard()
    return list(open_shots(SourceConfig(str(address), **settings), heard, after=after).shots), heard


def places(shots: list[SourceFrame]) -> list[str | None]:
    return [shot.place for shot in shots]


def test_a_card_is_read_in_natural_order_with_its_sub_folders(tmp_path: Path) -> None:
    names = [
        "DCIM/9ABCD/IMG_2.JPG",
        "DCIM/100ABCD/IMG_1.jpg",
        "DCIM/100ABCD/IMG_10.jpg",
        "img9.png",
        "img10.png",
    ]
    for name in names:
        save(tmp_path / name)
    expected = [
        "DCIM/9ABCD/IMG_2.JPG",
        "DCIM/100ABCD/IMG_1.jpg",
        "DCIM/100ABCD/IMG_10.jpg",
        "img9.png",
        "img10.png",
    ]
    shots, heard = take(tmp_path)
    assert places(shots) == expected
    assert [shot.seconds for shot in shots] == pytest.approx([n / 12.5 for n in range(5)])
    assert heard.lines == [] and heard.beats == 0 + len(names)


@given(st.lists(st.text(min_size=1), max_size=8))
def test_any_names_have_an_order(names: list[str]) -> None:
    backwards = names[::-1]
    assert sorted(names, key=natural_key) == sorted(backwards, key=natural_key)


def test_bad_files_are_skipped_each_with_its_reason(tmp_path: Path) -> None:
    save(tmp_path / "0.jpg")
    whole = save(tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "1-cut.jpg").write_bytes(whole[: len(whole) - 200])
    (tmp_path / "2-empty.jpg").touch()
    (tmp_path / "._IMG.JPG").write_bytes(b"\0\5\x16\7" + bytes(100))
    (tmp_path / "3-gone.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "4-zero.png").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "5-pipe.png")
    (tmp_path / "6-text.jpg").write_text("no picture\n")
    claims(tmp_path / "7-huge.png", 70_000, 70_000)
    claims(tmp_path / "8-hollow.png", 640, 480)
    save(tmp_path / "x.jpg" / "inside.jpg")
    (tmp_path / "line\nbreak.jpg").touch()
    (tmp_path / "IMG.HEIC").touch()
    (tmp_path / "IMG2.HEIC").touch()
    (tmp_path / "notes.txt").touch()
    started = time.monotonic()
    shots, heard = take(tmp_path)
    assert time.monotonic() - started < 10.0
    assert places(shots) == ["0.jpg", "whole.jpg", "x.jpg/inside.jpg"]
    told = "\n".join(heard.lines)
    for name, reason in (
        ("1-cut.jpg", "damaged"),
        ("2-empty.jpg", "is an empty file"),
        ("._IMG.JPG", "notes of macOS"),
        ("3-gone.jpg", "leads nowhere"),
        ("4-zero.png", "not a regular file"),
        ("5-pipe.png", "not a regular file"),
        ("6-text.jpg", "not a picture"),
        ("7-huge.png", "70000x70000 pixels"),
        ("8-hollow.png", "damaged"),
        (r"line\nbreak.jpg", "is an empty file"),
    ):
        assert any(name in line and reason in line for line in heard.lines), (name, told)
    assert "files of these kinds are not read: .heic (2), .txt (1)" in told
    assert heard.lines[-1] == f"source {tmp_path}: 10 of 13 files were skipped"
    assert all(line.isprintable() for line in heard.lines)


def test_a_folder_without_pictures_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceEmpty, match="holds no picture"):
        take(tmp_path)
    (tmp_path / "a.jpg").touch()
    with pytest.raises(SourceUnreadable, match="none of its 1 pictures"):
        take(tmp_path)


def test_a_folder_is_read_on_behind_a_place(tmp_path: Path) -> None:
    for number in range(12):
        save(tmp_path / f"{number}.jpg")
    assert places(take(tmp_path, after="9.jpg")[0]) == ["10.jpg", "11.jpg"]
    assert take(tmp_path, after="11.jpg")[0] == []
    assert take(tmp_path / "3.jpg", after="3.jpg")[0] == []


def test_limits_name_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    big = tmp_path / "big.jpg"
    Image.fromarray(photo(600, 800)).save(big)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 130_000)
    with pytest.raises(SourceTooLarge, match=r"800x600 pixels.*set source\.resize"):
        read_picture(big)
    small = take(big, resize="300")[0][0].image  # decoded at half its size
    assert small.shape == (225, 300, 3)
    monkeypatch.setattr(pictures, "MAX_FILE_BYTES", 100)
    with pytest.raises(SourceTooLarge, match="store it smaller"):
        read_picture(big)


def test_the_command_encode_tells_of_a_picture_that_claims_too_much(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["encode", str(claims(tmp_path / "huge.png", 70_000, 70_000))]) == 1
    told = capsys.readouterr().err
    assert "70000x70000" in told and told.count("\n") == 1


@pytest.mark.parametrize("suffix", sorted(suffixes() - {".hdr", ".mpo", ".apng", ".avifs", ".pfm"}))
def test_every_format_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"picture{suffix}"
    mode = {".pbm": "1", ".pgm": "L", ".bw": "L", ".rgba": "RGBA"}.get(suffix, "RGB")
    picture = Image.new(mode, (64, 48), 1 if mode == "1" else 200 if mode == "L" else (200, 200, 200))
    try:
        picture.save(path)
    except (KeyError, OSError, ValueError):
        pytest.skip("Pillow only reads this one")
    image = read_picture(path).image
    assert image.shape == (48, 64, 3) and image.dtype == np.uint8
    assert image.mean() == pytest.approx(255 if mode == "1" else 200, abs=3)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
def test_every_kind_of_colour_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("picture.tif" if mode == "CMYK" else "picture.png")
    Image.fromarray(photo(48, 64)).convert(mode).save(path)
    assert read_picture(path).image.shape == (48, 64, 3)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm", "jp2"])
@pytest.mark.parametrize(("bits", "colour"), [(10, False), (14, False), (16, False), (14, True), (16, True)])
def test_deep_pictures_are_scaled_by_the_rule(tmp_path: Path, suffix: str, bits: int, colour: bool) -> None:
    ramp = np.linspace(0, 2**bits - 1, 64).astype(np.uint16)
    deep = np.repeat(ramp[None, :], 48, axis=0)
    if colour:
        deep = np.stack([deep // 2, deep, deep // 4], axis=-1)
    path = tmp_path / f"deep.{'ppm' if colour and suffix == 'pgm' else suffix}"
    assert cv2.imwrite(str(path), deep[..., ::-1] if colour else deep)
    image = read_picture(path).image
    wanted = deep >> (bits - 8)
    assert np.abs(image - (wanted if colour else wanted[..., None]).astype(int)).max() <= 1
    assert image.max() == 255


def test_the_rule_of_depth() -> None:
    def top(value: float, kind: type[np.generic]) -> int:
        return int(to_eight_bits(np.array([[0, value]], kind)).max())

    assert top(255, np.uint16) == 255 and top(256, np.uint16) == 64  # 8 bits, then 10
    assert top(1023, np.uint16) == 255 and top(1024, np.uint16) == 64
    assert top(65535, np.uint16) == 255 and top(-5, np.int16) == 0
    assert top(1.0, np.float32) == 255 and top(0.5, np.float32) == 128 and top(80.0, np.float32) == 255
    assert top(float("nan"), np.float32) == 0


@given(st.integers(1, 2**16 - 1))
def test_no_depth_is_shown_as_black(top: int) -> None:
    assert to_eight_bits(np.array([[0, top]], np.uint16)).max() >= min(top, 64)


def test_radiance_pictures_are_read_and_bounded(tmp_path: Path) -> None:
    path = tmp_path / "light.hdr"
    assert cv2.imwrite(str(path), np.full((48, 64, 3), 3.0, np.float32))
    assert read_picture(path).image.mean() == pytest.approx(255, abs=2)
    data = path.read_bytes().replace(b"-Y 48 +X 64", b"-Y 70000 +X 70000")
    path.write_bytes(data)
    with pytest.raises(SourceTooLarge):
        read_picture(path)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "deep.png"])
def test_exif_orientation_is_honoured(tmp_path: Path, orientation: int, name: str) -> None:
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:16, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / name
    if name == "deep.png":
        grey = Image.fromarray(picture[..., 0].astype(np.uint16) * 257)
        grey.save(path, exif=exif)
    else:
        Image.fromarray(picture).save(path, exif=exif)
    corner = {1: (0, 0), 3: (-1, -1), 6: (0, -1), 8: (-1, 0)}[orientation]
    image = read_picture(path).image
    assert image.shape == ((48, 64, 3) if orientation in (1, 3) else (64, 48, 3))
    assert image[corner].mean() > 200 and image.mean() < 60


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield lambda: None
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("tags", "taken"),
    [
        ({0x9003: "2024:07:01 12:00:00", 0x9011: "-05:00"}, datetime(2024, 7, 1, 17, tzinfo=UTC)),
        ({0x9003: "2024:07:01 12:00:00"}, datetime(2024, 7, 1, 10, tzinfo=UTC)),
        ({0x9004: "2024:07:01 12:00:00", 0x9012: "+00:00"}, datetime(2024, 7, 1, 12, tzinfo=UTC)),
        ({0x9003: "2024:07:01 12:00:00", 0x9011: "   "}, datetime(2024, 7, 1, 10, tzinfo=UTC)),
        ({0x9003: "0000:00:00 00:00:00"}, None),
        ({0x9003: "1970:01:01 00:00:00"}, None),
        ({0x9003: "yesterday"}, None),
        ({0x9003: "9999:12:31 23:59:59", 0x9011: "+00:00"}, None),  # no packet carries it
        ({0x9003: "2200:01:01 00:00:01", 0x9011: "+00:00"}, None),
        (
            {0x9003: "2300:01:01 00:00:00", 0x9004: "2024:07:01 12:00:00", 0x9012: "+00:00"},
            datetime(2024, 7, 1, 12, tzinfo=UTC),
        ),
        ({0x9003: "2199:12:31 23:59:59", 0x9011: "+00:00"}, datetime(2199, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ({}, None),
    ],
)
def test_a_still_has_the_time_when_it_was_taken(
    tmp_path: Path, berlin: Callable[[], None], tags: dict[int, str], taken: datetime | None
) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769).update(tags)
    path = save(tmp_path / "a.jpg", exif=exif)
    os.utime(path, ns=(5, 1_600_000_000_123_456_789))
    wanted = 1_600_000_000_123_456_789 if taken is None else int(taken.timestamp()) * 10**9
    assert take(tmp_path)[0][0].taken_ns == wanted
    assert take(path)[0][0].taken_ns == wanted


@pytest.mark.parametrize("changed_ns", [-(10**15), -1, MAX_NS + 1])
def test_a_file_s_own_time_that_no_packet_carries_is_now(tmp_path: Path, changed_ns: int) -> None:
    path = save(tmp_path / "a.jpg")
    os.utime(path, ns=(5, changed_ns))
    before = time.time_ns()
    assert before <= read_picture(path).taken_ns <= time.time_ns()
    assert before <= take(tmp_path)[0][0].taken_ns <= time.time_ns()


def test_fractions_of_the_second_count(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769).update({0x9003: "2024:07:01 12:00:00", 0x9011: "+00:00", 0x9291: "25"})
    found = read_picture(save(tmp_path / "a.jpg", exif=exif)).taken_ns
    assert found == int(datetime(2024, 7, 1, 12, tzinfo=UTC).timestamp()) * 10**9 + 250_000_000


def _encoded(kind: str, picture: U8Image) -> bytes:
    done, data = cv2.imencode(f".{kind}", picture.astype(np.uint16) * 200 if kind == "tiff" else picture)
    assert done
    return bytes(data.tobytes())


_WHOLE = {kind: _encoded(kind, photo(48, 64)) for kind in ("jpg", "png", "bmp", "tiff", "webp", "jp2", "ppm")}
_FILES = st.tuples(
    st.sampled_from(sorted(_WHOLE)),
    st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=8), st.integers(0, 300)), max_size=4),
    st.floats(0.0, 1.5),
)


@given(st.lists(_FILES, min_size=1, max_size=5))
def test_no_folder_of_damaged_files_ends_the_source(
    tmp_path_factory: pytest.TempPathFactory,
    files: list[tuple[str, list[tuple[float, bytes, int]], float]],
) -> None:
    """Overwritten, cut out and cut off at any place: what can be read comes, the rest is told of."""
    folder = tmp_path_factory.getbasetemp() / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for number, (kind, wounds, kept) in enumerate(files):
        data = bytearray(_WHOLE[kind])
        for where, put, out in wounds:
            at = int(where * len(data))
            data[at : at + out] = put
        (folder / f"{number}.{kind}").write_bytes(bytes(data[: int(kept * len(data))]))
    save(folder / "good.jpg")
    shots, heard = take(folder)
    assert shots[-1].place == "good.jpg"
    skipped = [line for line in heard.lines if line.startswith("skipped: ")]
    assert len(shots) + len(skipped) == len(files) + 1
    for shot in shots:
        assert shot.image.dtype == np.uint8 and shot.image.shape[2] == 3


@given(st.randoms(use_true_random=False))
def test_a_random_file_is_one_of_our_errors(
    tmp_path_factory: pytest.TempPathFactory, chance: random.Random
) -> None:
    path = tmp_path_factory.getbasetemp() / "random.tif"
    path.write_bytes(chance.choice((b"II*\0", b"MM\0*", b"\xff\xd8\xff", b"")) + chance.randbytes(200))
    with pytest.raises(SourceError, match=r"random\.tif"):
        read_picture(path)
