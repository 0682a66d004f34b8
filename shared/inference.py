"""The one door to ONNX Runtime: named arrays in, named arrays out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from secondlook.shared.errors import ModelCorrupt

Array = npt.NDArray[Any]

_states = ort.capi.onnxruntime_pybind11_state
_REFUSALS = (
    _states.EPFail,
    _states.Fail,
    _states.InvalidArgument,
    _states.InvalidGraph,
    _states.InvalidProtobuf,
    _states.NoSuchFile,
    _states.NotImplemented,
    _states.RuntimeException,
)


class Session:
    """An ONNX graph ready to run. Not for concurrent use by threads that need an order of results."""

    def __init__(self, session: ort.InferenceSession, path: Path) -> None:
        self._session = session
        self._path = path
        self.inputs = tuple(i.name for i in session.get_inputs())
        self.outputs = tuple(o.name for o in session.get_outputs())
        self.metadata: dict[str, str] = dict(session.get_modelmeta().custom_metadata_map)

    @property
    def input_shape(self) -> tuple[int | str | None, ...]:
        """Shape of the first input; dynamic sizes are names or None."""
        return tuple(self._session.get_inputs()[0].shape)

    def run(self, feeds: Mapping[str, Array], *, release: bool = False) -> dict[str, Array]:
        """Run the graph. Names, shapes and dtypes are the graph's own; a wrong one raises ModelCorrupt.

        `release`: give memory back afterwards rather than keep it for the next run. For large frames.
        """
        options = None
        if release:
            options = ort.RunOptions()
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        try:
            values = self._session.run(None, dict(feeds), options)
        except (*_REFUSALS, ValueError) as error:  # ValueError: an input is missing
            raise ModelCorrupt(
                f"{self._path.name} cannot run on these inputs: {str(error).splitlines()[0]}"
            ) from error
        return {name: np.asarray(value) for name, value in zip(self.outputs, values, strict=True)}


def open_session(path: Path, threads: int = 0, *, gpu: bool = False) -> Session:
    """Load an ONNX file for the CPU, or for CUDA where `gpu` is set and the runtime has it.

    `threads`: intra-op threads, 0 = one per core. Raises ModelCorrupt when the file is not a graph.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Workers spin between the nodes of a graph; between frames, capture and delivery need the cores.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    providers = ["CPUExecutionProvider"]
    if gpu and "CUDAExecutionProvider" in ort.get_available_providers():
        providers.insert(0, "CUDAExecutionProvider")
    try:
        session = ort.InferenceSession(str(path), options, providers=providers)
    except _REFUSALS as error:
        raise ModelCorrupt(
            f"{path} is not an ONNX graph this runtime can load: {str(error).splitlines()[0]}"
        ) from error
    return Session(session, path)
