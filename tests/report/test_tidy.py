"""Records as a tidy table: every score once, and variants that keep apart what differs in more than the seed."""

from __future__ import annotations

import itertools

import pytest

from hand_made import make_record, score, with_identity
from mlecs_bench.doors.registry import Registry
from mlecs_bench.records.results import group_key
from mlecs_bench.report.tidy import COLUMNS, tidy_frame, tidy_rows


@pytest.fixture(scope="module")
def registry():
    return Registry([])


def test_every_score_is_a_row_of_its_round_point_and_party(registry):
    record = make_record(algo="a", seed=27, local=(0.1, 0.2), server=0.4)
    early = {"rouge_lsum": {"d00": score(0.01), "d01": score(0.02)}}
    record["metrics"]["rounds"] = [
        {"round": 1, "client": early, "server": {"rouge_lsum": score(0.03)}},
        {"round": 2, "client": record["metrics"]["client"]["local"], "server": record["metrics"]["server"]},
    ]  # fmt: skip  # a round, a line
    frame = tidy_frame([record], registry)
    assert tuple(frame.columns) == COLUMNS
    assert frame[["round", "eval_point", "device", "value"]].values.tolist() == [
        [1, "local", "d00", 0.01], [1, "local", "d01", 0.02], [1, "server", "server", 0.03],
        [2, "local", "d00", 0.1], [2, "local", "d01", 0.2],
        [2, "received", "d00", pytest.approx(0.15)], [2, "received", "d01", pytest.approx(0.25)],
        [2, "server", "server", 0.4],
    ]  # fmt: skip  # in order
    own = frame.drop(columns=["round", "eval_point", "device", "value"]).drop_duplicates()
    assert own.to_dict("records") == [{
        "algo": "a", "variant": "", "conditions": "", "dataset": "vast", "rho": 0.5, "n_devices": 2, "seed": 27,
        "metric": "rouge_lsum",
        "n": 10, "key": record["key"],
    }]  # fmt: skip  # a cell
    assert frame.dtypes.astype(str)[["rho", "seed", "round", "value", "n"]].tolist() == [
        "float64", "int64", "int64", "float64", "int64",
    ]  # fmt: skip  # of numbers
    assert tuple(tidy_frame([], registry).columns) == COLUMNS


def test_conditions_are_named_in_words_in_a_column_of_their_own_and_in_the_variant(registry):
    changed = with_identity(make_record(), conditions={"compression": {"law": "int8"}, "old": {"share": {"a": 1}}})
    frame = tidy_frame([make_record(), changed], registry)
    words = "int8 messages, old share.a=1"
    assert frame[["variant", "conditions"]].drop_duplicates().values.tolist() == [["", ""], [words, words]]


def test_rates_that_differ_between_modalities_are_a_text(registry):
    row = tidy_rows([make_record(rho={"audio": 0.5, "vision": 1.0})], registry)[0]
    assert row["rho"] == "audio=0.5,vision=1"


def test_rows_that_agree_in_their_first_columns_differ_in_nothing_but_the_seed(registry):
    base = make_record()["identity"]
    changes = (
        {},
        {"evaluate": "all"},
        {"min_modalities": 0},
        {"algo": {"options": {"tau": 2.0}}},
        {"algo": {"version": "2"}},
        {"training": {"budget": "equal"}},
        {"training": {"steps": base["training"]["steps"] + 1}},
        {"profile": {"name": "pocket"}},
        {"structure": {"rank": {"d00": 2}}},
        {"dataset": {"split": "sequence"}},
        {"dataset": {"digest": "b" * 64}},
        {"numerics": {"torch": "1.0"}},
        {"conditions": {"compression": {"law": "int8"}}},
        {"conditions": {"compression": {"law": "int8", "direction": "up"}}},
        {"conditions": {"modalities": {"law": "exact"}}},
    )
    datasets = ("vast", "ur-fall")
    records = [
        with_identity(make_record(dataset=dataset, seed=seed), **change)
        for dataset, seed, change in itertools.product(datasets, (27, 34), changes)
    ]
    frame = tidy_frame(records, registry)
    groups = {record["key"]: group_key(record["identity"]) for record in records}
    found = frame.groupby(["algo", "variant", "dataset", "rho", "n_devices"]).key.agg(
        lambda keys: set(keys.map(groups))
    )
    assert len(found) == len(datasets) * len(changes)
    assert all(len(group) == 1 for group in found)


def test_a_variant_names_what_departs_from_the_cards_that_are_installed():
    registry = Registry.installed()
    profile = registry.profile("mini").info
    usual = with_identity(make_record(), training={"rounds": profile.rounds, "steps": profile.steps, "budget": "paper"})
    other = with_identity(usual, training={"steps": profile.steps + 1, "budget": "equal"})
    alone = [tidy_rows([record], registry)[0]["variant"] for record in (usual, other)]
    assert alone[0] == "" or "steps" not in alone[0]
    assert {"budget=equal", f"steps={profile.steps + 1}"} <= set(alone[1].split(", "))
