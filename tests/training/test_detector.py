"""Training of the detector: what the student computes, what it is asked, and what is written at the end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is in the training extra")
pytest.importorskip("onnx", reason="onnx is in the training extra")
pytest.importorskip("onnxscript", reason="onnxscript is in the training extra")

# ruff: noqa: E402 - what follows needs the packages looked for above
from secondlook.cloud.workers.detectors import load_detector
from secondlook.shared.detection import Detection, decode_yolox
from secondlook.shared.detectors import OnnxDetector
from secondlook.shared.errors import DetectorError, ModelNotFound
from secondlook.shared.inference import open_session
from secondlook.training.detector import cli, evaluate
from secondlook.training.detector.classes import SHIPPED_CLASSES
from secondlook.training.detector.distil import LossConfig, map_errors, output_errors, total_error
from secondlook.training.detector.drawn import DrawnConfig, drawn_view, write_targets
from secondlook.training.detector.export import verify, write_onnx
from secondlook.training.detector.model import Student, calibrate, parameters
from secondlook.training.detector.muon import Muon, orthogonal, pointwise_weights
from secondlook.training.detector.teacher import LOGITS, MAPS, Teacher
from secondlook.training.detector.threshold import count_matches, overlap
from secondlook.training.detector.train import (
    Mode,
    TrainConfig,
    draw_weights,
    follow,
    fresh_state,
    mode_at,
    rate_at,
)
from secondlook.training.detector.views import Sample, ViewConfig, ViewMaker, is_validation, letterboxed
from secondlook.training.lite.weights import load_weights

torch.set_num_threads(1)  # more would only wait for each other where the machine is busy

CHANNELS = {"s4": 32, "s8": 64, "s16": 128, "s32": 256, "lat32": 128, "td16": 128, "lat16": 64}
MODEL = Path(__file__).parents[2] / "exported_models" / "detector"
TEACHER_FILE = Path(__file__).parents[3] / "shared" / "data" / "models" / "yolox_nano.onnx"


@pytest.fixture
def student() -> Student:
    torch.manual_seed(1)
    return Student()


@pytest.fixture
def image() -> torch.Tensor:
    torch.manual_seed(2)
    return torch.rand(2, 3, 64, 96) * 255


def test_decoding_is_timed() -> None:
    image = np.full((90, 160, 3), 90, np.uint8)
    assert evaluate.decode_milliseconds("lite", 16, image, threads=1, runs=1) > 0


def test_every_map_and_logit_of_the_teacher_has_its_counterpart(
    student: Student, image: torch.Tensor
) -> None:
    out = student(image)
    assert set(out) == {*MAPS, *LOGITS}
    for name, channels in CHANNELS.items():
        assert out[name].shape[1] == channels
    assert out["cls8"].shape == (2, 80, 8, 12) and out["reg32"].shape == (2, 4, 2, 3)
    assert parameters(student) <= 1_200_000


def test_stages_apart_learn_only_from_their_own_error(student: Student, image: torch.Tensor) -> None:
    for apart in (True, False):
        student.zero_grad()
        student(image, apart=apart)["s8"].square().sum().backward()
        earlier = [p.grad for p in student.s4.parameters()]
        assert all(g is None for g in earlier) is apart
        assert all(p.grad is not None for p in student.s8.parameters())


def test_forced_stages_read_the_maps_given(student: Student, image: torch.Tensor) -> None:
    plain = student(image)
    zeros = {name: torch.zeros_like(plain[name]) for name in MAPS}
    forced = student(image, zeros)
    torch.testing.assert_close(forced["s4"], plain["s4"])  # reads the image, nothing to force
    assert not torch.allclose(forced["s8"], plain["s8"])
    torch.testing.assert_close(forced["lat32"], student.lat32(torch.zeros_like(plain["s32"])))


def test_calibration_starts_every_stage_near_its_target(student: Student, image: torch.Tensor) -> None:
    torch.manual_seed(5)
    targets = {name: 3 * value.detach() + 7 for name, value in Student()(image).items()}
    before = map_errors(student(image, targets), targets)
    calibrate(student, image, targets)
    after = map_errors(student(image, targets), targets)
    assert all(after[name] < 1.5 for name in MAPS)
    assert sum(after.values()) < 0.01 * sum(before.values())


def test_errors_vanish_only_where_student_and_teacher_agree(student: Student, image: torch.Tensor) -> None:
    out = {name: value.detach() for name, value in student(image).items()}
    same = total_error(map_errors(out, out), output_errors(out, out), LossConfig())
    assert same.item() == pytest.approx(0, abs=1e-4)
    for name in ("s16", "obj8", "cls16", "reg32"):
        other = {**out, "obj16": out["obj16"] + 8, "obj32": out["obj32"] + 8}  # the teacher sees objects
        changed = {**other, name: other[name] + 1}
        error = total_error(map_errors(changed, other), output_errors(changed, other), LossConfig())
        assert error.item() > 1e-3, name


def test_orthogonal_steps_have_even_singular_values() -> None:
    torch.manual_seed(3)
    for shape in ((16, 64), (64, 16), (32, 32)):
        values = torch.linalg.svdvals(
            orthogonal(torch.randn(shape) @ torch.diag(torch.logspace(0, -1, shape[1])))
        )
        assert values.max() < 1.3 and values[: min(shape) // 2].min() > 0.5


def test_muon_finds_a_linear_map(student: Student) -> None:
    assert all(w.shape[2:] == (1, 1) for w in pointwise_weights(student))
    torch.manual_seed(4)
    layer = torch.nn.Conv2d(8, 4, 1, bias=False)
    wanted = torch.randn(4, 8, 1, 1)
    optimizer = Muon(pointwise_weights(layer), rate=0.2, decay=0.0)
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.2 * (1 - step / 200)
        layer.weight.grad = layer.weight.detach() - wanted
        optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), wanted, atol=0.1, rtol=0)


def test_the_schedule_goes_through_its_modes_and_the_rate_falls() -> None:
    config = TrainConfig(minutes=1)
    modes = [mode_at(p, config) for p in (0.0, 0.4, 0.9)]
    assert modes == [Mode.FORCED, Mode.APART, Mode.JOINED]
    rates = [rate_at(p, 1000, config) for p in (0.0, 0.5, 1.0)]
    assert rates[0] == config.peak_rate and rates[2] == pytest.approx(
        config.final_rate * config.joined_rate_ratio
    )
    assert rates[0] > rates[1] > rates[2] and rate_at(0, 0, config) < 0.1 * config.peak_rate


def test_a_run_resumes_where_it_was_saved(tmp_path: Path) -> None:
    config = TrainConfig(minutes=1)
    state = fresh_state(config)
    sum(value.square().mean() for value in state.student(torch.rand(1, 3, 64, 64)).values()).backward()
    for optimizer in state.optimizers:
        optimizer.step()
    follow(state.average, state.student, 0.5)
    state.step, state.elapsed_seconds = 17, 42.0
    state.save(tmp_path / "checkpoint.pt")
    again = fresh_state(TrainConfig(minutes=5, seed=99).warm())
    again.restore(tmp_path / "checkpoint.pt")
    assert (again.step, again.elapsed_seconds) == (17, 42.0)
    assert again.config == replace(config, minutes=5)
    for mine, theirs in ((state.student, again.student), (state.average, again.average)):
        for name, value in mine.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name])
    weight = pointwise_weights(again.student)[0]
    assert "momentum" in again.optimizers[0].state[weight]
    assert not torch.equal(pointwise_weights(state.average)[0], pointwise_weights(state.student)[0])


def test_a_run_from_trained_weights_trains_all_stages_as_one(tmp_path: Path) -> None:
    config = TrainConfig(minutes=1)
    warm = fresh_state(config.warm())
    warm.take_weights(MODEL)
    for network in (warm.student, warm.average):
        weights = network.state_dict()
        for name, value in load_weights(MODEL).items():
            assert torch.equal(weights[name], value)
    assert mode_at(0.0, warm.config) is Mode.JOINED
    assert rate_at(0.0, 1000, warm.config) < rate_at(0.5, 1000, config)
    with pytest.raises(ModelNotFound, match=r"weights\.safetensors"):
        warm.take_weights(tmp_path)


def sample(decoded: bool) -> Sample:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 200, (60, 90, 3), np.uint8)
    return Sample("a.jpg", image, (image + np.uint8(50),) if decoded else ())


def test_teacher_and_student_see_the_same_scene() -> None:
    maker = ViewMaker([sample(False)], np.ones(1), np.random.default_rng(1))
    for share in (0.0, 1.0):
        for _ in range(12):
            clean, seen = maker.pair(ViewConfig(size=64, degrade_share=share))
            assert clean.shape == seen.shape == (64, 64, 3)
            assert np.array_equal(clean, seen) is (share == 0)


def test_decoded_images_are_for_the_student_only() -> None:
    maker = ViewMaker([sample(True)], np.ones(1), np.random.default_rng(1))
    config = ViewConfig(size=64, mosaic_share=0, letterbox_share=1, degrade_share=0)
    for share in (0.0, 1.0):
        clean, seen = maker.pair(ViewConfig(**{**vars(config), "decoded_share": share}))
        assert bool(seen.mean() > clean.mean() + 5) is (share == 1)


def test_a_letterboxed_view_lies_top_left_on_grey() -> None:
    view = letterboxed(np.full((30, 60, 3), 200, np.uint8), 64)
    assert (view[:31, :63] == 200).all() and (view[34:] == 114).all()


def test_drawn_cars_carry_their_own_targets() -> None:
    rng = np.random.default_rng(4)
    found = 0
    for _ in range(8):
        view, boxes = drawn_view(rng, np.full((192, 192, 3), 90, np.uint8), DrawnConfig())
        assert view.shape == (192, 192, 3)
        sides = {s: 192 // s for s in (8, 16, 32)}
        shapes = {"obj": 1, "cls": 80, "reg": 4}
        targets = {
            f"{n}{s}": np.zeros((2, c, k, k), np.float32) for s, k in sides.items() for n, c in shapes.items()
        }
        write_targets(targets, 1, boxes)
        assert all((value[0] == 0).all() for value in targets.values())  # the other view is left alone
        rows = []
        for s in sides:
            values = [
                targets[f"reg{s}"],
                1 / (1 + np.exp(-targets[f"obj{s}"])),
                1 / (1 + np.exp(-targets[f"cls{s}"])),
            ]
            rows.append(np.concatenate(values, 1)[1].reshape(85, -1).T)
        raw = decode_yolox(np.concatenate(rows), 192, 192).at_least(0.6)
        assert set(raw.classes.tolist()) <= {2}
        for box in boxes:
            assert 0 <= box[0] < box[2] <= 192 and 0 <= box[1] < box[3] <= 192
            assert np.abs(raw.boxes - np.array(box)).max(1).min() < 0.01
        found += len(boxes)
    assert found >= 8


def test_a_drawn_car_fills_its_box() -> None:
    ground = np.full((256, 256, 3), 90, np.uint8)
    view, boxes = drawn_view(
        np.random.default_rng(1), ground, DrawnConfig(road_share=0, most_cars=1, shortest=90)
    )
    (box,) = boxes
    changed = np.abs(view.astype(int) - 90).max(2) > 40
    x0, y0, x1, y1 = (int(v) for v in box)
    assert changed[y0:y1, x0:x1].mean() > 0.3
    assert changed.sum() < 1.6 * changed[y0:y1, x0:x1].sum()


def test_some_images_are_kept_back_and_always_the_same() -> None:
    kept = [name for name in (f"in_{i}.jpg" for i in range(2000)) if is_validation(name)]
    assert 80 < len(kept) < 170
    assert all(is_validation(name) for name in kept)


def test_video_frames_take_their_share_of_draws() -> None:
    stills = [Sample(f"{i}", np.zeros((1, 1, 3), np.uint8)) for i in range(10)]
    weights = np.array(draw_weights(stills, stills[:4], {"0", "1"}, 0.25))
    assert weights[:10].tolist() == [3, 3] + [1] * 8
    assert weights[10:].sum() / weights.sum() == pytest.approx(0.25)


def test_matches_are_one_to_one_and_of_one_class() -> None:
    box = (0.0, 0.0, 10.0, 10.0)
    shifted = (2.0, 0.0, 12.0, 10.0)
    car, truck = Detection("car", 0.9, box), Detection("truck", 0.8, box)
    assert overlap(car, Detection("car", 0.9, shifted)) == pytest.approx(8 / 12)
    assert overlap(car, Detection("car", 0.9, (20.0, 0.0, 30.0, 10.0))) == 0
    assert count_matches([car, Detection("car", 0.5, shifted)], [car]) == 1
    assert count_matches([truck], [car]) == 0


def test_an_export_computes_what_the_student_does_and_tells_nothing_of_this_machine(tmp_path: Path) -> None:
    torch.manual_seed(1)
    write_onnx(Student().eval(), tmp_path / "model.onnx")
    torch.manual_seed(1)
    verify(Student().eval(), tmp_path / "model.onnx")
    stored = (tmp_path / "model.onnx").read_bytes()
    assert b"site-packages" not in stored and b"/training" not in stored
    detector = load_detector(str(tmp_path / "model.onnx"), threads=1, min_score=1e-6)
    assert isinstance(detector, OnnxDetector) and detector.classes == SHIPPED_CLASSES
    assert detector.detect(np.full((50, 80, 3), 128, np.uint8))


def test_a_graph_that_is_not_the_teacher_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DetectorError, match="no teacher"):
        Teacher(tmp_path / "gone.onnx")
    torch.manual_seed(1)
    write_onnx(Student().eval(), tmp_path / "model.onnx")
    with pytest.raises(DetectorError, match="not the YOLOX-nano export"):
        Teacher(tmp_path / "model.onnx")


@pytest.mark.skipif(not TEACHER_FILE.is_file(), reason="the teacher's file is not beside the repository")
def test_the_teachers_maps_are_those_of_its_own_output() -> None:
    teacher = Teacher(TEACHER_FILE)
    images = np.random.default_rng(0).uniform(0, 255, (1, 3, 416, 416)).astype(np.float32)
    maps = teacher.maps(images)
    whole = open_session(TEACHER_FILE, 1).run({"images": images})["output"]
    objectness = np.concatenate([maps[f"obj{s}"].reshape(1, -1) for s in (8, 16, 32)], 1)
    np.testing.assert_allclose(1 / (1 + np.exp(-objectness)), whole[..., 4], atol=1e-5)
    assert teacher.maps(np.zeros((2, 3, 64, 96), np.float32))["s8"].shape == (2, 64, 8, 12)


def test_flags_are_declared_without_torch_and_read_by_name() -> None:
    args = cli.parse("train", ["--data", "d", "--teacher", "t", "--work", "w", "--minutes", "3", "--resume"])
    assert args.minutes == 3 and args.resume
    assert cli.parse("evaluate", ["--images", "i", "--annotations", "a"]).detector == "builtin"
    for name in cli.COMMANDS:
        assert callable(cli.runner(name))
