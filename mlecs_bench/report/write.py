"""Writes a report: every table as Markdown, LaTeX and CSV, every figure as SVG and PNG, and all of it on one page."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlecs_bench.errors import UsageError
from mlecs_bench.files import write_bytes, write_text
from mlecs_bench.report.csv_text import table_csv
from mlecs_bench.report.html import report_html
from mlecs_bench.report.latex import report_latex, table_latex
from mlecs_bench.report.markdown import report_markdown, table_markdown
from mlecs_bench.report.overview import row_summary
from mlecs_bench.report.table import Report, table_json

INDEX = "report.json"
"""Lists the files of a report, so that the next one takes away those that it no longer has."""


def report_json(report: Report, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a report as JSON values, with nothing rounded: rows, references, tables and claims."""
    tables = [table_json(table) for section in report.sections for table in section.tables]
    found = [asdict(claim) for section in report.sections for claim in section.claims]
    return {**row_summary(records), "warnings": list(report.warnings), "tables": tables, "claims": found}


def report_files(report: Report, records_at: str) -> dict[str, str | bytes]:
    """Return the content of every file of a report, apart from its index, by name.

    `records_at` is the folder of the records as seen from that of the report.
    """
    files: dict[str, str | bytes] = {
        "index.html": report_html(report, records_at),
        "report.md": report_markdown(report),
        "report.tex": report_latex(report),
    }
    for section in report.sections:
        for table in section.tables:
            files[f"{table.name}.md"] = table_markdown(table)
            files[f"{table.name}.tex"] = table_latex(table)
            files[f"{table.name}.csv"] = table_csv(table)
        for figure in section.figures:
            files |= {f"{figure.name}.{format_}": content for format_, content in figure.files.items()}
    return files


def write_report(
    report: Report, records: Sequence[Mapping[str, Any]], folder: Path, records_folder: Path
) -> list[Path]:
    """Write a report on the records of `records_folder` into `folder`, in place of an earlier one; return the files.

    Raises UsageError, before anything is written, where another's file has the name of one of ours; and OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    at = Path(os.path.relpath(records_folder.resolve(), folder.resolve())).as_posix()
    files = report_files(report, at)
    earlier = _earlier(folder / INDEX)
    foreign = sorted(
        name for name in {*files, INDEX} - earlier - {INDEX if earlier else ""} if (folder / name).exists()
    )
    if foreign:
        raise UsageError(f"{folder / foreign[0]} was not written by a report; give another folder with --output")
    for name, content in files.items():
        write_bytes(folder / name, content if isinstance(content, bytes) else content.encode())
    index = {**report_json(report, records), "files": sorted(files)}
    write_text(folder / INDEX, json.dumps(index, indent=1, ensure_ascii=False) + "\n")
    for name in earlier - files.keys():
        (folder / name).unlink(missing_ok=True)
    return [folder / name for name in (*files, INDEX)]


def _earlier(index: Path) -> set[str]:
    """Return the files that the report before this one wrote, none where its index cannot be read."""
    try:
        names = list(json.loads(index.read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return {name for name in names if isinstance(name, str) and Path(name).name == name}
