"""The paper family's models: names and shapes as published, and numbers as a second implementation has them."""

from __future__ import annotations

import ast
import lzma
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training is not installed")
pytest.importorskip("compressai", reason="training is not installed")

# ruff: noqa: E402 - what follows needs torch
from secondlook.training.models.config import SIZES, TcmConfig
from secondlook.training.models.folder import plain_state
from secondlook.training.models.runtime import padded, to_tensor
from secondlook.training.models.tcm import AdditionalModel, Tcm
from tests.pictures import photo
from tests.training.paper_parts import lively, lively_pair
from tests.training.paper_reference import Reference

PUBLISHED = Path(__file__).with_name("published_tensors.txt.xz")
PARAMETERS = {"icm": 76_568_148, "ica": 67_015_828}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def published():
    """{"icm": {name: shape, …}, "ica": …} of the authors' checkpoints."""
    tensors = {"icm": {}, "ica": {}}
    for line in lzma.decompress(PUBLISHED.read_bytes()).decode().splitlines():
        model, name, shape = line.split(" ", 2)
        tensors[model][name] = ast.literal_eval(shape)
    return tensors


@pytest.fixture(scope="module")
def pair():
    return lively_pair()


def reference_of(model):
    state = {name: value.double() for name, value in model.state_dict().items()}
    return Reference(state, window=model.config.window, hyper_window=model.config.hyper_window)


@pytest.mark.parametrize("role, kind", [("icm", Tcm), ("ica", AdditionalModel)])
def test_the_state_dict_is_the_published_one(published, role, kind):
    model = kind()
    got = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert len(got) == {"icm": 1293, "ica": 1139}[role]
    assert list(got.items()) == list(published[role].items())
    assert {name: tuple(value.shape) for name, value in plain_state(model).items()} == published[role]
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[role]


def test_the_reduced_size_has_the_same_kinds_of_parts(published):
    """A reduced model lacks slices, nothing else."""
    full, reduced = (Tcm(SIZES[size][0]).state_dict().keys() for size in ("full", "reduced"))
    missing = full - reduced
    assert not reduced - full
    assert {int(name.split(".")[1]) for name in missing} == {3, 4}


def test_sizes_that_do_not_fit_are_refused():
    for wrong in ({"slices": 7}, {"fused": 100}, {"hyper": 257}, {"heads": (8, 16, 31)}, {"window": 16}):
        with pytest.raises(ValueError, match="do not fit"):
            TcmConfig(**wrong)


@torch.no_grad()
@pytest.mark.parametrize("height, width", [(256, 256), (200, 300)])
def test_both_implementations_agree(pair, height, width):
    """In float64, where a symbol that falls to the other side of a half would show at once."""
    image = photo(height, width)
    wide = padded(image)
    assert np.array_equal(wide, np.pad(image, ((0, -height % 128), (0, -width % 128), (0, 0)), mode="edge"))
    x = to_tensor(wide, torch.device("cpu")).double()
    machine, additional = (type(m)(m.config).double() for m in pair)
    for copy, original in zip((machine, additional), pair, strict=True):
        copy.load_state_dict(original.state_dict())
        copy.eval()
    base = machine(x)
    pictures = [(base, reference_of(pair[0])(x))]
    pictures.append((additional(x, base.latents), reference_of(pair[1])(x, pictures[0][1][1])))
    for ours, theirs in pictures:
        assert ours.latents.std() > 0.5, "the weights give nothing to compare"
        assert ours.likelihoods.std() > 0.05 and ours.hyper_likelihoods.std() > 0.003
        for a, b in zip(
            (ours.picture, ours.latents, ours.likelihoods, ours.hyper_likelihoods), theirs, strict=True
        ):
            assert a.shape == b.shape
            assert (a - b).abs().max() < 1e-4


@torch.no_grad()
def test_the_smallest_picture_is_one_window(pair):
    """128 pixels a side are 8 latent positions: a shifted window meets itself on all sides."""
    x = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(3)).double()
    model = Tcm(pair[0].config).double().eval()
    model.load_state_dict(pair[0].state_dict())
    assert (model(x).picture - reference_of(pair[0])(x)[0]).abs().max() < 1e-4


@torch.no_grad()
def test_fusion_adds_to_the_leading_channels(pair):
    base, more = torch.rand(1, 30, 8, 8), torch.rand(1, 20, 8, 8)
    fused = pair[1].fuse(base, more)
    assert torch.equal(fused[:, :20], base[:, :20] + more)
    assert torch.equal(fused[:, 20:], base[:, 20:])


@torch.no_grad()
def test_a_batch_is_coded_as_its_pictures_are(pair):
    x = torch.rand(2, 3, 128, 256, generator=torch.Generator().manual_seed(4))
    both = pair[0](x)
    for i in range(2):
        one = pair[0](x[i : i + 1])
        assert (both.likelihoods[i] - one.likelihoods[0]).abs().mean() < 1e-4
        assert both.bits()[i].item() == pytest.approx(one.bits().item(), rel=1e-3)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("kind", [Tcm, AdditionalModel])
def test_the_published_size_agrees_as_well(kind):
    """In float32, as it runs; a few symbols of thousands may fall to the other side of a half."""
    torch.manual_seed(12)
    model = lively(kind(), 5)
    x = to_tensor(photo(128, 256), torch.device("cpu"))
    base = () if kind is Tcm else (torch.randn(1, 320, 8, 16, generator=torch.Generator().manual_seed(6)),)
    ours = model(x, *base)
    reference = Reference(model.state_dict(), window=8, hyper_window=4)
    theirs = reference(x, *base)
    for a, b in zip(
        (ours.picture, ours.latents, ours.likelihoods, ours.hyper_likelihoods), theirs, strict=True
    ):
        assert (a - b).abs().median() < 1e-4
        assert ((a - b).abs() > 1e-3).float().mean() < 0.02
