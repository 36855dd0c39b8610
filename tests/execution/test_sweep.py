"""Sweeps: which cells are run and which are not, what a cell that goes wrong costs, and going on after a stop.

Hand-made jobs are fed to workers that only pretend, then specs. What real processes do stands in test_protocol.py.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import types
from pathlib import Path

import pytest

from cli_fakes import Alpha, install
from mlecs_bench.cli.sweep import _result_text
from mlecs_bench.doors.events import Event
from mlecs_bench.doors.hookspecs import WorkersInfo
from mlecs_bench.doors.registry import PluginEntry, Registry
from mlecs_bench.errors import UsageError
from mlecs_bench.execution import protocol, sweep, workers
from mlecs_bench.execution.jobs import CellResult, Execution, unplanned_ref
from mlecs_bench.federation.checkpoint import cell_lock, checkpoint_folder
from mlecs_bench.plan.spec import RunSpec
from mlecs_bench.records import failures
from mlecs_bench.records.failures import read_failures, write_failure
from mlecs_bench.records.results import find_record, write_record
from mlecs_bench.session.request import Places
from mlecs_bench.testing import toy as made
from sweep_fakes import (
    BEFORE,
    ENTRIES_OF_WORDS,
    SEEDS,
    START,
    Pretending,
    Watcher,
    Words,
    make_jobs,
    record_of,
    spec_of,
)


@pytest.fixture
def watcher():
    return Watcher()


@pytest.fixture(autouse=True)
def _times(monkeypatch):
    """Failures end before the sweep starts, unless a test says otherwise; nothing is waited for."""
    monkeypatch.setattr(failures, "now", lambda: BEFORE)
    monkeypatch.setattr(sweep, "RECHECK_SECONDS", 0.0)


def run(jobs_, pretending, watcher, **changes) -> list[CellResult]:
    return sweep.run_jobs(jobs_, pretending.make, watcher.manager, **changes)


def errors(results) -> list[str | None]:
    return [result.error for result in results]


# What is run


def test_every_cell_is_run_and_the_results_come_in_the_order_of_the_jobs(tmp_path, watcher):
    pretending = Pretending(size=2)
    results = run(make_jobs(tmp_path, seeds=(46, 27, 34)), pretending, watcher)
    assert [(r.seed, r.record["identity"]["seed"], r.skipped) for r in results] == [
        (46, 46, False), (27, 27, False), (34, 34, False),
    ]  # fmt: skip  # one row per cell
    assert (pretending.made_for, pretending.started, pretending.stopped) == ([3], [46, 27, 34], 1)


def test_a_cell_that_has_a_record_is_skipped(tmp_path, watcher):
    path = write_record(tmp_path, record_of(34))
    pretending = Pretending()
    results = run(make_jobs(tmp_path), pretending, watcher)
    assert (results[1].path, results[1].record, results[1].skipped) == (path, record_of(34), True)
    assert (pretending.made_for, pretending.started) == ([2], [27, 46])
    assert ("end", 34, True, None) in watcher.told
    assert not any(told[:2] == ("cell_start", 34) for told in watcher.told)


def test_what_a_kill_left_of_a_cell_with_a_record_goes_unless_a_process_has_it(tmp_path, watcher):
    ours, theirs = make_jobs(tmp_path, seeds=(27, 34))
    for job, seed in ((ours, 27), (theirs, 34)):
        write_record(tmp_path, record_of(seed))
        folder = checkpoint_folder(tmp_path, job.key)
        folder.mkdir(parents=True)
        (folder / "server.safetensors").touch()
    checkpoint_folder(tmp_path, ours.key).with_suffix(".lock").write_text("{}")
    os.utime(checkpoint_folder(tmp_path, ours.key).with_suffix(".lock"), (0, 0))
    with cell_lock(checkpoint_folder(tmp_path, theirs.key)):
        run([ours, theirs], Pretending(), watcher)
        left = {path.name for path in (tmp_path / ".checkpoints").iterdir()}
    assert left == {theirs.key[:16], f"{theirs.key[:16]}.lock"}


def test_no_worker_is_needed_when_every_cell_has_a_record(tmp_path, watcher):
    for seed in SEEDS:
        write_record(tmp_path, record_of(seed))
    for retry in (True, False):
        pretending = Pretending()
        results = run(make_jobs(tmp_path, retry), pretending, watcher)
        assert [(result.seed, result.skipped) for result in results] == [(27, True), (34, True), (46, True)]
        assert pretending.made_for == []


def test_no_cells_are_no_work(watcher):
    assert run([], Pretending(), watcher) == []
    assert watcher.told == [("cells", [])]


def test_observers_are_told_of_all_cells_first_and_of_those_that_had_ended(tmp_path, watcher):
    write_record(tmp_path, record_of(34))
    unloaded = unplanned_ref(RunSpec("gone", "vast", 0.5), 52, {"algo": "gone"})
    run(make_jobs(tmp_path), Pretending(), watcher, ended=[(unloaded, CellResult(52, error="no such module"))])
    assert watcher.told == [
        ("cells", [27, 34, 46, 52]),
        ("end", 52, False, "no such module"),
        ("end", 34, True, None),
        ("end", 27, True, None),
        ("end", 46, True, None),
    ]


def test_the_events_of_a_cell_reach_the_observers_in_their_order_with_its_plan(tmp_path, watcher):
    (job,) = make_jobs(tmp_path, seeds=(27,))
    told = [
        Event("cell_start", job.ref, 1),
        Event("score_end", job.ref, 2, "d00", {"scores": {"rouge_lsum": 0.25}}),
        Event("device_end", job.ref, 2, "d00", {"losses": {"supervised": 1.5}}),
        Event("round_end", job.ref, 2, values={"scores": {"rouge_lsum": 0.25}}),
        Event("score_end", job.ref, 3, "d00"),
    ]
    pretending = Pretending(seed27=lambda job: [pretending._tell(event) for event in told] and None)
    run([job], pretending, watcher)
    assert watcher.told[1:] == [
        ("cell_start", 27, 1, "", {}),
        ("score_end", 27, 2, "d00", {"scores": {"rouge_lsum": 0.25}}),
        ("device_end", 27, 2, "d00", {"losses": {"supervised": 1.5}}),
        ("round_end", 27, 2, "", {"scores": {"rouge_lsum": 0.25}}),
        ("score_end", 27, 3, "d00", {}),
        ("end", 27, True, None),
    ]
    assert watcher.plans == [None, *[job.plan] * 6]


# Failures


def test_a_cell_that_fails_costs_only_itself_and_leaves_a_failure(tmp_path, watcher):
    results = run(make_jobs(tmp_path), Pretending(seed34="training has diverged"), watcher)
    assert errors(results) == [None, "training has diverged", None]
    assert [bool(result.record) for result in results] == [True, False, True]
    (failure,) = read_failures(tmp_path)[0]
    assert (failure.identity["seed"], failure.error, failure.attempts) == (34, "training has diverged", 1)
    assert ("end", 34, False, "training has diverged") in watcher.told


def test_a_cell_that_failed_before_is_not_run_again_unasked(tmp_path, watcher):
    run(make_jobs(tmp_path), Pretending(seed34="training has diverged"), watcher)
    pretending = Pretending()
    results = run(make_jobs(tmp_path, retry=False), pretending, watcher)
    assert pretending.made_for == []
    told = f"training has diverged (failed before, at {BEFORE}; not tried again)"
    assert (results[1].error, results[1].skipped, results[1].record) == (told, True, None)
    assert read_failures(tmp_path)[0][0].attempts == 1  # it was not tried
    assert watcher.told[-3:].count(("end", 34, False, told)) == 1


def test_a_damaged_record_costs_its_own_cell_only_and_is_left_as_it_is(tmp_path, watcher):
    jobs = make_jobs(tmp_path)
    run(jobs, Pretending(), watcher)
    damaged, missing = (find_record(tmp_path, record_of(seed)["identity"]) for seed in (27, 46))
    damaged.write_text("{")
    missing.unlink()
    results = run(jobs, Pretending(), watcher)
    assert results[0].error == f"{damaged} is cut off; delete it and run its cell again"
    assert [result.record is not None for result in results] == [False, True, True]
    assert (damaged.read_text(), read_failures(tmp_path)) == ("{", ([], []))


def test_a_retry_runs_the_failed_cells_only_and_forgets_what_has_a_record_now(tmp_path, watcher):
    run(make_jobs(tmp_path), Pretending(seed27="no", seed34="no"), watcher)
    pretending = Pretending(seed27="still not")
    results = run(make_jobs(tmp_path, retry=True), pretending, watcher)
    assert pretending.started == [27, 34]
    assert errors(results) == ["still not", None, None]
    assert [(f.identity["seed"], f.error, f.attempts) for f in read_failures(tmp_path)[0]] == [(27, "still not", 2)]
    run(make_jobs(tmp_path, retry=True), Pretending(), watcher)
    assert not (tmp_path / "failures").exists()


def test_a_failure_whose_cell_has_a_record_is_forgotten(tmp_path, watcher):
    write_failure(tmp_path, record_of(27)["identity"], "no")
    write_record(tmp_path, record_of(27))
    (result,) = run(make_jobs(tmp_path, retry=False, seeds=(27,)), Pretending(), watcher)
    assert (result.error, result.skipped) == (None, True)
    assert not (tmp_path / "failures").exists()


# Beside another sweep


def test_a_cell_that_another_process_runs_is_put_aside_until_it_is_free(tmp_path, watcher):
    jobs_ = make_jobs(tmp_path)
    lock = cell_lock(checkpoint_folder(tmp_path, jobs_[0].key))
    lock.__enter__()
    # The other process is killed while the last of the other cells runs.
    pretending = Pretending(seed46=lambda job: lock.__exit__(None, None, None) or None)
    results = run(jobs_, pretending, watcher)
    assert pretending.started == [34, 46, 27]
    assert errors(results) == [None, None, None]


def test_a_cell_that_another_process_has_finished_is_not_run(tmp_path, watcher):
    jobs_ = make_jobs(tmp_path)
    lock = cell_lock(checkpoint_folder(tmp_path, jobs_[0].key))
    lock.__enter__()

    def finished(job):
        path = write_record(tmp_path, record_of(27))
        lock.__exit__(None, None, None)
        assert path.exists()

    pretending = Pretending(seed46=finished)
    results = run(jobs_, pretending, watcher)
    assert pretending.started == [34, 46]
    assert (results[0].record, results[0].skipped) == (record_of(27), True)


def test_a_cell_that_has_just_failed_in_another_process_is_not_tried_at_once(tmp_path, watcher, monkeypatch):
    monkeypatch.setattr(failures, "now", lambda: START)
    for retry in (True, False):
        out = tmp_path / str(retry)
        jobs_ = make_jobs(out, retry)
        lock = cell_lock(checkpoint_folder(out, jobs_[0].key))
        lock.__enter__()

        def failed(job, out=out, lock=lock):
            write_failure(out, record_of(27)["identity"], "training has diverged")
            lock.__exit__(None, None, None)

        pretending = Pretending(seed46=failed)
        results = run(jobs_, pretending, watcher)
        assert pretending.started == [34, 46]
        assert (results[0].error.partition(" (")[0], results[0].skipped) == ("training has diverged", True)
        assert read_failures(out)[0][0].attempts == 1


def test_a_cell_that_ended_elsewhere_while_it_had_to_wait_is_not_run(tmp_path, watcher, monkeypatch):
    monkeypatch.setattr(failures, "now", lambda: START)
    for retry in (True, False):
        out = tmp_path / str(retry)

        def meanwhile(job, out=out):
            write_failure(out, record_of(34)["identity"], "training has diverged")
            write_record(out, record_of(46))

        pretending = Pretending(seed27=meanwhile)
        results = run(make_jobs(out, retry), pretending, watcher)
        assert pretending.started == [27]
        assert [e and e.partition(" (")[0] for e in errors(results)] == [None, "training has diverged", None]
        assert read_failures(out)[0][0].attempts == 1


def test_a_cell_that_another_process_took_a_moment_before_is_put_aside(tmp_path, watcher):
    in_use = CellResult(27, error="another process is running this cell", in_use=True)
    pretending = Pretending(seed27=[in_use, in_use, None])
    results = run(make_jobs(tmp_path), pretending, watcher)
    assert pretending.started == [27, 34, 46, 27, 27]  # cells that nobody has come first
    assert errors(results) == [None, None, None]
    assert [told for told in watcher.told if told[:2] == ("end", 27)] == [("end", 27, True, None)]
    assert not (tmp_path / "failures").exists()


def test_a_cell_in_use_is_left_alone_for_some_seconds(tmp_path, watcher, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(sweep, "RECHECK_SECONDS", 2.0)
    monkeypatch.setattr(sweep.time, "monotonic", lambda: clock[0])
    looked = []
    monkeypatch.setattr(sweep, "cell_in_use", lambda path: looked.append(clock[0]) or clock[0] < 6)
    pretending = Pretending()
    wait = pretending.wait
    monkeypatch.setattr(pretending, "wait", lambda seconds: (clock.append(clock.pop() + 0.5), wait(seconds)))
    run(make_jobs(tmp_path, seeds=(27,)), pretending, watcher)
    assert looked == [0.0, 2.0, 4.0, 6.0]


# Stops


def test_ctrl_c_counts_what_is_done_stops_the_workers_and_keeps_it(tmp_path, watcher):
    pretending = Pretending(seed27="no", seed46=KeyboardInterrupt())
    with pytest.raises(sweep.Interrupted) as caught:
        run(make_jobs(tmp_path, seeds=(27, 34, 46, 52)), pretending, watcher)
    assert (caught.value.done, caught.value.total, caught.value.exit_code) == (2, 4, 130)
    assert str(caught.value) == (
        "interrupted: 2 of 4 cells are done. Every finished round is kept; run the same command again to go on."
    )
    assert pretending.stopped == 1
    assert [failure.identity["seed"] for failure in read_failures(tmp_path)[0]] == [27]
    again = Pretending()
    run(make_jobs(tmp_path, retry=False, seeds=(27, 34, 46, 52)), again, watcher)
    assert again.started == [46, 52]


def test_a_signal_of_a_batch_system_is_named_in_the_line_that_ends_the_sweep(tmp_path, watcher):
    with pytest.raises(sweep.Interrupted, match=r"^interrupted by SIGUSR1: 0 of 1 cells are done\. Every"):
        run(make_jobs(tmp_path, seeds=(27,)), Pretending(seed27=KeyboardInterrupt("SIGUSR1")), watcher)


def test_ctrl_c_counts_cells_that_were_there(tmp_path, watcher):
    for seed in (34, 46):
        write_record(tmp_path, record_of(seed))
    with pytest.raises(sweep.Interrupted) as caught:
        run(make_jobs(tmp_path), Pretending(seed27=KeyboardInterrupt()), watcher)
    assert (caught.value.done, caught.value.total) == (2, 3)


def test_the_workers_are_stopped_when_an_observer_breaks(tmp_path, watcher):
    pretending = Pretending(seed34=ZeroDivisionError("a defect"))
    with pytest.raises(ZeroDivisionError):
        run(make_jobs(tmp_path), pretending, watcher)
    assert pretending.stopped == 1


# Workers in this process


def test_a_worker_in_this_process_runs_the_job_it_was_given(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "run_job", lambda job, tell, registry: tell((job.seed, registry)))
    told, registry = [], Registry([])
    here = workers.InProcess(told.append, registry)
    assert here.free == 1
    here.start(make_jobs(tmp_path)[0])
    assert (here.free, told) == (0, [])
    here.wait(0)
    assert (here.free, told) == (1, [(27, registry)])
    here.start(make_jobs(tmp_path)[1])
    here.stop()
    here.wait(0)
    assert (here.free, told) == (1, [(27, registry)])


# From specs to cells


@pytest.fixture
def words(monkeypatch, prepared):
    """Let `alpha` and a dataset `words` be installed, and `gone`, whose module is not there."""
    install(monkeypatch, ENTRIES_OF_WORDS)
    sys.modules["acme_plugins"].words = dataset = Words(prepared)
    return dataset


@pytest.fixture
def local(monkeypatch):
    """Workers that pretend take the place of processes; `made` says with what they were made."""
    pretending = Pretending()
    pretending.made = []

    def make(size, threads, tell, gpus):
        pretending.made.append((size, threads, list(gpus)))
        return pretending.make(size, tell)

    monkeypatch.setattr(workers, "LocalWorkers", make)
    return pretending


def sweep_of(out: Path, specs, watcher, **changes):
    cells = protocol.sweep(specs, Execution(out, out / "cache", **changes), watcher.manager)
    return [(ref.algo, ref.rho, ref.seed, result.error) for ref, result in cells]


@pytest.fixture
def ill(local):
    """Let every cell that is begun fail with its seed."""
    local.ends = {seed: f"no {seed}" for seed in (27, 34, 46)}
    return local


@pytest.mark.usefixtures("words")
def test_a_cell_that_two_specs_name_is_run_once(tmp_path, watcher, ill):
    specs = [spec_of(seeds=(27, 34)), spec_of(rho=0.7), spec_of(seeds=(34, 46), rounds=4)]
    specs.insert(2, dataclasses.replace(specs[0], seeds=(34, 46), device="cpu", split="frame"))
    cells = sweep_of(tmp_path, specs, watcher)
    assert cells == [
        ("alpha", "0.5", 27, "no 27"),
        ("alpha", "0.5", 34, "no 34"),
        ("alpha", "0.7", 27, "no 27"),
        ("alpha", "0.5", 46, "no 46"),
        ("alpha", "0.5", 34, "no 34"),  # with other rounds
        ("alpha", "0.5", 46, "no 46"),
    ]
    assert ill.started == [27, 34, 27, 46, 34, 46]


@pytest.mark.usefixtures("ill")
def test_data_that_specs_share_is_prepared_once(tmp_path, watcher, words):
    sweep_of(tmp_path, [spec_of(), spec_of(rho=0.7), spec_of(n_devices=5)], watcher)
    assert words.times == 1


@pytest.mark.usefixtures("words")
def test_a_plugin_that_cannot_be_imported_costs_only_its_own_cells(tmp_path, ill):
    reason = "plugin 'gone' of distribution 'acme' 1.2 failed to import"
    for order in (1, -1):
        out, watcher = tmp_path / str(order), Watcher()
        specs = [spec_of("gone", seeds=(27, 34)), spec_of(seeds=(46,))][::order]
        ill.started.clear()
        cells = sweep_of(out, specs, watcher)
        assert [(algo, seed) for algo, _, seed, _ in cells] == [("alpha", 46), ("gone", 27), ("gone", 34)]
        assert ill.started == [46]
        assert all(reason in error for _, _, _, error in cells[1:])
        found = {(f.identity["algo"]["name"], f.identity["seed"]): f.error for f in read_failures(out)[0]}
        assert found.keys() == {("gone", 27), ("gone", 34), ("alpha", 46)}
        assert reason in found["gone", 27]
        assert ("cells", [46, 27, 34]) in watcher.told[:1]
        assert ("end", 34, False, found["gone", 34]) in watcher.told


@pytest.mark.usefixtures("words")
def test_nothing_is_started_when_no_plugin_can_be_imported(tmp_path, watcher, local):
    assert [seed for _, _, seed, _ in sweep_of(tmp_path, [spec_of("gone")], watcher)] == [27]
    assert local.made == []


@pytest.mark.usefixtures("words", "ill")
def test_the_failure_of_a_plugin_goes_when_it_can_be_imported(tmp_path, watcher, monkeypatch):
    sweep_of(tmp_path, [spec_of("gone")], watcher)
    module = types.ModuleType("acme_gone")
    module.mlecs_algorithm = Alpha().mlecs_algorithm
    monkeypatch.setitem(sys.modules, "acme_gone", module)
    sweep_of(tmp_path, [spec_of("gone")], watcher)
    assert [failure.error for failure in read_failures(tmp_path)[0]] == ["no 27"]


@pytest.mark.usefixtures("words")
def test_a_spec_that_no_cell_could_run_with_ends_the_sweep_before_anything_is_run(tmp_path, watcher, local):
    for wrong in ({"algo": "alfa"}, {"split": "random"}, {"options": {"rnak": 1}}, {"profile": "maxi"}):
        with pytest.raises(UsageError):
            sweep_of(tmp_path, [spec_of(), dataclasses.replace(spec_of(), **wrong)], watcher)
    for wrong in ({"engine": "proceses"}, {"fleet": "in-proces"}, {"fleet": "in-process:2"}):
        with pytest.raises(UsageError):
            sweep_of(tmp_path, [spec_of()], watcher, **wrong)
    assert local.made == []


@pytest.mark.usefixtures("words")
def test_there_are_as_many_workers_as_asked_for_or_cores_but_not_more_than_cells(tmp_path, ill, monkeypatch):
    specs = [spec_of(seeds=(27, 34)), spec_of(seeds=(46,), threads=2)]
    for asked, fleet, cores, size in (
        (8, "in-process", 1, 3), (2, "in-process", 8, 2), (None, "in-process", 2, 2), (None, "in-process", 8, 3),
        (None, "processes:2", 4, 2), (None, "processes:8", 4, 1), (3, "processes:8", 4, 3),
    ):  # fmt: skip  # what is asked for, what there is, and what comes of it
        monkeypatch.setattr(protocol, "usable_cores", lambda cores=cores: cores)
        sweep_of(tmp_path, specs, Watcher(), workers=asked, fleet=fleet)
        assert ill.made.pop() == (size, 2, [])


@pytest.mark.usefixtures("words")
def test_the_workers_that_are_named_are_made_and_only_when_there_is_work(tmp_path, watcher, monkeypatch, local):
    requests = []

    def make(request):
        requests.append(request)
        return Pretending(seed27="no 27").make(request.size, request.tell)

    install(monkeypatch, [*ENTRIES_OF_WORDS, PluginEntry("mine", "workers", "acme", "1.2", "acme_plugins:mine")])
    sys.modules["acme_plugins"].words = Words(None)
    sys.modules["acme_plugins"].mine = WorkersInfo("Mine", "pretend", make)
    assert sweep_of(tmp_path, [], watcher, engine="mine") == []
    assert requests == []
    monkeypatch.setattr(sys.modules["acme_plugins"], "words", Words(made.make_prepared(tmp_path / "words")))
    assert sweep_of(tmp_path, [spec_of()], watcher, engine="mine", workers=4) == [("alpha", "0.5", 27, "no 27")]
    assert [(request.size, request.threads, request.gpus) for request in requests] == [(1, 1, ())]
    assert local.made == []


def test_a_brief_result_says_in_the_end_what_a_whole_one_does(tmp_path, watcher):
    jobs = make_jobs(tmp_path)
    brief = [dataclasses.replace(job, execution=dataclasses.replace(job.execution, brief=True)) for job in jobs]
    whole, short = run(jobs, Pretending(), watcher), run(brief, Pretending(), watcher)
    places = Places(tmp_path, tmp_path, None, None, "in-process", save_predictions=True, save_models=True)
    refs = [job.ref for job in jobs]
    assert _result_text(list(zip(refs, short, strict=True)), places).replace("(0 were", "(3 were") == _result_text(
        [(ref, dataclasses.replace(result, skipped=True)) for ref, result in zip(refs, whole, strict=True)], places
    )
    assert max(len(str(result.record)) for result in short) < min(len(str(result.record)) for result in whole)
    assert all(result.record["identity"] is job.identity for result, job in zip(short, brief, strict=True))
