"""What a report takes from installed plugins: what their cards say of records, and the studies that it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlecs_bench.doors.options import build_options
from mlecs_bench.errors import MlecsError, UsageError, did_you_mean
from mlecs_bench.report.arrange import Cards, control_key

if TYPE_CHECKING:
    from mlecs_bench.doors.hookspecs import Control, MetricInfo, StudyInfo
    from mlecs_bench.doors.registry import Registry
    from mlecs_bench.plan.study import Study

PLAIN = "plain"
"""The layout that is none: sections as a study shows them by itself."""

Records = Sequence[Mapping[str, Any]]


def known_defaults(records: Records, registry: Registry) -> dict[str, dict[str, Any]]:
    """Return the default options of each algorithm that is installed and can be loaded, by name."""
    found = {}
    for algo in dict.fromkeys(record["identity"]["algo"]["name"] for record in records):
        try:
            found[algo] = registry.default_options(algo)
        except MlecsError:
            continue  # records of a plugin that is gone are as good as any
    return found


def known_cards(records: Records, registry: Registry) -> Cards:
    """Return what the cards of installed plugins say of the algorithms and the metrics of records."""
    metrics = _metrics(records, registry)
    return Cards(
        known_defaults(records, registry),
        _controls(records, registry),
        frozenset(name for name, info in metrics.items() if info.real_texts),
        {name: info.reading for name, info in metrics.items() if info.reading},
        _kept_private(records, registry),
    )


def _controls(records: Records, registry: Registry) -> dict[str, Control]:
    """Return the controls among the algorithms of records, whose options may be those of another version."""
    algos = {control_key(record["identity"]): record["identity"]["algo"] for record in records}
    found = {}
    for key, algo in algos.items():
        try:
            info = registry.algorithm(algo["name"]).info
            control = info.control(build_options(info.options, algo["options"], algo["name"]))
        except MlecsError:
            continue
        if control is not None:
            found[key] = control
    return found


def _metrics(records: Records, registry: Registry) -> dict[str, MetricInfo]:
    """Return the cards of the installed metrics of records, by name."""
    found = {}
    for name in dict.fromkeys(name for record in records for name in record["identity"]["scorers"]):
        try:
            found[name] = registry.metric(name).info
        except MlecsError:
            continue
    return found


def _kept_private(records: Records, registry: Registry) -> frozenset[str]:
    """Return the datasets of records whose own texts may not be passed on."""
    found = set()
    for name in dict.fromkeys(record["identity"]["dataset"]["name"] for record in records):
        try:
            found |= set() if registry.dataset(name).info.redistributable else {name}
        except MlecsError:
            continue
    return frozenset(found)


def with_ablations(records: Records, registry: Registry) -> str | None:
    """Return the first algorithm of the records that installed plugins ablate, None where there is none."""
    ablated = {entry.name.partition("/")[0] for entry in registry.entries("algorithm") if "/" in entry.name}
    names = dict.fromkeys(record["identity"]["algo"]["name"].partition("/")[0] for record in records)
    return next((name for name in names if name in ablated), None)


def studies_of(
    folder: Path, named: Sequence[str], registry: Registry, layout: str | None = None
) -> tuple[list[StudyInfo], list[str]]:
    """Return the studies that a report on `folder` shows, and a line for each that its study.yaml names in vain.

    These are those `named` by the user, for which errors are raised, those of the folder's own study file, and the one
    that offers `layout` (None: that of the study file; `PLAIN`: none), which then shows itself in it. Raises UsageError
    for a layout that is not offered, or by several.
    """
    found = {name: registry.study(name).info for name in dict.fromkeys(named)}
    own, problems = _own_study(folder)
    for name in own.report if own else ():
        try:
            found.setdefault(name, registry.study(name).info)
        except MlecsError as error:
            problems.append(f"the sections of study '{name}' are left out: {error}")
    wanted = layout if layout is not None else own.layout if own else ""
    if wanted not in ("", PLAIN):
        try:
            found = _laid_out(found, wanted, registry)
        except UsageError as error:
            if layout is not None:
                raise
            problems.append(str(error))
    return list(found.values()), problems


def _own_study(folder: Path) -> tuple[Study | None, list[str]]:
    """Return the study file of a folder, None for none, and a line where it cannot be read."""
    from mlecs_bench.plan.study import STUDY_FILE, read_study

    try:
        return (read_study(folder / STUDY_FILE) if (folder / STUDY_FILE).exists() else None), []
    except MlecsError as error:
        return None, [str(error)]


def _laid_out(shown: Mapping[str, StudyInfo], layout: str, registry: Registry) -> dict[str, StudyInfo]:
    """Return the studies, with the one that offers a layout in it: one of them, or else one that is installed."""
    offering = {name: info for name, info in shown.items() if layout in info.layouts} or {
        name: info for name, info in _studies(registry).items() if layout in info.layouts
    }
    if not offering:
        known = [PLAIN, *(name for info in _studies(registry).values() for name in info.layouts)]
        raise UsageError(f"no layout '{layout}'. {did_you_mean(layout, known)}")
    if len(offering) > 1:
        raise UsageError(f"layout '{layout}' is offered by {' and '.join(offering)}; name one of them with --study")
    return {**shown, **{name: replace(info, sections=info.layouts[layout]) for name, info in offering.items()}}


def _studies(registry: Registry) -> dict[str, StudyInfo]:
    """Return the installed studies that can be loaded, by name."""
    found = {}
    for entry in registry.entries("study"):
        try:
            found[entry.name] = registry.study(entry.name).info
        except MlecsError:
            continue
    return found
