"""Comments and hand-overs over the station's API: who may, limits, what the page, exports and programs are told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from secondlook.client import Client
from secondlook.cloud import catalogue as cat
from secondlook.cloud.accounts import Role, Scope, create_token, remove_user, set_role
from secondlook.cloud.catalogue import comments, retention
from secondlook.cloud.station.app import create_app
from secondlook.shared.errors import StationRefused
from tests.cloud.station.people import add_people, as_user
from tests.cloud.station.seed import START, seed
from tests.cloud.station.server import client_of, serving
from tests.cloud.station.test_api_events import Said, parsed


@dataclass
class Site:
    """A station with users over four ready frames."""

    address: str
    catalogue: cat.Catalogue
    rolf: httpx.Client
    ada: httpx.Client
    vera: httpx.Client


@pytest.fixture
def site(tmp_path: Path, catalogue_url: str) -> Iterator[Site]:
    seeded = seed(tmp_path, ["ready"] * 4, catalogue_url=catalogue_url)
    add_people(seeded.catalogue_url)
    catalogue = cat.open_catalogue(seeded.catalogue_url)
    app = create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url)
    with (
        serving(app) as address,
        as_user(address, "rolf") as rolf,
        as_user(address, "ada") as ada,
        as_user(address, "vera") as vera,
    ):
        yield Site(address, catalogue, rolf, ada, vera)
    catalogue.close()


def comment(person: httpx.Client, review_id: int, text: str, status: int = 200) -> Any:
    answer = person.post(f"/api/reviews/{review_id}/comments", json={"text": text})
    assert answer.status_code == status, answer.text
    return answer.json()


def hand(person: httpx.Client, review_id: int, to: str | None, status: int = 200, **more: Any) -> Any:
    answer = person.post(f"/api/reviews/{review_id}/handover", json={"to": to, **more})
    assert answer.status_code == status, answer.text
    return answer.json()


def listed(person: httpx.Client) -> list[int]:
    return [row["id"] for row in person.get("/api/reviews").json()["reviews"]]


def confirm(person: httpx.Client, review_id: int) -> Any:
    shown = person.get(f"/api/reviews/{review_id}/images/refined").headers["x-content-sha256"]
    body = {"verdict": "confirm", "shown_sha256": shown, "seen_verdict_id": 0}
    answer = person.post(f"/api/reviews/{review_id}/verdicts", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


# --- comments


def test_a_comment_is_shown_beside_the_frame_until_it_is_deleted(site: Site) -> None:
    (said,) = comment(site.rolf, 1, "<b>a goat?</b>\r\nor a fox")["comments"]
    assert (said["author"], said["text"], said["deleted"]) == ("rolf", "<b>a goat?</b>\nor a fox", False)
    assert site.vera.get("/api/reviews/1").json()["comments"] == [said]
    row = site.vera.get("/api/reviews").json()["reviews"][0]
    assert (row["id"], row["comments"]) == (1, 1)
    entry = site.ada.get("/api/history", params={"people": True}).json()["entries"][0]
    assert (entry["action"], entry["comment"], entry["review_id"]) == ("comment given", said["text"], 1)
    # Another's is nobody's to delete, but an admin's.
    comment(site.ada, 1, "a fox")
    mine, hers = (one["id"] for one in site.vera.get("/api/reviews/1").json()["comments"])
    assert site.vera.post(f"/api/comments/{mine}/delete", json={}).status_code == 403
    assert "is ada's" in site.rolf.post(f"/api/comments/{hers}/delete", json={}).json()["detail"]
    assert site.rolf.post("/api/comments/99/delete", json={}).status_code == 404
    after = site.ada.post(f"/api/comments/{mine}/delete", json={}).json()["comments"]
    assert [(one["text"], one["deleted"]) for one in after] == [("", True), ("a fox", False)]
    assert "goat" not in site.ada.get("/api/history").text


def test_what_is_no_comment_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    comment(site.vera, 1, "I only look", 403)
    for text in ("", "  \n", "x" * 1001):
        assert "comment" in comment(site.rolf, 1, text, 422)["detail"][0]["msg"]
    comment(site.rolf, 99, "nowhere", 404)
    assert site.rolf.post("/api/reviews/1/comments", json={"text": "x", "reviewer": "ada"}).status_code == 409
    monkeypatch.setattr(comments, "MAX_COMMENTS", 2)
    for text in ("one", "one", "two"):  # sent again, it counts once
        comment(site.rolf, 1, text)
    assert "takes no more" in comment(site.rolf, 1, "three", 409)["detail"]


# --- handing over


def test_a_colleague_is_given_the_frame_first_and_others_are_not(site: Site) -> None:
    tab = {"tab": "tab-of-rolf"}
    site.rolf.post("/api/claims", json={**tab, "review_id": 3})
    detail = hand(site.rolf, 3, "ada", comment="your yard")
    assert (detail["handed"]["colleague"], detail["handed"]["giver"]) == ("ada", "rolf")
    assert [one["text"] for one in detail["comments"]] == ["your yard"]
    assert (listed(site.ada), listed(site.rolf)) == ([3, 1, 2, 4], [1, 2, 3, 4])
    summaries = [person.get("/api/summary").json() for person in (site.ada, site.rolf)]
    assert [one["handed"] for one in summaries] == [1, 0] and summaries[0]["claims"] == []
    refused = site.rolf.post("/api/claims", json={**tab, "review_id": 3})
    assert (refused.status_code, refused.json()["holder"]) == (409, "ada")
    assert "handed this frame to ada" in refused.json()["detail"]
    given = [
        person.post("/api/claims", json={"tab": f"tab-number-{number}", "or_next": True}).json()["review_id"]
        for number, person in enumerate((site.rolf, site.ada, site.rolf))
    ]
    assert given == [1, 3, 1]
    history = site.ada.get("/api/history", params={"people": True}).json()["entries"]
    assert [(one["actor"], one["action"]) for one in history[:2]] == [
        ("rolf", "review handed over"),
        ("rolf", "comment given"),
    ]
    confirm(site.ada, 3)
    assert site.ada.get("/api/summary").json()["handed"] == 0


def test_a_frame_goes_back_to_all(site: Site) -> None:
    hand(site.rolf, 2, "ada")
    assert hand(site.rolf, 2, None, comment="never mind")["handed"] is None
    assert site.rolf.post("/api/claims", json={"tab": "tab-of-rolf", "review_id": 2}).status_code == 200


def test_who_cannot_be_handed_a_frame(site: Site) -> None:
    hand(site.vera, 1, "ada", 403)
    assert "no user nina" in hand(site.rolf, 1, "nina", 404)["detail"]
    assert "judges nothing" in hand(site.rolf, 1, "vera", 409)["detail"]
    assert "somebody else" in hand(site.rolf, 1, "rolf", 409)["detail"]
    hand(site.rolf, 99, "ada", 404)
    site.ada.post("/api/claims", json={"tab": "tab-of-ada", "review_id": 1})
    refused = hand(site.rolf, 1, "ada", 409)
    assert (refused["holder"], refused["detail"]) == ("ada", "ada has this frame open")
    confirm(site.ada, 2)
    assert "nothing is to be judged" in hand(site.rolf, 2, "ada", 409)["detail"]
    assert site.rolf.get("/api/colleagues").json() == ["ada", "rolf"]
    assert site.vera.get("/api/colleagues").status_code == 403


@pytest.mark.parametrize("how", ["removed", "a viewer"])
def test_frames_of_who_judges_no_more_are_everybodys(site: Site, how: str) -> None:
    hand(site.ada, 1, "rolf")
    if how == "removed":
        remove_user(site.catalogue, "rolf", actor="test", now_ns=START)
    else:
        set_role(site.catalogue, "rolf", Role.VIEWER, actor="test", now_ns=START)
    assert site.ada.get("/api/reviews/1").json()["handed"] is None
    given = site.ada.post("/api/claims", json={"tab": "tab-of-ada", "or_next": True})
    assert given.json()["review_id"] == 1


def test_without_log_in_a_name_is_whatever_a_reviewer_can_be_called(tmp_path: Path) -> None:
    seeded = seed(tmp_path, ["ready"] * 2)
    with client_of(create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url)) as client:
        hand(client, 1, "Bea", reviewer="Ann")
        hand(client, 2, " Bea", 409, reviewer="Ann")
        hand(client, 2, "Bea", 409)
        client.post("/api/claims", json={"tab": "tab-of-ann", "reviewer": "Ann", "review_id": 2})
        assert client.get("/api/colleagues").json() == ["Ann"]
        rows = client.get("/api/reviews", params={"reviewer": "Bea"}).json()["reviews"]
        assert rows[0]["handed"]["giver"] == "Ann"


# --- retention and exports


def test_retention_takes_what_was_said_with_it(site: Site) -> None:
    comment(site.rolf, 1, "a dog?")
    confirm(site.rolf, 1)
    gone = retention.Candidates(cat.Retention.DECIDED, before_ns=2**62)
    (doomed,) = retention.mark_deleting(site.catalogue, gone, limit=9, now_ns=1)
    comment(site.rolf, 1, "too late", 410)
    assert site.rolf.get("/api/export/comments.jsonl").text == ""
    retention.remove_deleted(site.catalogue, [doomed.frame_id])
    assert site.rolf.get("/api/v1/comments").json()["items"] == []
    assert site.rolf.get("/api/history").json()["entries"][0]["comment"] is None


def test_comments_are_exported_as_lines(site: Site) -> None:
    comment(site.rolf, 1, "one")
    comment(site.ada, 2, "two")
    number = comment(site.ada, 1, "three")["comments"][-1]["id"]
    site.ada.post(f"/api/comments/{number}/delete", json={})
    lines = [json.loads(line) for line in site.vera.get("/api/export/comments.jsonl").text.splitlines()]
    assert [(one["review_id"], one["author"], one["text"], one["edge_id"]) for one in lines] == [
        (1, "rolf", "one", "gate-north"),
        (2, "ada", "two", "yard-2"),
    ]
    assert lines[0]["written_at"] and lines[0]["seq"] == 0
    assert site.ada.get("/api/history").json()["entries"][0]["subject"] == "export comments.jsonl"


# --- the versioned API


def told(site: Site, person: httpx.Client, **query: Any) -> list[Said]:
    query = {"after": "start", "seconds": 0, **query}
    return [one for one in parsed(person.get("/api/v1/events", params=query).text) if one.name != "alive"][1:]


def token(site: Site, name: str, role: Role, *scopes: Scope) -> str:
    more = {"label": "x", "role": role, "expires_ns": None, "actor": "t", "now_ns": START}
    return create_token(site.catalogue, name, scopes=scopes, **more)[1]  # type: ignore[arg-type]


def test_programs_comment_and_hand_over(site: Site) -> None:
    with Client(site.address, token(site, "rolf", Role.REVIEWER)) as station:
        given = station.give_comment(1, "a dog?")
        assert station.give_comment(1, "a dog?") == given and given.author == "rolf"
        review = station.hand_over(3, "ada", comment="yours")
        assert (review.handed_to, review.handed_by) == ("ada", "rolf") and review.handed_at is not None
        assert [one.id for one in station.reviews(handed_to="ada")] == [3]
        assert station.hand_over(3, None).handed_to is None
        assert [(one.review_id, one.text) for one in station.comments()] == [(1, "a dog?"), (3, "yours")]
        assert [one.id for one in station.comments(review_id=1, author="rolf")] == [given.id]
        deleted = station.delete_comment(given.id)
        assert (deleted.text, deleted.deleted_at is not None) == (None, True)
        for refused, why in (
            (lambda: station.hand_over(1, "nina"), "no user nina"),
            (lambda: station.give_comment(1, " "), "comment"),
            (lambda: station.delete_comment(99), "no comment 99"),
        ):
            with pytest.raises(StationRefused, match=why):
                refused()
    said = [(one.name, one.data["what"]) for one in told(site, site.vera, kind=["comment", "review"])]
    assert said[-5:] == [
        ("comment", "given"),
        ("comment", "given"),
        ("review", "handed"),
        ("review", "handed"),
        ("comment", "deleted"),
    ]
    texts = [
        one.data["comment"]["text"] for one in told(site, site.vera, kind="comment", camera="gate-north")
    ]
    assert texts == [None, "yours", None]  # as they are now


def test_a_token_that_reads_writes_nothing(site: Site) -> None:
    headers = {"authorization": f"Bearer {token(site, 'rolf', Role.REVIEWER, Scope.READ)}"}
    with httpx.Client(base_url=site.address, headers=headers) as reader:
        assert reader.get("/api/v1/comments").status_code == 200
        for path, body in (
            ("/api/v1/reviews/1/comments", {"text": "x"}),
            ("/api/v1/comments/1/delete", {}),
            ("/api/v1/reviews/1/handover", {"to": "ada"}),
        ):
            assert "the scope review" in reader.post(path, json=body).json()["detail"]
