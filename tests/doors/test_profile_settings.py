"""The numbers of a profile: every one has a dotted name, a type, a range and a source."""

from __future__ import annotations

import dataclasses

import pytest

from mlecs_bench.doors.profile_settings import (
    flat,
    parsed_setting,
    profile_settings,
    replaced,
    settable,
    setting_rows,
    sources_of,
    value_of,
)
from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import UsageError

PROFILES = {
    entry.name: Registry.installed().profile(entry.name).info
    for entry in Registry.installed().entries("profile")
    if entry.distribution == "mlecs-bench"
}


def test_every_number_of_every_profile_has_a_source():
    for name, profile in PROFILES.items():
        lacking = [setting for setting, source in sources_of(profile).items() if not source]
        assert not lacking, name
        assert set(profile.sources) <= {*sources_of(profile), *(s.partition(".")[0] for s in sources_of(profile))}


def test_a_number_that_is_no_default_has_no_source_until_the_profile_gives_one():
    mini = PROFILES["mini"]
    bare = dataclasses.replace(mini, sources={}, clip_norm=0.5)
    lacking = {name for name, source in sources_of(bare).items() if not source}
    assert {"clip_norm", "soft_tokens", "learning_rates.lora", "steps"} < lacking
    assert "lora.rank" not in lacking  # a default, whose source the field has
    told = dataclasses.replace(bare, sources={"learning_rates": "a grid", "learning_rates.lora": "a finer grid"})
    assert [sources_of(told)[f"learning_rates.{part}"] for part in ("encoder", "lora")] == ["a grid", "a finer grid"]


def test_what_show_prints_is_what_set_takes():
    """Every number, given back as the text that is printed, makes the same profile out of any other."""
    mini, paper = PROFILES["mini"], PROFILES["paper"]
    for profile, other in ((mini, paper), (paper, mini)):
        printed = {row["name"]: row["value"] for row in setting_rows(profile)}
        assert set(printed) == set(settable()) | {"tiny"}
        printed = {name: text for name, text in printed.items() if name in settable() and name != "local_epochs"}
        again = replaced(other, {name: parsed_setting(name, text) for name, text in printed.items()}, "here")
        assert {name: value_of(again, name) for name in printed} == {name: value_of(profile, name) for name in printed}
        assert replaced(profile, {name: value_of(profile, name) for name in printed}, "here") == profile


WRONG = (
    ("lora.rnak", 4, "a profile has no setting 'lora.rnak'. Did you mean 'lora.rank'?"),
    ("name", "x", "a profile has no setting 'name'."),
    ("tiny", True, "a profile has no setting 'tiny'."),
    ("lora", 4, "'lora' is not one setting: set lora.rank, lora.alpha, lora.dropout, lora.targets"),
    ("lora.rank", "four", "setting 'lora.rank' must be an integer, got four"),
    ("lora.rank", 0, "setting 'lora.rank' must be a whole number above 0, at most 65536, got 0"),
    ("lora.rank", 2.5, "setting 'lora.rank' must be an integer, got 2.5"),
    ("lora.rank", True, "setting 'lora.rank' must be an integer, got True"),
    ("lora.dropout", 1, "setting 'lora.dropout' must be from 0 to below 1, got 1"),
    ("learning_rates.lora", "nan", "setting 'learning_rates.lora' must be a finite number, got nan"),
    ("learning_rates.lora", 0, "setting 'learning_rates.lora' must be a finite number above 0, at most 3.4e38, got 0"),
    ("lora.rank", "1" + 25 * "0", f"setting 'lora.rank' must be a whole number above 0, at most 65536, got {10**25}"),
    ("rounds", 2**31, "setting 'rounds' must be a whole number above 0, at most 2147483647, got 2147483648"),
    ("lora.alpha", 1e39, "setting 'lora.alpha' must be a finite number above 0, at most 3.4e38, got 1e+39"),
    ("weight_decay", "1e39", "setting 'weight_decay' must be a finite number of at least 0, at most 3.4e38, got 1e39"),
    ("weight_decay", -0.1, "setting 'weight_decay' must be a finite number of at least 0, at most 3.4e38, got -0.1"),
    ("private_limit", 0, "setting 'private_limit' must be a whole number above 0, at most 2147483647, or none, got 0"),
    ("dtype", "float8", "setting 'dtype' must be one of float32, bfloat16, float16, got float8"),
    ("base_bits", 3, "setting 'base_bits' must be one of 4, 8, got 3"),
    ("torch_device", "tpu", "setting 'torch_device' must be cpu, cuda or cuda:N, got tpu"),
    ("server_trains_encoders", "maybe", "setting 'server_trains_encoders' must be true or false, got maybe"),
    ("slm", "", "setting 'slm' must be a folder or a name, got "),
)


def test_a_wrong_setting_is_refused_in_one_line():
    for name, value, expected in WRONG:
        with pytest.raises(UsageError) as caught:
            parsed_setting(name, value)
        assert str(caught.value).startswith(expected)
        assert "\n" not in str(caught.value)


def test_nested_names_are_dotted_names_and_twice_is_refused():
    assert flat({"lora": {"rank": 4, "alpha": 8}, "rounds": 2}) == {"lora.rank": 4, "lora.alpha": 8, "rounds": 2}
    with pytest.raises(UsageError, match=r"'lora.rank' is set twice"):
        flat({"lora": {"rank": 4}, "lora.rank": 4})


def test_pretrained_encoders_fix_their_width():
    mini, paper = PROFILES["mini"], PROFILES["paper"]
    with pytest.raises(UsageError, match="are 64 wide, so encoder_width cannot be 32; with encoders=none set"):
        replaced(mini, {"encoder_width": 32}, "here")
    assert replaced(mini, {"encoder_width": 64}, "here") == mini
    assert replaced(mini, {"encoder_width": 32, "encoders": None}, "here").encoder_width == 32
    assert replaced(paper, {"encoder_width": 32}, "here").encoder_width == 32


def test_every_setting_names_the_range_of_its_type():
    """What has no range is a choice, a switch, a path or a list of names."""
    without = {name for name, found in profile_settings().items() if found.range is None and found.can_be_set}
    assert without == {
        *("encoders", "lora.targets", "server_trains_encoders", "dtype", "base_bits", "gradient_checkpointing"),
    }  # fmt: skip  # names
