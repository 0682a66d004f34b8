"""Writing ONNX graphs: export from torch, weights stored as float16, checked against torch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

SMALL = 256  # initialisers with fewer values stay float32


def export_onnx(
    module: nn.Module,
    example: Sequence[Tensor],
    path: Path,
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic: Mapping[str, Mapping[int, str]],
    half_weights: bool = True,
) -> None:
    """Trace `module` on `example` and write it to `path`, with dynamic axes by input or output name."""
    module.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer speaks of its own future
        torch.onnx.export(
            module,
            tuple(example),
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={k: dict(v) for k, v in dynamic.items()},
            opset_version=17,
            dynamo=False,
            external_data=False,
        )
    model = onnx.load(path)
    if half_weights:
        store_half(model)
    del model.graph.value_info[:]
    onnx.checker.check_model(model)
    onnx.save(model, path)


def store_half(model: onnx.ModelProto) -> None:
    """Keep large float32 initialisers as float16 with a Cast behind each: half the file, folded again on loading.

    Raises ValueError when a weight is too large for that.
    """
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < SMALL:
            continue
        name, values = tensor.name, numpy_helper.to_array(tensor)
        if np.abs(values).max() > np.finfo(np.float16).max:
            raise ValueError(f"weights {name} leave the range of float16")
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}__half"))
        casts.append(helper.make_node("Cast", [f"{name}__half"], [name], to=TensorProto.FLOAT))
    for cast in reversed(casts):
        model.graph.node.insert(0, cast)
