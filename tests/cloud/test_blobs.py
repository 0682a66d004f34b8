from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from secondlook.cloud.storage.blobs import Blobs, base_key, enhancement_key, image_key, open_blobs
from secondlook.shared.errors import ConfigError, StoreCorrupt, StoreUnavailable, Unwritable
from tests.cloud.servers import point_aws_at, s3_running


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An object store with the bucket ``frames``; the AWS files say where it is, and how to log in."""
    folder = tmp_path_factory.mktemp("aws")
    with s3_running(folder) as address, pytest.MonkeyPatch.context() as environment:
        point_aws_at(environment, folder, address)
        yield address


@pytest.fixture(params=["folder", "memory", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    if request.param == "s3":
        request.getfixturevalue("s3")
    addresses = {
        "folder": f"{tmp_path}/blobs",
        "memory": f"memory://{tmp_path}/blobs",
        "s3": "s3://frames/site-1",
    }
    return open_blobs(addresses[request.param])


def test_large_blobs_survive(blobs: Blobs) -> None:
    data = os.urandom(6 << 20)
    blobs.put("large", data)
    assert blobs.get("large") == data


def test_an_object_store_that_is_away_is_no_store_without_blobs(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoreUnavailable, match="bucket"):
        open_blobs("s3://no-such-bucket/x").put("a", b"x")
    point_aws_at(monkeypatch, tmp_path, "http://127.0.0.1:1")
    blobs = open_blobs("s3://frames/away")
    for call in (lambda: blobs.put("a", b"x"), lambda: blobs.get("a"), lambda: blobs.exists("a")):
        with pytest.raises(StoreUnavailable):
            call()


def test_put_get_replace_delete(blobs: Blobs) -> None:
    key = base_key("gate", "ab" * 16, 3)
    assert not blobs.exists(key)
    blobs.put(key, b"one")
    blobs.put(key, b"two")
    assert blobs.exists(key)
    assert blobs.get(key) == b"two"
    blobs.delete(key)
    blobs.delete(key)
    with pytest.raises(StoreCorrupt, match=r"3\.slk"):
        blobs.get(key)


@pytest.mark.parametrize("key", ["../secret", "/etc/passwd", "a/../b", "a//b", "", ".hidden", "a\\b", "a/\n"])
def test_no_key_leads_out_of_the_store(blobs: Blobs, key: str) -> None:
    with pytest.raises(ValueError, match="not a blob key"):
        blobs.put(key, b"x")


def test_keys() -> None:
    assert enhancement_key("gate", "ab" * 16, 3) == f"enhancement/gate/{'ab' * 16}/3.slk"
    assert image_key(5, "refined") == "image/5/refined.webp"


def test_what_cannot_be_opened_or_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unwritable):
        open_blobs(str(tmp_path / "file" / "blobs"))
    with pytest.raises(ConfigError):
        open_blobs("nonsense://bucket")
    blobs = open_blobs(str(tmp_path / "blobs"))
    (tmp_path / "blobs" / "base").write_bytes(b"in the way")
    with pytest.raises(Unwritable):
        blobs.put("base/gate/1.slk", b"x")


def test_a_folder_never_shows_half_a_blob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = open_blobs(str(tmp_path))
    blobs.put("a", b"old")

    def fail(*_: object) -> None:
        raise OSError(5, "the disk broke")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(Unwritable):
        blobs.put("a", b"new")
    assert blobs.get("a") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
