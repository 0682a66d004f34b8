"""The public names: the page about them runs, wrong arguments are our errors, and little is imported for them."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import secondlook
from secondlook.shared.codec import load_codec
from secondlook.shared.errors import ConfigError

ROOT = Path(__file__).parents[1]
PICTURE = np.random.default_rng(3).integers(0, 256, (40, 56, 3), np.uint8)


def test_the_examples_of_the_page_run() -> None:
    found = doctest.testfile(str(ROOT / "docs" / "library.md"), module_relative=False)
    assert found.attempted > 15 and found.failed == 0


def test_every_public_name_is_there_and_documented() -> None:
    page = (ROOT / "docs" / "library.md").read_text()
    for name in secondlook.__all__:
        assert getattr(secondlook, name) is not None
        assert name.startswith("__") or getattr(secondlook, name).__doc__
        assert f"{name}" in page or name in (
            "Rate",
            "Latents",
            "Layers",
            "Detection",
            "encode_batch",
            "__version__",
        )
    assert set(secondlook.__all__) <= set(dir(secondlook))
    with pytest.raises(AttributeError, match="no attribute 'decode'"):
        _ = secondlook.decode


def test_importing_the_package_opens_nothing_heavy() -> None:
    command = "import sys, secondlook; print([n for n in ('numpy', 'onnxruntime', 'torch', 'zmq') if n in sys.modules])"
    told = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_it_is_the_codec_that_it_says() -> None:
    wanted = load_codec("lite").encode(PICTURE, base_quality=16, quality=40).layers
    assert secondlook.encode(PICTURE) == wanted
    assert secondlook.encode(Image.fromarray(PICTURE)) == wanted
    assert secondlook.encode(Image.fromarray(PICTURE).convert("RGBA"), base_quality=np.int64(16)) == wanted
    assert secondlook.encode_batch([PICTURE, PICTURE[:20]])[0] == wanted
    assert np.array_equal(
        secondlook.decode_enhanced(wanted), secondlook.decode_enhanced(wanted.base, wanted.enhancement)
    )
    assert np.array_equal(secondlook.decode_base(bytearray(wanted.base)), secondlook.decode_base(wanted))
    assert secondlook.bpp(wanted).total == pytest.approx(
        8 * (len(wanted.base) + len(wanted.enhancement)) / (40 * 56)
    )


@pytest.mark.parametrize(
    "picture",
    [
        "photo.png",
        None,
        PICTURE.astype(np.float32),
        PICTURE[..., 0],
        PICTURE[None],
        PICTURE[..., :2],
        [[1, 2, 3]],
    ],
)
def test_what_is_no_picture_is_a_config_error(picture: object) -> None:
    for function in (secondlook.encode, secondlook.refine, secondlook.detect):
        with pytest.raises(ConfigError, match=r"a picture is uint8\[H,W,3\]"):
            function(picture)


@pytest.mark.parametrize("quality", [8.5, -1, 64, True, "40", "lambda-0.015", None])
def test_what_is_no_quality_is_a_config_error(quality: object) -> None:
    for name in ("quality", "base_quality"):
        with pytest.raises(ConfigError, match="a quality is a whole number"):
            secondlook.encode(PICTURE, **{name: quality})


@pytest.mark.parametrize("picture", [Image.fromarray(PICTURE), "photo.png", None])
def test_the_codec_itself_names_what_it_was_given(picture: object) -> None:
    with pytest.raises(ConfigError, match="a frame is uint8"):
        load_codec("lite").encode(picture, base_quality=16, quality=40)
    for quality in (8.5, "lambda-0.010", 64):
        with pytest.raises(ConfigError, match="not a whole number in 0"):
            load_codec("lite").encode(PICTURE, base_quality=16, quality=quality)


def test_one_layer_is_not_two() -> None:
    layers = secondlook.encode(PICTURE)
    with pytest.raises(ConfigError, match="takes both layers"):
        secondlook.decode_enhanced(layers.base)
    with pytest.raises(ConfigError, match="a layer is bytes, not str"):
        secondlook.inspect("photo.slk")


def test_latents_are_those_that_were_coded() -> None:
    layers = secondlook.encode(PICTURE)
    latents = secondlook.decode_latents(layers)
    assert {name: (of.symbols.dtype, of.latents.dtype) for name, of in latents.items()} == dict.fromkeys(
        ("base", "enhancement"), (np.dtype(np.int16), np.dtype(np.float32))
    )
    assert all(of.symbols.shape == of.latents.shape for of in latents.values())
    assert all(np.abs(of.symbols).max() > 0 for of in latents.values())


def test_the_torch_codec_is_differentiable() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("compressai")
    codec = secondlook.load_torch_codec("lite")
    pictures = torch.rand(1, 3, 64, 64, requires_grad=True)
    out = codec(pictures, torch.tensor([16]), torch.tensor([40]))
    out["enhanced"].sum().backward()
    assert float(pictures.grad.abs().sum()) > 0
