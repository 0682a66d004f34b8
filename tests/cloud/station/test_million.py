"""A million frames and 100,000 reviews: how long lists, the page, a verdict and figures take, on both databases.

With ``-s`` it prints the table of docs/station.md. What is asked are whole requests to a station on a socket of this
machine, one after the other; ``SECONDLOOK_FRAMES`` makes it fewer frames, to look at plans of queries.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine, text

from secondlook.cloud import catalogue as cat
from secondlook.cloud.catalogue.schema import table_of
from secondlook.cloud.station.app import create_app
from secondlook.cloud.storage.blobs import image_key, open_blobs
from tests.cloud.station.browser import Browser, find_chromium
from tests.cloud.station.many import fill
from tests.cloud.station.pages import say_name
from tests.cloud.station.seed import SECOND, START, _picture, drawn_scene
from tests.cloud.station.server import serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

COUNT = int(os.environ.get("SECONDLOOK_FRAMES", "1_000_000"))
LIST_MS, PAGE_MS, VERDICT_MS = 200, 1000, 100
REPORT_MS = 10_000  # agreement over 20,000 opinions: a page for once in a while
SLACK = 2.0  # on a machine that does other things besides
READY = 300

Asked = tuple[str, dict[str, Any]]
FRAMES: dict[str, Asked] = {
    "frames": ("/api/frames", {}),
    "frames, from the middle": ("/api/frames", {"before": f"{START + COUNT // 2 * SECOND}.{COUNT // 2}"}),
    "frames of a camera": ("/api/frames", {"camera": "edge-7"}),
    "frames with a class": ("/api/frames", {"label": "car"}),
    "frames with a rare class": ("/api/frames", {"label": "fox"}),
    "a class that a camera never saw": ("/api/frames", {"label": "car", "camera": "edge-7"}),
    "frames by score": ("/api/frames", {"min_score": 0.99}),
    "a score that there is not": ("/api/frames", {"min_score": 0.9999}),
    "frames by verdict": ("/api/frames", {"verdict": "confirm"}),
    "frames by a rare verdict": ("/api/frames", {"verdict": "unsure"}),
    "frames by reason": ("/api/frames", {"reason": "audit"}),
    "frames by a rare reason": ("/api/frames", {"reason": "rule"}),
    "class and verdict, none": ("/api/frames", {"label": "person", "verdict": "confirm"}),
    "verdict, camera and class": (
        "/api/frames",
        {"verdict": "reject", "camera": "edge-0", "label": "car", "min_score": 0.5},
    ),
}
REVIEWS: dict[str, Asked] = {
    "open reviews": ("/api/reviews", {"reviewer": "Ann", "limit": 200}),
    "open reviews, alike": ("/api/reviews", {"reviewer": "Ann", "order": "alike", "limit": 20}),
    "open reviews, surest": ("/api/reviews", {"reviewer": "Ann", "order": "surest"}),
    "decided reviews": ("/api/reviews", {"filter": "decided", "reviewer": "Ann"}),
    "decided reviews, oldest": ("/api/reviews", {"filter": "decided", "order": "oldest"}),
    "decided reviews, least sure": ("/api/reviews", {"filter": "decided", "order": "least sure"}),
    "decided reviews of a class": ("/api/reviews", {"filter": "decided", "label": "car"}),
    "decided reviews of a rare class": ("/api/reviews", {"filter": "decided", "label": "fox"}),
    "decided reviews by a rare reason": ("/api/reviews", {"filter": "decided", "reason": "rule"}),
}
OTHERS: dict[str, Asked] = {
    "station": ("/api/station", {}),
    "summary": ("/api/summary", {"reviewer": "Ann"}),
    "history": ("/api/history", {"people": True, "reviewer": "Ann"}),
    "history of one person": ("/api/history", {"actor": "Bea", "reviewer": "Ann"}),
    "cameras": ("/api/cameras", {}),
    "a camera's day": ("/api/cameras/edge-7/timeline", {}),
    "one's day": ("/api/figures/day", {"reviewer": "Ann"}),
    "the detector": ("/api/figures/detector", {}),
    "changes": ("/api/export/changes", {"since": "2026-09-20T00:00:00Z"}),
    "API: detections of a class": ("/api/v1/detections", {"label": "fox"}),
    "API: verdicts": ("/api/v1/verdicts", {"order": "newest"}),
}
LISTS = {**FRAMES, **REVIEWS, **OTHERS}


def least(ask: Callable[[], object], times: int = 5) -> float:
    """Milliseconds, the quickest of some."""
    took = []
    for _ in range(times):
        start = time.perf_counter()
        ask()
        took.append((time.perf_counter() - start) * 1000)
    return min(took)


def open_some(catalogue: cat.Catalogue, blobs_url: str, count: int) -> None:
    """Let the last reviews be ready to be judged, with a picture each."""
    blobs, data = open_blobs(blobs_url), _picture(drawn_scene(1), 0)
    reviews = COUNT // 10
    last = range(reviews - count + 1, reviews + 1)
    with catalogue.writing() as session:
        for kind in (cat.Verdict, cat.JudgedBox, cat.DoubleReview, cat.Opinion):
            table = table_of(kind)
            session.execute(table.delete().where(table.c.review_id.in_(last)))
        table = table_of(cat.Review)
        for id_ in last:
            key = image_key(id_, "refined")
            blobs.put(key, data)
            images = {"base_image": key, "enhanced_image": key, "refined_image": key}
            session.execute(table.update().where(table.c.id == id_).values(state="ready", **images))


@pytest.fixture
def filled(catalogue_url: str, tmp_path: Path) -> str:
    """The catalogue's address."""
    catalogue = cat.open_catalogue(catalogue_url)
    fill(catalogue, COUNT)
    open_some(catalogue, str(tmp_path / "blobs"), READY)
    catalogue.close()
    if catalogue_url.startswith("postgresql"):
        # As the server does by itself once in a while. Nobody does so for SQLite: it has no figures of its tables.
        engine = create_engine(catalogue_url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text("VACUUM ANALYZE"))
        engine.dispose()
    return catalogue_url


def test_a_million_frames(filled: str, tmp_path: Path) -> None:
    now = START + (COUNT + 60) * SECOND
    app = create_app(
        catalogue_url=filled,
        blobs_url=str(tmp_path / "blobs"),
        double_share=0.1,
        known_share=0.1,
        now_ns=lambda: now + time.monotonic_ns(),
    )
    took: dict[str, float] = {}
    with serving(app) as address, httpx.Client(base_url=address, timeout=120) as client:
        for name, (path, params) in LISTS.items():
            took[name] = least(lambda path=path, params=params: ok(client.get(path, params=params)))
        judged = client.get("/api/figures/detector").json()["judged"]
        ready = client.get("/api/reviews", params={"filter": "ready", "limit": 100}).json()["reviews"]
        shown = client.get(f"/api/reviews/{ready[0]['id']}/images/refined").headers["x-content-sha256"]
        took["a verdict, median"] = verdicts(client, [row["id"] for row in ready], shown)
        took["agreement"] = least(lambda: ok(client.get("/api/figures/agreement")), 2)
        program = find_chromium()
        if program is not None:
            took["the page opens"] = page_opens(program, tmp_path / "profile", address)
    print(table(filled, took))
    assert judged == COUNT // 10 - READY - 1, "every judged box is counted; of one somebody was unsure"
    for name in LISTS:
        assert took[name] < LIST_MS * SLACK, (name, took)
    assert took["a verdict, median"] < VERDICT_MS * SLACK, took
    assert took.get("the page opens", 0) < PAGE_MS * SLACK, took
    assert took["agreement"] < REPORT_MS * SLACK, took


def table(url: str, took: dict[str, float]) -> str:
    """For people: what took how many milliseconds, and how busy the machine was."""
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    lines = [f"{url.partition(':')[0]}, {COUNT} frames, {os.cpu_count()} cores, load {load}"]
    return "\n".join([*lines, *(f"| {name} | {ms:.0f} ms |" for name, ms in took.items())])


def ok(answer: httpx.Response) -> None:
    assert answer.status_code == 200, answer.text


def verdicts(client: httpx.Client, numbers: list[int], shown: str) -> float:
    """The median of giving a verdict on a frame that one has taken, in milliseconds."""
    took = []
    for number in numbers:
        claim = {"reviewer": "Ann", "tab": "tab-of-ann", "review_id": number, "or_next": True}
        ok(client.post("/api/claims", json=claim))
        start = time.perf_counter()
        body = {"reviewer": "Ann", "verdict": "confirm", "shown_sha256": shown, "seen_verdict_id": 0}
        ok(client.post(f"/api/reviews/{number}/verdicts", json=body))
        took.append((time.perf_counter() - start) * 1000)
    return sorted(took)[len(took) // 2]


def page_opens(program: str, profile: Path, address: str) -> float:
    """From the address to the first picture on the screen, with an empty cache, in milliseconds."""
    browser = Browser(program, profile)
    try:
        browser.call("Page.navigate", url=address)
        say_name(browser, "Bea")
        took = []
        for _ in range(5):
            browser.call("Page.navigate", url="about:blank")
            browser.call("Network.clearBrowserCache")
            start = time.perf_counter()
            browser.call("Page.navigate", url=address)
            browser.wait_for("document.getElementById('tag-right')?.textContent === 'Refined'", 60)
            took.append((time.perf_counter() - start) * 1000)
        return min(took)
    finally:
        browser.close()
