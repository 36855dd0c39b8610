"""`mlecs-bench show` of every kind of plugin."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from mlecs_bench.cli.card import FACTS, USES, card_markdown, card_text, cards_of
from mlecs_bench.cli.main import cli
from mlecs_bench.doors.hookspecs import AlgorithmInfo, Control
from mlecs_bench.doors.profile import LearningRates, LoraSettings, Profile
from mlecs_bench.doors.registry import KINDS, Registry


@pytest.fixture(scope="module")
def registry():
    return Registry.installed()


def test_everything_that_comes_with_mlecs_bench_has_a_card_with_words_and_a_use(registry):
    assert list(FACTS) == list(USES) == list(KINDS)
    for kind in KINDS:
        for name in {entry.name for entry in registry.entries(kind) if entry.distribution == "mlecs-bench"}:
            (card,) = (card for card in cards_of(name, registry) if card["kind"] == kind)
            assert card["summary"].strip()
            assert "no docstring" not in card["summary"]
            assert card["use"]
            json.dumps(card)
            assert card_text(card).startswith(name)
            assert card_markdown(card).startswith(f"# {name}")


def test_the_card_of_a_profile_has_every_number(registry):
    (card,) = cards_of("mini", registry)
    rows = {row["name"]: row["value"] for row in card["settings"]}
    fields = {field.name for field in dataclasses.fields(Profile)} - {"name", "summary", "sources", "words"}
    parts = {"lora": LoraSettings, "learning_rates": LearningRates}
    wanted = (fields - set(parts)) | {f"{p}.{f.name}" for p, cls in parts.items() for f in dataclasses.fields(cls)}
    assert set(rows) == wanted
    assert all(row["source"] for row in card["settings"])
    assert (rows["soft_tokens"], rows["lora.rank"], rows["learning_rates.lora"]) == ("8", "8", "0.002")


def test_the_card_of_a_control_says_what_it_is_for():
    control = Control("ceiling", "all in one place", "all private data in one place")
    info = AlgorithmInfo("Alone", "a sum", build=lambda _: None, control=lambda _: control)
    for one, expected in (
        (info, "ceiling: all private data in one place"),
        (replace(info, control=lambda _: None), ""),
    ):
        facts = FACTS["algorithm"](one)
        assert facts["control"] == expected


def test_a_name_of_two_kinds_shows_both():
    shown = CliRunner().invoke(cli, ["show", "processes"]).output
    assert "(workers, mlecs-bench" in shown
    assert "(fleet, mlecs-bench" in shown
    assert "--workers processes:NUMBER" in shown
    assert "--fleet processes" in shown


def test_the_card_of_an_observer_is_its_docstring(registry):
    (card,) = cards_of("csv", registry)
    assert card["summary"].startswith("Appends the numbers of every round to the CSV file that $MLECS_BENCH_CSV names")
