"""The paper family's bitstreams and run-time codec, and how model folders of it come to be."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from importlib.metadata import EntryPoint

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="training is not installed")
pytest.importorskip("compressai", reason="training is not installed")

# ruff: noqa: E402 - what follows needs torch
from safetensors.torch import load_file, save_file

from secondlook.edge.coding.encode import FrameEncoder
from secondlook.edge.config import CodecConfig
from secondlook.edge.source.camera import Frame
from secondlook.main import main
from secondlook.shared import plugins
from secondlook.shared.bitstream import Codec, parse
from secondlook.shared.codec import load_codec
from secondlook.shared.errors import (
    BitstreamError,
    ConfigError,
    DeviceUnavailable,
    LayerMismatch,
    MalformedBitstream,
    ModelCorrupt,
    ModelNotFound,
    UnsupportedBitstream,
)
from secondlook.shared.layers import Layers
from secondlook.shared.models import describe_files, find_model
from secondlook.training.models.config import ADDITIONAL, MACHINE
from secondlook.training.models.folder import plain_state
from secondlook.training.models.runtime import PaperCodec, padded, to_tensor
from secondlook.training.models.tcm import AdditionalModel, Tcm
from tests.pictures import photo
from tests.training.paper_parts import lively_pair, write_pair


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def pair():
    return lively_pair()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pair):
    return write_pair(tmp_path_factory.mktemp("models") / "small", pair)


@pytest.fixture(scope="module")
def codec(folder):
    return PaperCodec(find_model(folder), threads=1, device="cpu")


@pytest.fixture(scope="module")
def coded(codec):
    """Both layers of one small picture."""
    return codec.encode(photo(96, 120), base_quality=5, quality=33).layers


def forged(layer, **changes):
    """A layer with other fields, and a container that is whole."""
    return dataclasses.replace(parse(layer), **changes).to_bytes()


@torch.no_grad()
@pytest.mark.parametrize("height, width", [(1, 1), (128, 128), (130, 260)])
def test_pictures_come_back_as_the_models_have_them(codec, pair, height, width):
    image = photo(height, width)
    layers = codec.encode(image, base_quality=0, quality=63).layers
    machine, additional = pair
    x = to_tensor(padded(image), torch.device("cpu"))
    base = machine(x)
    for decoded, expected in (
        (codec.decode_base(layers.base), base.picture),
        (codec.decode_enhanced(*vars(layers).values()), additional(x, base.latents).picture),
    ):
        assert decoded.shape == image.shape and decoded.dtype == np.uint8
        wanted = (expected[0, :, :height, :width].clamp(0, 1) * 255).permute(1, 2, 0).numpy()
        assert np.abs(decoded - wanted).max() < 0.51


def test_what_the_layers_say(codec, coded):
    lower, upper = parse(coded.base), parse(coded.enhancement)
    assert lower.codec is upper.codec is Codec.PAPER
    assert lower.model_hash == upper.model_hash == codec.model_hash
    # One machine model and one additional model: the nearest there is, whatever was asked for.
    assert (lower.quality, upper.base_quality, upper.quality) == (30, 30, 40)
    assert (lower.width, lower.height) == (upper.width, upper.height) == (120, 96)
    assert upper.base_symbol_crc == lower.symbol_crc != upper.symbol_crc


def test_encoding_is_repeatable(folder, coded):
    again = PaperCodec(find_model(folder), threads=1, device="cpu")
    assert again.encode(photo(96, 120), base_quality=5, quality=33).layers == coded


@torch.no_grad()
def test_estimated_and_real_rates_agree(codec, pair):
    image = photo(256, 384)
    layers = codec.encode(image, base_quality=0, quality=40).layers
    x = to_tensor(image, torch.device("cpu"))
    base = pair[0](x)
    for layer, estimate in ((layers.base, base), (layers.enhancement, pair[1](x, base.latents))):
        assert 8 * len(layer) == pytest.approx(estimate.bits().item(), rel=0.02)


@settings(max_examples=15)
@given(
    place=st.integers(0, 1 << 30),
    flip=st.integers(1, 255),
    cut=st.integers(0, 40),
    which=st.sampled_from(["base", "enhancement"]),
)
def test_altered_payloads_end_in_our_errors(codec, coded, place, flip, cut, which):
    """The container is made whole again, so that only the decoder can notice."""
    payload = bytearray(parse(getattr(coded, which)).payload)
    payload[place % len(payload)] ^= flip
    broken = forged(getattr(coded, which), payload=bytes(payload[: len(payload) - cut]))
    layers = dataclasses.replace(coded, **{which: broken})
    with pytest.raises(BitstreamError):
        codec.decode_enhanced(layers.base, layers.enhancement)


@pytest.mark.parametrize("cut", [0, 1, 30, 60])
def test_truncated_layers_are_refused(codec, coded, cut):
    with pytest.raises(BitstreamError):
        codec.decode_base(coded.base[:cut])


def test_layers_that_do_not_belong_together(codec, coded):
    other = codec.encode(photo(96, 120, seed=2), base_quality=5, quality=33).layers
    for base, enhancement in (
        (coded.base, other.enhancement),
        (coded.enhancement, coded.enhancement),
        (coded.base, coded.base),
    ):
        with pytest.raises(LayerMismatch):
            codec.decode_enhanced(base, enhancement)


def test_what_another_model_or_family_coded(codec, coded):
    with pytest.raises(ModelNotFound, match="not with small"):
        codec.decode_base(forged(coded.base, model_hash=bytes(8)))
    lite = load_codec("lite")
    with pytest.raises(UnsupportedBitstream, match="lite"):
        codec.decode_base(lite.encode(photo(64, 64), base_quality=8, quality=40).layers.base)
    with pytest.raises(UnsupportedBitstream, match="paper"):
        lite.decode_base(coded.base)


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"quality": 31, "base_quality": 31}, "no machine model of quality 31"),
        ({"reference": 3, "reference_crc": 1}, "no deltas"),
        ({"width": 16384, "height": 2048}, "too large"),
        ({"symbol_crc": 1, "base_symbol_crc": 1}, "checksum"),
    ],
)
def test_headers_that_cannot_be(codec, coded, changes, told):
    with pytest.raises(BitstreamError, match=told):
        codec.decode_base(forged(coded.base, **changes))


def test_an_enhancement_of_a_quality_that_is_not_there(codec, coded):
    with pytest.raises(MalformedBitstream, match="no additional model of quality 41"):
        codec.decode_enhanced(coded.base, forged(coded.enhancement, quality=41))


def test_frames_that_cannot_be_coded(codec):
    for wrong in (photo(8, 8).astype(np.float32), np.zeros((4096, 4096, 3), np.uint8)):
        with pytest.raises(ConfigError):
            codec.encode(wrong, base_quality=0, quality=0)


def test_drift_is_noticed(tmp_path, pair, coded, codec):
    """A decoder whose scales come out a little different shows nothing."""
    machine = Tcm(pair[0].config)
    machine.load_state_dict(pair[0].state_dict())
    with torch.no_grad():
        machine.cc_scale_transforms[1][4].bias *= 1.05
    other = PaperCodec(find_model(write_pair(tmp_path / "other", (machine, pair[1]))), device="cpu")
    drifted = forged(coded.base, model_hash=other.model_hash)
    with pytest.raises(BitstreamError, match="hardware and software"):
        other.decode_base(drifted)


def test_an_edge_sends_keys_only(codec):
    encoder = FrameEncoder(codec, CodecConfig(key_interval=3), "ab" * 16)
    frames = [encoder.encode(Frame(photo(64, 64), k)) for k in range(2)]
    assert [(f.info.seq, f.info.key_seq) for f in frames] == [(0, None), (1, None)]
    assert codec.decode_base(frames[1].base).shape == (64, 64, 3)


def test_load_codec_opens_it(monkeypatch, folder, coded):
    entry = EntryPoint("paper", "secondlook.training.models.runtime:load", plugins.GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda *, group: [entry])
    opened = load_codec(folder, threads=1, device="auto")  # a float codec decodes where it was encoded
    assert opened.name == "small"
    assert opened.decode_enhanced(coded.base, coded.enhancement).shape == (96, 120, 3)


def test_its_device_is_the_one_asked_for(monkeypatch, folder):
    entry = EntryPoint("paper", "secondlook.training.models.runtime:load", plugins.GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda *, group: [entry])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert str(load_codec(folder, threads=1, device="cpu").device) == "cpu"
    assert str(load_codec(folder, threads=1, device="cuda:1").device) == "cuda:1"
    with pytest.raises(DeviceUnavailable, match="device cuda:2: torch sees 2 GPUs"):
        load_codec(folder, threads=1, device="cuda:2")


# model folders


def damaged(folder, tmp_path, name, change):
    """A copy of a model folder with one file changed, and an honest manifest."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    change(copy / name)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"] = describe_files(copy, list(manifest["files"]))
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return find_model(copy)


def without_a_tensor(path):
    tensors = load_file(path)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, path)


@pytest.mark.parametrize(
    "name, change",
    [
        ("codec.json", lambda path: path.write_text("{}")),
        (
            "codec.json",
            lambda path: path.write_text(path.read_text().replace('"quality": 40', '"quality": 64')),
        ),
        ("codec.json", lambda path: path.write_text(path.read_text().replace('"width": 12', '"width": 13'))),
        ("machine.safetensors", without_a_tensor),
        ("machine.safetensors", lambda path: path.write_bytes(b"nothing of use")),
        ("entropy.safetensors", without_a_tensor),
    ],
)
def test_a_folder_that_does_not_hold_together(folder, tmp_path, coded, name, change):
    with pytest.raises(ModelCorrupt):
        PaperCodec(damaged(folder, tmp_path, name, change), device="cpu").encode(
            photo(8, 8), base_quality=0, quality=0
        )


def checkpoints(tmp_path, machine, additional):
    """A pair of files as the authors' training leaves them."""
    paths = tmp_path / "icm.pth.tar", tmp_path / "ica.pth.tar"
    for path, model in zip(paths, (machine, additional), strict=True):
        state = {f"module.{name}": value for name, value in model.state_dict().items()}
        torch.save({"state_dict": state, "epoch": 3, "loss": 0.5}, path)
    return paths


def test_import_of_checkpoints(tmp_path, pair, capsys, codec, coded):
    icm, ica = checkpoints(tmp_path, *pair)
    out = tmp_path / "imported"
    assert main(["import-checkpoint", str(icm), str(ica), "--out", str(out)]) == 0
    assert "licence" in capsys.readouterr().out
    imported = PaperCodec(find_model(out, kind="codec"), threads=1, device="cpu")
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["size"] == "reduced" and "states no licence" in manifest["licence"]
    assert set(manifest["imported"]) == {"machine", "additional"}
    for name, value in load_file(out / "machine.safetensors").items():
        assert torch.equal(value, plain_state(pair[0])[name])
    layers = imported.encode(photo(96, 120), base_quality=5, quality=33).layers
    assert parse(layers.base).payload == parse(coded.base).payload
    # λ = 0.05 and 0.01 are what the authors' pair was trained with.
    assert (parse(layers.base).quality, parse(layers.enhancement).quality) == (60, 35)


def test_wrong_files_are_named(tmp_path, pair, capsys):
    icm, ica = checkpoints(tmp_path, *pair)
    text = tmp_path / "text.pth"
    text.write_text("no checkpoint at all")
    listed = tmp_path / "list.pth"
    torch.save([1, 2], listed)
    other = tmp_path / "other.pth"
    torch.save({"state_dict": {"g_a.0.conv1.weight": torch.zeros(1)}}, other)
    code = tmp_path / "code.pth"
    torch.save({"state_dict": math.sqrt}, code)
    for first, second, told in (
        (ica, icm, "the machine model comes first"),
        (tmp_path / "absent", ica, "no such file"),
        (text, ica, "without running code"),
        (code, ica, "without running code"),
        (listed, ica, "no state dict"),
        (other, ica, "tensors differ"),
    ):
        assert main(["import-checkpoint", str(first), str(second), "--out", str(tmp_path / "out")]) == 1
        assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_checkpoints_of_the_published_size(tmp_path):
    """From files like the authors' to a picture: what a user with their checkpoints does."""
    torch.manual_seed(8)
    icm, ica = checkpoints(tmp_path, Tcm(MACHINE), AdditionalModel(ADDITIONAL))
    out = tmp_path / "full"
    assert main(["import-checkpoint", str(icm), str(ica), "--out", str(out)]) == 0
    full = PaperCodec(find_model(out), device="cpu")
    layers: Layers = full.encode(photo(100, 140), base_quality=8, quality=35).layers
    assert full.decode_enhanced(layers.base, layers.enhancement).shape == (100, 140, 3)
