"""The page about the API: its example runs as it stands there, and what it promises is there."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import httpx
import numpy as np

from secondlook.client import Client
from secondlook.cloud import catalogue as cat
from secondlook.cloud.accounts import Role, create_token
from secondlook.cloud.decoding.files import pixels
from secondlook.cloud.station.access import RIGHTS
from secondlook.cloud.station.app import create_app
from secondlook.cloud.storage.blobs import base_key, open_blobs
from secondlook.main import build_parser
from secondlook.shared.codec import load_codec
from secondlook.shared.packet import FrameInfo
from tests.cloud.helpers import wait_until
from tests.cloud.station.people import add_people
from tests.cloud.station.seed import BOOT, SECOND, START, drawn_scene
from tests.cloud.station.server import serving

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "api.md").read_text()
MAX_LINES = 30


def example() -> str:
    (found,) = re.findall(r"```python\n(import os\n.*?)```", PAGE, re.DOTALL)
    return str(found)


def store(catalogue: cat.Catalogue, blobs_url: str, first: int, count: int) -> None:
    """Frames that can be decoded, of two cameras in turn, with two detections each."""
    base = load_codec(threads=1).encode(drawn_scene(1).image, base_quality=20, quality=45).layers.base
    for seq in range(first, first + count):
        edge_id = ("gate", "yard")[seq % 2]
        info = FrameInfo(BOOT, seq, START + seq * SECOND, 320, 192, None, 900)
        frame = cat.NewFrame(edge_id, edge_id, START, info, base_key(edge_id, BOOT, seq), len(base))
        open_blobs(blobs_url).put(frame.base_blob, base)
        cat.store_frame(
            catalogue, frame, drawn_scene(seq).detections, detector="t", reasons=[], now_ns=START + seq
        )


def has_come_to(place: Path, frame_id: int) -> bool:
    return place.exists() and place.read_text().startswith(f"{frame_id}-")


def test_the_client_of_thirty_lines_follows_one_camera(tmp_path: Path) -> None:
    source = example()
    assert len([line for line in source.splitlines() if line.strip()]) <= MAX_LINES
    script, folder, blobs = tmp_path / "follow.py", tmp_path / "kept", str(tmp_path / "blobs")
    script.write_text(source)
    folder.mkdir()
    url = f"sqlite:///{tmp_path}/catalogue.db"
    catalogue = cat.open_catalogue(url)
    add_people(url)
    _, token = create_token(
        catalogue, "vera", label="x", role=Role.VIEWER, expires_ns=None, actor="t", now_ns=START
    )
    store(catalogue, blobs, 0, 4)
    printed: list[str] = []
    with serving(create_app(catalogue_url=url, blobs_url=blobs)) as address:
        for first, count in ((4, 4), (8, 2)):
            store(catalogue, blobs, first, count)
            process = subprocess.Popen(
                [sys.executable, str(script), address, "gate", str(folder)],
                stdout=subprocess.PIPE,
                text=True,
                env={"SECONDLOOK_TOKEN": token, "PATH": "", "PYTHONPATH": str(ROOT)},
            )
            with process:
                assert process.stdout is not None
                wanted = first + count  # every second frame is of this camera, and holds two
                printed += [process.stdout.readline() for _ in range(wanted - len(printed))]
                with catalogue.reading() as session:
                    last = (
                        session.query(cat.Frame.id)
                        .filter_by(edge_id="gate")
                        .order_by(cat.Frame.id.desc())
                        .first()
                    )
                assert last is not None
                wait_until(partial(has_come_to, folder / "place", last[0]))
                process.kill()
    catalogue.close()
    assert len(printed) == 10 and all(
        re.fullmatch(r"\d\d:\d\d:\d\d (person|car) 0\.\d\d\n", line) for line in printed
    )
    pictures = sorted(folder.glob("*.png"))
    assert len(pictures) == 5
    assert pixels(pictures[0].read_bytes()).shape == (192, 320, 3)
    assert not np.array_equal(pixels(pictures[0].read_bytes()), np.zeros((192, 320, 3), np.uint8))


def test_the_other_examples_run() -> None:
    found = doctest.testfile(str(ROOT / "docs" / "api.md"), module_relative=False)
    assert found.attempted >= 3 and found.failed == 0


def test_what_the_page_names_is_there() -> None:
    for path in re.findall(r"(?:GET|POST)\s+`?/api/v1(/[a-z0-9/]+)", PAGE):
        pattern = re.sub(r"/\d+", "/{}", path)
        known = {re.sub(r"\{\w+\}", "{}", right.split(" ", 1)[1]) for right in RIGHTS}
        assert f"/api/v1{pattern}" in known, path
    for name in re.findall(r"`([a-z_]+)\((?:…|n)", PAGE):
        assert hasattr(Client, name), name
    for line in re.findall(r"^secondlook (.*?)(?:\s+#.*)?$", PAGE, re.MULTILINE):
        build_parser().parse_args(line.split())


def test_a_browser_and_a_program_get_the_same_description(tmp_path: Path) -> None:
    app = create_app(catalogue_url=f"sqlite:///{tmp_path}/c.db", blobs_url=str(tmp_path / "b"))
    with serving(app) as address:
        whole = httpx.get(f"{address}/openapi.json").json()["paths"]
        own = httpx.get(f"{address}/api/v1/openapi.json").json()["paths"]
    assert set(own) == {path for path in whole if path.startswith("/api/v1/")}
