"""bfloat16 on CPUs that have instructions for it, by the OpenVINO provider that plugs into ONNX Runtime.

Where they lack it is slower than float32, so it is asked for only where the processor names it. A provider that takes
less than it was asked for says nothing: it is believed after it has computed, and rounded, and sessions are opened so
that a node which it leaves to the ordinary provider is an error.
"""

from __future__ import annotations

import importlib.util
import json
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

PROVIDER = "OpenVINOExecutionProvider"
EXTRA = "cloud-fast"
_FLAGS = frozenset({"amx_bf16", "avx512_bf16"})
_CPU_INFO = Path("/proc/cpuinfo")
_LIBRARY = "secondlook-openvino"

# y = x @ w, each float32[2,2], as ONNX: what OpenVINO has to round before it is believed.
PROBE = bytes.fromhex(
    "08083a590a110a01780a017712017922064d61744d756c120570726f62655a130a0178120e0a0c080112080a0208020a0208"
    "025a130a0177120e0a0c080112080a0208020a02080262130a0179120e0a0c080112080a0208020a02080242040a001011"
)


def what_is_missing(cpu_info: Path = _CPU_INFO) -> str | None:
    """What keeps networks from running in bfloat16 on this machine; None when all is there."""
    try:
        flags = set(cpu_info.read_text().split())
    except OSError:
        return "only Linux tells whether its processor has bfloat16"
    if not flags & _FLAGS:
        return f"this processor has none of {', '.join(sorted(_FLAGS))}"
    if importlib.util.find_spec("onnxruntime_ep_openvino") is None:
        return f"onnxruntime-ep-openvino is not installed (the extra {EXTRA} brings it)"
    return None


def add_provider(options: ort.SessionOptions, *, threads: int) -> None:
    """Have a session run wholly on OpenVINO's CPU in bfloat16. `threads`: 0 = one per core.

    Raises what the plug-in raises, and RuntimeError where it offers no CPU.
    """
    _register()
    devices = [
        each
        for each in ort.get_ep_devices()
        if each.ep_name == PROVIDER and each.ep_metadata.get("ov_device") == "CPU"
    ]
    if not devices:
        raise RuntimeError("OpenVINO offers no CPU")
    cpu: dict[str, str | int] = {"INFERENCE_PRECISION_HINT": "bf16"}
    if threads:
        cpu["INFERENCE_NUM_THREADS"] = threads
    # An option of the provider that it does not know is ignored; a property of the CPU that it does not know is not.
    options.add_provider_for_devices(devices[:1], {"load_config": json.dumps({"CPU": cpu})})
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")


def probe_feeds() -> dict[str, npt.NDArray[np.float32]]:
    """For `PROBE`: its product is 1 where bfloat16 computes, whose 8 bits have nothing between 1 and 1 + 2^-7."""
    return {"x": np.full((2, 2), 1 + 2.0**-10, np.float32), "w": np.eye(2, dtype=np.float32)}


def is_taken(session: ort.InferenceSession) -> bool:
    """Whether a session runs on OpenVINO."""
    return bool(session.get_providers()[0] == PROVIDER)


@cache
def _register() -> None:
    """Once a process: the runtime refuses a second registration."""
    import onnxruntime_ep_openvino

    ort.register_execution_provider_library(_LIBRARY, onnxruntime_ep_openvino.get_library_path())
