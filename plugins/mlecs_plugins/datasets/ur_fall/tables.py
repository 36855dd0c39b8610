"""The CSV files of UR-FALL: labels with depth features, accelerometer, synchronisation.

Each may have a header or none, and LF or CR LF. A reader raises FileError with the line number of the first bad row.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from mlecs_plugins.datasets.ur_fall import card
from mlecs_plugins.datasets.ur_fall.problems import FileError, FileProblems, first_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

Row = TypeVar("Row")
SEQUENCE = re.compile(r"(fall|adl)-[0-9]{1,9}")
FRAME = re.compile(r"0*[1-9][0-9]{0,8}")
LONGEST_CELL = 40
"""Characters of a cell that an error shows."""
LARGEST_NUMBER = 1e15
"""More than any time in milliseconds; its square is still a number, and float32 holds it."""
SV_TOLERANCE = 0.01  # g; the files print at least four digits

# Mean and standard deviation (4 significant digits) of each feature over the 11,544 rows of urfall-cam0-falls.csv and
# urfall-cam0-adls.csv; of its logarithm where the feature has a long tail.
FEATURES = {
    "HeightWidthRatio": (False, 1.807, 0.9049),
    "MajorMinorRatio": (True, 0.8089, 0.3854),
    "BoundingBoxOccupancy": (False, 0.5485, 0.09199),
    "MaxStdXZ": (True, 5.112, 0.3045),
    "HHmaxRatio": (False, 0.6873, 0.2703),
    "H": (False, 1265.0, 497.4),
    "D": (False, 729.6, 268.7),
    "P40": (False, 0.2634, 0.2893),
}


@dataclass(frozen=True)
class Labels:
    """The labelled frames of one sequence in order of the frame number: frames (T,), label indices (T,), features.

    `features` (T, 8) float32 are standardised; `table` is the file they come from.
    """

    sequence: str
    stratum: str
    table: str
    frames: Array
    labels: Array
    features: Array


class LabelRow(NamedTuple):
    """One row of a label file; `label` is an index, `features` are standardised."""

    sequence: str
    frame: int
    label: int
    features: list[float]


@dataclass(frozen=True)
class Recording:
    """One accelerometer file: time in ms (N,) strictly increasing, axes in g (N, 3), and what had to be repaired."""

    time: Array
    axes: Array
    unordered: bool
    wrong_totals: int


def read_labels(path: Path, stratum: str) -> list[Labels]:
    """Read a label file (sequence, frame, label, 8 features), whose sequences must all be of `stratum`."""
    import numpy as np

    seen: dict[tuple[str, int], int] = {}
    by_sequence: dict[str, list[LabelRow]] = {}
    for line, row in _parse(path, 11, 1, lambda cells: _label_row(cells, stratum)):
        earlier = seen.setdefault((row.sequence, row.frame), line)
        if earlier != line:
            raise FileError(f"line {line}: frame {row.frame} of {row.sequence} is already on line {earlier}")
        by_sequence.setdefault(row.sequence, []).append(row)
    tables = []
    for sequence, rows in sorted(by_sequence.items()):
        rows.sort(key=lambda row: row.frame)
        frames, labels = np.array([row.frame for row in rows]), np.array([row.label for row in rows])
        features = np.array([row.features for row in rows], dtype=np.float32)
        tables.append(Labels(sequence, stratum, path.name, frames, labels, features))
    return tables


def _label_row(cells: list[str], stratum: str) -> LabelRow:
    """Return a row with standardised features; raises ValueError saying what is wrong."""
    sequence = cells[0].lower()
    if not SEQUENCE.fullmatch(sequence) or not sequence.startswith(stratum):
        raise ValueError(f"sequence '{cells[0][:LONGEST_CELL]}' is not '{stratum}-' and a number")
    if not FRAME.fullmatch(cells[1]) or len(cells[1]) > LONGEST_CELL:
        raise ValueError(f"frame '{cells[1][:LONGEST_CELL]}' is not a number from 1 to 999999999")
    if cells[2] not in {str(code) for code in card.CODES}:
        raise ValueError(f"label '{cells[2][:LONGEST_CELL]}' is not -1, 0 or 1")
    features = [_standardised(name, cell) for name, cell in zip(FEATURES, cells[3:], strict=True)]
    return LabelRow(sequence, int(cells[1]), card.CODES.index(int(cells[2])), features)


def _standardised(name: str, cell: str) -> float:
    logarithmic, mean, deviation = FEATURES[name]
    value = _number(name, cell)
    if logarithmic and value <= 0:
        raise ValueError(f"{name} '{cell[:LONGEST_CELL]}' is not above 0")
    return ((math.log(value) if logarithmic else value) - mean) / deviation


def read_recording(path: Path) -> Recording:
    """Read an accelerometer file (time in ms, SV_total, three axes in g); sorts it and drops repeated time stamps.

    SV_total is only a check (it is the root of the sum of squares): the samples are made from the axes.
    """
    import numpy as np

    names = ("time", "SV_total", "x axis", "y axis", "z axis")
    rows = _parse(path, 5, 0, lambda cells: [_number(n, c) for n, c in zip(names, cells, strict=True)])
    values = np.array([row for _, row in rows])
    wrong = np.abs(np.sqrt((values[:, 2:] ** 2).sum(axis=1)) - values[:, 1]) > SV_TOLERANCE
    if wrong.sum() > max(1, len(values) // 10):
        raise FileError(
            f"SV_total is not the root of the squares of the axes in {wrong.sum()} of {len(values)} rows; "
            "the columns must be time in ms, SV_total, x, y, z"
        )
    time, first = np.unique(values[:, 0], return_index=True)
    return Recording(time, values[first, 2:], bool((np.diff(values[:, 0]) < 0).any()), int(wrong.sum()))


def read_sync(path: Path) -> dict[int, float]:
    """Read a synchronisation file (frame, time in ms, SV_total): the time of each frame."""
    rows = _parse(path, 3, 0, lambda cells: (_number("frame", cells[0]), _number("time", cells[1])))
    times: dict[int, float] = {}
    latest = -math.inf
    for line, (frame, time) in sorted(rows, key=lambda row: row[1][0]):
        if frame != int(frame) or int(frame) in times:
            raise FileError(f"line {line}: frame {frame:g} is not a whole number or is there twice")
        if time <= latest:
            raise FileError(f"line {line}: the time of frame {frame:g} is not after that of the frame before")
        times[int(frame)] = latest = time
    return times


def _number(name: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{name} '{cell[:LONGEST_CELL]}' is not a number")
    if abs(value) > LARGEST_NUMBER:
        raise ValueError(f"{name} '{cell[:LONGEST_CELL]}' is far too large")
    return value


def _parse(path: Path, width: int, texts: int, parse: Callable[[list[str]], Row]) -> list[tuple[int, Row]]:
    """Return (line number, parsed row) of a CSV file of `width` columns, the first `texts` of which hold text."""
    parsed: list[tuple[int, Row]] = []
    bad: list[str] = []
    for position, (line, cells) in enumerate(_cells(path)):
        if position == 0 and not any(_is_number(cell) for cell in cells[texts:]):
            continue  # a header has no number in it
        try:
            if len(cells) != width:
                raise ValueError(f"has {len(cells)} columns instead of {width}")
            parsed.append((line, parse(cells)))
        except ValueError as error:
            bad.append(f"line {line}: {error}")
    if bad:
        raise first_of(bad)
    if not parsed:
        raise FileError("is empty")
    return parsed


def _cells(path: Path) -> list[tuple[int, list[str]]]:
    """Return the non-blank rows of a CSV file with their line numbers, cells stripped."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            return [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(map(str.strip, row))]
    except (UnicodeDecodeError, csv.Error) as error:
        raise FileError(f"is not a CSV text file ({error})") from error


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def read_label_tables(tables: list[tuple[Path, str]], problems: FileProblems) -> list[Labels]:
    """Read the label files given as (path, stratum), noting problems."""
    found: list[Labels] = []
    for path, stratum in tables:
        with problems.about(path):
            found += read_labels(path, stratum)
    return found
