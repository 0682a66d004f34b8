"""What the station says of frames that retention deletes, and what it notes of those who take data away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select

from secondlook.cloud import catalogue as cat
from secondlook.cloud.catalogue.audit import verify_audit
from secondlook.cloud.catalogue.retention import Candidates, mark_deleting, remove_deleted
from secondlook.cloud.station.app import create_app
from secondlook.cloud.storage.blobs import open_blobs
from tests.cloud.station.seed import Seeded, seed
from tests.cloud.station.server import client_of

PICTURE = "/api/reviews/1/images/refined"


@pytest.fixture
def seeded(tmp_path: Path, catalogue_url: str) -> Seeded:
    return seed(tmp_path, ["ready", "ready"], catalogue_url=catalogue_url)


@pytest.fixture
def client(seeded: Seeded) -> Iterator[httpx.Client]:
    app = create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url)
    with client_of(app) as client:
        yield client


@pytest.fixture
def catalogue(seeded: Seeded) -> Iterator[cat.Catalogue]:
    catalogue = cat.open_catalogue(seeded.catalogue_url)
    yield catalogue
    catalogue.close()


def give(client: httpx.Client, shown: str) -> httpx.Response:
    body = {"reviewer": "Ann", "verdict": "confirm", "shown_sha256": shown}
    return client.post("/api/reviews/1/verdicts", json=body)


def test_a_picture_that_is_being_deleted_is_gone_and_then_unknown(
    client: httpx.Client, catalogue: cat.Catalogue, seeded: Seeded
) -> None:
    blobs = open_blobs(seeded.blobs_url)
    shown = client.get(PICTURE).headers["x-content-sha256"]
    revision = client.get("/api/summary").json()["revision"]
    assert give(client, shown).status_code == 200
    wanted = Candidates(cat.Retention.DECIDED, 2**62)
    (doomed,) = mark_deleting(catalogue, wanted, limit=9, now_ns=1)
    # Marked: the picture is there as yet, but nothing is taken of it any more.
    assert client.get(PICTURE).status_code == 200
    answer = give(client, shown)
    assert (answer.status_code, "gone" in answer.json()["detail"]) == (410, True)
    assert client.post("/api/undo", json={"reviewer": "Ann"}).status_code == 410
    blobs.delete_many(doomed.blob_keys)
    answer = client.get(PICTURE)
    assert (answer.status_code, "kept for as long as was set" in answer.json()["detail"]) == (410, True)
    remove_deleted(catalogue, [doomed.frame_id])
    assert client.get(PICTURE).status_code == 404
    assert client.get("/api/reviews/1").status_code == 404
    assert client.get("/api/reviews/2").status_code == 200
    assert client.get("/api/summary").json()["revision"] != revision
    assert client.get("/api/reviews", params={"filter": "decided"}).json() == {"total": 0, "reviews": []}
    assert client.get("/api/export/coco.json").json()["images"] == []
    # The trail still tells of the verdict, and of the deletion.
    actions = [entry["action"] for entry in client.get("/api/history").json()["entries"]]
    assert actions[:3] == ["exported", "frames deleted", "verdict given"]


def test_exports_leave_a_line(client: httpx.Client, catalogue: cat.Catalogue) -> None:
    assert client.get("/api/export/coco.json", params={"undecided": True}).status_code == 200
    assert client.get("/api/export/verdicts.jsonl").status_code == 200
    with catalogue.reading() as session:
        lines = session.scalars(select(cat.AuditEntry).where(cat.AuditEntry.action == "exported")).all()
        told = [(line.actor, line.subject, line.detail) for line in lines]
    assert told == [
        ("local", "export coco.json", {"undecided": True, "unsure": False, "contested": False}),
        ("local", "export verdicts.jsonl", {}),
    ]
    verify_audit(catalogue)
