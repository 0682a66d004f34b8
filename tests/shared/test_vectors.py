"""Golden bitstreams decode to what was kept, and a change would be seen."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version

import cv2
import pytest
from packaging.version import Version

from secondlook.shared.bitstream import parse
from secondlook.shared.codec import load_codec
from tests import vectors
from tests.vectors import coder


@pytest.fixture(scope="module")
def codec():
    return load_codec(threads=1)


@pytest.fixture
def copied(tmp_path):
    """A copy of the vectors that a test may spoil."""
    folder = tmp_path / "vectors"
    shutil.copytree(vectors.FOLDER, folder)
    return folder


def test_vectors_decode_as_kept(codec):
    assert vectors.problems(codec) == []


@pytest.mark.parametrize("name", vectors.RECIPES)
def test_every_vector_holds_symbols_of_its_kind(name):
    """Deltas name the key they were made against; checksums are those of real symbols."""
    layers, recipe = vectors.layers_of(name), vectors.RECIPES[name]
    base, enhancement = parse(layers.base), parse(layers.enhancement)
    assert (base.quality, enhancement.quality) == (recipe.base_quality, recipe.quality)
    assert enhancement.base_symbol_crc == base.symbol_crc
    number = list(vectors.RECIPES).index(recipe.key) if recipe.key is not None else None
    assert base.reference == enhancement.reference == number


def test_the_coder_writes_what_was_kept(codec):
    """Bytes, not only pictures: on any machine, since no float graph takes part."""
    assert coder.coder_problems(codec) == []


def test_another_coder_is_seen(monkeypatch, codec):
    kept = codec._pack
    monkeypatch.setattr(
        codec,
        "_pack",
        lambda *given: {part: (data + b"0", crc) for part, (data, crc) in kept(*given).items()},
    )
    assert len(coder.coder_problems(codec)) == 2 * len(vectors.RECIPES)


def test_the_coder_is_bounded_by_versions_that_can_be_tried(tmp_path):
    lowest, highest = coder.bounds()
    assert Version(lowest) <= Version(version("constriction")) <= Version(highest)
    loose = tmp_path / "pyproject.toml"
    loose.write_text('[project]\ndependencies = ["constriction>=0.4,<1"]\n')
    with pytest.raises(ValueError, match="not bounded"):
        coder.bounds(loose)


@pytest.mark.slow  # fetches packages
@pytest.mark.parametrize("wanted", coder.bounds())
def test_the_oldest_and_the_newest_coder_write_the_same_bytes(tmp_path, wanted):
    done = coder.try_version(wanted, tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"code as kept with constriction {wanted}\n" in done.stdout


def test_an_altered_layer_is_seen(codec, copied):
    path = copied / "odd.base.slk"
    data = bytearray(path.read_bytes())
    data[-6] ^= 1
    path.write_bytes(data)
    assert [line.split(": ")[:2] for line in vectors.problems(codec, copied)] == [
        ["odd", "MalformedBitstream"]
    ]


def test_another_picture_is_seen(codec, copied):
    path = copied / "ramp.enhanced.png"
    image = vectors.read_png(path)
    image[:, :20] += 2
    cv2.imwrite(str(path), image[:, :, ::-1])
    (line,) = vectors.problems(codec, copied)
    assert line.startswith("ramp.enhanced: ") and "dB from the kept picture" in line


def test_layers_swapped_between_vectors_are_seen(codec, copied):
    shutil.copy(copied / "photo.base.slk", copied / "odd.base.slk")
    lines = vectors.problems(codec, copied)
    assert "odd: its base layer is not the one that was kept" in lines
    assert any(line.startswith("odd: LayerMismatch") for line in lines)


def test_vectors_of_another_model_are_seen(codec, copied):
    listed = vectors.read_list(copied) | {"model_hash": "0011223344556677"}
    (copied / "vectors.json").write_text(json.dumps(listed))
    assert "made with model 0011223344556677" in vectors.problems(codec, copied)[0]


def test_writing_again_gives_vectors_that_decode(codec, copied):
    assert vectors.write(copied) == []
    assert vectors.problems(codec, copied) == []


def test_vectors_are_not_written_over_a_change_of_format(monkeypatch, copied):
    """As when entropy coding is altered and the version stays."""
    monkeypatch.setattr("secondlook.shared.entropy._zigzag", lambda value: 2 * abs(value))
    monkeypatch.setattr("secondlook.shared.scale_network.Z_GAIN", 5)
    lines = vectors.write(copied)
    assert "raise secondlook.shared.bitstream.VERSION" in lines[-1]
    assert any("SymbolMismatch" in line or "Malformed" in line for line in lines)
