"""What a report takes from installed plugins: what their cards say of records, and the studies that it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlecs_bench.doors.options import build_options
from mlecs_bench.errors import MlecsError
from mlecs_bench.report.arrange import Cards, control_key

if TYPE_CHECKING:
    from mlecs_bench.doors.hookspecs import Control, MetricInfo, StudyInfo
    from mlecs_bench.doors.registry import Registry
    from mlecs_bench.plan.study import Study

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


def study_in(folder: Path) -> tuple[Study | None, list[str]]:
    """Return the study whose file lies in a folder of records, None without one, and what is wrong with the file."""
    from mlecs_bench.plan.study import STUDY_FILE, read_study

    if not (folder / STUDY_FILE).exists():
        return None, []
    try:
        return read_study(folder / STUDY_FILE), []
    except MlecsError as error:
        return None, [str(error)]


def studies_of(study: Study | None, named: Sequence[str], registry: Registry) -> tuple[list[StudyInfo], list[str]]:
    """Return the study plugins that a report on a study shows, and a line for each that its file names in vain.

    These are those `named` by the user, for which errors are raised, and those of the study's file.
    """
    found = {name: registry.study(name).info for name in dict.fromkeys(named)}
    problems: list[str] = []
    for name in study.report if study else ():
        try:
            found.setdefault(name, registry.study(name).info)
        except MlecsError as error:
            problems.append(f"the sections of study '{name}' are left out: {error}")
    return list(found.values()), problems
