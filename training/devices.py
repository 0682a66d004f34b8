"""Where training runs: the first CUDA device if there is one, else the CPU; and what each needs to be fast.

On a GPU the networks here are small: launching their kernels takes longer than running them. So a step is recorded
once as a CUDA graph and replayed, and a thread draws the next batches meanwhile.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

CPU = torch.device("cpu")
WARM_UP = 3  # steps run as they are before one is recorded: libraries choose their algorithms in them
AHEAD = 4  # batches

Step = Callable[..., dict[str, Tensor]]
T = TypeVar("T")


def training_device() -> torch.device:
    """The device of this process."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def half_precision(device: str = "cpu") -> torch.autocast:
    """A context, or decorator, that runs matrix products in bfloat16 on devices with instructions for it.

    CPUs without them (AVX2 only) fall back to code that takes ten times as long as float32; there it does nothing.
    """
    enabled = device == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast(device, torch.bfloat16, enabled=enabled)


def adam(model: nn.Module, rate: float, device: torch.device) -> torch.optim.Adam:
    """Adam for parameters that are on `device` already; on a GPU in the form that a graph can hold."""
    return adam_of_groups([(list(model.parameters()), rate)], device)


def adam_of_groups(
    groups: Sequence[tuple[Sequence[nn.Parameter], float]], device: torch.device
) -> torch.optim.Adam:
    """As `adam`, each group of parameters with a learning rate of its own."""
    if device.type == "cpu":
        return torch.optim.Adam([{"params": part, "lr": rate} for part, rate in groups])
    torch.backends.cudnn.benchmark = True
    there = [{"params": part, "lr": torch.tensor(rate, device=device)} for part, rate in groups]
    return torch.optim.Adam(there, lr=torch.tensor(groups[0][1], device=device), fused=True, capturable=True)


def set_rate(optimiser: torch.optim.Optimizer, rate: float, *, groups: slice = slice(None)) -> None:
    """Change the learning rate, also for steps that are recorded."""
    for group in optimiser.param_groups[groups]:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def restore(optimiser: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Take the state of a run that may have been on another kind of device."""
    own = optimiser.param_groups
    kept = ("lr", "fused", "capturable", "foreach")
    groups = [
        {**theirs, **{name: mine[name] for name in kept}}
        for theirs, mine in zip(saved["param_groups"], own, strict=True)
    ]
    optimiser.load_state_dict({**saved, "param_groups": groups})


class Recorded:
    """A training step that is replayed as a CUDA graph on a GPU, and called as it is on a CPU.

    Its inputs are tensors of the same shapes each time; whatever else changes a step is its `kind`, one graph each.
    Figures it returns are overwritten by the next step.
    """

    def __init__(self, step: Step, device: torch.device) -> None:
        self._step, self._device = step, device
        self._calls: dict[int, int] = {}
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, list[Tensor], dict[str, Tensor]]] = {}

    def __call__(self, kind: int, *inputs: Tensor) -> dict[str, Tensor]:
        """`step(kind, *inputs)`, the inputs moved to the device first."""
        if self._device.type == "cpu":
            return self._step(kind, *inputs)
        if kind not in self._graphs:
            calls = self._calls[kind] = self._calls.get(kind, 0) + 1
            there = [each.to(self._device) for each in inputs]
            if calls <= WARM_UP:
                return self._aside(kind, there)
            self._record(kind, there)
        graph, places, figures = self._graphs[kind]
        for place, each in zip(places, inputs, strict=True):
            place.copy_(each, non_blocking=True)
        graph.replay()
        return figures

    def _aside(self, kind: int, inputs: list[Tensor]) -> dict[str, Tensor]:
        """A step on a stream of its own, as what is to be recorded has to run first."""
        stream, own = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(own)
        with torch.cuda.stream(stream):
            figures = self._step(kind, *inputs)
        own.wait_stream(stream)
        return figures

    def _record(self, kind: int, places: list[Tensor]) -> None:
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            figures = self._step(kind, *places)
        self._graphs[kind] = graph, places, figures


def read_ahead(draw: Callable[[], T], device: torch.device) -> Generator[T, None, None]:
    """What `draw` returns, without end; for a GPU drawn in a thread, a few at a time. Close it to end the thread.

    An error of `draw` is raised where its result would have come.
    """
    while device.type == "cpu":
        yield draw()
    drawn: queue.Queue[tuple[T | None, Exception | None]] = queue.Queue(AHEAD)
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            try:
                drawn.put((draw(), None))
            except Exception as error:  # noqa: BLE001 - raised again where the batch is asked for
                drawn.put((None, error))
                return

    thread = threading.Thread(target=work, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            value, error = drawn.get()
            if error is not None:
                raise error
            yield value  # type: ignore[misc]
    finally:
        over.set()
        while thread.is_alive():  # it may wait for a place
            with contextlib.suppress(queue.Empty):
                drawn.get_nowait()
            thread.join(0.05)
