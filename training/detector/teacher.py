"""The teacher: a YOLOX-nano ONNX export, run with its intermediate maps exposed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from secondlook.shared.errors import DetectorError

F32 = npt.NDArray[np.float32]

# Tensor names of the public YOLOX-nano export, by the student's names for the same places. All are
# values before the activation: regression on those is well conditioned, after SiLU it is not.
TAPS = {
    "s4": "onnx::Sigmoid_1201",
    "s8": "onnx::Sigmoid_1243",
    "s16": "onnx::Sigmoid_1285",
    "s32": "onnx::Sigmoid_1315",
    "lat32": "onnx::Sigmoid_1318",
    "td16": "onnx::Sigmoid_1336",
    "lat16": "onnx::Sigmoid_1339",
    "p8": "onnx::Sigmoid_1357",
    "p16": "onnx::Sigmoid_1381",
    "p32": "onnx::Sigmoid_1405",
    "cls_map8": "onnx::Sigmoid_1420",
    "cls_map16": "onnx::Sigmoid_1447",
    "cls_map32": "onnx::Sigmoid_1474",
    "reg_map8": "onnx::Sigmoid_1432",
    "reg_map16": "onnx::Sigmoid_1459",
    "reg_map32": "onnx::Sigmoid_1486",
    "cls8": "onnx::Sigmoid_1045",
    "cls16": "onnx::Sigmoid_1087",
    "cls32": "onnx::Sigmoid_1129",
    "reg8": "onnx::Concat_1062",
    "reg16": "onnx::Concat_1104",
    "reg32": "onnx::Concat_1146",
    "obj8": "onnx::Sigmoid_1063",
    "obj16": "onnx::Sigmoid_1105",
    "obj32": "onnx::Sigmoid_1147",
}
MAPS = tuple(name for name in TAPS if name[:3] not in ("cls", "reg", "obj") or "map" in name)
LOGITS = tuple(name for name in TAPS if name not in MAPS)


class Teacher:
    """Frozen; its weights stay in its own file and never enter the student."""

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        if not path.is_file():
            raise DetectorError(f"no teacher at {path}")
        model = onnx.load(str(path))
        made = {name for node in model.graph.node for name in node.output}
        missing = sorted(set(TAPS.values()) - made)
        if missing:
            raise DetectorError(
                f"{path} is not the YOLOX-nano export expected: it has no tensor {missing[0]}"
            )
        _cut(model)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._input = model.graph.input[0].name

    def maps(self, images: F32) -> dict[str, F32]:
        """BGR (N, 3, H, W) in 0..255, H and W multiples of 32 -> maps and logits, by the student's names."""
        values = self._session.run(list(TAPS.values()), {self._input: images})
        return dict(zip(TAPS, values, strict=True))


def _cut(model: onnx.ModelProto) -> None:
    """Replace the outputs by the taps and free the batch and image size, dropping the fixed-size tail."""
    graph = model.graph
    needed, kept = set(TAPS.values()), []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            kept.append(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    del graph.value_info[:]
    del graph.output[:]
    graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in TAPS.values()
    )
    dims = graph.input[0].type.tensor_type.shape.dim
    for index, symbol in ((0, "n"), (2, "h"), (3, "w")):
        dims[index].dim_param = symbol
