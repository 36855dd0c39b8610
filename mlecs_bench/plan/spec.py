"""RunSpec: everything a user can ask of a run that can change a number, frozen and checked."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args

from mlecs_bench.doors.options import plain
from mlecs_bench.doors.profile import BaseBits, Dtype
from mlecs_bench.doors.profile_settings import flat, parsed_setting
from mlecs_bench.errors import UsageError
from mlecs_bench.plan.conditions import TYPES, Conditions, condition, departing
from mlecs_bench.plan.conditions_text import Written
from mlecs_bench.plan.training import BudgetRule
from mlecs_bench.seeds import PROTOCOL_SEEDS

Evaluate = Literal["last", "all"]
"""Which rounds are scored: the last one, or all."""
Rho = float | Mapping[str, float]
Limit = int | Literal["all"]
AnswerRule = Literal["generate", "rank"]
"""What an answer is: what a model writes, or, where targets are labels, also the label that it finds most likely."""
ALL: Literal["all"] = "all"
"""As many devices as the groups of the data allow."""
USUAL_DEVICES = 3
MOST, MOST_DEVICES = 2**31 - 1, 10_000
"""The largest counts: what torch takes, and more devices than any machine could hold."""
LIMITS = ("private_limit", "public_limit", "test_limit")
"""The settings of this type: the most samples of a kind."""
PROFILE_FIELDS: Mapping[str, str] = MappingProxyType(
    {
        **{name: name for name in ("slm", "llm", "rounds", "steps", "local_epochs", "batch_size", *LIMITS)},
        **{name: name for name in ("dtype", "base_bits", "gradient_checkpointing")},
        "bertscore_model": "bertscore",
        "device": "torch_device",
    }
)
"""Settings of a spec that take the place of a profile's, and what the profile calls them."""


def check_rate(rate: object, what: str) -> None:
    """Raise UsageError unless `rate` is a number in (0, 1]."""
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= 1:
        raise UsageError(f"{what} must be in (0, 1], got {rate}")


def _check_limit(limit: object, what: str) -> None:
    is_count = isinstance(limit, int) and not isinstance(limit, bool) and limit >= 1
    if limit not in (None, "all") and not is_count:
        raise UsageError(f"{what} must be a whole number of at least 1, or all, got {limit}")


def rho_text(rho: Rho) -> str:
    """Return a rate as it is written on the command line."""
    if isinstance(rho, Mapping):
        return ",".join(f"{name}={rho[name]:g}" for name in sorted(rho))
    return f"{rho:g}"


@dataclass(frozen=True)
class RunSpec:
    """One run: an algorithm on a dataset at one rate, over one or more seeds.

    None stands for "as the profile or the dataset says", which `resolve` looks up. `rho` is one rate or a rate per
    modality. `steps` is q, the optimiser steps of one stage; `local_epochs` counts passes over a party's samples
    instead. `set` holds settings of the profile by dotted name, such as `lora.rank`. `private_limit` and `public_limit`
    are the most training samples of a device and of the public part, `test_limit` the most test samples of a party;
    "all" leaves every one. `metrics` are scored beside the dataset's; `answer` "rank" adds the scores of the most
    likely labels to those of what models write. `data_dir` is where the user's files are; it is not part of a record's
    identity, the digest of the data is. Nor are `gradient_checkpointing`, which changes memory and speed alone, and
    `bertscore_model` (a folder, a hub id, "packaged" or "none"), whose weights are. `slm`, `llm` and `proxy` are
    folders or hub ids; `device_slm`, `device_rank` and `device_encoder_width` say in what single devices differ, by
    device id. `modalities`, `partition`, `sample_rho`, `schedule`, `participation`, `dropout` and `faults` are
    conditions of the federation (`mlecs_bench.plan.conditions`): as a user writes them, or what is not as usual in
    them. `robustness` scores every party once more without each modality. `n_devices` "all" stands for as many as there
    are groups under the partition group; it is a number before there is a plan.
    """

    algo: str
    dataset: str
    rho: Rho
    n_devices: int | Literal["all"] = USUAL_DEVICES
    profile: str = "mini"
    seeds: tuple[int, ...] = PROTOCOL_SEEDS
    options: Mapping[str, Any] = field(default_factory=dict)
    data_options: Mapping[str, Any] = field(default_factory=dict)
    rounds: int | None = None
    steps: int | None = None
    split: str | None = None
    budget: BudgetRule = "paper"
    batch_size: int | None = None
    private_limit: Limit | None = None
    public_limit: Limit | None = None
    test_limit: Limit | None = None
    dtype: Dtype | None = None
    base_bits: BaseBits | None = None
    gradient_checkpointing: bool = False
    bertscore_model: str | None = None
    evaluate: Evaluate = "last"
    metrics: tuple[str, ...] = ()
    answer: AnswerRule = "generate"
    min_modalities: int = 1
    slm: str | None = None
    llm: str | None = None
    proxy: str | None = None
    device_slm: Mapping[str, str] = field(default_factory=dict)
    device_rank: Mapping[str, int] = field(default_factory=dict)
    device_encoder_width: Mapping[str, int] = field(default_factory=dict)
    data_dir: str | None = None
    device: str | None = None
    threads: int = 1
    local_epochs: int | None = None
    set: Mapping[str, Any] = field(default_factory=dict)
    modalities: Written = field(default_factory=dict)
    partition: Written = field(default_factory=dict)
    sample_rho: Written = field(default_factory=dict)
    participation: Written = field(default_factory=dict)
    dropout: Written = field(default_factory=dict)
    faults: Written = field(default_factory=dict)
    schedule: Written = field(default_factory=dict)
    robustness: bool = False

    def __post_init__(self) -> None:
        rates = self.rho if isinstance(self.rho, Mapping) else {"rho": self.rho}
        if not rates:
            raise UsageError("rho names no modality; give one rate, or name=rate for each modality")
        for name, rate in rates.items():
            check_rate(rate, "rho" if name == "rho" else f"rho of {name}")
        self._check_counts()
        for name in LIMITS:
            _check_limit(getattr(self, name), name.replace("_", "-"))
        for name, values in (("device-rank", self.device_rank), ("device-encoder-width", self.device_encoder_width)):
            for id_, size in values.items():
                if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                    raise UsageError(f"{name} of {id_} must be a whole number of at least 1, got {size}")
        self._check_choices()
        self._settle()

    def _check_counts(self) -> None:
        names = ("n_devices", "rounds", "steps", "local_epochs", "batch_size", "threads")
        counts = {name: getattr(self, name) for name in names if (name, getattr(self, name)) != ("n_devices", ALL)}
        for name, count in counts.items():
            if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
                raise UsageError(f"{name.replace('_', '-')} must be a whole number of at least 1, got {count}")
            most = MOST_DEVICES if name == "n_devices" else MOST
            if count is not None and count > most:
                raise UsageError(f"{name.replace('_', '-')} must be at most {most:,}, got {str(count)[:40]}")

    def _settle(self) -> None:
        """Give settings and conditions one spelling and one type, so that equal specs are equal."""
        asked = {name: plain(parsed_setting(name, value)) for name, value in flat(self.set).items()}
        object.__setattr__(self, "set", asked)
        for name in TYPES:
            object.__setattr__(self, name, departing(condition(name, getattr(self, name))))
        law = self.conditions.partition.law
        if self.n_devices == ALL and law != "group":
            raise UsageError(f"n-devices all needs --partition group, which says how many there are; got {law}")

    @property
    def known_devices(self) -> int:
        """N; raises UsageError where the data have yet to say it."""
        if self.n_devices == ALL:
            raise UsageError(
                "n-devices all is a number once the data are there, and this command prepares none; say it"
            )
        return self.n_devices

    @property
    def conditions(self) -> Conditions:
        """The conditions of the federation."""
        return Conditions(**{name: condition(name, getattr(self, name)) for name in TYPES})

    def _check_choices(self) -> None:
        if self.budget not in ("paper", "equal"):
            raise UsageError(f"budget must be paper or equal, got {self.budget}")
        if self.dtype not in (None, *get_args(Dtype)):
            raise UsageError(f"dtype must be {' or '.join(get_args(Dtype))}, got {self.dtype}")
        if self.base_bits not in (None, 4, 8) or isinstance(self.base_bits, bool):
            raise UsageError(f"base-bits must be 4 or 8, got {self.base_bits}")
        if not isinstance(self.gradient_checkpointing, bool):
            raise UsageError(f"gradient-checkpointing must be true or false, got {self.gradient_checkpointing}")
        if not isinstance(self.robustness, bool):
            raise UsageError(f"robustness must be true or false, got {self.robustness}")
        if self.evaluate not in ("last", "all"):
            raise UsageError(f"evaluate must be last or all, got {self.evaluate}")
        if self.answer not in ("generate", "rank"):
            raise UsageError(f"answer must be generate or rank, got {self.answer}")
        if self.min_modalities not in (0, 1):
            raise UsageError(f"min-modalities must be 0 or 1, got {self.min_modalities}")
        whole = all(isinstance(seed, int) and not isinstance(seed, bool) for seed in self.seeds)
        if not whole or not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise UsageError(f"seeds must be different whole numbers, got {list(self.seeds)}")

    def to_json(self) -> str:
        """Return the spec as JSON with sorted keys; `from_json` reads it back to an equal spec."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> RunSpec:
        """Read what `to_json` wrote; raises UsageError for text that is not JSON or a key that is no field."""
        try:
            values = json.loads(text)
        except ValueError as error:
            raise UsageError(f"a spec must be a JSON object, got {text[:40]!r} ({error})") from error
        return cls.from_mapping(values)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> RunSpec:
        """Build a spec from plain values; raises UsageError naming an unknown or a missing key."""
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise UsageError(f"unknown setting '{unknown[0]}'; known: {', '.join(sorted(known))}")
        missing = [name for name in ("algo", "dataset", "rho") if name not in values]
        if missing:
            raise UsageError(f"setting '{missing[0]}' is missing; give --{missing[0]}")
        lists = {"seeds": tuple(values.get("seeds", PROTOCOL_SEEDS)), "metrics": tuple(values.get("metrics", ()))}
        return cls(**{**values, **lists})
