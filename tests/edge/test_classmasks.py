"""Masks over what a detector finds: nothing of it is coded or kept, and where they fail no picture passes."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest

from secondlook.edge.agent import Agent
from secondlook.edge.coding import classmasks
from secondlook.edge.coding.classmasks import ClassMasks, PrivacyMasks
from secondlook.edge.coding.originals import picture
from secondlook.edge.coding.regions import MARGIN, Regions
from secondlook.edge.config import CodecConfig, EdgeConfig, RegionsConfig, SourceConfig
from secondlook.edge.source.camera import Frame
from secondlook.edge.source.demo_scene import Scene
from secondlook.edge.spooled import PassedOver, SpooledFrame
from secondlook.main import main
from secondlook.shared.codec import load_codec
from secondlook.shared.detection import Detection
from secondlook.shared.detectors import open_detector
from secondlook.shared.errors import ConfigError, DetectorError
from secondlook.shared.layers import Layers
from secondlook.shared.video import GroupDecoder
from secondlook.shared.videobits import GroupHead, is_of_group, parse_base, split_layers
from tests.pictures import photo

WIDTH, HEIGHT = 96, 64
BOX = (24.0, 16.0, 56.0, 48.0)
FAMILIES = pytest.mark.parametrize(
    "settings",
    [
        {"family": "lite"},
        {"family": "lite", "key_interval": 3},
        {"family": "video", "group_frames": 3},
        {"family": "video", "group_frames": 3, "enhancement": "always"},
    ],
    ids=["lite", "lite deltas", "video", "video, enhancements always"],
)


@pytest.fixture(scope="module")
def codec():
    return load_codec(threads=1)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classmasks, "_opened", {})


@dataclass
class Scripted:
    """Finds what it is told to, frame after frame; an exception is raised."""

    script: list[list[Detection] | Exception]
    name: str = "scripted"
    classes: tuple[str, ...] = ("face", "number plate")
    seen: list[np.ndarray] = field(default_factory=list)

    def detect(self, image: np.ndarray) -> list[Detection]:
        self.seen.append(image)
        found = self.script.pop(0)
        if isinstance(found, Exception):
            raise found
        return found


def face(*box: float) -> Detection:
    return Detection("face", 0.9, box)


def scripted(monkeypatch: pytest.MonkeyPatch, script: list[list[Detection] | Exception]) -> Scripted:
    detector = Scripted(script)
    monkeypatch.setattr(classmasks, "open_detector", lambda *_, **__: detector)
    return detector


def agent_of(
    codec, tmp_path: Path, record: bool = False, regions: RegionsConfig | None = None, **settings
) -> Agent:
    regions = regions or RegionsConfig(mask_classes=("face",), mask_margin=0.0, mask_frames=2)
    source = SourceConfig("demo:", record_dir=tmp_path if record else None)
    return Agent(
        EdgeConfig("gate", source, codec=CodecConfig(**settings), regions=regions, data_dir=tmp_path), codec
    )


def shot(number: int, secret: int) -> Frame:
    """A scene in which something moves, and a face, which is noise here."""
    image = photo(HEIGHT, WIDTH).copy()
    image[4:12, 60 + 2 * number : 70 + 2 * number] = (230, 220, 200)
    x0, y0, x1, y1 = (round(side) for side in BOX)
    image[y0:y1, x0:x1] = np.random.default_rng((secret, number)).integers(0, 256, (y1 - y0, x1 - x0, 3))
    return Frame(image, number * 10**9)


@FAMILIES
def test_no_layer_depends_on_what_is_masked(codec, tmp_path: Path, monkeypatch, settings) -> None:
    layers, pictures = [], []
    for secret in (1, 2):
        # In the fourth frame the detector misses it.
        scripted(monkeypatch, [[face(*BOX)]] * 3 + [[]] + [[face(*BOX)]] * 2)
        monkeypatch.setattr(classmasks, "_opened", {})
        agent = agent_of(codec, tmp_path / str(secret), record=True, **settings)
        (tmp_path / str(secret)).mkdir()
        for number in range(6):
            agent._take(shot(number, secret))
        layers.append([(frame.base, frame.enhancement) for frame in agent._batch])
        pictures.append([path.read_bytes() for path in sorted((tmp_path / str(secret)).glob("*.png"))])
    assert layers[0] == layers[1] and len(layers[0]) == 6
    assert pictures[0] == pictures[1] and len(pictures[0]) == 6
    shown = [codec.encode(shot(0, secret).image, base_quality=16, quality=40).layers for secret in (1, 2)]
    assert shown[0].base != shown[1].base, "without masks the bytes would tell the two apart"


def decoded(codec, batch: list[SpooledFrame]) -> list[list[np.ndarray]]:
    """For each frame, all pictures of that moment that anybody can make of its layers."""
    pictures, group, frames = [], None, {}
    for frame in batch:
        frames[frame.info.seq] = frame
        if not is_of_group(frame.base):
            key = frames.get(frame.info.key_seq)
            of_key = None if key is None else Layers(key.base, key.enhancement)
            pictures.append(
                [
                    codec.decode_base(frame.base, key=None if key is None else key.base),
                    codec.decode_enhanced(frame.base, frame.enhancement, key=of_key),
                ]
            )
            continue
        packet, more = parse_base(frame.base), []
        if isinstance(packet, GroupHead):
            is_first = group is None
            group, packet = GroupDecoder(packet.background.to_bytes()), packet.frame
            more += [group.background] if is_first else []  # later ones show the road
        assert group is not None
        more.append(group.decode(packet.to_bytes()))
        pictures.append([*more, *_enhanced(codec, frame.enhancement)])
    return pictures


def _enhanced(codec, kept: bytes) -> list[np.ndarray]:
    if kept.startswith(b"\x8aORIGINAL1"):
        return [picture(kept)]
    layers = split_layers(kept)
    return [codec.decode_base(layers.base), codec.decode_enhanced(layers.base, layers.enhancement)]


@FAMILIES
def test_cars_of_the_demo_are_black_in_every_layer_that_is_decoded(codec, tmp_path: Path, settings) -> None:
    """With the detector that ships: wherever it sees a car, nobody sees one."""
    regions = RegionsConfig(mask_classes=("car",))
    agent = agent_of(codec, tmp_path, record=True, regions=regions, base_quality=40, **settings)
    scene, detector = Scene(), open_detector("builtin", threads=1)
    assert detector is not None
    boxes = []
    for number in range(4):
        image = cv2.resize(scene.image(number), (384, 216), interpolation=cv2.INTER_AREA)
        boxes.append([one.box for one in detector.detect(image) if one.label == "car"])
        agent._take(Frame(image, number * 10**9))
    assert sum(map(len, boxes)) >= 4
    recorded = [cv2.imread(str(path)) for path in sorted(tmp_path.glob("*.png"))]
    looked_at = 0
    for found, pictures, kept in zip(boxes, decoded(codec, agent._batch), recorded, strict=True):
        for x0, y0, x1, y1 in found:
            inside = np.s_[round(y0) : round(y1), round(x0) : round(x1)]
            assert kept[inside].max() == 0
            # Codecs ring at the edge of a mask, with what lies outside of it.
            centre = np.s_[
                round(0.7 * y0 + 0.3 * y1) : round(0.3 * y0 + 0.7 * y1),
                round(0.7 * x0 + 0.3 * x1) : round(0.3 * x0 + 0.7 * x1),
            ]
            for one in pictures:
                if one[centre].size:
                    assert one[centre].mean() < 12, settings
                    looked_at += 1
    assert looked_at >= 8


def find(masks: ClassMasks, count: int = 1) -> list[list[tuple[float, ...]]]:
    image = np.zeros((100, 100, 3), np.uint8)
    return [[tuple(round(side, 3) for side in box) for box in masks.find(image)] for _ in range(count)]


def masks_of(script: list[list[Detection] | Exception], **settings) -> ClassMasks:
    return ClassMasks(RegionsConfig(mask_classes=("face",), **settings), Scripted(script))


def test_a_box_that_is_lost_stays_and_grows_until_its_frames_are_over() -> None:
    masks = masks_of([[face(40, 40, 60, 60)], [], [], []], mask_margin=0.1, mask_frames=2)
    assert find(masks, 4) == [
        [(0.38, 0.38, 0.62, 0.62)],
        [(0.36, 0.36, 0.64, 0.64)],
        [(0.34, 0.34, 0.66, 0.66)],
        [],
    ]


def test_what_was_found_a_moment_ago_stays_masked_when_a_box_is_cut_short() -> None:
    whole, half = face(40, 40, 60, 80), face(40, 40, 60, 60)
    masks = masks_of([[whole], [half], [half], [half]], mask_margin=0.0, mask_frames=2)
    bottoms = [max(box[3] for box in boxes) for boxes in find(masks, 4)]
    assert bottoms == [0.8, 0.8, 0.8, 0.6]


def test_one_box_does_not_stand_for_two_objects() -> None:
    """Two cross, and one of them is lost: the other one's box is not taken for its own."""
    masks = masks_of([[face(40, 40, 60, 60), face(44, 40, 64, 60)], [face(42, 40, 62, 60)]], mask_margin=0.5)
    second = find(masks, 2)[1]
    assert max(box[2] for box in second) >= 0.84, "the one that is lost has grown"


def test_other_classes_are_not_masked_and_doubts_are_those_of_the_settings() -> None:
    masks = masks_of([[Detection("number plate", 0.9, (1, 1, 9, 9))]])
    assert find(masks) == [[]]


def test_boxes_keep_their_place_when_the_camera_changes_its_size() -> None:
    masks = PrivacyMasks(Regions(RegionsConfig()), masks_of([[face(*BOX)], []], mask_margin=0.0))
    for height, width in ((HEIGHT, WIDTH), (2 * HEIGHT, 2 * WIDTH)):
        white = np.full((height, width, 3), 255, np.uint8)
        shown, scale = masks.hide(white), height // HEIGHT
        x0, y0, x1, y1 = (round(side) * scale for side in BOX)
        assert not shown[y0 - MARGIN : y1 + MARGIN, x0 - MARGIN : x1 + MARGIN].any()
        assert shown[: y0 - MARGIN].all() and white.all(), "and the frame itself is not changed"


def test_the_detector_sees_under_polygons_and_both_are_masked() -> None:
    left = "0%,0% 50%,0% 50%,100% 0%,100%"
    detector = Scripted([[face(60, 10, 80, 30)]])
    config = RegionsConfig(privacy=(left,), mask_classes=("face",), mask_margin=0.0)
    white = np.full((100, 100, 3), 255, np.uint8)
    shown = PrivacyMasks(Regions(config), ClassMasks(config, detector)).hide(white)
    assert detector.seen[0].all(), "who stands half behind a mask is to be found"
    assert not shown[:, :50].any() and not shown[10:30, 60:80].any() and shown[40:, 60:].all()


@pytest.mark.parametrize("family", ["lite", "video"])
@pytest.mark.parametrize("error", [DetectorError("weights are damaged"), RuntimeError("out of memory")])
def test_a_picture_that_cannot_be_masked_does_not_pass(
    codec, tmp_path: Path, monkeypatch, caplog, family: str, error: Exception
) -> None:
    scripted(monkeypatch, [[face(*BOX)], error, error, [face(*BOX)]])
    agent = agent_of(codec, tmp_path, record=True, family=family, group_frames=9)
    with caplog.at_level(logging.WARNING):
        for number in range(4):
            agent._take(shot(number, number))
    first, withheld, last = agent._batch
    assert isinstance(withheld, PassedOver)
    assert (withheld.first_seq, withheld.last_seq, withheld.reason) == (1, 2, "unmasked")
    assert isinstance(first, SpooledFrame) and isinstance(last, SpooledFrame)
    assert (first.info.seq, last.info.seq, last.info.key_seq) == (0, 3, None)
    assert agent._captured == 4 and agent._passed["unmasked"] == 2
    assert len(list(tmp_path.glob("*.png"))) == 2, "nor is it kept"
    (line,) = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert line.startswith("no part of a picture may pass that cannot be masked: ") and str(error) in line


def test_a_model_that_cannot_be_loaded_lets_no_camera_start(tmp_path: Path, capsys) -> None:
    broken = tmp_path / "faces"
    broken.mkdir()
    manifest = {
        "name": "faces",
        "kind": "detector",
        "format": 1,
        "files": {"model.onnx": {"sha256": "0" * 64}},
    }
    (broken / "manifest.json").write_text(json.dumps(manifest))
    (broken / "model.onnx").write_bytes(b"no graph")
    file = tmp_path / "edge.toml"
    file.write_text(
        'edge_id = "gate"\ndata_dir = "edge"\n[source]\naddress = "demo:"\nframes = 1\n[regions]\n'
        'mask_classes = ["face"]\nmask_model = "./faces"\n'
    )
    for command in (["edge", "--config", str(file)], ["edge", "snapshot", "--config", str(file), "out.png"]):
        assert main(command) == 1
        told = capsys.readouterr().err.splitlines()[-1]
        assert "regions.mask_classes cannot be masked, so nothing is captured" in told
    assert not (tmp_path / "edge" / "spool.db").exists() and not Path("out.png").exists()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"mask_classes": ("persn",)}, "has no class 'persn', did you mean 'person'"),
        (
            {"mask_classes": ("person",), "mask_model": "no-such"},
            "regions.mask_model 'no-such' is no detector",
        ),
        ({"mask_classes": ("person",), "mask_model": "yolo11n.pt"}, "is no detector"),
    ],
)
def test_a_wrong_name_is_one_line(codec, tmp_path: Path, settings: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        agent_of(codec, tmp_path, regions=RegionsConfig(**settings))
    assert told in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("classes", [("person", "person"), ("",)])
def test_classes_that_make_no_sense_are_refused(classes: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="mask_classes holds a class twice, or one without a name"):
        RegionsConfig(mask_classes=classes)


def test_cameras_of_one_host_share_a_detector(codec, tmp_path: Path) -> None:
    regions = RegionsConfig(mask_classes=("car",))
    agents = [agent_of(codec, tmp_path / str(number), regions=regions) for number in range(2)]
    detectors = [agent._masks._classes._detector for agent in agents]
    assert detectors[0] is detectors[1]


def test_a_snapshot_shows_what_is_masked(tmp_path: Path) -> None:
    scene = cv2.cvtColor(Scene().image(3.0), cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(tmp_path / "scene.png"), scene)
    file = tmp_path / "edge.toml"
    file.write_text(
        'edge_id = "gate"\n[source]\naddress = "scene.png"\n[regions]\nmask_classes = ["car"]\nmask_margin = 0.0\n'
    )
    detector = open_detector("builtin", threads=1)
    assert detector is not None
    found = [one.box for one in detector.detect(Scene().image(3.0)) if one.label == "car"]
    assert found
    for arguments, is_masked in (([], True), (["--see-through"], False)):
        out = tmp_path / "out.png"
        assert main(["edge", "snapshot", "--config", str(file), *arguments, str(out)]) == 0
        picture = cv2.imread(str(out))
        for x0, y0, x1, y1 in found:
            inside = picture[round(y0) : round(y1), round(x0) : round(x1)]
            assert bool(inside.max() == 0) is is_masked
