"""The post-filter: tiles against the whole picture, sizes, memory, and folders that are none."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest

from secondlook.cloud.workers.postfilter import DEFAULT_TILE, PostFilter, load_postfilter
from secondlook.main import main
from secondlook.shared.errors import ConfigError, ModelCorrupt, ModelNotFound
from secondlook.shared.inference import open_session
from secondlook.shared.models import describe_files, find_model
from tests.pictures import noise, photo, psnr


@pytest.fixture(scope="module", params=[1, 4], ids=["full", "fast"])
def folder(request, tmp_path_factory):
    """A small filter whose random weights look all the way to its receptive radius."""
    torch = pytest.importorskip("torch", reason="training is not installed")
    model = pytest.importorskip("secondlook.training.postfilter.model")
    export = pytest.importorskip("secondlook.training.postfilter.export")
    torch.set_num_threads(1)
    torch.manual_seed(2)
    net = model.PostFilter(1, unshuffle=request.param, features=8, growth=4)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim == 4:
                parameter.normal_(0, 1.3 / (parameter[0].numel() ** 0.5))
        net.last.weight.mul_(0.3)
    made = tmp_path_factory.mktemp("postfilter") / f"small-{request.param}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export.export_postfilter(net, made, {"licence": "none"})
    return made


def altered(folder, target, **changes):
    """A copy of a filter folder with other manifest entries (None: without them)."""
    target.mkdir()
    (target / "filter.onnx").write_bytes((folder / "filter.onnx").read_bytes())
    manifest = json.loads((folder / "manifest.json").read_text()) | changes
    kept = {name: value for name, value in manifest.items() if value is not None}
    (target / "manifest.json").write_text(json.dumps(kept))
    return target


def furthest(a, b):
    return int(np.abs(a.astype(int) - b).max())


@pytest.mark.parametrize("height, width", [(96, 160), (97, 131), (33, 250)])
@pytest.mark.parametrize("tile", [32, 50])
def test_tiles_show_no_seam(folder, height, width, tile):
    image = photo(height, width)
    whole = load_postfilter(folder, threads=1, tile=4096).apply(image)
    tiled = load_postfilter(folder, threads=1, tile=tile).apply(image)
    assert furthest(whole, image) > 20
    assert furthest(tiled, whole) <= 1


def test_a_margin_short_of_the_radius_would_show_seams(folder, tmp_path):
    """So the comparison above sees what it is there to see."""
    image = noise(120, 120)
    radius = json.loads((folder / "manifest.json").read_text())["radius"]
    short = altered(folder, tmp_path / "short", radius=radius // 6)
    whole = load_postfilter(folder, threads=1, tile=4096).apply(image)
    tiled = load_postfilter(short, threads=1, tile=40).apply(image)
    assert furthest(tiled, whole) > 1


@pytest.mark.parametrize("height, width", [(1, 1), (1, 50), (3, 5), (64, 64), (65, 63), (41, 7)])
def test_sizes_are_kept(folder, height, width):
    image = photo(height, width)
    refined = load_postfilter(folder, threads=1, tile=32).apply(image)
    assert refined.shape == image.shape and refined.dtype == np.uint8
    assert refined.flags.c_contiguous and not np.shares_memory(refined, image)


def test_memory_is_bounded_by_the_tile(folder, monkeypatch):
    loaded = load_postfilter(folder, threads=1, tile=32)
    shapes = []
    run = loaded._session.run

    def watched(feeds):
        shapes.append(feeds["image"].shape)
        return run(feeds)

    monkeypatch.setattr(loaded._session, "run", watched)
    told = []
    loaded.apply(photo(300, 260), lambda: told.append(1))
    assert len(told) == len(shapes)  # whoever holds a lease hears of every tile
    manifest = json.loads((folder / "manifest.json").read_text())
    most = 32 + 2 * manifest["radius"] + manifest["multiple"]
    assert len(shapes) == 10 * 9
    assert max(max(h, w) for _, h, w, _ in shapes) <= most


@pytest.mark.parametrize("tile", [-5, 0, 1, 3])
def test_a_tile_below_the_least_is_the_least(folder, tile):
    image = photo(9, 10)
    assert load_postfilter(folder, threads=1, tile=tile).apply(image).shape == image.shape


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((8, 0, 3), np.uint8),
    ],
)
def test_other_arrays_are_no_pictures(folder, image):
    with pytest.raises(ConfigError):
        load_postfilter(folder, threads=1).apply(image)


@pytest.mark.parametrize(
    "changes",
    [
        {"radius": None},
        {"multiple": None},
        {"radius": -1},
        {"multiple": 0},
        {"radius": "18"},
        {"multiple": 1.0},
    ],
)
def test_manifests_without_what_tiling_needs(folder, tmp_path, changes):
    with pytest.raises(ModelCorrupt, match="radius or multiple"):
        load_postfilter(altered(folder, tmp_path / "bad", **changes))


def test_models_of_another_kind():
    with pytest.raises(ModelNotFound, match="not a 'postfilter'"):
        load_postfilter("lite")
    with pytest.raises(ModelNotFound):
        load_postfilter("rrdb-l99")


def test_a_graph_of_another_kind(folder, tmp_path):
    """The manifest is honest; the graph has other inputs."""
    bad = altered(folder, tmp_path / "bad")
    (bad / "filter.onnx").write_bytes(find_model("lite").file("synthesis_base.onnx").read_bytes())
    manifest = json.loads((bad / "manifest.json").read_text())
    (bad / "manifest.json").write_text(json.dumps(manifest | {"files": describe_files(bad, ["filter.onnx"])}))
    with pytest.raises(ModelCorrupt, match="`image`"):
        load_postfilter(bad)


@pytest.mark.parametrize("name", ["rrdb-l1", "rrdb-l2", "rrdb-fast"])
def test_shipped_filters_keep_the_picture_recognisable(name):
    try:
        loaded = load_postfilter(name, threads=1, tile=48)
    except ModelNotFound:
        pytest.skip(f"{name} is not in exported_models")
    image = photo(70, 90)
    assert psnr(loaded.apply(image), image) > 25


def test_parts_are_what_the_folder_says(folder):
    """`PostFilter` by hand, as a benchmark builds it."""
    session = open_session(folder / "filter.onnx", 1)
    manifest = json.loads((folder / "manifest.json").read_text())
    parts = {"radius": manifest["radius"], "multiple": manifest["multiple"]}
    by_hand = PostFilter(session, name="x", model_hash=b"", tile=DEFAULT_TILE, **parts)
    loaded = load_postfilter(folder, threads=1)
    assert loaded.model_hash.hex() == manifest["model_hash"]
    assert np.array_equal(by_hand.apply(photo(40, 50)), loaded.apply(photo(40, 50)))


def test_a_folder_works_wherever_a_name_does(tmp_path, monkeypatch):
    """`decode` and `demo`; a folder beside one needs no slash, and reaches the demo's processes as a path."""
    shutil.copytree(find_model("rrdb-fast").path, tmp_path / "mine")
    cv2.imwrite(str(tmp_path / "one.png"), photo(64, 64)[..., ::-1])
    monkeypatch.chdir(tmp_path)
    assert main(["encode", "one.png"]) == 0
    for name in ("mine", "./mine", "rrdb-fast"):
        layers = ["one.base.slk", "one.enh.slk"]
        assert main(["decode", *layers, "--postfilter", name, "-o", f"{Path(name).name}.png"]) == 0
    assert Path("mine.png").read_bytes() == Path("rrdb-fast.png").read_bytes()
    assert main(["decode", *layers, "-o", "plain.png"]) == 0
    assert Path("plain.png").read_bytes() != Path("mine.png").read_bytes()
    asked = []
    monkeypatch.setattr("secondlook.cloud.demo.run.run_demo", lambda config: asked.append(config) or 0)
    assert main(["demo", "--postfilter", "mine", "--no-open"]) == 0
    assert main(["demo", "--no-open"]) == 0
    assert [one.postfilter for one in asked] == [str(tmp_path / "mine"), "rrdb-fast"]
