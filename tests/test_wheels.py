"""The check of wheels for other processors: what it asks pip for, and what it makes of the answer."""

from __future__ import annotations

import json

from tests import wheels


def report(file: str) -> str:
    row = {
        "metadata": {"name": file.partition("-")[0]},
        "download_info": {"url": f"https://index.example/{file}"},
    }
    return json.dumps({"install": [row]})


def test_all_that_a_camera_host_needs_is_asked_for() -> None:
    wanted = wheels.wanted()
    assert {"av", "constriction", "numpy", "onnxruntime", "opencv-python", "pyzmq"} <= wanted.keys()
    assert not {"fastapi", "torch", "sqlalchemy"} & wanted.keys()
    asked = wheels.command("av==18.1.0", "3.11", "aarch64", "/nowhere")
    assert "--only-binary=:all:" in asked and "--dry-run" in asked and asked[-1] == "av==18.1.0"
    assert "manylinux_2_28_aarch64" in asked and not any("x86" in word for word in asked)


def test_what_pip_says_is_read_by_name() -> None:
    file = "opencv_python-4.11-cp37-abi3-manylinux2014_aarch64.whl"
    assert wheels.wheels(report(file)) == {"opencv-python": file}


def test_a_wheel_that_is_missing_and_one_that_is_there_by_now_are_told() -> None:
    assert wheels.verdict({"av": "av.whl", "constriction": None}, "aarch64") == []
    assert wheels.verdict({"av": None, "constriction": None}, "aarch64") == ["av has no wheel"]
    assert wheels.verdict({"constriction": "c.whl"}, "aarch64") == ["constriction has a wheel by now: say so"]
    assert wheels.verdict({"constriction": None}, "x86_64") == ["constriction has no wheel"]
