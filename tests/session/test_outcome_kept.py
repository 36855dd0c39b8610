"""What `run` and `sweep` say at their end beside the scores."""

from __future__ import annotations

from pathlib import Path

from hand_made import make_record
from mlecs_bench.execution.jobs import CellResult
from mlecs_bench.records.names import MOST_ANSWERS, models_path
from mlecs_bench.records.predictions import predictions_path
from mlecs_bench.session.outcome import lacking_lines, scoring_line
from mlecs_bench.session.request import Places


def timed(training: float, evaluation: float) -> dict:
    return {**make_record(), "cost": {"seconds": {"training": training, "evaluation": evaluation}, "steps": {}}}


def test_a_run_says_once_that_scoring_took_longer_than_training_and_else_nothing():
    assert scoring_line([timed(40, 30), timed(10, 40)]) == (
        "Scoring took longer (70 s) than training (50 s): --limit-test N scores fewer samples."
    )
    for records in ([timed(40, 30), timed(40, 30)], [timed(5, 5)], [timed(1, 9)], [make_record()], []):
        assert scoring_line(records) == ""


def places(tmp_path: Path, predictions: bool | None, models: bool) -> Places:
    return Places(tmp_path, tmp_path, None, None, "in-process", save_predictions=predictions, save_models=models)


def test_a_skipped_cell_without_what_is_to_be_kept_says_how_to_get_it(tmp_path):
    record, path = make_record(), tmp_path / "a--1.json"
    found = CellResult(27, path, record, skipped=True)
    hint = "into another --out, or again after deleting a--1.json."
    assert lacking_lines([found, found], places(tmp_path, None, True)) == [
        f"2 cells were skipped without answers to keep: run the same with --save-predictions {hint}",
        f"2 cells were skipped without models to save: run the same with --save-models {hint}",
    ]
    assert lacking_lines([found], places(tmp_path, False, False)) == []
    assert lacking_lines([CellResult(27, path, record)], places(tmp_path, True, True)) == []
    many = {**record, "realised": {"samples": {"server": {"train": 1, "test": MOST_ANSWERS + 1}}}}
    large = CellResult(27, path, many, skipped=True)
    assert lacking_lines([large], places(tmp_path, None, False)) == []
    assert len(lacking_lines([large], places(tmp_path, True, False))) == 1
    predictions_path(path).touch()
    models_path(path).mkdir()
    assert lacking_lines([found], places(tmp_path, True, True)) == []
