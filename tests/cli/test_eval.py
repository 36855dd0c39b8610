"""`mlecs-bench eval`: saved models score what they scored in their run, and meet other data only if these fit."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
from click.testing import CliRunner

from mlecs_bench.cli.main import cli
from mlecs_bench.data.samples import save_prepared
from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import UsageError
from mlecs_bench.execution.cell import run_job
from mlecs_bench.execution.saved_scores import How, score_saved
from mlecs_bench.federation.fleet import open_samples
from mlecs_bench.records.names import models_path
from mlecs_bench.testing import toy
from mlecs_bench.testing.cells import toy_jobs
from mlecs_bench.testing.installed import DATASET, installed


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with a record and its models, the record, its file and the job."""
    out = tmp_path_factory.mktemp("saved")
    with installed():
        (job,) = toy_jobs(out, algo="ml-ecs", n_devices=2)
        job = dataclasses.replace(job, execution=dataclasses.replace(job.execution, save_models=True))
        told = []
        run_job(job, told.append)
    result = told[-1].values
    assert result["error"] is None, result["error"]
    return out, result["record"], result["path"], job


@pytest.mark.slow
def test_a_record_says_who_held_what_and_a_saved_model_scores_by_what_was_held_in_the_last_round(tmp_path):
    changes = {"rho": 1, "rounds": 3, "schedule": {"d0": {2: ["text"], 3: ["audio", "text"]}}, "robustness": True}
    with installed():
        (job,) = toy_jobs(tmp_path, algo="ml-ecs", **changes)
        job = dataclasses.replace(job, execution=dataclasses.replace(job.execution, save_models=True))
        told = []
        run_job(job, told.append)
    assert told[-1].values["error"] is None
    record, everything = told[-1].values["record"], list(toy.NAMES)
    rounds = [everything, ["text"], ["audio", "text"]]
    assert record["realised"]["modalities_by_round"] == {"d00": rounds, "d01": [everything] * 3}
    assert record["realised"]["rate_by_round"] == [1.0, 4 / 6, 5 / 6]
    assert record["realised"]["modalities"] == {"d00": everything, "d01": everything}
    assert record["identity"]["conditions"]["schedule"]["devices"] == {"d00": {"2": ["text"], "3": ["audio", "text"]}}
    without, received = record["metrics"]["without"], record["metrics"]["client"]["received"]
    for metric, by_device in received.items():
        assert without["video"]["client"][metric]["d00"] == by_device["d00"], "it holds no video in the last round"
        assert all(one["client"][metric].keys() == by_device.keys() for one in without.values())
    models = {one["device"]: one for one in scored((tmp_path, None, None, job), str(tmp_path))}
    assert models["d00"]["modalities"] == ["audio", "text"]
    assert all(one["scores"] == one["recorded"] for one in models.values())


def scored(saved, *arguments: str) -> list[dict]:
    with installed():
        result = CliRunner().invoke(
            cli,
            ["eval", *arguments, "--json", "--cache-dir", str(saved[3].execution.cache_dir)],
            catch_exceptions=False,
        )
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["models"]


def test_on_the_data_of_the_run_every_model_scores_what_its_record_says_bit_for_bit(saved):
    out, record, path, _ = saved
    models = scored(saved, str(out))
    assert [one["device"] for one in models] == ["d00", "d01", "server"]
    for one in models:
        device = one["device"]
        received = record["metrics"]["client"]["received"]
        expected = record["metrics"]["server"] if device == "server" else {m: by[device] for m, by in received.items()}
        assert one["scores"] == expected == one["recorded"]
        assert (one["same_data"], one["n"]) == (True, record["realised"]["samples"][device]["test"])
    assert scored(saved, str(models_path(path) / "d01")) == [{**models[1], "folder": str(models_path(path) / "d01")}]
    (few,) = scored(saved, str(out), "--party", "server", "--limit-test", "2")
    assert few["n"] == 2


def test_other_data_are_scored_whole_and_those_that_lack_a_modality_are_refused(saved, tmp_path):
    _, _, path, job = saved
    server = models_path(path) / "server"
    manifest = open_samples(job.data).manifest
    with installed():
        registry = Registry.installed()
        info = registry.dataset(DATASET).info
        columns = toy.make_columns(9)
        other = dataclasses.replace(manifest, n_samples=9, digest="e" * 64)
        prepared = save_prepared(toy.make_table(columns), other, tmp_path / "other")
        (one,) = score_saved([server], info, open_samples(prepared.folder), How(tmp_path), registry)
        assert (one.same, one.n) == (False, 9)
        first = dataclasses.replace(manifest.modalities[0], vocabulary=99)
        changed = dataclasses.replace(other, modalities=(first, *manifest.modalities[1:]))
        wrong = save_prepared(toy.make_table(columns), changed, tmp_path / "wrong")
        with pytest.raises(UsageError, match=rf"server reads {first.name} as .* has it as .*; give data with"):
            score_saved([server], info, open_samples(wrong.folder), How(tmp_path), registry)


def test_text_says_how_scores_stand_to_the_record_and_what_is_no_model_is_refused(saved, tmp_path):
    out, _, path, job = saved
    cache = ["--cache-dir", str(job.execution.cache_dir)]
    with installed():
        text = CliRunner().invoke(cli, ["eval", str(out), *cache], catch_exceptions=False).stdout
        assert text.count("(as in its record)") == 3
        alone = shutil.copytree(models_path(path) / "d00", tmp_path / "d00")
        text = CliRunner().invoke(cli, ["eval", str(alone), *cache], catch_exceptions=False).stdout
        assert "its record is not beside it" in text
        for arguments, expected in (
            ([str(tmp_path / "none")], "holds no saved model; run with --save-models"),
            ([str(out), "--party", "d07"], "holds no model of 'd07'; there are d00, d01, server"),
        ):
            error = CliRunner().invoke(cli, ["eval", *arguments]).exception
            assert isinstance(error, UsageError)
            assert expected in str(error)
