"""`secondlook audit`: stores that agree are said to, and each way not to agree is named."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, update

from secondlook.cloud import catalogue as cat
from secondlook.cloud.catalogue.schema import Frame, Tombstone
from secondlook.cloud.config import CloudConfig
from secondlook.cloud.storage.blobs import Blobs, base_key, open_blobs
from secondlook.cloud.storage.ledger import FrameTombstone
from secondlook.cloud.storage.queue import QueuedFrame
from secondlook.cloud.storage.stores import open_stores
from secondlook.main import main
from secondlook.shared.packet import FrameInfo

BOOT = "ab" * 16
NOW = 1_790_000_000.0
LAYER = b"layer"


def queued(seq: int) -> QueuedFrame:
    return QueuedFrame("gate", "yard", int(NOW * 1e9), FrameInfo(BOOT, seq, 5, 64, 48, None, 9), LAYER)


@dataclass
class Site:
    config: CloudConfig
    catalogue: cat.Catalogue
    blobs: Blobs

    def receive(self, *seqs: int, tombstones: tuple[tuple[int, int], ...] = ()) -> None:
        stores = open_stores(self.config)
        dropped = [FrameTombstone("gate", BOOT, first, last, "spool-full", 1) for first, last in tombstones]
        stores.ledger.take(stores.queue, [queued(seq) for seq in seqs], dropped, now=NOW)
        cat.store_tombstones(
            self.catalogue,
            [cat.FrameTombstone("gate", BOOT, one.first_seq, one.last_seq, one.reason, 1) for one in dropped],
        )
        stores.close()

    def work_off(self, many: int) -> None:
        """What a worker does."""
        stores = open_stores(self.config)
        for item in stores.queue.lease(many, ttl_seconds=30, worker="w", now=NOW):
            self.file(item.frame.info.seq)
            stores.queue.ack([item.id], worker="w")
        stores.close()

    def file(self, seq: int) -> None:
        key = base_key("gate", BOOT, seq)
        self.blobs.put(key, LAYER)
        info = queued(seq).info
        frame = cat.NewFrame("gate", "yard", int(NOW * 1e9), info, key, len(LAYER))
        cat.store_frame(self.catalogue, frame, [], detector="tiny", reasons=[], now_ns=int(NOW * 1e9))

    def change(self, *statements: Any) -> None:
        with self.catalogue.writing() as session:
            for statement in statements:
                session.execute(statement)

    def audit(self, capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, dict[str, Any]]:
        status = main(
            [
                "audit",
                "--json",
                *flags,
                "--data-dir",
                str(self.config.data_dir),
                "--catalogue",
                self.config.catalogue_url,
            ]
        )
        return status, json.loads(capsys.readouterr().out)


@pytest.fixture
def site(tmp_path: Path, catalogue_url: str) -> Iterator[Site]:
    config = replace(CloudConfig(data_dir=tmp_path / "data"), catalogue=catalogue_url)
    catalogue = cat.open_catalogue(catalogue_url)
    yield Site(config, catalogue, open_blobs(config.blobs_url))
    catalogue.close()


def test_stores_that_agree(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.receive(0, 1, 2, 5, tombstones=((3, 4),))
    site.work_off(3)
    status, found = site.audit(capsys)
    assert (status, found["problems"]) == (0, [])
    figures = ("cameras", "boots", "received", "frames", "queued", "tombstoned", "blobs", "agrees")
    assert [found[name] for name in figures] == [1, 1, 4, 3, 1, 2, 3, True]
    assert found["by_reason"] == {"spool-full": 2}
    assert (
        main(["audit", "--data-dir", str(site.config.data_dir), "--catalogue", site.config.catalogue_url])
        == 0
    )
    assert "the stores agree" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["gap", "lost", "doubled", "missing", "size", "orphan", "ledger"])
def test_each_way_not_to_agree_is_named(site: Site, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    site.receive(0, 1, 2, *((4,) if kind in ("gap", "ledger") else ()))
    site.work_off(4)
    frame = (Frame.edge_id == "gate", Frame.seq == 1)
    if kind == "lost":
        site.change(delete(Frame).where(*frame))
        site.blobs.delete(base_key("gate", BOOT, 1))
    elif kind == "doubled":
        values = {
            "edge_id": "gate",
            "boot_id": BOOT,
            "first_seq": 1,
            "last_seq": 1,
            "reason": "x",
            "received_ns": 1,
        }
        with site.catalogue.writing() as session:
            session.add(Tombstone(**values))
    elif kind == "missing":
        site.blobs.delete(base_key("gate", BOOT, 1))
    elif kind == "size":
        site.change(update(Frame).where(*frame).values(base_bytes=4))
    elif kind == "orphan":
        site.blobs.put(base_key("gate", BOOT, 77), LAYER)
    elif kind == "ledger":
        site.file(3)
    old = ["--config", str(grace_over(site))] if kind == "orphan" else []
    status, found = site.audit(capsys, *old)
    assert status == 1 and not found["agrees"]
    assert found["counts"] == {kind: 1}
    (problem,) = found["problems"]
    assert problem.startswith(f"{kind}: ")


def grace_over(site: Site) -> Path:
    """Settings in which a blob without a row is late at once."""
    path = site.config.data_dir / "cloud.toml"
    path.write_text("[retention]\ngrace_minutes = 0\n")
    return path


def test_a_blob_that_may_be_ahead_of_its_row_is_no_orphan(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.receive(0)
    site.work_off(1)
    site.blobs.put(base_key("gate", BOOT, 1), LAYER)
    assert site.audit(capsys)[0] == 0


def test_a_gateway_may_run_meanwhile(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.receive(0, 1)
    stores = open_stores(site.config)  # it holds its lock and its file
    with stores.one_commit(synced=False):
        stores.ledger.take(stores.queue, [queued(2)], [], now=NOW)
        status, found = site.audit(capsys)
    stores.close()
    assert (status, found["received"], found["queued"]) == (0, 2, 2)


def test_a_queue_of_an_earlier_version_is_read_as_it_is(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.receive(0, 1, 2)
    site.work_off(1)
    with contextlib.closing(sqlite3.connect(site.config.database)) as old:
        old.execute("ALTER TABLE queue RENAME COLUMN dead TO state")
        old.execute("PRAGMA user_version = 1")
        old.commit()
    status, found = site.audit(capsys)
    assert (status, found["queued"]) == (0, 2)


def test_without_a_gateways_file_the_catalogue_and_blobs_are_compared(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.file(3)
    status, found = site.audit(capsys)
    assert (status, found["received"], found["frames"]) == (0, None, 1)
