"""Archives that are made while they are sent: others read them, whatever their size, and memory does not grow."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from secondlook.cloud.station import zipstream
from secondlook.cloud.station.zipstream import ZipStream

FILES = {"images/a.webp": b"\0\1\2" * 900, "lätter/ü.txt": "ü\n".encode(), "empty": b""}


def made(files: dict[str, bytes], lines: bytes = b"one\ntwo\n") -> bytes:
    def parts() -> Iterator[bytes]:
        with ZipStream() as archive:
            for name, data in files.items():
                archive.add(name, data)
                yield archive.take()
            yield from archive.copied("lines.jsonl", io.BytesIO(lines))
            yield from archive.ended()

    return b"".join(parts())


def test_others_read_it(tmp_path: Path) -> None:
    data = made(FILES)
    read = zipfile.ZipFile(io.BytesIO(data))
    assert read.testzip() is None and read.namelist() == [*FILES, "lines.jsonl"]
    assert {name: read.read(name) for name in FILES} == FILES and read.read("lines.jsonl") == b"one\ntwo\n"
    assert all(one.compress_type == zipfile.ZIP_STORED for one in read.infolist())
    unzip = shutil.which("unzip")
    if unzip is not None:
        (tmp_path / "a.zip").write_bytes(data)
        assert (
            "No errors detected"
            in subprocess.run(
                [unzip, "-t", tmp_path / "a.zip"], check=True, capture_output=True, text=True
            ).stdout
        )


def test_more_files_than_the_old_format_counts() -> None:
    read = zipfile.ZipFile(io.BytesIO(made({f"labels/{number}.txt": b"" for number in range(70_000)})))
    assert len(read.namelist()) == 70_001 and read.read("lines.jsonl") == b"one\ntwo\n"


@pytest.mark.parametrize("most", [0, 100, 2000])
def test_sizes_and_places_beyond_what_the_old_format_holds(
    monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """As if four gigabytes were a few bytes: what is larger is told as ZIP64 does, and read by others."""
    monkeypatch.setattr(zipstream, "_MOST32", most)
    data = made(FILES, b"x" * 5000)
    # A reader takes the field for too small only where it holds the mark.
    mark, small = struct.pack("<L", 0xFFFFFFFF), struct.pack("<L", most)
    read = zipfile.ZipFile(io.BytesIO(marked(data, small, mark)))
    assert read.testzip() is None and read.read("lines.jsonl") == b"x" * 5000
    assert {name: read.read(name) for name in FILES} == FILES


def marked(data: bytes, small: bytes, mark: bytes) -> bytes:
    """An archive with the real mark in the fields of its heads and its table that hold `small`."""
    edited = bytearray(data)
    for signature, places in ((b"PK\1\2", (20, 24, 42)), (b"PK\5\6", (12, 16))):
        at = data.find(signature)
        while at != -1:
            for place in places:
                if data[at + place : at + place + 4] == small:
                    edited[at + place : at + place + 4] = mark
            at = data.find(signature, at + 4)
    return bytes(edited)


def test_memory_does_not_grow_with_the_number_of_files() -> None:
    tracemalloc.start()
    with ZipStream() as archive:
        for number in range(50_000):
            archive.add(f"images/{number:050d}.webp", b"")
            archive.take()
        for _ in archive.ended():
            pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
