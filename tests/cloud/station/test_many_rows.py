"""Exports and `secondlook pull` with 20,000 decided frames: sent in parts, in memory that does not grow with them."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from secondlook.cloud import catalogue as cat
from secondlook.cloud.catalogue.schema import table_of
from secondlook.cloud.pull.folder import PullFolder
from secondlook.cloud.pull.run import pull
from secondlook.cloud.station import archive, export, queries, results
from tests.cloud.station.many import fill

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

COUNT = 20_000
MOST_MB = 16  # the frames' rows alone, held at once, are more than a hundred
MOST_INDEX_MB = 24  # with a name and a place for each frame


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[cat.Catalogue]:
    catalogue = cat.open_catalogue(f"sqlite:///{tmp_path_factory.mktemp('many')}/catalogue.db")
    fill(catalogue, COUNT, every=1)
    with catalogue.writing() as session:
        session.execute(table_of(cat.Review).update().values(refined_image="image/1/refined.webp"))
    yield catalogue
    catalogue.close()


def peak_mb(work: Callable[[], object]) -> float:
    tracemalloc.start()
    work()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / 1e6


def decided(catalogue: cat.Catalogue) -> Iterator[cat.Review]:
    return export.chosen(
        queries.exported_reviews(catalogue, decided_only=True), unsure=False, contested=False
    )


def size_of(parts: Iterator[str] | Iterator[bytes]) -> int:
    """Read to the end, as it is sent; nothing is kept."""
    return sum(map(len, parts))


EXPORTS: dict[str, Callable[[cat.Catalogue], Iterator[str] | Iterator[bytes]]] = {
    "coco": lambda catalogue: export.coco_parts(decided(catalogue), description="d"),
    "verdicts": lambda catalogue: export.verdict_lines(
        queries.exported_reviews(catalogue, decided_only=False), cat.Audience(unsettled=True)
    ),
    "yolo": lambda catalogue: archive.yolo_parts(decided(catalogue), lambda key: b"picture"),
    "frames": lambda catalogue: archive.jsonl_parts(decided(catalogue), lambda key: b"picture", root_path=""),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_is_sent_in_bounded_memory(catalogue: cat.Catalogue, name: str) -> None:
    sizes: list[int] = []
    peak = peak_mb(lambda: sizes.append(size_of(EXPORTS[name](catalogue))))
    assert peak < MOST_MB, peak
    assert sizes[0] > COUNT * 40


class Station:
    """Answers of a station, without one."""

    def __init__(self, catalogue: cat.Catalogue) -> None:
        self._catalogue = catalogue

    def json(self, path: str, query: dict[str, Any]) -> Any:
        assert path == "/api/export/changes"
        page = results.changes(
            self._catalogue, since_ns=0, after=query.get("after"), limit=query["limit"], root_path=""
        )
        return json.loads(page.model_dump_json())

    def data(self, path: str) -> bytes:
        raise AssertionError("there are no pictures")


def test_a_folder_is_kept_up_to_date_in_bounded_memory(catalogue: cat.Catalogue, tmp_path: Path) -> None:
    def work() -> None:
        done = pull(Station(catalogue), PullFolder(tmp_path / "out", "station"))
        assert done.frames >= COUNT - 1  # of one frame somebody was unsure

    peak = peak_mb(work)
    assert peak < MOST_INDEX_MB, peak
    lines = (tmp_path / "out/frames.jsonl").read_bytes().splitlines()
    assert len(lines) == COUNT - 1
    assert peak_mb(lambda: PullFolder(tmp_path / "out", "station")) < MOST_INDEX_MB
