"""Who may do what: every route by every role, sessions, tokens, log-in limits, TLS and proxies."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi.routing import APIRoute
from sqlalchemy import select
from starlette.routing import Route

from secondlook.cloud.accounts import Role, create_token, passwords, remove_user, set_role
from secondlook.cloud.accounts.login import LoginThrottle
from secondlook.cloud.accounts.passwords import check_password, hash_password, password_fits
from secondlook.cloud.accounts.schema import ApiToken, User, UserSession
from secondlook.cloud.catalogue import Catalogue, open_catalogue
from secondlook.cloud.config import LoginLimits, SessionTimes, StationConfig
from secondlook.cloud.station.access import PUBLIC, RIGHTS, GuardedRoute
from secondlook.cloud.station.app import create_app
from secondlook.cloud.station.server import Certificate, check_certificate
from secondlook.shared.errors import ConfigError, PasswordTooWeak, SecretExposed, TooManyAttempts
from tests.cloud.station.conftest import REAL_HASHER
from tests.cloud.station.people import PASSWORDS, ROLES, add_people, all_routes, as_user, log_in
from tests.cloud.station.seed import SECOND, START, Seeded, seed
from tests.cloud.station.server import serving

HOUR = 3600 * SECOND
LIMITS = LoginLimits(account_attempts=3, address_attempts=6)  # few: each attempt costs a hash


class Clock:
    def __init__(self) -> None:
        self.now_ns = START + HOUR

    def __call__(self) -> int:
        return self.now_ns


STATES = ("ready", "ready", "expired")


@dataclass
class Place:
    """A station with three users, one a role."""

    app: Any
    address: str
    clock: Clock
    seeded: Seeded
    catalogue: Catalogue


@pytest.fixture(scope="module")
def grounds(tmp_path_factory: pytest.TempPathFactory) -> Seeded:
    """A catalogue with users, made once: each hash takes its time."""
    folder = tmp_path_factory.mktemp("grounds")
    seeded = seed(folder, STATES)
    add_people(seeded.catalogue_url)
    return seeded


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, grounds: Seeded, tmp_path: Path) -> Iterator[Place]:
    if request.param == "sqlite":
        shutil.copytree(Path(grounds.blobs_url).parent, tmp_path / "copy")
        seeded = Seeded(f"sqlite:///{tmp_path}/copy/catalogue.db", str(tmp_path / "copy/blobs"))
    else:
        seeded = seed(tmp_path, STATES, catalogue_url=request.getfixturevalue("database_url"))
        add_people(seeded.catalogue_url)
    clock = Clock()
    urls = {"catalogue_url": seeded.catalogue_url, "blobs_url": seeded.blobs_url}
    app = create_app(**urls, login=LIMITS, now_ns=clock)
    catalogue = open_catalogue(seeded.catalogue_url)
    with serving(app) as address:
        yield Place(app, address, clock, seeded, catalogue)
    catalogue.close()


# --- rights


def a_request(method: str, path: str) -> dict[str, Any]:
    """What to send to a route so that its right alone decides; numbers that are nobody's."""
    for name in ("review_id", "frame_id", "verdict_id", "comment_id", "token_id", "number"):
        path = path.replace("{" + name + "}", "99")
    path = path.replace("{version}", "base")
    path = path.replace("{name}", "base" if "/pictures/" in path else "nobody")
    path += "?seconds=0" if path.endswith("/events") else ""  # it would go on for ever
    return {"method": method, "url": path, "json": None if method == "GET" else {}}


def test_every_route_refuses_who_lacks_the_right(place: Place) -> None:
    """Anonymous, a made-up session, a made-up token, and each role below the one that the route asks for."""
    walked: dict[str, Role | None] = {}
    with (
        as_user(place.address, "vera") as vera,
        as_user(place.address, "rolf") as rolf,
        as_user(place.address, "ada") as ada,
        httpx.Client(base_url=place.address, timeout=30) as anonymous,
    ):
        people = {Role.VIEWER: vera, Role.REVIEWER: rolf, Role.ADMIN: ada}
        strangers = (
            {},
            {"cookie": "secondlook=made-up"},
            {"cookie": "__Host-secondlook=made-up"},
            {"authorization": "Bearer slk_made-up"},
            {"authorization": "Bearer"},
        )
        for route in all_routes(place.app):
            if isinstance(route, Route) and route.path == "/static/{name:path}":
                continue  # the pages' own files, which are in every copy of this project
            assert isinstance(route, GuardedRoute), route
            (method,) = route.methods
            right = RIGHTS[f"{method} {route.path}"]
            walked[f"{method} {route.path}"] = right
            if right is PUBLIC or route.path == "/api/logout":
                continue
            request = a_request(method, route.path)
            for headers in strangers:
                answer = anonymous.request(**request, headers=headers)
                if not route.path.startswith(("/api/", "/openapi.json")):
                    wanted = "/login" + ("" if route.path == "/" else f"?next={request['url'][1:]}")
                    assert (answer.status_code, answer.headers["location"]) == (303, wanted)
                else:
                    assert answer.status_code == 401, (request, headers)
                assert "review" not in answer.text
            for role, person in people.items():
                answer = person.request(**request)
                if role.includes(right):
                    assert answer.status_code not in (401, 403), (request, role, answer.text)
                else:
                    assert answer.status_code == 403 and right.value in answer.json()["detail"], (
                        request,
                        role,
                    )
    assert walked == RIGHTS
    assert [path for path, right in RIGHTS.items() if right is PUBLIC] == [
        "GET /healthz",
        "GET /readyz",
        "GET /login",
        "POST /api/login",
    ]


def test_a_route_without_a_right_cannot_be_built() -> None:
    with pytest.raises(KeyError, match="GET /api/forgotten"):
        GuardedRoute("/api/forgotten", lambda: None, methods=["GET"])
    assert issubclass(GuardedRoute, APIRoute)


def test_the_pages_files_are_all_an_anonymous_sees(place: Place) -> None:
    with httpx.Client(base_url=place.address) as anonymous:
        for path in (
            "/login",
            "/static/login.js",
            "/static/station.css",
            "/static/api.js",
            "/static/icon.svg",
        ):
            assert anonymous.get(path).status_code == 200
        for path in ("/static/", "/static/none.js", "/nowhere", "/api/nowhere"):
            assert anonymous.get(path).status_code == 404


# --- names


def shown(client: httpx.Client, review_id: int) -> str:
    return client.get(f"/api/reviews/{review_id}/images/refined").headers["x-content-sha256"]


def confirm(client: httpx.Client, review_id: int, **parts: Any) -> httpx.Response:
    body = {"verdict": "confirm", "shown_sha256": shown(client, review_id), **parts}
    return client.post(f"/api/reviews/{review_id}/verdicts", json=body)


def test_verdicts_carry_the_name_of_who_is_logged_in(place: Place) -> None:
    with as_user(place.address, "rolf") as rolf, as_user(place.address, "ada") as ada:
        assert confirm(rolf, 1, reviewer="ada").status_code == 409
        assert confirm(rolf, 1).json()["verdicts"][0]["reviewer"] == "rolf"
        assert confirm(ada, 2, reviewer="ada").json()["verdicts"][0]["reviewer"] == "ada"
        number = rolf.get("/api/reviews/1").json()["verdicts"][0]["id"]
        assert ada.post(f"/api/verdicts/{number}/undo", json={"reviewer": "rolf"}).status_code == 409
        assert ada.post(f"/api/verdicts/{number}/undo", json={}).status_code == 409
        assert rolf.post("/api/undo", json={}).json()["id"] == 1
        assert rolf.post("/api/reviews/3/retry", json={}).status_code == 200
        entries = ada.get("/api/history").json()["entries"]
    told = [(entry["actor"], entry["action"]) for entry in entries if entry["subject"].startswith("review")]
    assert told[:4] == [
        ("rolf", "review retried"),
        ("rolf", "verdict undone"),
        ("ada", "verdict given"),
        ("rolf", "verdict given"),
    ]


def test_without_users_a_station_on_loopback_asks_nobody(tmp_path: Path) -> None:
    seeded = seed(tmp_path, ("ready",))
    app = create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url)
    with serving(app) as address, httpx.Client(base_url=address, timeout=30) as client:
        assert client.get("/").status_code == 200
        assert client.get("/api/me").json() == {"name": None, "role": "reviewer", "csrf": ""}
        assert confirm(client, 1).status_code == 409  # it must say a name then
        assert confirm(client, 1, reviewer="Ann").json()["verdicts"][0]["reviewer"] == "Ann"
        for path in ("/api/tokens", "/api/password"):
            assert client.post(path, json={"label": "x", "present": "x", "new": "y"}).status_code in (
                409,
                422,
            )
        assert client.get("/api/users").status_code == 403
        # From the first user on nobody is let in without; and so it stays when the last one is removed.
        add_people(seeded.catalogue_url)
        assert client.get("/api/summary").status_code == 401
        catalogue = open_catalogue(seeded.catalogue_url)
        for name in ROLES:
            remove_user(catalogue, name, actor="test", now_ns=START)
        catalogue.close()
        assert client.get("/api/summary").status_code == 401


# --- sessions


def test_cookies_are_out_of_reach_of_scripts_and_other_sites(place: Place) -> None:
    with httpx.Client(base_url=place.address) as client:
        cookie = log_in(client, "vera").headers["set-cookie"].lower()
        assert cookie.startswith("secondlook=") and "httponly" in cookie and "samesite=strict" in cookie
        assert "secure" not in cookie and "domain" not in cookie and "path=/" in cookie
        secret = client.cookies["secondlook"]
        with place.catalogue.reading() as session:
            (stored,) = session.scalars(select(UserSession)).all()
        assert secret not in (stored.secret_sha256, stored.user) and len(secret) >= 43


def test_a_write_needs_the_csrf_token_of_its_session(place: Place) -> None:
    with as_user(place.address, "rolf") as rolf, as_user(place.address, "rolf") as elsewhere:
        body = {"verdict": "confirm", "shown_sha256": shown(rolf, 1)}
        for token in ("", "wrong", "ä", elsewhere.headers["x-csrf-token"]):
            headers = {"x-csrf-token": token.encode()}
            answer = rolf.post("/api/reviews/1/verdicts", json=body, headers=headers)
            assert answer.status_code == 403 and "CSRF" in answer.json()["detail"]
        assert rolf.get("/api/reviews/1").json()["verdicts"] == []
        assert rolf.get("/api/me").json()["csrf"] == rolf.headers["x-csrf-token"]
        assert rolf.post("/api/reviews/1/verdicts", json=body).status_code == 200


def test_logging_out_ends_the_session_on_the_server(place: Place) -> None:
    with as_user(place.address, "vera") as vera:
        secret = vera.cookies["secondlook"]
        assert vera.post("/api/logout", json={}).status_code == 204
        assert "secondlook" not in vera.cookies
        assert vera.get("/api/me", headers={"cookie": f"secondlook={secret}"}).status_code == 401


def test_sessions_end_when_idle_and_at_last(place: Place) -> None:
    """Polling keeps nobody logged in; what a person does, does, but not for ever."""
    times = SessionTimes()
    with as_user(place.address, "vera") as polling, as_user(place.address, "rolf") as working:
        for _ in range(11):
            place.clock.now_ns += 5 * 60 * SECOND
            assert polling.get("/api/summary").status_code == 200
            assert working.get("/api/summary", headers={"x-user-active": "1"}).status_code == 200
        place.clock.now_ns += 5 * 60 * SECOND
        assert polling.get("/api/summary").status_code == 401
        assert working.get("/api/summary", headers={"x-user-active": "1"}).status_code == 200
        while place.clock.now_ns < START + HOUR + times.max_ns - 10 * 60 * SECOND:
            place.clock.now_ns += 10 * 60 * SECOND
            assert working.get("/api/summary", headers={"x-user-active": "1"}).status_code == 200
        place.clock.now_ns += 10 * 60 * SECOND
        assert working.get("/api/summary", headers={"x-user-active": "1"}).status_code == 401
        assert log_in(polling, "vera").status_code == 200
    with place.catalogue.reading() as session:
        assert len(session.scalars(select(UserSession)).all()) == 1  # a log-in sweeps the dead ones out


def test_a_log_in_takes_a_new_secret_and_ends_the_former_session(place: Place) -> None:
    with as_user(place.address, "vera") as client:
        former = client.cookies["secondlook"]
        log_in(client, "rolf")
        assert client.cookies["secondlook"] != former
        assert client.get("/api/me", headers={"cookie": f"secondlook={former}"}).status_code == 401


def test_a_changed_role_holds_at_once(place: Place) -> None:
    with as_user(place.address, "rolf") as rolf:
        set_role(place.catalogue, "rolf", Role.VIEWER, actor="test", now_ns=START)
        assert confirm(rolf, 1).status_code == 403
        remove_user(place.catalogue, "rolf", actor="test", now_ns=START)
        assert rolf.get("/api/me").status_code == 401
        assert log_in(rolf, "rolf").status_code == 401


# --- users by the API


def test_admins_manage_users(place: Place) -> None:
    with as_user(place.address, "ada") as ada, httpx.Client(base_url=place.address, timeout=30) as other:
        new = {"name": "nina", "role": "viewer", "password": "nothing to see"}
        assert ada.post("/api/users", json=new).status_code == 204
        assert ada.post("/api/users", json=new).status_code == 409
        assert ada.post("/api/users", json={**new, "name": "nora", "password": "short"}).status_code == 422
        assert ada.post("/api/users", json={**new, "name": "No Ra"}).status_code == 422
        assert log_in(other, "nina", "nothing to see").json()["role"] == "viewer"
        assert ada.post("/api/users/nina/role", json={"role": "reviewer"}).status_code == 204
        assert other.get("/api/me").json()["role"] == "reviewer"
        assert ada.post("/api/users/nina/password", json={"password": "a new beginning"}).status_code == 204
        assert other.get("/api/me").status_code == 401
        assert log_in(other, "nina", "a new beginning").status_code == 200
        assert ada.post("/api/users/nina/remove", json={}).status_code == 204
        assert other.get("/api/me").status_code == 401
        assert ada.post("/api/users", json=new).status_code == 409  # the name stays hers
        listed = {user["name"]: user["removed"] for user in ada.get("/api/users").json()}
        assert listed == {"ada": False, "nina": True, "rolf": False, "vera": False}
        trail = ada.get("/api/history").text
    assert "user added" in trail and "user removed" in trail and "password changed" in trail
    assert "nothing to see" not in trail and "argon2" not in trail


def test_people_change_their_own_password(place: Place) -> None:
    with as_user(place.address, "vera") as vera, as_user(place.address, "vera") as elsewhere:
        change = {"present": "not the one", "new": "another fine day"}
        assert vera.post("/api/password", json=change).status_code == 409
        change["present"] = PASSWORDS["vera"]
        assert vera.post("/api/password", json={**change, "new": "too short"}).status_code == 422
        assert vera.post("/api/password", json=change).status_code == 204
        assert elsewhere.get("/api/me").status_code == 401
        assert log_in(vera, "vera").status_code == 401
        assert log_in(vera, "vera", "another fine day").status_code == 200


# --- tokens


def test_tokens_act_for_their_user_with_no_more_than_its_role(place: Place) -> None:
    with as_user(place.address, "rolf") as rolf, httpx.Client(base_url=place.address, timeout=30) as program:
        assert rolf.post("/api/tokens", json={"label": "x", "role": "admin"}).status_code == 409
        made = rolf.post("/api/tokens", json={"label": "export", "role": "viewer", "days": 30}).json()
        program.headers["authorization"] = f"Bearer {made['token']}"
        assert program.get("/api/me").json()["name"] == "rolf"
        assert confirm(program, 1).status_code == 403
        strong = rolf.post("/api/tokens", json={"label": "bot", "role": "reviewer"}).json()["token"]
        program.headers["authorization"] = f"Bearer {strong}"
        assert confirm(program, 1).json()["verdicts"][0]["reviewer"] == "rolf"  # no cookie, so no CSRF token
        # A token cannot make another one, nor change the password.
        assert program.post("/api/tokens", json={"label": "more"}).status_code == 409
        set_role(place.catalogue, "rolf", Role.VIEWER, actor="test", now_ns=START)
        assert confirm(program, 2).status_code == 403
        assert "token" not in rolf.get("/api/tokens").json()[0]
        with place.catalogue.reading() as session:
            assert not [
                t for t in session.scalars(select(ApiToken)) if t.secret_sha256 in (strong, made["token"])
            ]


def test_tokens_end(place: Place) -> None:
    with as_user(place.address, "rolf") as rolf, as_user(place.address, "vera") as vera:
        made = rolf.post("/api/tokens", json={"label": "a", "role": "viewer", "days": 1}).json()
        headers = {"authorization": f"Bearer {made['token']}"}
        with httpx.Client(base_url=place.address, headers=headers) as program:
            assert program.get("/api/me").status_code == 200
            assert vera.post(f"/api/tokens/{made['id']}/revoke", json={}).status_code == 404  # not hers
            place.clock.now_ns += 24 * HOUR
            assert program.get("/api/me").status_code == 401
    id_, token = create_token(
        place.catalogue, "rolf", label="b", role=Role.VIEWER, expires_ns=None, actor="test", now_ns=START
    )
    with httpx.Client(base_url=place.address, headers={"authorization": f"Bearer {token}"}) as program:
        assert program.get("/api/me").status_code == 200
        with as_user(place.address, "rolf") as rolf:
            assert rolf.post(f"/api/tokens/{id_}/revoke", json={}).status_code == 204
        assert program.get("/api/me").status_code == 401
    # A bad token is not made good by a cookie beside it.
    with as_user(place.address, "rolf") as rolf:
        assert rolf.get("/api/me", headers={"authorization": f"Bearer {token}"}).status_code == 401


# --- logging in


def test_a_refusal_tells_no_name(place: Place) -> None:
    with httpx.Client(base_url=place.address, timeout=30) as client:
        wrong, unknown = (
            log_in(client, "vera", "not my password"),
            log_in(client, "nobody", "not my password"),
        )
        assert (wrong.status_code, wrong.text) == (unknown.status_code, unknown.text)
        assert wrong.status_code == 401 and "set-cookie" not in wrong.headers


@pytest.fixture
def real_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parameters of production."""
    monkeypatch.setattr(passwords, "_HASHER", REAL_HASHER)


@pytest.mark.usefixtures("real_hashes")
def test_names_nobody_has_take_as_long() -> None:
    """The work is the same: one Argon2 hash either way."""
    stored = hash_password("correct horse battery")

    def seconds(value: str) -> float:
        began = time.process_time()
        assert not password_fits(value, "some other password")
        return time.process_time() - began

    seconds("")  # makes nobody's hash
    known, unknown = (min(seconds(value) for _ in range(3)) for value in (stored, ""))
    assert 0.5 < known / unknown < 2


def test_log_ins_are_limited_by_name_and_address_and_by_address() -> None:
    limits = LoginLimits(account_attempts=3, account_seconds=60, address_attempts=5, address_seconds=10)
    throttle = LoginThrottle(limits)
    for _ in range(3):
        throttle.attempt("ann", "192.0.2.1", now=0)
    with pytest.raises(TooManyAttempts, match="60 s"):
        throttle.attempt("ann", "192.0.2.1", now=0)
    throttle.attempt("ann", "192.0.2.2", now=0)  # nobody keeps her out from elsewhere
    throttle.attempt("bob", "192.0.2.1", now=0)
    throttle.attempt("eve", "192.0.2.1", now=0)
    with pytest.raises(TooManyAttempts, match="10 s"):
        throttle.attempt("joe", "192.0.2.1", now=0)
    throttle.attempt("ann", "192.0.2.1", now=60)
    with pytest.raises(TooManyAttempts):
        throttle.attempt("ann", "192.0.2.1", now=60)
    # What was right does not count.
    for _ in range(20):
        throttle.attempt("joe", "192.0.2.9", now=0)
        throttle.succeeded("joe", "192.0.2.9", now=0)
    # An IPv6 network counts as one address.
    for number in range(5):
        throttle.attempt(f"u{number}", f"2001:db8::{number}", now=0)
    with pytest.raises(TooManyAttempts):
        throttle.attempt("u9", "2001:db8::9", now=0)
    throttle.attempt("u9", "2001:db8:1::9", now=0)


def test_a_name_that_is_guessed_from_everywhere_is_open_to_where_it_logged_in_before() -> None:
    throttle = LoginThrottle(LoginLimits(name_attempts=20, name_seconds=60))
    throttle.attempt("ann", "192.0.2.1", now=0)
    throttle.succeeded("ann", "192.0.2.1", now=0)
    for number in range(20):
        throttle.attempt("ann", f"198.51.100.{number}", now=0)
    with pytest.raises(TooManyAttempts) as refusal:
        throttle.attempt("ann", "198.51.100.99", now=0)
    assert refusal.value.wait_seconds == 60
    throttle.attempt("ann", "192.0.2.1", now=0)


def test_ten_wrong_passwords_from_elsewhere_keep_nobody_out(place: Place) -> None:
    app = exposed_app(place, ("127.0.0.1",))
    with serving(app) as address, httpx.Client(base_url=address, timeout=30) as client:
        client.headers.update({"x-forwarded-proto": "https", "x-forwarded-for": "198.51.100.7"})
        wrong = [log_in(client, "vera", "wrong password!") for _ in range(10)]
        assert wrong[-1].status_code == 429 and int(wrong[-1].headers["retry-after"]) > 0
        client.headers["x-forwarded-for"] = "192.0.2.7"
        assert log_in(client, "vera").status_code == 200


def test_too_many_wrong_passwords_are_answered_429(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    with httpx.Client(base_url=place.address, timeout=30) as client:
        wrong = [log_in(client, "vera", "wrong password!").status_code for _ in range(4)]
        assert wrong == [401] * 3 + [429]
        assert log_in(client, "vera").status_code == 429  # the right one has to wait too
        assert log_in(client, "rolf").status_code == 200
        place.clock.now_ns += 60 * SECOND
        assert log_in(client, "vera").status_code == 200
    assert "wrong password!" not in caplog.text and "vera" not in caplog.text


def test_passwords_have_a_least_length_and_some_variety() -> None:
    for password in ("short", "x" * 257, "aaaaaaaaaaaaaaa", "i am vera, hello", "abababababab"):
        with pytest.raises(PasswordTooWeak):
            check_password("vera", password)
    check_password("vera", "twelve chars")
    # However the keyboard composed it.
    assert password_fits(hash_password("café in the rain"), "café in the rain")


def test_argon2_hashes_are_stored_and_renewed(place: Place, real_hashes: None) -> None:
    """A hash made with less (`place` was made before `real_hashes`) is made anew at the next log-in."""
    with httpx.Client(base_url=place.address, timeout=60) as client:
        assert log_in(client, "vera").status_code == 200
    with place.catalogue.reading() as session:
        hashes = {user.name: user.password_hash for user in session.scalars(select(User))}
    assert hashes["vera"].startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert hashes["rolf"].startswith("$argon2id$v=19$m=64,t=1,p=1$")


# --- beyond loopback


def test_a_station_that_faces_a_network_needs_users_and_tls(tmp_path: Path) -> None:
    for exposed in ({"host": "0.0.0.0"}, {"host": "::"}, {"allowed_hosts": ("review.example",)}):
        with pytest.raises(ConfigError, match="tls_certificate_file"):
            StationConfig(**exposed)
        assert StationConfig(**exposed, trusted_proxies=("10.0.0.0/8",)).is_exposed
    assert not StationConfig().is_exposed
    with pytest.raises(ConfigError, match="go together"):
        StationConfig(tls_key_file=Path("key.pem"))
    with pytest.raises(ConfigError, match="neither an address nor a network"):
        StationConfig(trusted_proxies=("proxy.example",))
    seeded = seed(tmp_path, ())
    with pytest.raises(ConfigError, match="users add"):
        create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url, exposed=True)


def exposed_app(place: Place, proxies: tuple[str, ...]) -> Any:
    return create_app(
        catalogue_url=place.seeded.catalogue_url,
        blobs_url=place.seeded.blobs_url,
        exposed=True,
        trusted_proxies=proxies,
        login=LoginLimits(address_attempts=3),
    )


def test_a_trusted_proxy_says_who_asks_and_how(place: Place) -> None:
    app = exposed_app(place, ("127.0.0.1",))
    with serving(app) as address, httpx.Client(base_url=address, timeout=30) as client:
        assert client.get("/login").status_code == 403  # past the proxy, in the clear
        client.headers.update({"x-forwarded-proto": "https", "x-forwarded-for": "192.0.2.7"})
        page = client.get("/login")
        assert page.status_code == 200 and "max-age" in page.headers["strict-transport-security"]
        cookie = log_in(client, "vera").headers["set-cookie"].lower()
        assert cookie.startswith("__host-secondlook=") and "secure" in cookie
        wrong = [log_in(client, f"u{n}", "wrong password!").status_code for n in range(4)]
        assert wrong == [401, 401, 401, 429]
        client.headers["x-forwarded-for"] = "192.0.2.8"
        assert log_in(client, "rolf").status_code == 200


def test_forwarded_headers_of_strangers_count_for_nothing(place: Place) -> None:
    app = exposed_app(place, ("192.0.2.1",))
    with serving(app) as address, httpx.Client(base_url=address) as client:
        assert client.get("/login", headers={"x-forwarded-proto": "https"}).status_code == 403
    with httpx.Client(base_url=place.address, timeout=30) as client:
        for number in range(LIMITS.address_attempts + 1):
            client.headers["x-forwarded-for"] = f"198.51.100.{number}"
            answer = client.post("/api/login", json={"name": f"u{number}", "password": "wrong password!"})
        assert answer.status_code == 429


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl on PATH")
    folder = tmp_path_factory.mktemp("tls")
    command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    names = "subjectAltName=IP:127.0.0.1,DNS:localhost"
    subprocess.run(
        [openssl, *command.split(), "-addext", names, "-keyout", "key.pem", "-out", "chain.pem"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    (folder / "key.pem").chmod(0o600)
    return Certificate(folder / "chain.pem", folder / "key.pem")


def test_tls_by_flags(place: Place, certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server as `secondlook station` runs it, but for the thread and its end."""
    from secondlook.cloud.station.server import serve

    servers: list[uvicorn.Server] = []
    run = uvicorn.Server.run
    monkeypatch.setattr(
        uvicorn.Server, "run", lambda self, sockets: (servers.append(self), run(self, sockets=sockets))
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=serve, args=(exposed_app(place, ()), listener, certificate))
        thread.start()
        try:
            while not (servers and servers[0].started):
                time.sleep(0.01)
            trusted = ssl.create_default_context(cafile=certificate.chain_file)
            with as_user(f"https://127.0.0.1:{port}", "vera", verify=trusted) as vera:
                answer = vera.get("/api/summary")
                assert answer.status_code == 200 and "server" not in answer.headers
                assert "max-age" in answer.headers["strict-transport-security"]
                assert list(vera.cookies) == ["__Host-secondlook"]
            with pytest.raises(httpx.RemoteProtocolError):
                httpx.get(f"http://127.0.0.1:{port}/login")
        finally:
            servers[0].should_exit = True
            thread.join(10)


def test_bad_certificates_are_named(certificate: Certificate, tmp_path: Path) -> None:
    check_certificate(certificate)
    with pytest.raises(ConfigError, match="none"):
        check_certificate(Certificate(certificate.chain_file, tmp_path / "none.pem"))
    text = tmp_path / "text.pem"
    text.write_text("no key")
    text.chmod(0o600)
    with pytest.raises(ConfigError, match="text"):
        check_certificate(Certificate(certificate.chain_file, text))
    text.chmod(0o644)
    with pytest.raises(SecretExposed, match="chmod 600"):
        check_certificate(Certificate(certificate.chain_file, text))


def test_nothing_of_a_log_in_is_sent_back(place: Place) -> None:
    with httpx.Client(base_url=place.address, timeout=30) as client:
        body = json.dumps({"name": "vera", "password": ["secret text"]})
        answer = client.post("/api/login", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 422 and "secret text" not in answer.text
