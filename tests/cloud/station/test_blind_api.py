"""Frames in double review, and who hears what others said of them: lists, the stream, webhooks, exports, searches."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from secondlook.cloud import catalogue as cat
from secondlook.cloud.accounts import Role, Scope, add_user, create_token
from secondlook.cloud.catalogue.feed import START as FEED_START
from secondlook.cloud.catalogue.feed import EventKind, Interest, look
from secondlook.cloud.notify.messages import message_of
from secondlook.cloud.station.app import create_app
from secondlook.main import main
from secondlook.shared.errors import AccountConflict
from tests.cloud.station.people import add_people
from tests.cloud.station.seed import START, seed
from tests.cloud.station.server import serving
from tests.cloud.station.test_api_events import parsed

PEOPLE = ("rolf", "bea", "cai")


@dataclass
class Program:
    """Somebody's program with a token, which follows verdicts."""

    client: httpx.Client
    cursor: str = "start"
    heard: list[tuple[str, str]] = field(default_factory=list)

    def listen(self) -> list[tuple[str, str]]:
        """Who said what, as far as it is told now; each once."""
        query = {"after": self.cursor, "seconds": 0, "kind": ["verdict"]}
        said = parsed(self.client.get("/api/v1/events", params=query).text)
        self.cursor = said[-1].id
        new = [(one.data["what"], one.data["verdict"]["reviewer"]) for one in said if one.name == "verdict"]
        self.heard += new
        return new

    def listed(self) -> list[str]:
        return [one["reviewer"] for one in self.client.get("/api/v1/verdicts").json()["items"]]


@dataclass
class Site:
    catalogue: cat.Catalogue
    programs: dict[str, Program]

    def say(self, person: str, review_id: int, verdict: str, **parts: Any) -> Any:
        client = self.programs[person].client
        shown = client.get(f"/api/reviews/{review_id}/images/refined").headers["x-content-sha256"]
        body = {"verdict": verdict, "shown_sha256": shown, "seen_verdict_id": 0, **parts}
        answer = client.post(f"/api/reviews/{review_id}/verdicts", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def webhooks(self) -> list[str]:
        """What receivers are told of verdicts, from the first one on."""
        events = look(self.catalogue, FEED_START, Interest(frozenset({EventKind.VERDICT})), limit=99).events
        bodies = [json.loads(message_of(event).body) for event in events]
        return [f"{one['type']} {one['data']['verdict']['reviewer']}" for one in bodies]


@pytest.fixture
def site(tmp_path: Path, catalogue_url: str) -> Iterator[Site]:
    """Three people who judge, `ada` the admin with a token for all that her role may, and a machine of hers."""
    seeded = seed(tmp_path, ["ready"] * 3, catalogue_url=catalogue_url)
    add_people(seeded.catalogue_url)
    catalogue = cat.open_catalogue(seeded.catalogue_url)
    for name in PEOPLE[1:]:
        add_user(catalogue, name, Role.REVIEWER, "they have a word to say", actor="t", now_ns=START)
    made: dict[str, Any] = {"expires_ns": None, "actor": "t", "now_ns": START}
    tokens = {
        name: create_token(catalogue, name, label="x", role=Role.REVIEWER, **made)[1] for name in PEOPLE
    }
    tokens["ada"] = create_token(catalogue, "ada", label="x", role=Role.ADMIN, **made)[1]
    scopes = [Scope.READ, Scope.UNSETTLED]
    tokens["machine"] = create_token(catalogue, "ada", label="m", role=Role.ADMIN, scopes=scopes, **made)[1]
    app = create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url, double_share=1.0)
    with serving(app) as address:
        clients = {
            name: httpx.Client(base_url=address, headers={"authorization": f"Bearer {text}"}, timeout=30)
            for name, text in tokens.items()
        }
        yield Site(catalogue, {name: Program(client) for name, client in clients.items()})
        for client in clients.values():
            client.close()
    catalogue.close()


def test_nobody_who_could_judge_hears_of_a_verdict_before_the_frame_is_settled(site: Site) -> None:
    given = site.say("rolf", 1, "confirm")["verdicts"][0]["id"]
    programs = site.programs
    for name, hears in (("rolf", True), ("bea", False), ("ada", False), ("machine", True)):
        program = programs[name]
        assert program.listen() == ([("given", "rolf")] if hears else []), name
        assert program.listed() == (["rolf"] if hears else []), name
        status = program.client.get(f"/api/v1/verdicts/{given}").status_code
        assert status == (200 if hears else 404), name
        lines = program.client.get("/api/export/verdicts.jsonl").text.splitlines()
        assert len(lines) == hears, name
        picture = program.client.get("/api/export/coco.json", params={"undecided": True}).json()
        assert all(image["reviewers"] == [] for image in picture["images"]), name
        found = program.client.get("/api/frames", params={"verdict": "confirm"}).json()["frames"]
        assert found == [], name
    assert site.webhooks() == []
    # They differ: it stays so for the third person.
    site.say("bea", 1, "reject")
    assert programs["bea"].listen() == [("given", "bea")] and programs["cai"].listen() == []
    assert programs["machine"].listen() == [("given", "bea")]
    assert site.webhooks() == []
    # The third one settles it, and everybody hears of all of them, once.
    site.say("cai", 1, "reject")
    everybody = sorted(["bea", "cai", "rolf"])
    for name, program in programs.items():
        program.listen()
        assert sorted(who for _, who in program.heard) == everybody, name
        assert {what for what, _ in program.heard} == {"given"} and program.listed().count("cai") == 1
        again = Program(program.client)
        assert sorted(who for _, who in again.listen()) == everybody, name
    assert sorted(site.webhooks()) == [f"verdict.given {name}" for name in everybody]


def test_verdicts_on_boxes_of_a_frame_that_will_be_drawn_are_withheld_too(site: Site) -> None:
    site.say("rolf", 1, "reject", box_index=0)
    bea = site.programs["bea"]
    assert bea.listen() == [] and bea.listed() == []
    assert bea.client.get("/api/reviews/1").json()["verdicts"] == []
    site.say("rolf", 1, "confirm", box_index=1)
    site.say("bea", 1, "reject", box_index=0)
    site.say("bea", 1, "confirm", box_index=1)
    assert len(bea.listen()) == 4 and len(site.programs["rolf"].listen()) == 4


def test_verdicts_of_programs_are_drawn_for_double_review_too(site: Site) -> None:
    client = site.programs["rolf"].client
    shown = client.get("/api/reviews/1/images/refined").headers["x-content-sha256"]
    body = {"verdict": "confirm", "shown_sha256": shown}
    for index in (0, 1):
        assert client.post("/api/v1/reviews/1/verdicts", json={**body, "box_index": index}).status_code == 201
        assert site.programs["bea"].listed() == [] and site.programs["bea"].listen() == []
    assert client.get("/api/v1/reviews/1").json()["state"] == "ready"  # for a second person


def test_that_a_frame_is_judged_blindly_is_told_in_no_list_of_what_happened(site: Site) -> None:
    site.say("rolf", 1, "confirm")
    bea, rolf = site.programs["bea"].client, site.programs["rolf"].client

    def told(client: httpx.Client, **query: Any) -> list[tuple[str, str]]:
        entries = client.get("/api/history", params=query).json()["entries"]
        return [(one["actor"], one["action"]) for one in entries if one["action"].startswith("verdict")]

    def changed() -> list[tuple[int, bool]]:
        frames = bea.get("/api/export/changes", params={"after": 0}).json()["frames"]
        return [(one["review_id"], one["settled"]) for one in frames]

    assert told(rolf) == [("rolf", "verdict given")] and told(bea) == [] and changed() == []
    assert told(site.programs["ada"].client) == []
    first = bea.get("/api/history", params={"limit": 1, "people": True}).json()
    assert first["next_before"] is not None  # there is more behind what is left out
    site.say("bea", 1, "confirm")
    assert ("rolf", "verdict given") in told(bea) and ("station", "verdict told") in told(bea)
    assert changed() == [(1, True)]
    # What all know of is undone for all, and what was told then is told no more.
    bea.post("/api/undo", json={})
    assert changed() == [(1, False)]
    assert told(site.programs["cai"].client) == []


def test_a_conflict_that_has_become_a_secret_is_none(site: Site) -> None:
    site.say("rolf", 1, "confirm")
    site.say("bea", 1, "confirm")
    cai = site.programs["cai"].client
    shown = cai.get("/api/reviews/1/images/refined").headers["x-content-sha256"]
    body = {"verdict": "reject", "shown_sha256": shown, "seen_verdict_id": 0, "idempotency_key": "key-of-cai"}
    answer = cai.post("/api/reviews/1/verdicts", json=body)
    assert answer.status_code == 409 and answer.json()["conflict"]["reviewer"] == "bea"
    site.programs["bea"].client.post("/api/undo", json={})
    again = cai.post("/api/reviews/1/verdicts", json=body)  # the first answer was lost on its way
    assert again.status_code == 200, again.text
    assert [one["reviewer"] for one in again.json()["verdicts"]] == ["cai"]
    program = cai.post("/api/v1/reviews/1/verdicts", json=body)
    assert (program.status_code, program.json()["reviewer"]) == (201, "cai"), program.text


def test_what_was_taken_back_before_is_told_to_nobody(site: Site) -> None:
    site.say("rolf", 1, "confirm")
    undone = site.programs["rolf"].client.post("/api/undo", json={})
    assert undone.status_code == 200
    assert site.programs["rolf"].listen() == [("given", "rolf"), ("undone", "rolf")]
    assert site.programs["bea"].listen() == [] and site.webhooks() == []
    site.say("rolf", 1, "reject")
    site.say("bea", 1, "reject")
    assert site.webhooks() == ["verdict.given bea", "verdict.given rolf"]
    # Once everybody knows of it, its undoing is no secret; what others said of the frame is one again.
    site.programs["bea"].client.post("/api/undo", json={})
    assert site.webhooks()[-1] == "verdict.undone bea"
    assert site.programs["cai"].listed() == []


def test_what_people_said_of_known_frames_is_told_to_nobody_else(site: Site) -> None:
    for name in ("rolf", "bea"):
        site.say(name, 1, "confirm")
    cat.set_known(site.catalogue, 1, True, actor="ada", now_ns=START)
    verdict = cat.NewVerdict(cat.VerdictKind.CONFIRM, "cai", "0" * 64)
    sampling = cat.Sampling(known_share=1.0, secret=b"s")
    cat.record_verdict(site.catalogue, 2, verdict, now_ns=START, sampling=sampling)
    site.say("cai", 1, "reject")
    with site.catalogue.reading() as session:
        probes = session.scalars(select(cat.Verdict).where(cat.Verdict.probe.is_(True))).all()
        assert [row.reviewer for row in probes] == ["cai"]
    for name, count in (("rolf", 1), ("cai", 2), ("machine", 2)):
        assert site.programs[name].listed().count("cai") == count, name
        assert len([who for _, who in site.programs[name].listen() if who == "cai"]) == count, name
    assert site.webhooks().count("verdict.given cai") == 1


def test_comments_are_told_of_without_their_text(site: Site) -> None:
    rolf, bea = site.programs["rolf"].client, site.programs["bea"].client
    rolf.post("/api/reviews/1/comments", json={"text": "surely a dog"})
    site.say("rolf", 1, "confirm")
    for name, hears in (("rolf", True), ("bea", False), ("ada", False), ("machine", True)):
        client = site.programs[name].client
        (listed,) = client.get("/api/v1/comments").json()["items"]
        single = client.get(f"/api/v1/comments/{listed['id']}").json()
        query = {"after": "start", "seconds": 0, "kind": "comment"}
        (event,) = [
            one for one in parsed(client.get("/api/v1/events", params=query).text) if one.name == "comment"
        ]
        texts = {listed["text"], single["text"], event.data["comment"]["text"]}
        assert texts == {"surely a dog" if hears else None}, name
        assert len(client.get("/api/export/comments.jsonl").text.splitlines()) == hears, name
    history = bea.get("/api/history").json()["entries"]
    assert [one["comment"] for one in history if one["action"] == "comment given"] == [None]
    site.say("bea", 1, "confirm")
    (listed,) = bea.get("/api/v1/comments").json()["items"]
    assert listed["text"] == "surely a dog"


def test_only_an_admin_makes_a_token_that_hears_all(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    made: dict[str, Any] = {"label": "x", "expires_ns": None, "actor": "t", "now_ns": START}
    with pytest.raises(AccountConflict, match="does not reach the scope unsettled"):
        create_token(site.catalogue, "rolf", role=Role.REVIEWER, scopes=[Scope.UNSETTLED], **made)
    url = ["--catalogue", site.catalogue._reader.url.render_as_string(hide_password=False)]
    command = ["tokens", "new", "ada", "--label", "cli", "--role", "admin", "--scope", "unsettled", *url]
    assert main([*command, "--scope", "read"]) == 0
    headers = {"authorization": f"Bearer {capsys.readouterr().out.strip()}"}
    client = site.programs["ada"].client
    site.say("rolf", 1, "confirm")
    assert len(client.get("/api/v1/verdicts", headers=headers).json()["items"]) == 1
    assert client.post("/api/v1/frames/1/review", json={}, headers=headers).status_code == 403
