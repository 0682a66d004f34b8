"""The one door to ONNX Runtime: named arrays in, named arrays out, on the CPU or on an NVIDIA GPU.

A device is `auto`, `cpu`, `cuda` (the first GPU) or `cuda:N`. `auto` takes the first GPU where ONNX Runtime really
computes on it, and the CPU elsewhere; a GPU that is asked for by name and is not there is an error, not a slow CPU.

So with precision (`shared/precision.py`): `auto` takes bfloat16 where it is to be had, `fast` insists on it.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from secondlook.shared import bfloat16
from secondlook.shared.device import gpu_of
from secondlook.shared.errors import DeviceUnavailable, ModelCorrupt, PrecisionUnavailable
from secondlook.shared.external_data import has_external_data
from secondlook.shared.precision import BFLOAT16, FLOAT32, check_precision

log = logging.getLogger(__name__)

Array = npt.NDArray[Any]

CPU_PROVIDER, CUDA_PROVIDER = "CPUExecutionProvider", "CUDAExecutionProvider"
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
    RuntimeError,  # what a provider throws while it starts
)
_GPU_WORDS = ("CUDA", "CUDNN", "CUBLAS")  # what an error on the GPU's side names

# y = x * x for one float32, as ONNX: what `choose_device` has a GPU compute before it is believed.
_PROBE = bytes.fromhex(
    "08083a390a0e0a01780a017812017922034d756c120570726f62655a0f0a0178120a0a08080112040a020801620f0a0179120a"
    "0a08080112040a02080142040a00100d"
)


class Session:
    """An ONNX graph ready to run. Not for concurrent use by threads that need an order of results.

    `device`: `cpu` or `cuda:N`; `precision`: `float32` or `bfloat16`. Both as they are, whatever was asked for.
    """

    def __init__(self, session: ort.InferenceSession, path: Path) -> None:
        self._session = session
        self._path = path
        self.inputs = tuple(i.name for i in session.get_inputs())
        self.outputs = tuple(o.name for o in session.get_outputs())
        self.metadata: dict[str, str] = dict(session.get_modelmeta().custom_metadata_map)
        self.device = _device_of(session)
        self.precision = BFLOAT16 if bfloat16.is_taken(session) else FLOAT32

    @property
    def input_shape(self) -> tuple[int | str | None, ...]:
        """Shape of the first input; dynamic sizes are names or None."""
        return tuple(self._session.get_inputs()[0].shape)

    @property
    def input_type(self) -> str:
        """Type of the first input's elements, by ONNX Runtime's name: float, float16, uint8, ..."""
        kind: str = self._session.get_inputs()[0].type
        return kind.removeprefix("tensor(").removesuffix(")")

    def run(self, feeds: Mapping[str, Array], *, release: bool = False) -> dict[str, Array]:
        """Run the graph. Names, shapes and dtypes are the graph's own; a wrong one raises ModelCorrupt.

        `release`: give memory back afterwards rather than keep it for the next run. For large frames.
        Raises DeviceUnavailable when a GPU fails, for instance because its memory is full.
        """
        options = None
        if release and self.precision == FLOAT32:  # OpenVINO has no such arena
            arenas = "cpu:0" if self.device == "cpu" else f"cpu:0;gpu:{self.device.removeprefix('cuda:')}"
            options = ort.RunOptions()
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", arenas)
        try:
            values = self._session.run(None, dict(feeds), options)
        except (*_REFUSALS, ValueError) as error:  # ValueError: an input is missing
            reason = str(error).splitlines()[0]
            if self.device != "cpu" and any(word in str(error).upper() for word in _GPU_WORDS):
                raise DeviceUnavailable(f"{self.device} failed in {self._path.name}: {reason}") from error
            raise ModelCorrupt(f"{self._path.name} cannot run on these inputs: {reason}") from error
        return {name: np.asarray(value) for name, value in zip(self.outputs, values, strict=True)}


def open_session(path: Path, threads: int = 0, *, device: str = "cpu", precision: str = "exact") -> Session:
    """Load an ONNX file for a device, and log which one it got and how it computes there.

    `threads`: intra-op threads on the CPU, 0 = one per core. `precision`: `auto`, `exact` or `fast`. Raises
    ModelCorrupt when the file is not a graph or keeps part of it in another file, DeviceUnavailable when a GPU is asked
    for by name and cannot be had, PrecisionUnavailable when `fast` cannot.
    """
    check_precision(precision)
    _check_file(path)
    chosen = choose_device(device)
    if precision != "exact":
        fast = _open_fast(path, threads, chosen, insists=precision == "fast")
        if fast is not None:
            return fast
    try:
        session = _open_on(path, threads, chosen)
        if session.device != chosen:
            raise DeviceUnavailable(f"ONNX Runtime opened {path.name} on the {session.device} instead")
    except DeviceUnavailable as error:
        if device != "auto":
            raise DeviceUnavailable(f"device {device}: {error}") from error
        log.warning("device auto takes the CPU for %s: %s", path.name, error)
        session = _open_on(path, threads, "cpu")
    log.info("%s/%s runs on %s", path.parent.name, path.name, session.device)
    _note(session, path)
    return session


_opened: dict[str, tuple[str, str]] = {}  # by folder and file of a graph, the device and precision it got


def _note(session: Session, path: Path) -> None:
    _opened[f"{path.parent.name}/{path.name}"] = (session.device, session.precision)


def tell_providers() -> str:
    """Show as metrics where the networks of this process run; the devices, for people: "cpu", or "cpu, cuda:0"."""
    from secondlook.shared import metrics

    for model, (device, precision) in _opened.items():
        metrics.measure("provider", 1, model, device, precision)
    return ", ".join(sorted({device for device, _ in _opened.values()})) or "cpu"


def _open_fast(path: Path, threads: int, device: str, *, insists: bool) -> Session | None:
    """A session in bfloat16; None where this machine has none and nobody insists."""
    problem = _problem_of_bfloat16() if device == "cpu" else f"on {device} networks run in float32"
    if problem is None:
        try:
            session = Session(_open_bfloat16(str(path), threads), path)
        except _REFUSALS as error:
            _open_on(
                path, threads, "cpu"
            )  # which tells a graph that is none from one that OpenVINO does not take
            problem = f"OpenVINO does not take {path.name}: {str(error).splitlines()[0]}"
        else:
            if session.precision == BFLOAT16:
                log.info("%s/%s runs on %s in bfloat16", path.parent.name, path.name, session.device)
                _note(session, path)
                return session
            problem = f"OpenVINO left {path.name} to another provider"
    if insists:
        raise PrecisionUnavailable(f"precision fast: {problem}")
    log.info("precision auto takes float32 for %s/%s: %s", path.parent.name, path.name, problem)
    return None


def _open_on(path: Path, threads: int, device: str) -> Session:
    try:
        return Session(_open(str(path), threads, device), path)
    except _REFUSALS as error:
        reason = str(error).splitlines()[0]
        if device != "cpu":
            _open_on(path, threads, "cpu")  # which tells a graph that is none from a GPU that fails
            raise DeviceUnavailable(f"{path.name} does not open on {device}: {reason}") from error
        raise ModelCorrupt(f"{path} is not an ONNX graph this runtime can load: {reason}") from error


@cache
def choose_device(name: str) -> str:
    """The device that a setting means on this machine: `cpu`, or `cuda:N` that has just computed something.

    Raises DeviceUnavailable when a GPU is asked for by name and cannot be had; ConfigError for an unknown name.
    """
    gpu = gpu_of(name)
    if gpu is None:
        return "cpu"
    problem = _problem_of(gpu)
    if problem is None:
        return f"cuda:{gpu}"
    if name != "auto":
        raise DeviceUnavailable(f"device {name}: {problem}")
    log.info("device auto takes the CPU: %s", problem)
    return "cpu"


def _problem_of(gpu: int) -> str | None:
    """Why ONNX Runtime cannot compute on this GPU; None when it can."""
    if CUDA_PROVIDER not in ort.get_available_providers():
        return "the installed ONNX Runtime has no CUDA (the extra cloud-gpu brings one that has)"
    # The CUDA libraries that pip installed are not where the loader looks; what cannot be loaded is printed.
    with contextlib.redirect_stdout(io.StringIO()) as said:
        ort.preload_dlls()
    if said.getvalue():
        log.debug("CUDA libraries: %s", said.getvalue())
    try:
        session = _open(_PROBE, 1, f"cuda:{gpu}")
        if _device_of(session) != f"cuda:{gpu}":
            return (
                "ONNX Runtime finds no GPU with its driver, or not the libraries of CUDA and cuDNN"
                " (pip install 'onnxruntime-gpu[cuda,cudnn]' brings them)"
            )
        session.run(None, {"x": np.ones(1, np.float32)})
    except (*_REFUSALS, ValueError) as error:
        return f"GPU {gpu} cannot be used: {str(error).splitlines()[0]}"
    return None


@cache
def _problem_of_bfloat16() -> str | None:
    """Why networks cannot run in bfloat16 on this CPU; None when one just has."""
    if (missing := bfloat16.what_is_missing()) is not None:
        return missing
    try:
        session = _open_bfloat16(bfloat16.PROBE, 1)
        if not bfloat16.is_taken(session):
            return "OpenVINO did not take a matrix product"
        (product,) = session.run(None, bfloat16.probe_feeds())
    except (*_REFUSALS, ImportError, OSError, ValueError) as error:
        return f"OpenVINO cannot be used: {str(error).splitlines()[0]}"
    if not np.all(np.asarray(product) == 1):
        return "OpenVINO computes in another precision than bfloat16"
    return None


def _open_bfloat16(model: str | bytes, threads: int) -> ort.InferenceSession:
    options = _options(threads)
    bfloat16.add_provider(options, threads=threads)
    return ort.InferenceSession(model, options)


def _open(model: str | bytes, threads: int, device: str) -> ort.InferenceSession:
    options = _options(threads)
    providers: list[str | tuple[str, dict[str, str]]] = [CPU_PROVIDER]
    if device != "cpu":
        # Without TF32 a GPU's pictures differ from a CPU's by the rounding of float32 and no more.
        cuda = {"device_id": device.removeprefix("cuda:"), "use_tf32": "0"}
        providers = [(CUDA_PROVIDER, cuda), CPU_PROVIDER]
    # Left to itself, the runtime prints what fails on the GPU and goes on with the CPU.
    return ort.InferenceSession(model, options, providers=providers, enable_fallback=0)


def _options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Workers spin between the nodes of a graph; between frames, capture and delivery need the cores.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # Nothing but ONNX, whatever the file's name or first bytes say: it is what `_check_file` looked at.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.log_severity_level = 3
    return options


def _device_of(session: ort.InferenceSession) -> str:
    """Where a session really is: a provider that could not be loaded is missing from its list."""
    if session.get_providers()[0] != CUDA_PROVIDER:
        return "cpu"
    return f"cuda:{session.get_provider_options()[CUDA_PROVIDER].get('device_id', '0')}"


def _check_file(path: Path) -> None:
    try:
        external = has_external_data(path.read_bytes())
    except OSError as error:
        raise ModelCorrupt(f"{path} cannot be read: {error.strerror}") from error
    except ModelCorrupt as error:
        raise ModelCorrupt(f"{path} is not an ONNX graph: {error}") from error
    if external:
        raise ModelCorrupt(
            f"{path} keeps weights in another file, which no hash covers: store them inside it"
        )
