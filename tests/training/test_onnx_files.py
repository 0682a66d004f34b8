"""ONNX files and training images: half-size weights, dynamic axes, crops."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training is not installed")
onnx = pytest.importorskip("onnx", reason="training is not installed")

# ruff: noqa: E402 - what follows needs torch
from secondlook.shared.inference import open_session
from secondlook.training.data import CropSampler, fits, list_images, read_rgb
from secondlook.training.onnx_files import SMALL, export_onnx


@pytest.fixture
def module():
    torch.set_num_threads(1)
    torch.manual_seed(6)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 64, 5, padding=2), torch.nn.ReLU(), torch.nn.Conv2d(64, 2, 1)
    )


def export(module, path, **options):
    axes = {2: "height", 3: "width"}
    export_onnx(
        module,
        [torch.zeros(1, 3, 8, 8)],
        path,
        inputs=["x"],
        outputs=["y"],
        dynamic={"x": axes, "y": axes},
        **options,
    )
    return onnx.load(path)


def test_large_weights_are_stored_as_halves(module, tmp_path):
    graph = export(module, tmp_path / "half.onnx").graph
    types = {t.name: (t.data_type, int(np.prod(t.dims))) for t in graph.initializer}
    assert {kind for kind, count in types.values() if count >= SMALL} == {onnx.TensorProto.FLOAT16}
    assert {kind for kind, count in types.values() if count < SMALL} == {onnx.TensorProto.FLOAT}
    export(module, tmp_path / "full.onnx", half_weights=False)
    sizes = [(tmp_path / f"{name}.onnx").stat().st_size for name in ("half", "full")]
    assert sizes[0] < 0.6 * sizes[1]


@pytest.mark.parametrize("half", [True, False])
def test_graphs_compute_what_torch_computes(module, tmp_path, half):
    export(module, tmp_path / "m.onnx", half_weights=half)
    session = open_session(tmp_path / "m.onnx", 1)
    assert (session.inputs, session.outputs) == (("x",), ("y",))
    for size in ((8, 8), (5, 31)):
        x = torch.rand(1, 3, *size)
        with torch.no_grad():
            expected = module(x).numpy()
        found = session.run({"x": x.numpy()})["y"]
        assert found.shape == expected.shape and found.dtype == np.float32
        assert np.abs(found - expected).max() < (2e-3 if half else 1e-5)


def test_weights_that_half_cannot_hold_are_refused(module, tmp_path):
    with torch.no_grad():
        module[0].weight[0, 0, 0, 0] = 1e6
    with pytest.raises(ValueError, match="float16"):
        export(module, tmp_path / "m.onnx")


def picture(number, height=20, width=30):
    """Red tells the column, green the row, blue the picture."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x, y, np.full_like(x, number)], -1).astype(np.uint8)


def test_crops_and_their_planes_belong_together():
    images = [picture(1), picture(2, 16, 16)]
    sampler = CropSampler(images, [i[:, :, 0] + i[:, :, 1] for i in images], 16, np.random.default_rng(1))
    crops, planes = sampler.batch(200)
    assert crops.shape == (200, 3, 16, 16) and planes.shape == (200, 1, 16, 16)
    assert np.array_equal(crops[:, 0] + crops[:, 1], planes[:, 0])
    assert set(np.unique(crops[:, 2])) == {1, 2}
    assert all(len(np.unique(c[2])) == 1 for c in crops)
    from_first = crops[crops[:, 2, 0, 0] == 1]
    assert {int(c[0].min()) for c in from_first} == set(range(15))
    assert {int(c[1].min()) for c in from_first} == set(range(5))
    flipped = crops[:, 0, 0, 0] > crops[:, 0, 0, 1]
    assert 60 < flipped.sum() < 140


def test_crops_without_planes():
    crops, planes = CropSampler([picture(1)], None, 8, np.random.default_rng(1)).batch(3)
    assert crops.any() and not planes.any()
    assert fits(picture(1), 20) and not fits(picture(1), 21)


def test_images_are_read_as_rgb_in_order(tmp_path):
    for name in ("b.png", "a.PNG", "note.txt"):
        (tmp_path / name).write_bytes(cv2.imencode(".png", picture(9)[:, :, ::-1])[1].tobytes())
    assert [p.name for p in list_images(tmp_path)] == ["a.PNG", "b.png"]
    assert np.array_equal(read_rgb(tmp_path / "a.PNG"), picture(9))


def test_folders_without_images(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(FileNotFoundError, match="no image"):
            list_images(folder)
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken\.png"):
        read_rgb(tmp_path / "broken.png")
