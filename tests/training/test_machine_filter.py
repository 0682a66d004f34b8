"""The filter for machines: its start as the identity, what it is trained on, a short run with a resume, its export."""

from __future__ import annotations

import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training is not installed")

# ruff: noqa: E402 - what follows needs torch
from secondlook.cloud.workers.machinefilter import load_machine_filter
from secondlook.main import main
from secondlook.shared.errors import ConfigError
from secondlook.shared.video import VideoSettings
from secondlook.training.machine.codecs import as_decoded, code_frames, find_codec
from secondlook.training.machine.measure import Clip
from secondlook.training.machinefilter.export import export_machine_filter
from secondlook.training.machinefilter.model import MachineFilter
from secondlook.training.machinefilter.scenes import (
    SCENE_FRAMES,
    Sample,
    cropped,
    samples_of_clip,
    samples_of_images,
    scene,
)
from secondlook.training.machinefilter.train import MachineFilterConfig, stacked
from tests.pictures import noise, photo, psnr


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(5)


def moving(count=8, height=240, width=320):
    """A bright square that crosses a picture."""
    still, frames = photo(height, width), []
    for number in range(count):
        frame = still.copy()
        frame[80:140, 12 * number : 12 * number + 60] = 230
        frames.append(frame)
    return Clip("moving", tuple(frames))


def randomised(**sizes):
    net = MachineFilter(**sizes)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim == 4:
                parameter.normal_(0, 1.2 / parameter[0].numel() ** 0.5)
        net.last.weight.mul_(0.2)
    return net


@torch.no_grad()
def test_it_starts_as_the_identity_within_its_cost():
    net, (x, background) = MachineFilter(), torch.rand(2, 1, 3, 16, 24)
    assert torch.equal(net(x, background), x)
    assert net.macs_per_pixel <= 36_000


def test_the_radius_is_how_far_one_pixel_looks_in_both_pictures():
    net = MachineFilter(features=4, blocks=2).double()
    for parameter in net.parameters():
        torch.nn.init.constant_(parameter, 0.1 if parameter.ndim == 4 else 0.0)
    half = net.radius + 2 * net.unshuffle
    x = (torch.rand(1, 3, 2 * half, 2 * half, dtype=torch.float64) + 1).requires_grad_()
    background = x.detach().clone().requires_grad_()
    net(x, background)[0, :, half, half].sum().backward()
    for picture in (x, background):
        blocks = picture.grad[0].abs().amax(0).nonzero() // net.unshuffle - half // net.unshuffle
        assert int(blocks.abs().max()) * net.unshuffle == net.radius


@torch.no_grad()
def test_what_is_exported_computes_what_was_trained_in_tiles_too(tmp_path):
    net, image, background = randomised(features=8, blocks=1), photo(97, 131), noise(97, 131)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export_machine_filter(net, tmp_path / "small", {"licence": "none"})
    whole = load_machine_filter(tmp_path / "small", threads=1, tile=4096).apply(image, background)
    tiled = load_machine_filter(tmp_path / "small", threads=1, tile=32).apply(image, background)
    assert whole.shape == image.shape and np.abs(whole.astype(int) - image).max() > 20
    assert np.abs(tiled.astype(int) - whole).max() <= 1
    wide = [torch.from_numpy(np.pad(p, ((0, 3), (0, 1), (0, 0)), "edge")) for p in (image, background)]
    ours = net(*(p.permute(2, 0, 1)[None].float() / 255 for p in wide))
    shown = (ours.clamp(0, 1) * 255).round()[0].permute(1, 2, 0).numpy()[:97, :131]
    assert np.abs(shown - whole).max() <= 1
    with pytest.raises(ConfigError, match="has no background of"):
        load_machine_filter(tmp_path / "small", threads=1).apply(image, background[:90])


def test_frames_of_a_clip_are_those_that_a_worker_decodes():
    clip = moving()
    samples = samples_of_clip(clip, qualities=(0, 30))
    assert len(samples) == len(clip.frames)
    coarse, fine = samples[:4], samples[4:]
    assert [sample.original is clip.frames[n] for sample, n in zip(coarse, (0, 2, 4, 6), strict=True)]
    assert np.mean([psnr(s.decoded, s.original) for s in coarse]) < np.mean(
        [psnr(s.decoded, s.original) for s in fine]
    )
    coded = code_frames(clip.frames, VideoSettings("x265"), 30)
    decoded, background = list(as_decoded(coded))[7]
    assert np.array_equal(fine[3].decoded, decoded) and np.array_equal(fine[3].background, background)
    assert fine[3].scale == 416 / 320
    assert [one.bytes for one in coded] == list(find_codec("video x265").encode(clip.frames, 30).sizes)


def test_scenes_move_over_what_stands_still(tmp_path):
    rng, still = np.random.default_rng(3), photo(240, 320)
    empty, *frames = scene(still, [noise(90, 120)] * 4, rng)
    assert len(frames) == SCENE_FRAMES
    assert np.array_equal(empty, still) and not np.array_equal(frames[0], frames[1])
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), photo(240, 320, seed=number))
    paths = sorted(tmp_path.glob("*.png"))
    samples = samples_of_images(paths, 224, rng, is_over=lambda: False)
    assert len(samples) == 2 * len(paths)
    for sample in samples:
        assert sample.decoded.shape == sample.background.shape == sample.original.shape == (224, 224, 3)
        assert psnr(sample.decoded, sample.original) > 12
    assert len(samples_of_images(paths, 224, rng, is_over=lambda: True)) == 2


def test_a_crop_is_taken_where_coding_lost_something():
    original = photo(256, 512)
    decoded = original.copy()
    decoded[:, :200] ^= 0x3F
    sample, rng = Sample(decoded, original, original, 1.0), np.random.default_rng(0)
    lost = [cropped(sample, 128, rng) for _ in range(20)]
    assert sum(not np.array_equal(one.decoded, one.original) for one in lost) >= 17
    half = stacked([sample] * 3, 1.0, rng)
    assert (
        half.decoded.shape == (3, 3, 224, 224)
        and half.seen_at % 32 == 0
        and half.decoded.dtype == torch.uint8
    )


def test_bench_machine_shows_what_a_filter_makes_at_the_same_bits(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export_machine_filter(randomised(features=8, blocks=1), tmp_path / "small", {"licence": "none"})
    clip = moving(3)
    plain, filtered = (
        find_codec(name).encode(clip.frames, 20) for name in ("video x265", f"filtered {tmp_path / 'small'}")
    )
    assert plain.sizes == filtered.sizes
    shown = load_machine_filter(tmp_path / "small", threads=1)
    coded = code_frames(clip.frames, VideoSettings("x265", group_frames=250), 20)
    for (decoded, background), one in zip(as_decoded(coded), filtered.decoded, strict=True):
        assert np.array_equal(shown.apply(decoded, background), one)


def test_an_odd_batch_has_no_halves():
    with pytest.raises(ConfigError, match="even number of crops"):
        MachineFilterConfig(batch=5)


def test_a_short_run_its_resume_and_the_export(tmp_path, capsys):
    (tmp_path / "train" / "images").mkdir(parents=True)
    for number in range(3):
        cv2.imwrite(str(tmp_path / "train" / "images" / f"{number}.png"), photo(240, 320, seed=number))
    clip = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"MJPG"), 5, (320, 240))
    for frame in moving().frames:
        writer.write(frame)
    writer.release()
    detector = Path(__file__).parents[2] / "exported_models" / "detector"
    command = ["train", "machine-filter", "--data", str(tmp_path), "--videos", str(clip), "--batch", "2"]
    command += ["--detector", str(detector), "--work", str(tmp_path / "runs"), "--threads", "1"]
    steps = []
    for more in ([], ["--resume"]):
        assert main([*command, "--minutes", "0.05", *more]) == 0
        steps.append(torch.load(tmp_path / "runs" / "machine-filter.pt", weights_only=True)["step"])
    assert 0 < steps[0] < steps[1]
    assert main(["export", "machine-filter", "--work", str(tmp_path / "runs"), "--out", str(tmp_path)]) == 0
    image = photo(50, 70)
    filtered = load_machine_filter(tmp_path / "machine-filter", threads=1).apply(image, image)
    assert psnr(filtered, image) > 25
    assert "val_feature_ratio" in capsys.readouterr().out
