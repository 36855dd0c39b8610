"""Settings as users write them, in flags, configuration and study files, and the spec that they describe."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mlecs_bench.doors.profile_settings import flat
from mlecs_bench.errors import UsageError
from mlecs_bench.plan.spec import LIMITS, PROFILE_FIELDS, Rho, RunSpec
from mlecs_bench.seeds import PROTOCOL_SEEDS

SPEC_KEYS = tuple(field.name for field in dataclasses.fields(RunSpec))
DEVICE_KEYS = ("device_slm", "device_rank", "device_encoder_width")
MAPPING_KEYS = ("options", "data_options", "set", *DEVICE_KEYS)
ALIASES = {"n_clients": "n_devices"}
"""Other names of settings."""
INSTEAD_OF = {"local_epochs": "steps", "steps": "local_epochs"}
"""Settings of a profile of which one takes the place of the other."""


def read_yaml(text: str) -> Any:
    """Return what a YAML text holds; raises ValueError for a text that is none, or a name that stands there twice."""
    import yaml

    try:
        _check_nodes(yaml.compose(text, yaml.SafeLoader), (), {})
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{error.problem}{line}") from error
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


MOST_VALUES = 100_000
"""How many values a file may stand for, those that anchors repeat counted every time."""


def _check_nodes(node: Any, around: tuple[Any, ...], sizes: dict[int, int]) -> int:
    """Return how many values a node stands for; raises ValueError for what YAML takes without a word and means nothing.

    That is a mapping with one name twice, of which the first would be dropped; a name that is no text; a list or
    mapping that holds itself (by an anchor), or that anchors make huge. `around` are those that hold `node`, `sizes`
    what is known of others.
    """
    import yaml

    if any(node is outer for outer in around):
        raise ValueError(f"what begins in line {node.start_mark.line + 1} holds itself")
    if id(node) in sizes:
        return sizes[id(node)]
    around = (*around, node)
    parts: list[Any] = []
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for name, value in node.value:
            if not isinstance(name, yaml.ScalarNode):
                raise ValueError(f"a name must be one word, got a list or a mapping in line {name.start_mark.line + 1}")
            if name.value in seen:
                raise ValueError(f"'{name.value}' stands there twice, again in line {name.start_mark.line + 1}")
            seen.add(name.value)
            parts.append(value)
    elif isinstance(node, yaml.SequenceNode):
        parts += node.value
    size = 1 + sum(_check_nodes(part, around, sizes) for part in parts)
    if size > MOST_VALUES:
        raise ValueError(f"what begins in line {node.start_mark.line + 1} stands for more than {MOST_VALUES:,} values")
    sizes[id(node)] = size
    return size


def usual_names(settings: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return settings with underscores for dashes, and n_devices for its other name, n_clients.

    Raises UsageError for one that is given under two names; `what` is what it calls the file.
    """
    found: dict[str, Any] = {}
    for name, value in settings.items():
        usual = ALIASES.get(str(name).replace("-", "_"), str(name).replace("-", "_"))
        if usual in found:
            raise UsageError(f"{what}: the setting '{usual}' stands there twice, again as '{name}'; give it once")
        found[usual] = value
    return found


def merged(config: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a file overlaid with the flags that were given (None or empty: not given).

    Options are overlaid name by name. A flag for the seeds replaces both ways of naming them, and one for a number of
    the profile whatever the file says of that number: in `set`, by its own name, or of what takes its place.
    """
    given = {key: value for key, value in flags.items() if value is not None and value != {}}
    settings = not_replaced(config, given)
    settings.update(given)
    for key in MAPPING_KEYS:
        settings[key] = {**named(settings_of(config, key), key), **named(given.get(key, {}), key)}
    replaced_names = _replaced_fields(given)
    settings["set"] = {
        name: value
        for name, value in settings["set"].items()
        if name not in replaced_names or name in named(given.get("set", {}), "set")
    }
    return settings


def settings_of(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return one of the mappings among settings, empty where there is none."""
    found: Mapping[str, Any] = config.get(key) or {}
    return found


def named(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return a mapping among settings by name; those of a profile may be nested, and are named with dots."""
    return flat(values) if key == "set" else dict(values)


def not_replaced(settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that stay beside those that were `given`; of options and the like single names go."""
    gone = {key for key, field in PROFILE_FIELDS.items() if field in _replaced_fields(given)}
    if "seeds" in given or "n_seeds" in given:
        gone |= {"seeds", "n_seeds"}
    return {key: value for key, value in settings.items() if key not in gone}


def _replaced_fields(given: Mapping[str, Any]) -> set[str]:
    """Return the profile's fields that settings name, and those whose place they take."""
    fields = {PROFILE_FIELDS[key] for key in given if key in PROFILE_FIELDS} | set(named(given.get("set", {}), "set"))
    return fields | {INSTEAD_OF[field] for field in fields if field in INSTEAD_OF}


def spec_of(settings: Mapping[str, Any]) -> RunSpec:
    """Return the spec that `settings` describe, whose seeds are chosen; other settings are passed over."""
    values = {key: value for key, value in settings.items() if key in SPEC_KEYS}
    if "rho" in values:
        values["rho"] = parse_rho(values["rho"])
    for name in LIMITS:
        if isinstance(values.get(name), str) and values[name].isdecimal():
            values[name] = int(values[name])  # a flag is text; what else it says is for the spec to judge
    for name in ("device_rank", "device_encoder_width"):
        values[name] = {id_: _whole(size, f"{name} of {id_}") for id_, size in values.get(name, {}).items()}
    if "metrics" in values:
        values["metrics"] = parse_names(values["metrics"], "metrics")
    return RunSpec.from_mapping(values)


def parse_names(value: Any, what: str) -> tuple[str, ...]:
    """Return names from a list, or from a text with commas, each once; raises UsageError for anything else."""
    parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) and part for part in parts):
        raise UsageError(f"{what} must be names with commas, such as accuracy,bleu, got {value!r}")
    return tuple(dict.fromkeys(parts))


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


def tracker_names(value: Any) -> tuple[str, ...]:
    """Return names of trackers from a list or a text with commas, each once; "none" stands for none."""
    parts = value.split(",") if isinstance(value, str) else value or ()
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise UsageError(f"track must name trackers with commas, such as tensorboard,mlflow, got {value!r}")
    names = tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
    return () if names == ("none",) else names


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
