"""What a detector's manifest may say of its graph, in the table `graph`: all that shapes and metadata do not tell.

Whatever it leaves out is told as for a bare .onnx file (`layouts`). docs/plugins.md lists the keys.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from secondlook.shared.errors import ModelCorrupt

LayoutName = Literal["yolox", "yolov5", "yolov8", "end to end", "ssd", "boxes and scores", "boxes and labels"]
BoxForm = Literal["x0 y0 x1 y1", "y0 x0 y1 x1", "cx cy w h", "x y w h"]


@dataclass(frozen=True)
class Outputs:
    """Which of the graph's outputs is what, by their names."""

    boxes: str | None = None
    scores: str | None = None
    labels: str | None = None
    count: str | None = None


@dataclass(frozen=True)
class GraphFacts:
    """The table `graph` of a manifest; None: not said.

    `classes`: one for each score, or for each number a label may have; empty for what is no class. `input`: height and
    width, for a graph that takes any. `mean` and `deviation`: of bytes, in the order of the colours that the network
    gets. `overlap`: of two boxes of one class that overlap by more (IoU) one goes; 1 where the graph has done that.
    """

    classes: tuple[str, ...] | None = None
    layout: LayoutName | None = None
    input: tuple[int, int] | None = None
    channels: Literal["first", "last"] | None = None
    colour: Literal["rgb", "bgr"] | None = None
    fit: Literal["middle", "top left", "stretch"] | None = None
    mean: tuple[float, float, float] | None = None
    deviation: tuple[float, float, float] | None = None
    outputs: Outputs = field(default_factory=Outputs)
    box: BoxForm | None = None
    unit: Literal["pixels", "shares"] | None = None
    score: Literal["scores", "logits", "softmax"] | None = None
    overlap: float | None = None
    anchors: tuple[tuple[float, float, float, float], ...] | None = None

    def over(self, metadata: Mapping[str, str]) -> dict[str, str]:
        """The graph's own metadata with what is said here in its place."""
        said = dict(metadata)
        if self.classes is not None:
            said["names"] = json.dumps(self.classes)
        if self.input is not None:
            said["imgsz"] = json.dumps(self.input)
        if self.anchors is not None:
            said["anchors"] = json.dumps(self.anchors)
        return said


NOTHING = GraphFacts()


def read_facts(table: object, model: str) -> GraphFacts:
    """The facts in a manifest's `graph`, or in a file of the same form. Raises ModelCorrupt, naming the key."""
    where = f"model {model!r}: graph"
    try:
        for kind, given in _tables(table):
            unknown = sorted(given.keys() - {field.name for field in dataclasses.fields(kind)})
            if unknown:
                raise ModelCorrupt(f"{where}: {unknown[0]!r} is not known")
        facts = msgspec.convert(table, GraphFacts)
    except msgspec.ValidationError as error:
        raise ModelCorrupt(f"{where}: {error}") from error
    if facts.input is not None and not all(1 <= side <= 8192 for side in facts.input):
        raise ModelCorrupt(f"{where}: input is height and width, 1 to 8192 each")
    if facts.deviation is not None and not all(facts.deviation):
        raise ModelCorrupt(f"{where}: a deviation is 0")
    if facts.overlap is not None and not 0 < facts.overlap <= 1:
        raise ModelCorrupt(f"{where}: overlap lies above 0, and is 1 at most")
    if facts.classes is not None and not any(facts.classes):
        raise ModelCorrupt(f"{where}: classes name none")
    return facts


def _tables(table: object) -> list[tuple[type[Any], dict[str, Any]]]:
    if not isinstance(table, dict):
        raise msgspec.ValidationError("a table was expected")
    outputs = table.get("outputs")
    return [(GraphFacts, table), *([(Outputs, outputs)] if isinstance(outputs, dict) else [])]
