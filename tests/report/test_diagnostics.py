"""Diagnostic scores in tables and CSV, how metrics read texts in captions, and targets that a scorer does not see."""

from __future__ import annotations

import csv
import io

from hand_made import make_record, with_identity
from mlecs_bench.report.arrange import NO_CARDS, Cards, arrange
from mlecs_bench.report.build import Wanted, build_report, build_table
from mlecs_bench.report.csv_text import table_csv
from mlecs_bench.report.frame import build_rows
from mlecs_bench.seeds import PROTOCOL_SEEDS

DEVICES = ("d00", "d01", "d02")


def diagnosed(seed: int = 27) -> dict:
    """Return a record with a recall of its devices before the last broadcast, and of its server."""
    record = make_record(seed=seed)
    recall = {"value": 0.5, "n": 10, "higher_is_better": True}
    record["metrics"]["client"]["local"]["recall_red"] = dict.fromkeys(DEVICES, recall)
    record["metrics"]["server"]["recall_red"] = {**recall, "value": 0.75}
    return record


def the_table(diagnostics: bool, cards: Cards = NO_CARDS):
    built = build_report([diagnosed()], "t", Wanted(("local",), diagnostics=diagnostics), cards)
    return next(table for table in built.tables() if table.name.startswith("scores")), built.record_sets()


def columns_in_csv(table, sets) -> dict[str, str]:
    return {row["column"]: row["value"] for row in csv.DictReader(io.StringIO(table_csv(table, sets)))}


def test_diagnostic_scores_are_in_tables_where_they_are_asked_for_and_always_in_csv():
    assert "recall_red" not in build_table([diagnosed()], ("local",))
    assert "recall_red" in build_table([diagnosed()], ("local",), diagnostics=True)
    (plain, sets), (full, full_sets) = the_table(diagnostics=False), the_table(diagnostics=True)
    new = [path for path in full.columns if path not in plain.columns]
    assert new == [("recall_red", stat) for stat in ("avg", "server")]
    assert columns_in_csv(plain, sets) == columns_in_csv(full, full_sets)
    assert columns_in_csv(plain, sets)["recall_red / server"] == "0.75"
    assert columns_in_csv(plain, sets)["recall_red / avg"] == "0.5"


def test_without_any_a_table_is_what_it_was():
    built = build_report([make_record()], "t", Wanted(("local",)))
    (table,) = [table for table in built.tables() if table.whole]
    assert not [path for path in table.whole.columns if path[0] not in ("rouge_lsum", *(p[0] for p in table.columns))]


def test_the_caption_says_how_a_metric_reads_texts():
    cards = Cards(readings={"rouge_lsum": "sentences: a line is one", "bertscore": "none here"})
    assert the_table(False, cards)[0].caption.endswith(
        "server; then mean ± sd (ddof = 1) over seeds. rouge_lsum: sentences: a line is one."
    )


def test_a_scorer_that_does_not_see_targets_is_named_below_the_table():
    record = make_record()
    record["metrics"]["client"]["local"]["rouge_lsum"]["d01"]["unseen"] = 4
    shown = build_table([record], ("local",))
    assert "warning: rouge_lsum sees nothing of 4 of the 10 targets of a party" in " ".join(shown.split())
    assert "sees nothing" not in build_table([make_record()], ("local",))


def test_data_with_a_further_metric_is_called_by_it():
    more = make_record(algo="standalone", scorers={"rouge_lsum": "r 1", "accuracy": "a long identity"})
    usual = [make_record(seed=seed, scorers={"rouge_lsum": "r 1"}) for seed in PROTOCOL_SEEDS]
    (setting,) = arrange(build_rows([more, *usual]), "ml-ecs")
    assert sorted(data.label for data in setting.data) == ["vast", "vast (with accuracy)"]
    other = with_identity(more, scorers={"rouge_lsum": "r 2"})
    (setting,) = arrange(build_rows([more, other]), "ml-ecs")
    assert {data.label for data in setting.data} == {"vast (scorers.rouge_lsum r 1)", "vast (scorers.rouge_lsum r 2)"}
