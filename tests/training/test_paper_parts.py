"""The parts of `secondlook paper`: metrics with weights of LPIPS, VVC's tools, curves, noise."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training is not installed")

# ruff: noqa: E402 - what follows needs torch
from secondlook.shared.codec import load_codec
from secondlook.shared.errors import ConfigError
from secondlook.shared.models import find_model
from secondlook.training.paper import noise, vvc
from secondlook.training.paper.curves import (
    bd_rates,
    drawn,
    measured_curve,
    our_curves,
    plot,
    published_curve,
)
from secondlook.training.paper.metrics import Lpips, Metrics, find_lpips, ssim
from secondlook.training.paper.published import ONE, PLAIN, TWO
from secondlook.training.paper.study import Plan, Study
from tests.pictures import noise as noise_picture
from tests.pictures import photo, psnr


def row(bpp: float, quality: float, base: float = 0.1) -> dict[str, float | None]:
    rates = {"bpp": bpp, "bpp_base": base, "bpp_additional": bpp - base}
    return rates | {"psnr": quality, "ssim": None, "ms_ssim": None, "lpips": None}


def grainy(image, sigma: float):
    grain = np.random.default_rng(3).normal(0, sigma, image.shape)
    return np.clip(image + grain, 0, 255).astype(np.uint8)


def test_ssim_of_a_brighter_flat_picture_is_its_formula() -> None:
    a, b = (np.full((20, 30, 3), value, np.uint8) for value in (100, 140))
    c1 = (0.01 * 255) ** 2
    assert ssim(a, b) == pytest.approx((2 * 100 * 140 + c1) / (100**2 + 140**2 + c1), abs=1e-5)
    assert ssim(a, a) == pytest.approx(1)
    assert ssim(a[:8], b[:8]) is None


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Random weights in both layouts: what torchvision downloads, and a whole state dict of `lpips`."""
    lpips = pytest.importorskip("lpips", reason="the package lpips is not installed")
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).state_dict()
    features = {
        f"features.{key.split('.')[2]}.{key.split('.')[3]}": value
        for key, value in whole.items()
        if key.startswith("net.")
    }
    torch.save(features, folder / "alexnet.pth")
    torch.save(whole, folder / "lpips.pth")
    return folder / "alexnet.pth", folder / "lpips.pth"


def test_lpips_is_the_same_from_either_file_and_grows_with_noise(alexnet: tuple[Path, Path]) -> None:
    image = photo(80, 96)
    short, whole = (Lpips(path) for path in alexnet)
    little, much = short(image, grainy(image, 4)), short(image, grainy(image, 40))
    assert little is not None and much is not None and much > little > 0
    assert short(image, image) == 0
    assert whole(image, grainy(image, 4)) == pytest.approx(little)
    assert short.digest != whole.digest
    assert short(image[:20], image[:20]) is None


def test_a_record_without_lpips_lacks_it_for_these_weights_only(alexnet: tuple[Path, Path]) -> None:
    metrics = Metrics(Lpips(alexnet[0]))
    image = photo(64, 64)
    values = metrics.measure(image, grainy(image, 9), metrics.names)
    assert values["psnr"] == pytest.approx(psnr(image, grainy(image, 9)))
    assert metrics.columns(values)["lpips"] == values[metrics.names[-1]]
    assert Metrics(Lpips(alexnet[1])).columns(values)["lpips"] is None
    assert Metrics(None).columns(values)["lpips"] is None


def test_lpips_without_weights_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    found, said = find_lpips(None)
    assert found is None and "--lpips FILE" in said
    with pytest.raises(ConfigError, match="no such file"):
        find_lpips(tmp_path / "none.pth")


def test_lpips_is_found_in_the_cache_of_torchvision(
    alexnet: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(alexnet[0], tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    found, said = find_lpips(None)
    assert found is not None and said == "" and found.digest == Lpips(alexnet[0]).digest


def test_other_files_are_no_lpips_weights(tmp_path: Path, alexnet: tuple[Path, Path]) -> None:
    (tmp_path / "text.pth").write_text("hello")
    torch.save({"features.0.weight": torch.zeros(64, 3, 11, 11)}, tmp_path / "part.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    for name in ("text.pth", "part.pth", "list.pth"):
        with pytest.raises(ConfigError):
            Lpips(tmp_path / name)


def test_vvc_commands_fix_the_qp_and_switch_perceptual_adaptation_off() -> None:
    words = vvc.encode_command(
        Path("vvencapp"), Path("a.yuv"), Path("a.266"), width=64, height=48, qp=32, threads=3
    )
    pairs = dict(zip(words[1::2], words[2::2], strict=True))
    assert pairs == {
        "-i": "a.yuv",
        "-s": "64x48",
        "-c": "yuv420_10",
        "-r": "1",
        "-f": "1",
        "--preset": "medium",
        "-q": "32",
        "--qpa": "0",
        "-t": "3",
        "-v": "1",
        "-o": "a.266",
    }
    words = vvc.decode_command(Path("vvdecapp"), Path("a.266"), Path("a.y4m"), threads=3)
    assert words == ["vvdecapp", "-b", "a.266", "-o", "a.y4m", "--y4m", "-t", "3", "-v", "1"]


@pytest.mark.parametrize("sides", [(48, 64), (47, 63)])
def test_a_picture_survives_the_way_to_the_vvc_tools_and_back(sides: tuple[int, int], tmp_path: Path) -> None:
    image = photo(*sides)
    data, width, height = vvc.to_yuv(image)
    assert (width, height) == (64, 48) and len(data) == 2 * 64 * 48 * 3 // 2
    header = f"YUV4MPEG2 W{width} H{height} F1:1 Ip C420p10 XYSCSS=420P10\nFRAME\n".encode()
    (tmp_path / "out.y4m").write_bytes(header + data)
    shown = vvc.read_y4m(tmp_path / "out.y4m")
    assert shown.shape == (48, 64, 3) and shown.dtype == np.uint8
    grey = [picture.mean(axis=2) for picture in (image, shown[: sides[0], : sides[1]])]
    assert np.abs(grey[0] - grey[1]).mean() < 2  # luma is kept; chroma has half the resolution
    (tmp_path / "cut.y4m").write_bytes(header[:20])
    with pytest.raises(ConfigError):
        vvc.read_y4m(tmp_path / "cut.y4m")


def test_missing_vvc_tools_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    said = vvc.find_tools(None, None)
    assert isinstance(said, str) and "vvencapp is not on PATH" in said and "--vvenc" in said
    with pytest.raises(ConfigError, match="no such program"):
        vvc.find_tools(str(tmp_path / "vvencapp"), None)
    for name in ("vvencapp", "vvdecapp"):
        shutil.copy("/bin/false", tmp_path / name)
    tools = vvc.find_tools(None, None)
    assert tools == (tmp_path / "vvencapp", tmp_path / "vvdecapp")
    with pytest.raises(ConfigError, match="vvencapp failed: status 1"):
        vvc.vvc_peer(*tools, threads=1).encode(photo(16, 16), 32)


@pytest.mark.skipif(
    not (shutil.which("vvencapp") and shutil.which("vvdecapp")), reason="VVenC and VVdeC are not installed"
)
def test_vvc_spends_more_bits_on_a_lower_qp() -> None:
    image = photo(96, 128)
    tools = vvc.find_tools(None, None)
    assert not isinstance(tools, str)
    peer = vvc.vvc_peer(*tools, threads=1)
    coarse, fine = (peer.encode(image, qp) for qp in (42, 22))
    assert len(coarse) < len(fine)
    assert psnr(image, peer.decode(coarse)) < psnr(image, peer.decode(fine))


def test_half_the_rate_is_a_bd_rate_of_minus_fifty_percent() -> None:
    means = {q: {PLAIN: row(q / 100, q), ONE: row(q / 100, q + 1)} for q in (25, 35, 46)}
    ours = our_curves("lite", means, {ONE: "f"}, 3)
    assert [c.title for c in ours] == [
        "lite + f, total",
        "lite + f, additional only",
        "lite, total",
        "lite, additional only",
    ]
    assert ours[3].rates == pytest.approx([0.15, 0.25, 0.36])
    other = measured_curve("other", "x265", {q: row(2 * q / 100, q) for q in (46, 25, 35)}, 3)
    found = bd_rates([*ours, other, published_curve(False)])
    assert found["lite, total"] == {"other": pytest.approx(-50)}
    assert set(found) == {"lite, total", "lite + f, total"}
    assert bd_rates([*ours, measured_curve("far", "x265", {1: row(1, 90), 2: row(2, 95)}, 3)]) == {
        "lite + f, total": {"far": None},
        "lite, total": {"far": None},
    }


def test_the_plot_leaves_the_shallower_filter_out() -> None:
    means = {q: {role: row(q / 100, q) for role in (PLAIN, ONE, TWO)} for q in (25, 35)}
    curves = [*our_curves("lite", means, {ONE: "a", TWO: "b"}, 1), published_curve(True)]
    assert [c.kind for c in drawn(curves)] == [TWO, TWO, PLAIN, PLAIN, "single"]
    light, dark = plot(curves, 1), plot(curves, 1, dark=True)
    assert light[:4] == dark[:4] == b"\x89PNG" and light != dark


def test_noise_is_brighter_where_it_is_larger() -> None:
    image = np.full((4, 6, 3), 100, np.uint8)
    other = image.copy()
    other[0, 0], other[0, 1], other[1, 0, 2] = 104, 180, 91
    shown = noise.noise(image, other, 8)
    assert shown[0, 0] == 32 and shown[0, 1] == 255 and shown[1, 0] == 24 and shown.sum() == 32 + 255 + 24


def test_the_single_layer_reference_is_measured_where_the_codec_has_one(tmp_path: Path) -> None:
    source = find_model("lite").path
    codec = tmp_path / "codec"
    shutil.copytree(source, codec)
    shutil.copytree(source, codec / "single-layer")
    (tmp_path / "images").mkdir()
    import cv2

    image = noise_picture(64, 64)
    cv2.imwrite(str(tmp_path / "images" / "a.png"), image[:, :, ::-1])
    plan = Plan(
        str(codec), tmp_path / "images", tmp_path / "out", threads=1, l1="none", l2="none", lambdas=(0.005,)
    )
    (single,) = [c for c in Study(plan, lambda _: None).fig2() if c.kind == "single"]
    assert single.source == "measured" and single.title == "lite (single layer)"
    layers = load_codec("lite", threads=1).encode(image, base_quality=8, quality=25).layers
    assert single.rates[0] == pytest.approx(8 * (len(layers.base) + len(layers.enhancement)) / 64**2)
