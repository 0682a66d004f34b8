"""Every string that the API takes, with characters that no text may hold: refused, never an error of the station."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secondlook.cloud.station.app import create_app
from secondlook.cloud.station.classes import spellings_of
from secondlook.shared.texts import class_key, class_name, has_control
from tests.cloud.station.people import PASSWORDS, add_people, log_in
from tests.cloud.station.seed import seed
from tests.cloud.station.server import client_of

BAD = ("a\0b", "\0", "a\x1bb", "a\x7fb", "a\x9fb", "half \ud800 pair", "\ufffe", "line\u2028end")
SHA = "0" * 64

# A body for each route that takes one; what follows puts bad text in the place of each string.
BODIES: dict[str, dict[str, Any]] = {
    "/api/login": {"name": "vera", "password": "viewers look on"},
    "/api/reviews/1/verdicts": {
        "reviewer": "ada",
        "verdict": "wrong_class",
        "shown_sha256": SHA,
        "label": "cat",
        "box_index": 0,
        "note": "x",
        "idempotency_key": "12345678",
    },
    "/api/reviews/1/retry": {"reviewer": "ada"},
    "/api/undo": {"reviewer": "ada"},
    "/api/reviews/1/comments": {"reviewer": "ada", "text": "what is it?"},
    "/api/comments/1/delete": {"reviewer": "ada"},
    "/api/reviews/1/handover": {"reviewer": "ada", "to": "rolf", "comment": "for you"},
    "/api/verdicts/1/undo": {"reviewer": "ada"},
    "/api/password": {"present": PASSWORDS["ada"], "new": "a good new one"},
    "/api/tokens": {"label": "export", "role": "viewer"},
    "/api/users": {"name": "nina", "role": "viewer", "password": "nothing to see"},
    "/api/users/vera/role": {"role": "viewer"},
    "/api/users/vera/password": {"password": "nothing to see"},
}
PLACES = [(path, name) for path, body in BODIES.items() for name in body if isinstance(body[name], str)]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def client(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """An admin who is logged in."""
    url = None
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql").create("strings")
    seeded = seed(tmp_path_factory.mktemp("station"), ("ready", "expired"), catalogue_url=url)
    add_people(seeded.catalogue_url)
    with client_of(create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url)) as client:
        log_in(client, "ada")
        yield client


def sent(client: httpx.Client, path: str, body: dict[str, Any]) -> httpx.Response:
    # httpx would refuse half a surrogate pair; JSON can write one.
    text = json.dumps(body, ensure_ascii=True)
    return client.post(path, content=text, headers={"content-type": "application/json"})


@pytest.mark.parametrize(("path", "name"), PLACES)
def test_control_characters_are_refused_in_every_string(client: httpx.Client, path: str, name: str) -> None:
    for bad in BAD:
        answer = sent(client, path, {**BODIES[path], name: bad})
        assert answer.status_code in ((401, 422) if path == "/api/login" else (422,)), (bad, answer.text)
        assert {"loc", "msg"} == set(answer.json()["detail"][0])


def test_a_field_nobody_knows_may_have_any_name(client: httpx.Client) -> None:
    for path, body in BODIES.items():
        for bad in BAD:
            assert sent(client, path, {**body, bad: bad}).status_code == 422


@pytest.mark.parametrize(
    "path",
    [
        "/api/users/a%00b/remove",
        "/api/reviews/%00",
        "/api/reviews/1/images/%00",
        "/api/reviews?filter=a%00b",
        "/api/history?before=%00",
        "/static/%00",
        "/static/a%00b.js",
        "/%00",
        "/api/%ff%fe",
    ],
)
def test_paths_may_hold_anything(client: httpx.Client, path: str) -> None:
    for method in ("GET", "POST", "HEAD"):
        content = "{}" if method == "POST" else None
        headers = {"content-type": "application/json"}
        assert client.request(method, path, content=content, headers=headers).status_code in (404, 405, 422)


def test_headers_may_hold_anything(client: httpx.Client) -> None:
    odd = "ä\xff\x80".encode("latin-1")
    for name in (
        "authorization",
        "cookie",
        "x-csrf-token",
        "host",
        "origin",
        "if-none-match",
        "content-type",
    ):
        for value in (odd, b"Bearer " + odd, b"secondlook=" + odd):
            answer = client.post("/api/undo", content=b"{}", headers={name: value})
            assert 400 <= answer.status_code < 500, (name, value)


def test_notes_have_lines(client: httpx.Client) -> None:
    picture = client.get("/api/reviews/2/images/base").headers["x-content-sha256"]
    body = {"verdict": "confirm", "shown_sha256": picture, "note": "one\r\ntwo\n\tthree"}
    answer = sent(client, "/api/reviews/2/verdicts", body)
    assert answer.json()["verdicts"][0]["note"] == "one\ntwo\n\tthree"


texts = st.text(st.characters(codec=None), max_size=80)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=40)
@given(place=st.sampled_from(PLACES), text=texts)
def test_no_text_makes_the_station_fail(client: httpx.Client, place: tuple[str, str], text: str) -> None:
    path, name = place
    if path in ("/api/password", "/api/users/vera/password", "/api/login"):
        return  # each costs a hash, and the limits of log-ins would answer; the table above covers them
    answer = sent(client, path, {**BODIES[path], name: text})
    assert answer.status_code < 500, answer.text


@given(texts)
def test_class_names_are_stable(text: str) -> None:
    try:
        name = class_name(text)
    except ValueError:
        return
    assert class_name(name) == name and 1 <= len(name) <= 64 and not has_control(name)
    assert class_key(class_key(name)) == class_key(name)
    assert class_key(name.upper()) == class_key(name.upper().lower())


@pytest.mark.parametrize(
    ("typed", "stored"),
    [
        ("Person", "Person"),
        ("cafe\u0301", "café"),
        ("人", "人"),
        ("  hot   dog ", "hot dog"),
        ("نیم\u200cفاصله", "نیم\u200cفاصله"),
        ("<b>&amp;", "<b>&amp;"),
    ],
)
def test_a_class_may_have_any_printable_name(typed: str, stored: str) -> None:
    assert class_name(typed) == stored


@pytest.mark.parametrize("typed", ["", "  ", "x" * 65, "a\tb", "a\u202eb", "a\u200bb", "\ud800", "\ue000"])
def test_what_cannot_be_seen_names_no_class(typed: str) -> None:
    with pytest.raises(ValueError):
        class_name(typed)


def test_the_first_source_has_the_spelling() -> None:
    assert spellings_of({"Hardhat"}, {"hardhat", "Sofa"}, {"SOFA", "STRASSE"}, {"Straße"}) == {
        "hardhat": "Hardhat",
        "sofa": "Sofa",
        "strasse": "STRASSE",
    }
