"""Writes a report: tables as Markdown, LaTeX and CSV, figures as SVG, PNG and PDF, and all of it on one page."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlecs_bench.errors import UsageError
from mlecs_bench.files import write_bytes
from mlecs_bench.report.csv_text import records_csv, table_csv
from mlecs_bench.report.html import report_html
from mlecs_bench.report.latex import report_latex, table_latex
from mlecs_bench.report.markdown import report_markdown, table_markdown
from mlecs_bench.report.summary import row_summary
from mlecs_bench.report.table import Report, table_json

JSON = "report.json"
INDEX = "files.txt"
"""Lists the files of a report, so that the next one takes away those that it no longer has."""


def report_json(report: Report, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a report as JSON values, with nothing rounded: rows, references, tables, claims, and sets of records."""
    sets = report.record_sets()
    tables = [table_json(table, sets) for table in report.tables()]
    found = [asdict(claim) for section in report.sections for claim in section.claims]
    behind = {str(number): report.file_names(keys) for keys, number in sets.items()}
    return {
        **row_summary(records),
        "title": report.title,
        "about": report.about,
        "note": report.honest,
        "warnings": list(report.warnings),
        "tables": tables,
        "claims": found,
        "records": behind,
    }


def report_files(report: Report, records_at: str) -> dict[str, str | bytes]:
    """Return the content of every file of a report but report.json and its index, by name.

    `records_at` is the folder of the study as seen from that of the report.
    """
    files: dict[str, str | bytes] = {
        "index.html": report_html(report, records_at),
        "report.md": report_markdown(report),
        "report.tex": report_latex(report),
        "records.csv": records_csv(report),
    }
    if report.curves:
        files["curves.csv"] = report.curves
    sets = report.record_sets()
    for table in report.tables():
        files[f"{table.name}.md"] = table_markdown(table)
        files[f"{table.name}.tex"] = table_latex(table)
        files[f"{table.name}.csv"] = table_csv(table, sets)
    for figure in (figure for section in report.sections for figure in section.figures):
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
    files[JSON] = json.dumps(report_json(report, records), indent=1, ensure_ascii=False) + "\n"
    earlier = _earlier(folder)
    foreign = sorted(name for name in {*files, INDEX} - earlier if (folder / name).exists())
    if foreign:
        raise UsageError(f"{folder / foreign[0]} was not written by a report; give another folder with --output")
    # The list comes first: files of a report that is stopped half-way are those of a report, too.
    _list(folder, {*files, *earlier})
    for name, content in files.items():
        write_bytes(folder / name, content if isinstance(content, bytes) else content.encode())
    for name in earlier - {*files, INDEX}:
        (folder / name).unlink(missing_ok=True)
    _list(folder, files)
    return [folder / name for name in (*files, INDEX)]


def _list(folder: Path, names: Iterable[str]) -> None:
    """Write the list of the files of a report."""
    write_bytes(folder / INDEX, "".join(f"{name}\n" for name in sorted({*names, INDEX})).encode())


def _earlier(folder: Path) -> set[str]:
    """Return the files that the report before this one wrote, of which 0.1.0 kept the list in report.json."""
    names: list[Any] = []
    with contextlib.suppress(OSError, ValueError):
        listed = (folder / INDEX).read_text(encoding="utf-8").splitlines()
        names += listed if INDEX in listed else []
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        listed = list(json.loads((folder / JSON).read_text(encoding="utf-8"))["files"])
        names += [*listed, JSON] if listed else []
    return {name for name in names if isinstance(name, str) and Path(name).name == name}
