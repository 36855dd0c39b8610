"""Data as the harness sees it: a manifest, an Arrow table, and views of it that a party cannot look around.

A dataset plugin prepares a folder once (`Prepared`); every process then opens it with `Samples.open` without the
plugin. A party gets `PartyData`: some sample ids through some modalities. Anything else raises `AccessError`.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlecs_bench.data.writing import Writing, writing_of
from mlecs_bench.errors import AccessError, DataError, check_choice

if TYPE_CHECKING:
    import datasets
    import numpy as np
    import torch

    from mlecs_bench.data.scaling import Scaling

Task = Literal["generation", "classification"]
"""What models are asked for: a text (generation), or one of the manifest's labels, written out (classification)."""
StoredType = Literal["uint8", "float32", "int64"]
"""The numbers of a modality as they are stored: pictures, measurements, or ids of tokens."""
MANIFEST_FILE = "manifest.json"
REFERENCES = "references"
"""The column of a prepared table that may hold all texts that are right for a sample, a list of strings.

The target, which is trained on, is one of them.
"""


@dataclass(frozen=True)
class Modality:
    """One modality of a dataset: its name, the shape and dtype of a sample, and which installed encoder reads it.

    mlecs-bench has frames (T, H, W, C) uint8; image (H, W, C) uint8; spectrogram (F, T) float32; tokens (L,) int64;
    series (T, C) float32; vector (F,) float32. `vocabulary`: ids of tokens are below it; 0 leaves it open.
    `standardise`: parties see it less the mean and over the deviation of every dimension (of the last axis), taken from
    the public training samples of the seed, which every party may see. Raises ValueError for an unknown dtype.
    """

    name: str
    shape: tuple[int, ...]
    dtype: StoredType
    encoding: str
    meaning: str = ""
    vocabulary: int = 0
    standardise: bool = False

    def __post_init__(self) -> None:
        check_choice(self.dtype, StoredType, f"the dtype of '{self.name}'")


@dataclass(frozen=True)
class Manifest:
    """Everything about a prepared dataset that is not a sample.

    `view` names what the numbers were measured on ("synthetic" or, say, "rgb, depth features, accelerometer"); tables
    print it. `digest` is the sha256 of what the samples were made from. `labels` is empty for generation.
    """

    name: str
    version: str
    view: str
    synthetic: bool
    task: Task
    modalities: tuple[Modality, ...]
    prompt: str
    labels: tuple[str, ...]
    max_new_tokens: int
    n_samples: int
    digest: str
    licence: str
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_choice(self.task, Task, f"the task of dataset '{self.name}'")
        names = self.modality_names
        if list(names) != sorted(names) or len(set(names)) != len(names):
            raise DataError(f"dataset '{self.name}' must list its modalities once each in sorted order, got {names}")
        for m in self.modalities:
            if m.standardise and (m.dtype != "float32" or not m.shape):
                raise DataError(f"dataset '{self.name}' standardises '{m.name}', which must be float32 with an axis")

    @property
    def modality_names(self) -> tuple[str, ...]:
        """The names of all modalities in the one fixed order, which is alphabetical."""
        return tuple(m.name for m in self.modalities)

    def modality(self, name: str) -> Modality:
        """Return the modality called `name`."""
        return next(m for m in self.modalities if m.name == name)

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Manifest:
        """Read what `to_json` wrote."""
        modalities = tuple(Modality(**{**m, "shape": tuple(m["shape"])}) for m in values["modalities"])
        lists = {name: tuple(values[name]) for name in ("labels", "notes")}
        return cls(**{**values, "modalities": modalities, **lists})


def _no_progress(done: int, total: int, what: str) -> None:
    """Show nothing."""


@dataclass(frozen=True)
class DataRequest:
    """What a dataset plugin is asked to prepare.

    `data_dir` holds the user's files (None: make the synthetic stand-in); `cache_dir` is where prepared data lives;
    `progress(done, total, what)` may be called as often as wanted.
    """

    data_dir: Path | None
    cache_dir: Path
    options: Any = None
    progress: Callable[[int, int, str], None] = field(default=_no_progress, compare=False)


@dataclass(frozen=True)
class Prepared:
    """A prepared dataset: its manifest and the folder that holds manifest.json and the Arrow table."""

    manifest: Manifest
    folder: Path


def features_of(modalities: Sequence[Modality], extra: dict[str, Any] | None = None) -> datasets.Features:
    """Return the Arrow schema of a prepared dataset.

    Columns: ``id``, ``target``, ``group`` (samples of one group never cross a sequence split), ``stratum`` (what
    a sequence split balances), per modality its flattened values and ``has_<modality>``, and `extra` columns. One of
    these may be ``references``, a list of strings: all texts that are right for a sample. Models are trained on
    ``target``, and scored against the one that suits an answer best, by scorers of single samples.
    """
    import datasets

    columns: dict[str, Any] = {name: datasets.Value("string") for name in ("id", "target", "group", "stratum")}
    for m in modalities:
        size = 1
        for n in m.shape:
            size *= n
        columns[m.name] = datasets.List(datasets.Value(m.dtype), length=size)
        columns[f"has_{m.name}"] = datasets.Value("bool")
    return datasets.Features({**columns, **(extra or {})})


def save_prepared(
    table: datasets.Dataset, manifest: Manifest, folder: Path, more: Mapping[str, str] | None = None
) -> Prepared:
    """Write `table` and `manifest` to `folder` atomically: a reader sees the whole folder or none.

    `more` are texts by the names of the files that they are written to.
    Where another process was first, its folder stays and is returned.
    """
    import secrets
    import shutil

    import datasets

    datasets.disable_progress_bars()  # the run has its own progress view
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.parent / f".{folder.name}-{secrets.token_hex(8)}"
    part.mkdir()
    try:
        table.save_to_disk(str(part / "table"))
        for name, text in (more or {}).items():
            (part / name).write_text(text, encoding="utf-8")
        (part / MANIFEST_FILE).write_text(json.dumps(manifest.to_json(), indent=1))
        try:
            part.rename(folder)
        except OSError:
            first = open_prepared(folder)
            if first is None:
                raise
            return first
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Prepared(manifest, folder)


def open_prepared(folder: Path) -> Prepared | None:
    """Return the prepared dataset in `folder`, or None when there is none."""
    path = folder / MANIFEST_FILE
    if not path.is_file():
        return None
    try:
        return Prepared(Manifest.from_json(json.loads(path.read_text())), folder)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a manifest ({error}); delete {folder} to prepare the data again") from error


class Samples:
    """A prepared dataset in memory: columns as arrays, shared by all parties of a process."""

    def __init__(self, manifest: Manifest, table: datasets.Dataset) -> None:
        self.manifest = manifest
        self._table = table.with_format("arrow")
        self.ids: tuple[str, ...] = tuple(self.column("id"))
        self._arrays: dict[str, np.ndarray[Any, Any]] = {}
        self._measured: tuple[int, ...] | None = None
        self._scalings: dict[str, Scaling] = {}
        self._absent: Mapping[str, np.ndarray[Any, Any]] = {}

    @classmethod
    def open(cls, prepared: Prepared) -> Samples:
        """Open a prepared folder; the Arrow file is memory-mapped. Raises DataError when it cannot be read."""
        import datasets

        path = prepared.folder / "table"
        try:
            table = datasets.load_from_disk(str(path))
        except (OSError, ValueError) as error:
            cause = str(error).partition("\n")[0]
            raise DataError(
                f"{path} is not a table ({cause}); delete {prepared.folder} to prepare the data again"
            ) from error
        from mlecs_bench.data.exported import ExportedSamples, is_exported

        return ExportedSamples(prepared, table) if is_exported(prepared.folder) else cls(prepared.manifest, table)

    @property
    def table(self) -> datasets.Dataset:
        """The table as it is stored."""
        return self._table.with_format(None)

    def __len__(self) -> int:
        return len(self.ids)

    def column(self, name: str) -> list[Any]:
        """Return a whole column of plain values (id, target, group, stratum, has_…, a dataset's own)."""
        values: list[Any] = self._table.data.column(name).to_pylist()
        return values

    @cached_property
    def column_names(self) -> tuple[str, ...]:
        """The names of all columns."""
        return tuple(self._table.column_names)

    @cached_property
    def targets(self) -> list[str]:
        """The target text of every sample."""
        return self.column("target")

    @cached_property
    def references(self) -> list[tuple[str, ...]] | None:
        """All texts that are right for every sample; None where no sample has another one than its target."""
        if REFERENCES not in self.column_names:
            return None
        pairs = zip(self.targets, self.column(REFERENCES), strict=True)
        found = [tuple(dict.fromkeys([target, *(texts or ())])) for target, texts in pairs]
        return found if any(len(texts) > 1 for texts in found) else None

    @cached_property
    def writing(self) -> Writing:
        """What the targets of all samples are written with."""
        return writing_of(self.targets)

    def array(self, modality: str) -> np.ndarray[Any, Any]:
        """Return all samples of a modality as they are stored, (n, *shape), without a copy where Arrow mapped them."""
        import numpy as np

        if modality not in self._arrays:
            spec = self.manifest.modality(modality)
            chunks = [np.asarray(c.flatten()) for c in self._table.data.column(modality).chunks]
            flat = chunks[0] if len(chunks) == 1 else np.concatenate(chunks)
            self._arrays[modality] = flat.reshape(len(self), *spec.shape)
        return self._arrays[modality]

    def standardised(self, rows: Sequence[int]) -> Samples:
        """Return these samples with the modalities that ask for it standardised by `rows` alone.

        Of the rows those count that have the modality. Nothing is read until values are asked for. Where no modality
        asks, the samples themselves are returned.
        """
        if not any(m.standardise for m in self.manifest.modalities):
            return self
        other = copy.copy(self)
        other._measured = tuple(rows)
        other._scalings = {}
        return other

    def values(self, modality: str, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return a modality of `rows` as parties see it, (b, *shape): standardised where its manifest asks for it."""
        values: np.ndarray[Any, Any] = self.array(modality)[rows]
        if modality in self._absent:
            values[self._absent[modality][rows]] = 0
        if self._measured is None or not self.manifest.modality(modality).standardise:
            return values
        return self._scaling(modality, self._measured).apply(values)

    def scalings(self) -> dict[str, Scaling]:
        """Return by what modalities are standardised, by their names; none where no rows are there to measure by."""
        rows = self._measured
        names = [m.name for m in self.manifest.modalities if m.standardise]
        return {} if rows is None else {name: self._scaling(name, rows) for name in names}

    def scaled(self, scalings: Mapping[str, Scaling]) -> Samples:
        """Return these samples standardised as other ones were, by what `scalings` gave there."""
        other = copy.copy(self)
        other._measured = ()
        other._scalings = dict(scalings)
        return other

    def thinned(self, absent: Mapping[str, np.ndarray[Any, Any]]) -> Samples:
        """Return these samples without some of their values: `absent` says for every modality of which, (n,) bool.

        They are missing as those are that samples never had: zeros, which no `presence` shows.
        """
        other = copy.copy(self)
        other._absent = absent
        other.presence = {name: there & ~absent[name] for name, there in self.presence.items()}
        return other

    def _scaling(self, modality: str, rows: Sequence[int]) -> Scaling:
        import numpy as np

        from mlecs_bench.data.scaling import Scaling

        if modality not in self._scalings:
            measured = np.asarray(rows, dtype=np.int64)
            measured = measured[self.presence[modality][measured]]
            self._scalings[modality] = Scaling.of(self.array(modality)[measured])
        return self._scalings[modality]

    @cached_property
    def presence(self) -> dict[str, np.ndarray[Any, Any]]:
        """For every modality a bool array (n,): does the sample have it?"""
        import numpy as np

        return {m: np.array(self.column(f"has_{m}"), dtype=bool) for m in self.manifest.modality_names}


@dataclass(frozen=True)
class Batch:
    """Some samples of one party: `index` (b,) in the dataset, `inputs` m → `(b, *shape)`, `present` m → (b,) bool.

    A modality that the party does not hold in this round has no inputs and is present nowhere.
    """

    index: np.ndarray[Any, Any]
    inputs: dict[str, torch.Tensor]
    present: dict[str, torch.Tensor]

    def __len__(self) -> int:
        return len(self.index)


class Sight:
    """The modalities of a party: `ever` those that it holds in any round, `now` those of the current one.

    All data of a party share one, so that all change at once.
    """

    def __init__(self, ever: Sequence[str], now: Sequence[str] | None = None) -> None:
        self.ever = tuple(ever)
        self.now = self.ever if now is None else tuple(now)

    @contextmanager
    def without(self, modality: str) -> Iterator[None]:
        """Within the block the party does not hold `modality`."""
        before = self.now
        self.now = tuple(m for m in before if m != modality)
        try:
            yield
        finally:
            self.now = before


class _Inputs(dict[str, "torch.Tensor"]):
    """Inputs by modality; one that the party does not hold raises AccessError."""

    def __init__(self, inputs: Mapping[str, torch.Tensor], owner: str) -> None:
        super().__init__(inputs)
        self._owner = owner

    def __missing__(self, name: str) -> torch.Tensor:
        raise AccessError(f"{self._owner} asked for modality '{name}' but holds only {list(self)}")


class PartyData:
    """The samples `rows` of a dataset through `modalities` only: all that a party may ever see of it.

    Where modalities come and go, these are the ones of the current round, and `sight` knows all.
    """

    def __init__(
        self,
        samples: Samples,
        rows: Sequence[int] | np.ndarray[Any, Any],
        modalities: Sequence[str] | Sight,
        owner: str,
    ) -> None:
        import numpy as np

        self._samples = samples
        self.owner = owner
        self.rows = np.asarray(rows, dtype=np.int64)
        self.rows.flags.writeable = False
        if not isinstance(modalities, Sight):
            modalities = Sight([m for m in samples.manifest.modality_names if m in set(modalities)])
        self.sight = modalities
        self._own = frozenset(int(r) for r in self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def manifest(self) -> Manifest:
        """The dataset's manifest."""
        return self._samples.manifest

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that the party holds now, in their fixed order."""
        return self.sight.now

    def check_rows(self, rows: Sequence[int] | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return `rows` as an index (b,) int64; raises AccessError unless all are numbers of this party's rows."""
        import numpy as np

        index = np.asarray(rows)
        if index.ndim != 1 or (index.size and index.dtype.kind not in "iu"):
            # A mask or a fraction would select other samples than those that were checked.
            raise AccessError(f"{self.owner} asked for samples by {index.dtype} {index.shape}; give a list of rows")
        index = index.astype(np.int64)
        foreign = [int(r) for r in index if int(r) not in self._own]
        if foreign:
            sample = self._samples.ids[foreign[0]] if 0 <= foreign[0] < len(self._samples) else foreign[0]
            raise AccessError(f"{self.owner} asked for sample '{sample}', which is not in its data")
        return index

    def part(self, rows: Sequence[int] | np.ndarray[Any, Any]) -> PartyData:
        """Return what the party may see of some of its rows; raises AccessError for others."""
        part = copy.copy(self)
        part.rows = self.check_rows(rows)
        part.rows.flags.writeable = False
        part._own = frozenset(int(r) for r in part.rows)
        return part

    def modality(self, name: str, rows: Sequence[int] | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return the values of one modality for `rows`, `(b, *shape)`; raises AccessError for what is not its own."""
        if name not in self.modalities:
            raise AccessError(f"{self.owner} asked for modality '{name}' but holds only {list(self.modalities)}")
        return self._samples.values(name, self.check_rows(rows))

    def batch(self, rows: Sequence[int] | np.ndarray[Any, Any]) -> Batch:
        """Return `rows` through the held modalities; those that are held in other rounds only are present nowhere."""
        import torch

        index = self.check_rows(rows)
        inputs = {m: torch.from_numpy(self.modality(m, index)) for m in self.modalities}
        present = {m: torch.from_numpy(self._samples.presence[m][index]) for m in self.modalities}
        nowhere = {m: torch.zeros(len(index), dtype=torch.bool) for m in self.sight.ever if m not in inputs}
        return Batch(index, _Inputs(inputs, self.owner), present | nowhere)

    def targets(self, rows: Sequence[int] | np.ndarray[Any, Any]) -> list[str]:
        """Return the target texts of `rows`."""
        return [self._samples.targets[r] for r in self.check_rows(rows)]

    def references(self, rows: Sequence[int] | np.ndarray[Any, Any]) -> list[tuple[str, ...]] | None:
        """Return all texts that are right for `rows`, their targets first; None where the dataset has but targets."""
        texts = self._samples.references
        return None if texts is None else [texts[r] for r in self.check_rows(rows)]

    def ids(self, rows: Sequence[int] | np.ndarray[Any, Any]) -> list[str]:
        """Return the sample ids of `rows`."""
        return [self._samples.ids[r] for r in self.check_rows(rows)]


class PooledData(PartyData):
    """The samples of several parties in one place, each through the modalities of the party that it comes from.

    `ever`: what the owner holds in any round, where that is more than the shares have now.
    """

    def __init__(self, samples: Samples, shares: Sequence[PartyData], owner: str, ever: Sequence[str] = ()) -> None:
        import numpy as np

        names = sorted({m for share in shares for m in share.modalities})
        sight = Sight(ever or names, names)
        super().__init__(samples, np.concatenate([share.rows for share in shares]), sight, owner)
        self._held = {m: np.zeros(len(samples), dtype=bool) for m in self.modalities}
        for share in shares:
            for m in share.modalities:
                self._held[m][share.rows] = True

    def modality(self, name: str, rows: Sequence[int] | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return the values of one modality for `rows`, `(b, *shape)`; zeros where a sample's party lacks it.

        Raises AccessError as `PartyData.modality`.
        """
        values = super().modality(name, rows)
        values[~self._held[name][self.check_rows(rows)]] = 0
        return values

    def batch(self, rows: Sequence[int] | np.ndarray[Any, Any]) -> Batch:
        """Return `rows` through the modalities that their parties hold; any other is missing from the sample."""
        import torch

        batch = super().batch(rows)
        held = {m: torch.from_numpy(self._held[m][batch.index]) for m in self.modalities}
        return Batch(batch.index, batch.inputs, batch.present | {m: batch.present[m] & held[m] for m in held})
