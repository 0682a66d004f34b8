"""Connections of one process keep their locks, whatever else the process does with the file's place."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from secondlook.cloud.storage.sql import open_engine
from secondlook.shared.errors import DiskFull, Unwritable
from secondlook.shared.sqlite import prepare, private_database, storage_error

READER = (
    "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('SELECT count(*) FROM t').fetchone()[0])"
)


def seen_elsewhere(path: Path) -> int:
    """Rows that another process sees. When it ends it is the last connection, if ours has lost its locks."""
    ended = subprocess.run(
        [sys.executable, "-c", READER, str(path)], capture_output=True, text=True, check=True
    )
    return int(ended.stdout)


def test_a_second_connection_does_not_take_the_locks_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    private_database(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as first:
        prepare(first, busy_seconds=1)
        first.execute("CREATE TABLE t (n INTEGER)")
        for number in range(3):
            private_database(path)
            first.execute("INSERT INTO t VALUES (?)", (number,))
            assert seen_elsewhere(path) == number + 1
            assert path.with_name("a.db-wal").exists()


def test_what_an_engine_commits_is_seen_by_others_while_its_pool_grows(tmp_path: Path) -> None:
    path = tmp_path / "b.db"
    engine = open_engine(f"sqlite:///{path}", "test")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (n INTEGER)"))
    with engine.connect() as held:
        held.execute(text("SELECT count(*) FROM t")).scalar_one()
        with engine.connect():  # a second one of the pool, made while the first is open
            pass
        held.rollback()
        assert seen_elsewhere(path) == 0
        for number in range(3):
            held.execute(text("INSERT INTO t VALUES (1)"))
            held.commit()
            assert seen_elsewhere(path) == number + 1
    engine.dispose()


def test_a_database_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.db"
    private_database(path)
    monkeypatch.setattr("os.access", lambda *_, **__: False)  # root may do everything
    with pytest.raises(Unwritable, match=r"cannot write .*c\.db.*Permission denied"):
        private_database(path)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_FULL, DiskFull),
        (sqlite3.SQLITE_IOERR_SHMSIZE, DiskFull),  # what a disk without room for the index of a log gives
        (sqlite3.SQLITE_IOERR_READ, Unwritable),
    ],
)
def test_a_full_disk_is_named_whatever_sqlite_calls_it(code: int, kind: type[Exception]) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = code
    assert type(storage_error(error, "queue")) is kind
