"""Settings of `mlecs-bench run`: flags and a file become one `Request`; the flags win."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlecs_bench.errors import UsageError, did_you_mean
from mlecs_bench.plan.spec import Rho, RunSpec
from mlecs_bench.seeds import PROTOCOL_SEEDS

DEFAULT_OUT = "results/scratch"
CACHE_VARIABLE = "MLECS_BENCH_CACHE"
SPEC_KEYS = tuple(field.name for field in dataclasses.fields(RunSpec))
OTHER_KEYS = ("n_seeds", "out", "workers", "fleet", "cache_dir")
DEVICE_KEYS = ("device_slm", "device_rank", "device_encoder_width")
MAPPING_KEYS = ("options", "data_options", *DEVICE_KEYS)


@dataclass(frozen=True)
class Request:
    """What `run` was asked to do: the spec, which decides the numbers, and where and how to execute it."""

    spec: RunSpec
    places: Places


@dataclass(frozen=True)
class Places:
    """Where and how cells are carried out: nothing here changes a number.

    `workers` None leaves the number of processes to the protocol, `engine` None the kind of workers. `fleet` is where
    the devices of a cell live.
    """

    out: Path
    cache_dir: Path
    workers: int | None
    engine: str | None
    fleet: str


def default_cache_dir() -> Path:
    """Return the user's cache folder for prepared data: $MLECS_BENCH_CACHE, else $XDG_CACHE_HOME or ~/.cache."""
    own = os.environ.get(CACHE_VARIABLE)
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mlecs-bench"


def read_config(path: Path) -> dict[str, Any]:
    """Return the settings in a YAML or JSON file; raises UsageError for an unreadable file or an unknown key.

    Keys are the names of the flags, with dashes or underscores; `options` and `data_options` are mappings.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else read_yaml(text)
    except OSError as error:
        raise UsageError(f"cannot read the config file {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path} is neither YAML nor JSON: {' '.join(str(error).split())}") from error
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


def read_yaml(text: str) -> Any:
    """Return what a YAML text holds; raises ValueError for a text that is none, or a name that stands there twice."""
    import yaml

    try:
        _refuse_repeated_names(yaml.compose(text, yaml.SafeLoader))
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{error.problem}{line}") from error
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _refuse_repeated_names(node: Any) -> None:
    """Raise ValueError for a mapping with one name twice, of which YAML would drop the first without a word."""
    import yaml

    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for name, value in node.value:
            if name.value in seen:
                raise ValueError(f"'{name.value}' stands there twice, again in line {name.start_mark.line + 1}")
            seen.add(name.value)
            _refuse_repeated_names(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_repeated_names(item)


def merged(config: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a file overlaid with the flags that were given (None or empty: not given).

    Options are overlaid name by name. A flag for the seeds replaces both ways of naming them.
    """
    given = {key: value for key, value in flags.items() if value is not None and value != {}}
    settings = dict(config)
    if "seeds" in given or "n_seeds" in given:
        settings = {key: value for key, value in settings.items() if key not in ("seeds", "n_seeds")}
    settings.update(given)
    for key in MAPPING_KEYS:
        settings[key] = {**config.get(key, {}), **given.get(key, {})}
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
    )


def _workers(value: Any) -> tuple[str | None, int | None]:
    """Return kind and number of workers from ``4``, ``NAME`` or ``NAME:4``, None for what is not said."""
    if value is None:
        return None, None
    name, colon, number = ("", ":", str(value)) if str(value).isdigit() else str(value).partition(":")
    whole = number.isdigit() and int(number) > 0
    if isinstance(value, bool) or (colon and not whole) or not (name or whole):
        raise UsageError(f"workers must be a whole number of at least 1, or NAME:NUMBER, got {value}")
    return name or None, int(number) if colon else None


def spec_of(settings: Mapping[str, Any]) -> RunSpec:
    """Return the spec that `settings` describe, whose seeds are chosen; other settings are passed over."""
    values = {key: value for key, value in settings.items() if key in SPEC_KEYS}
    if "rho" in values:
        values["rho"] = parse_rho(values["rho"])
    for name in ("device_rank", "device_encoder_width"):
        values[name] = {id_: _whole(size, f"{name} of {id_}") for id_, size in values.get(name, {}).items()}
    return RunSpec.from_mapping(values)


def parse_rho(value: Any) -> Rho:
    """Return one rate, or a rate per modality from ``name=rate,name=rate`` or a mapping."""
    if isinstance(value, Mapping):
        return {str(name): _rate(rate) for name, rate in value.items()}
    if isinstance(value, str) and "=" in value:
        return {name: _rate(rate) for name, rate in parse_pairs(value.split(","), "rho").items()}
    return _rate(value)


def _rate(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UsageError(f"rho must be a rate such as 0.5, or name=rate,name=rate, got {value!r}") from None


def _whole(value: Any, what: str) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise UsageError(f"{what.replace('_', '-')} must be a whole number, got {value!r}") from None


def parse_pairs(pairs: list[str] | tuple[str, ...], what: str) -> dict[str, str]:
    """Return ``name=value`` texts as a mapping; raises UsageError for anything else and for a name given twice."""
    values: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not name or not equals:
            raise UsageError(f"{what} must be written name=value, got '{pair}'")
        if name in values:
            raise UsageError(f"{what} gives '{name}' twice")
        values[name] = value
    return values


def chosen_seeds(seeds: Any, n_seeds: Any) -> tuple[int, ...]:
    """Return the seeds of a run: a list, a text with commas, or the first `n_seeds` of the protocol's five."""
    if seeds is not None and n_seeds is not None:
        raise UsageError("seeds and n-seeds exclude each other; give one of them")
    if n_seeds is not None:
        if isinstance(n_seeds, bool) or not isinstance(n_seeds, int) or not 1 <= n_seeds <= len(PROTOCOL_SEEDS):
            raise UsageError(f"n-seeds must be from 1 to {len(PROTOCOL_SEEDS)}, got {n_seeds}; name more with --seeds")
        return PROTOCOL_SEEDS[:n_seeds]
    if seeds is None:
        return PROTOCOL_SEEDS
    parts = seeds.split(",") if isinstance(seeds, str) else seeds if isinstance(seeds, list | tuple) else [seeds]
    try:
        return tuple(int(part) for part in parts)
    except (TypeError, ValueError):
        raise UsageError(f"seeds must be whole numbers with commas, such as 27,34, got {seeds!r}") from None
