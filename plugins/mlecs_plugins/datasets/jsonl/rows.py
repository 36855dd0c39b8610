"""Reads the rows of a table one by one: JSON lines, a JSON list, CSV or Parquet, each with where it stands."""

from __future__ import annotations

import csv
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from mlecs_plugins.datasets.json_values import JsonValueError, json_value
from mlecs_plugins.datasets.parquet_cells import ROWS as CELL_ROWS
from mlecs_plugins.datasets.parquet_cells import CellsError, files_of, holds_files
from mlecs_plugins.datasets.user_files import open_text, suffix_of
from mlecs_plugins.datasets.vast.records import RecordsError, read_records

LINES, LIST, TABLES, PARQUET = (".jsonl", ".ndjson"), (".json",), (".csv", ".tsv"), (".parquet",)
SUFFIXES = LINES + LIST + TABLES + PARQUET


class TableError(Exception):
    """What is wrong with a table as a whole, or from some line on; whoever knows its name adds it."""


@dataclass(frozen=True)
class Row:
    """A row of a table: its values by column, and where it stands, such as "line 7"."""

    place: str
    values: dict[str, Any]


def read_rows(path: Path, media: Collection[str] = ()) -> Iterator[Row]:
    """Yield the rows of a table in their order; raises TableError where it stops being one.

    Columns of Parquet called in `media` may hold files as bytes: such a cell is a path, which `archives` can open.
    """
    suffix = suffix_of(path)
    try:
        if suffix in PARQUET:
            yield from _parquet(path, media)
        elif suffix in LIST:
            yield from _listed(path)
        elif suffix in LINES + TABLES:
            with open_text(path) as file:
                yield from _lines(file) if suffix in LINES else _cells(file, suffix)
        else:
            raise TableError(f"has no suffix of a table ({', '.join(SUFFIXES)}; .gz may follow)")
    except UnicodeError as error:
        raise TableError("is not UTF-8 text") from error
    except (OSError, EOFError, zlib.error) as error:
        raise TableError(f"cannot be read ({getattr(error, 'strerror', None) or error})") from error


def _lines(file: TextIO) -> Iterator[Row]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            place = f"line {number}"
            try:
                value = json_value(line.strip())
            except JsonValueError as error:
                raise TableError(f"{place} {error}") from error
            yield _row(place, value)


def _listed(path: Path) -> Iterator[Row]:
    try:
        for number, value in enumerate(read_records(path), start=1):
            yield _row(f"record {number}", value)
    except RecordsError as error:
        raise TableError(str(error)) from error


def _row(place: str, value: Any) -> Row:
    if not isinstance(value, dict):
        raise TableError(f"{place} is no object with keys")
    return Row(place, value)


def _cells(file: TextIO, suffix: str) -> Iterator[Row]:
    head = file.readline()
    file.seek(0)
    separator = "\t" if suffix == ".tsv" else ";" if ";" in head and "," not in head else ","
    reader = csv.reader(file, delimiter=separator, strict=True)
    try:
        names = [name.strip().removeprefix("\ufeff") for name in next(reader, [])]
        twice = next((name for name in names if names.count(name) > 1), None)
        if not names or twice is not None:
            raise TableError(
                f"line 1 names column '{twice}' twice" if names else "is empty; its first line names columns"
            )
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(names):
                raise TableError(f"line {reader.line_num} has {len(cells)} cells and line 1 names {len(names)} columns")
            yield Row(f"line {reader.line_num}", dict(zip(names, cells, strict=True)))
    except csv.Error as error:
        raise TableError(f"line {reader.line_num} is no line of CSV ({error})") from error


def _parquet(path: Path, media: Collection[str]) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
        names = file.schema_arrow.names
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise TableError(f"has two columns '{twice}'")
        held = {field.name for field in file.schema_arrow if field.name in media and holds_files(field.type)}
        for batch in file.iter_batches(batch_size=CELL_ROWS if held else 1024):
            columns = {
                name: files_of(path, name, values, number) if name in held else _plain(values)
                for name, values in zip(names, batch.columns, strict=True)
            }
            for row in range(batch.num_rows):
                number += 1
                yield Row(f"row {number}", {name: values[row] for name, values in columns.items()})
    except CellsError as error:
        raise TableError(str(error)) from error
    except (pa.ArrowException, OSError, OverflowError, MemoryError) as error:
        raise TableError(f"is no whole Parquet file ({str(error).partition(chr(10))[0]})") from error


def _plain(values: Any) -> list[Any]:
    """Return the cells of an Arrow array as Python has them: bytes are texts, tensors are nested lists."""
    import numpy as np
    import pyarrow as pa

    found: list[Any] = values.to_pylist()
    if isinstance(values.type, pa.FixedShapeTensorType):
        shape, order = values.type.shape, values.type.permutation
        return [None if cell is None else np.reshape(cell, shape).transpose(order).tolist() for cell in found]
    if holds_files(values.type) and not pa.types.is_struct(values.type):
        return [None if cell is None else cell.decode() for cell in found]  # as Spark and Impala write texts
    return found
