"""The packages in docs/examples, installed by pip as anybody would, pass their own tests, and what they bring is found
wherever a name is taken."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from tests.pictures import photo

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "docs" / "examples"
NAMES = sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages, with all examples in it."""
    pytest.importorskip("setuptools", reason="setuptools builds the examples")
    source, target = tmp_path_factory.mktemp("examples"), tmp_path_factory.mktemp("site")
    shutil.copytree(EXAMPLES, source, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(target)]
    done = subprocess.run(
        [*pip, *offline, *(str(source / name) for name in NAMES)],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return target


def run(
    installed: Path, folder: Path, *arguments: str, timeout: int = 110
) -> subprocess.CompletedProcess[str]:
    """Python beside the installed examples and this tree, in another working folder."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (installed, ROOT)))},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.mark.parametrize("name", NAMES)
def test_an_example_passes_its_own_tests(installed: Path, tmp_path: Path, name: str) -> None:
    tests = shutil.copytree(EXAMPLES / name / "tests", tmp_path / "tests")
    done = run(installed, tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", str(tests))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout and "skipped" not in done.stdout


@pytest.mark.parametrize("kind", [("codec", "pyramid"), ("detector", "lights"), ("postfilter", "bilateral")])
def test_the_command_tries_them_too(installed: Path, tmp_path: Path, kind: tuple[str, str]) -> None:
    done = run(installed, tmp_path, "-m", "secondlook.conformance", *kind)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok ") >= 6 and "failed" not in done.stdout


def test_a_picture_goes_through_all_of_them_by_name(installed: Path, tmp_path: Path) -> None:
    """No flag names the model when a layer is looked at or decoded."""
    cv2.imwrite(str(tmp_path / "one.png"), photo(96, 80)[..., ::-1])
    command = ("-m", "secondlook")
    for arguments in (
        ("encode", "one.png", "--model", "pyramid"),
        ("decode", "one.base.slk", "one.enh.slk", "-o", "again.png", "--postfilter", "bilateral"),
    ):
        done = run(installed, tmp_path, *command, *arguments)
        assert done.returncode == 0, done.stderr
    assert cv2.imread(str(tmp_path / "again.png")).shape == (96, 80, 3)
    shown = run(installed, tmp_path, *command, "inspect", "one.base.slk", "--json")
    assert json.loads(shown.stdout)["codec"] == "pyramid"
    listed = run(installed, tmp_path, *command, "models", "list")
    assert any(line.startswith("pyramid ") and "of a package" in line for line in listed.stdout.splitlines())


def test_without_the_package_a_layer_is_shown_and_what_is_missing_is_named(
    installed: Path, tmp_path: Path
) -> None:
    cv2.imwrite(str(tmp_path / "one.png"), photo(64, 48)[..., ::-1])
    assert (
        run(installed, tmp_path, "-m", "secondlook", "encode", "one.png", "--model", "pyramid").returncode
        == 0
    )
    shown = run(ROOT, tmp_path, "-m", "secondlook", "inspect", "one.base.slk")
    assert "pyramid" in shown.stdout and shown.returncode == 0
    failed = run(ROOT, tmp_path, "-m", "secondlook", "decode", "one.base.slk", "-o", "x.png")
    assert failed.returncode == 1 and "codec family pyramid, which another package brings" in failed.stderr
    assert len(failed.stderr.strip().splitlines()) == 1
