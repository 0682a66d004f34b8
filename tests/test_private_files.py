"""What Secondlook keeps is for its owner alone, whatever the umask, and what was open before is closed."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from secondlook.cloud.catalogue import open_catalogue
from secondlook.cloud.config import CloudConfig
from secondlook.cloud.storage.blobs import open_blobs
from secondlook.cloud.storage.database import open_database
from secondlook.cloud.storage.stores import open_stores
from secondlook.edge.config import SpoolConfig
from secondlook.edge.spool import Spool
from secondlook.shared.errors import StoreBusy, Unwritable
from secondlook.shared.files import keep_private, make_folder, only_process, write_atomically
from secondlook.shared.sqlite import prepare, private_database


@pytest.fixture(autouse=True, params=[0o000, 0o022, 0o077])
def _umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    """Of everything below, by its path; folders end with a slash."""
    return {
        f"{path.relative_to(folder)}{'/' if path.is_dir() else ''}": stat.S_IMODE(path.stat().st_mode)
        for path in folder.rglob("*")
    }


def assert_private(found: dict[str, int]) -> None:
    for name, mode in found.items():
        assert mode == (0o700 if name.endswith("/") else 0o600), (name, oct(mode))


def test_the_gateways_files(tmp_path: Path) -> None:
    stores = open_stores(CloudConfig(data_dir=tmp_path / "new" / "cloud"))
    found = modes(tmp_path)
    assert {"gateway.db", "gateway.db-wal", "gateway.db-shm", "gateway.lock"} <= {
        Path(one).name for one in found
    }
    assert_private(found)
    stores.close()


def test_the_catalogue(tmp_path: Path) -> None:
    catalogue = open_catalogue(f"sqlite:///{tmp_path}/new/catalogue.db")
    with catalogue.reading():
        found = modes(tmp_path)
    assert {"catalogue.db", "catalogue.db-wal", "catalogue.db-shm"} <= {Path(one).name for one in found}
    assert_private(found)
    catalogue.close()


def test_the_spool(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "new" / "edge", SpoolConfig(min_free_bytes=0), "a" * 32, 0)
    found = modes(tmp_path)
    assert {"spool.db", "spool.db-wal", "spool.db-shm"} <= {Path(one).name for one in found}
    assert_private(found)
    spool.close()


def test_blobs(tmp_path: Path) -> None:
    blobs = open_blobs(str(tmp_path / "new" / "blobs"))
    blobs.put("base/gate/boot/1.slk", b"picture")
    assert_private(modes(tmp_path))


def test_files_written_at_once_unless_somebody_asked_for_them(tmp_path: Path) -> None:
    make_folder(tmp_path / "new" / "folder")
    write_atomically(tmp_path / "new" / "folder" / "file", b"")
    write_atomically(tmp_path / "new" / "folder" / "file", b"again")
    assert_private(modes(tmp_path))
    write_atomically(tmp_path / "asked", b"", mode=0o666)
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((tmp_path / "asked").stat().st_mode) == 0o666 & ~mask


def test_what_earlier_versions_left_open_is_closed_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "cloud"
    (data / "blobs").mkdir(parents=True)
    before = os.umask(0)
    with closing(sqlite3.connect(data / "gateway.db", isolation_level=None)) as db:
        prepare(db, busy_seconds=1.0)
        db.execute("CREATE TABLE x (y)")
        os.umask(before)
        for path in (data, data / "blobs"):
            path.chmod(0o755)
        for path in data.glob("gateway.db*"):
            path.chmod(0o644)
        open_stores(CloudConfig(data_dir=data)).close()
        open_blobs(str(data / "blobs"))
        assert_private(modes(tmp_path))
    closed = {line.split(" was open")[0] for line in caplog.messages}
    assert {str(data), str(data / "blobs"), str(data / "gateway.db"), str(data / "gateway.db-wal")} <= closed
    caplog.clear()
    open_blobs(str(data / "blobs"))
    assert not caplog.messages


def test_folders_that_many_share_stay_open(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    keep_private(shared, Path("/"), Path("/usr"), tmp_path / "missing")
    assert stat.S_IMODE(shared.stat().st_mode) == 0o1777
    assert Path("/").stat().st_mode & 0o005 == 0o005
    open_catalogue(f"sqlite:///{shared}/catalogue.db").close()
    assert stat.S_IMODE(shared.stat().st_mode) == 0o1777
    assert stat.S_IMODE((shared / "catalogue.db").stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_database_of_somebody_else_is_refused_with_both_names(tmp_path: Path) -> None:
    ours = [path for path in tmp_path.parents if path.name.startswith(("pytest-", "popen-"))]
    for path in (tmp_path, *ours):
        path.chmod(0o755)
    path = tmp_path / "catalogue.db"
    private_database(path)
    os.seteuid(65534)
    try:
        with pytest.raises(Unwritable, match=r"catalogue.db, which belongs to root and not to nobody"):
            private_database(path)
    finally:
        os.seteuid(0)


def test_one_process_of_a_kind_has_a_folder(tmp_path: Path) -> None:
    with only_process(tmp_path, "gateway.lock", "gateway"):
        with (
            pytest.raises(StoreBusy, match=rf"another gateway \(process {os.getpid()}\)"),
            only_process(tmp_path, "gateway.lock", "gateway"),
        ):
            pass
        with only_process(tmp_path, "other.lock", "agent"):
            pass
    with only_process(tmp_path, "gateway.lock", "gateway"):
        assert (tmp_path / "gateway.lock").read_text() == f"{os.getpid()}\n"


def test_the_queues_tools_need_no_lock(tmp_path: Path) -> None:
    stores = open_stores(CloudConfig(data_dir=tmp_path))
    open_database(tmp_path / "gateway.db").close()
    stores.close()
