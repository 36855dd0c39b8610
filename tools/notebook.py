"""Carries out a notebook's code cells and keeps what they show: ``python -m tools.notebook docs/first-steps.ipynb``.

The cells are plain Python, run in order in one fresh namespace, as a kernel would: what they print is a stream, and the
value of a last expression is shown as text and, where it can, as HTML. No kernel is needed, which would bring a dozen
packages into the tests.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

Cell = dict[str, Any]
Output = dict[str, Any]
RICH = {"text/html": "_repr_html_", "text/markdown": "_repr_markdown_"}


def code_cells(notebook: dict[str, Any]) -> list[Cell]:
    """Return the cells of a notebook that hold code."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def carried_out(notebook: dict[str, Any]) -> list[list[Output]]:
    """Return what each code cell shows, in order; an error ends it."""
    names: dict[str, Any] = {"__name__": "__main__"}
    return [
        _outputs("".join(cell["source"]), number, names) for number, cell in enumerate(code_cells(notebook), start=1)
    ]


def _outputs(source: str, number: int, names: dict[str, Any]) -> list[Output]:
    body = ast.parse(source).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        exec(compile(ast.Module(body, []), f"cell {number}", "exec"), names)  # noqa: S102  # the notebook is ours
        value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names) if last else None  # noqa: S307
    found: list[Output] = [
        {"name": name, "output_type": "stream", "text": _lines(stream.getvalue())}
        for name, stream in (("stderr", err), ("stdout", out))
        if stream.getvalue()
    ]
    if value is not None:
        data = {"text/plain": _lines(repr(value))}
        data |= {kind: _lines(getattr(value, shows)()) for kind, shows in RICH.items() if hasattr(value, shows)}
        found.append({"data": data, "execution_count": number, "metadata": {}, "output_type": "execute_result"})
    return found


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def main(path: Path) -> None:
    """Carry out a notebook and write its outputs into it."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for number, (cell, outputs) in enumerate(zip(code_cells(notebook), carried_out(notebook), strict=True), start=1):
        cell["outputs"], cell["execution_count"] = outputs, number
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
