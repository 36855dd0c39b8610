"""Studies: many runs in one YAML file, as blocks of settings of which some are lists.

```yaml
title: Table 1 with both budgets
settings: {profile: mini}          # for all blocks
blocks:
  table1:
    algo: [standalone, ml-ecs]     # every combination of the lists is a run
    dataset: [vast, ur-fall]
    rho: [0.5, 0.7, 0.8]
    budget: [paper, equal]
```
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import PluginError, UsageError, did_you_mean
from mlecs_bench.files import write_text
from mlecs_bench.plan.settings import (
    MAPPING_KEYS,
    SPEC_KEYS,
    chosen_seeds,
    merged,
    read_yaml,
    spec_of,
    tracker_names,
)
from mlecs_bench.plan.spec import RunSpec

GRID_KEYS = ("rho", "n_devices", "dataset", "algo", "budget", "split")
"""Settings that may be lists, in the order in which their combinations are run: the last one changes fastest."""
FILE_KEYS = ("title", "about", "report", "track", "settings", "blocks")
BLOCK_KEYS = (*SPEC_KEYS, "n_seeds")
LOCAL_KEYS = ("data_dir", "device", "threads")
"""Settings of a machine: a copy of a study that stays with its records has them as $VARIABLES only."""
STUDY_FILE = "study.yaml"


@dataclass(frozen=True)
class Study:
    """Runs that belong together: what they are called, and blocks of settings by name.

    `report` names the study plugins whose sections a report on the runs shows, `track` the trackers that are told.
    """

    title: str
    about: str
    blocks: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    report: tuple[str, ...] = ()
    track: tuple[str, ...] = ()

    def overlaid(self, flags: Mapping[str, Any]) -> Study:
        """Return the study with settings replaced, in all blocks, by the flags that were given."""
        blocks = {name: _not_replaced(block, flags) for name, block in self.blocks.items()}
        return replace(self, blocks=blocks, settings=merged(self.settings, flags))

    def specs(self) -> list[RunSpec]:
        """Return one spec per combination of the lists, block by block, each once; raises UsageError."""
        found: dict[str, RunSpec] = {}
        for name, block in self.blocks.items():
            for spec in self._specs_of(name, block):
                found.setdefault(spec.to_json(), spec)
        return list(found.values())

    def _specs_of(self, name: str, block: Mapping[str, Any]) -> Iterator[RunSpec]:
        where = f"block '{name}': " if name else ""  # flags alone have one block, without a name
        settings = merged(_without_seeds(self.settings, block), block)
        if settings.get("data_dir"):
            settings["data_dir"] = expanded(str(settings["data_dir"]))
        seeds = chosen_seeds(settings.pop("seeds", None), settings.pop("n_seeds", None))
        grid = {key: _listed(settings.pop(key)) for key in GRID_KEYS if key in settings}
        for key, values in grid.items():
            if not values:
                raise UsageError(f"{where}names no {key}; give at least one")
        for combination in itertools.product(*grid.values()):
            own = dict(zip(grid, combination, strict=True))
            try:
                yield spec_of({**settings, **own, "seeds": seeds})
            except UsageError as error:
                raise UsageError(f"{where}{error}") from error

    def to_yaml(self) -> str:
        """Return the study as `read_study` reads it, without the settings of a machine."""
        import yaml

        def kept(values: Mapping[str, Any]) -> dict[str, Any]:
            return {k: v for k, v in values.items() if v != {} and (k not in LOCAL_KEYS or "$" in str(v))}

        blocks = {name: kept(block) for name, block in self.blocks.items()}
        report = self.report[0] if len(self.report) == 1 else self.report
        values = {
            "title": self.title,
            "about": self.about,
            "report": report,
            "track": self.track,
            "settings": kept(self.settings),
            "blocks": blocks,
        }
        plain = json.loads(json.dumps({name: value for name, value in values.items() if value}))
        return str(yaml.safe_dump(plain, sort_keys=False, width=110, allow_unicode=True))


def _not_replaced(block: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the flags that were given leave of a block; of options and the like they replace single names."""
    given = {key: value for key, value in flags.items() if value is not None}
    left = _without_seeds(block, flags)
    for key in MAPPING_KEYS:
        if key in left:
            left[key] = {name: value for name, value in left[key].items() if name not in given.get(key, {})}
    return {key: value for key, value in left.items() if key in MAPPING_KEYS or key not in given}


def _without_seeds(settings: Mapping[str, Any], by: Mapping[str, Any]) -> dict[str, Any]:
    """Return `settings` without both ways of naming seeds, where `by` names them in either."""
    names = ("seeds", "n_seeds")
    replaced = any(by.get(name) is not None for name in names)
    return {key: value for key, value in settings.items() if not (replaced and key in names)}


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def presets(registry: Registry) -> dict[str, list[Path]]:
    """Return the study files that installed studies offer, by name; two may claim one. A broken study offers none."""
    found: dict[str, list[Path]] = {}
    for entry in registry.entries("study"):
        try:
            offered = registry.study(entry.name).info.presets
        except PluginError:
            continue
        for name, path in offered.items():
            found.setdefault(name, []).append(path)
    return found


def preset(name: str, registry: Registry) -> Study:
    """Return the study that an installed study plugin offers as `name`; raises UsageError unless exactly one does."""
    found = presets(registry)
    if name not in found:
        raise UsageError(f"no preset '{name}'. {did_you_mean(name, found)}")
    if len(found[name]) > 1:
        files = " and ".join(map(str, found[name]))
        raise UsageError(f"preset '{name}' is offered by {len(found[name])} studies; give --study FILE: {files}")
    return read_study(found[name][0])


def read_study(path: Path) -> Study:
    """Read a study file; raises UsageError for an unreadable file, an unknown key, or a variable that is not set."""
    try:
        text = path.read_text(encoding="utf-8")
        values = read_yaml(text)
    except OSError as error:
        raise UsageError(f"cannot read the study file {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    return _study(values, str(path))


def _study(values: Any, what: str) -> Study:
    blocks = values.get("blocks") if isinstance(values, dict) else None
    if not isinstance(blocks, dict) or not blocks:
        got = "nothing of that name" if blocks is None else f"{type(blocks).__name__} {json.dumps(blocks)[:40]}"
        raise UsageError(
            f"{what} is no study: 'blocks' must map names to settings (algo, dataset, rho, ...), got {got}"
        )
    _check_keys(values, FILE_KEYS, what)
    report = _listed(values.get("report") or [])
    if not all(isinstance(name, str) for name in report):
        raise UsageError(f"'report' in {what} must name studies, got {json.dumps(values['report'])[:40]}")
    settings = values.get("settings") or {}
    for name, block in [("settings", settings), *values["blocks"].items()]:
        if not isinstance(block, dict):
            raise UsageError(f"'{name}' in {what} must hold settings as 'name: value', got {block!r}")
        _check_keys(block, BLOCK_KEYS, f"'{name}' in {what}")
        for key in MAPPING_KEYS:
            if not isinstance(block.get(key, {}), dict):
                raise UsageError(f"'{key}' of '{name}' in {what} must be a mapping of names to values")
    blocks = {str(name): dict(block) for name, block in values["blocks"].items()}
    title, about, track = str(values.get("title") or ""), str(values.get("about") or ""), values.get("track")
    return Study(title, about, blocks, dict(settings), tuple(report), tracker_names(track))


def _check_keys(values: Mapping[str, Any], known: tuple[str, ...], what: str) -> None:
    for key in values:
        if key not in known:
            raise UsageError(f"{what} has an unknown key '{key}'. {did_you_mean(str(key), known)}")


def expanded(folder: str) -> str:
    """Return a folder with $VARIABLES replaced; raises UsageError for one that is not set."""
    path = os.path.expandvars(folder)
    if "$" in path:
        name = path[path.index("$") :].strip("${}").split("/")[0].rstrip("}")
        raise UsageError(f"the study needs your data: set the variable {name} to its folder, or give --data-dir")
    return path


def default_folder(path: Path) -> Path:
    """Return where the records of a study file go: beside a file named study.yaml, else to results/<its name>."""
    return path.parent if path.name == STUDY_FILE else Path("results") / path.stem


def keep_study(study: Study, out: Path) -> None:
    """Write the study beside its records; raises UsageError when the folder holds another one."""
    path, text = out / STUDY_FILE, study.to_yaml()
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
        return
    kept = read_study(path)
    if replace(kept, report=study.report, track=study.track).to_yaml() != text:  # neither changes a run
        raise UsageError(f"{path} is another study ('{kept.title}'); write to another folder with --out")
