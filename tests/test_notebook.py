"""The quickstart notebook, executed from its first cell to its last with short settings."""

import json
from pathlib import Path

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "quickstart.ipynb"
# Without a reward model: after two steps every completion is incorrect, and it could learn nothing from them.
SHORT = [
    "--stages=corpus,tokenizer,pretrain,sft,rl,evaluate,report",
    "--config.pretrain.steps=2",
    "--config.sft.steps=2",
    "--config.rl.steps=2",
    "--config.evaluate.problems=4",
    "--config.evaluate.samples=2",
]


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def outputs(notebook, kind: str) -> list[str]:
    """What the cells show in one media type, in order."""
    shown = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    return [data[kind] for data in shown if kind in data]


def test_is_stored_without_outputs(notebook):
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert not any(cell.outputs or cell.execution_count for cell in code)


@pytest.mark.slow
def test_runs_from_top_to_bottom(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # this checkout, whatever else is installed
    (settings,) = [i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
    workdir = tmp_path / "run"
    short = nbformat.v4.new_code_cell(f"WORKDIR = {str(workdir)!r}\nOVERRIDES = {SHORT!r}")
    notebook.cells.insert(settings + 1, short)

    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()

    assert len(outputs(notebook, "image/png")) == 3  # losses, reinforcement, accuracy
    report = json.loads((workdir / "report" / "report.json").read_text(encoding="utf-8"))
    (table,) = outputs(notebook, "text/markdown")
    assert f"{report['corpus']['pages_read']} pages read" in table
    for model in ("base", "sft", "rl"):
        assert f"| {model} | {report['evaluate'][model]['greedy']:.1%} |" in table
