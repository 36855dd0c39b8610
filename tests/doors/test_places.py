"""Workers and fleets as users name them: a name, and behind it what their card takes."""

from __future__ import annotations

import pytest

from mlecs_bench.doors.hookspecs import FleetInfo, WorkersInfo
from mlecs_bench.doors.places import Place, place
from mlecs_bench.errors import UsageError


def refuse_shouting(text: str) -> None:
    if text.isupper():
        raise UsageError(f"do not shout {text}")


def test_a_place_is_a_name_and_what_stands_behind_the_first_colon():
    for text, name, argument, number in (
        ("in-process", "in-process", "", None), ("processes:12", "processes", "12", 12),
        ("ray:127.0.0.1:6379", "ray", "127.0.0.1:6379", None), ("a:0", "a", "0", None), ("a:-1", "a", "-1", None),
        ("a:²", "a", "²", None),
    ):  # fmt: skip  # a case, a line
        found = place(text, "--fleet")
        assert (found, found.number) == (Place(name, argument), number), text
    for text in ("", ":", ":2", "a:"):
        with pytest.raises(UsageError, match=f"^--fleet takes NAME or NAME:ARGUMENT.* got '{text}'$"):
            place(text, "--fleet")


@pytest.mark.parametrize("info", [WorkersInfo, FleetInfo])
def test_a_card_takes_its_kind_of_argument_and_refuses_every_other_in_one_line(info):
    taken = {"none": [""], "number": ["", "1", "20"], "text": ["", "12", "10.0.0.1:6379", "x=1,y=2"]}
    refused = {"none": ["2", "x"], "number": ["0", "-1", "x", "2:3", "1.5", "²"], "text": ["LOUD"]}
    for kind, fitting in taken.items():
        card = info("t", "s", make=lambda request: None, argument=kind, check_argument=refuse_shouting)
        for text in fitting:
            Place("p", text).check(card, "--workers")
        for text in refused[kind]:
            with pytest.raises(UsageError, match=f"{text.replace('.', '[.]')}"):
                Place("p", text).check(card, "--workers")
    assert info("t", "s", make=lambda request: None).argument == "number"
