"""Runs and sweeps from Python: `mlecs_bench.run` and `mlecs_bench.sweep`, the commands of these names as functions."""

from __future__ import annotations

import dataclasses
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Required, TypedDict, TypeVar, Unpack

from mlecs_bench.doors.registry import Loaded, Registry
from mlecs_bench.doors.unregistered import TAKEN, unregistered
from mlecs_bench.errors import UsageError
from mlecs_bench.plan.settings import SPEC_KEYS
from mlecs_bench.plan.spec import RunSpec
from mlecs_bench.plan.study import study_of
from mlecs_bench.session.request import (
    OTHER_KEYS,
    PLACE_KEYS,
    Chosen,
    Places,
    build_request,
    build_sweep,
    check_settings,
)

if TYPE_CHECKING:
    from mlecs_bench.doors.hookspecs import AlgorithmInfo, DatasetInfo
    from mlecs_bench.doors.profile import Profile
    from mlecs_bench.doors.registry import Kind
    from mlecs_bench.plan.study import Study
    from mlecs_bench.session.results import Results, Run

Folder = str | PathLike[str]
FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
IN_PROCESS = "in-process"
"""Settings that say where and how cells run, and change no number."""


class RunSettings(TypedDict, total=False):
    """The settings of a run, by the names of the command line; what is left out or None is the default.

    `algo`, `dataset` and `profile` are names of plugins, or objects for a first try: an algorithm's class or
    AlgorithmInfo, a DatasetInfo, a Profile.
    """

    algo: Required[str | type[Any] | AlgorithmInfo]
    dataset: Required[str | DatasetInfo]
    rho: Required[float | str | Mapping[str, float]]
    n_devices: int | Literal["all"] | None
    profile: str | Profile | None
    seeds: Sequence[int] | int | str | None
    n_seeds: int | None
    options: Mapping[str, Any] | None
    data_options: Mapping[str, Any] | None
    set: Mapping[str, Any] | None
    rounds: int | None
    steps: int | None
    local_epochs: int | None
    split: str | None
    budget: Literal["paper", "equal"] | None
    batch_size: int | None
    private_limit: int | Literal["all"] | None
    public_limit: int | Literal["all"] | None
    test_limit: int | Literal["all"] | None
    dtype: Literal["float32", "bfloat16", "float16"] | None
    base_bits: Literal[4, 8] | None
    gradient_checkpointing: bool | None
    bertscore_model: Folder | None
    evaluate: Literal["last", "all"] | None
    metrics: Sequence[str] | str | None
    answer: Literal["generate", "rank"] | None
    min_modalities: Literal[0, 1] | None
    modalities: Literal["bernoulli", "exact"] | str | Mapping[str, Any] | None
    partition: Literal["iid", "group"] | str | Mapping[str, Any] | None
    sample_rho: float | str | Mapping[str, Any] | None
    participation: float | int | str | Mapping[str, Any] | None
    dropout: float | str | Mapping[str, Any] | None
    faults: Mapping[str, Any] | None
    network: str | Mapping[str, Any] | None
    schedule: Literal["static"] | str | Mapping[str, Any] | None
    robustness: bool | None
    compression: Literal["none", "fp16", "int8", "topk"] | str | Mapping[str, Any] | None
    slm: Folder | None
    llm: Folder | None
    proxy: Folder | None
    device_slm: Mapping[str, Folder] | None
    device_rank: Mapping[str, int] | None
    device_encoder_width: Mapping[str, int] | None
    data_dir: Folder | None
    device: str | None
    threads: int | None
    out: Folder | None
    workers: int | str | None
    fleet: str | None
    track: Sequence[str] | str | None
    save_predictions: bool | None
    save_models: bool | None
    round_timeout: float | None
    cache_dir: Folder | None


def _signed(function: FunctionT) -> FunctionT:
    """Give a function that takes settings a signature with all of them, for `help` and for completion."""
    own = inspect.signature(function)
    kept = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    defaults = {field.name: field.default for field in dataclasses.fields(RunSpec)}
    settings = [_parameter(name, defaults.get(name)) for name in (*SPEC_KEYS, *OTHER_KEYS)]
    signature = own.replace(parameters=sorted([*settings, *kept], key=lambda parameter: parameter.kind))
    setattr(function, "__signature__", signature)  # noqa: B010  # mypy knows no such attribute of functions
    return function


def _parameter(name: str, default: Any) -> inspect.Parameter:
    """Return a setting as a parameter; one that must be given, or whose default is not a plain value, has None."""
    annotation = RunSettings.__annotations__.get(name, Any)
    text = getattr(annotation, "__forward_arg__", str(annotation))
    if text.startswith("Required["):
        text = text.removeprefix("Required[").removesuffix("]")
    default = None if default is dataclasses.MISSING else default
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=text)


@_signed
def run(*, quiet: bool = False, **settings: Unpack[RunSettings]) -> Run:
    """Run one algorithm on one dataset at one rate, over some seeds, as `mlecs-bench run` does; return its results.

    Settings have the names of the command line, with underscores: `mlecs-bench run --help` explains them. Cells run in
    this process, one after the other, unless `workers` says otherwise (a number, or NAME:ARGUMENT). A record that is
    there in the folder `out` is taken as it is. `quiet` shows errors alone.

    An `algo`, `dataset` or `profile` may be an object instead of a name, and then runs in this process only. Records
    mark an algorithm or a dataset of this kind "(unregistered)", and hold a digest of the algorithm's code.

    Raises UsageError for a wrong request before anything runs, FailedCellsError when all cells have ended and some of
    them in an error, and Interrupted on Ctrl-C, after which the same call goes on.
    """
    from mlecs_bench.session.carry_out import resolved, run_cells, run_text
    from mlecs_bench.session.environment import borrowed_process
    from mlecs_bench.session.progress import make_view
    from mlecs_bench.session.results import FailedCellsError, Run, failed_cells

    given = _plain(settings)
    check_settings(given, "mlecs_bench.run")
    several = next((name for name in TAKEN if isinstance(given.get(name), list)), None)
    if several is not None:
        raise UsageError(f"mlecs_bench.run takes one {several}, got {len(given[several])}; use mlecs_bench.sweep")
    names, registry = _with_objects(given)
    request = build_request(names, registry=registry)
    places = _here(request.places)
    view = make_view(len(request.spec.seeds), sys.stderr, quiet)
    view.say(run_text(request.spec))
    try:
        plan = resolved(request, registry, view)  # a wrong request is refused before everything else is imported
        with borrowed_process():
            cells = run_cells(plan, places, registry, view)
    finally:
        view.close()
    records = [result.record for _, result in cells if result.record is not None]
    found = Run(records, failed_cells(cells), places.out, registry=registry, plan=plan)
    if found.failures:
        raise FailedCellsError(found)
    return found


@_signed
def sweep(
    study: Folder | Mapping[str, Any] | None = None,
    *,
    preset: str | None = None,
    blocks: Sequence[str] = (),
    retry: Literal["failed"] | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Results:
    """Run many cells as `mlecs-bench sweep` does: a study file (or what one holds), a preset, or lists of settings.

    Settings are those of `run`, of which some may be lists (docs/sweeps.md); beside a study or a preset they
    replace its own, of which `blocks` alone are run where some are named. Cells run in this process, one after the
    other, unless `workers` says otherwise. A cell that fails costs only itself: it is in `failures` of the results,
    and nothing is raised; retry="failed" tries it again.

    Raises UsageError for a wrong request before anything runs, and Interrupted on Ctrl-C, after which the same call
    goes on.
    """
    from mlecs_bench.session.carry_out import sweep_cells, sweep_text
    from mlecs_bench.session.environment import borrowed_process
    from mlecs_bench.session.progress import make_view
    from mlecs_bench.session.results import Results, failed_cells

    given = _plain(settings)
    check_settings(given, "mlecs_bench.sweep")
    if retry not in (None, "failed"):
        raise UsageError(f"retry must be failed, got {retry}")
    names, registry = _with_objects(given)
    places = {key: names.pop(key) for key in PLACE_KEYS if key in names}
    if isinstance(blocks, str):
        raise UsageError(f"blocks must be a list of names, got '{blocks}'")
    chosen = Chosen(_study(study), preset, blocks)
    asked = build_sweep(chosen, names, places, retry_failed=retry == "failed", registry=registry)
    asked = dataclasses.replace(asked, places=_here(asked.places))
    view = make_view(sum(len(spec.seeds) for spec in asked.specs), sys.stderr, quiet, brief=True)
    view.say(sweep_text(asked))
    try:
        with borrowed_process():
            cells = sweep_cells(asked, registry, view)
    finally:
        view.close()
    records = [result.record for _, result in cells if result.record is not None]
    return Results(records, failed_cells(cells), asked.out, registry=registry)


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that were given, with paths as texts, and arrays and ranges as lists."""
    return {name: _value(value) for name, value in settings.items() if value is not None}


def _value(value: Any) -> Any:
    if isinstance(value, PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(name): _value(item) for name, item in value.items()}
    if isinstance(value, list | tuple | range):
        return [_value(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value  # of NumPy


def _with_objects(settings: Mapping[str, Any]) -> tuple[dict[str, Any], Registry]:
    """Return the settings with objects replaced by their names, and a registry that has them by these."""
    names, objects = dict(settings), dict[tuple["Kind", str], Loaded[Any]]()

    def name_of(setting: str, given: Any) -> str:
        if isinstance(given, str):
            return given
        loaded = unregistered(setting, given)
        known = objects.setdefault((TAKEN[setting][0], loaded.name), loaded)
        if known.info is not loaded.info and known.code != loaded.code:
            raise UsageError(f"two different objects are called {loaded.name}; rename one")
        return loaded.name

    for setting in TAKEN.keys() & names.keys():
        given = names[setting]
        names[setting] = (
            [name_of(setting, one) for one in given] if isinstance(given, list) else name_of(setting, given)
        )
    return names, Registry.installed().with_unregistered(objects)


def _here(places: Places) -> Places:
    """Return places with workers in this process, unless they are said to be elsewhere."""
    if places.engine is None and places.workers in (None, 1):
        return dataclasses.replace(places, engine=IN_PROCESS, workers=None)
    return places


def _study(study: Folder | Mapping[str, Any] | None) -> Path | Study | None:
    if isinstance(study, Mapping):
        return study_of(dict(study), "the study")
    return Path(study).expanduser() if study is not None else None
