"""The notebook in `examples/` runs to its end, and shows what it promises."""

from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "examples/run.ipynb"


def test_the_notebook_runs_to_its_end() -> None:
    notebook: Any = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "kept without what it prints"
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    shown = {cell.source: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    drawn = [source for source, outputs in shown.items() if any("vegaEmbed" in str(out.get("data")) for out in outputs)]
    assert drawn == [source for source in shown if "plot." in source] and len(drawn) == 6
    [sql] = [outputs for source, outputs in shown.items() if "run.sql" in source]
    # The replica that has something to understand reaches 99 %, and the other does not.
    rows = [line.split() for line in sql[0]["data"]["text/plain"].replace("│", " ").splitlines()]
    reached = [row for row in rows if len(row) == 2 and all(word.isdigit() for word in row)]
    assert len(reached) == 1 and reached[0][0] == "0", sql
