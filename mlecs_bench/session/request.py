"""What a user asked for, in flags, a file or Python: settings become one `Request`, lists of them one `Sweep`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlecs_bench.data.cache import default_cache_dir
from mlecs_bench.doors.places import Place
from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import UsageError, did_you_mean
from mlecs_bench.files import parsed_json
from mlecs_bench.plan.settings import MAPPING_KEYS, SPEC_KEYS, read_yaml, tracker_names, usual_names
from mlecs_bench.plan.spec import RunSpec
from mlecs_bench.plan.study import Study, default_folder, preset, study_of

DEFAULT_OUT = "results/scratch"
PLACE_KEYS = ("out", "workers", "fleet", "cache_dir", "track", "save_predictions", "save_models", "round_timeout")
OTHER_KEYS = ("n_seeds", *PLACE_KEYS)


@dataclass(frozen=True)
class Request:
    """What `run` was asked to do: the spec, which decides the numbers, and where and how to execute it."""

    spec: RunSpec
    places: Places


@dataclass(frozen=True)
class Places:
    """Where and how cells are carried out: nothing here changes a number.

    `workers` None leaves the number of processes to the protocol, `engine` None the kind of workers; `argument` is
    what stands behind that name. `fleet` is where the devices of a cell live, `track` names the trackers that are told.
    `save_predictions` None keeps answers where there are not many. `round_timeout` are the seconds that devices
    elsewhere have for a round, None for as long as it takes.
    """

    out: Path
    cache_dir: Path
    workers: int | None
    engine: str | None
    fleet: str
    track: tuple[str, ...] = ()
    save_predictions: bool | None = None
    save_models: bool = False
    argument: str = ""
    round_timeout: float | None = None


@dataclass(frozen=True)
class Sweep:
    """What a sweep was asked to do; `whole` says that the study is run as it is, without a setting that changes it."""

    study: Study
    specs: Sequence[RunSpec]
    whole: bool
    places: Places
    retry_failed: bool

    @property
    def out(self) -> Path:
        """The folder of the records."""
        return self.places.out


@dataclass(frozen=True)
class Chosen:
    """Which study a sweep is of: one (or its file), or a preset by name; none: of lists of settings alone.

    `blocks` are those of its blocks that are run, none: all of them.
    """

    study: Path | Study | None = None
    preset: str | None = None
    blocks: Sequence[str] = ()


@dataclass(frozen=True)
class SettingsFile:
    """What a file asks for: runs, which for a file of settings are one block, and where and how to execute them."""

    study: Study = field(default_factory=lambda: Study("", "", {"": {}}))
    places: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None


def read_file(path: Path) -> SettingsFile:
    """Return what a YAML or JSON file asks for; raises UsageError for an unreadable file or an unknown key.

    A file with blocks is a study. In any other keys are the names of the flags, with dashes or underscores; `options`,
    `data_options` and `set` are mappings, and lists are swept over. What `--dry-run` or `--json` has printed is read,
    too.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values = parsed_json(text) if path.suffix == ".json" else read_yaml(text)
    except OSError as error:
        raise UsageError(f"cannot read the file {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path} is neither YAML nor JSON: {' '.join(str(error).split())}") from error
    if isinstance(values, dict) and "blocks" in values:
        return _of_study(study_of(values, str(path)), path)
    if isinstance(values, dict) and {"spec", "plan"} <= values.keys():  # what --dry-run and --json print
        values = {key: value for key, value in values["spec"].items() if value is not None}
    if not isinstance(values, dict):
        raise UsageError(f"{path} must hold settings as 'name: value', got {type(values).__name__}")
    settings = usual_names(values, str(path))
    check_settings(settings, str(path))
    places = {key: settings.pop(key) for key in PLACE_KEYS if key in settings}
    return SettingsFile(Study("", "", {"": settings}), places, path)


def check_settings(settings: Mapping[str, Any], where: str) -> None:
    """Raise UsageError for a setting that there is not, or one that has to be a mapping and is none."""
    known = SPEC_KEYS + OTHER_KEYS
    for key in settings:
        if key not in known:
            raise UsageError(f"{where} has an unknown setting '{key}'. {did_you_mean(key, known)}")
    for key in MAPPING_KEYS:
        if not isinstance(settings.get(key, {}), dict):
            raise UsageError(f"'{key}' in {where} must be a mapping of names to values, got {settings[key]!r}")


def build_request(
    settings: Mapping[str, Any], file: SettingsFile = SettingsFile(), registry: Registry | None = None
) -> Request:
    """Return the one run that settings and a file describe; the settings win.

    `registry` has the plugins that settings name (None: those installed). Raises UsageError naming the first thing that
    is wrong.
    """
    own = {key: value for key, value in settings.items() if key not in PLACE_KEYS}
    specs = file.study.overlaid(own).specs(registry)
    if len(specs) != 1:
        what, cure = (file.path, f"mlecs-bench sweep --study {file.path}") if file.path else ("a list", "a sweep")
        raise UsageError(f"{what} stands for {len(specs)} runs, and run takes one; for all of them: {cure}")
    return Request(specs[0], places_of(with_flags_first(file.places, settings)))


def build_sweep(
    chosen: Chosen,
    settings: Mapping[str, Any],
    places: Mapping[str, Any],
    *,
    retry_failed: bool,
    registry: Registry | None = None,
) -> Sweep:
    """Return the sweep of what was chosen, or of `settings` alone, which may be lists.

    Beside a study or a preset, settings replace its own in all blocks, and places those of a file. `registry` has the
    plugins that settings name (None: those installed). Raises UsageError.
    """
    study, preset_name, blocks = chosen.study, chosen.preset, chosen.blocks
    if preset_name and study:
        raise UsageError("--preset and --study exclude each other; give one of them")
    if not preset_name and not study and not {"algo", "dataset", "rho"} <= settings.keys():
        raise UsageError("name what to run: --preset NAME, --study FILE, or --algo, --dataset and --rho")
    if blocks and not (preset_name or study):
        raise UsageError("blocks are those of a study; give --study FILE or --preset NAME with them")
    file = _of_study(preset(preset_name, Registry.installed())) if preset_name else _file(study)
    specs = file.study.overlaid(settings).specs(registry, blocks)
    if "data_dir" in settings and len({spec.dataset for spec in specs}) > 1:
        raise UsageError("--data-dir is one folder and the sweep has several datasets; name one with --dataset")
    default = Path("results") / preset_name if preset_name else default_folder(file.path) if file.path else None
    return Sweep(
        study=file.study,
        specs=specs,
        whole=bool(preset_name or study) and not settings.keys() - {"data_dir", "device", "threads"},
        places=places_of(with_flags_first(file.places, places), default or DEFAULT_OUT),
        retry_failed=retry_failed,
    )


def _file(study: Path | Study | None) -> SettingsFile:
    if study is None:
        return SettingsFile()
    return read_file(study) if isinstance(study, Path) else _of_study(study)


def _of_study(study: Study, path: Path | None = None) -> SettingsFile:
    """Return a study with the places that it names: its trackers."""
    return SettingsFile(study, {"track": study.track} if study.track else {}, path)


def with_flags_first(places: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the places that a file names, and in their stead those that flags name."""
    return {**places, **{key: flags[key] for key in PLACE_KEYS if flags.get(key) is not None}}


def places_of(settings: Mapping[str, Any], default_out: Path | str = DEFAULT_OUT) -> Places:
    """Return where and how `settings` want cells to be carried out; raises UsageError."""
    workers, engine = _workers(settings.get("workers"))
    return Places(
        out=_folder(settings, "out") or Path(default_out).expanduser(),
        cache_dir=_folder(settings, "cache_dir") or default_cache_dir(),
        workers=workers,
        engine=engine.name if engine else None,
        argument=engine.argument if engine else "",
        fleet=str(settings.get("fleet") or "in-process"),
        track=tracker_names(settings.get("track")),
        save_predictions=_yes_or_no(settings, "save_predictions"),
        save_models=bool(_yes_or_no(settings, "save_models")),
        round_timeout=_seconds(settings, "round_timeout"),
    )


def _folder(settings: Mapping[str, Any], name: str) -> Path | None:
    value = settings.get(name)
    if not value:
        return None
    if not isinstance(value, str | Path) or "\0" in str(value):
        raise UsageError(f"{name.replace('_', '-')} must be a folder, got {str(value)[:40]!r}")
    return Path(value).expanduser()


def _yes_or_no(settings: Mapping[str, Any], name: str) -> bool | None:
    value = settings.get(name)
    if value is not None and not isinstance(value, bool):
        raise UsageError(f"{name.replace('_', '-')} must be true or false, got {value}")
    return value


def _seconds(settings: Mapping[str, Any], name: str) -> float | None:
    value = settings.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise UsageError(f"{name.replace('_', '-')} must be a positive number of seconds, got {value}")
    return float(value)


def _workers(value: Any) -> tuple[int | None, Place | None]:
    """Return number and kind of workers from ``4``, ``NAME``, ``NAME:4`` or ``NAME:TEXT``; None for what lacks."""
    if value is None:
        return None, None
    text = str(value)
    if not isinstance(value, bool) and text.isdecimal() and int(text) > 0:
        return int(text), None
    name, colon, argument = text.partition(":")
    if isinstance(value, bool) or not name[:1].isalpha() or (colon and not argument):
        raise UsageError(f"workers must be a whole number of at least 1, NAME or NAME:ARGUMENT, got {value}")
    engine = Place(name, argument)
    return engine.number, engine
