"""What the steps did: the logs of all rounds, party by party, against means and counts by hand."""

from __future__ import annotations

from typing import Any

import pytest

from mlecs_bench.report.arrange import Setting, arrange
from mlecs_bench.report.csv_text import table_csv
from mlecs_bench.report.frame import build_rows
from mlecs_bench.report.markdown import table_markdown
from mlecs_bench.report.steps import COLUMNS, steps_table
from study_records import five, number_at, runs

Logs = dict[str, dict[str, float]]


def with_logs(record: dict[str, Any], *rounds: Logs) -> dict[str, Any]:
    """Return a record whose rounds logged this, by party."""
    entries = [{"round": t, "losses": losses} for t, losses in enumerate(rounds, start=1)]
    return {**record, "metrics": {**record["metrics"], "rounds": entries}}


def setting_of(*records: dict[str, Any]) -> Setting:
    (found,) = arrange(build_rows(records), "ml-ecs")
    return found


def edited(seed: int, values: list[float], **changes: Any) -> dict[str, Any]:
    """Return a record of one run in which a device logged these edits, round by round, none in the first."""
    (record,) = runs("fedilora", [0.3], [seed], server=False, **changes)
    return with_logs(record, {"d00": {"private": 2.0}}, *({"d00": {"private": 1.0, "edits": v}} for v in values))


def test_it_says_in_how_many_device_rounds_a_step_acted_and_by_how_much():
    table = steps_table(setting_of(edited(27, [0, 1, 0]), edited(34, [1, 0, 0]), edited(27, [0, 0, 0], rho=0.8)))
    numbers = [number_at(table, ("devices", "edits"), column) for column in COLUMNS]
    assert [n.value for n in numbers] == pytest.approx([2 / 9, 0, 1, 9, 2])
    assert [n.text for n in numbers] == ["0.222", "0", "1", "9", "2"]
    assert number_at(table, ("devices", "private"), ("rounds",)).value == 12, "edits are logged from round 2 on"
    assert {len(n.records) for n in numbers} == {3}


def test_small_numbers_keep_their_digits():
    (record,) = runs("fedmllm", [0.3], [27], server=False)
    table = steps_table(setting_of(with_logs(record, {"d00": {"share": 0.00123}, "d01": {"share": 0.00456}})))
    shown = [number_at(table, ("share",), column).text for column in (("mean",), ("least",), ("most",))]
    assert shown == ["0.0029", "0.00123", "0.00456"]
    assert "0.00123" in table_markdown(table)
    assert "0.00123" in table_csv(table, {})


def test_devices_come_before_the_server_and_names_in_the_order_they_are_logged():
    (record,) = runs("ml-ecs", [0.3], [27])
    logs = {"server": {"se-ccl": 3.0, "se-ccl/llm": 1.0}, "d00": {"ccl": 2.0, "amt": 1.0}, "d01": {"ccl": 4.0}}
    table = steps_table(setting_of(with_logs(record, logs)))
    assert [line.labels[2:] for line in table.lines] == [
        ("devices", "ccl"), ("devices", "amt"), ("server", "se-ccl"), ("server", "se-ccl/llm"),
    ]  # fmt: skip  # parties and names
    assert number_at(table, ("devices", "ccl"), ("mean",)).value == 3.0


def test_algorithms_are_lines_apart():
    one, other = (with_logs(*runs(algo, [0.3], [27]), {"d00": {"private": v}}) for algo, v in (("a", 1.0), ("b", 2.0)))
    table = steps_table(setting_of(one, other))
    assert [(line.labels[1], line.contents[0].value) for line in table.lines] == [("a", 1.0), ("b", 2.0)]


def test_without_any_log_there_is_no_table():
    assert steps_table(setting_of(*five())) is None
