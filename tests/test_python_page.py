"""docs/python.md and docs/first-steps.ipynb, whose code runs as it is printed, in an empty folder.

The notebook's cells are run by tools/notebook.py instead of a kernel, and are held against what the notebook shows, but
for numbers, which may differ in their last digits from machine to machine.
"""

from __future__ import annotations

import json
import re
import sys
import types
from pathlib import Path

import pytest

from tools.notebook import carried_out, code_cells

DOCS = Path(__file__).parent.parent / "docs"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"[-+]?\d+(\.\d+)?(e[-+]\d+)?")
SPACE = re.compile(r"[ -]+|\n")


def notebook():
    return json.loads((DOCS / "first-steps.ipynb").read_text(encoding="utf-8"))


def without_numbers(text: str) -> str:
    """Return a text without what may vary: numbers, and the width of the columns that they stand in."""
    return SPACE.sub(" ", NUMBER.sub("#", text))


def shown(outputs) -> list[str]:
    """Return the texts of a cell's outputs but for its progress, whose lines depend on the seconds that pass."""
    results = ["".join(one["data"]["text/plain"]) for one in outputs if one["output_type"] == "execute_result"]
    printed = ["".join(one["text"]) for one in outputs if one.get("name") == "stdout"]
    return [without_numbers(text) for text in (*printed, *results)]


def test_every_block_of_the_page_is_python_that_a_test_runs():
    text = (DOCS / "python.md").read_text(encoding="utf-8")
    assert {kind for kind, _ in BLOCK.findall(text)} == {"python"}
    assert 2 * len(BLOCK.findall(text)) == text.count("```")


@pytest.mark.slow
def test_the_code_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    for number, (_, code) in enumerate(BLOCK.findall((DOCS / "python.md").read_text(encoding="utf-8"))):
        exec(compile(code, f"python.md, block {number}", "exec"), module.__dict__)  # noqa: S102  # the page is ours
    assert list(module.mine.to_dataframe()["algo"].unique()) == ["PlainAverage (unregistered)"]


@pytest.mark.slow
def test_the_notebook_shows_what_its_cells_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept = [shown(cell["outputs"]) for cell in code_cells(notebook())]
    assert all(kept[1:]), "every cell shows something"
    assert [shown(outputs) for outputs in carried_out(notebook())] == kept


def test_the_notebook_has_the_form_of_one_and_no_path_of_a_machine():
    found = notebook()
    assert (found["nbformat"], found["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in found["cells"]}) == len(found["cells"])
    for cell in code_cells(found):
        assert cell.keys() == {"cell_type", "id", "metadata", "source", "outputs", "execution_count"}
    assert not re.search(r"/(home|root|tmp|Users)/", json.dumps(found))
