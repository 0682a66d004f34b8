"""`bench codec` with codecs and peers of other packages: rows as they come, common pictures only, a plot that fits."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

for package in ("av", "torch", "compressai", "matplotlib"):
    pytest.importorskip(package, reason="training is not installed")

# ruff: noqa: E402 - what follows needs them
from secondlook.main import main
from secondlook.shared import plugins
from secondlook.shared.errors import ConfigError, SourceUnreadable
from secondlook.shared.peers import Peer
from secondlook.training import bench, speed
from secondlook.training.bench_rows import Picture, RowLog, Setting, common_pictures
from secondlook.training.machine.codecs import find_codec
from secondlook.training.paper import curves
from secondlook.training.paper.published import PLAIN
from secondlook.training.rate_distortion import PEERS, Point
from tests.pictures import photo

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "codec"
MODEL = str(EXAMPLE / "secondlook_pyramid" / "models" / "pyramid")
SIZES = ((80, 96), (64, 64), (72, 100))


class Steps:
    """A peer that fails at the pictures whose widths it is told, and counts what it codes."""

    def __init__(self, *fails_at: int) -> None:
        self.fails_at, self.coded, self.stops_after = fails_at, 0, 10**9

    def encode(self, image: Any, quality: int) -> bytes:
        if image.shape[1] in self.fails_at:
            raise SourceUnreadable("such pictures are not taken")
        if self.coded == self.stops_after:
            raise KeyboardInterrupt
        self.coded += 1
        return b"%d %d " % image.shape[:2] + cv2.imencode(".png", image // quality * quality)[1].tobytes()

    def decode(self, data: bytes) -> Any:
        return cv2.imdecode(np.frombuffer(data.split(b" ", 2)[2], np.uint8), cv2.IMREAD_COLOR)

    @property
    def peer(self) -> Peer:
        return Peer(self.encode, self.decode, (64, 32, 8))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number, (height, width) in enumerate(SIZES):
        cv2.imwrite(str(folder / f"p{number}.png"), photo(height, width, seed=number)[..., ::-1])
    return folder


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    """The example's codec family and a peer, as if their packages were installed."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    monkeypatch.setattr(speed, "TURNS", 1)
    made = Steps()
    entries = [
        EntryPoint("pyramid", "secondlook_pyramid:load", plugins.GROUP),
        EntryPoint("steps", f"{__name__}:unused", plugins.PEERS),
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda *, group: [e for e in entries if e.group == group])
    monkeypatch.setattr("secondlook.shared.peers.load_plugin", lambda entry: made.peer)
    return made


def run(images: Path, **more: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"peers": ["steps", "jpeg"], "filters": [], "limit": None, "threads": 1} | more
    return bench.bench_codec(images, model=MODEL, **given)


def strict(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_a_family_of_another_package_is_measured_to_the_end(
    images: Path, steps: Steps, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command: figures, rows, table, plot and report."""
    page, json_file = tmp_path / "page.md", tmp_path / "out.json"
    page.write_text("\n".join(bench.README_MARKS) + "\n")
    flags = ["--model", MODEL, "--images", str(images), "--peers", "steps", "--threads", "1"]
    flags += ["--json", str(json_file), "--plot", str(tmp_path / "out.png"), "--readme", str(page)]
    assert main(["bench", "codec", *flags]) == 0
    said = capsys.readouterr()
    assert "BD-rate against steps" in said.out and "pyramid, quality 63: measured" in said.err
    result = strict(json_file.read_text())
    assert (result["codec"], result["images"], result["left_out"]) == ("pyramid", 3, [])
    assert result["times"]["entropy_share"] is None and "Entropy" not in page.read_text()
    assert {row["codec"] for row in result["rows"]} == {"pyramid", "steps"}
    assert "| steps |" in page.read_text() and "`pyramid`" in page.read_text()
    lines = [strict(line) for line in json_file.with_suffix(".jsonl").read_text().splitlines()]
    assert len(lines) == 3 * (len(bench.QUALITIES) + 3)
    assert cv2.imread(str(tmp_path / "out.png")).shape == (600, 840, 3)
    assert main(["bench", "codec", *flags]) == 1  # nothing is overwritten
    assert "is there already: --resume goes on from it" in capsys.readouterr().err


def test_a_run_that_was_stopped_goes_on_where_it_was(images: Path, steps: Steps, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    steps.stops_after = 4
    with pytest.raises(KeyboardInterrupt):
        run(images, log=RowLog(file))
    written = file.read_text()
    assert len(written.splitlines()) == 3 * len(bench.QUALITIES) + 4
    file.write_text(written + '{"codec": "ste')  # as a power cut leaves it
    steps.stops_after = 10**9
    resumed = run(images, log=RowLog(file, resume=True))
    assert steps.coded == 9 and file.read_text().startswith(written)
    assert len(file.read_text().splitlines()) == 3 * (len(bench.QUALITIES) + 3 + len(PEERS["jpeg"].qualities))
    assert resumed["images"] == 3


def test_curves_are_of_the_same_pictures(images: Path, steps: Steps, tmp_path: Path) -> None:
    """A peer that fails at one of three pictures: no curve has that picture, and a line says why."""
    steps.fails_at = (64,)
    said: list[str] = []
    result = run(images, log=RowLog(tmp_path / "rows.jsonl", say=said.append))
    assert {row["images"] for row in result["rows"]} == {2} and result["images"] == 2
    assert result["left_out"] == ["p1.png"]
    assert said[0] == "steps, quality 64: p1.png fails: such pictures are not taken"
    whole = run(images, peers=["jpeg"])
    some = [row for row in result["rows"] if row["codec"] == "jpeg"]
    assert [row["bpp"] for row in some] != [row["bpp"] for row in whole["rows"] if row["codec"] == "jpeg"]
    assert "left out, for a codec failed at them: p1.png" in bench.report(result)
    steps.fails_at = tuple(width for _, width in SIZES)
    alone = run(images)  # a peer that fails at every picture takes none from the others
    assert alone["images"] == 3 and "steps" not in bench.codecs_of(alone["rows"])


def test_the_plot_holds_the_base_layer_and_names_the_model(
    images: Path, steps: Steps, tmp_path: Path
) -> None:
    result = run(images, peers=["jpeg"])
    left, right, bottom, top = bench.bounds(result)
    for rate, quality in bench.base_points(result):
        assert left <= rate <= right and bottom < quality < top
    ours = [row for row in result["rows"] if row["codec"] == "pyramid"]
    assert all(row["bpp"] < right for row in ours)
    assert bench.base_points(result)[0][1] < 22  # which fixed axes would cut off
    from matplotlib import pyplot

    seen: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyplot, "close", seen.append)
        bench.plot(result, tmp_path / "out.png")
    (axes,) = seen[0].axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["pyramid, both layers", "jpeg", "pyramid, base layer alone"]
    assert axes.get_title() == f"pyramid ({result['model'][:8]}), mean of 3 images"
    pyplot.close("all")


def test_a_damaged_picture_is_named_and_left_out(
    images: Path, steps: Steps, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "p9.png").write_bytes(b"no picture")
    assert run(images, peers=["steps"])["images"] == 3
    assert "p9.png" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="--limit 0"):
        run(images, limit=0)


def test_what_cannot_be_compared_is_said_before_anything_is_measured(images: Path, steps: Steps) -> None:
    with pytest.raises(ConfigError, match="no codec 'mpeg9' to compare with; there are jpeg"):
        run(images, peers=["mpeg9"])
    assert steps.coded == 0


def test_a_codec_and_a_peer_may_have_one_name(
    images: Path, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PEERS, "pyramid", PEERS["jpeg"])
    result = run(images, peers=["pyramid"])
    assert result["codec"] == "pyramid (layers)"
    assert bench.codecs_of(result["rows"]) == ["pyramid (layers)", "pyramid"]


def test_rows_that_are_none_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    for text in ("no rows\n", "{}\n", "[]\n"):
        file.write_text(text)
        with pytest.raises(ConfigError, match="holds no rows"):
            RowLog(file, resume=True)


def test_pictures_in_common() -> None:
    rows = [
        {"codec": "a", "digest": "1"},
        {"codec": "a", "digest": "2"},
        {"codec": "b", "digest": "1"},
        {"codec": "b", "digest": "2", "error": "x"},
        {"codec": "c", "digest": "1", "error": "x"},
    ]
    assert common_pictures(rows) == ["1"]
    assert common_pictures(rows[4:]) == []
    picture = Picture.of("x", photo(8, 8))
    assert Setting("a", "1", 3).key(picture) != Setting("a", "2", 3).key(picture)


def test_a_published_curve_of_other_pictures_is_not_drawn() -> None:
    row = {"bpp": 0.5, "bpp_additional": 0.4, "psnr": 30.0, "ssim": None, "ms_ssim": None, "lpips": None}
    ours = curves.our_curves("lite", {25: {PLAIN: row}}, {}, 2)
    assert [c.source for c in curves.drawn([*ours, curves.published_curve(False)])] == ["measured"] * 2
    assert len(curves.drawn([*ours, curves.published_curve(True)])) == 3
    own = curves.measured_curve("steps", "steps", {8: row, 16: row | {"bpp": 0.7, "psnr": 33.0}}, 2)
    assert cv2.imdecode(np.frombuffer(curves.plot([*ours, own], 2), np.uint8), 1) is not None


def test_bench_machine_takes_still_peers(steps: Steps) -> None:
    codec = find_codec("peer steps")
    frames = [photo(32, 48, seed=n) for n in range(3)]
    clip = codec.encode(frames, 8)
    assert codec.stills and codec.qualities == (64, 32, 8)
    assert len(clip.sizes) == 3 and all(one.shape == (32, 48, 3) for one in clip.decoded)
    with pytest.raises(ConfigError, match=r"there are: x264 medium.*peer steps"):
        find_codec("steps")


def test_a_curve_of_one_point_is_none() -> None:
    assert bench.bd_rate_or_none([Point(1, 30)], [Point(1, 30), Point(2, 33)]) is None
    assert bench.difference([Point(1, 30)], [Point(1, 30), Point(2, 33)], 1.0) is None
