"""The notebooks of docs/notebooks run from top to bottom, as a reader would run them, in less time."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
NEED_TRAINING = {"4-train-on-your-camera", "5-table-one"}
QUICK = {"MINUTES": "0.3", "LIMIT": "1"}  # what a reader leaves at its default


@pytest.mark.process
@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if path.stem in NEED_TRAINING and importlib.util.find_spec("torch") is None:
        pytest.skip("training is not installed")
    for name, value in QUICK.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MPLBACKEND", "agg")
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "kept without outputs"
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_the_code_of_a_notebook_is_typed(path: Path, tmp_path: Path) -> None:
    if path.stem in NEED_TRAINING and importlib.util.find_spec("torch") is None:
        pytest.skip("training is not installed")
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    module = tmp_path / f"notebook_{path.stem.replace('-', '_')}.py"
    module.write_text("\n\n".join(cells))
    command = [sys.executable, "-m", "mypy", "--strict", str(module)]
    checked = subprocess.run(command, check=False, cwd=FOLDER.parents[1], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
