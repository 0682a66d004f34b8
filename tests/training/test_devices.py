"""What training on a GPU rests on, as far as a CPU can tell: batches drawn ahead, states that move, steps that never
wait for the device."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="training is not installed")

# ruff: noqa: E402 - what follows needs torch
from torch import nn

from secondlook.training.detector.features import open_features
from secondlook.training.devices import AHEAD, CPU, Recorded, adam, read_ahead, restore, set_rate
from secondlook.training.lite import train as lite

GPU = torch.device("cuda")
TEACHER = Path(__file__).parents[3] / "shared" / "data" / "models" / "yolox_nano.onnx"
needs_teacher = pytest.mark.skipif(not TEACHER.exists(), reason="the YOLOX-nano export is not there")


def threads_reading() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "read-ahead"]


@pytest.mark.parametrize("device", [CPU, GPU])
def test_batches_come_in_the_order_drawn(device):
    draws = read_ahead(itertools.count().__next__, device)
    assert [next(draws) for _ in range(20)] == list(range(20))
    draws.close()
    assert threads_reading() == []


def test_few_batches_are_drawn_ahead():
    numbers, drawn = itertools.count(), []
    waited = threading.Event()

    def draw() -> int:
        drawn.append(next(numbers))
        if len(drawn) > AHEAD + 1:
            waited.set()
        return drawn[-1]

    draws = read_ahead(draw, GPU)
    assert next(draws) == 0
    assert waited.wait(10)
    assert not threading.Event().wait(0.1)
    # One is here, AHEAD wait in the queue, and one waits for its place.
    assert len(drawn) == AHEAD + 2
    draws.close()
    assert threads_reading() == []


def test_an_error_of_the_draw_comes_where_its_batch_would():
    numbers = iter([1, 2])
    draws = read_ahead(lambda: {1: "one", 2: "two"}[next(numbers, 3)], GPU)
    assert [next(draws), next(draws)] == ["one", "two"]
    with pytest.raises(KeyError):
        next(draws)
    assert threads_reading() == []


def test_on_a_cpu_a_step_is_called_as_it_is():
    recorded = Recorded(lambda kind, x: {"sum": x.sum() + kind}, CPU)
    assert [recorded(2, torch.full((3,), float(i)))["sum"].item() for i in range(6)] == [2, 5, 8, 11, 14, 17]


def test_the_state_of_a_run_on_a_gpu_goes_on_on_a_cpu():
    """As it is saved there: its rate a tensor, and flags that a CPU does not know."""
    weights = {"weight": torch.ones(1, 2), "bias": torch.zeros(1)}
    there, here = nn.Linear(2, 1), nn.Linear(2, 1)
    for net in (there, here):
        net.load_state_dict(weights)
    optimiser, resumed = adam(there, 1e-3, CPU), adam(here, 1e-3, CPU)
    there(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    saved = optimiser.state_dict()
    saved["param_groups"][0] |= {"lr": torch.tensor(5e-4), "fused": True, "capturable": True}
    here.load_state_dict(there.state_dict())
    restore(resumed, saved)
    group = resumed.param_groups[0]
    assert (group["lr"], group["fused"], group["capturable"]) == (1e-3, None, False)
    for net, its in ((there, optimiser), (here, resumed)):
        for each in its.param_groups:
            each.update(lr=1e-3, fused=None, capturable=False)
        net.zero_grad()
        net(torch.ones(1, 2)).sum().backward()
        its.step()
    assert torch.equal(there.weight, here.weight)
    assert not torch.equal(here.weight, weights["weight"])


def test_a_rate_that_is_a_tensor_is_changed_in_place():
    """A recorded step reads that very tensor."""
    optimiser = torch.optim.Adam(nn.Linear(2, 1).parameters(), lr=torch.tensor(1e-3), capturable=True)
    rate = optimiser.param_groups[0]["lr"]
    set_rate(optimiser, 0.25)
    assert optimiser.param_groups[0]["lr"] is rate
    assert rate.item() == 0.25


class Stepping(lite.Run):
    """A run without data: its step alone."""

    def __init__(self, config: lite.TrainConfig, distance: nn.Module | None, device: str) -> None:
        self.config, self.distance = config, distance
        with torch.device(device):
            self.model = lite.LiteCodec()
        self.optimiser = torch.optim.SGD(self.model.parameters(), lr=0.1)


@pytest.mark.parametrize("only", ["", "base"])
@pytest.mark.parametrize("seen", [False, pytest.param(True, marks=needs_teacher)])
def test_a_step_never_asks_the_device_for_a_value(only, seen):
    """A step that does cannot be recorded. On a device whose tensors have no contents it would raise."""
    distance = open_features(TEACHER).to("meta") if seen else None
    run = Stepping(lite.TrainConfig(batch=2, only=only), distance, "meta")
    figures = run._step(
        2,
        torch.zeros(2, 3, 128, 128, dtype=torch.uint8, device="meta"),
        torch.zeros(2, 1, 128, 128, dtype=torch.uint8, device="meta"),
        *(torch.zeros(2, dtype=torch.int64, device="meta") for _ in range(2)),
    )
    assert {value.device.type for value in figures.values()} == {"meta"}
    assert ("psnr" in figures) == (only == "")
    with pytest.raises(RuntimeError, match="meta"):
        figures["loss"].item()
