"""`secondlook encode`, `decode` and `inspect`, as a person uses them."""

from __future__ import annotations

import json
import os

import cv2
import numpy as np
import pytest

from secondlook.main import main


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """A photograph-like picture: smooth shapes with a little grain, of a size that is no multiple of 64."""
    path = tmp_path_factory.mktemp("picture") / "photo.png"
    y, x = np.mgrid[0:150, 0:200].astype(np.float32)
    planes = [128 + 80 * np.sin(x / 23 + k) * np.cos(y / 31 - k) for k in range(3)]
    grain = np.random.default_rng(1).normal(0, 2, (150, 200, 3))
    cv2.imwrite(str(path), np.clip(np.stack(planes, -1) + grain, 0, 255).astype(np.uint8))
    return path


@pytest.fixture(scope="module")
def layers(picture):
    assert main(["encode", str(picture), "-o", str(picture.with_name("photo.slk"))]) == 0
    return picture.with_name("photo.base.slk"), picture.with_name("photo.enh.slk")


def psnr(path, original):
    error = np.mean((cv2.imread(str(path)).astype(float) - cv2.imread(str(original))) ** 2)
    return 10 * np.log10(255**2 / error)


def fails(capsys, *arguments):
    """The one line a failing command says."""
    assert main([str(argument) for argument in arguments]) == 1
    said = capsys.readouterr().err
    assert said.startswith("secondlook: error: ")
    assert said.count("\n") == 1
    return said


def test_both_layers_show_more_than_one(picture, layers, tmp_path):
    base, enhancement = layers
    assert main(["decode", str(base), "-o", str(tmp_path / "base.png")]) == 0
    assert main(["decode", str(base), str(enhancement), "-o", str(tmp_path / "both.png")]) == 0
    assert cv2.imread(str(tmp_path / "base.png")).shape == (150, 200, 3)
    assert psnr(tmp_path / "both.png", picture) > psnr(tmp_path / "base.png", picture)


def test_inspect_tells_the_header(layers, capsys):
    capsys.readouterr()
    assert main(["inspect", "--json", str(layers[1])]) == 0
    header = json.loads(capsys.readouterr().out)
    assert (header["width"], header["height"], header["layer"]) == (200, 150, "enhancement")
    assert main(["inspect", str(layers[0])]) == 0
    assert "width" in capsys.readouterr().out


@pytest.mark.parametrize("kept", [0, 3, 20, -1])
def test_a_truncated_layer_is_one_line_and_no_picture(layers, tmp_path, capsys, kept):
    short = tmp_path / "short.slk"
    short.write_bytes(layers[0].read_bytes()[:kept])
    fails(capsys, "decode", short, "-o", tmp_path / "out.png")
    assert os.listdir(tmp_path) == ["short.slk"]


def test_an_altered_layer_is_one_line(layers, tmp_path, capsys):
    data = bytearray(layers[0].read_bytes())
    data[-10] ^= 1
    (tmp_path / "altered.slk").write_bytes(data)
    fails(capsys, "decode", tmp_path / "altered.slk", "-o", tmp_path / "out.png")


def test_layers_of_two_pictures_do_not_mix(layers, tmp_path, capsys):
    other = tmp_path / "other.png"
    cv2.imwrite(str(other), np.zeros((150, 200, 3), np.uint8))
    assert main(["encode", str(other), "-o", str(tmp_path / "other.slk")]) == 0
    fails(capsys, "decode", tmp_path / "other.base.slk", layers[1], "-o", tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()


def test_what_is_no_image_is_one_line(tmp_path, capsys):
    (tmp_path / "x.png").write_text("text")
    assert "not a picture of a known format" in fails(capsys, "encode", tmp_path / "x.png")
    assert "does not exist" in fails(capsys, "encode", tmp_path / "y.png")
    (tmp_path / "z.png").touch()
    assert "is an empty file" in fails(capsys, "encode", tmp_path / "z.png")


def test_an_unknown_model_is_one_line(picture, capsys):
    assert "no-such" in fails(capsys, "encode", picture, "--model", "no-such")


def test_an_unwritable_output_is_one_line(picture, layers, tmp_path, capsys):
    assert "cannot write" in fails(capsys, "encode", picture, "-o", tmp_path / "no" / "x.slk")
    assert "cannot write" in fails(capsys, "decode", layers[0], "-o", tmp_path / "no" / "x.png")


def test_an_unknown_picture_format_is_one_line(layers, tmp_path, capsys):
    assert ".nope" in fails(capsys, "decode", layers[0], "-o", tmp_path / "x.nope")


@pytest.mark.parametrize("arguments", [["encode"], ["encode", "x", "--quality", "64"], ["nope"], []])
def test_wrong_usage_exits_with_2(arguments):
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert exit_info.value.code == 2


def test_version(capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(["--version"])
    assert exit_info.value.code == 0
    assert capsys.readouterr().out.startswith("secondlook 0.")
