"""Every notebook runs from its first cell to its last, and is stored without outputs."""

from __future__ import annotations

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs").rglob("*.ipynb"))


def execute(notebook, folder: Path):
    """Run a notebook in a folder, with the package of this checkout."""
    from nbclient import NotebookClient

    client = NotebookClient(
        notebook, timeout=1800, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    return client.execute(cwd=str(folder))


def list_outputs(notebook) -> str:
    """Return all that the cells show, as text and as kinds of data."""
    shown = []
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            shown += [output.get("text", ""), *map(str, output.get("data", {}).items())]
    return "\n".join(shown)


def test_there_is_a_notebook():
    assert [path.name for path in NOTEBOOKS] == ["paper_table.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_stored_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


@pytest.mark.slow
def test_the_notebook_of_the_paper_table_shows_what_it_promises(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    path = ROOT / "docs" / "tutorials" / "paper_table.ipynb"
    shown = list_outputs(execute(nbformat.read(path, as_version=4), tmp_path))
    assert r"\label{tab:scenes-val-resnet-scenes}" in shown
    assert "SA-CAM (ours)" in shown
    assert "| Grad-CAM |" in shown
    assert shown.count("image/png") >= 3
    assert "Records(" in shown
    assert "<table" in shown
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_cell_that_fails_fails_the_test(tmp_path):
    from nbclient.exceptions import CellExecutionError

    broken = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")])
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        execute(broken, tmp_path)
