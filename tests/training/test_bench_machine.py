"""`bench machine`: real bytes, frames in order, accuracy as COCO has it, and ratios only where curves bracket."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av")
pytest.importorskip("pycocotools")
pytest.importorskip("matplotlib")

from secondlook.main import main
from secondlook.shared.detection import Detection
from secondlook.shared.errors import ConfigError, SourceUnreadable
from secondlook.training.machine.accuracy import Judge
from secondlook.training.machine.codecs import CODECS
from secondlook.training.machine.crops import MOST_CROPS, SecondLook, crops_of
from secondlook.training.machine.measure import (
    Clip,
    Measured,
    Row,
    as_moving,
    find_videos,
    measure_clip,
    ratio,
    read_clip,
)
from secondlook.training.machine.report import plot, table, write_table
from tests.pictures import photo

WIDTH, HEIGHT = 97, 64  # an odd side, which 4:2:0 cannot code


def scene(number: int) -> np.ndarray:
    """A bright square on a textured ground, eight pixels further with each frame."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    ground = (60 + 20 * np.sin(x / 5) + 20 * np.cos(y / 7)).astype(np.uint8)
    image = np.repeat(ground[:, :, None], 3, axis=2)
    left = 4 + 8 * number
    image[20:40, left : left + 20] = (230, 220, 40)
    return image


class SquareDetector:
    """Finds the bright square by its colour; its score says how much of the square it sees."""

    name = "square"
    classes = ("square",)

    def detect(self, image: np.ndarray) -> list[Detection]:
        bright = (image[:, :, 0] > 180) & (image[:, :, 2] < 120)
        rows, columns = np.nonzero(bright)
        if len(rows) < 20:
            return []
        box = (float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1))
        return [Detection("square", min(1.0, len(rows) / 400), box)]


FRAMES = tuple(scene(number) for number in range(6))


def test_a_moving_camera_sees_another_part_in_each_frame() -> None:
    still = photo(90, 120)
    seen = as_moving(Clip("yard", (still,) * 30), fps=5.0)
    assert seen.name == "yard, moving" and {one.shape for one in seen.frames} == {(66, 90, 3)}
    assert len({one.tobytes() for one in seen.frames}) > 25
    again = as_moving(Clip("yard", (still,) * 30), fps=5.0)
    assert all(np.array_equal(a, b) for a, b in zip(seen.frames, again.frames, strict=True))


@pytest.mark.parametrize("name", CODECS)
def test_every_codec_hands_out_each_frame_in_order_and_spends_more_on_more(name: str) -> None:
    codec = CODECS[name]
    low, high = (codec.encode(FRAMES, codec.qualities[place]) for place in (0, -1))
    assert len(low.sizes) == len(low.decoded) == len(FRAMES)
    assert all(size > 0 for size in low.sizes) and sum(low.sizes) < sum(high.sizes)
    for image, decoded in zip(FRAMES, high.decoded, strict=True):
        assert decoded.shape == image.shape and decoded.dtype == np.uint8
        assert (
            np.mean(np.abs(decoded.astype(int) - image)) < 6
        )  # a frame out of order would be off by far more
    assert low.cpu_seconds > 0


def test_a_judge_finds_all_in_what_it_judged_by_and_less_in_noise() -> None:
    judge = Judge(SquareDetector(), FRAMES)
    assert judge.objects == len(FRAMES)
    assert judge.score(FRAMES) == (pytest.approx(100.0), pytest.approx(0.0))
    half = [FRAMES[0] * 0 if number % 2 else image for number, image in enumerate(FRAMES)]
    ap50, error = judge.score(half)
    assert ap50 == pytest.approx(50, abs=2) and error > 5
    assert judge.score([image * 0 for image in FRAMES]) == (0.0, 0.0)
    nothing = Judge(SquareDetector(), [image * 0 for image in FRAMES])
    assert nothing.objects == 0 and math.isnan(nothing.score(FRAMES)[0])


def test_what_was_only_suspected_counts_neither_for_nor_against() -> None:
    faint = FRAMES[0].copy()
    faint[20:40, 4:16] = 60  # 160 of 400 pixels are left: a score of 0.4
    judge = Judge(SquareDetector(), [FRAMES[0], faint])
    assert judge.objects == 1
    assert judge.score([FRAMES[0], faint])[0] == pytest.approx(100.0)
    assert judge.score([FRAMES[0], faint * 0])[0] == pytest.approx(100.0)


def measured(name: str, **curves: list[tuple[float, float]]) -> Measured:
    clip = Measured(name, (64, 48), 10, {"judge": 50})
    for codec, points in curves.items():
        clip.rows += [Row(codec, n, "judge", kbit, ap, 1.0, 2.0) for n, (kbit, ap) in enumerate(points)]
    return clip


def test_bits_are_read_between_two_points_or_not_at_all() -> None:
    clip = measured(
        "road",
        a=[(1.0, 50.0), (2.0, 85.0), (4.0, 95.0), (8.0, 99.0)],
        b=[(2.0, 91.0), (4.0, 95.0)],
        c=[(1.0, 20.0), (4.0, 80.0)],
        # A lucky point at few bits does not count: 90 must hold from there on.
        d=[(1.0, 92.0), (2.0, 80.0), (8.0, 100.0)],
    )
    assert clip.bits_at("a", "judge", 90) == pytest.approx(2 * math.sqrt(2))
    assert clip.bits_at("b", "judge", 90) is None and clip.bits_at("c", "judge", 90) is None
    assert clip.bits_at("d", "judge", 90) == pytest.approx(4.0)
    shown = table([clip], ["a", "c"])
    assert "| clip | a | b | c | d |" in shown and "| road, 64x48 | 2.83 | < 2.00 | > 4.00 | 4.00 |" in shown
    assert "| against a | 1.00 (1 clip) | - | - | 1.41 (1 clip) |" in shown and "| against c | - |" in shown


def test_ratios_are_geometric_means_over_clips_where_both_curves_bracket() -> None:
    line = [(1.0, 80.0), (100.0, 100.0)]
    clips = [
        measured("one", a=line, b=[(2.0, 80.0), (200.0, 100.0)]),
        measured("two", a=line, b=[(8.0, 80.0), (800.0, 100.0)]),
        measured("three", a=line, b=[(1.0, 10.0), (9.0, 50.0)]),
    ]
    assert ratio(clips, "b", "a", "judge", 90) == (pytest.approx(4.0), 2)
    assert ratio(clips[2:], "b", "a", "judge", 90) is None


def test_a_clip_is_measured_and_plotted(tmp_path: Path) -> None:
    clip = measure_clip(
        Clip("square", FRAMES), [CODECS["x264 medium, plain"], CODECS["JPEG"]], {"square": SquareDetector()}
    )
    assert clip.objects == {"square": 6}
    assert {row.codec for row in clip.rows} == {"x264 medium, plain", "JPEG"}
    assert clip.curve("JPEG", "square")[-1].ap50 > 90
    (file,) = plot([clip], tmp_path / "plots")
    assert file.read_bytes().startswith(b"\x89PNG")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- bench machine -->\nold\n<!-- end of bench machine -->\nafter\n")
    write_table([clip], ["JPEG"], page)
    assert "old" not in page.read_text() and page.read_text().endswith("after\n")
    page.write_text("no marks")
    with pytest.raises(ConfigError, match="has no lines"):
        write_table([clip], ["JPEG"], page)


def write_video(path: Path, fps: int = 10) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(12):
            frame = av.VideoFrame.from_ndarray(scene(number % 6)[:, :96].copy(), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_frames_are_taken_at_the_wanted_rate(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4")
    assert len(read_clip(tmp_path / "clip.mp4", fps=10, most_frames=99).frames) == 12
    assert len(read_clip(tmp_path / "clip.mp4", fps=5, most_frames=99).frames) == 6
    assert len(read_clip(tmp_path / "clip.mp4", fps=5, most_frames=4).frames) == 4
    (tmp_path / "bad.mp4").write_bytes(b"no video at all")
    with pytest.raises(SourceUnreadable, match=r"bad\.mp4 cannot be decoded"):
        read_clip(tmp_path / "bad.mp4", fps=5, most_frames=4)
    assert [path.name for path in find_videos([tmp_path])] == ["bad.mp4", "clip.mp4"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no video"):
        find_videos([tmp_path / "empty"])


def test_the_command_writes_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_video(tmp_path / "clip.mp4")
    out = tmp_path / "figures.json"
    command = ["bench", "machine", "--videos", str(tmp_path), "--codecs", "JPEG", "--json", str(out)]
    assert main([*command, "--frames", "3"]) == 0
    (video,) = json.loads(out.read_text())["videos"]
    assert video["name"] == "clip" and video["frames"] == 3 and video["encode_cpu_ms"]["JPEG"] > 0
    assert "| clip | JPEG |" in capsys.readouterr().out
    assert main([*command, "--codecs", "mpeg9"]) == 1
    assert "codec 'mpeg9' is not known; there are: x264 medium," in capsys.readouterr().err


def test_a_run_goes_on_from_the_figures_of_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from secondlook.training.machine import measure

    write_video(tmp_path / "clip.mp4")
    out = tmp_path / "figures.json"
    command = ["bench", "machine", "--videos", str(tmp_path), "--json", str(out), "--resume", "--frames", "3"]
    assert main([*command, "--codecs", "JPEG"]) == 0
    first = json.loads(out.read_text())["videos"][0]
    measured_codecs: list[str] = []
    whole = measure.measure_clip

    def noting(clip, codecs, judges, say):
        measured_codecs.extend(codec.name for codec in codecs)
        return whole(clip, codecs, judges, say)

    monkeypatch.setattr(measure, "measure_clip", noting)
    assert main([*command, "--codecs", "JPEG", "x264 veryfast"]) == 0
    assert measured_codecs == ["x264 veryfast"]
    both = json.loads(out.read_text())["videos"][0]
    assert both["rows"][: len(first["rows"])] == first["rows"] and len(both["rows"]) > len(first["rows"])
    assert main([*command, "--codecs", "JPEG", "--frames", "4"]) == 1
    assert "the figures of clip are of other frames or judges" in capsys.readouterr().err
    out.write_text('{"videos": [{}]}')
    assert main(command) == 1 and "no figures of bench machine" in capsys.readouterr().err
    out.write_text("{")
    assert main(command) == 1 and "holds no JSON" in capsys.readouterr().err
    assert main(["bench", "machine", "--videos", str(tmp_path), "--resume"]) == 1
    assert "name one" in capsys.readouterr().err


def test_a_second_look_fetches_what_is_doubtful_and_its_bytes_count() -> None:
    def found(score: float, box: tuple[float, float, float, float]) -> Detection:
        return Detection("square", score, box)

    seen = [
        found(0.9, (0, 0, 40, 40)),
        found(0.1, (0, 0, 40, 40)),
        found(0.3, (50, 20, 70, 40)),
        found(0.2, (52, 22, 60, 30)),
    ]
    assert crops_of(seen, WIDTH, HEIGHT) == [(32, 0, 80, 48)]
    many = [found(0.3, (8 * n, 0, 8 * n + 4, 20)) for n in range(10)]
    assert len(crops_of(many, WIDTH, HEIGHT)) == MOST_CROPS

    class Doubting(SquareDetector):
        """Sees the square for sure only where its colour is right."""

        def detect(self, image: np.ndarray) -> list[Detection]:
            return [
                Detection(one.label, 0.4, one.box) if one.score < 0.95 else one
                for one in super().detect(image)
            ]

    dim = [np.where(image > 200, 190, image).astype(np.uint8) for image in FRAMES]
    blurred = [np.where(np.arange(WIDTH)[None, :, None] % 4 == 0, image // 2, image) for image in dim]
    assert all(one.score == 0.4 for image in blurred for one in Doubting().detect(image))
    better, size = SecondLook().look(blurred, FRAMES, Doubting())
    assert size > len(FRAMES) * 60
    assert all(one.score > 0.9 for image in better for one in Doubting().detect(image))
    plain = Clip("square", FRAMES)
    rows = {
        name: measure_clip(plain, [CODECS[name]], {"judge": Doubting()}).rows
        for name in ("video x265", "video x265, second look")
    }
    for without, looked in zip(rows["video x265"], rows["video x265, second look"], strict=False):
        assert looked.kbit >= without.kbit and looked.quality == without.quality
