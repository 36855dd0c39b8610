"""Checks of a profile plugin: its numbers make sense, its models are named, and a plan can be made with it."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

from mlecs_bench.doors.hookspecs import AlgorithmInfo, Needs
from mlecs_bench.doors.options import plain, rebuilt
from mlecs_bench.doors.profile import Profile
from mlecs_bench.doors.registry import Loaded
from mlecs_bench.plan.resolve import planned
from mlecs_bench.plan.spec import RunSpec
from mlecs_bench.testing import toy
from mlecs_bench.testing.card_checks import check_texts
from mlecs_bench.testing.verdict import fail

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
WHOLE = (
    "soft_tokens",
    "encoder_width",
    "hidden_width",
    "fused_width",
    "rounds",
    "steps",
    "batch_size",
    "generation_batch",
)
LIMITS = ("bertscore_samples", "private_limit", "public_limit", "test_limit")
DEVICE = re.compile(r"cpu|cuda(:\d+)?")


@dataclass(frozen=True)
class Given:
    """The profile under test."""

    name: str
    profile: Profile


def card(given: Given) -> None:
    """The profile has the name of its entry point and a summary in one line."""
    check_texts({"summary": given.profile.summary})
    if given.profile.name != given.name:
        happened = f"'{given.name}' is a profile called '{given.profile.name}'"
        fail("a profile has the name of its entry point", happened, "let them agree: records hold it")


def numbers(given: Given) -> None:
    """Every number is in its range: sizes and counts above 0, rates finite and above 0, dropouts below 1."""
    p = given.profile
    for name in WHOLE:
        value = getattr(p, name)
        _expect(
            isinstance(value, int) and not isinstance(value, bool) and value > 0, name, value, "a whole number above 0"
        )
    for name in LIMITS:
        limit = getattr(p, name)
        _expect(limit is None or limit > 0, name, limit, "None or above 0")
    _expect(isinstance(p.lora.rank, int) and p.lora.rank > 0, "lora.rank", p.lora.rank, "a whole number above 0")
    above = {"lora.alpha": p.lora.alpha, "clip_norm": p.clip_norm}
    above |= {f"learning_rates.{name}": rate for name, rate in plain(p.learning_rates).items()}
    for name, value in above.items():
        _expect(math.isfinite(value) and value > 0, name, value, "a finite number above 0")
    for name, value in {"lora.dropout": p.lora.dropout, "connector_dropout": p.connector_dropout}.items():
        _expect(0 <= value < 1, name, value, "from 0 to below 1")
    _expect(math.isfinite(p.weight_decay) and p.weight_decay >= 0, "weight_decay", p.weight_decay, "at least 0")


def choices(given: Given) -> None:
    """The device is one that exists: cpu, cuda or cuda:N; a `Profile` takes no other dtype or bits than there are."""
    device = given.profile.torch_device
    _expect(DEVICE.fullmatch(device) is not None, "torch_device", device, "cpu, cuda or cuda:N")


def _expect(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        fail(f"'{name}' is {wanted}", f"it is {value!r}", "correct the profile")


def models(given: Given) -> None:
    """SLM and LLM are folders with a config.json or ids of the Hugging Face hub; encoders are a file."""
    p = given.profile
    for side, source in (("slm", p.slm), ("llm", p.llm)):
        folder = Path(source)
        if folder.is_absolute() and not (folder / "config.json").is_file():
            fail(f"'{side}' is a model", f"{source} has no config.json", "ship the folder with the distribution")
        if not folder.is_absolute() and not HUB_ID.fullmatch(source):
            fail(f"'{side}' is a model", f"it is {source!r}", "write an absolute folder, or OWNER/NAME of the hub")
    if p.encoders is not None and not p.encoders.is_file():
        fail("'encoders' is a file of weights", f"{p.encoders} is none", "write None for encoders that start at random")


def to_json(given: Given) -> None:
    """Written as JSON and read again it is the same profile, as a plan travels."""
    again = rebuilt(Profile, json.loads(json.dumps(plain(given.profile), allow_nan=False)))
    if again != given.profile:
        other = next(name for name, value in vars(given.profile).items() if getattr(again, name) != value)
        happened = f"'{other}' was {getattr(given.profile, other)!r} and is {getattr(again, other)!r}"
        fail("a profile survives JSON", happened, "use the types that Profile declares")


def plans(given: Given) -> None:
    """A plan can be made with it, for an algorithm that averages adapters, and its budget is that of the profile."""
    needs = Needs(same=("lora",), public_stage=True)
    info = AlgorithmInfo("Any", "any algorithm", build=lambda _: None, needs=lambda _: needs)
    spec = RunSpec("any", toy.DATASET, rho=0.5, profile=given.name, device="cpu")
    loaded = Loaded(given.name, given.profile, "unknown", "0")
    plan = planned(spec, Loaded("any", info, "unknown", "0"), toy.dataset(), loaded)
    if (plan.rounds, plan.training.budget.private) != (given.profile.rounds, given.profile.steps):
        happened = f"{plan.rounds} rounds of {plan.training.budget.private} steps were planned"
        fail("a plan has the profile's rounds and steps", happened, "look at rounds and steps")
    plan.to_json()


PROFILE_CHECKS = (card, numbers, choices, models, to_json, plans)
