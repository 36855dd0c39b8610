"""From rows to samples: names, targets and groups as texts, and per modality what its columns hold."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlecs_plugins.datasets.jsonl.layout import Layout, Source, Windows, plain_text
from mlecs_plugins.datasets.jsonl.rows import Row, TableError
from mlecs_plugins.datasets.problems import Problems, shown
from mlecs_plugins.datasets.user_files import inside, is_file, is_missing

FILE_SUFFIXES = (".npy", ".csv", ".tsv", ".txt")
"""Files of numbers that a cell of an array may name."""

NO_TEXTS = (list, dict, Path)
"""What a cell may hold that is no text: Parquet has files in its cells."""


class CellError(Exception):
    """What is wrong with a cell: its column, and the rest of the sentence."""

    def __init__(self, column: str, what: str) -> None:
        super().__init__(f"column '{column}' {what}")


@dataclass(frozen=True)
class Sample:
    """A sample: what its modalities hold by name (a text, numbers or a file; absent ones are left out)."""

    place: str
    id: str
    target: str
    references: tuple[str, ...]
    group: str
    stratum: str
    held: Mapping[str, Any]


def samples_of(rows: Iterable[Row], layout: Layout, folder: Path, name: str, problems: Problems) -> list[Sample]:
    """Return the samples of the table called `name`, in its order, noting rows that are none."""
    samples: list[Sample] = []
    seen: dict[str, str] = {}
    columns: set[str] = set()
    try:
        for row in _windows(_noted(rows, columns), layout, layout.windows) if layout.windows else _noted(rows, columns):
            try:
                sample = _sample(row, layout, folder, len(samples) + 1)
                if sample.id in seen:
                    raise CellError(layout.id or "id", f"names '{sample.id}', as {seen[sample.id]} does")
            except CellError as error:
                problems.add(f"{name}, {row.place}: {error}")
            else:
                seen[sample.id] = row.place
                samples.append(sample)
    except TableError as error:
        problems.add(f"{name}: {error}")
        return samples
    for column, wanted in layout.columns.items():
        if column not in columns and columns:
            known = ", ".join(sorted(columns))
            problems.add(f"{name}: has no column '{column}', which the manifest wants for {wanted}; there are {known}")
    if not samples and not problems.count:
        problems.add(f"{name}: holds no sample")
    return samples


def _noted(rows: Iterable[Row], columns: set[str]) -> Iterator[Row]:
    """Yield the rows, adding their columns to `columns`."""
    for row in rows:
        columns.update(row.values)
        yield row


def _windows(rows: Iterable[Row], layout: Layout, windows: Windows) -> Iterator[Row]:
    """Yield windows of neighbouring rows as rows: cells of arrays as lists, all others as in the first row."""
    arrays = [column for source in layout.modalities if source.kind == "array" for column in source.columns]

    def of(row: Row) -> tuple[str, str]:
        group = row.values.get(layout.group) if layout.group else None
        return repr(group), repr(row.values.get(layout.target))

    for _, found in itertools.groupby(rows, key=of):
        run = list(found)
        for start in range(0, len(run) - windows.rows + 1, windows.step):
            part = run[start : start + windows.rows]
            cells = {column: [row.values.get(column) for row in part] for column in arrays}
            yield Row(part[0].place, {**part[0].values, **cells})


def _sample(row: Row, layout: Layout, folder: Path, number: int) -> Sample:
    texts = _targets(row, layout)
    named = {name: _name(row, column) for name, column in (("group", layout.group), ("stratum", layout.stratum))}
    id_ = (_name(row, layout.id) if layout.id else None) or None
    if layout.id and id_ is None:
        raise CellError(layout.id, "is missing, and names the sample")
    if layout.group and not named["group"]:
        raise CellError(layout.group, "is missing, and names the group")
    own = id_ or f"{number:06d}"
    held = {source.name: value for source in layout.modalities if (value := _held(row, source, folder)) is not None}
    return Sample(row.place, own, texts[0], tuple(texts), named["group"] or own, named["stratum"], held)


def _name(row: Row, column: str | None) -> str:
    value = row.values.get(column) if column else None
    if isinstance(value, NO_TEXTS):
        raise CellError(str(column), f"is no text: {shown(value)}")
    return "" if is_missing(value) else plain_text(value)


def _targets(row: Row, layout: Layout) -> list[str]:
    """Return the target, and other texts that are as good behind it."""
    given = row.values.get(layout.target)
    values = [value for value in (given if isinstance(given, list) else [given]) if not is_missing(value)]
    if not values:
        raise CellError(layout.target, "is missing, and is the target")
    if any(isinstance(value, NO_TEXTS) for value in values):
        raise CellError(layout.target, f"is neither a text nor a list of texts: {shown(given)}")
    texts = list(dict.fromkeys(map(plain_text, values)))
    if layout.task == "generation":
        return texts
    if len(texts) > 1:
        raise CellError(layout.target, f"has {len(texts)} labels; a sample has one")
    if layout.labels and texts[0] not in layout.labels:
        raise CellError(
            layout.target, f"is {shown(texts[0])}, and the manifest's labels are {', '.join(layout.labels)}"
        )
    return [layout.labels.get(texts[0], texts[0])]


def _held(row: Row, source: Source, folder: Path) -> Any:
    """Return what a row has of a modality: a text, a list of numbers, or a Path; None where it is missing."""
    cells = [row.values.get(column) for column in source.columns]
    if any(map(is_missing, cells)):
        return None  # an array that lacks one of its numbers is no array
    (column, cell), is_one = (source.columns[0], cells[0]), len(cells) == 1
    if source.kind == "text":
        texts = [one for one in (cell if isinstance(cell, list) else [cell]) if not is_missing(one)]
        if any(isinstance(text, NO_TEXTS) for text in texts):
            raise CellError(column, f"is neither a text nor a list of texts: {shown(cell)}")
        return " ".join(map(plain_text, texts))
    if source.kind == "array":
        if is_one and isinstance(cell, str) and cell.strip().lower().endswith(FILE_SUFFIXES):
            return _file(cell, column, folder)
        return cell if is_one else _columns(cells)
    if isinstance(cell, Path):
        return cell  # a file in the table itself
    if not isinstance(cell, str):
        raise CellError(column, f"names no file: {shown(cell)}")
    return _file(cell, column, folder)


def _columns(cells: Sequence[Any]) -> list[Any]:
    """Return the numbers of several columns side by side: of a window (ticks, columns), else (columns,)."""
    return [list(tick) for tick in zip(*cells, strict=True)] if all(isinstance(c, list) for c in cells) else list(cells)


def _file(cell: str, column: str, folder: Path) -> Path:
    name = cell.strip()
    path = inside(folder, name)
    if path is None:
        raise CellError(column, f"names '{name}', which is not inside the data folder; copy the file there")
    if not is_file(path):
        raise CellError(column, f"names '{name}', and there is no such file; leave the cell empty where there is none")
    return path
