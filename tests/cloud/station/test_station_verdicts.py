"""Verdicts that are sent again, and verdicts of two people on one frame, as the API answers them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select

from secondlook.cloud import catalogue as cat
from secondlook.cloud.catalogue import NewVerdict, VerdictKind
from secondlook.cloud.station.app import create_app
from secondlook.shared.errors import DecidedMeanwhile, KeyReused
from tests.cloud.station.seed import START, seed
from tests.cloud.station.server import client_of

KEY = "1.0.0.0.0123456789abcdef"


@pytest.fixture
def client(tmp_path: Path, catalogue_url: str) -> Iterator[httpx.Client]:
    seeded = seed(tmp_path, ("ready", "ready"), catalogue_url=catalogue_url)
    with client_of(create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url)) as client:
        yield client


def give(client: httpx.Client, reviewer: str, verdict: str = "confirm", **parts: Any) -> httpx.Response:
    if "shown_sha256" not in parts:
        picture = client.get("/api/reviews/1/images/refined")
        parts["shown_sha256"] = picture.headers["x-content-sha256"]
    body = {"reviewer": reviewer, "verdict": verdict, **parts}
    return client.post("/api/reviews/1/verdicts", json=body)


def kept(client: httpx.Client) -> list[tuple[str, str, int | None]]:
    verdicts = client.get("/api/reviews/1").json()["verdicts"]
    return [(v["reviewer"], v["verdict"], v["conflicts_with"]) for v in verdicts]


def test_a_verdict_that_is_sent_again_is_stored_once_and_answered_the_same(
    client: httpx.Client, tmp_path: Path
) -> None:
    sent = {
        "idempotency_key": KEY,
        "seen_verdict_id": 0,
        "shown_sha256": client.get("/api/reviews/1/images/refined").headers["x-content-sha256"],
    }
    first = give(client, "Ann", **sent)
    assert first.status_code == 200
    shutil.rmtree(tmp_path / "blobs/image/1")  # the answer needs no picture the second time
    assert give(client, "Ann", **sent).json() == first.json()
    assert kept(client) == [("Ann", "confirm", None)]
    history = client.get("/api/history").json()["entries"]
    assert [entry["action"] for entry in history].count("verdict given") == 1
    # Undone meanwhile: still no second one.
    client.post("/api/undo", json={"reviewer": "Ann"})
    again = give(client, "Ann", **sent)
    assert again.status_code == 200 and [v["undone"] for v in again.json()["verdicts"]] == [True]


def test_a_key_is_one_persons_and_one_verdicts(client: httpx.Client) -> None:
    assert give(client, "Ann", idempotency_key=KEY).status_code == 200
    for parts in ({"verdict": "reject"}, {"note": "other"}, {"box_index": 0}):
        answer = give(client, "Ann", **{"verdict": "confirm", "idempotency_key": KEY, **parts})
        assert answer.status_code == 422 and KEY in answer.json()["detail"]
    assert give(client, "Bob", idempotency_key=KEY).status_code == 200
    assert kept(client) == [("Ann", "confirm", None), ("Bob", "confirm", None)]


def test_windows_that_send_at_once_store_one_row(tmp_path: Path, catalogue_url: str) -> None:
    seed(tmp_path, ("ready",), catalogue_url=catalogue_url)
    windows = [cat.open_catalogue(catalogue_url) for _ in range(6)]
    verdict = NewVerdict(VerdictKind.CONFIRM, "ann", "d" * 64, idempotency_key=KEY, seen_verdict_id=0)
    with ThreadPoolExecutor(6) as pool:
        numbers = list(pool.map(lambda w: cat.record_verdict(w, 1, verdict, now_ns=START), windows))
    assert numbers == [1] * 6
    with windows[0].reading() as session:
        assert session.scalar(select(func.count()).select_from(cat.Verdict)) == 1
    for window in windows:
        window.close()


def test_a_key_that_came_for_another_review_at_the_same_moment(
    tmp_path: Path, catalogue_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody sees the other's row before both are written: the database's own rule holds."""
    seed(tmp_path, ("ready", "ready"), catalogue_url=catalogue_url)
    catalogue = cat.open_catalogue(catalogue_url)
    verdict = NewVerdict(VerdictKind.CONFIRM, "ann", "d" * 64, idempotency_key=KEY)
    cat.record_verdict(catalogue, 1, verdict, now_ns=START)
    from secondlook.cloud.catalogue import verdicts

    look, looks = verdicts._stored, iter((None,))
    monkeypatch.setattr(verdicts, "_stored", lambda *given: next(looks, 0) or look(*given))
    with pytest.raises(KeyReused):
        cat.record_verdict(catalogue, 2, verdict, now_ns=START)
    catalogue.close()


def test_the_second_of_two_people_is_told_and_both_are_kept(client: httpx.Client) -> None:
    for review in (client.get("/api/reviews/1").json(),) * 2:  # both have it before them
        assert review["verdicts"] == []
    assert give(client, "Ann", seen_verdict_id=0, note="a cat").status_code == 200
    sent = {"seen_verdict_id": 0, "idempotency_key": KEY}
    answers = [give(client, "Bob", "reject", **sent) for _ in range(2)]
    for answer in answers:  # the second time too
        told = answer.json()
        assert answer.status_code == 409 and "Ann decided this frame meanwhile: confirm" in told["detail"]
        other = told["conflict"]
        assert (other["reviewer"], other["verdict"], other["note"]) == ("Ann", "confirm", "a cat")
        assert told["review"]["contested"]
    assert kept(client) == [("Ann", "confirm", None), ("Bob", "reject", 1)]
    (row,) = client.get("/api/reviews", params={"filter": "decided"}).json()["reviews"]
    assert row["contested"]
    detail = client.get("/api/history").json()["entries"][0]["detail"]
    assert detail["conflicts_with"] == 1


def test_who_has_seen_the_others_verdict_settles_it(client: httpx.Client) -> None:
    give(client, "Ann", seen_verdict_id=0)
    assert give(client, "Bob", "reject", seen_verdict_id=0).status_code == 409
    settled = give(client, "Bob", "reject", seen_verdict_id=2)
    assert settled.status_code == 200 and not settled.json()["contested"]


def test_an_undone_verdict_contests_nothing(client: httpx.Client) -> None:
    give(client, "Ann", seen_verdict_id=0)
    give(client, "Bob", "reject", seen_verdict_id=0)
    assert not client.post("/api/undo", json={"reviewer": "Ann"}).json()["contested"]
    assert client.get("/api/reviews/1").json()["state"] == "decided"  # by Bob


def test_the_same_decision_is_told_but_contests_nothing(client: httpx.Client) -> None:
    give(client, "Ann", seen_verdict_id=0)
    answer = give(client, "Bob", seen_verdict_id=0)
    assert answer.status_code == 409 and not answer.json()["review"]["contested"]


def test_what_decides_nothing_and_ones_own_verdicts_are_no_conflict(client: httpx.Client) -> None:
    assert give(client, "Ann", box_index=0, seen_verdict_id=0).status_code == 200
    assert give(client, "Bob", box_index=1, seen_verdict_id=0).status_code == 200  # this one decides
    assert give(client, "Bob", "reject", seen_verdict_id=0).status_code == 409  # and Ann's was not seen
    client.post("/api/undo", json={"reviewer": "Bob"})
    assert give(client, "Bob", "reject", seen_verdict_id=1).status_code == 200  # only his own since
    assert give(client, "Cem", "confirm").status_code == 200  # asks for no check


def test_a_conflict_is_raised_after_it_is_stored(tmp_path: Path, catalogue_url: str) -> None:
    seed(tmp_path, ("ready",), catalogue_url=catalogue_url)
    catalogue = cat.open_catalogue(catalogue_url)
    cat.record_verdict(catalogue, 1, NewVerdict(VerdictKind.CONFIRM, "ann", "d" * 64), now_ns=START)
    late = NewVerdict(VerdictKind.REJECT, "bob", "d" * 64, seen_verdict_id=0, idempotency_key=KEY)
    for _ in range(2):
        with pytest.raises(DecidedMeanwhile) as conflict:
            cat.record_verdict(catalogue, 1, late, now_ns=START)
        assert (conflict.value.verdict_id, conflict.value.other_id) == (2, 1)
    catalogue.close()
