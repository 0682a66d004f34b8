"""A file is whole or as it was before."""

from __future__ import annotations

import errno
import os

import pytest

from secondlook.shared import files
from secondlook.shared.errors import DiskFull, Unwritable
from secondlook.shared.files import write_all, write_atomically


def test_write_replaces_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["x"]


def test_missing_folder_is_unwritable(tmp_path):
    with pytest.raises(Unwritable, match="cannot write"):
        write_atomically(tmp_path / "no" / "x", b"")


def test_full_disk_keeps_all_old_files(tmp_path, monkeypatch):
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_bytes(b"old")
    synced = []

    def fail_second(descriptor):
        if synced:
            raise OSError(errno.ENOSPC, "No space left on device")
        synced.append(descriptor)

    monkeypatch.setattr(files.os, "fsync", fail_second)
    with pytest.raises(DiskFull, match=r"no space left to write .*b"):
        write_all(dict.fromkeys(paths, b"new"))

    assert [path.read_bytes() for path in paths] == [b"old", b"old"]
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
