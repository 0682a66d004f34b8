"""The documentation site builds strictly, asks no other host for anything, and has every page in its navigation."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

pytest.importorskip("material", reason="mkdocs-material is not installed")

from tests import site

pytestmark = pytest.mark.process

TOPICS = {
    "quick start": "quickstart.html",
    "first camera": "first-camera.html",
    "concepts": "concepts.html",
    "each role": "roles.html",
    "thin links": "thin-links.html",
    "operations": "operations.html",
    "trouble": "troubleshooting.html",
    "formats": "format.html",
    "API": "api.html",
    "benchmarks": "benchmarks.html",
    "the paper": "paper.html",
    "training": "own-cameras.html",
    "notebooks": "notebooks/index.html",
    "contributing": "contributing.html",
}


@pytest.fixture(autouse=True, scope="module")
def quiet() -> None:
    logging.getLogger("mkdocs").setLevel(logging.WARNING)  # each page is a line else


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    assert site.build(folder) == []
    return folder


def test_the_site_builds_and_every_topic_is_in_its_navigation(built: Path) -> None:
    home = (built / "index.html").read_text()
    for topic, page in TOPICS.items():
        assert (built / page).exists() and f'href="{page}"' in home, topic


def test_pages_of_the_repository_are_pages_of_the_site(built: Path) -> None:
    benchmarks = (built / "benchmarks.html").read_text()
    assert "BD-rate" in benchmarks and "make demo" not in benchmarks
    assert 'href="operations.html"' in (built / "deploy.html").read_text()
    notebook = (built / "notebooks" / "2-rate-distortion.html").read_text()
    assert "PEERS" in notebook and (built / "notebooks" / "2-rate-distortion.ipynb").exists()
    assert (built / "files" / "deploy" / "kubernetes" / "nats.conf").exists()


def test_dead_links_are_errors(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    docs = tmp_path / "docs"
    shutil.copytree(site.ROOT / "docs", docs)
    page = docs / "concepts.md"
    page.write_text(f"{page.read_text()}\n\n[away](nowhere.md) [gone](cli.md#no-such-command)\n")
    (found,) = site.build(tmp_path / "site", docs)
    assert "2 warnings in strict mode" in found
    assert "'nowhere.md'" in caplog.text and "'#no-such-command'" in caplog.text


def test_what_a_browser_would_ask_another_host_for_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<link rel="stylesheet" href="b.css"><link rel="canonical" href="https://example.org/a.html">'
        '<img src="https://example.org/x.png"><script src="//example.org/x.js"></script>'
        '<div class="mermaid">graph TD</div><img src="gone.png"><h1 id="here"></h1>'
        '<a href="nowhere.html"></a><a href="#there"></a><a href="#here"></a><a href="https://example.org"></a>'
    )
    (tmp_path / "b.css").write_text("@import 'https://example.org/c.css'; a { background: url(d.png) }")
    assert site.complaints(tmp_path) == [
        "a.html: https://example.org/x.png is on another host",
        "a.html: //example.org/x.js is on another host",
        "a.html: https://unpkg.com/mermaid is on another host",
        "a.html: gone.png is not there",
        "a.html: nowhere.html leads nowhere",
        "a.html: #there has no such place",
        "b.css: https://example.org/c.css is on another host",
    ]


def test_links_are_turned_to_where_the_site_has_them() -> None:
    for page, link, wanted in (
        ("api.md", "[x](../shared/FORMAT.md#layers)", "[x](format.md#layers)"),
        ("deploy.md", "[x](../docs/station.md)", "[x](station.md)"),
        ("proxies.md", "[x](nginx-root.conf)", "[x](files/deploy/proxy/nginx-root.conf)"),
        ("notebooks/index.md", "[x](2-rate-distortion.ipynb)", "[x](2-rate-distortion.md)"),
        ("library.md", "[x](notebooks)", "[x](notebooks/index.md)"),
        ("contributing.md", "[x](README.md)", "[x](index.md)"),
        (
            "video.md",
            "[![x](images/fig2.png)](../README.md#measured)",
            "[![x](images/fig2.png)](benchmarks.md#measured)",
        ),
        ("api.md", "[x](https://example.org) [y](#here)", "[x](https://example.org) [y](#here)"),
        ("api.md", "```\n[x](../shared/FORMAT.md)\n```", "```\n[x](../shared/FORMAT.md)\n```"),
    ):
        assert site.turned(link, page) == wanted
