"""Known frames, and who is told of them: nobody but admins which they are, and not the answer whom one is to try."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from secondlook.cloud import catalogue as cat
from secondlook.cloud.accounts import Role, Scope, add_user, create_token
from secondlook.cloud.station.app import create_app
from tests.cloud.station.people import add_people
from tests.cloud.station.seed import START, seed
from tests.cloud.station.server import serving
from tests.cloud.station.test_api_events import parsed

DAY = {"since": "2026-09-21T00:00:00Z", "until": "2026-09-22T00:00:00Z"}


@dataclass
class Site:
    """Frames 1, 2 and 4 are ready, 3 is expired; `rolf` and `bea` judge, `vera` looks on, `ada` is the admin."""

    clients: dict[str, httpx.Client]

    def get(self, person: str, path: str, **query: Any) -> Any:
        answer = self.clients[person].get(path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def say(self, person: str, review_id: int, picture: str = "refined", **parts: Any) -> None:
        client = self.clients[person]
        shown = client.get(f"/api/reviews/{review_id}/images/{picture}").headers["x-content-sha256"]
        body = {"verdict": "confirm", "shown_sha256": shown, **parts}
        answer = client.post(f"/api/reviews/{review_id}/verdicts", json=body)
        assert answer.status_code == 200, answer.text

    def hand(self, review_id: int, to: str | None, prefix: str = "/api") -> None:
        """bea hands a frame over."""
        answer = self.clients["bea"].post(f"{prefix}/reviews/{review_id}/handover", json={"to": to})
        assert answer.status_code == 200, answer.text

    def try_bea(self, review_id: int, picture: str = "refined") -> None:
        """rolf decides a frame, ada makes it known, and bea, who judges frame 2, is given it."""
        self.clients["rolf"].post(f"/api/reviews/{review_id}/comments", json={"text": "surely a dog"})
        self.say("rolf", review_id, picture)
        known = self.clients["ada"].post(f"/api/reviews/{review_id}/known", json={"known": True})
        assert known.json()["known"], known.text
        self.say("bea", 2)


@pytest.fixture
def site(tmp_path: Path, catalogue_url: str) -> Iterator[Site]:
    seeded = seed(tmp_path, ["ready", "ready", "expired", "ready"], catalogue_url=catalogue_url)
    add_people(seeded.catalogue_url)
    catalogue = cat.open_catalogue(seeded.catalogue_url)
    add_user(catalogue, "bea", Role.REVIEWER, "they have a word to say", actor="t", now_ns=START)
    made: dict[str, Any] = {"label": "x", "expires_ns": None, "actor": "t", "now_ns": START}
    roles = {"rolf": Role.REVIEWER, "bea": Role.REVIEWER, "vera": Role.VIEWER, "ada": Role.ADMIN}
    tokens = {name: create_token(catalogue, name, role=role, **made)[1] for name, role in roles.items()}
    scopes = [Scope.READ, Scope.UNSETTLED]
    tokens["machine"] = create_token(catalogue, "ada", role=Role.ADMIN, scopes=scopes, **made)[1]
    catalogue.close()
    app = create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url, known_share=1.0)
    with serving(app) as address:
        clients = {
            name: httpx.Client(base_url=address, headers={"authorization": f"Bearer {text}"}, timeout=30)
            for name, text in tokens.items()
        }
        yield Site(clients)
        for client in clients.values():
            client.close()


def test_only_admins_are_told_which_frames_are_known(site: Site) -> None:
    site.try_bea(1)
    for person in ("rolf", "bea", "vera", "ada"):
        assert site.get(person, "/api/reviews/1")["known"] is (person == "ada"), person
        page = site.get(person, "/api/history", limit=500)
        actions = [line["action"] for line in page["entries"]]
        assert ("known frame chosen" in actions) is (person == "ada"), person
    # The page of an admin goes on with what it is answered.
    answer = site.clients["ada"].post("/api/reviews/1/comments", json={"text": "a fine one"})
    assert answer.json()["known"]


def test_nobody_is_told_that_somebody_has_a_known_frame_before_them(site: Site) -> None:
    site.try_bea(1)
    for review_id, seen in ((4, [4]), (1, [])):
        answer = site.clients["bea"].post("/api/claims", json={"tab": "tab-of-bea", "review_id": review_id})
        assert answer.json()["review_id"] == review_id, answer.text
        claims = site.get("rolf", "/api/summary")["claims"]
        assert [one["review_id"] for one in claims] == seen


def test_what_is_known_is_a_secret_from_whom_it_tries_in_the_station(site: Site) -> None:
    site.try_bea(1)
    expected = {"bea": ("ready", None), "vera": ("decided", "confirm"), "rolf": ("decided", "confirm")}
    for person, (state, verdict) in expected.items():
        review = site.get(person, "/api/reviews/1")
        assert (review["state"], len(review["verdicts"])) == (state, verdict is not None), person
        frame = site.get(person, "/api/frames/1")
        assert (frame["state"], frame["verdict"]) == (state, verdict), person
        (row,) = [one for one in site.get(person, "/api/frames")["frames"] if one["id"] == 1]
        assert (row["state"], row["verdict"]) == (state, verdict), person
        line = site.get(person, "/api/cameras/gate-north/timeline", **DAY)
        assert {one["id"]: one["state"] for one in line["reviews"]}[1] == state, person
        confirmed = [row["id"] for row in site.get(person, "/api/frames", verdict="confirm")["frames"]]
        assert confirmed == ([2] if person == "bea" else [2, 1]), person
        decided = site.get(person, "/api/reviews", filter="decided")
        counted = site.get(person, "/api/summary")["filters"]
        assert [row["id"] for row in decided["reviews"]] == confirmed, person
        assert decided["total"] == counted["decided"] == len(confirmed), person
        # It stands in one list alone, and is counted there.
        ready = site.get(person, "/api/reviews", filter="ready")
        assert ready["total"] == counted["ready"] == (2 if person == "bea" else 1), person
        history = [(line["actor"], line["action"]) for line in site.get(person, "/api/history")["entries"]]
        assert (("rolf", "verdict given") in history) is (person != "bea"), person
        for export in ("verdicts", "comments"):
            text = site.clients[person].get(f"/api/export/{export}.jsonl").text
            assert ('"review_id": 1' in text) is (person != "bea"), (person, export)


def test_what_is_known_is_a_secret_from_whom_it_tries_in_the_api_for_programs(site: Site) -> None:
    site.try_bea(1)
    for person in ("bea", "vera", "ada", "machine"):
        state, told = ("ready", False) if person == "bea" else ("decided", True)
        assert site.get(person, "/api/v1/reviews/1")["state"] == state, person
        reviews = {one["id"]: one["state"] for one in site.get(person, "/api/v1/reviews")["items"]}
        assert reviews[1] == state, person
        for wanted in ("ready", "decided"):
            listed = [one["id"] for one in site.get(person, "/api/v1/reviews", state=wanted)["items"]]
            of_frames = [one["id"] for one in site.get(person, "/api/v1/frames", state=wanted)["items"]]
            assert (1 in listed, 1 in of_frames) == (wanted == state, wanted == state), (person, wanted)
        verdicts = site.get(person, "/api/v1/verdicts")["items"]
        assert [one["reviewer"] for one in verdicts] == (["rolf", "bea"] if told else ["bea"]), person
        (given,) = [one["id"] for one in site.get("vera", "/api/v1/verdicts", reviewer="rolf")["items"]]
        single = site.clients[person].get(f"/api/v1/verdicts/{given}")
        assert single.status_code == (200 if told else 404), person
        (comment,) = site.get(person, "/api/v1/comments")["items"]
        again = site.get(person, f"/api/v1/comments/{comment['id']}")
        assert comment["text"] == again["text"] == ("surely a dog" if told else None), person


def test_once_it_is_judged_everything_is_told(site: Site) -> None:
    site.try_bea(1)
    site.say("bea", 1)
    assert site.get("bea", "/api/v1/reviews/1")["state"] == "decided"
    assert [row["id"] for row in site.get("bea", "/api/reviews", filter="decided")["reviews"]] == [2, 1]
    assert site.get("bea", "/api/reviews/1")["known"] is False


def test_no_refusal_tells_that_a_frame_is_known(site: Site) -> None:
    site.try_bea(1)
    answer = site.clients["bea"].post("/api/reviews/1/retry", json={})
    assert (answer.status_code, "is ready, neither" in answer.json()["detail"]) == (409, True)


def test_an_expired_frame_tries_people_as_an_expired_one(site: Site) -> None:
    site.try_bea(3, "base")
    assert site.get("bea", "/api/reviews/3")["state"] == "expired"
    assert site.get("bea", "/api/v1/reviews/3")["state"] == "expired"
    assert [one["id"] for one in site.get("bea", "/api/v1/reviews", state="expired")["items"]] == [3]
    assert [one["id"] for one in site.get("bea", "/api/v1/frames", state="expired")["items"]] == [3]
    assert site.get("bea", "/api/summary")["filters"]["expired"] == 1
    answer = site.clients["bea"].post("/api/reviews/3/retry", json={})
    assert (answer.status_code, "decided" in answer.text) == (409, False)
    assert "the camera host no longer has it" in answer.json()["detail"]
    assert site.get("bea", "/api/reviews/3")["state"] == "expired"


@pytest.mark.parametrize("prefix", ["/api", "/api/v1"])
def test_a_known_frame_that_is_handed_over_is_answered_like_another(site: Site, prefix: str) -> None:
    site.try_bea(1)
    for review_id in (1, 4):
        site.hand(review_id, "rolf", prefix)
    for path in ("/api/reviews/", "/api/v1/reviews/"):
        known, other = site.get("bea", f"{path}1"), site.get("bea", f"{path}4")
        alike = ("state", "handed", "handed_to", "handed_by", "verdicts", "comments", "known", "double")
        for name in alike:
            assert without_times(known.get(name)) == without_times(other.get(name)), name
        assert known["state"] == "ready"
    assert site.get("bea", "/api/reviews/1")["handed"]["colleague"] == "rolf"
    assert site.get("bea", "/api/v1/reviews/1")["handed_to"] == "rolf"
    for path in ("/api/frames/", "/api/frames"):
        found = [site.get("bea", f"/api/frames/{id_}") for id_ in (1, 4)]
        assert [(one["state"], one["verdict"]) for one in found] == [("ready", None)] * 2, path


def without_times(value: Any) -> Any:
    return {**value, "at": ""} if isinstance(value, dict) else value


def test_a_known_frame_that_is_handed_over_stands_in_lists_like_another(site: Site) -> None:
    site.try_bea(1)
    for review_id in (1, 4):
        site.hand(review_id, "rolf")
    rows = {row["id"]: row for row in site.get("bea", "/api/reviews")["reviews"]}
    assert rows.keys() == {1, 3, 4}
    assert [rows[id_]["handed"]["colleague"] for id_ in (1, 4)] == ["rolf", "rolf"]
    assert [row["id"] for row in site.get("bea", "/api/reviews", filter="decided")["reviews"]] == [2]
    assert site.get("bea", "/api/summary")["filters"]["ready"] == 2
    for person, seen in (("bea", [1, 4]), ("rolf", [4]), ("vera", [4]), ("ada", [4]), ("machine", [4])):
        listed = site.get(person, "/api/v1/reviews", handed_to="rolf")["items"]
        assert [one["id"] for one in listed] == seen, person
    # Neither is handed out, and who asks for either is refused in the same words.
    claim = {"tab": "tab-of-bea", "or_next": True}
    assert site.clients["bea"].post("/api/claims", json=claim).json()["review_id"] == 3
    refusals = [
        site.clients["bea"].post("/api/claims", json={"tab": "tab-of-bea", "review_id": id_})
        for id_ in (1, 4)
    ]
    assert [one.status_code for one in refusals] == [409, 409]
    assert (
        refusals[0].json()
        == refusals[1].json()
        == {
            "detail": "bea handed this frame to rolf",
            "holder": "rolf",
        }
    )
    # The colleague is given what there is to judge, and hears of nothing else.
    assert [row["id"] for row in site.get("rolf", "/api/reviews")["reviews"]] == [4, 3]
    assert site.get("rolf", "/api/summary")["handed"] == 1
    assert site.get("rolf", "/api/reviews/1")["handed"] is None


def test_only_its_giver_is_told_that_a_known_frame_was_handed_over(site: Site) -> None:
    site.try_bea(1)
    for review_id in (1, 4):
        site.hand(review_id, "rolf")
    for person, told in (("bea", [1, 4]), ("rolf", [4]), ("vera", [4]), ("machine", [4])):
        query = {"after": "start", "seconds": 0, "kind": "review"}
        said = parsed(site.clients[person].get("/api/v1/events", params=query).text)
        handed = [one.data["review"] for one in said if one.data.get("what") == "handed"]
        assert [one["id"] for one in handed] == told, person
        assert {(one["state"], one["handed_to"]) for one in handed} == {("ready", "rolf")}, person
        if person == "bea":  # nor is the decision in what happened before
            states = {
                one.data["review"]["state"] for one in said if one.data.get("review", {}).get("id") == 1
            }
            assert states == {"ready"}
        lines = site.get(person, "/api/history", limit=500)["entries"]
        found = [line["review_id"] for line in lines if line["action"] == "review handed over"]
        assert sorted(found) == told, person
        assert not [line for line in lines if line["action"].startswith("known")] or person == "machine"
    lines = site.get("ada", "/api/history", limit=500)["entries"]
    (line,) = [line for line in lines if line["action"] == "known frame handed over"]
    assert (line["actor"], line["review_id"], line["detail"]) == ("bea", 1, {"to": "rolf"})


def test_a_known_frame_that_is_given_back_waits_again(site: Site) -> None:
    site.try_bea(1)
    site.hand(1, "rolf")
    site.hand(1, "ada")  # to somebody else
    assert site.get("bea", "/api/reviews/1")["handed"]["colleague"] == "ada"
    site.hand(1, None)
    assert site.get("bea", "/api/reviews/1")["handed"] is None
    claim = {"tab": "tab-of-bea", "review_id": 1}
    assert site.clients["bea"].post("/api/claims", json=claim).json()["review_id"] == 1
    site.hand(1, None)  # nobody had it: nothing changes, and it waits still
    assert site.get("bea", "/api/reviews/1")["state"] == "ready"
    site.hand(1, "rolf")
    site.say("bea", 1)  # a verdict counts, and ends the hand-over, whoever gives it
    judged = site.get("bea", "/api/reviews/1")
    assert (judged["state"], judged["handed"]) == ("decided", None)
    site.clients["bea"].post("/api/undo", json={})
    again = site.get("bea", "/api/reviews/1")
    assert (again["state"], again["handed"]) == ("ready", None)


def test_what_is_said_of_a_known_frame_is_in_nobody_elses_history_or_changes(site: Site) -> None:
    site.try_bea(1)
    start = site.get("rolf", "/api/export/changes", after=0)["next"]
    site.say("bea", 1)
    for person, told in (("bea", True), ("rolf", False), ("vera", False), ("ada", True)):
        lines = site.get(person, "/api/history", people=True, limit=500)["entries"]
        found = [line for line in lines if line["actor"] == "bea" and line["review_id"] == 1]
        assert bool(found) is told, person
    page = site.get("rolf", "/api/export/changes", after=start)
    assert page["frames"] == [] and page["next"] > start


def test_ones_own_lines_do_not_tell_the_state_of_a_known_frame(site: Site) -> None:
    site.try_bea(1)
    site.say("bea", 1, box_index=0)
    (line,) = [
        line
        for line in site.get("bea", "/api/history")["entries"]
        if line["review_id"] == 1 and line["action"] == "verdict given"
    ]
    assert (line["detail"]["state_before"], line["detail"]["state_after"]) == ("ready", "ready")
