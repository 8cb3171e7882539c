"""The notebooks run from top to bottom, on the built-in data, with two training steps."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "colabs").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path, tmp_path, monkeypatch):
    for variable, value in {
        "VLM_JAX_WORKDIR": str(tmp_path / "run"),
        "VLM_JAX_ARGUMENTS": "smoke",
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": "",
        "MPLBACKEND": "agg",
    }.items():
        monkeypatch.setenv(variable, value)
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), (
        "commit notebooks without outputs"
    )
    done = NotebookClient(notebook, timeout=240, resources={"metadata": {"path": tmp_path}})
    done.execute()
    printed = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ())
    )
    assert "going on from step" not in printed
    assert "starting of 2" in printed
