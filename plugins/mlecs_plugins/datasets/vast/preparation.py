"""Prepares VAST once: the user's annotations and media, or the stand-in, become one Arrow table in the cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlecs_bench.api import (
    DataError,
    DataRequest,
    Manifest,
    Modality,
    Prepared,
    UsageError,
    Verification,
    features_of,
    open_prepared,
    save_prepared,
)
from mlecs_plugins.datasets.problems import Problems, one_line
from mlecs_plugins.datasets.store import Store
from mlecs_plugins.datasets.user_files import Digests
from mlecs_plugins.datasets.vast import card
from mlecs_plugins.datasets.vast.clips import TEXT_KEYS, Clip
from mlecs_plugins.datasets.vast.copies import texts_of
from mlecs_plugins.datasets.vast.embedding import Towers, embed_inputs
from mlecs_plugins.datasets.vast.inputs import Inputs, MediaReader, read_inputs
from mlecs_plugins.datasets.vast.plan import Selection, make_plan
from mlecs_plugins.datasets.vast.synthetic import prepare_synthetic

if TYPE_CHECKING:
    import datasets

READER_VERSION = 3
"""Part of every digest and of the store's folder: raise it when the same files would give other samples."""
SHOWN_NAMES = 3
REFERENCES = "references"
"""The column of all summaries of a clip, where some have several."""


def prepare(request: DataRequest) -> Prepared:
    """Return the prepared dataset of `request`, from the cache where it is there.

    Raises DataError that names the annotation file and the first broken record, and UsageError for options that the
    stand-in has no use for. Media that cannot be decoded are missing modalities, which the manifest counts.
    """
    options = _options(request)
    if request.data_dir is None:
        if options != card.VastOptions():
            raise UsageError("the options of vast choose among your own clips; give --data-dir, or leave them out")
        return prepare_synthetic(request)
    problems = Problems()
    plan = _plan(request, options, problems)
    _refuse(problems, plan)
    towers = Towers.of(options, plan.view, request.progress)
    digests = _digests(request, plan)
    digest = _digest(plan, options, digests, towers)
    folder = _cache(request) / digest[:32]
    ready = open_prepared(folder)
    if ready is not None:
        return ready
    store = Store(_cache(request) / f"decoded-{READER_VERSION}")
    if towers is None:
        inputs = read_inputs(plan, MediaReader(digests, store), request.progress)
    else:
        inputs = embed_inputs(plan, towers, digests, store, request.progress)
    if not any(present.any() for present in inputs.present.values()):
        raise DataError(_nothing_shown(plan, inputs))
    manifest = _manifest(plan, options, inputs, digest)
    return save_prepared(build_table(plan, options, inputs, manifest.modalities), manifest, folder)


def verify(request: DataRequest) -> Verification:
    """Return what the user's files hold, decoding all media; raises DataError when there is nothing to look at."""
    options = _options(request)
    problems = Problems()
    plan = _plan(request, options, problems)
    towers = Towers.of(options, plan.view, request.progress)
    digests = _digests(request, plan)
    inputs = read_inputs(plan, MediaReader(digests, None), request.progress)
    lines = [*problems.lines, *_damage(plan, inputs)]
    if problems.count > len(problems.lines):
        lines.append(f"{plan.annotations.name}: and {problems.count - len(problems.lines)} more such records")
    usable = not problems.count and any(present.any() for present in inputs.present.values())
    if not usable and not problems.count:
        lines.append(_nothing_shown(plan, inputs))
    return Verification(
        view=card.view_text(plan.view, options, towers.names if towers else ()),
        n_samples=len(plan.clips),
        digest=_digest(plan, options, digests, towers) if usable else None,
        missing={m: [plan.clips[i].id for i in np.flatnonzero(~present)] for m, present in inputs.present.items()},
        problems=lines,
        notes=(*notes_of(plan, options, inputs), *_stranger_note(plan), *_archive_notes(plan)),
    )


def _plan(request: DataRequest, options: card.VastOptions, problems: Problems) -> Selection:
    try:
        return make_plan(Path(request.data_dir or ""), options, problems, _cache(request), request.progress)
    except OSError as error:
        raise DataError(f"vast: {error.filename} cannot be read ({error.strerror}); mend or remove it") from error


def _stranger_note(plan: Selection) -> list[str]:
    """Return which media files belong to no record; prepared data do not depend on them, and say nothing of them."""
    names = [plan.folder.name_of(path) for path in plan.strangers]
    return [f"{len(names)} media files belong to no record and are not read: {_some(names)}"] if names else []


def _archive_notes(plan: Selection) -> list[str]:
    """Return what is in archives and not read."""
    kinds = {
        "members of archives are not read": plan.folder.refused,
        "members of archives lie beside them, too, and are read there": plan.folder.copies,
    }
    return [f"{len(names)} {what}: {_some(names)}" for what, names in kinds.items() if names]


def _options(request: DataRequest) -> card.VastOptions:
    options: card.VastOptions = card.VastOptions() if request.options is None else request.options
    return options


def _refuse(problems: Problems, plan: Selection) -> None:
    """Raise DataError when the annotation file has broken records."""
    if problems.count:
        more = f" (and {problems.count - 1} more problems)" if problems.count > 1 else ""
        command = f"mlecs-bench data verify vast --data-dir {plan.folder.data_dir}"
        raise DataError(f"vast: {problems.lines[0]}{more}; mend or remove what is named; '{command}' lists them")


def _cache(request: DataRequest) -> Path:
    return request.cache_dir / card.NAME


def _digests(request: DataRequest, plan: Selection) -> dict[Path, str]:
    """Return the sha256 of the annotation file and of every media file that is read."""
    store = Digests(_cache(request) / "file-digests.json", archives_are_folders=True)
    try:
        return store.of([plan.annotations, *plan.files], request.progress)
    except OSError as error:
        raise DataError(f"vast: {error.filename} cannot be read ({error.strerror}); mend or remove it") from error


def _digest(plan: Selection, options: card.VastOptions, digests: Mapping[Path, str], towers: Towers | None) -> str:
    made_from: dict[str, Any] = {
        "reader": READER_VERSION,
        "view": plan.view,
        "limit": options.limit,
        "subset_seed": options.subset_seed,
        "target_words": options.target_words,
        "annotations": digests[plan.annotations],
        "media": sorted((plan.folder.own_name(path), digests[path]) for path in plan.files),
    }
    if towers is not None:
        made_from["towers"] = towers.digests
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def _nothing_shown(plan: Selection, inputs: Inputs) -> str:
    """Return why no clip has any modality."""
    name = plan.annotations.name
    if plan.view == "media":
        why = f"none of the media files of its clips can be used ({'; '.join(_damage(plan, inputs)[:1])})"
        return f"vast: {name}: {why}; run 'mlecs-bench data verify vast' for all of them"
    return f"vast: {name}: no clip has a vision_cap, an audio_cap or a subtitle; such clips need their media files"


def _damage(plan: Selection, inputs: Inputs) -> list[str]:
    return [one_line(f"{plan.folder.name_of(path)}: {what}") for path, what in sorted(inputs.damaged.items())]


def _manifest(plan: Selection, options: card.VastOptions, inputs: Inputs, digest: str) -> Manifest:
    towers = Towers.of(options, plan.view)
    shapes = towers.shapes(plan.view, inputs) if towers else card.modalities(plan.view)
    return Manifest(
        name=card.NAME,
        version=str(READER_VERSION),
        view=card.view_text(plan.view, options, towers.names if towers else ()),
        synthetic=False,
        task="generation",
        modalities=shapes,
        prompt=card.PROMPT,
        labels=(),
        max_new_tokens=card.MAX_NEW_TOKENS,
        n_samples=len(plan.clips),
        digest=digest,
        licence=card.LICENCE,
        notes=notes_of(plan, options, inputs),
    )


def notes_of(plan: Selection, options: card.VastOptions, inputs: Inputs) -> tuple[str, ...]:
    """Return one sentence for each kind of thing that was left out, cut or missing."""
    n = len(plan.clips)
    notes = []
    if plan.without_media:
        notes.append(f"{plan.without_media} of {plan.annotated} annotated clips have no media file and are left out")
    if n < plan.annotated - plan.without_media:
        whole = plan.annotated - plan.without_media
        notes.append(f"{n} of {whole} clips are used, chosen by name with subset_seed {options.subset_seed}")
    cut = sum(_cut(clip.target, options.target_words) != clip.target for clip in plan.clips)
    if cut:
        notes.append(f"{cut} targets were cut after {options.target_words} words")
    several = sum(len(clip.references) > 1 for clip in plan.clips)
    if several:
        notes.append(f"{several} of {n} clips have several summaries: the first is the target, all are references")
    for name, present in inputs.present.items():
        lacking = int((~present).sum())
        if lacking:
            notes.append(f"{lacking} of {n} clips have no {_source(plan, name)}")
    nothing = int((~np.logical_or.reduce(list(inputs.present.values()))).sum())
    if nothing:
        notes.append(f"{nothing} of {n} clips have no modality at all")
    return (*notes, *_damage_note(inputs))


def _damage_note(inputs: Inputs) -> list[str]:
    if not inputs.damaged:
        return []
    names = sorted(path.name for path in inputs.damaged)
    return [f"{len(names)} media files cannot be decoded, and what they hold is missing: {_some(names)}"]


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(one_line, names[:SHOWN_NAMES])) + (", ..." if len(names) > SHOWN_NAMES else "")


def _source(plan: Selection, modality: str) -> str:
    """Return what a clip lacks whose modality is missing."""
    return (
        {"audio": "sound", "vision": "pictures"}.get(modality, modality)
        if plan.view == "media"
        else (TEXT_KEYS[modality])
    )


def _cut(target: str, words: int | None) -> str:
    return target if words is None else " ".join(target.split()[:words])


def build_table(
    plan: Selection, options: card.VastOptions, inputs: Inputs, shapes: Sequence[Modality]
) -> datasets.Dataset:
    """Return the Arrow table of all clips: the columns of `features_of`, and the texts that references copy."""
    import datasets
    import pyarrow as pa

    clips: Sequence[Clip] = plan.clips
    columns: dict[str, Any] = {
        "id": [clip.id for clip in clips],
        "target": [_cut(clip.target, options.target_words) for clip in clips],
        "group": [clip.group for clip in clips],
        "stratum": [""] * len(clips),
    }
    for m in shapes:
        flat = pa.array(inputs.values[m.name].reshape(-1))
        columns[m.name] = pa.FixedSizeListArray.from_arrays(flat, int(np.prod(m.shape)))
        columns[f"has_{m.name}"] = inputs.present[m.name]
    copies = texts_of(clips)
    extra = {name: datasets.Value("string") for name in copies}
    if any(len(clip.references) > 1 for clip in clips):
        columns[REFERENCES] = [[_cut(text, options.target_words) for text in clip.references] for clip in clips]
        extra[REFERENCES] = datasets.List(datasets.Value("string"))
    features = features_of(shapes, extra)
    return datasets.Dataset(pa.table({**columns, **copies}, schema=features.arrow_schema))
