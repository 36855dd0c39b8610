"""`mlecs_bench.run`, `sweep` and `load_records`: the command line's settings and errors, and what they come to."""

from __future__ import annotations

import inspect
import os
import shutil
import warnings
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

import mlecs_bench
from cli_fakes import FakeProtocol, install
from hand_made import make_record
from mlecs_bench.api import (
    ALL_PARTS,
    AlgorithmInfo,
    DatasetInfo,
    FailedCellsError,
    Message,
    RecordError,
    RunSettings,
    Stage,
    UsageError,
    option,
    supervised_loss,
    train_stage,
    with_kind,
)
from mlecs_bench.execution import protocol
from mlecs_bench.plan.settings import SPEC_KEYS
from mlecs_bench.records.results import write_record
from mlecs_bench.session.request import OTHER_KEYS
from mlecs_bench.testing import toy as made

ALPHA: dict[str, Any] = {"algo": "alpha", "dataset": "toy", "rho": 0.5}


@dataclass(frozen=True)
class Options:
    scale: float = option(1.0, help="of the loss", source="ours")


class Mine:
    """Trains, and sends what it has trained."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def broadcast(self, server, t):
        return {}

    def receive(self, device, message, t):
        pass

    def local_update(self, device, t):
        supervised = supervised_loss(device.model, device.train, device.prompt)
        stage = Stage("private", "private", t, device.training.budget.private, [(device.model, ALL_PARTS)])
        train_stage(device, device.train, stage, lambda rows: self.options.scale * supervised(rows))
        return Message(with_kind("lora", device.model.part("lora")))

    def aggregate(self, server, uploads, t):
        pass


class Broken(Mine):
    def aggregate(self, server, uploads, t):
        raise KeyError("my own mistake")


@pytest.fixture
def tiny(tmp_path):
    """Settings of a cell of toys, whose dataset and profile are objects, too."""
    data = DatasetInfo(
        "Two words", "Toy.", "generation", made.NAMES, lambda _: made.prepared(), metrics=("rouge_lsum",)
    )
    profile = replace(made.profile(), rounds=1, steps=1)
    return {"dataset": data, "profile": profile, "rho": 1, "out": tmp_path / "out", "quiet": True, "n_devices": 2}


@pytest.fixture
def fake_run(monkeypatch, tmp_path):
    install(monkeypatch)
    fake = FakeProtocol(tmp_path)
    monkeypatch.setattr(protocol, "run", fake)
    return fake


def test_settings_are_those_of_the_command_line_each_with_a_type():
    names = {*SPEC_KEYS, *OTHER_KEYS}
    assert set(RunSettings.__annotations__) == names, "add what is missing to RunSettings"
    assert set(inspect.signature(mlecs_bench.run).parameters) == {*names, "quiet"}
    of_sweeps = {"quiet", "study", "preset", "blocks", "retry"}
    assert set(inspect.signature(mlecs_bench.sweep).parameters) == names | of_sweeps


def test_a_run_takes_its_settings_as_the_command_does_and_stays_in_this_process(fake_run, tmp_path):
    res = mlecs_bench.run(**ALPHA, seeds=range(2), options={"rank": 4}, out=tmp_path / "o", device_slm={"d1": tmp_path})
    assert res.plan is fake_run.plan
    assert (res.plan.seeds, res.plan.options.rank, res.plan.structures["d01"].slm) == ((0, 1), 4, str(tmp_path))
    assert (fake_run.execution.engine, fake_run.execution.workers) == ("in-process", None)
    assert fake_run.execution.out == res.folder == tmp_path / "o"
    assert [record["identity"]["seed"] for record in res.records] == [0, 1]
    mlecs_bench.run(**ALPHA, n_seeds=1, rounds=None, workers=2)
    assert (fake_run.execution.engine, fake_run.execution.workers) == (None, 2)
    assert fake_run.plan.rounds == fake_run.plan.profile.rounds


def test_a_wrong_request_is_an_error_with_the_line_of_the_command(fake_run):
    for wrong, expected in (
        ({"rho": 1.2}, "rho must be in (0, 1], got 1.2"),
        ({"algo": "alfa"}, "no algorithm 'alfa'. Did you mean 'alpha'?"),
        ({"options": {"rnak": 4}}, "algorithm 'alpha' has no option 'rnak'. Did you mean 'rank'?"),
        ({"options": 4}, "'options' in mlecs_bench.run must be a mapping of names to values, got 4"),
        ({"round": 4}, "mlecs_bench.run has an unknown setting 'round'. Did you mean 'rounds'?"),
        ({"seeds": [1], "n_seeds": 2}, "seeds and n-seeds exclude each other"),
        ({"algo": ["alpha", "beta"]}, "mlecs_bench.run takes one algo, got 2; use mlecs_bench.sweep"),
        ({"workers": 0}, "workers must be a whole number of at least 1, NAME or NAME:ARGUMENT, got 0"),
    ):
        with pytest.raises(UsageError) as caught:
            mlecs_bench.run(**{**ALPHA, **wrong})
        assert str(caught.value).startswith(expected)
    with pytest.raises(UsageError, match="name what to run"):
        mlecs_bench.sweep(algo="alpha")
    with pytest.raises(UsageError, match=r"mlecs_bench\.sweep has an unknown setting 'seed'"):
        mlecs_bench.sweep(**ALPHA, seed=3)


def test_cells_that_fail_raise_when_the_others_are_done_and_defects_show_their_traceback(fake_run):
    fake_run.errors = {34: "training has diverged", 46: "Traceback (most recent call last):\n  File x\nKeyError: 'd00'"}
    with pytest.raises(FailedCellsError) as caught:
        mlecs_bench.run(**ALPHA, n_seeds=4, quiet=True)
    error = caught.value
    assert str(error) == "2 of 4 cells failed: alpha toy rho 0.5 seed 34: training has diverged, and 1 more"
    assert [record["identity"]["seed"] for record in error.result.records] == [27, 52]
    assert [(one.seed, one.reason) for one in error.result.failures] == [
        (34, "training has diverged"), (46, "KeyError: 'd00'"),
    ]  # fmt: skip  # seed and reason
    assert "\n".join(error.__notes__).count("Traceback") == 1
    assert "failed: alpha toy rho 0.5 seed 46: KeyError: 'd00'" in repr(error.result)


def test_progress_is_plain_lines_and_quiet_shows_errors_alone(fake_run, capsys):
    mlecs_bench.run(**ALPHA, n_seeds=1)
    assert capsys.readouterr().err.splitlines()[0] == "alpha on toy, rho 0.5, seeds 27; packages are being loaded"
    mlecs_bench.run(**ALPHA, n_seeds=1, quiet=True)
    assert capsys.readouterr() == ("", "")


def test_a_process_that_was_borrowed_is_left_as_it_was(fake_run, monkeypatch):
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "info")
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    before, threads = dict(os.environ), torch.get_num_threads()
    during = {}

    def spy(plan, execution, observers, registry=None):
        torch.set_num_threads(2)
        during.update(os.environ)
        raise UsageError("stop")

    monkeypatch.setattr(protocol, "run", spy)
    with pytest.raises(UsageError, match="stop"):
        mlecs_bench.run(**ALPHA, quiet=True)
    assert (during["TQDM_DISABLE"], during["TRANSFORMERS_VERBOSITY"]) == ("1", "info")
    assert dict(os.environ) == before
    assert torch.get_num_threads() == threads


# objects


@pytest.mark.slow
def test_a_class_dataset_and_profile_of_a_notebook_run_and_their_records_say_so(tiny):
    res = mlecs_bench.run(algo=Mine, seeds=[3], options={"scale": 2.0}, **tiny)
    (record,) = res.records
    algo = record["identity"]["algo"]
    assert (algo["name"], algo["distribution"], len(algo["code"])) == ("Mine (unregistered)", "unregistered", 64)
    assert (algo["options"], record["identity"]["dataset"]["name"]) == ({"scale": 2.0}, "Two words (unregistered)")
    assert "Mine (unregistered)" in repr(res)
    assert "<td>Mine (unregistered)" in res._repr_html_()
    frame = res.to_dataframe()
    assert set(frame.algo) == {"Mine (unregistered)"}
    assert set(frame.variant) == {"scale=2.0, profile=toy"}
    written = {path.stat().st_mtime_ns for path in tiny["out"].glob("records/*.json")}
    again = mlecs_bench.run(algo=Mine, seeds=[3], options={"scale": 2.0}, **tiny)
    assert again.records[0]["key"] == record["key"]
    assert {path.stat().st_mtime_ns for path in tiny["out"].glob("records/*.json")} == written

    class Edited(Mine):
        """The same name, and another program."""

        def receive(self, device, message, t):
            assert t

    Edited.__name__ = "Mine"
    other = mlecs_bench.run(algo=Edited, seeds=[3], options={"scale": 2.0}, **tiny)
    assert other.records[0]["key"] != record["key"]
    both = mlecs_bench.load_records(tiny["out"]).to_dataframe()
    assert both.groupby("variant").key.nunique().tolist() == [1, 1], "a variant tells them apart"


@pytest.mark.slow
def test_a_sweep_keeps_what_failed_in_its_results_and_tries_it_again_when_asked(tiny):
    lists = {"algo": [Mine, Broken], "seeds": [3], **tiny}
    study = mlecs_bench.sweep(**lists)
    assert [record["identity"]["algo"]["name"] for record in study.records] == ["Mine (unregistered)"]
    (failed,) = study.failures
    assert (failed.seed, failed.reason) == (3, "KeyError: 'my own mistake'")
    assert failed.cell.startswith("Broken (unregistered) Two words (unregistered) rho 1 seed 3")
    assert "not tried again" in mlecs_bench.sweep(**lists).failures[0].error
    assert "not tried again" not in mlecs_bench.sweep(**lists, retry="failed").failures[0].error
    with pytest.raises(FailedCellsError, match=r"1 of 1 cells failed: Broken .* KeyError: 'my own mistake'") as caught:
        mlecs_bench.run(**{**lists, "algo": Broken})
    assert "raise KeyError" in "\n".join(caught.value.__notes__)


def test_an_object_that_other_processes_cannot_have_is_refused_in_one_line(tiny):
    for places in ({"workers": 2}, {"workers": "processes"}, {"fleet": "processes:2"}):
        with pytest.raises(UsageError) as caught:
            mlecs_bench.run(algo=Mine, **tiny, **places)
        assert "is an object of this process and cannot be had in those of" in str(caught.value)
        assert str(caught.value).endswith(
            "leave workers and fleet out, or make a plugin of it: mlecs-bench new-plugin NAME"
        )
    with pytest.raises(UsageError, match="two different objects are called Mine"):
        mlecs_bench.sweep(algo=[Mine, AlgorithmInfo("Mine", "", build=Mine)], **tiny)


# records


def test_records_are_read_from_all_folders_below_with_the_strictness_of_a_report(tmp_path):
    for folder, seed in (("a", 27), ("b/deeper", 34), ("", 46)):
        write_record(tmp_path / folder, make_record(seed=seed))
    (tmp_path / "b" / "report").mkdir()
    (tmp_path / "b" / "report" / "report.json").write_text("{}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = mlecs_bench.load_records(str(tmp_path))
    assert sorted(record["identity"]["seed"] for record in found.records) == [27, 34, 46]
    assert (len(found), found.problems, found.failures) == (3, [], [])
    path = next((tmp_path / "a").glob("records/*.json"))
    (tmp_path / "c").mkdir()
    shutil.copy(path, tmp_path / "c" / path.name)
    path.with_name(path.name.replace("27", "28")).write_text("{}")
    (tmp_path / "empty").mkdir()
    with pytest.warns(UserWarning, match="repeats|is no record") as told:
        found = mlecs_bench.load_records(tmp_path)
    assert len(found) == 3
    assert [str(one.message) for one in told] == list(found.problems)
    assert any("repeats the cell of" in problem for problem in found.problems)
    assert any("is no record" in problem for problem in found.problems)
    for wrong, error in ((tmp_path / "none", UsageError), (path, UsageError), (tmp_path / "empty", RecordError)):
        with pytest.raises(error):
            mlecs_bench.load_records(wrong)


@pytest.mark.slow
def test_the_report_of_a_folder_is_that_of_the_command(study_folder, tmp_path):
    written = mlecs_bench.report(study_folder, output=tmp_path / "mine")
    theirs = study_folder / "report"
    assert {path.name for path in written.paths} == {path.name for path in theirs.iterdir()}
    assert written.markdown == (theirs / "report.md").read_text() == written._repr_markdown_()
    assert (written.page, repr(written)) == (
        tmp_path / "mine" / "index.html",
        f"report of {len(written.paths)} files in {tmp_path / 'mine'}; open {tmp_path / 'mine' / 'index.html'}",
    )
    table = next(name for name in written.frames if name.startswith("scores"))
    frame = written.frames[table]
    assert {"algorithm", "column", "value", "sd", "n"} <= set(frame.columns)
    with pytest.raises(UsageError, match="is no folder"):
        mlecs_bench.report(tmp_path / "none")
    with pytest.raises(UsageError, match="eval-point must be local or received, got last"):
        mlecs_bench.report(study_folder, eval_point="last")


def test_the_package_of_reports_and_the_function_of_its_name_live_together():
    from mlecs_bench.report import build

    assert callable(mlecs_bench.report)
    assert mlecs_bench.report.build is build
    assert set(dir(mlecs_bench)) >= {"run", "sweep", "load_records", "report"}
    with pytest.raises(AttributeError, match="mlecs_bench has no 'runn'"):
        _ = mlecs_bench.runn
