"""Training of the paper family: its loss and batches, runs that stop and go on, and from a run to a demo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training is not installed")
pytest.importorskip("compressai", reason="training is not installed")

# ruff: noqa: E402 - what follows needs torch
from torch.utils._python_dispatch import TorchDispatchMode

from secondlook.main import main
from secondlook.shared.bitstream import parse
from secondlook.shared.errors import ConfigError, ModelNotFound
from secondlook.shared.models import find_model
from secondlook.training.masks.cache import mask_files
from secondlook.training.masks.choice import DEFAULT_MASKS, open_masks
from secondlook.training.masks.network import EdgeNet
from secondlook.training.models import train as training
from secondlook.training.models.batches import Batches, find_pictures, stream
from secondlook.training.models.config import REDUCED_ADDITIONAL, REDUCED_MACHINE
from secondlook.training.models.pair import PaperPair
from secondlook.training.models.runtime import PaperCodec, to_tensor
from secondlook.training.models.tcm import AdditionalModel, Tcm
from secondlook.training.models.train import (
    Place,
    Ranks,
    Run,
    Step,
    TrainConfig,
    read_checkpoint,
    reduced,
    train,
)
from secondlook.training.postfilter.train import validation_pairs
from tests.pictures import photo, psnr
from tests.training.paper_parts import lively_pair, write_pair

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(6)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A plain folder of twelve photographs, one smaller than a crop."""
    folder = tmp_path_factory.mktemp("pictures")
    for k in range(12):
        image = photo(100 if k == 11 else 160, 192, seed=k)
        cv2.imwrite(str(folder / f"{k:02d}.png"), image)
    return folder


@pytest.fixture
def work(tmp_path):
    """A folder for checkpoints with an edge network in it."""
    torch.save(EdgeNet().state_dict(), tmp_path / "edges.pt")
    return tmp_path


def tiny(stage, **changes):
    return reduced(stage, 0.01, **{"batch": 1, "steps": 2, **changes})


# data


def test_a_plain_folder_gives_up_its_first_images_for_judging(pictures, tmp_path):
    found = find_pictures(pictures)
    assert [path.stem for path in found.held_out] == [f"{k:02d}" for k in range(8)]
    assert [path.stem for path in found.train] == ["08", "09", "10", "11"]
    for k in range(3):
        cv2.imwrite(str(tmp_path / f"{k}.png"), photo(16, 16))
    with pytest.raises(ConfigError, match="more than 8"):
        find_pictures(tmp_path)


def test_the_layout_of_this_project_is_known(tmp_path):
    for part in ("train/images", "val"):
        (tmp_path / part).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / part / "a.png"), photo(16, 16))
    found = find_pictures(tmp_path)
    assert [path.parent.name for path in (*found.train, *found.held_out)] == ["images", "val"]


def masks_of(pictures, work):
    """Files of the default masks of the training images of a folder."""
    return mask_files(
        open_masks(DEFAULT_MASKS, pictures, work), find_pictures(pictures).train, work / "masks"
    )


def test_a_plain_folder_gets_masks_of_the_edge_network_and_says_when_there_is_none(pictures, work):
    masks = masks_of(pictures, work)
    assert len(masks) == 4 and all(path.exists() for path in masks) and masks == masks_of(pictures, work)
    (work / "edges.pt").unlink()
    with pytest.raises(ModelNotFound, match="secondlook train edges"):
        masks_of(pictures, work)


def test_a_batch_is_the_same_whenever_it_is_asked_for(pictures, work):
    found = find_pictures(pictures)
    masks = masks_of(pictures, work)
    batches = Batches(found.train, masks, crop=128, batch=3, seed=(7, 0))
    crops, of_them = batches[5]
    assert crops.shape == (3, 3, 128, 128) and of_them.shape == (3, 1, 128, 128)
    assert crops.dtype == of_them.dtype == torch.uint8
    assert torch.equal(crops, batches[5][0]) and torch.equal(of_them, batches[5][1])
    others = (batches[6], Batches(found.train, masks, crop=128, batch=3, seed=(7, 1))[5])
    assert not any(torch.equal(crops, other) for other, _ in others)
    later = [crop for crop, _ in stream(batches, 4, 7, 0)]
    assert len(later) == 3 and torch.equal(later[1], crops)


# loss


def test_the_machine_model_learns_inside_the_mask_only():
    """Where the mask is empty only the rate is left, and where it is full the loss is of all pixels."""
    torch.manual_seed(1)
    step = Step(Tcm(REDUCED_MACHINE).eval(), None, tiny("machine"))
    x = torch.rand(1, 3, 128, 128)
    empty, full = (step(x, torch.full((1, 1, 128, 128), value)) for value in (0.0, 1.0))
    assert empty["loss"].item() == pytest.approx(empty["bpp"].item())
    error = 10 ** (-full["psnr"].item() / 10)
    assert full["loss"].item() == pytest.approx(full["bpp"].item() + 0.01 * 255**2 * error, rel=1e-4)


def test_the_additional_model_leaves_the_machine_model_alone():
    torch.manual_seed(2)
    machine, additional = Tcm(REDUCED_MACHINE), AdditionalModel(REDUCED_ADDITIONAL)
    step = Step(additional, machine.eval().requires_grad_(False), tiny("additional"))
    assert not any(name.startswith("_frozen") or "machine" in name for name in step.state_dict())
    figures = step(torch.rand(1, 3, 128, 128), torch.zeros(1, 1, 128, 128))
    (figures["loss"] + figures["quantiles"]).backward()
    assert all(parameter.grad is None for parameter in machine.parameters())
    assert all(parameter.grad is not None for parameter in additional.parameters())


def test_quantiles_have_a_loss_of_their_own():
    torch.manual_seed(3)
    model = Tcm(REDUCED_MACHINE)
    figures = Step(model, None, tiny("machine"))(torch.rand(1, 3, 128, 128), torch.ones(1, 1, 128, 128))
    figures["loss"].backward(retain_graph=True)
    assert model.entropy_bottleneck.quantiles.grad is None
    figures["quantiles"].backward()
    assert model.entropy_bottleneck.quantiles.grad.abs().sum() > 0


class FreeOfTheHost(TorchDispatchMode):
    """Raises where a value goes from a device to the host, or a list of numbers the other way."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.lift_fresh.default):
            raise RuntimeError(f"{func} ends a recording")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("stage", ["machine", "additional"])
def test_a_step_can_be_recorded(stage, tmp_path):
    """What a CUDA graph cannot hold is not in it: neither a value asked for, nor one brought."""
    below = Tcm(REDUCED_MACHINE).state_dict() if stage == "additional" else None
    run = Run(Place(Path(), tmp_path, below), tiny(stage), Ranks(), torch.device("cpu"))
    run.optimiser = torch.optim.SGD(
        run.model.parameters(), lr=0.1
    )  # Adam of a CPU counts its steps on the host
    before = run.model.g_a[0].conv1.weight.clone()
    crops, masks = (torch.randint(0, 256, (1, n, 128, 128), dtype=torch.uint8) for n in (3, 1))
    with FreeOfTheHost():
        figures = run._take(0, crops, masks)
        with pytest.raises(RuntimeError, match="_local_scalar_dense"):
            figures["loss"].item()
        with pytest.raises(RuntimeError, match="lift_fresh"):
            torch.tensor([1, 0])
    assert not torch.equal(run.model.g_a[0].conv1.weight, before)


def test_a_gradient_that_is_no_number_changes_nothing(tmp_path):
    run = Run(Place(Path(), tmp_path), tiny("machine"), Ranks(), torch.device("cpu"))
    before = [weight.detach().clone() for weight in run.weights]
    crops, masks = (torch.randint(0, 256, (1, n, 128, 128), dtype=torch.uint8) for n in (3, 1))
    run.model.g_a[0].conv1.weight.register_hook(lambda grad: grad * float("nan"))
    run.advance(crops, masks)
    assert all(map(torch.equal, run.weights, before))
    assert run.step == 1


def test_the_rate_falls():
    """By default to a tenth in the last tenth of the steps; in the reduced preset as a cosine."""
    published = TrainConfig("machine", 0.01, steps=100)
    assert [published.rate(step) for step in (0, 89, 90, 99)] == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5])
    small = reduced("machine", 0.01, steps=100)
    assert [small.rate(step) for step in (0, 50, 100, 120)] == pytest.approx([1e-3, 5.1e-4, 2e-5, 2e-5])


@pytest.mark.parametrize(
    "wrong", [{"crop": 100}, {"batch": 0}, {"steps": 0}, {"stage": "both"}, {"lam": 0.0}, {"size": "huge"}]
)
def test_runs_that_cannot_be(wrong):
    with pytest.raises(ConfigError):
        TrainConfig(**{"stage": "machine", "lam": 0.01, **wrong})


# runs


def test_a_run_stops_and_goes_on(pictures, work, monkeypatch, capsys):
    """Two steps at once end where one step and one after a resume do."""
    monkeypatch.setattr(training, "LOG_EVERY", 1)
    place = Place(pictures, work)
    whole = train(place, tiny("machine"), 10, resume=False, threads=1)
    at_once = read_checkpoint(whole)
    first = train(place, tiny("machine", steps=1), 10, resume=False, threads=1)
    assert read_checkpoint(first)["step"] == 1
    train(place, tiny("machine"), 10, resume=True, threads=1)
    resumed = read_checkpoint(first)
    assert resumed["step"] == at_once["step"] == 2
    assert resumed["model"].keys() == at_once["model"].keys()
    assert "held_out_psnr" in capsys.readouterr().out
    train(place, tiny("machine", steps=50), 0, resume=True, threads=1)
    assert read_checkpoint(first)["step"] == 2, "no time was left for a step"
    with pytest.raises(ConfigError, match="of size reduced"):
        train(place, TrainConfig("machine", 0.01, crop=128, batch=1, steps=1), 1, resume=True, threads=1)


def test_an_additional_model_starts_from_the_machine_model(pictures, work):
    with pytest.raises(ConfigError, match="machine model"):
        train(Place(pictures, work), tiny("additional"), 1, resume=False, threads=1)
    state = lively_pair()[0].state_dict()
    model, below = training.build(tiny("additional"), state)
    assert torch.equal(model.state_dict()["g_s.3.conv.weight"], state["g_s.3.conv.weight"])
    assert torch.equal(below.state_dict()["g_a.9.weight"], state["g_a.9.weight"])
    assert model.g_a[9].weight.shape[0] == REDUCED_ADDITIONAL.latents


def test_from_the_command_line_to_a_model_folder(pictures, work, capsys):
    """Both stages, two λ, export with and without a machine model from elsewhere."""
    common = [
        "--data",
        str(pictures),
        "--work",
        str(work),
        "--minutes",
        "5",
        "--threads",
        "1",
        "--size",
        "reduced",
        "--batch",
        "1",
        "--steps",
        "1",
    ]
    assert main(["export", "paper", "--work", str(work), "--out", str(work)]) == 1
    assert "no checkpoint" in capsys.readouterr().err
    assert main(["train", "paper", "machine", *common, "--lam", "0.02"]) == 0
    for lam in ("0.005", "0.02"):
        assert main(["train", "paper", "additional", *common, "--lam", lam]) == 0
    assert main(["export", "paper", "--work", str(work), "--out", str(work), "--note", "a test"]) == 0
    folder = find_model(work / "paper", kind="codec")
    assert folder.manifest["family"] == "paper" and folder.manifest["size"] == "reduced"
    codec = PaperCodec(folder, threads=1, device="cpu")
    assert [point.quality for point in codec.facts.points] == [25, 46]
    assert codec.facts.base_quality == 46
    layers = codec.encode(photo(40, 50), base_quality=8, quality=20).layers
    assert parse(layers.enhancement).quality == 25
    assert codec.decode_enhanced(layers.base, layers.enhancement).shape == (40, 50, 3)
    assert (
        main(["train", "paper", "additional", *common, "--lam", "0.01", "--machine", str(folder.path)]) == 0
    )


def test_export_wants_checkpoints_of_one_size(pictures, work):
    path = train(Place(pictures, work), tiny("machine", steps=1), 5, resume=False, threads=1)
    state = read_checkpoint(path)
    below = state["model"]
    train(Place(pictures, work, below), tiny("additional", steps=1), 5, resume=False, threads=1)
    state["config"]["size"] = "full"
    torch.save(state, path)
    assert main(["export", "paper", "--work", str(work), "--out", str(work)]) == 1
    with pytest.raises(ModelNotFound):
        read_checkpoint(work / "none.pt")


# post-filters


@torch.no_grad()
def test_post_filters_train_on_what_the_runtime_decodes(tmp_path, pictures):
    folder = find_model(write_pair(tmp_path / "small"))
    pair, codec = PaperPair(folder).eval(), PaperCodec(folder, device="cpu")
    image = photo(100, 150)
    x = to_tensor(image, torch.device("cpu"))
    out = pair(x, torch.tensor([8]), torch.tensor([25]))
    layers = codec.encode(image, base_quality=8, quality=25).layers
    for name, decoded in (
        ("base", codec.decode_base(layers.base)),
        ("enhanced", codec.decode_enhanced(layers.base, layers.enhancement)),
    ):
        assert out[name].shape == x.shape
        ours = (out[name][0].clamp(0, 1) * 255).permute(1, 2, 0).numpy()
        assert np.abs(ours - decoded).mean() < 0.5
    pairs = validation_pairs(pair, pictures, 1, "enhanced")
    assert pairs[0][0].shape == pairs[0][1].shape


# slow: what the issue asks of the reduced size, from nothing to a demo


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_reduced_model_improves_and_round_trips(pictures, work):
    place = Place(pictures, work)
    config = reduced("machine", 0.01, batch=2, steps=150, mask_floor=0.2)
    pictures_found = find_pictures(pictures)
    held_out = [
        to_tensor(cv2.imread(str(p))[:128, :128, ::-1].copy(), torch.device("cpu"))
        for p in pictures_found.held_out[:4]
    ]
    ranks, cpu = training.Ranks(), torch.device("cpu")
    before = training.Run(place, config, ranks, cpu).judge(held_out)
    below = read_checkpoint(train(place, config, 30, resume=False, threads=1))["model"]
    run = training.Run(place, config, ranks, cpu)
    run.resume()
    after = run.judge(held_out)
    assert after["loss"] < 0.6 * before["loss"]
    upper = reduced("additional", 0.02, batch=2, steps=100)
    train(Place(pictures, work, below), upper, 30, resume=False, threads=1)
    assert main(["export", "paper", "--work", str(work), "--out", str(work)]) == 0
    codec = PaperCodec(find_model(work / "paper"), threads=1, device="cpu")
    image = photo(512, 768, seed=40)
    layers = codec.encode(image, base_quality=0, quality=46).layers
    base, enhanced = codec.decode_base(layers.base), codec.decode_enhanced(layers.base, layers.enhancement)
    assert psnr(image, enhanced) > psnr(image, base) > 14
    pair = PaperPair(find_model(work / "paper")).eval()
    with torch.no_grad():
        x = to_tensor(image, cpu)
        lower = pair.machine(x)
        estimates = lower.bits().item(), pair.additional[0](x, lower.latents).bits().item()
    for layer, estimate in zip((layers.base, layers.enhancement), estimates, strict=True):
        assert 8 * len(layer) == pytest.approx(estimate, rel=0.02)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_processes_train_one_model(pictures, work):
    """As torchrun starts them: both end, one writes, and the figures are those of one run."""
    masks_of(pictures, work)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "secondlook",
        "train",
        "paper",
        "machine",
        "--size",
        "reduced",
        "--data",
        str(pictures),
        "--work",
        str(work),
        "--minutes",
        "10",
        "--threads",
        "1",
        "--batch",
        "1",
        "--steps",
        "12",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, check=False, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=1500
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert read_checkpoint(work / "paper-machine.pt")["step"] == 12
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [line["step"] for line in lines] == [12], "only the first process speaks"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_demo_runs_with_it(tmp_path):
    """Edge, worker and refiner with a reduced model of the family."""
    installed = tmp_path / "site" / "secondlook_plugins-1.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: secondlook-plugins\nVersion: 1\n")
    (installed / "entry_points.txt").write_text(
        "[secondlook.codecs]\npaper = secondlook.training.models.runtime:load\n"
    )
    (tmp_path / "frames").mkdir()
    for k in range(3):
        cv2.imwrite(str(tmp_path / "frames" / f"{k}.png"), photo(128, 192, seed=k))
    folder, report = write_pair(tmp_path / "small"), tmp_path / "report.json"
    command = [
        sys.executable,
        "-m",
        "secondlook",
        "demo",
        "--codec",
        str(folder),
        "--source",
        str(tmp_path / "frames"),
        "--frames",
        "3",
        "--audit-every",
        "1",
        "--exit",
        "--no-open",
        "--port",
        "0",
        "--postfilter",
        "rrdb-fast",
        "--stall-seconds",
        "900",
        "--report",
        str(report),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(installed.parent)])}
    done = subprocess.run(
        command, check=False, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=1700
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(report.read_text())
