"""`secondlook paper` on two small pictures: its files say what is measured here, and a second run measures nothing."""

from __future__ import annotations

import csv
import json
import re
import shutil
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training is not installed")

# ruff: noqa: E402 - what follows needs torch
from secondlook.cloud.workers.postfilter import load_postfilter
from secondlook.main import main
from secondlook.shared.codec import load_codec
from secondlook.training.paper import cli
from secondlook.training.paper.metrics import Lpips
from secondlook.training.paper.published import PRESETS, TABLE1
from secondlook.training.rate_distortion import PEERS
from tests.pictures import photo, psnr

SIDES = ((176, 192), (168, 180))
BASE_QUALITY = 8
FILTER = "rrdb-fast"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for i, (height, width) in enumerate(SIDES):
        cv2.imwrite(str(folder / f"p{i}.png"), photo(height, width, seed=i)[:, :, ::-1])
    return folder


def arguments(verb: str, images: Path, out: Path, *more: str) -> list[str]:
    few = ["--l1", FILTER, "--l2", "none", "--threads", "1", "--lambdas", "0.005", "0.03"]
    return ["paper", verb, "--images", str(images), "--out", str(out), *few, *more]


@pytest.fixture(scope="module")
def out(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one whole report."""
    folder = tmp_path_factory.mktemp("out")
    more = ["--peers", "x265", "jpeg", "--examples", "1"]
    assert main(arguments("report", images, folder, *more)) == 0
    return folder


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def by_hand() -> dict[tuple[float, bool], tuple[float, float, float]]:
    """(λ, filtered) -> mean bits per pixel, of which additional, mean PSNR; without `training.paper`."""
    codec, refine = load_codec("lite", threads=1), load_postfilter(FILTER, threads=1)
    pictures = [photo(height, width, seed=i) for i, (height, width) in enumerate(SIDES)]
    figures = {}
    for lam, quality in ((0.005, 25), (0.03, 52)):
        rows = []
        for image in pictures:
            layers = codec.encode(image, base_quality=BASE_QUALITY, quality=quality).layers
            decoded = codec.decode_enhanced(layers.base, layers.enhancement)
            pixels = image.shape[0] * image.shape[1] / 8
            rates = [(len(layers.base) + len(layers.enhancement)) / pixels, len(layers.enhancement) / pixels]
            rows.append([*rates, psnr(image, decoded), psnr(image, refine.apply(decoded))])
        total, additional, plain, refined = np.mean(rows, axis=0)
        figures[lam, False], figures[lam, True] = (total, additional, plain), (total, additional, refined)
    return figures


def test_the_flags_offer_what_there_is() -> None:
    assert tuple(PRESETS) == cli.LAMBDAS and list(PRESETS.values()) == [25, 35, 46, 52]
    assert set(cli.PEER_NAMES) == {*PEERS, "vvc"}


def test_table1_has_what_was_measured_and_what_was_published(out: Path, by_hand) -> None:
    rows = read_csv(out / "table1.csv")
    assert len(rows) == 4
    for row in rows:
        lam, filtered = float(row["lambda"]), row["filter"] == FILTER
        total, additional, quality = by_hand[lam, filtered]
        assert float(row["psnr"]) == pytest.approx(quality, abs=1e-9)
        assert float(row["bpp"]) == pytest.approx(total)
        assert float(row["bpp_additional"]) == pytest.approx(additional)
        published = TABLE1["l1" if filtered else "plain"][lam]
        assert float(row["paper_psnr"]) == published
        assert float(row["delta_db"]) == pytest.approx(quality - published)
        assert float(row["gain_db"]) == pytest.approx(quality - by_hand[lam, False][2])
        assert 0.5 < float(row["ssim"]) < 1 and 0.5 < float(row["ms_ssim"]) < 1
        assert row["lpips"] == ""
    assert {(r["lambda"], r["paper_psnr"]) for r in rows} == {
        ("0.005", "29.76"),
        ("0.005", "29.87"),
        ("0.03", "33.81"),
        ("0.03", "34.08"),
    }


def test_fig2_counts_both_layers_or_the_additional_one(out: Path, images: Path, by_hand) -> None:
    rows = read_csv(out / "fig2.csv")
    for filtered, name in ((False, "lite"), (True, f"lite + {FILTER}")):
        for said, column in (("total", 0), ("additional only", 1)):
            points = [(float(r["bpp"]), float(r["psnr"])) for r in rows if r["curve"] == f"{name}, {said}"]
            wanted = [(by_hand[lam, filtered][column], by_hand[lam, filtered][2]) for lam in (0.005, 0.03)]
            assert points == [pytest.approx(point) for point in wanted]
    image_files = sorted(images.iterdir())
    jpeg = [r for r in rows if r["curve"].startswith("JPEG") and r["setting"] == "quality 40"]
    sizes = []
    for file in image_files:
        rgb = cv2.imread(str(file))[:, :, ::-1]
        sizes.append(8 * len(PEERS["jpeg"].encode(np.ascontiguousarray(rgb), 40)) / rgb[:, :, 0].size)
    assert float(jpeg[0]["bpp"]) == pytest.approx(np.mean(sizes))
    assert sum(r["curve"].startswith("HEVC") for r in rows) == len(PEERS["x265"].qualities)
    published = [r for r in rows if r["source"] == "published"]
    assert published and all("published" in r["curve"] for r in published)
    assert cv2.imread(str(out / "fig2.png")).shape[1] > 800


def test_fig3_shows_the_pictures_and_their_noise(out: Path, by_hand) -> None:
    (row,) = read_csv(out / "fig3.csv")
    assert (row["image"], row["filter"], row["lambda"]) == ("p0", FILTER, "0.005")
    height, width = SIDES[0]
    sheet = cv2.imread(str(out / "fig3-p0.png"))[:, :, ::-1]
    assert sheet.shape[1] == 2 * width + 8
    original, codec = photo(height, width, seed=0), load_codec("lite", threads=1)
    layers = codec.encode(original, base_quality=BASE_QUALITY, quality=25).layers
    decoded = codec.decode_enhanced(layers.base, layers.enhancement)
    bar = (sheet.shape[0] - 8) // 2 - height
    assert np.array_equal(sheet[bar : bar + height, :width], decoded)
    below = sheet[2 * bar + height + 8 :, :width]
    error = np.abs(original.astype(float) - decoded).mean(axis=2)
    assert np.array_equal(below[:, :, 0], np.clip(np.rint(8 * error), 0, 255).astype(np.uint8))
    assert float(row["psnr_input"]) == pytest.approx(psnr(original, decoded))


def test_the_page_stands_alone(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    html = (out / "report.html").read_text()
    resources = re.findall(r"""(?:src|srcset|href)=["']?([^"'\s>]+)""", html)
    assert len(resources) == 3 and all(r.startswith("data:image/png;base64,") for r in resources)
    assert not re.search(r"https?://|url\(|@import|<script|<link", html)
    assert "prefers-color-scheme: dark" in html and "<meta charset" in html
    for row in read_csv(out / "table1.csv"):
        assert f"{float(row['psnr']):.2f}" in html and f"{float(row['delta_db']):+.2f}" in html
        assert row["filter"] == "" or f"{float(row['gain_db']):+.3f} dB" in html
    assert load_codec("lite").model_hash.hex() in html
    assert "secondlook paper report --codec lite" in html and "--threads 1" in html
    assert "LPIPS is not measured" in html or "AlexNet, weights" in html


def test_a_run_goes_on_from_its_records(
    out: Path, images: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    records = out / "measured" / "measured.jsonl"
    before, table = records.read_text(), (out / "table1.csv").read_text()
    assert main(arguments("table1", images, out)) == 0
    assert capsys.readouterr().err == "" and records.read_text() == before
    lines = before.splitlines(keepends=True)
    lost = [line for line in lines if "lite" in line and "52" in line and FILTER not in line][-1]
    kept = [line for line in lines if line != lost]
    records.write_text("".join(kept) + lost[:40])  # as a power cut leaves it
    assert main(arguments("table1", images, out)) == 0
    assert capsys.readouterr().err == "lite, quality 52: p1\n"
    assert (out / "table1.csv").read_text() == table
    assert sorted(records.read_text().splitlines()) == sorted(before.splitlines())


def test_lpips_asked_for_later_is_added(out: Path, images: Path, tmp_path: Path) -> None:
    lpips = pytest.importorskip("lpips", reason="the package lpips is not installed")
    torch.manual_seed(6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).state_dict(), tmp_path / "w.pth")
    shutil.copytree(out, tmp_path / "out")
    before = read_csv(tmp_path / "out" / "table1.csv")
    assert main(arguments("table1", images, tmp_path / "out", "--lpips", str(tmp_path / "w.pth"))) == 0
    after = read_csv(tmp_path / "out" / "table1.csv")
    assert [row | {"lpips": ""} for row in after] == before
    codec, distances = load_codec("lite", threads=1), []
    for i, (height, width) in enumerate(SIDES):
        image = photo(height, width, seed=i)
        layers = codec.encode(image, base_quality=BASE_QUALITY, quality=25).layers
        decoded = codec.decode_enhanced(layers.base, layers.enhancement)
        distances.append(Lpips(tmp_path / "w.pth")(image, decoded))
    assert float(after[0]["lpips"]) == pytest.approx(np.mean(distances), rel=1e-5)
    assert float(after[1]["lpips"]) < float(after[0]["lpips"])  # λ = 0.03


def test_records_of_another_version_are_refused(images: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "measured").mkdir()
    (tmp_path / "measured" / "measured.jsonl").write_text(json.dumps({"version": 99}) + "\n")
    assert main(arguments("table1", images, tmp_path)) == 1
    assert "version 1" in capsys.readouterr().err


def test_wrong_input_is_one_line(images: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"not a picture")
    for folder, more in ((tmp_path / "bad", ()), (tmp_path / "none", ()), (images, ("--limit", "0"))):
        assert main(arguments("table1", folder, tmp_path / "out", *more)) == 1
        assert capsys.readouterr().err.count("\n") == 1
