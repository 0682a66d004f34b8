"""Where a station can be: beside another one, below a folder of a proxy, on a port that the proxy does not name."""

from __future__ import annotations

import http.server
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest

from secondlook.cloud.config import StationConfig, parse_origin
from secondlook.cloud.station.app import create_app
from secondlook.shared.errors import ConfigError
from tests.cloud.station.browser import Browser, find_chromium
from tests.cloud.station.people import PASSWORDS, add_people, log_in
from tests.cloud.station.seed import seed
from tests.cloud.station.server import serving

PROGRAM = find_chromium()


def made(folder: Path, **settings: Any) -> Any:
    folder.mkdir()
    seeded = seed(folder, ("ready", "ready"))
    add_people(seeded.catalogue_url)
    return create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url, **settings)


# --- beside another one


def test_two_stations_on_one_host_log_nobody_out(tmp_path: Path) -> None:
    names = [StationConfig().instance(port) for port in (7600, 7601)]
    with ExitStack() as stack:
        one, two = (stack.enter_context(serving(made(tmp_path / name, instance=name))) for name in names)
        browser = stack.enter_context(httpx.Client(timeout=30))  # cookies go to all ports of a host
        for address in (one, two):
            answer = browser.post(
                f"{address}/api/login", json={"name": "vera", "password": PASSWORDS["vera"]}
            )
            assert answer.status_code == 200
        assert [browser.get(f"{address}/api/me").status_code for address in (one, two)] == [200, 200]
        assert sorted(browser.cookies) == ["secondlook-7600", "secondlook-7601"]


def test_a_cookie_is_named_by_port_and_folder_or_as_told() -> None:
    assert StationConfig(root_path="/sites/north").instance(7600) == "7600-sites-north"
    assert StationConfig(cookie="north").instance(7600) == "north"
    for wrong in (
        {"cookie": "a b"},
        {"root_path": "review"},
        {"root_path": "/review/"},
        {"root_path": "/a//b"},
    ):
        with pytest.raises(ConfigError):
            StationConfig(**wrong)


# --- HEAD


def test_head_is_answered_like_get_without_the_body(tmp_path: Path) -> None:
    with serving(made(tmp_path / "a")) as address, httpx.Client(base_url=address, timeout=30) as client:
        assert client.head("/").status_code == 303
        assert client.head("/api/summary").status_code == 401
        log_in(client, "vera")
        for path in (
            *("/", "/login", "/docs", "/static/main.js", "/openapi.json", "/api/summary", "/api/reviews/1"),
            *("/api/reviews/1/images/refined", "/api/export/coco.json", "/api/export/verdicts.jsonl"),
            *("/nowhere", "/api/reviews/99"),
        ):
            head, get = client.head(path), client.get(path)
            assert (head.status_code, head.content) == (get.status_code, b""), path
            same = ("content-type", "content-length", "etag", "x-content-sha256", "content-disposition")
            assert [head.headers.get(name) for name in same] == [get.headers.get(name) for name in same]
        assert client.head("/api/undo").status_code == 405


# --- what stays in caches


def test_pictures_and_data_stay_in_no_cache(tmp_path: Path) -> None:
    with serving(made(tmp_path / "a")) as address, httpx.Client(base_url=address, timeout=30) as client:
        log_in(client, "vera")
        for path in ("/api/reviews/1/images/refined", "/api/reviews/1", "/api/me", "/api/export/coco.json"):
            assert client.get(path).headers["cache-control"] == "no-store", path
        assert client.get("/static/main.js").headers["cache-control"] == "no-cache"


# --- origins


@pytest.mark.parametrize(
    ("origins", "origin", "status"),
    [
        ((), "https://review.example.org:8443", 403),
        (("https://review.example.org:8443",), "https://review.example.org:8443", 401),
        (("https://review.example.org:8443",), "https://review.example.org:9999", 403),
        (("https://review.example.org:8443",), "http://review.example.org:8443", 403),
        (("https://review.example.org:8443",), "https://evil.example", 403),
        ((), "https://review.example.org", 401),
    ],
)
def test_a_proxy_that_leaves_the_port_out_of_host(
    tmp_path: Path, origins: tuple[str, ...], origin: str, status: int
) -> None:
    """As nginx' ``proxy_set_header Host $host`` does."""
    app = made(tmp_path / "a", allowed_hosts=["review.example.org"], origins=origins)
    with serving(app) as address:
        headers = {"host": "review.example.org", "origin": origin, "sec-fetch-site": "same-origin"}
        answer = httpx.post(f"{address}/api/undo", json={}, headers=headers)
    assert answer.status_code == status, answer.text


def test_origins_are_read_as_browsers_write_them() -> None:
    assert parse_origin("https://Review.example.org:8443/") == "https://review.example.org:8443"
    assert parse_origin("http://[::1]:80") == "http://[::1]:80"
    for wrong in (
        "review.example.org",
        "https://",
        "https://a/b",
        "https://me@a",
        "ftp://a",
        "https://a:x",
        "*",
    ):
        with pytest.raises(ConfigError):
            StationConfig(origins=(wrong,))


# --- below a folder


class Proxy(http.server.BaseHTTPRequestHandler):
    """Shows the station below a folder, with or without that folder in what it asks for."""

    protocol_version = "HTTP/1.1"
    target: ClassVar[str]
    strips: ClassVar[bool]

    def answer(self) -> None:
        path = self.path
        if not path.startswith("/review"):
            self.send_error(404)
            return
        path = path.removeprefix("/review") if self.strips else path
        length = int(self.headers.get("content-length") or 0)
        request = urllib.request.Request(
            self.target + path,
            data=self.rfile.read(length) if length else None,
            headers=dict(self.headers),
            method=self.command,
        )
        opener = urllib.request.build_opener(_NoRedirect)
        try:
            answer: Any = opener.open(request, timeout=30)
        except urllib.error.HTTPError as error:
            answer = error
        body = answer.read()
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date"):
                self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_POST = do_HEAD = answer

    def log_message(self, *_: object) -> None:
        pass


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


@contextmanager
def proxied(target: str, *, strips: bool) -> Iterator[str]:
    handler = type("Handler", (Proxy,), {"target": target, "strips": strips})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("strips", [True, False])
def test_a_station_below_a_folder(tmp_path: Path, strips: bool) -> None:
    app = made(tmp_path / "a", root_path="/review")
    with ExitStack() as stack:
        address = stack.enter_context(proxied(stack.enter_context(serving(app)), strips=strips))
        client = stack.enter_context(httpx.Client(base_url=address, timeout=30))
        if not strips:
            assert client.get("/review").headers["location"] == "/review/"
        assert client.get("/review/").headers["location"] == "/review/login"
        assert log_in(client, "vera").status_code == 404  # not at the root
        answer = client.post("/review/api/login", json={"name": "rolf", "password": PASSWORDS["rolf"]})
        client.headers["x-csrf-token"] = answer.json()["csrf"]
        assert client.get("/review/api/summary").status_code == 200
        data = client.get("/review/api/export/coco.json", params={"undecided": True}).json()
        assert client.get(data["images"][0]["station_path"]).headers["content-type"] == "image/webp"
        spec = client.get("/review/openapi.json").json()
        assert spec["servers"] == [{"url": "/review"}]


@pytest.mark.skipif(PROGRAM is None, reason="no Chromium on PATH")
@pytest.mark.timeout(180)
@pytest.mark.parametrize("strips", [True, False])
def test_the_page_works_below_a_folder(tmp_path: Path, strips: bool) -> None:
    app = made(tmp_path / "a", root_path="/review")
    assert PROGRAM is not None
    with ExitStack() as stack:
        address = stack.enter_context(proxied(stack.enter_context(serving(app)), strips=strips))
        browser = Browser(PROGRAM, tmp_path / "profile")
        stack.callback(browser.close)
        browser.call("Page.navigate", url=f"{address}/review/")
        browser.wait_for("location.pathname === '/review/login' && document.activeElement?.id === 'name'", 30)
        browser.wait_for("document.getElementById('submit').disabled === false")
        browser.type("rolf")
        browser.press("Tab")
        browser.type(PASSWORDS["rolf"])
        browser.press("Enter")
        browser.wait_for("document.getElementById('tag-right')?.textContent === 'Refined'", 30)
        browser.press("a")
        browser.wait_for("document.querySelector('.row[aria-current]')?.dataset.id === '2'")
        browser.wait_for("document.getElementById('unsaved').hidden")
        verdicts = "fetch('/review/api/reviews/1').then((r) => r.json()).then((r) => r.verdicts.length)"
        assert browser.run(verdicts) == 1
        links = "[...document.querySelectorAll('a[href]')].map((a) => new URL(a.href).pathname)"
        assert all(path.startswith("/review/") for path in browser.run(links))
        browser.call("Page.navigate", url=f"{address}/review/docs")
        browser.wait_for("document.querySelectorAll('#operations details').length > 10")
        browser.call("Page.navigate", url=f"{address}/review/")
        browser.wait_for(
            "document.getElementById('logout') !== null && !document.getElementById('account-menu').hidden"
        )
        browser.run("document.getElementById('logout').click()")
        browser.wait_for("location.pathname === '/review/login'")
