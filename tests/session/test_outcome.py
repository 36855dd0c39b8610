"""The line of a run that ends at the level of the most frequent class."""

from __future__ import annotations

import copy

import pytest

from cli_fakes import FakeProtocol, call_main, install
from hand_made import make_record
from mlecs_bench.execution import protocol
from mlecs_bench.session.outcome import AT_LEVEL, LEVEL, majority_line, majority_of_rows

SCORERS = {"f1_macro": "f1 1", "f1_weighted": "f1 2"}
MAJORITY = 0.25


def ended(local=(0.1, 0.2, 0.3), server=0.26, scorers=SCORERS, **more):
    """Return a record: devices at `local` (and 0.05 more when they have received), the majority at 0.25."""
    record = copy.deepcopy(make_record(local=local, server=server, scorers=scorers, **more))
    level = {"value": MAJORITY, "n": 10, "higher_is_better": True}
    by_device = dict.fromkeys(("d00", "d01", "d02"), level)
    record["metrics"]["references"] = {
        "majority": {"client": dict.fromkeys(scorers, by_device), "server": dict.fromkeys(scorers, level)}
    }
    return record


def test_a_run_at_the_level_of_the_most_frequent_class_says_so_with_what_helps():
    assert majority_line([ended()]) == (
        "At the level of always answering the most frequent label: devices (f1_macro 0.250 against 0.250) and server "
        "(f1_macro 0.260 against 0.250). What usually helps: more steps, ranking the labels (--answer rank), higher "
        "learning rates."
    )


def test_a_run_above_it_or_without_classes_says_nothing():
    above = MAJORITY + LEVEL
    assert majority_line([ended(local=[above] * 3, server=above + 0.01)]) == ""
    assert majority_line([make_record()]) == ""
    assert majority_line([]) == ""


def test_a_sweep_names_the_rows_at_that_level_each_by_the_mean_over_its_seeds():
    high = [ended(local=[0.9] * 3, server=0.9, algo="alpha", seed=seed) for seed in (27, 34)]
    low = [ended(algo=name, rho=0.5, seed=seed) for name in "bcdef" for seed in (27, 34)]
    assert majority_of_rows(high) == majority_of_rows([]) == ""
    assert majority_of_rows([*high, *low[:2]]) == (
        f"{AT_LEVEL}, 1 of 2 rows: b on vast at rho 0.5: devices and server. "
        "What usually helps: more steps, ranking the labels (--answer rank), higher learning rates."
    )
    said = majority_of_rows([*high, *low])
    assert said.startswith(f"{AT_LEVEL}, 5 of 6 rows: b on")
    assert "; d on vast at rho 0.5: devices and server; 2 more. What" in said
    assert "e on" not in said


def test_the_better_point_counts_and_the_mean_over_seeds():
    # 0.22 locally is 0.27 after the last broadcast, which is at the level; 0.23 is 0.28, which is above it.
    at, over = ([ended(local=[value] * 3, server=None, seed=seed) for seed in (27, 34)] for value in (0.219, 0.23))
    assert "devices" in majority_line(at)
    assert majority_line(over) == majority_line([at[0], *over[1:], *over[1:]]) == ""


def test_ranked_labels_count_where_they_are_better_and_are_not_advised_again():
    scorers = SCORERS | {f"{name}_rank": f"{told}, ranked" for name, told in SCORERS.items()}
    low = ended(scorers=scorers)
    assert "What usually helps: more steps, higher learning rates." in majority_line([low])
    for score in low["metrics"]["client"]["local"]["f1_macro_rank"].values():
        score["value"] = 0.9
    assert majority_line([low]).startswith("At the level of always answering the most frequent label: server (")


@pytest.mark.parametrize(("flags", "said"), [((), True), (("--quiet",), False), (("--json",), True)])
def test_run_prints_it_last_but_not_when_it_is_quiet(monkeypatch, capsys, tmp_path, flags, said):
    install(monkeypatch)
    fake = FakeProtocol(tmp_path)
    monkeypatch.setattr(protocol, "run", fake)
    monkeypatch.setattr("cli_fakes.make_record", ended)
    arguments = ["run", "--algo", "alpha", "--dataset", "toy", "--rho", "0.5", "--seeds", "27", *flags]
    _, out, _ = call_main(capsys, *arguments)
    assert ("At the level of" in out) is said
    if flags == ("--json",):
        assert '"at_majority": "At the level of always' in out
