"""Files in the cells of a Parquet table: pictures, sound and videos as bytes, read one after the other.

The path of such a cell is that of the table with column and row behind it: DIR/rows.parquet/image/00000017.png. Two
kinds of columns hold files: binary ones, and those of Hugging Face's `datasets`, a struct of `bytes` and `path`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

SUFFIX = ".parquet"
ROWS = 64
"""Rows with files that are in memory at a time."""
_ROW = re.compile(r"([0-9]{8,})(\.[A-Za-z0-9]{1,8})?")


class CellsError(Exception):
    """Why a cell cannot be read; whoever knows its place adds that."""


def holds_files(kind: Any) -> bool:
    """Are files in a column of this Arrow type?"""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        names = {kind.field(k).name: kind.field(k).type for k in range(kind.num_fields)}
        return "bytes" in names and _is_binary(names["bytes"])
    return _is_binary(kind)


def _is_binary(kind: Any) -> bool:
    import pyarrow as pa

    found: bool = (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or pa.types.is_binary_view(kind)
    )
    return found


def files_of(table: Path, column: str, values: Any, first: int) -> list[Path | str | None]:
    """Return what the cells of an Arrow array hold, whose first is row `first`: a file, the name of one, or nothing."""
    import pyarrow as pa

    if str(PurePosixPath(column)) != column or column.startswith("/") or ".." in column.split("/"):
        raise CellsError(f"column '{column}' has a name that no file can be called by; rename it")
    names: list[str | None] = [None] * len(values)
    content = values
    if pa.types.is_struct(values.type):
        known = {values.type.field(k).name for k in range(values.type.num_fields)}
        names = values.field("path").to_pylist() if "path" in known else names
        content = values.field("bytes")
    whole = [a and b for a, b in zip(content.is_valid().to_pylist(), values.is_valid().to_pylist(), strict=True)]
    return [
        table / column / f"{first + k:08d}{_suffix(name)}" if whole[k] else name if values[k].is_valid else None
        for k, name in enumerate(names)
    ]


def _suffix(name: str | None) -> str:
    """Return what the name beside the bytes ends with, in lower case, where that can be a suffix."""
    suffix = PurePosixPath(name).suffix.lower() if isinstance(name, str) else ""
    return suffix if re.fullmatch(r"\.[a-z0-9]{1,8}", suffix) else ""


def read_cell(table: Path, name: str) -> bytes:
    """Return the bytes of a cell by what stands behind the table in its path. Raises CellsError and OSError."""
    column, _, last = name.rpartition("/")
    found = _ROW.fullmatch(last)
    if found is None:
        raise CellsError(f"is no cell of {table.name}")
    status = table.stat()
    return _cells(table, column, (status.st_size, status.st_mtime_ns)).read(int(found[1]))


@lru_cache(maxsize=4)
def _cells(table: Path, column: str, _stamp: tuple[int, int]) -> _Cells:
    """Return the cells of a column, of a table of this size and time of change."""
    return _Cells(table, column)


class _Cells:
    """The cells of a column from the last one read on; to go back is to begin anew."""

    def __init__(self, table: Path, column: str) -> None:
        self._table, self._column = table, column
        self._batches: Iterator[Any] = iter(())
        self._first = 0
        self._values: Any = None

    def read(self, row: int) -> bytes:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            if self._values is None or row < self._first:
                file = pq.ParquetFile(self._table)
                self._batches = file.iter_batches(batch_size=ROWS, columns=[self._column])
                self._first, self._values = 0, next(self._batches).column(0)
            while row >= self._first + len(self._values):
                self._first, self._values = self._first + len(self._values), next(self._batches).column(0)
        except (pa.ArrowException, OSError, StopIteration) as error:
            self._values = None
            raise CellsError(f"cannot be read from {self._table.name} ({type(error).__name__})") from error
        values = self._values.field("bytes") if pa.types.is_struct(self._values.type) else self._values
        content: bytes = values[row - self._first].as_py()
        return content
