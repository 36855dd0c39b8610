"""From what samples hold to arrays: hashed words, thumbnails, spectrograms and the user's own numbers."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlecs_bench.api import DataError, Modality
from mlecs_plugins.datasets.jsonl.card import NAME
from mlecs_plugins.datasets.jsonl.embedding import EmbeddedColumns
from mlecs_plugins.datasets.jsonl.layout import Layout, Source
from mlecs_plugins.datasets.jsonl.samples import Sample
from mlecs_plugins.datasets.problems import Problems, shown
from mlecs_plugins.datasets.store import Store
from mlecs_plugins.datasets.vast.card import N_BANDS, N_FRAMES, N_TICKS, SIZE, VOCABULARY
from mlecs_plugins.datasets.vast.features import reduced
from mlecs_plugins.datasets.vast.inputs import Progress, spectrogram, thumbnails
from mlecs_plugins.datasets.vast.media import MediaError, read_picture
from mlecs_plugins.datasets.vast.texts import text_ids

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

ENCODING_BY_AXES = {1: "vector", 2: "series"}
LARGEST_ARRAY = 1 << 20
"""Numbers of one array; more is a mistake, or belongs into features."""


class NotNumbersError(Exception):
    """Why a cell holds no numbers; whoever knows where it stands adds that."""


@dataclass
class Values:
    """The modalities of all samples: their shapes, values (n, *shape) with 0 where absent, and presence (n,) bool.

    `damaged` maps the name of a media file that cannot be decoded to the reason: what it holds is missing.
    """

    modalities: tuple[Modality, ...] = ()
    values: dict[str, Array] = field(default_factory=dict)
    present: dict[str, Array] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)


def files_of(samples: Sequence[Sample]) -> list[Path]:
    """Return the files that samples name, each once, sorted."""
    return sorted({value for sample in samples for value in sample.held.values() if isinstance(value, Path)})


class Reader:
    """Reads values; what is decoded from media files comes from `store` where it has it."""

    def __init__(
        self,
        folder: Path,
        digests: Mapping[Path, str],
        store: Store | None,
        embedded: EmbeddedColumns | None = None,
    ) -> None:
        self._embedded = embedded
        self._folder = folder
        self._digests = digests
        self._store = store

    def read(self, samples: Sequence[Sample], layout: Layout, table: str, problems: Problems, tell: Progress) -> Values:
        """Return the modalities of samples, noting cells that hold none; `table` is the name of their file."""
        found = Values()
        specs = []
        for number, source in enumerate(layout.modalities, start=1):
            if self._embedded is not None and self._embedded.encodes(source):
                specs.append(self._embed(self._embedded, source, samples, found, tell))
                continue
            arrays: list[Array | None] = []
            for row, sample in enumerate(samples, start=1):
                arrays.append(self._value(source, sample, table, problems, found))
                tell(row, len(samples), f"reading {source.name} ({number} of {len(layout.modalities)})")
            usual = _usual_shape(arrays)
            for sample, array in zip(samples, arrays, strict=True):
                if array is not None and array.shape != usual:
                    problems.add(f"{table}, {sample.place}: column '{source.columns[0]}' {_other_shape(array, usual)}")
            modality = _modality(source, usual)
            specs.append(modality)
            _fill(found, modality, [a if a is not None and a.shape == usual else None for a in arrays])
        found.modalities = tuple(specs)
        return found

    def _embed(
        self, columns: EmbeddedColumns, source: Source, samples: Sequence[Sample], found: Values, tell: Progress
    ) -> Modality:
        """Return a modality of embeddings, with the values of all samples in `found`."""
        damaged: dict[Path, str] = {}
        arrays, shape = columns.embed(source, samples, damaged, tell)
        found.damaged |= {path.relative_to(self._folder).as_posix(): what for path, what in damaged.items()}
        modality = columns.modality(source, shape)
        _fill(found, modality, arrays)
        return modality

    def _value(self, source: Source, sample: Sample, table: str, problems: Problems, found: Values) -> Array | None:
        held = sample.held.get(source.name)
        if held is None:
            return None
        try:
            return self._read(source, held)
        except MediaError as error:
            found.damaged[held.relative_to(self._folder).as_posix()] = str(error)
        except NotNumbersError as error:
            problems.add(f"{table}, {sample.place}: column '{source.columns[0]}' {error}")
        return None

    def _read(self, source: Source, held: Any) -> Array | None:
        if source.kind == "text":
            ids = np.array(text_ids(held, source.words), dtype=np.int64)
            return ids if ids[0] else None
        if source.kind == "array":
            return numbers(held, source.ticks)
        if source.kind == "image":
            return self._stored(held, f"picture-{source.size}", lambda path: reduced(read_picture(path), source.size))
        read = spectrogram if source.kind == "audio" else thumbnails
        values = self._stored(held, read.__name__, read)
        if values is None:
            raise MediaError(f"has no {'sound' if source.kind == 'audio' else 'pictures'}")
        return values

    def _stored(self, path: Path, what: str, read: Callable[[Path], Array | None]) -> Array | None:
        if self._store is None:
            return read(path)
        values = self._store.load(self._digests[path], what)
        if values is None:
            values = read(path)
            if values is not None:
                self._store.save(self._digests[path], what, values)
        return values


def _fill(found: Values, modality: Modality, arrays: Sequence[Array | None]) -> None:
    """Add the values of a modality, one array a sample, or None where it is missing."""
    values = np.zeros((len(arrays), *modality.shape), dtype=modality.dtype)
    for row, array in enumerate(arrays):
        if array is not None:
            values[row] = array
    found.values[modality.name] = values
    found.present[modality.name] = np.array([array is not None for array in arrays], dtype=bool)


def numbers(held: Any, ticks: int | None) -> Array | None:
    """Return an array float32 of numbers, or of a file of them; None where one of them is missing.

    With `ticks` the first axis is cut after so many, and filled up with zeros.
    """
    values = _from_file(held) if isinstance(held, Path) else _converted(held)
    if not values.ndim or not values.size or values.size > LARGEST_ARRAY:
        raise NotNumbersError(f"is no array of 1 to {LARGEST_ARRAY:,} numbers, but of shape {_shape(values.shape)}")
    if np.isnan(values).any():
        return None
    if not np.isfinite(values).all():
        raise NotNumbersError("holds a number that is not finite")
    if ticks is not None:
        values = values[:ticks]
        values = np.pad(values, [(0, ticks - len(values)), *[(0, 0)] * (values.ndim - 1)])
    return values


def _converted(held: Any) -> Array:
    def cleaned(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [cleaned(one) for one in value]
        if isinstance(value, str):
            return value.strip() or "nan"
        return float("nan") if value is None else value

    try:
        with np.errstate(over="ignore"):  # what float32 does not hold becomes infinite, which is refused
            return np.asarray(cleaned(held if isinstance(held, list | tuple) else [held]), dtype=np.float32)
    except (ValueError, TypeError, OverflowError) as error:
        raise NotNumbersError(f"holds no numbers, or rows of different length: {shown(held)}") from error


def _from_file(path: Path) -> Array:
    """Return the numbers of a .npy file, or of a text file with a line per tick and maybe a first line of names."""
    try:
        if path.suffix.lower() == ".npy":
            loaded: Array = np.asarray(np.load(path, allow_pickle=False))
            if loaded.dtype.kind not in "fiub":
                raise NotNumbersError(f"names {path.name}, whose values are {loaded.dtype} and no numbers")
            with np.errstate(over="ignore"):
                return loaded.astype(np.float32)
        with path.open(encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            file.seek(0)
            separator = next((mark for mark in ",;\t" if mark in head), " ")
            lines = [line for line in csv.reader(file, delimiter=separator, skipinitialspace=True) if line]
    except (OSError, ValueError, EOFError, csv.Error) as error:
        raise NotNumbersError(
            f"names {path.name}, which cannot be read ({str(error).partition(chr(10))[0]})"
        ) from error
    if lines and not _are_numbers(lines[0]):
        del lines[0]
    try:
        return _converted(lines)
    except NotNumbersError as error:
        raise NotNumbersError(f"names {path.name}, which {error}") from error


def _are_numbers(cells: Sequence[str]) -> bool:
    try:
        [float(cell) for cell in cells if cell.strip()]
    except ValueError:
        return False
    return True


def _usual_shape(arrays: Sequence[Array | None]) -> tuple[int, ...] | None:
    """Return the most frequent shape, of several the first; None where there is no array."""
    shapes = Counter(array.shape for array in arrays if array is not None)
    return shapes.most_common(1)[0][0] if shapes else None


def _other_shape(array: Array, usual: tuple[int, ...] | None) -> str:
    return (
        f"holds an array of {_shape(array.shape)}, and most are of {_shape(usual or ())}; make them alike, or let "
        "'ticks: N' in the manifest cut and fill up their first axis"
    )


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "one number"


def _modality(source: Source, usual: tuple[int, ...] | None) -> Modality:
    column = ", ".join(source.columns)
    if source.kind == "text":
        return Modality(
            source.name, (source.words,), "int64", "tokens", f"the words of {column}, hashed; 0 = padding", VOCABULARY
        )
    if source.kind == "image":
        meaning = f"the picture in {column}, area averages"
        return Modality(source.name, (source.size, source.size, 3), "uint8", "image", meaning)
    if source.kind == "audio":
        meaning = f"the sound in {column}: mel bands by time, log power, mean 0 and sd 1"
        return Modality(source.name, (N_BANDS, N_TICKS), "float32", "spectrogram", meaning)
    if source.kind == "video":
        meaning = f"frames of {column} at even times, area averages"
        return Modality(source.name, (N_FRAMES, SIZE, SIZE, 3), "uint8", "frames", meaning)
    shape = usual or (1,)
    encoding = source.encoding or ENCODING_BY_AXES.get(len(shape))
    wanted = 1 if encoding == "vector" else 2
    if encoding is None or len(shape) != wanted:
        raise DataError(
            f"{NAME}: modality '{source.name}' has arrays of {_shape(shape)}; numbers (F,) are a vector, (T, C) a "
            "series or a spectrogram"
        )
    return Modality(source.name, shape, "float32", encoding, f"the numbers of {column}", standardise=source.standardise)
