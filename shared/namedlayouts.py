"""Layouts that shapes alone do not tell: by what a manifest says of its graph, and by the names of the outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from secondlook.shared.detection import (
    COCO_CLASSES,
    Raw,
    candidates,
    coco_numbering,
    decode_end_to_end,
    decode_ssd,
    decode_yolov5,
    decode_yolov8,
    decode_yolox,
    sigmoid,
    ssd_anchors,
)
from secondlook.shared.errors import DetectorError
from secondlook.shared.graphfacts import BoxForm, GraphFacts, Outputs
from secondlook.shared.layouts import (
    DETR,
    F32,
    SSD,
    YOLO,
    YOLOX,
    Intake,
    Layout,
    Shape,
    names_of,
    own_anchors,
    recognise,
)

Decode = Callable[[Sequence[F32]], Raw]

_TENSORFLOW = "detection_"  # how the outputs of TensorFlow's detection models begin
_IN_PIXELS = ("YOLOv5", "YOLOv8", "end to end")  # families whose boxes may also be in shares of the input


@dataclass(frozen=True)
class Graph:
    """What is known of a graph. `outputs`: their names; `shapes`: theirs, for one frame, whose axis they have."""

    name: str
    outputs: tuple[str, ...]
    shapes: tuple[Shape, ...]
    height: int
    width: int
    takes_bytes: bool

    def refuse(self, why: str) -> DetectorError:
        listed = ", ".join(
            f"{name} {list(shape)}" for name, shape in zip(self.outputs, self.shapes, strict=True)
        )
        return DetectorError(f"{self.name}: {why} (its outputs for one frame: {listed})")

    def index(self, output: str) -> int:
        if output not in self.outputs:
            raise self.refuse(f"the manifest names an output {output!r}, which the graph does not have")
        return self.outputs.index(output)


def choose_layout(graph: Graph, metadata: dict[str, str], facts: GraphFacts) -> tuple[Layout, dict[str, str]]:
    """The layout of a graph, and its metadata as they are to be read: with what the manifest says in their place.

    Raises DetectorError where none fits, or what the manifest says does not go together.
    """
    said = facts.over(metadata)
    heads = _labelled_heads(graph, facts)
    if facts.layout in ("boxes and labels", None) and heads is not None:
        layout, said = _boxes_and_labels(graph, heads, said, facts)
    elif facts.layout == "boxes and labels":
        raise graph.refuse(
            "which outputs are boxes, scores and labels is not clear: name them in `graph.outputs`"
        )
    elif facts.layout is not None:
        layout = _BUILDERS[facts.layout](graph, said, facts)
    elif facts.outputs != Outputs():
        layout = _boxes_and_scores(graph, said, facts)
    else:
        layout = _recognised(graph, said, facts)
    return _adjusted(layout, graph, facts), said


def _recognised(graph: Graph, said: dict[str, str], facts: GraphFacts) -> Layout:
    try:
        layout = recognise(graph.shapes, graph.height, graph.width, said)
    except DetectorError as error:
        raise graph.refuse(f"{error}; a manifest can say what it is (docs/plugins.md, detectors)") from error
    if facts.box is not None or facts.score is not None:
        raise graph.refuse(
            f"`graph.box` and `graph.score` need a `graph.layout`: it is taken for {layout.family}"
        )
    return layout


def _adjusted(layout: Layout, graph: Graph, facts: GraphFacts) -> Layout:
    """A layout with what the manifest says of frames, units and duplicates in place of its own."""
    intake = layout.intake
    if graph.takes_bytes:
        intake = dataclasses.replace(intake, mean=(0.0, 0.0, 0.0), deviation=(1.0, 1.0, 1.0))
    said: dict[str, Any] = {"fit": facts.fit, "mean": facts.mean, "deviation": facts.deviation}
    said["bgr"] = None if facts.colour is None else facts.colour == "bgr"
    intake = dataclasses.replace(intake, **{key: value for key, value in said.items() if value is not None})
    if graph.takes_bytes and (any(intake.mean) or intake.deviation != (1.0, 1.0, 1.0)):
        raise graph.refuse("it takes bytes, so `graph.mean` and `graph.deviation` have nothing to say")
    decode = layout.decode
    if facts.unit == "shares" and layout.family in _IN_PIXELS:
        decode = partial(_from_shares, decode, graph.height, graph.width)
    elif facts.unit is not None and layout.family not in (*_IN_PIXELS, *_GENERIC):
        raise graph.refuse(f"`graph.unit` does not go with the layout of {layout.family}")
    return dataclasses.replace(
        layout,
        intake=intake,
        decode=decode,
        overlap=layout.overlap if facts.overlap is None else facts.overlap,
        suppressed=layout.suppressed if facts.overlap is None else facts.overlap == 1,
    )


def _from_shares(decode: Decode, height: int, width: int, outputs: Sequence[F32]) -> Raw:
    seen = decode(outputs)
    size = np.array([width, height] * 2, np.float32)
    return dataclasses.replace(seen, boxes=(seen.boxes * size).astype(np.float32))


def _first(decode: Callable[[F32], Raw]) -> Decode:
    return lambda outputs: decode(outputs[0])


def _only(graph: Graph, facts: GraphFacts) -> Shape:
    """The shape of the one output of a family with one. Raises DetectorError for what such a family cannot say."""
    if len(graph.shapes) != 1 or len(graph.shapes[0]) != 3:
        raise graph.refuse(f"the layout {facts.layout!r} has one output of candidates")
    if facts.box is not None or facts.score is not None:
        raise graph.refuse(f"`graph.box` and `graph.score` do not go with the layout {facts.layout!r}")
    return graph.shapes[0]


def _yolox(graph: Graph, said: dict[str, str], facts: GraphFacts) -> Layout:
    decode = partial(decode_yolox, height=graph.height, width=graph.width)
    return Layout("YOLOX", _first(decode), _only(graph, facts)[2] - 5, YOLOX)


def _yolov5(graph: Graph, said: dict[str, str], facts: GraphFacts) -> Layout:
    return Layout("YOLOv5", _first(decode_yolov5), _only(graph, facts)[2] - 5)


def _yolov8(graph: Graph, said: dict[str, str], facts: GraphFacts) -> Layout:
    """Either way round: the axis that fits the class names is that of classes, else the shorter one."""
    _, rows, columns = _only(graph, facts)
    named = 4 + len(names_of(said) or COCO_CLASSES)
    turned = columns == named or (rows != named and columns < rows)
    decode = _first(_turned_yolov8 if turned else decode_yolov8)
    return Layout("YOLOv8", decode, (columns if turned else rows) - 4)


def _turned_yolov8(output: F32) -> Raw:
    return decode_yolov8(output.T)


def _end_to_end(graph: Graph, said: dict[str, str], facts: GraphFacts) -> Layout:
    if _only(graph, facts)[2] != 6:
        raise graph.refuse("the layout 'end to end' has 6 columns: a box, its score, its class")
    return Layout("end to end", _first(decode_end_to_end), None, YOLO, suppressed=True, numbered=True)


def _ssd(graph: Graph, said: dict[str, str], facts: GraphFacts) -> Layout:
    """Offsets from anchors, and logits."""
    if facts.box is not None or facts.score is not None:
        raise graph.refuse("`graph.box` and `graph.score` do not go with the layout 'ssd'")
    box, score, rows, classes = _scored_heads(graph, facts)
    anchors = own_anchors(said)
    if anchors is None:
        anchors = ssd_anchors(graph.height, graph.width)
    if len(anchors) != rows:
        raise graph.refuse(f"{len(anchors)} anchors do not fit {rows} boxes: `graph.anchors` lists them")
    decode = partial(_decode_ssd, box, score, anchors, graph.height, graph.width)
    return Layout("SSD", decode, classes, SSD, scores=(score,), logits=True)


def _decode_ssd(box: int, score: int, anchors: F32, height: int, width: int, outputs: Sequence[F32]) -> Raw:
    return decode_ssd(outputs[box].reshape(-1, 4), outputs[score], anchors, height, width)


def _scored_heads(graph: Graph, facts: GraphFacts) -> tuple[int, int, int, int]:
    """Where boxes and scores are, how many boxes there are, and how many scores each has."""
    box, score = facts.outputs.boxes, facts.outputs.scores
    if box is None and score is None and len(graph.shapes) == 2:
        box, score = sorted(graph.outputs, key=lambda name: graph.shapes[graph.index(name)][-1] != 4)
    if box is None or score is None:
        raise graph.refuse("which outputs are boxes and scores is not clear: name both in `graph.outputs`")
    at, of = graph.index(box), graph.index(score)
    rows = int(np.prod(graph.shapes[at][1:-1]))
    sides = graph.shapes[of][1:]
    if graph.shapes[at][-1] != 4 or len(sides) != 2 or rows not in sides:
        raise graph.refuse(f"{box} and {score} are no boxes and their scores")
    return at, of, rows, sides[1] if sides[0] == rows else sides[0]


def _boxes_and_scores(graph: Graph, said: dict[str, str], facts: GraphFacts) -> Layout:
    box, score, rows, classes = _scored_heads(graph, facts)
    decode = partial(_decode_scored, box, score, _corners_of(graph, facts, "x0 y0 x1 y1", "pixels"))
    turned = graph.shapes[score][1] != rows
    prepare = partial(_scores_of, facts.score or "scores", turned)
    return Layout("boxes and scores", decode, classes, DETR, scores=(score,), prepare=prepare)


def _decode_scored(box: int, score: int, corners: Callable[[F32], F32], outputs: Sequence[F32]) -> Raw:
    return candidates(corners(outputs[box].reshape(-1, 4)), outputs[score])


def _scores_of(form: str, turned: bool, output: F32) -> F32:
    """float32[n, classes] in 0..1 of what a graph calls scores."""
    rows = output.T if turned else output
    if form == "logits":
        return sigmoid(rows)
    if form == "softmax":
        grown = np.exp(rows - rows.max(axis=1, keepdims=True, initial=-np.inf))
        return np.asarray(grown / grown.sum(axis=1, keepdims=True), np.float32)
    return rows


@dataclass(frozen=True)
class _Labelled:
    """Which output holds what; `count` may be missing."""

    boxes: int
    scores: int
    labels: int
    count: int | None


def _labelled_heads(graph: Graph, facts: GraphFacts) -> _Labelled | None:
    """Boxes [n,4], scores [n] and numbers of classes [n], told apart by the manifest or by what they are called."""
    named = facts.outputs
    if named.labels is not None and named.boxes is not None and named.scores is not None:
        count = None if named.count is None else graph.index(named.count)
        return _Labelled(
            graph.index(named.boxes), graph.index(named.scores), graph.index(named.labels), count
        )
    if named != Outputs() or not 3 <= len(graph.shapes) <= 4:
        return None
    found: dict[str, list[int]] = {"boxes": [], "scores": [], "labels": [], "count": []}
    for at, (name, shape) in enumerate(zip(graph.outputs, graph.shapes, strict=True)):
        said, flat = name.lower(), len(shape) == 2
        if len(shape) == 3 and shape[-1] == 4:
            found["boxes"].append(at)
        elif "num" in said or "count" in said:
            found["count"].append(at)
        elif flat and ("score" in said or "conf" in said):
            found["scores"].append(at)
        elif flat and ("class" in said or "label" in said):
            found["labels"].append(at)
    if any(len(found[what]) != 1 for what in ("boxes", "scores", "labels")) or len(found["count"]) > 1:
        return None
    if sum(map(len, found.values())) != len(graph.shapes):
        return None
    count = found["count"][0] if found["count"] else None
    return _Labelled(found["boxes"][0], found["scores"][0], found["labels"][0], count)


def _boxes_and_labels(
    graph: Graph, heads: _Labelled, said: dict[str, str], facts: GraphFacts
) -> tuple[Layout, dict[str, str]]:
    if facts.score is not None:
        raise graph.refuse("`graph.score` does not go with the layout 'boxes and labels'")
    tensorflow = graph.outputs[heads.boxes].startswith(_TENSORFLOW)
    if tensorflow and "names" not in said:
        said = {**said, "names": repr(("", *coco_numbering()))}  # these count from 1
    if "names" not in said:
        raise graph.refuse(
            "its classes are numbers without names: `graph.classes` names them, from number 0 on"
        )
    corners = (
        _corners_of(graph, facts, "y0 x0 y1 x1", "shares")
        if tensorflow
        else _corners_of(graph, facts, "x0 y0 x1 y1", "pixels")
    )
    intake: Intake = SSD if tensorflow else DETR
    decode = partial(_decode_labelled, heads, corners)
    layout = Layout("boxes and labels", decode, None, intake, suppressed=True, numbered=True)
    return layout, said


def _decode_labelled(heads: _Labelled, corners: Callable[[F32], F32], outputs: Sequence[F32]) -> Raw:
    count = None if heads.count is None else max(0, int(np.ravel(outputs[heads.count])[0]))
    boxes, scores, labels = (outputs[at][:count] for at in (heads.boxes, heads.scores, heads.labels))
    return Raw(
        corners(boxes.reshape(-1, 4)),
        np.clip(scores.ravel(), 0.0, 1.0).astype(np.float32),
        labels.ravel().astype(np.int64),
    )


def _corners_of(graph: Graph, facts: GraphFacts, form: BoxForm, unit: str) -> Callable[[F32], F32]:
    """Makes boxes as x0, y0, x1, y1 in pixels of the input of boxes as the manifest, else the layout, has them."""
    by = (graph.width, graph.height) if (facts.unit or unit) == "shares" else (1, 1)
    return partial(_to_corners, facts.box or form, np.array(by * 2, np.float32))


def _to_corners(form: BoxForm, by: F32, boxes: F32) -> F32:
    if form == "y0 x0 y1 x1":
        boxes = boxes[:, [1, 0, 3, 2]]
    elif form != "x0 y0 x1 y1":
        start = boxes[:, :2] - boxes[:, 2:] / 2 if form == "cx cy w h" else boxes[:, :2]
        boxes = np.concatenate([start, start + boxes[:, 2:]], axis=1)
    return (boxes * by).astype(np.float32)


_GENERIC = ("boxes and scores", "boxes and labels")
_BUILDERS: dict[str, Callable[[Graph, dict[str, str], GraphFacts], Layout]] = {
    "yolox": _yolox,
    "yolov5": _yolov5,
    "yolov8": _yolov8,
    "end to end": _end_to_end,
    "ssd": _ssd,
    "boxes and scores": _boxes_and_scores,
}
