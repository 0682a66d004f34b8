"""`secondlook bench codec` from images to its report: the figures a reader sees are those that were measured."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

for package in ("av", "torch", "compressai", "matplotlib"):
    pytest.importorskip(package, reason="training is not installed")

# ruff: noqa: E402 - what follows needs them
from secondlook.shared.errors import ConfigError
from secondlook.shared.quality import PRESETS
from secondlook.training import bench, speed
from tests.pictures import photo


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> bench.Row:
    folder = tmp_path_factory.mktemp("images")
    cv2.imwrite(str(folder / "one.png"), photo(208, 192)[..., ::-1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "TURNS", 1)
        patch.setattr(speed, "LEARNED", {"mbt2018-mean": (4,)})
        return bench.bench_codec(
            folder, model="lite", peers=["jpeg", "mbt2018-mean"], filters=["rrdb-fast"], limit=None, threads=1
        )


def test_the_json_has_what_it_promises(result: bench.Row, tmp_path: Path) -> None:
    bench.write_json(result, tmp_path / "out.json")
    read = json.loads((tmp_path / "out.json").read_text())
    ours = [row for row in read["rows"] if row["codec"] == "lite"]
    for row in ours:
        assert 0 < row["bpp_base"] < row["bpp"] and row["psnr_base"] < row["psnr"] and row["encode_ms"] > 0
    rates, qualities = ([row[key] for row in ours] for key in ("bpp", "psnr"))
    assert rates == sorted(rates) and qualities == sorted(qualities)
    assert read["images"] == 1 and read["bd_rate_percent"].keys() == {"jpeg"}  # published curves are of Kodak
    assert len(read["rrdb_gain_db"]["fast"]) == len(PRESETS)
    assert (
        read["speedup"]["encode_vs_mbt2018_mean"] > 1 and read["speedup"]["decode_base_vs_mbt2018_mean"] > 1
    )


def test_what_the_base_layer_costs_is_told_for_growing_base_layers(result: bench.Row) -> None:
    costs = result["base_layer_cost"]
    sizes = [cost["bpp_base"] for cost in costs]
    assert sizes == sorted(sizes) and sizes[-1] > 2 * sizes[0]
    assert costs[0]["bd_rate_percent"] == pytest.approx(0)
    # Of no use to the enhancement, the largest would cost all its bits: more than a third of the total.
    assert all(abs(cost["bd_rate_percent"]) < 15 for cost in costs)
    for text in (bench.report(result), bench.table(result)):
        assert f"{costs[-1]['bd_rate_percent']:+.1f} % with {sizes[-1]:.3f} bpp." in text


def test_the_report_names_every_codec_and_ratio(result: bench.Row) -> None:
    text = bench.report(result)
    assert f"BD-rate against jpeg: {result['bd_rate_percent']['jpeg']:+.1f} %" in text
    assert (
        f"mbt2018-mean q4: compress {result['times']['peers']['mbt2018-mean q4']['encode_ms']:.0f} ms" in text
    )
    assert text.count("\njpeg ") == 10 and "fast gains in dB" in text


def test_the_plot_is_a_picture(result: bench.Row, tmp_path: Path) -> None:
    bench.plot(result, tmp_path / "out.png")
    assert cv2.imread(str(tmp_path / "out.png")).shape == (600, 840, 3)


def test_the_table_goes_between_the_marks_and_nowhere_else(result: bench.Row, tmp_path: Path) -> None:
    first, last = bench.README_MARKS
    page = tmp_path / "page.md"
    page.write_text(f"before\n{first}\nold\n{last}\nafter\n")
    bench.write_table(result, page)
    text = page.read_text()
    assert text.startswith(f"before\n{first}\n") and text.endswith(f"\n{last}\nafter\n") and "old" not in text
    ours = [row for row in result["rows"] if row["codec"] == "lite"]
    assert f"| {ours[0]['quality']} | {ours[0]['bpp_base']:.3f} | {ours[0]['bpp']:.3f} |" in text
    assert f"| jpeg | {result['bd_rate_percent']['jpeg']:+.1f} % |" in text
    page.write_text("no marks")
    with pytest.raises(ConfigError, match="has no lines"):
        bench.write_table(result, page)
