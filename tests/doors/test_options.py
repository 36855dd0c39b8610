"""Options of plugins: parsed by the annotation, refused in one line, listed with help and source."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, dataclass
from typing import Literal

import pytest

from mlecs_bench.doors.options import NoOptions, build_options, option, option_rows
from mlecs_bench.errors import UsageError


@dataclass(frozen=True)
class Options:
    rank: int = option(8, help="Rank of the adapters.", source="paper, section 4.3")
    rate: float = option(1e-3, help="Learning rate.", source="authors' script")
    freeze: bool = option(False, help="Freeze the connector.", source="ours")
    name: str = option("plain", help="A name.", source="ours")
    mode: Literal["mean", "max"] = option("mean", help="How to merge.", source="Eq. 3")
    width: int | None = option(None, help="Width, or the profile's.", source="ours")
    cap: float | None = option(None, help="Cap, or none.", source="ours")
    ranks: tuple[int, ...] = option((4, 8), help="Rank of each device.", source="FediLoRA")

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, got {self.rank}")


def build(**given):
    return build_options(Options, given, "algorithm 'x'")


def refusal(**given) -> str:
    with pytest.raises(UsageError) as caught:
        build(**given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nothing_given_means_the_defaults():
    assert build() == Options()


TEXTS = (
    ("rank", "16", 16),
    ("rank", " 16 ", 16),
    ("rank", "1", 1),
    ("rate", "0.5", 0.5),
    ("rate", "1e-4", 1e-4),
    ("rate", "3", 3.0),
    ("freeze", "true", True),
    ("freeze", "True", True),
    ("freeze", "yes", True),
    ("freeze", "on", True),
    ("freeze", "1", True),
    ("freeze", "false", False),
    ("freeze", "No", False),
    ("freeze", "off", False),
    ("freeze", "0", False),
    ("name", "a=b", "a=b"),
    ("mode", "max", "max"),
    ("width", "64", 64),
    ("width", "none", None),
    ("width", "None", None),
    ("cap", "0.5", 0.5),
    ("ranks", "4, 8,16", (4, 8, 16)),
    ("ranks", "4", (4,)),
    ("ranks", "", ()),
)


def test_text_is_parsed_by_the_annotation():
    for name, text, value in TEXTS:
        parsed = getattr(build(**{name: text}), name)
        assert parsed == value
        assert type(parsed) is type(value)


VALUES = (
    ("rank", 16, 16),
    ("rate", 1, 1.0),
    ("rate", 0.25, 0.25),
    ("freeze", True, True),
    ("freeze", False, False),
    ("width", None, None),
    ("width", 64, 64),
    ("ranks", [4, 8, 16], (4, 8, 16)),
    ("ranks", (4,), (4,)),
)


def test_plain_values_of_a_file_are_taken():
    for name, given, value in VALUES:
        parsed = getattr(build(**{name: given}), name)
        assert parsed == value
        assert type(parsed) is type(value)


WRONG = (
    ("rank", "eight", "option 'rank' of algorithm 'x' must be an integer, got 'eight'"),
    ("rank", "1.5", "must be an integer, got '1.5'"),
    ("rank", 1.5, "must be an integer, got 1.5"),
    ("rank", True, "must be an integer, got True"),
    ("rank", None, "must be an integer, got None"),
    ("rank", "", "must be an integer, got ''"),
    ("rate", "fast", "must be a number, got 'fast'"),
    ("rate", False, "must be a number, got False"),
    ("rate", [1.0], r"must be a number, got [1.0]"),
    ("freeze", "maybe", "must be true or false, got 'maybe'"),
    ("freeze", 2, "must be true or false, got 2"),
    ("name", 3, "must be a text, got 3"),
    ("mode", "median", "must be one of mean, max, got 'median'"),
    ("mode", "Mean", "must be one of mean, max, got 'Mean'"),
    ("width", "wide", "must be an integer, got 'wide'"),
    ("ranks", "4,x", "must be an integer, got '4,x'"),
    ("ranks", 4, "must be a list with commas, got 4"),
    ("ranks", "4,", "must be an integer, got '4,'"),
)


def test_a_wrong_value_is_refused_by_option_and_value():
    for name, given, expected in WRONG:
        assert expected in refusal(**{name: given})


def test_an_unknown_option_is_refused_with_the_nearest_name():
    assert refusal(rnak=4).startswith("algorithm 'x' has no option 'rnak'. Did you mean 'rank'?")


def test_an_option_of_a_plugin_without_any_is_refused():
    with pytest.raises(UsageError, match=r"dataset 'y' has no option 'rank'\. Known: none"):
        build_options(NoOptions, {"rank": 4}, "dataset 'y'")


def test_the_dataclass_itself_may_refuse_a_value():
    assert refusal(rank=0) == "algorithm 'x': rank must be at least 1, got 0"


def test_options_cannot_be_changed_afterwards():
    with pytest.raises(FrozenInstanceError):
        build().rank = 4


def test_rows_hold_name_type_default_help_and_source():
    rows = option_rows(Options)
    assert [set(row) for row in rows] == [{"name", "type", "default", "help", "source"}] * 8
    shown = {row["name"]: (row["type"], row["default"]) for row in rows}
    assert shown == {
        "rank": ("int", "8"),
        "rate": ("float", "0.001"),
        "freeze": ("bool", "false"),
        "name": ("str", "plain"),
        "mode": ("mean|max", "mean"),
        "width": ("int|none", "none"),
        "cap": ("float|none", "none"),
        "ranks": ("int,...", "4,8"),
    }
    assert rows[0]["help"] == "Rank of the adapters."
    assert rows[0]["source"] == "paper, section 4.3"


def test_a_shown_default_typed_back_is_the_default():
    assert build(**{row["name"]: row["default"] for row in option_rows(Options)}) == Options()


def test_rows_of_no_options_are_empty():
    assert option_rows(NoOptions) == []


@dataclass(frozen=True)
class Plain:
    scale: float = 2.0


def test_a_field_without_metadata_has_empty_help():
    assert option_rows(Plain) == [{"name": "scale", "type": "float", "default": "2.0", "help": "", "source": ""}]
    assert math.isclose(build_options(Plain, {"scale": "0.1"}, "x").scale, 0.1)
