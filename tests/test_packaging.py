"""What is asked for and what is shipped: bounds, constraints, and the files in the wheel."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from secondlook.shared.models import MODELS_VARIABLE, find_model
from secondlook.shared.version import __version__
from tests import constraints, pythons

ROOT = Path(__file__).parents[1]
NAMED_AGAIN = {
    ("training", "av"),
    ("training", "numpy"),
    ("training", "pillow"),
}  # bounded where they are named first
EXTRAS = constraints.project()["optional-dependencies"]
MODELS = ("detector", "lite", "rrdb-fast", "rrdb-l1", "rrdb-l2")
SHIPPED = ("shared", "edge", "cloud", "training", "exported_models")  # folders whose modules are in the wheel
DATA = {
    "py.typed",
    "shared/FORMAT.md",
    "shared/PACKETS.md",
    *(f"exported_models/{name}/manifest.json" for name in MODELS),
    *(f"exported_models/{name}/{file}" for name in MODELS for file in find_model(name).manifest["files"]),
    *(str(path.relative_to(ROOT)) for path in (ROOT / "cloud/station/static").rglob("*") if path.is_file()),
    *(str(path.relative_to(ROOT)) for path in (ROOT / "training/presets").glob("*.toml")),
}
INFO = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt"}


@pytest.mark.parametrize("extra", ["", *EXTRAS])
def test_every_dependency_has_both_bounds(extra: str) -> None:
    lines = EXTRAS[extra] if extra else constraints.project()["dependencies"]
    for one in map(Requirement, lines):
        if one.name != "secondlook" and (extra, one.name) not in NAMED_AGAIN:
            operators = sorted(part.operator for part in one.specifier)
            assert operators in (["<", ">="], ["<=", ">="]), str(one)


@pytest.mark.parametrize("extra", ["", *EXTRAS])
def test_the_bounds_allow_what_is_installed_here(extra: str) -> None:
    """Else the tests say nothing of what they allow."""
    wanted = constraints.requirements(*([extra] if extra else []))
    found = {one.name: _version(one.name) for one in wanted}
    if None in found.values():
        pytest.skip(f"extra {extra} is not installed here: {[name for name in found if found[name] is None]}")
    for one in wanted:
        if canonicalize_name(one.name) != "setuptools":  # which comes with an environment
            assert one.specifier.contains(str(found[one.name])), f"{one}, and {found[one.name]} is installed"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def test_the_constraints_satisfy_the_bounds_and_leave_nothing_out() -> None:
    pinned = constraints.pins(constraints.FILE.read_text())
    for one in constraints.requirements(*constraints.EXTRAS):
        assert one.specifier.contains(pinned[canonicalize_name(one.name)]), str(one)
    for one in constraints.requirements(*EXTRAS):
        found = pinned.get(canonicalize_name(one.name))
        assert found is None or one.specifier.contains(found), f"{one}, and {found} is pinned"


def test_the_constraints_are_those_of_a_whole_environment() -> None:
    """They name all that the deployed packages need, down to the last."""
    try:
        wanted = constraints.installed(constraints.requirements(*constraints.EXTRAS))
    except PackageNotFoundError as error:
        pytest.skip(f"{error} is not installed")
    assert set(constraints.pins(constraints.FILE.read_text())) == set(wanted)


@pytest.mark.parametrize("line", ["numpy", "numpy>=1", "numpy==1\nnumpy==2"])
def test_lines_that_pin_nothing(line: str) -> None:
    with pytest.raises(ValueError, match="pins nothing"):
        constraints.pins(line)


def test_the_image_is_built_with_the_constraints() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    assert "COPY deploy/constraints.txt" in dockerfile
    assert "--constraint constraints.txt" in dockerfile
    assert "!deploy/constraints.txt" in (ROOT / "deploy" / "Dockerfile.dockerignore").read_text().splitlines()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The wheel of a clean copy of the tree, and what building it said."""
    try:
        if Version(version("setuptools")) < Version("77"):
            pytest.skip("setuptools is too old to build the wheel: install the extra dev")
        version("wheel")
    except PackageNotFoundError as error:
        pytest.skip(f"{error} is not installed")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    skipped = shutil.ignore_patterns("__pycache__")
    for folder in (*SHIPPED, "secondlook"):
        shutil.copytree(ROOT / folder, source / folder, ignore=skipped, symlinks=True)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--verbose",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    done = subprocess.run(
        [*pip, "--wheel-dir", str(out), str(source)],
        cwd=out,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    (wheel,) = out.glob("*.whl")
    return wheel, done.stdout


def test_the_wheel_holds_what_runs_and_nothing_else(built: tuple[Path, str]) -> None:
    modules = {str(path.relative_to(ROOT)) for folder in SHIPPED for path in (ROOT / folder).rglob("*.py")}
    modules |= {path.name for path in (ROOT / "secondlook").glob("*.py")}
    modules |= {f"operate/{path.name}" for path in (ROOT / "secondlook" / "operate").glob("*.py")}
    info = f"secondlook-{__version__}.dist-info"
    with zipfile.ZipFile(built[0]) as wheel:
        names = set(wheel.namelist())
    assert names == {f"secondlook/{name}" for name in modules | DATA} | {f"{info}/{name}" for name in INFO}


def test_weights_that_only_training_reads_stay_out(built: tuple[Path, str]) -> None:
    with zipfile.ZipFile(built[0]) as wheel:
        assert not [name for name in wheel.namelist() if name.endswith("weights.safetensors")]
        sizes = sum(
            one.file_size
            for one in wheel.infolist()
            if one.filename.startswith("secondlook/exported_models/")
        )
    here = sum(path.stat().st_size for path in (ROOT / "exported_models").rglob("weights.safetensors"))
    assert here > 13_000_000 and sizes < 20_000_000


def test_setuptools_has_no_warnings(built: tuple[Path, str]) -> None:
    lines = [line for line in built[1].splitlines() if re.search(r"warning|deprecat", line, re.IGNORECASE)]
    assert [line for line in lines if "byte-compiling is disabled" not in line and "_Beta" not in line] == []


def test_the_wheel_runs_by_itself(built: tuple[Path, str], tmp_path: Path) -> None:
    """Away from the tree: the models are found, and the virtual camera has its street."""
    with zipfile.ZipFile(built[0]) as wheel:
        wheel.extractall(tmp_path / "site")
    code = (
        "import sys; sys.modules['ultralytics'] = None; sys.modules['torch'] = None\n"
        "import secondlook; from pathlib import Path\n"
        f"assert Path(secondlook.__file__).is_relative_to({str(tmp_path)!r}), secondlook.__file__\n"
        "from secondlook.cloud.workers.detectors import load_detector\n"
        "from secondlook.cloud.workers.postfilter import load_postfilter\n"
        "from secondlook.edge.source.sources import demo_shots; from secondlook.shared.codec import load_codec\n"
        "image = next(demo_shots(5.0)).image\n"
        "codec = load_codec(threads=1)\n"
        "base = codec.decode_base(codec.encode(image, base_quality=16, quality=40).layers.base)\n"
        "names = {one.label for one in load_detector('builtin', threads=1).detect(base)}\n"
        "load_postfilter('rrdb-fast', threads=1)\n"
        "print(sorted(names))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "car" in done.stdout


def test_the_demo_runs_from_the_wheel(built: tuple[Path, str], tmp_path: Path) -> None:
    """Six processes, away from the tree, where neither torch nor ultralytics can be imported."""
    site = tmp_path / "site"
    with zipfile.ZipFile(built[0]) as wheel:
        wheel.extractall(site)
    for name in ("torch", "torchvision", "ultralytics", "compressai"):
        (site / f"{name}.py").write_text(f"raise ModuleNotFoundError('no {name} here', name='{name}')\n")
    report = tmp_path / "report.json"
    flags = ["--frames", "6", "--exit", "--no-open", "--port", "0", "--report", str(report)]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "secondlook", "demo", *flags],
        cwd=tmp_path,
        env={
            "PYTHONPATH": str(site),
            "PATH": os.defpath,
            "HOME": str(tmp_path),
            MODELS_VARIABLE: str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(report.read_text())
    assert told["frames"]["detected"] == 6, told["frames"]


def test_the_pythons_that_are_claimed() -> None:
    """`make pythons` tries each; pyproject.toml says the same as the pages."""
    project = constraints.project()
    prefix = "Programming Language :: Python :: 3."
    claimed = [
        one.removeprefix("Programming Language :: Python :: ")
        for one in project["classifiers"]
        if one.startswith(prefix)
    ]
    assert claimed == list(pythons.VERSIONS) == ["3.11", "3.12", "3.13"]
    assert project["requires-python"] == f">={claimed[0]}"
    assert f"Python {claimed[0]} to {claimed[-1]}" in (ROOT / "README.md").read_text()
    # Why `training` ends before 3.13: compressai asks for a numpy that has no wheels for it.
    assert "numpy<2" in EXTRAS["training"] and "3.12" in (ROOT / "docs" / "training.md").read_text()
