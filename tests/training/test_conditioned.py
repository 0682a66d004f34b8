"""The enhancement that sees what `video` made of a frame: its pairs, its start, a few steps, its figures."""

from __future__ import annotations

import json
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training is not installed")
pytest.importorskip("pycocotools")

# ruff: noqa: E402 - what follows needs torch
from secondlook.main import main
from secondlook.shared.bitstream import parse
from secondlook.shared.codec import load_codec
from secondlook.shared.errors import ConfigError
from secondlook.shared.models import find_model
from secondlook.training.lite import conditioned_gain, decoded_pairs
from secondlook.training.lite.conditioned import ConditionedCodec
from secondlook.training.lite.conditioned_gain import as_planes, independent, load_tables, rate_at
from secondlook.training.lite.decoded_pairs import Clips, PairSampler, kept_pairs, load_pairs
from secondlook.training.lite.export import load_lite
from secondlook.training.lite.fit_scales import code_layer
from secondlook.training.lite.train import TrainConfig, train
from secondlook.training.lite.weights import load_weights
from secondlook.training.rate_distortion import Point, bpp, psnr
from tests.pictures import photo

SHIPPED = find_model("lite", kind="codec").path
CONFIG = TrainConfig(crop=64, batch=2, total_steps=2, only="enhancement", conditioned=True)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(3)
    monkeypatch.setattr(decoded_pairs, "QUALITIES", (6, 40))
    monkeypatch.setattr(decoded_pairs, "FRAMES", 2)
    monkeypatch.setattr("secondlook.training.lite.train.GAIN_CROPS", 4)


def write_clip(path: Path, seed: int) -> None:
    """A square that moves in front of a still ground: 1.2 s of 128x128 at 5 frames/s."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5, options={"qp": "16"})
        stream.width, stream.height, stream.pix_fmt = 128, 128, "yuv420p"
        for number in range(6):
            image = photo(128, 128, seed=seed)
            image[40:70, 12 * number : 12 * number + 30] = (230, 220, 40)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures to train on, one too small, one to judge by, and two clips."""
    folder = tmp_path_factory.mktemp("data")
    for name, sizes in (("train/images", ((140, 160), (150, 130), (70, 90))), ("val", ((64, 64),))):
        (folder / name).mkdir(parents=True)
        for number, size in enumerate(sizes):
            cv2.imwrite(str(folder / name / f"{number}.png"), photo(*size, seed=number))
    (folder / "clips").mkdir()
    for name in ("street", "office"):
        write_clip(folder / "clips" / f"{name}.mp4", seed=len(name))
    return folder


def fresh() -> ConditionedCodec:
    model = ConditionedCodec()
    model.load_state_dict(load_weights(SHIPPED), strict=False)
    return model.eval()


def pair(image: np.ndarray, decoded: np.ndarray) -> torch.Tensor:
    return torch.cat([as_planes(image), as_planes(decoded)], 1)


def test_pairs_are_of_clips_that_are_not_held_out_and_of_stills_and_are_made_once(
    data: Path, tmp_path: Path
) -> None:
    clips, stills = Clips((data / "clips",), ("office",)), data / "train" / "images"
    assert [path.stem for path in clips.paths()] == ["street"]
    file = kept_pairs(clips, stills, tmp_path, 64, 1)
    with np.load(file) as held:
        crops, qualities = held["crops"], held["qualities"]
    assert crops.shape == (2 * 2 * decoded_pairs.CROPS + 2 * decoded_pairs.CROPS, 128, 128, 6)
    assert set(qualities[:8]) == {6, 40}
    for crop, quality in zip(crops, qualities, strict=True):
        assert 18 < psnr(crop[..., :3], crop[..., 3:]) < 45, quality
    made = file.stat().st_mtime_ns
    assert kept_pairs(clips, stills, tmp_path, 64, 1) == file and file.stat().st_mtime_ns == made
    assert kept_pairs(Clips((data / "clips",)), stills, tmp_path, 64, 1) != file


def test_a_name_that_no_clip_has_is_no_hold_out(data: Path) -> None:
    with pytest.raises(ConfigError, match="offices"):
        Clips((data / "clips",), ("offices",)).paths()
    with pytest.raises(ConfigError, match="leaves no clip"):
        Clips((data / "clips",), ("office", "street")).paths()


def test_with_and_without_the_decoded_pictures_the_same_crops_are_drawn() -> None:
    crops = np.random.default_rng(1).integers(0, 256, (5, 128, 128, 6), np.uint8)
    samplers = [
        PairSampler(crops, np.arange(5, dtype=np.uint8), 64, np.random.default_rng(2), decoded)
        for decoded in (True, False)
    ]
    for _ in range(2):
        (both, quality), (one, same) = (sampler.batch(3) for sampler in samplers)
        assert both.shape == (3, 6, 64, 64) and np.array_equal(both[:, :3], one)
        assert np.array_equal(quality, same)


@torch.no_grad()
def test_gains_are_one_where_the_decoded_picture_is_the_original_and_small_where_it_is_another() -> None:
    model, images = fresh(), [photo(128, 192, seed=seed) for seed in range(3)]
    same = torch.cat([pair(image, image) for image in images])
    model.start_gain(same, torch.tensor([10, 20, 30]))
    assert model.condition.gain.knots.min() > 0.99
    other = torch.cat([pair(image, images[place - 1]) for place, image in enumerate(images)])
    model.start_gain(other, torch.tensor([10, 20, 30]))
    assert model.condition.gain.knots.mean() < 0.6


@torch.no_grad()
def test_a_picture_that_the_decoder_has_costs_few_bits_and_a_rounding_in_it_changes_no_symbol() -> None:
    model, image, quality = fresh(), photo(192, 256), torch.tensor([40])
    decoded = cv2.GaussianBlur(image, (0, 0), 0.8)
    x, base_quality = pair(image, decoded), torch.tensor([30])
    model.start_gain(x, base_quality)
    out = model(x, base_quality, quality)
    alone = load_lite(SHIPPED).eval()(x[:, :3], torch.tensor([0]), quality)
    assert out["bpp_enhancement"] < 0.8 * (alone["bpp_base"] + alone["bpp_enhancement"])
    assert not out["bpp_base"].any() and torch.equal(out["base"], x[:, 3:])

    layer, scale = model.enhancement, torch.exp(model.enhancement.log_gain(quality))
    known = model.known(x[:, 3:], base_quality)
    coded = code_layer(
        layer, model.analyse(x[:, :3])[1], quality, known.prior * scale, known.features, known.symbols
    )
    rounded = (x[:, 3:] + torch.randint(-1, 2, x[:, 3:].shape) / 255).clamp(0, 1)
    theirs = model.known(rounded, base_quality)
    assert torch.equal(layer.scale(coded.hyper, quality, theirs.symbols), coded.index)
    context = torch.cat([layer.hyper_mean(coded.hyper), theirs.features], 1)
    whole = torch.ones_like(coded.symbols[:, :1]), torch.zeros_like(coded.symbols)
    latents = layer.quantiser.dequantise(coded.symbols, context, theirs.prior * scale, *whole)
    shown = model.synthesise_conditioned(latents, theirs, quality)
    assert (shown - out["enhanced"]).square().mean().sqrt() < 2 / 255


def run(data: Path, work: Path, config: TrainConfig, *, resume: bool = False) -> Path:
    clips = Clips((data / "clips",), ("office",))
    return train(data, work, 5, config, resume=resume, threads=1, start_from=SHIPPED, clips=clips)


def test_only_the_enhancement_learns_and_a_run_goes_on(data: Path, tmp_path: Path) -> None:
    path = run(data, tmp_path, CONFIG)
    assert path == tmp_path / "conditioned.pt"
    state, before = torch.load(path, weights_only=True), load_weights(SHIPPED)
    assert state["source"]["images"] == 4  # three stills and a clip
    moved = {name.partition(".")[0] for name in before if not torch.equal(before[name], state["live"][name])}
    assert moved == {
        *("enhancement_head", "base_features", "prior", "fusion"),
        *("enhancement", "enhancement_synthesis"),
    }
    condition = {name for name in state["live"] if name.startswith("condition.")}
    assert all(
        state["live"][f"condition.{name}.weight"].any() for name in ("prior", "features", "fusion", "wide")
    )
    assert len(condition) == len(state["live"]) - len(before)
    longer = TrainConfig(crop=64, batch=2, total_steps=3, only="enhancement", conditioned=True)
    assert torch.load(run(data, tmp_path, longer, resume=True), weights_only=True)["step"] == 3


def test_the_control_and_the_figures(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the command line: both runs in one folder, on the same crops, then both judged."""
    work = tmp_path / "runs"
    common = ["train", "lite", "--data", str(data), "--work", str(work), "--minutes", "5", "--steps", "1"]
    common += ["--from-model", str(SHIPPED), "--only", "enhancement", "--crop", "64", "--batch", "2"]
    common += ["--lr", "1e-6", "--clips", str(data / "clips"), "--hold-out", "office"]
    for more in ([], ["--conditioned"]):
        assert main([*common, *more]) == 0
    assert sorted(path.name for path in work.glob("*.pt")) == ["conditioned.pt", "lite.pt"]
    assert len(list(work.glob("pairs-*.npz"))) == 1
    capsys.readouterr()
    judged = ["--clips", str(data / "clips" / "office.mp4"), "--frames", "2", "--base-qualities", "48"]
    judged += ["--conditioned", str(work / "conditioned.pt"), "--control", str(work / "lite.pt")]
    assert conditioned_gain.main([*judged, "--json", str(tmp_path / "out.json")]) == 0
    (row,) = json.loads((tmp_path / "out.json").read_text())
    assert row["clip"] == "office" and row["frames"] == 2 and row["bd_rate"] < -10
    assert f"| office, 2 frames | 48 | {row['psnr_decoded']:.2f} " in capsys.readouterr().out


def test_the_controls_bytes_are_those_of_the_codec() -> None:
    image, usual = photo(192, 256), conditioned_gain.QUALITIES.index(40)
    point = independent(load_lite(SHIPPED).eval(), load_tables(), image, 8)[usual]
    codec = load_codec("lite", threads=1)
    layers = codec.encode(image, base_quality=8, quality=40).layers
    payloads = sum(len(parse(one).payload) for one in (layers.base, layers.enhancement))
    assert point.bpp == pytest.approx(bpp(payloads, image), rel=0.01)
    served = codec.decode_enhanced(layers.base, layers.enhancement)
    assert point.psnr == pytest.approx(psnr(served, image), abs=0.1)


def test_bits_at_equal_psnr() -> None:
    points = [Point(0.1, 30.0), Point(0.4, 34.0)]
    assert rate_at(points, 32.0) == pytest.approx(0.2)
    assert np.isnan(rate_at(points, 35.0))


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"clips": None}, "--conditioned needs --clips"),
        ({"config": TrainConfig(conditioned=True)}, "--only enhancement"),
        ({"start_from": None}, "--from-model"),
    ],
)
def test_settings_that_do_not_go_together(data: Path, tmp_path: Path, change: dict, cause: str) -> None:
    given = {"config": CONFIG, "clips": Clips((data / "clips",)), "start_from": SHIPPED, **change}
    with pytest.raises(ConfigError, match=cause):
        train(data, tmp_path, 1, resume=False, threads=1, **given)


def test_kept_pairs_are_read_again(data: Path, tmp_path: Path) -> None:
    file = kept_pairs(Clips((data / "clips" / "street.mp4",)), data / "train" / "images", tmp_path, 64, 1)
    sampler = load_pairs(file, 64, 5, decoded=True)
    planes, quality = sampler.batch(4)
    assert planes.shape == (4, 6, 64, 64) and set(quality) <= {6, 40}
