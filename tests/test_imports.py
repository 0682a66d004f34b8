"""What may be imported where; import-linter holds the static half of it, these tests the one at run time."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path for folder in ("shared", "edge", "cloud", "training") for path in (ROOT / folder).rglob("*.py")
)
MAX_MODULE_LINES = 600
MAX_FUNCTION_LINES = 70  # about 60, with arguments one per line

FORBID = """
import sys

class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {forbidden!r}:
            raise ModuleNotFoundError(f"{{name}} is not for this process", name=name)

sys.meta_path.insert(0, Forbid())
"""


def run(code: str, *forbidden: str) -> str:
    """Run `code` where importing one of `forbidden` fails; returns what it printed."""
    return subprocess.run(
        [sys.executable, "-c", FORBID.format(forbidden=set(forbidden)) + code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=110,
    ).stdout


def test_edge_needs_neither_torch_nor_the_cloud():
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sorted((ROOT / "edge").rglob("*.py"))
        if path.name != "__main__.py"
    ]
    code = "import importlib\n" + "\n".join(f"importlib.import_module({name!r})" for name in modules)
    run(
        code,
        "torch",
        "torchvision",
        "compressai",
        "ultralytics",
        "cloud",
        "training",
        "fastapi",
        "sqlalchemy",
    )


def test_help_loads_no_heavy_package():
    heavy = (
        "numpy",
        "cv2",
        "onnxruntime",
        "zmq",
        "fastapi",
        "sqlalchemy",
        "torch",
        "msgpack",
        "constriction",
    )
    assert "demo" in run(
        "from secondlook.main import build_parser; print(build_parser().format_help())", *heavy
    )


def test_a_missing_package_is_one_line_that_names_the_extra():
    code = "import sys; from secondlook.main import main; sys.exit(main(['encode', 'x.png']))"
    done = subprocess.run(
        [sys.executable, "-c", FORBID.format(forbidden={"numpy"}) + code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("secondlook: error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_functions_stay_readable(path):
    text = path.read_text()
    assert text.count("\n") <= MAX_MODULE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < MAX_FUNCTION_LINES, node.name


TRAINING_ONLY = (
    "compressai",
    "lpips",
    "matplotlib",
    "onnx",
    "onnx2torch",
    "onnxscript",
    "pycocotools",
    "pytorch_msssim",
    "scipy",
    "torch",
    "torchvision",
)


def test_the_suite_runs_without_the_training_extra() -> None:
    """`make test` does not install it: what needs it is skipped, and nothing fails to be collected."""
    collect = (
        "import pytest\nprint(pytest.main(['tests', '--collect-only', '-q', '-p', 'no:cacheprovider']).name)"
    )
    *_, code = run(collect, *TRAINING_ONLY).splitlines()
    assert code == "OK"
