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

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import PluginError, UsageError, did_you_mean
from mlecs_bench.files import write_text
from mlecs_bench.plan.grid import LOCAL_KEYS, combinations
from mlecs_bench.plan.settings import (
    MAPPING_KEYS,
    SPEC_KEYS,
    chosen_seeds,
    merged,
    named,
    read_yaml,
    spec_of,
    tracker_names,
    usual_names,
)
from mlecs_bench.plan.spec import RunSpec

FILE_KEYS = ("title", "about", "candidate", "report", "layout", "track", "settings", "blocks")
BLOCK_KEYS = (*SPEC_KEYS, "n_seeds")
STUDY_FILE = "study.yaml"
PATH_KEYS = ("slm", "llm", "proxy", "device_slm", "profile", "bertscore_model", "data_options")
"""Settings that may name files or folders beside `data_dir`."""
VARIABLE = re.compile(r"\$([A-Za-z_]\w*|\{[A-Za-z_]\w*\})(/.*)?")
"""A value that is a path by a variable of the machine."""
NAMED = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})")
"""A variable in a path."""


@dataclass(frozen=True)
class Study:
    """Runs that belong together: what they are called, and blocks of settings by name.

    `report` names the study plugins whose sections a report on the runs shows, `layout` one of their layouts, "" for
    none, `track` the trackers that are told, `candidate` the algorithm that a report holds against the others ("": see
    `first_algorithm`).
    """

    title: str
    about: str
    blocks: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    report: tuple[str, ...] = ()
    track: tuple[str, ...] = ()
    layout: str = ""
    candidate: str = ""

    @property
    def first_algorithm(self) -> str:
        """The first algorithm that is named, "" where blocks name none."""
        named_ = (name for block in self.blocks.values() for name in _listed(_setting(self, block, "algo")))
        return next((str(name) for name in named_ if name), "")

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that every run of the study has, whatever its block; raises UsageError for none."""
        return tuple(sorted(set.intersection(*self._seeds_of_blocks())))

    @property
    def further_seeds(self) -> tuple[int, ...]:
        """The seeds that runs of some blocks alone have; raises UsageError for none."""
        asked = {seed for of_block in self._seeds_of_blocks() for seed in of_block}
        return tuple(sorted(asked.difference(self.seeds)))

    def _seeds_of_blocks(self) -> list[set[int]]:
        return [
            set(chosen_seeds(_setting(self, block, "seeds"), _setting(self, block, "n_seeds")))
            for block in self.blocks.values()
        ]

    def overlaid(self, flags: Mapping[str, Any]) -> Study:
        """Return the study with settings replaced, in all blocks, by the flags that were given."""
        blocks = {name: _beside(block, flags) for name, block in self.blocks.items()}
        return replace(self, blocks=blocks, settings=merged(self.settings, flags))

    def specs(self, registry: Registry | None = None, only: Sequence[str] = ()) -> list[RunSpec]:
        """Return one spec per combination of the lists, block by block, each once; raises UsageError.

        `registry` (None: the installed plugins) says of options with lists whether a list is one value. `only` names
        blocks, in the order in which they are wanted; none: all of them.
        """
        for name in only:
            if name not in self.blocks:
                raise UsageError(f"the study has no block '{name}'. {did_you_mean(name, self.blocks)}")
        find_registry = cache(lambda: registry or Registry.installed())
        found: dict[str, RunSpec] = {}
        for name in only or self.blocks:
            block = self.blocks[name]
            where = f"block '{name}': " if name else ""  # flags alone have one block, without a name
            try:
                for spec in self._specs_of(block, find_registry):
                    found.setdefault(spec.to_json(), spec)
            except UsageError as error:
                raise UsageError(f"{where}{error}") from error
        return list(found.values())

    def _specs_of(self, block: Mapping[str, Any], find_registry: Callable[[], Registry]) -> Iterator[RunSpec]:
        settings = merged(self.settings, block)
        settings |= {name: _of_this_machine(settings[name]) for name in PATH_KEYS if name in settings}
        if settings.get("data_dir"):
            settings["data_dir"] = expanded(str(settings["data_dir"]))
        seeds = chosen_seeds(settings.pop("seeds", None), settings.pop("n_seeds", None))
        for own in combinations(settings, find_registry):
            yield spec_of({**own, "seeds": seeds})

    def to_yaml(self) -> str:
        """Return the study as `read_study` reads it, without the settings of a machine."""
        import yaml

        def kept(values: Mapping[str, Any]) -> dict[str, Any]:
            return {k: v for k, v in values.items() if v != {} and (k not in LOCAL_KEYS or "$" in str(v))}

        blocks = {name or "runs": kept(block) for name, block in self.blocks.items()}  # a file of settings has no name
        report = self.report[0] if len(self.report) == 1 else self.report
        values = {
            "title": self.title,
            "about": self.about,
            "candidate": self.candidate,
            "report": report,
            "layout": self.layout,
            "track": self.track,
            "settings": kept(self.settings),
            "blocks": blocks,
        }
        plain = json.loads(json.dumps({name: value for name, value in values.items() if value}))
        return str(yaml.safe_dump(plain, sort_keys=False, width=110, allow_unicode=True))


def _beside(block: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the flags that were given leave of a block; of options and the like they replace single names."""
    given = {key: value for key, value in flags.items() if value is not None and value != {}}
    left = merged(block, given)
    found = {key: value for key, value in left.items() if key not in given and key not in MAPPING_KEYS}
    for key in MAPPING_KEYS:
        own = {name: value for name, value in left[key].items() if name not in named(given.get(key, {}), key)}
        if own or key in block:
            found[key] = own
    return found


def _setting(study: Study, block: Mapping[str, Any], name: str) -> Any:
    return merged(study.settings, block).get(name)


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
    return study_of(values, str(path))


def study_of(values: Any, what: str) -> Study:
    """Return the study that the values of a file describe; `what` is what errors call it. Raises UsageError."""
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
    settings = _block(values.get("settings") or {}, "settings", what)
    found = {str(name): _block(block, name, what) for name, block in blocks.items()}
    title, about, layout = (str(values.get(key) or "") for key in ("title", "about", "layout"))
    candidate = values.get("candidate") or ""
    if not isinstance(candidate, str):
        raise UsageError(f"'candidate' in {what} must name one algorithm, got {json.dumps(candidate)[:40]}")
    return Study(title, about, found, settings, tuple(report), tracker_names(values.get("track")), layout, candidate)


def _block(block: Any, name: str, what: str) -> dict[str, Any]:
    """Return the settings of one block under their usual names; raises UsageError for any other."""
    if not isinstance(block, dict):
        raise UsageError(f"'{name}' in {what} must hold settings as 'name: value', got {block!r}")
    settings = usual_names(block, what)
    _check_keys(settings, BLOCK_KEYS, f"'{name}' in {what}")
    for key in MAPPING_KEYS:
        if not isinstance(settings.get(key, {}), dict):
            raise UsageError(f"'{key}' of '{name}' in {what} must be a mapping of names to values")
    return settings


def _check_keys(values: Mapping[str, Any], known: tuple[str, ...], what: str) -> None:
    for key in values:
        if key not in known:
            raise UsageError(f"{what} has an unknown key '{key}'. {did_you_mean(str(key), known)}")


def expanded(folder: str) -> str:
    """Return a folder with $VARIABLES replaced; raises UsageError for one that is not set."""
    name = _unset(folder)
    if name:
        raise UsageError(f"the study needs your data: set the variable {name} to its folder, or give --data-dir")
    return os.path.expandvars(folder)


def _unset(text: str) -> str:
    """Return the first variable of a text that is not set or empty, "" where all are set."""
    names = [plain or braced for plain, braced in NAMED.findall(text)]
    return next((name for name in names if not os.environ.get(name)), "")


def _of_this_machine(value: Any) -> Any:
    """Return a setting with $VARIABLE or $VARIABLE/path replaced, in lists and mappings too; other $ signs stay."""
    if isinstance(value, Mapping):
        return {name: _of_this_machine(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_of_this_machine(one) for one in value]
    if not isinstance(value, str) or not VARIABLE.fullmatch(value):
        return value
    name = _unset(value)
    if name:
        raise UsageError(f"the study names a file or folder of your machine: set the variable {name} to it")
    return os.path.expandvars(value)


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
    shown = {name: getattr(study, name) for name in ("report", "layout", "track", "candidate")}  # they change no run
    if replace(kept, **shown).to_yaml() != text:
        raise UsageError(f"{path} is another study ('{kept.title}'); write to another folder with --out")
