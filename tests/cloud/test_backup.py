"""A backup is taken while a site works, and what it puts back holds together; on SQLite and PostgreSQL."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import stat
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import func, select

from secondlook.cloud import catalogue as cat
from secondlook.cloud.admin import backup
from secondlook.cloud.admin.agreement import Agreement, look
from secondlook.cloud.admin.ledgers import ledger_read
from secondlook.cloud.catalogue.audit import verify_audit
from secondlook.cloud.catalogue.schema import Frame
from secondlook.cloud.config import CloudConfig
from secondlook.cloud.storage.blobs import base_key, open_blobs
from secondlook.cloud.storage.stores import open_stores
from secondlook.main import main
from secondlook.shared.errors import ConfigError, StoreBusy, StoreCorrupt, StoreUnavailable
from tests.cloud.servers import PostgreSQL
from tests.cloud.test_agreement import BOOT, NOW, Site, queued

FRAMES = 40


_numbers = itertools.count(1)


def database(server: PostgreSQL) -> str:
    """The URL of a new, empty database: what is dumped and restored is a whole one."""
    name = f"copied{next(_numbers)}"
    with server.connected() as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
    return server.url.removesuffix("/postgres") + f"/{name}"


@pytest.fixture(params=["sqlite", "postgresql"])
def catalogue_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/catalogue.db"
    return database(request.getfixturevalue("postgresql"))


@pytest.fixture
def site(tmp_path: Path, catalogue_url: str) -> Iterator[Site]:
    if catalogue_url.startswith("postgresql") and shutil.which("pg_dump") is None:
        pytest.skip("PostgreSQL's client programs are not installed")
    config = replace(CloudConfig(data_dir=tmp_path / "data"), catalogue=catalogue_url)
    catalogue = cat.open_catalogue(catalogue_url)
    yield Site(config, catalogue, open_blobs(config.blobs_url))
    catalogue.close()


def elsewhere(site: Site, folder: Path, request: pytest.FixtureRequest) -> CloudConfig:
    """Settings of an empty site with the same kind of database."""
    url = f"sqlite:///{folder}/catalogue.db"
    if site.config.catalogue_url.startswith("postgresql"):
        url = database(request.getfixturevalue("postgresql"))
    return replace(CloudConfig(data_dir=folder), catalogue=url)


def audited(config: CloudConfig) -> Agreement:
    catalogue = cat.open_catalogue(config.catalogue_url)
    with ledger_read(config) as (ledger, held):
        found = look(catalogue, open_blobs(config.blobs_url), ledger, queued=held, before=0.0)
    verify_audit(catalogue)
    catalogue.close()
    return found


def test_what_is_put_back_is_what_was_there(
    site: Site, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    site.receive(*range(6), tombstones=((6, 9),))
    site.work_off(4)
    manifest = backup.back_up(site.config, tmp_path / "copy")
    assert len(manifest["blobs"]) == 4 and manifest["missing"] == []
    for path in (tmp_path / "copy").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    config = elsewhere(site, tmp_path / "elsewhere", request)
    backup.restore(config, tmp_path / "copy")
    found = audited(config)
    assert found.problems == []
    assert (found.received, found.frames, found.queued, found.tombstoned) == (6, 4, 2, 4)
    # A gateway goes on where the copy was taken: what came before is known, what waits is handed out.
    stores = open_stores(config)
    assert stores.ledger.received("gate", BOOT).cumulative == 9
    assert len(stores.queue.lease(10, ttl_seconds=1, worker="w", now=2e9)) == 2
    stores.close()


def test_a_copy_that_is_taken_while_frames_are_worked_off_loses_none(
    site: Site, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    site.receive(*range(FRAMES))
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            with contextlib.suppress(StoreBusy):  # a gateway would wait, and begin again
                site.work_off(1)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        copies = []
        for number in range(3):
            copies.append(tmp_path / f"copy{number}")
            backup.back_up(site.config, copies[-1])
    finally:
        stop.set()
        worker.join()
    config = elsewhere(site, tmp_path / "elsewhere", request)
    for copy in copies:
        backup.restore(config, copy, overwrite=True)
        found = audited(config)
        # Filed or queued, each of them: one that was filed while it was copied may be both, and is known when it comes.
        assert [line for line in found.problems if not line.startswith("orphan")] == []
        assert found.received == FRAMES and found.queued is not None
        assert found.frames + found.queued >= FRAMES


@pytest.mark.parametrize("database_of", ["its own", "the catalogue's"])
def test_a_ledger_on_a_server_beside_an_embedded_queue_is_not_ahead_of_it(
    tmp_path: Path, postgresql: PostgreSQL, database_of: str
) -> None:
    """What is acknowledged and neither queued nor filed after a restore would be lost without a word."""
    if shutil.which("pg_dump") is None:
        pytest.skip("PostgreSQL's client programs are not installed")

    def made(folder: Path) -> CloudConfig:
        url = database(postgresql)
        ledger = url if database_of == "the catalogue's" else database(postgresql)
        return replace(CloudConfig(data_dir=folder), catalogue=url, ledger=ledger)

    config = made(tmp_path / "data")
    catalogue = cat.open_catalogue(config.catalogue_url)
    site = Site(config, catalogue, open_blobs(config.blobs_url))
    stop, begun = threading.Event(), threading.Event()

    def serve() -> None:
        stores = open_stores(config)
        for seq in itertools.count():
            stores.ledger.take(stores.queue, [queued(seq)], [], now=NOW)
            begun.set()
            for item in stores.queue.lease(1 if seq % 2 else 0, ttl_seconds=30, worker="w", now=NOW):
                site.file(item.frame.info.seq)
                stores.queue.ack([item.id], worker="w")
            if stop.is_set():
                break
        stores.close()

    gateway = threading.Thread(target=serve)
    gateway.start()
    begun.wait()
    try:
        backup.back_up(config, tmp_path / "copy")
    finally:
        stop.set()
        gateway.join()
    restored = made(tmp_path / "elsewhere")
    backup.restore(restored, tmp_path / "copy")
    found = audited(restored)
    assert [line for line in found.problems if not line.startswith("orphan")] == []
    assert found.received is not None and found.received > 0
    catalogue.close()


def test_frames_that_retention_took_meanwhile_are_finished_after_the_restore(
    site: Site, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.receive(0, 1)
    site.work_off(2)
    copied = backup._copy_catalogue

    def and_then_retention(config: CloudConfig, folder: Path) -> None:
        copied(config, folder)
        site.blobs.delete(base_key("gate", BOOT, 1))

    monkeypatch.setattr(backup, "_copy_catalogue", and_then_retention)
    backup.back_up(site.config, tmp_path / "copy")
    config = elsewhere(site, tmp_path / "elsewhere", request)
    backup.restore(config, tmp_path / "copy")
    catalogue = cat.open_catalogue(config.catalogue_url)
    with catalogue.reading() as session:
        going = select(func.count()).where(Frame.retention == cat.Retention.DELETING)
        assert session.scalar(going) == 1
    catalogue.close()


def test_a_later_backup_links_what_an_earlier_one_has(site: Site, tmp_path: Path) -> None:
    site.receive(0, 1, 2)
    site.work_off(2)
    backup.back_up(site.config, tmp_path / "monday")
    site.work_off(1)
    manifest = backup.back_up(site.config, tmp_path / "tuesday", than=tmp_path / "monday")
    links = {key: (tmp_path / "tuesday" / "blobs" / key).stat().st_nlink for key in manifest["blobs"]}
    assert sorted(links.values()) == [1, 2, 2]
    shutil.rmtree(tmp_path / "monday")
    backup.check(tmp_path / "tuesday")


def test_a_backup_that_is_damaged_or_half_is_refused_before_anything_is_touched(
    site: Site, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    site.receive(0)
    site.work_off(1)
    backup.back_up(site.config, tmp_path / "copy")
    config = elsewhere(site, tmp_path / "elsewhere", request)
    blob = tmp_path / "copy" / "blobs" / base_key("gate", BOOT, 0)
    blob.write_bytes(b"other")
    with pytest.raises(StoreCorrupt, match="is not what the manifest says"):
        backup.restore(config, tmp_path / "copy")
    (tmp_path / "copy" / "manifest.json").unlink()
    with pytest.raises(StoreCorrupt, match="no whole backup"):
        backup.restore(config, tmp_path / "copy")
    assert not config.data_dir.exists()


def test_nothing_is_overwritten_unasked_or_beside_a_running_gateway(site: Site, tmp_path: Path) -> None:
    site.receive(0)
    site.work_off(1)
    backup.back_up(site.config, tmp_path / "copy")
    with pytest.raises(ConfigError, match="--overwrite"):
        backup.restore(site.config, tmp_path / "copy")
    with pytest.raises(ConfigError, match="not empty"):
        backup.back_up(site.config, tmp_path / "copy")
    stores = open_stores(site.config)
    with pytest.raises(StoreBusy, match="in use by another gateway"):
        backup.restore(site.config, tmp_path / "copy", overwrite=True)
    stores.close()


def test_the_commands(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site.receive(0, 1)
    site.work_off(1)
    stores = ("--data-dir", str(site.config.data_dir), "--catalogue", site.config.catalogue_url)
    assert main(["backup", str(tmp_path / "copy"), *stores]) == 0
    assert json.loads(capsys.readouterr().out)["blobs"] == 1
    assert main(["restore", str(tmp_path / "copy"), "--check"]) == 0
    assert main(["backup", str(tmp_path / "small"), "--no-blobs", *stores]) == 0
    assert main(["restore", str(tmp_path / "copy"), *stores]) == 1
    assert "--overwrite" in capsys.readouterr().err


def test_a_database_that_does_not_answer_is_named_without_its_password(tmp_path: Path) -> None:
    if shutil.which("pg_dump") is None:
        pytest.skip("PostgreSQL's client programs are not installed")
    url = "postgresql+psycopg://somebody:hush@127.0.0.1:1/none"
    with pytest.raises(StoreUnavailable, match="pg_dump failed") as caught:
        backup.back_up(replace(CloudConfig(data_dir=tmp_path), catalogue=url), tmp_path / "copy")
    assert "hush" not in str(caught.value)
