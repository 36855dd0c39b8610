"""Prepares a user's table once: rows and files, or the stand-in, become one Arrow table in the cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlecs_bench.api import (
    DataError,
    DataRequest,
    Manifest,
    Prepared,
    UsageError,
    Verification,
    features_of,
    open_prepared,
    save_prepared,
)
from mlecs_plugins.datasets.jsonl import stand_in
from mlecs_plugins.datasets.jsonl.card import NAME, JsonlOptions
from mlecs_plugins.datasets.jsonl.embedding import EmbeddedColumns, Towers
from mlecs_plugins.datasets.jsonl.layout import Layout, read_layout
from mlecs_plugins.datasets.jsonl.rows import read_rows
from mlecs_plugins.datasets.jsonl.samples import Sample, samples_of
from mlecs_plugins.datasets.jsonl.values import Reader, Values, files_of
from mlecs_plugins.datasets.problems import Problems, one_line
from mlecs_plugins.datasets.store import Store
from mlecs_plugins.datasets.user_files import Digests, inside, is_file

if TYPE_CHECKING:
    import datasets

READER_VERSION = 1
"""Part of every digest: raise it when the same files would give other samples."""
SHOWN_NAMES = 3
LABEL, TEXTS, REFERENCES = "label", "texts", "references"
"""Columns of the prepared table beside those of every dataset: of a classification, of texts, of several targets."""


@dataclass(frozen=True)
class _Read:
    """A user's table as it was read, before any file that it names is opened."""

    folder: Path
    layout: Layout
    table: Path
    samples: list[Sample]

    @property
    def name(self) -> str:
        """The table's path below the folder."""
        return self.table.relative_to(self.folder).as_posix()


def prepare(request: DataRequest) -> Prepared:
    """Return the prepared dataset of `request`, from the cache where it is there.

    Raises DataError that names table, line and column, and UsageError for options that the stand-in has no use for.
    Media that cannot be decoded are missing modalities, which the manifest counts.
    """
    options = options_of(request)
    if request.data_dir is None:
        if options != JsonlOptions():
            raise UsageError(f"the options of {NAME} are for your own table; give --data-dir, or leave them out")
        return _prepare_stand_in(request)
    problems = Problems()
    read = _read(request.data_dir, options, problems)
    _refuse(problems, request.data_dir)
    towers = Towers.of(options, read.layout, request.progress)
    digests = _digests(request, read)
    digest = _digest(read, options, digests, towers)
    folder = request.cache_dir / NAME / digest[:32]
    ready = open_prepared(folder)
    if ready is not None:
        return ready
    store = Store(request.cache_dir / NAME / f"decoded-{READER_VERSION}")
    reader = Reader(read.folder, digests, store, EmbeddedColumns(towers, digests, store) if towers else None)
    values = reader.read(read.samples, read.layout, read.name, problems, request.progress)
    _refuse(problems, request.data_dir)
    if not any(present.any() for present in values.present.values()):
        raise DataError(f"{NAME}: {read.name}: no sample has any modality")
    view = view_of(read.layout, read.name, options, towers)
    manifest = _manifest(read.layout, read.samples, values, digest, view, notes_of(read.samples, values, options))
    return save_prepared(build_table(read.layout, read.samples, values, options), manifest, folder)


def verify(request: DataRequest) -> Verification:
    """Return what a user's table and its files hold; raises DataError when there is nothing to look at."""
    options, problems = options_of(request), Problems()
    read = _read(Path(request.data_dir or ""), options, problems)
    towers = Towers.of(options, read.layout, request.progress)
    digests = _digests(request, read)
    values = Reader(read.folder, digests, None).read(read.samples, read.layout, read.name, problems, request.progress)
    lines = [*problems.lines, *(one_line(f"{name}: {what}") for name, what in sorted(values.damaged.items()))]
    if problems.count > len(problems.lines):
        lines.append(f"{read.name}: and {problems.count - len(problems.lines)} more such rows")
    usable = not problems.count and any(present.any() for present in values.present.values())
    if not usable and not lines:
        lines.append(f"{read.name}: no sample has any modality")
    return Verification(
        view=view_of(read.layout, read.name, options, towers),
        n_samples=len(read.samples),
        digest=_digest(read, options, digests, towers) if usable else None,
        missing={m: [read.samples[i].id for i in np.flatnonzero(~present)] for m, present in values.present.items()},
        problems=lines,
        notes=notes_of(read.samples, values, options),
    )


def missing_files(data_dir: Path) -> list[str]:
    """Return one line for what a folder lacks: its manifest, or the table that it names."""
    try:
        _table(data_dir, read_layout(data_dir, JsonlOptions().manifest))
    except DataError as error:
        return [str(error)]
    return []


def options_of(request: DataRequest) -> JsonlOptions:
    """Return the options of a request."""
    options: JsonlOptions = JsonlOptions() if request.options is None else request.options
    return options


def view_of(layout: Layout, table: str, options: JsonlOptions, towers: Towers | None = None) -> str:
    """Return what the samples are, as tables print it."""
    through = f", through {', '.join(towers.names)}" if towers else ""
    kinds = ", ".join(f"{source.name} ({source.kind})" for source in layout.modalities)
    cut = f"; targets cut after {options.target_words} words" if options.target_words else ""
    return f"{layout.title} ({table}): {kinds}{through}{cut}"


def _read(data_dir: Path, options: JsonlOptions, problems: Problems) -> _Read:
    layout = read_layout(data_dir, options.manifest)
    table = _table(data_dir, layout)
    name = table.relative_to(data_dir).as_posix()
    return _Read(data_dir, layout, table, samples_of(read_rows(table, layout.media), layout, data_dir, name, problems))


def _table(data_dir: Path, layout: Layout) -> Path:
    path = inside(data_dir, layout.samples)
    if path is None:
        raise DataError(
            one_line(f"{NAME}: the manifest's table '{layout.samples}' is not inside {data_dir}; copy it there")
        )
    if not is_file(path):
        raise DataError(
            one_line(f"{NAME}: {data_dir} has no table '{layout.samples}', which its manifest names as 'samples'")
        )
    return path


def _refuse(problems: Problems, data_dir: Path) -> None:
    """Raise DataError when rows or cells are none."""
    if problems.count:
        more = f" (and {problems.count - 1} more problems)" if problems.count > 1 else ""
        command = f"mlecs-bench data verify {NAME} --data-dir {data_dir}"
        raise DataError(f"{NAME}: {problems.lines[0]}{more}; mend or remove such rows; '{command}' lists them")


def _digests(request: DataRequest, read: _Read) -> dict[Path, str]:
    """Return the sha256 of the table and of every file that it names."""
    store = Digests(request.cache_dir / NAME / "file-digests.json")
    try:
        return store.of([read.table, *files_of(read.samples)], request.progress)
    except OSError as error:
        raise DataError(f"{NAME}: {error.filename} cannot be read ({error.strerror}); mend or remove it") from error


def _digest(read: _Read, options: JsonlOptions, digests: Mapping[Path, str], towers: Towers | None) -> str:
    """Return the sha256 of everything that the samples and their prompt are made from."""
    made_from: dict[str, Any] = {
        "reader": READER_VERSION,
        "layout": asdict(replace(read.layout, title="", licence="")),
        "target_words": options.target_words,
        "table": digests[read.table],
        "files": [(p.relative_to(read.folder).as_posix(), digests[p]) for p in files_of(read.samples)],
    }
    if towers is not None:
        made_from["towers"] = towers.digests
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def _prepare_stand_in(request: DataRequest) -> Prepared:
    """Return the generated table, read as a user's would be."""
    folder = request.cache_dir / NAME / f"stand-in-{stand_in.VERSION}"
    ready = open_prepared(folder)
    if ready is not None:
        return ready
    layout, problems = stand_in.LAYOUT, Problems()
    samples = samples_of(stand_in.rows(), layout, folder, "stand-in", problems)
    values = Reader(folder, {}, None).read(samples, layout, "stand-in", problems, request.progress)
    digest = hashlib.sha256(json.dumps([READER_VERSION, stand_in.VERSION, asdict(layout)]).encode()).hexdigest()
    options = JsonlOptions()
    manifest = _manifest(layout, samples, values, digest, "synthetic", notes_of(samples, values, options))
    return save_prepared(build_table(layout, samples, values, options), replace(manifest, synthetic=True), folder)


def labels_of(layout: Layout, samples: Sequence[Sample]) -> tuple[str, ...]:
    """Return the classes: those that the manifest names, else all targets in alphabetical order."""
    if layout.task == "generation":
        return ()
    return tuple(dict.fromkeys(layout.labels.values())) or tuple(sorted({sample.target for sample in samples}))


def _manifest(  # what a manifest is made of
    layout: Layout, samples: Sequence[Sample], values: Values, digest: str, view: str, notes: tuple[str, ...]
) -> Manifest:
    labels = labels_of(layout, samples)
    if layout.task == "classification" and len(labels) < 2:  # one class is no task
        raise DataError(f"{NAME}: all targets are '{labels[0]}'; a classification needs two labels at least")
    return Manifest(
        name=NAME,
        version=str(READER_VERSION),
        view=view,
        synthetic=False,
        task=layout.task,
        modalities=values.modalities,
        prompt=layout.prompt,
        labels=labels,
        max_new_tokens=layout.max_new_tokens,
        n_samples=len(samples),
        digest=digest,
        licence=layout.licence,
        notes=notes,
    )


def notes_of(samples: Sequence[Sample], values: Values, options: JsonlOptions) -> tuple[str, ...]:
    """Return one sentence for each kind of thing that is missing, cut or damaged."""
    n, notes = len(samples), []
    cut = sum(_cut(sample.target, options) != sample.target for sample in samples)
    if cut:
        notes.append(f"{cut} targets were cut after {options.target_words} words")
    several = sum(len(sample.references) > 1 for sample in samples)
    if several:
        notes.append(f"{several} of {n} samples have several targets: the first is trained on, all are references")
    for name, present in values.present.items():
        lacking = int((~present).sum())
        if lacking:
            notes.append(f"{lacking} of {n} samples have no {name}")
    nothing = n - int(np.logical_or.reduce(list(values.present.values())).sum())
    if nothing:
        notes.append(f"{nothing} of {n} samples have no modality at all")
    if values.damaged:
        names = sorted(values.damaged)
        shown = ", ".join(map(one_line, names[:SHOWN_NAMES])) + (", ..." if len(names) > SHOWN_NAMES else "")
        notes.append(f"{len(names)} files cannot be decoded, and what they hold is missing: {shown}")
    return tuple(notes)


def _cut(target: str, options: JsonlOptions) -> str:
    return " ".join(target.split()[: options.target_words])


def build_table(layout: Layout, samples: Sequence[Sample], values: Values, options: JsonlOptions) -> datasets.Dataset:
    """Return the Arrow table: the columns of `features_of`, and those that references and diagnoses read."""
    import datasets
    import pyarrow as pa

    columns: dict[str, Any] = {
        "id": [sample.id for sample in samples],
        "target": [_cut(sample.target, options) for sample in samples],
        "group": [sample.group for sample in samples],
        "stratum": [sample.stratum for sample in samples],
    }
    for m in values.modalities:
        flat = pa.array(values.values[m.name].reshape(-1))
        columns[m.name] = pa.FixedSizeListArray.from_arrays(flat, int(np.prod(m.shape)))
        columns[f"has_{m.name}"] = values.present[m.name]
    extra: dict[str, Any] = {}
    features: dict[str, Any] = {}
    if any(len(sample.references) > 1 for sample in samples):
        extra[REFERENCES] = [[_cut(text, options) for text in sample.references] for sample in samples]
        features[REFERENCES] = datasets.List(datasets.Value("string"))
    if layout.task == "classification":
        extra[LABEL] = [sample.target for sample in samples]
    texts = [source.name for source in layout.modalities if source.kind == "text"]
    if texts and layout.task == "generation":
        extra[TEXTS] = [" ".join(sample.held[m] for m in texts if m in sample.held) for sample in samples]
    schema = features_of(values.modalities, {name: features.get(name, datasets.Value("string")) for name in extra})
    return datasets.Dataset(pa.table({**columns, **extra}, schema=schema.arrow_schema))
