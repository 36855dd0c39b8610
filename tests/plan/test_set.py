"""`set` in a plan: what is given replaces the profile's, identifies the record where it differs, and names the row."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

import toy
from mlecs_bench.doors.profile import Profile
from mlecs_bench.doors.profile_settings import profile_settings, settable, value_of
from mlecs_bench.errors import UsageError
from mlecs_bench.plan.identity import identity
from mlecs_bench.plan.preflight import check_models
from mlecs_bench.plan.spec import PROFILE_FIELDS, RunSpec
from mlecs_bench.records.names import option_words
from mlecs_bench.records.results import identity_key
from mlecs_bench.testing import toy as made

OTHERS = {
    "encoders": None,
    "lora.targets": ["all-linear"],  # what layers are called differs between SLM and LLM
    "dtype": "bfloat16",
    "base_bits": 8,
    "server_trains_encoders": False,
    "lora.dropout": 0.2,
    "connector_dropout": 0.2,
    "private_limit": 5,
    "public_limit": 5,
    "test_limit": 5,
    "local_epochs": 2,
    "torch_device": "cuda",
    "bertscore": "none",
    "gradient_checkpointing": True,
}
"""Another value than the toy profile's, of the settings of which twice as much is none."""


def plan_with(profile: Profile, **changes: Any):
    return toy.toy_plan(profile, **{"steps": None, "rounds": None, "algo": "standalone", "device": None, **changes})


def key_of(plan) -> str:
    return identity_key(identity(plan, 27, made.make_manifest(), {"loss": "1"}))


def other_value(profile: Profile, name: str, checkpoints: dict[str, str]) -> Any:
    if name in ("slm", "llm"):
        return checkpoints["llama"]
    return OTHERS.get(name, None if name in OTHERS else 2 * (value_of(profile, name) or 1))


def test_every_setting_that_differs_makes_another_record_and_names_it(profile, checkpoints, tmp_path):
    own = dataclasses.replace(profile, encoders=tmp_path / "encoders")
    own.encoders.write_text("weights")
    usual, elsewhere = plan_with(own), {"bertscore"}
    keys, labels = {key_of(usual)}, {""}
    for name in settable():
        without = {"encoders": None} if name == "encoder_width" else {}  # the encoders have a width
        plan = plan_with(own, set={name: other_value(own, name, checkpoints)} | without)
        assert value_of(plan.profile, name) != value_of(own, name)
        if profile_settings()[name].changes_numbers and name not in elsewhere:
            keys.add(key_of(plan))
            labels |= {plan.variant} if name != "torch_device" else {"the machine"}
        else:
            assert key_of(plan) == key_of(usual)
            assert plan.variant == ""
    changing = [n for n in settable() if profile_settings()[n].changes_numbers and n not in elsewhere]
    assert len(keys) == len(labels) == 1 + len(changing)
    assert "" in labels
    assert len(changing) > 25


def test_what_the_profile_has_is_no_departure(profile):
    usual = plan_with(profile)
    same = {name: value_of(profile, name) for name in settable()} | {"lora.alpha": "16", "lora.rank": "8"}
    del same["local_epochs"]  # which excludes steps
    plan = plan_with(profile, set=same)
    assert (plan.profile, plan.variant, plan.own_settings) == (usual.profile, "", {})
    assert key_of(plan) == key_of(usual)
    assert plan.profile.tiny


def test_departures_name_the_row_and_the_file(profile):
    plan = plan_with(profile, set={"lora": {"rank": 16}, "learning_rates.lora": "1e-3"}, private_limit=5)
    assert plan.variant == "learning_rates.lora=0.001, private limit 5, lora.rank=16"
    assert option_words(plan.departures) == "learning_rates.lora=0.001-private_limit=5-lora.rank=16"
    assert plan.profile.sources["lora.rank"] == "given with the run"


def test_a_flag_and_a_set_of_one_field_agree_or_are_refused(profile):
    values = {"slm": profile.llm, "llm": profile.slm, "device": "cpu", "bertscore_model": "none", "dtype": "bfloat16"}
    values |= {"gradient_checkpointing": True, "base_bits": 8}
    for flag, field in PROFILE_FIELDS.items():
        value = values.get(flag, 3)
        assert plan_with(profile, **{flag: value}, set={field: value}).profile == plan_with(
            profile, **{flag: value}
        ).profile  # fmt: skip  # an equation
        other = {"slm": profile.slm, "llm": profile.llm, "device": "cuda", "bertscore_model": "packaged"}
        other |= {"dtype": "float16", "gradient_checkpointing": False, "base_bits": 4}
        with pytest.raises(UsageError, match=r"--set .* differ; give one of them"):
            plan_with(profile, **{flag: value}, set={field: other.get(flag, 4)})


def test_another_model_that_is_set_is_not_tiny(profile, checkpoints):
    assert not plan_with(profile, set={"slm": checkpoints["llama"]}).profile.tiny


def test_a_set_is_checked_when_a_spec_is_made_and_spelled_in_one_way():
    def made_with(given):
        return RunSpec("a", "b", 0.5, set=given)

    one, other = made_with({"lora": {"rank": "16"}, "rounds": 3}), made_with({"lora.rank": 16, "rounds": "3"})
    assert one == other
    assert one.set == {"lora.rank": 16, "rounds": 3}
    with pytest.raises(UsageError, match="must be an integer, got x"):
        made_with({"rounds": "x"})


def test_widths_that_an_algorithm_holds_against_each_other_must_be_one(profile):
    for algo, refused in (("ml-ecs", True), ("standalone", False), ("multi-fedavg", False)):
        if refused:
            with pytest.raises(UsageError, match="hidden_width and fused_width must be equal, got 4 and 8; set both"):
                plan_with(profile, algo=algo, set={"hidden_width": 4})
        assert plan_with(profile, algo=algo, set={"hidden_width": 4, "fused_width": 4}).profile.fused_width == 4
    assert plan_with(profile, set={"hidden_width": 4}).profile.fused_width == 8


def test_targets_that_no_layer_has_are_refused_with_those_there_are(profile):
    plan = plan_with(profile, set={"lora.targets": "q_proj,v_proj"})
    with pytest.raises(UsageError, match=r"names q_proj, v_proj, and no linear layer of .* is called so; it has"):
        check_models(plan, made.dataset().info)


# Local epochs


def test_epochs_and_steps_exclude_each_other_and_steps_end_a_profiles_epochs(profile):
    for both in ({"steps": 3, "local_epochs": 2}, {"steps": 3, "set": {"local_epochs": 2}}):
        with pytest.raises(UsageError, match="steps and local-epochs exclude each other"):
            plan_with(profile, **both)
    by_epochs = dataclasses.replace(profile, local_epochs=2)
    assert plan_with(by_epochs).training.counts == "epochs"
    plan = plan_with(by_epochs, steps=3)
    assert (plan.training.counts, plan.training.budget.private, plan.profile.local_epochs) == ("steps", 3, None)


def test_epochs_cannot_be_equal_in_steps(profile):
    with pytest.raises(UsageError, match="budget equal counts steps, and local-epochs 2 does not"):
        plan_with(profile, local_epochs=2, budget="equal")


def test_a_pass_is_as_many_steps_as_there_are_full_batches(profile):
    training = plan_with(profile, algo="ml-ecs", local_epochs=3, batch_size=4).training
    for private, public, expected in ((11, 9, (6, 6, 6)), (3, 0, (3, 0, 0)), (0, 4, (0, 3, 3)), (8, 8, (6, 6, 6))):
        counted = training.in_steps(private, public, 0)
        assert (counted.budget.private, counted.budget.public, counted.budget.server) == expected
        assert counted.counts == "steps"
        assert counted.in_steps(1, 1, 1) == counted
    pooled = plan_with(profile, algo="centralised", local_epochs=1, batch_size=4).training
    assert pooled.in_steps(8, 8, 40).budget.pooled == 2 * 10  # as 2q steps where steps are counted


def test_an_identity_names_epochs_in_place_of_steps(profile):
    training = identity(plan_with(profile, local_epochs=2), 27, made.make_manifest(), {})["training"]
    usual = identity(plan_with(profile), 27, made.make_manifest(), {})["training"]
    assert training == {**{k: v for k, v in usual.items() if k != "steps"}, "local_epochs": 2}
