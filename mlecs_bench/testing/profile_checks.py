"""Checks of a profile plugin: its numbers make sense, its models are named, and a plan can be made with it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from mlecs_bench.doors.hookspecs import AlgorithmInfo, Needs
from mlecs_bench.doors.options import plain, rebuilt
from mlecs_bench.doors.profile import Profile
from mlecs_bench.doors.profile_settings import profile_settings, sources_of, value_of
from mlecs_bench.doors.registry import Loaded
from mlecs_bench.plan.resolve import planned
from mlecs_bench.plan.spec import RunSpec
from mlecs_bench.testing import toy
from mlecs_bench.testing.card_checks import check_texts
from mlecs_bench.testing.verdict import fail

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


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
    """Every setting has its type and is in its range: sizes above 0, rates finite and above 0, known choices."""
    for name, setting in profile_settings().items():
        value = value_of(given.profile, name)
        try:
            as_type = setting.parsed(value)
        except ValueError as error:
            fail(f"'{name}' is {error}", f"it is {value!r}", "correct the profile")
        if as_type != value or isinstance(value, bool) != isinstance(as_type, bool):
            fail(f"'{name}' is a {type(as_type).__name__}", f"it is {value!r}", "correct the profile")


def sources(given: Given) -> None:
    """Every number says where it comes from: a default by itself, any other in `sources`."""
    told = sources_of(given.profile)
    lacking = [name for name, source in told.items() if not source.strip()]
    if lacking:
        advice = f'write sources={{"{lacking[0]}": "the paper\'s section, or ours and why"}}'
        fail("every number has a source", f"'{lacking[0]}' has none", advice)
    groups = {name.partition(".")[0] for name in told}
    unknown = sorted(given.profile.sources.keys() - told.keys() - groups)
    if unknown:
        fail("sources are of numbers that a profile has", f"'{unknown[0]}' is none", "correct its name")


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
    wanted = given.profile.rounds, given.profile.local_epochs or given.profile.steps
    if (plan.rounds, plan.training.budget.private) != wanted:
        happened = f"{plan.rounds} rounds of {plan.training.budget.private} {plan.training.counts} were planned"
        fail("a plan has the profile's rounds and steps", happened, "look at rounds, steps and local_epochs")
    plan.to_json()


PROFILE_CHECKS = (card, numbers, sources, models, to_json, plans)
