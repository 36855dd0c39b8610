"""What `mlecs-bench run` was asked to do: flags and a file become one `Request`; the flags win."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlecs_bench.errors import UsageError, did_you_mean
from mlecs_bench.plan.settings import MAPPING_KEYS, SPEC_KEYS, chosen_seeds, read_yaml, spec_of
from mlecs_bench.plan.spec import RunSpec

DEFAULT_OUT = "results/scratch"
CACHE_VARIABLE = "MLECS_BENCH_CACHE"
OTHER_KEYS = ("n_seeds", "out", "workers", "fleet", "cache_dir", "save_predictions", "save_models")


@dataclass(frozen=True)
class Request:
    """What `run` was asked to do: the spec, which decides the numbers, and where and how to execute it."""

    spec: RunSpec
    places: Places


@dataclass(frozen=True)
class Places:
    """Where and how cells are carried out: nothing here changes a number.

    `workers` None leaves the number of processes to the protocol, `engine` None the kind of workers. `fleet` is where
    the devices of a cell live. `save_predictions` None keeps answers where there are not many.
    """

    out: Path
    cache_dir: Path
    workers: int | None
    engine: str | None
    fleet: str
    save_predictions: bool | None = None
    save_models: bool = False


def default_cache_dir() -> Path:
    """Return the user's cache folder for prepared data: $MLECS_BENCH_CACHE, else $XDG_CACHE_HOME or ~/.cache."""
    own = os.environ.get(CACHE_VARIABLE)
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mlecs-bench"


def read_config(path: Path) -> dict[str, Any]:
    """Return the settings in a YAML or JSON file; raises UsageError for an unreadable file or an unknown key.

    Keys are the names of the flags, with dashes or underscores; `options` and `data_options` are mappings. What
    `--dry-run` or `--json` has printed is read, too.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else read_yaml(text)
    except OSError as error:
        raise UsageError(f"cannot read the config file {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path} is neither YAML nor JSON: {' '.join(str(error).split())}") from error
    if isinstance(values, dict) and {"spec", "plan"} <= values.keys():  # what --dry-run and --json print
        values = {key: value for key, value in values["spec"].items() if value is not None}
    if not isinstance(values, dict):
        raise UsageError(f"{path} must hold settings as 'name: value', got {type(values).__name__}")
    settings = {str(key).replace("-", "_"): value for key, value in values.items()}
    known = SPEC_KEYS + OTHER_KEYS
    for key in settings:
        if key not in known:
            raise UsageError(f"{path} has an unknown setting '{key}'. {did_you_mean(key, known)}")
    for key in MAPPING_KEYS:
        if not isinstance(settings.get(key, {}), dict):
            raise UsageError(f"'{key}' in {path} must be a mapping of names to values, got {settings[key]!r}")
    return settings


def build_request(settings: Mapping[str, Any]) -> Request:
    """Return the request that `settings` describe; raises UsageError naming the first thing that is wrong."""
    seeds = chosen_seeds(settings.get("seeds"), settings.get("n_seeds"))
    return Request(spec_of({**settings, "seeds": seeds}), places_of(settings))


def places_of(settings: Mapping[str, Any], default_out: Path | str = DEFAULT_OUT) -> Places:
    """Return where and how `settings` want cells to be carried out; raises UsageError."""
    engine, workers = _workers(settings.get("workers"))
    cache_dir = settings.get("cache_dir")
    return Places(
        out=Path(settings.get("out") or default_out).expanduser(),
        cache_dir=Path(cache_dir).expanduser() if cache_dir else default_cache_dir(),
        workers=workers,
        engine=engine,
        fleet=str(settings.get("fleet") or "in-process"),
        save_predictions=_yes_or_no(settings, "save_predictions"),
        save_models=bool(_yes_or_no(settings, "save_models")),
    )


def _yes_or_no(settings: Mapping[str, Any], name: str) -> bool | None:
    value = settings.get(name)
    if value is not None and not isinstance(value, bool):
        raise UsageError(f"{name.replace('_', '-')} must be true or false, got {value}")
    return value


def _workers(value: Any) -> tuple[str | None, int | None]:
    """Return kind and number of workers from ``4``, ``NAME`` or ``NAME:4``, None for what is not said."""
    if value is None:
        return None, None
    name, colon, number = ("", ":", str(value)) if str(value).isdigit() else str(value).partition(":")
    whole = number.isdigit() and int(number) > 0
    if isinstance(value, bool) or (colon and not whole) or not (name[:1].isalpha() or (whole and not name)):
        raise UsageError(f"workers must be a whole number of at least 1, or NAME:NUMBER, got {value}")
    return name or None, int(number) if colon else None
