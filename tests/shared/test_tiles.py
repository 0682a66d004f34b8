"""Frames of any size: tiles against the whole, padding, and what a frame may take."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.shared import codec as codec_module
from secondlook.shared import tiles
from secondlook.shared.codec import MARGINS, load_codec
from secondlook.shared.inference import open_session
from secondlook.shared.tiles import LATENT, STEP, cut, pad, run_tiled
from tests.pictures import noise, photo, psnr

ROWS, COLUMNS, SIDE = 384, 448, 192  # two by three tiles


@pytest.fixture(scope="module")
def codec():
    return load_codec(threads=1)


@given(
    st.integers(1, 60), st.integers(1, 60), st.integers(1, 12), st.integers(0, 3), st.sampled_from([1, 4, 64])
)
def test_cores_cover_everything_once(rows, columns, side, margin, multiple):
    rows, columns, side, margin = (multiple * n for n in (rows, columns, side, margin))
    count = np.zeros((rows, columns), int)
    whole = np.arange(rows * columns).reshape(rows, columns)
    for tile in cut(rows, columns, side=side, margin=margin, multiple=multiple):
        count[tile.kept()] += 1
        core, piece = whole[tile.kept()], whole[tile.read()]
        assert max(core.shape) <= side
        assert np.array_equal(piece[tile.inner()], core)
        assert all(end % multiple == 0 for end in (*tile.core, *tile.piece))
        assert max(p - c for p, c in zip(piece.shape, core.shape, strict=True)) <= 2 * margin
    assert (count == 1).all()


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 3))
def test_tiles_are_about_equal_and_have_their_whole_margin(blocks, side, margin):
    found = list(cut(64 * blocks, 64, side=64 * side, margin=64 * margin, multiple=64))
    heights = [tile.core[1] - tile.core[0] for tile in found]
    assert max(heights) - min(heights) <= 64
    assert len(found) == -(-blocks // side)
    for tile in found:
        assert tile.piece[0] == max(tile.core[0] - 64 * margin, 0)
        assert tile.piece[1] == min(tile.core[1] + 64 * margin, 64 * blocks)


@pytest.fixture(scope="module")
def every(codec):
    """Inputs of all graphs by name, as a picture gives them."""
    image = photo(ROWS, COLUMNS, seed=9)
    coded = codec.encode(image, base_quality=20, quality=45)
    lower = codec._read_base(coded.layers.base)
    upper = codec._read_enhancement(coded.layers.enhancement, lower)
    keep = np.ones((ROWS // LATENT, COLUMNS // LATENT), bool)
    keep[3:20, 7:30] = False
    payload = lower.bitstream.payload
    z_base, _ = codec._unpack(payload, "base", 20, np.ones_like(keep), None)
    payload = upper.bitstream.payload
    z_upper, _ = codec._unpack(payload, "enhancement", 45, np.ones_like(keep), lower.symbols)
    qualities = {"base_quality": np.array([20]), "quality": np.array([45])}
    places = {"keep": keep[None, None].astype(np.float32)}
    return {
        "image": image[None],
        "z_base": z_base[None],
        "symbols_base": lower.symbols[None],
        "reference_base": lower.latents[:, :, ::-1].copy(),
        "z_enhancement": z_upper[None],
        "symbols_enhancement": upper.symbols[None],
        "reference_enhancement": upper.latents[:, :, ::-1].copy(),
        "latents_base": lower.latents,
        "latents_enhancement": upper.latents,
        **qualities,
        **places,
    }


@pytest.fixture(
    params=["analysis", "dequantise_base", "dequantise_enhancement", "synthesis_base", "synthesis_enhanced"]
)
def graph(request, codec, every):
    """Name, session, inputs, and outputs for the whole frame."""
    session = open_session(codec._folder.file(f"{request.param}.onnx"), 1)
    feeds = {name: every[name] for name in session.inputs}
    return request.param, session, feeds, session.run(feeds)


def furthest(found, expected):
    """The largest difference of any output: in grey levels, or as a share of the output's spread."""
    worst = 0.0
    for name, array in expected.items():
        scale = 1.0 if array.dtype == np.uint8 else float(array.std())
        worst = max(worst, float(np.abs(found[name].astype(np.float64) - array).max()) / scale)
    return worst


def test_tiles_of_a_graph_are_the_whole_up_to_rounding(graph):
    name, session, feeds, whole = graph
    tiled = run_tiled(session, feeds, margin=MARGINS[name], side=SIDE)
    assert {name: (a.shape, a.dtype) for name, a in tiled.items()} == {
        name: (a.shape, a.dtype) for name, a in whole.items()
    }
    assert furthest(tiled, whole) <= (1 if "image" in whole else 1e-3)


def test_without_a_margin_seams_would_show(graph):
    """So the comparison above sees what it is there to see."""
    _, session, feeds, whole = graph
    tiled = run_tiled(session, feeds, margin=0, side=SIDE)
    assert furthest(tiled, whole) > (1 if "image" in tiled else 1e-3)


def test_no_graph_sees_further_than_its_margin(graph):
    """The receptive radius, measured: what changes when everything beyond the margin changes does not reach."""
    graph_name, session, feeds, whole = graph
    edge = 192 + MARGINS[graph_name]
    changed = {}
    for name, array in feeds.items():
        if array.ndim != 4 or name == "keep":
            changed[name] = array
            continue
        unit, axis = (1, 1) if name == "image" else (STEP if name.startswith("z_") else LATENT, 2)
        array = array.copy()
        beyond = (slice(None),) * axis + (slice(edge // unit, None),)
        array[beyond] = array[beyond][..., ::-1] + array.dtype.type(3)
        changed[name] = array
    for name, array in session.run(changed).items():
        unit, axis = (1, 1) if name == "image" else (LATENT, 2)
        near, far = (
            (slice(None),) * axis + (part,) for part in (slice(0, 192 // unit), slice(edge // unit, None))
        )
        scale = 1.0 if name == "image" else float(whole[name].std())
        assert np.abs(array[near].astype(float) - whole[name][near]).max() <= (
            1 if name == "image" else 1e-3 * scale
        )
        assert np.abs(array[far].astype(float) - whole[name][far]).max() > scale


def test_what_quantises_sees_no_further_than_its_margin(codec):
    """Symbols of a tile are those of the whole frame; so are those of neighbours, which σ-indexes follow from."""
    signal = codec._run("analysis", image=photo(640, 128, seed=9)[None])
    grid = (640 // LATENT, 128 // LATENT)
    feeds = {
        **signal,
        **codec._against(None, grid, 45),
        "base_quality": np.array([20]),
        "quality": np.array([45]),
    }
    session = open_session(codec._folder.file("quantise.onnx"), 1)
    whole = session.run(feeds)
    edge = 192 + MARGINS["quantise"]
    changed = dict(feeds)
    for name in ("y_base", "y_enhancement"):
        changed[name] = feeds[name].copy()
        changed[name][:, :, edge // LATENT :] += 3
    found = session.run(changed)
    for name in ("z_base", "symbols_base", "z_enhancement", "symbols_enhancement"):
        near = 192 // (STEP if name.startswith("z_") else LATENT)
        assert np.array_equal(found[name][:, :, :near], whole[name][:, :, :near]), name
        assert not np.array_equal(found[name], whole[name])


def test_sigma_indexes_follow_from_the_symbols_of_all_tiles(codec, monkeypatch):
    """In tiles or whole: what the decoder will find."""
    image = pad(photo(250, 400, seed=5))[None]
    for side in (tiles.SIDE, SIDE):
        monkeypatch.setattr(codec_module, "SIDE", side)
        coded = codec._code(image, 20, 45, None, None)
        for name, indexes in codec._indexes(coded, 20, 45).items():
            assert np.array_equal(coded[name], indexes)


def test_a_frame_in_tiles(codec, monkeypatch):
    """Encoded and decoded in tiles and whole: each decodes what the other made, to the same picture."""
    image = photo(250, 400, seed=5)
    moved = image.copy()
    moved[120:220, 90:240] = 230
    results = []
    for side in (tiles.SIDE, SIDE):
        monkeypatch.setattr(codec_module, "SIDE", side)
        key = codec.encode(image, base_quality=20, quality=45, sequence=3)
        results.append(
            (side, key.layers, codec.encode(moved, base_quality=20, quality=45, key=key.key).layers)
        )
    pictures = []
    for side in (tiles.SIDE, SIDE):
        monkeypatch.setattr(codec_module, "SIDE", side)
        for _, key, delta in results:
            pictures.append(codec.decode_enhanced(delta.base, delta.enhancement, key=key))
            pictures.append(codec.decode_base(delta.base, key=key.base))
    enhanced, bases = pictures[::2], pictures[1::2]
    assert psnr(enhanced[0], moved) > 25
    for found in (enhanced, bases):
        assert (
            psnr(found[2], found[0]) > 55 and psnr(found[3], found[1]) > 55
        )  # one stream, whole and in tiles
        assert psnr(found[1], found[0]) > 50  # two encoders


def test_tiles_keep_memory_down(codec):
    """A frame of more than one tile runs with the memory of its tiles: the graphs are never given the whole."""
    seen = []

    class Watched:
        def run(self, feeds, *, release=False):
            seen.append((feeds["image"].shape, release))
            return codec._graphs["analysis"].run(feeds)

    codec._run("analysis", image=photo(64, 64)[None])
    image = np.zeros((1, 64, 2 * tiles.SIDE + 64, 3), np.uint8)
    run_tiled(Watched(), {"image": image}, margin=64)
    assert len(seen) == 3
    assert all(shape[2] <= tiles.SIDE + 128 and release for shape, release in seen)
    seen.clear()
    run_tiled(Watched(), {"image": image}, margin=None)
    assert seen == [(image.shape, True)]
    seen.clear()
    run_tiled(Watched(), {"image": image[:, :, : tiles.SIDE]}, margin=64)
    assert seen == [((1, 64, tiles.SIDE, 3), False)]


@pytest.mark.parametrize(
    "height, width", [(1, 1), (16, 16), (17, 40), (64, 64), (65, 100), (100, 16), (16, 130)]
)
def test_padding_keeps_the_picture_and_adds_nothing_that_has_detail(height, width):
    image = noise(height, width)
    padded = pad(image)
    assert padded.shape == (-(-height // 64) * 64, -(-width // 64) * 64, 3) and padded.dtype == np.uint8
    assert np.array_equal(padded[:height, :width], image)
    bottom, right = -(-height // 16) * 16, -(-width // 16) * 16
    replicated = cv2.copyMakeBorder(image, 0, bottom - height, 0, right - width, cv2.BORDER_REPLICATE)
    assert np.array_equal(padded[:bottom, :right], replicated)
    for top in range(0, padded.shape[0], 16):
        for left in range(0, padded.shape[1], 16):
            if top >= bottom or left >= right:
                block = padded[top : top + 16, left : left + 16]
                assert (block == block[0, 0]).all()
                beside = padded[min(top, bottom - 16) :][:16, min(left, right - 16) :][:, :16]
                assert np.abs(beside.mean((0, 1)) - block[0, 0]).max() <= 1


def test_padding_costs_less_than_replication(codec, monkeypatch):
    def replicate(image):
        height, width = image.shape[:2]
        return cv2.copyMakeBorder(image, 0, -height % 64, 0, -width % 64, cv2.BORDER_REPLICATE)

    costs, losses = {}, {}
    images = [photo(height, width, seed=2) for height, width in ((100, 100), (257, 321), (40, 40))]
    for way in (pad, replicate):
        monkeypatch.setattr(codec_module, "pad", way)
        coded = [codec.encode(image, base_quality=16, quality=40).layers for image in images]
        costs[way] = sum(len(layers.base) + len(layers.enhancement) for layers in coded)
        shown = [codec.decode_enhanced(layers.base, layers.enhancement) for layers in coded]
        losses[way] = np.mean([psnr(a, b) for a, b in zip(shown, images, strict=True)])
    assert costs[pad] < costs[replicate]
    assert losses[pad] > losses[replicate] - 0.2
