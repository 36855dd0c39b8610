"""RunSpec: checks itself, and is the same after a trip through JSON."""

from __future__ import annotations

import dataclasses
import json

import pytest

from mlecs_bench.errors import UsageError
from mlecs_bench.plan.spec import RunSpec, rho_text
from mlecs_bench.seeds import PROTOCOL_SEEDS

MINIMAL = {"algo": "ml-ecs", "dataset": "vast", "rho": 0.5}


def spec(**changes) -> RunSpec:
    return RunSpec(**{**MINIMAL, **changes})


def refusal(**changes) -> str:
    with pytest.raises(UsageError) as caught:
        spec(**changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


FULL = spec(
    rho={"audio": 0.5, "vision": 1.0},
    n_devices=20,
    profile="paper",
    seeds=(1, 2),
    options={"rank": 8, "mode": "mean", "ranks": [4, 8]},
    data_options={"labels": "digits"},
    rounds=3,
    steps=7,
    split="sequence",
    budget="equal",
    evaluate="all",
    metrics=("accuracy", "bleu"),
    answer="rank",
    min_modalities=0,
    test_limit=64,
    slm="a",
    llm="b",
    proxy="c",
    batch_size=2,
    private_limit=64,
    public_limit="all",
    dtype="bfloat16",
    base_bits=4,
    gradient_checkpointing=True,
    bertscore_model="none",
    device_slm={"d00": "e"},
    device_rank={"d01": 4},
    device_encoder_width={"d02": 32},
    data_dir="data",
    device="cuda:0",
    threads=2,
    local_epochs=2,
    modalities="d1=audio, d00=vision+audio",
    partition="group:user,min-samples=9",
    sample_rho={"audio": 0.5, "vision": 1},
    participation=2,
    dropout=0.1,
    faults={"byzantine": "nan", "count": 1},
    network="4g",
    schedule={"d1": {3: "vision"}},
    robustness=True,
    compression="law=topk, direction=up",
    set={"lora": {"rank": "16", "targets": ("c_attn",)}, "learning_rates.lora": 1e-3},
)


def test_a_trip_through_json_changes_nothing():
    for given in (spec(), FULL, spec(rho=1), spec(rho=1e-9), spec(rho={"audio": 1})):
        assert RunSpec.from_json(given.to_json()) == given


def test_every_field_survives_the_trip():
    untouched = [f.name for f in dataclasses.fields(RunSpec) if getattr(FULL, f.name) == getattr(spec(), f.name)]
    assert set(untouched) == {"algo", "dataset"}
    assert json.loads(FULL.to_json())["seeds"] == [1, 2]


def test_json_does_not_depend_on_the_order_of_options():
    one, other = spec(options={"a": 1, "b": 2}), spec(options={"b": 2, "a": 1})
    assert one.to_json() == other.to_json()


def test_the_seeds_are_the_five_of_the_protocol():
    assert spec().seeds == PROTOCOL_SEEDS == (27, 34, 46, 52, 93)


def test_a_spec_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec().rho = 0.1


def test_a_rate_outside_its_interval_is_refused():
    for rate in (0, -0.1, 1.2, float("nan"), float("inf"), True, "0.5", None):
        assert refusal(rho=rate) == f"rho must be in (0, 1], got {rate}"


def test_a_rate_of_one_modality_is_refused_by_name():
    for rate in (0, 1.5, True, "x"):
        assert refusal(rho={"audio": 0.5, "vision": rate}) == f"rho of vision must be in (0, 1], got {rate}"


def test_rates_for_no_modality_are_refused():
    assert refusal(rho={}).startswith("rho names no modality")


def test_a_count_below_one_or_not_whole_is_refused():
    for name in ("n_devices", "rounds", "steps", "local_epochs", "batch_size", "threads"):
        for count in (0, -1, 1.5, "3", True):
            flag = name.replace("_", "-")
            assert refusal(**{name: count}) == f"{flag} must be a whole number of at least 1, got {count}"


def test_a_name_is_a_text_and_a_mapping_maps():
    for name in ("algo", "dataset", "profile", "split", "slm", "llm", "proxy", "bertscore_model", "data_dir", "device"):
        for value in ([["a"]], {"a": 1}, 3, True):
            assert refusal(**{name: value}) == f"{name.replace('_', '-')} must be one name, got {value}"
    for name in ("options", "data_options", "set", "device_slm", "device_rank", "device_encoder_width"):
        assert refusal(**{name: [1]}) == f"{name.replace('_', '-')} must map names to values, got [1]"
    for name in ("n_devices", "threads"):
        assert refusal(**{name: None}) == f"{name.replace('_', '-')} must be a whole number of at least 1, got nothing"


def test_a_count_that_no_machine_could_hold_is_refused():
    for name, most in (("n_devices", "10,000"), ("rounds", "2,147,483,647"), ("threads", "4,096")):
        assert refusal(**{name: 10**50}) == f"{name.replace('_', '-')} must be at most {most}, got 1{'0' * 39}"
    for name, flag in (("device_rank", "device-rank"), ("device_encoder_width", "device-encoder-width")):
        assert refusal(**{name: {"d01": 65_537}}) == f"{flag} of d01 must be at most 65,536, got 65537"
    assert refusal(private_limit=2**31) == "private-limit must be at most 2,147,483,647, or all, got 2147483648"


def test_rounds_steps_and_limits_may_be_left_to_the_profile():
    for name in ("rounds", "steps", "private_limit", "public_limit"):
        assert getattr(spec(**{name: None}), name) is None


def test_a_limit_is_a_number_of_samples_or_all():
    for name in ("private_limit", "public_limit"):
        for limit in (1, 10**9, "all"):
            assert getattr(spec(**{name: limit}), name) == limit
        for limit in (0, -1, 1.5, "3", "All", "none", "", True, False, [3]):
            flag = name.replace("_", "-")
            assert refusal(**{name: limit}) == f"{flag} must be a whole number of at least 1, or all, got {limit}"


WRONG = (
    ("budget", "half", "budget must be paper or equal, got half"),
    ("budget", None, "budget must be paper or equal, got None"),
    ("dtype", "float8", "dtype must be float32 or bfloat16 or float16, got float8"),
    ("base_bits", 16, "base-bits must be 4 or 8, got 16"),
    ("base_bits", True, "base-bits must be 4 or 8, got True"),
    ("gradient_checkpointing", "yes", "gradient-checkpointing must be true or false, got yes"),
    ("device_rank", {"d0": 0}, "device-rank of d0 must be a whole number of at least 1, got 0"),
    ("device_encoder_width", {"d0": 1.5}, "device-encoder-width of d0 must be a whole number of at least 1, got 1.5"),
    ("evaluate", "some", "evaluate must be last or all, got some"),
    ("min_modalities", 2, "min-modalities must be 0 or 1, got 2"),
    ("min_modalities", -1, "min-modalities must be 0 or 1, got -1"),
    ("seeds", (), "seeds must be different whole numbers, got []"),
    ("seeds", (27, 27), "seeds must be different whole numbers, got [27, 27]"),
)


def test_a_wrong_choice_is_refused():
    for name, value, expected in WRONG:
        assert refusal(**{name: value}) == expected


def test_an_unknown_setting_is_refused_by_name():
    with pytest.raises(UsageError, match=r"unknown setting 'n_device'; known: algo, answer, .*budget, .*n_devices"):
        RunSpec.from_mapping({**MINIMAL, "n_device": 3})


def test_a_missing_setting_is_refused_with_its_flag():
    for name in sorted(MINIMAL):
        values = {key: value for key, value in MINIMAL.items() if key != name}
        with pytest.raises(UsageError, match=f"setting '{name}' is missing; give --{name}"):
            RunSpec.from_mapping(values)


def test_a_mapping_without_seeds_gets_those_of_the_protocol():
    assert RunSpec.from_mapping(MINIMAL) == spec()


def test_a_rate_is_written_as_on_the_command_line():
    for rho, text in ((0.5, "0.5"), (1, "1"), (1.0, "1"), ({"vision": 1.0, "audio": 0.25}, "audio=0.25,vision=1")):
        assert rho_text(rho) == text


def test_a_refusal_stays_one_line_whatever_is_given():
    for name in ("\n", "a\r\nb", "a\u2028b"):
        words = refusal(set={name: 1})
        assert len(words.splitlines()) == 1
        assert "\\n" in words
