"""A plan: complete, frozen, the same after a trip through JSON; and what of it identifies a result."""

from __future__ import annotations

import dataclasses
import itertools
import json
import pickle
from pathlib import Path

import pytest

import toy
from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import PluginError, UsageError
from mlecs_bench.plan.identity import identity
from mlecs_bench.plan.plan import Plan, plan_from_json
from mlecs_bench.plan.resolve import resolve
from mlecs_bench.plan.spec import RunSpec
from mlecs_bench.records.results import identity_key
from mlecs_bench.testing import toy as made

REGISTRY = Registry.installed()
ALGORITHMS, DATASETS, PROFILES = (
    [entry.name for entry in REGISTRY.entries(kind) if entry.distribution == "mlecs-bench"]
    for kind in ("algorithm", "dataset", "profile")
)
FULL = {
    "rho": {"audio": 0.25, "subtitle": 1, "vision": 0.5},
    "n_devices": 5,
    "seeds": (5, 6),
    "options": {"temperature": "0.5", "amt_trains": "lora"},
    "data_options": {"target_words": "4", "limit": "none"},
    "rounds": 3,
    "steps": 7,
    "split": "sequence",
    "budget": "equal",
    "batch_size": 2,
    "private_limit": 11,
    "public_limit": 7,
    "dtype": "bfloat16",
    "base_bits": 8,
    "gradient_checkpointing": True,
    "bertscore_model": "none",
    "evaluate": "all",
    "min_modalities": 0,
    "modalities": {"d3": ["vision"], "d01": "none"},
    "partition": "dirichlet:0.3,public-share=0.5",
    "sample_rho": 0.8,
    "data_dir": "~/mine",
    "threads": 2,
}


def plan_of(algo: str = "ml-ecs", dataset: str = "vast", rho: object = 0.5, **changes: object) -> Plan:
    return resolve(RunSpec(algo, dataset, rho, **({"device": "cpu"} | changes)), REGISTRY)


def full_plan() -> Plan:
    return plan_of(**FULL)


def all_plans() -> list[Plan]:
    """Return a plan of every algorithm, dataset and profile that come with the package."""
    named = itertools.product(ALGORITHMS, DATASETS, PROFILES)
    return [plan_of(algo, dataset, profile=profile) for algo, dataset, profile in named]


def test_every_algorithm_dataset_and_profile_make_a_plan_that_survives_json_and_pickle():
    plans = [*all_plans(), full_plan()]
    assert len(plans) == len(ALGORITHMS) * len(DATASETS) * len(PROFILES) + 1 > 60
    for plan in plans:
        again = plan_from_json(plan.to_json(), REGISTRY)
        assert again == plan
        assert (type(again.options), type(again.profile.learning_rates)) == (
            type(plan.options), type(plan.profile.learning_rates),
        )  # fmt: skip  # a comparison
        assert again.to_json() == plan.to_json()
        assert pickle.loads(pickle.dumps(plan)) == plan  # noqa: S301  # as it travels to a worker of this machine


def test_a_plan_cannot_be_changed():
    plan = plan_of()
    for field in dataclasses.fields(plan):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(plan, field.name, None)


def test_nothing_is_left_to_be_looked_up():
    """Of all fields only those are None for which None is an answer."""
    for plan in all_plans():
        told = {field.name: getattr(plan, field.name) for field in dataclasses.fields(plan)}
        assert {name for name, value in told.items() if value is None} <= {"data_dir", "proxy"}
        assert (plan.proxy is None) == (not plan.needs.proxy)
        profile = REGISTRY.profile(plan.profile.name).info
        assert (plan.rounds, plan.training.batch_size, plan.torch_device) == (profile.rounds, profile.batch_size, "cpu")
        budget, steps = plan.training.budget, profile.steps
        assert (budget.private, budget.public) == (
            steps * plan.needs.private_stages, steps if plan.needs.public_stage else 0,
        )  # fmt: skip  # a pair
        info = REGISTRY.dataset(plan.dataset.name).info
        assert (plan.split, plan.metrics) == (info.splits[0], tuple(info.metrics))
        assert plan.rates == dict.fromkeys(sorted(info.modalities), 0.5)
        assert plan.device_ids == ("d00", "d01", "d02")
        assert {s.slm for s in plan.structures.values()} == {profile.slm}
        assert plan.variant == ""


def test_every_setting_that_is_given_is_in_the_plan_and_replaces_the_profiles():
    plan, own = full_plan(), REGISTRY.profile("mini").info
    fields = [field.name for field in dataclasses.fields(own) if field.compare]
    changed = {name for name in fields if getattr(plan.profile, name) != getattr(own, name)}
    assert changed == {
        *("rounds", "steps", "batch_size", "private_limit", "public_limit"),
        *("dtype", "base_bits", "gradient_checkpointing", "bertscore"),
    }  # fmt: skip  # names
    assert (plan.options.temperature, plan.options.amt_trains) == (0.5, ("lora",))
    assert plan.rates == FULL["rho"]
    assert (plan.n_devices, plan.seeds, plan.rounds, plan.threads) == (5, (5, 6), 3, 2)
    assert (plan.min_modalities, plan.evaluate, plan.rule) == (0, "all", "equal")
    assert (plan.data_options.target_words, plan.data_options.limit, plan.split) == (4, None, "sequence")
    assert plan.data_dir == Path.home() / "mine"
    assert plan_of().profile == dataclasses.replace(own, torch_device="cpu")


def test_another_language_model_is_not_tiny_because_the_profiles_is(profile):
    assert plan_of().profile.tiny
    for change in ({"slm": profile.slm}, {"llm": profile.llm}, {"device_slm": {"d0": profile.slm}}):
        assert not plan_of("standalone", **change).profile.tiny


def test_equal_budgets_are_equal_for_all_algorithms_that_train_devices():
    trained = {}
    for algo in ALGORITHMS:
        plan = plan_of(algo, budget="equal")
        if plan.needs.private_stages or plan.needs.pool:
            budget = plan.training.budget
            trained[algo] = budget.private + budget.public + budget.pooled
    assert {"centralised", "standalone"} < set(trained)
    assert set(trained.values()) == {2 * REGISTRY.profile("mini").info.steps}


def test_a_plan_is_named_by_the_settings_in_which_it_departs_from_the_usual():
    assert plan_of(seeds=(1,), data_dir="d", gradient_checkpointing=True, bertscore_model="none").variant == ""
    assert plan_of(options={"temperature": "1.0"}).variant == ""
    limits = "rounds=3, steps=7, batch_size=2, private limit 11, public limit 7, dtype=bfloat16, base_bits=8"
    wanted = f"temperature=0.5, amt_trains=lora, {limits}, 5 devices, modalities d01=none d03=vision"
    wanted += ", partition dirichlet 0.3, public share 0.5, sample rho 0.8"
    wanted += ", budget equal, split sequence, evaluate all"
    assert full_plan().variant == wanted


def test_a_limit_is_the_profiles_unless_one_is_given_and_all_lifts_it(profile):
    limited = dataclasses.replace(profile, private_limit=5, public_limit=None)
    for changes, limits, variant in (
        ({}, (5, None), ""),
        ({"private_limit": 5, "public_limit": "all"}, (5, None), ""),
        ({"private_limit": "all"}, (None, None), "private limit all"),
        ({"private_limit": 8, "public_limit": 2}, (8, 2), "private limit 8, public limit 2"),
    ):
        plan = toy.toy_plan(limited, algo="standalone", **changes)
        assert (plan.profile.private_limit, plan.profile.public_limit) == limits
        assert plan.variant == variant


def test_what_cannot_be_is_refused_in_one_line(profile):
    for changes, expected in (
        ({"algo": "ml-esc"}, "no algorithm 'ml-esc'. Did you mean 'ml-ecs'?"),
        ({"dataset": "vats"}, "no dataset 'vats'. Did you mean 'vast'?"),
        ({"profile": "mimi"}, "no profile 'mimi'. Did you mean 'mini'?"),
        ({"split": "random"}, "dataset 'vast' has no split 'random'; use "),
        ({"options": {"temprature": 1}}, "algorithm 'ml-ecs' has no option 'temprature'. Did you mean 'temperature'?"),
        ({"rho": {"audio": 0.5}}, "rho"),
        ({"proxy": "folder"}, "algorithm 'ml-ecs' uses no proxy model, got proxy folder; leave it out"),
        ({"device_rank": {"d3": 4}}, "device-rank names device 'd3'; devices of this run are d0 to d2"),
        ({"device": "tpu9"}, "unknown device 'tpu9'; use cpu, cuda or cuda:N"),
        ({"device": "cuda:99"}, "device 'cuda:99' was asked for but torch sees "),
    ):
        with pytest.raises(UsageError) as caught:
            plan_of(**changes)
        assert str(caught.value).startswith(expected)
        assert "\n" not in str(caught.value)


def test_a_plan_of_another_plugin_is_refused_where_it_is_read():
    values = json.loads(plan_of().to_json())
    for kind, other in (("algorithm", {"version": "9.9"}), ("dataset", {"distribution": "acme"})):
        changed = json.dumps({**values, kind: {**values[kind], **other}})
        with pytest.raises(PluginError) as caught:
            plan_from_json(changed, REGISTRY)
        assert str(caught.value).startswith(f"{kind} '{values[kind]['name']}' is mlecs-bench ")
        assert " here, and the plan was made with " in str(caught.value)
        assert "\n" not in str(caught.value)


# Identity


def key(profile, seed: int = 27, manifest=None, scorers=None, foreign=None, **changes) -> str:
    plan, manifest = toy.toy_plan(profile, **changes), manifest or made.make_manifest()
    return identity_key(identity(plan, seed, manifest, scorers or {"loss": "1"}, foreign or {}))


def test_all_that_can_change_a_number_changes_the_identity_and_nothing_else_does(profile, checkpoints, tmp_path):
    usual, other = key(profile), dataclasses.replace
    manifest, encoders = made.make_manifest(), tmp_path / "encoders"
    scaled = tuple(other(m, standardise=m.name == "video") for m in manifest.modalities)
    encoders.write_text("weights")
    different = {
        "seed": key(profile, 34),
        "data": key(profile, manifest=other(manifest, digest="1" * 64)),
        "view": key(profile, manifest=other(manifest, view="videos")),
        "standardised": key(profile, manifest=other(manifest, modalities=scaled)),
        "scorer": key(profile, scorers={"loss": "2"}),
        "missing scorer": key(profile, scorers={"other": "1"}),
        "encoder of a stranger": key(profile, foreign={"series": "acme 1.0"}),
        "its next version": key(profile, foreign={"series": "acme 1.1"}),
        "dropout": key(other(profile, connector_dropout=0.2)),
        "encoders": key(other(profile, encoders=encoders)),
        **{
            name: key(profile, **{name: value})
            for name, value in {
                "algo": "standalone",
                "options": {"temperature": 0.5},
                "rho": 0.7,
                "n_devices": 4,
                "rounds": 3,
                "steps": 3,
                "split": "sequence",
                "budget": "equal",
                "batch_size": 2,
                "private_limit": 5,
                "public_limit": 5,
                "dtype": "bfloat16",
                "base_bits": 8,
                "evaluate": "all",
                "min_modalities": 0,
                "test_limit": 5,
                "llm": checkpoints["llama"],
                "threads": 2,
            }.items()
        },
        "device_rank": key(profile, algo="standalone", device_rank={"d0": 4}),
        "device_slm": key(profile, algo="standalone", device_slm={"d0": checkpoints["llama"]}),
        "device_encoder_width": key(profile, algo="standalone", device_encoder_width={"d0": 4}),
    }
    assert len({usual, *different.values()}) == 1 + len(different)
    same = {
        "data_dir": key(profile, data_dir="/mine"),
        "checkpointing": key(profile, gradient_checkpointing=True),
        "bertscore": key(profile, bertscore_model="none"),
        "limit that the profile has": key(profile, private_limit="all", public_limit="all"),
        "generation": key(other(profile, generation_batch=1)),
        "rates": key(profile, rho=dict.fromkeys(toy.NAMES, 0.6)),
        "seeds": key(profile, seeds=(27,)),
        "summary": key(other(profile, summary="other words")),
    }
    assert set(same.values()) == {usual}


def test_models_are_identified_by_their_files_and_not_by_where_they_are(profile):
    held = identity(toy.toy_plan(profile), 27, made.make_manifest(), {})
    assert str(Path(profile.slm).parent) not in json.dumps(held)
    assert {held["profile"][side]["name"] for side in ("slm", "llm")} == {"toy"}
    given = identity(toy.toy_plan(profile, slm=profile.llm), 27, made.make_manifest(), {})["profile"]
    assert given["slm"]["digest"] == given["llm"]["digest"] == held["profile"]["llm"]["digest"]
