"""Sweeps: which cells are run and which are not, what a cell that goes wrong costs, and going on after a stop.

The first half feeds hand-made jobs to workers that only pretend; the second runs whole sweeps in processes of their own
that are killed, interrupted and run side by side.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
import types
from collections import deque
from functools import partial
from pathlib import Path

import pluggy
import pytest

import toy
from cli_fakes import Alpha, call_main, install
from hand_made import make_record, with_identity
from mlecs_bench.cli.status_file import read_statuses
from mlecs_bench.doors.hookspecs import PROJECT, DatasetInfo, HookSpecs, hookimpl
from mlecs_bench.doors.registry import Entry, Registry
from mlecs_bench.errors import UsageError
from mlecs_bench.execution import protocol, sweep, workers
from mlecs_bench.execution.jobs import CellResult, Execution, Job, News, cell_ref
from mlecs_bench.federation.checkpoint import cell_lock, checkpoint_path
from mlecs_bench.plan.spec import RunSpec
from mlecs_bench.plan.study import preset, read_study
from mlecs_bench.records import failures
from mlecs_bench.records.failures import read_failures, write_failure
from mlecs_bench.records.results import identity_key, record_name, write_record

SEEDS = (27, 34, 46)
BEFORE, START = "2030-01-01T00:00:00Z", "2030-01-01T00:00:05Z"


def record_of(seed: int) -> dict[str, object]:
    return make_record(seed=seed)


def make_jobs(out: Path, retry: bool = True, seeds=SEEDS) -> list[Job]:
    """Return one job per seed, with the identity of a record made by hand."""
    execution = Execution(out, out / "cache", retry_failed=retry)
    spec = RunSpec("ml-ecs", "vast", 0.5, seeds=seeds, rounds=2)
    identities = {seed: record_of(seed)["identity"] for seed in seeds}
    return [
        Job(spec, seed, out / "data", execution, own, cell_ref(spec, seed, identity_key(own)))
        for seed, own in identities.items()
    ]


class Watcher:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []
        self.manager = pluggy.PluginManager(PROJECT)
        self.manager.add_hookspecs(HookSpecs)
        self.manager.register(self)

    @hookimpl
    def mlecs_cells(self, cells):
        self.told.append(("cells", [cell.seed for cell in cells]))

    @hookimpl
    def mlecs_cell_start(self, cell, resumed_round):
        self.told.append(("start", cell.seed, resumed_round))

    @hookimpl
    def mlecs_device_end(self, cell, round, device):
        self.told.append(("device", cell.seed, round, device))

    @hookimpl
    def mlecs_score_end(self, cell, round, device):
        self.told.append(("score", cell.seed, round, device))

    @hookimpl
    def mlecs_round_end(self, cell, round, scores):
        self.told.append(("round", cell.seed, round, dict(scores)))

    @hookimpl
    def mlecs_cell_end(self, cell, record, error):
        self.told.append(("end", cell.seed, record is not None, error))


class Pretending:
    """Workers whose jobs end, one each time they are waited for, as `ends` says of their seeds: by default well.

    An end is an error, an exception to raise, a function of the job to call, or a list of ends for several attempts.
    """

    def __init__(self, size: int = 1, **ends: object) -> None:
        self.size = size
        self.ends = {int(name.removeprefix("seed")): end for name, end in ends.items()}
        self.started: list[int] = []
        self.stopped = 0
        self.made_for: list[int] = []
        self.waits = 0
        self._running: deque[Job] = deque()

    def make(self, n_jobs, tell):
        self.made_for.append(n_jobs)
        self._tell = tell
        return self

    @property
    def free(self) -> int:
        return self.size - len(self._running)

    def start(self, job):
        assert self.free > 0
        self.started.append(job.seed)
        self._running.append(job)

    def wait(self, seconds):
        self.waits += 1
        assert self.waits < 1000, "it never ends"
        if self._running:
            self._end(self._running.popleft())

    def stop(self):
        self.stopped += 1

    def _end(self, job):
        end = self.ends.get(job.seed)
        if isinstance(end, list):
            end = end.pop(0)
        if callable(end):
            end = end(job)
        if isinstance(end, BaseException):
            raise end
        if isinstance(end, CellResult):
            result = end
        elif end is None:
            record = record_of(job.seed)
            result = CellResult(job.seed, write_record(job.execution.out, record), record)
        else:
            result = CellResult(job.seed, error=str(end))
        self._tell(News(job.key, "end", (result,)))


@pytest.fixture
def watcher():
    return Watcher()


@pytest.fixture(autouse=True)
def _times(monkeypatch):
    """Failures end before the sweep starts, unless a test says otherwise; nothing is waited for."""
    monkeypatch.setattr(failures, "now", lambda: BEFORE)
    monkeypatch.setattr(sweep, "now", lambda: START)
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
    assert not any(told[:2] == ("start", 34) for told in watcher.told)


@pytest.mark.parametrize("retry", [True, False])
def test_no_worker_is_needed_when_every_cell_has_a_record(tmp_path, watcher, retry):
    for seed in SEEDS:
        write_record(tmp_path, record_of(seed))
    pretending = Pretending()
    results = run(make_jobs(tmp_path, retry), pretending, watcher)
    assert [(result.seed, result.skipped) for result in results] == [(27, True), (34, True), (46, True)]
    assert pretending.made_for == []


def test_no_cells_are_no_work(watcher):
    assert run([], Pretending(), watcher) == []
    assert watcher.told == [("cells", [])]


def test_observers_are_told_of_all_cells_first_and_of_those_that_had_ended(tmp_path, watcher):
    write_record(tmp_path, record_of(34))
    unloaded = cell_ref(RunSpec("gone", "vast", 0.5), 52)
    run(make_jobs(tmp_path), Pretending(), watcher, ended=[(unloaded, CellResult(52, error="no such module"))])
    assert watcher.told == [
        ("cells", [27, 34, 46, 52]),
        ("end", 52, False, "no such module"),
        ("end", 34, True, None),
        ("end", 27, True, None),
        ("end", 46, True, None),
    ]


def test_the_events_of_a_cell_reach_the_observers_in_their_order(tmp_path, watcher):
    (job,) = make_jobs(tmp_path, seeds=(27,))
    told = [
        News(job.key, "start", (1,)),
        News(job.key, "score_end", (2, "d00")),
        News(job.key, "device_end", (2, "d00")),
        News(job.key, "round_end", (2, {"rouge_lsum": 0.25})),
        News(job.key, "score_end", (3, "d00")),
    ]
    pretending = Pretending(seed27=lambda job: [pretending._tell(news) for news in told] and None)
    run([job], pretending, watcher)
    assert watcher.told[1:] == [
        ("start", 27, 1),
        ("score", 27, 2, "d00"),
        ("device", 27, 2, "d00"),
        ("round", 27, 2, {"rouge_lsum": 0.25}),
        ("score", 27, 3, "d00"),
        ("end", 27, True, None),
    ]


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
    damaged, missing = (next(tmp_path.glob(f"*seed{seed}*.json")) for seed in (27, 46))
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
    lock = cell_lock(checkpoint_path(tmp_path, jobs_[0].key))
    lock.__enter__()
    # The other process is killed while the last of the other cells runs.
    pretending = Pretending(seed46=lambda job: lock.__exit__(None, None, None) or None)
    results = run(jobs_, pretending, watcher)
    assert pretending.started == [34, 46, 27]
    assert errors(results) == [None, None, None]


def test_a_cell_that_another_process_has_finished_is_not_run(tmp_path, watcher):
    jobs_ = make_jobs(tmp_path)
    lock = cell_lock(checkpoint_path(tmp_path, jobs_[0].key))
    lock.__enter__()

    def finished(job):
        path = write_record(tmp_path, record_of(27))
        lock.__exit__(None, None, None)
        assert path.exists()

    pretending = Pretending(seed46=finished)
    results = run(jobs_, pretending, watcher)
    assert pretending.started == [34, 46]
    assert (results[0].record, results[0].skipped) == (record_of(27), True)


@pytest.mark.parametrize("retry", [True, False])
def test_a_cell_that_has_just_failed_in_another_process_is_not_tried_at_once(tmp_path, watcher, retry, monkeypatch):
    jobs_ = make_jobs(tmp_path, retry)
    lock = cell_lock(checkpoint_path(tmp_path, jobs_[0].key))
    lock.__enter__()

    def failed(job):
        monkeypatch.setattr(failures, "now", lambda: START)
        write_failure(tmp_path, record_of(27)["identity"], "training has diverged")
        lock.__exit__(None, None, None)

    pretending = Pretending(seed46=failed)
    results = run(jobs_, pretending, watcher)
    assert pretending.started == [34, 46]
    assert (results[0].error.partition(" (")[0], results[0].skipped) == ("training has diverged", True)
    assert read_failures(tmp_path)[0][0].attempts == 1


@pytest.mark.parametrize("retry", [True, False])
def test_a_cell_that_ended_elsewhere_while_it_had_to_wait_is_not_run(tmp_path, watcher, retry, monkeypatch):
    def meanwhile(job):
        monkeypatch.setattr(failures, "now", lambda: START)
        write_failure(tmp_path, record_of(34)["identity"], "training has diverged")
        write_record(tmp_path, record_of(46))

    pretending = Pretending(seed27=meanwhile)
    results = run(make_jobs(tmp_path, retry), pretending, watcher)
    assert pretending.started == [27]
    assert [error and error.partition(" (")[0] for error in errors(results)] == [None, "training has diverged", None]
    assert read_failures(tmp_path)[0][0].attempts == 1


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
    monkeypatch.setattr(workers, "run_job", lambda job, tell: tell(job.seed))
    told = []
    here = workers.InProcess(told.append)
    assert here.free == 1
    here.start(make_jobs(tmp_path)[0])
    assert (here.free, told) == (0, [])
    here.wait(0)
    assert (here.free, told) == (1, [27])
    here.start(make_jobs(tmp_path)[1])
    here.stop()
    here.wait(0)
    assert (here.free, told) == (1, [27])


# From specs to cells


class Words:
    """The toy dataset as a plugin; counts how often it was prepared."""

    def __init__(self, prepared) -> None:
        self.prepared = prepared
        self.times = 0

    def prepare(self, request):
        self.times += 1
        return self.prepared

    @hookimpl
    def mlecs_dataset(self):
        return DatasetInfo(
            "Words", "", "generation", toy.NAMES, self.prepare, ("rouge_lsum",), splits=("frame", "sequence")
        )


@pytest.fixture
def words(monkeypatch, prepared):
    """Let `alpha` and a dataset `words` be installed, and `gone`, whose module is not there."""
    names = ("alpha", "algorithm"), ("words", "dataset")
    entries = [Entry(name, kind, "acme", "1.2", f"acme_plugins:{name}") for name, kind in names]
    install(monkeypatch, [*entries, Entry("gone", "algorithm", "acme", "1.2", "acme_gone")])
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

    monkeypatch.setattr(protocol, "LocalWorkers", make)
    return pretending


def spec_of(algo="alpha", rho=0.5, seeds=(27,), **changes) -> RunSpec:
    return RunSpec(algo, "words", rho, seeds=seeds, **changes)


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
@pytest.mark.parametrize("order", [1, -1])
def test_a_plugin_that_cannot_be_imported_costs_only_its_own_cells(tmp_path, watcher, ill, order):
    specs = [spec_of("gone", seeds=(27, 34)), spec_of(seeds=(46,))][::order]
    reason = "plugin 'gone' of distribution 'acme' 1.2 failed to import"
    cells = sweep_of(tmp_path, specs, watcher)
    assert [(algo, seed) for algo, _, seed, _ in cells] == [("alpha", 46), ("gone", 27), ("gone", 34)]
    assert ill.started == [46]
    assert all(reason in error for _, _, _, error in cells[1:])
    found = {(f.identity["algo"]["name"], f.identity["seed"]): f.error for f in read_failures(tmp_path)[0]}
    assert found.keys() == {("gone", 27), ("gone", 34), ("alpha", 46)}
    assert reason in found["gone", 27]
    assert watcher.told[0] == ("cells", [46, 27, 34])
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
@pytest.mark.parametrize(
    "wrong", [{"algo": "alfa"}, {"split": "random"}, {"options": {"rnak": 1}}, {"profile": "maxi"}]
)
def test_a_spec_that_no_cell_could_run_with_ends_the_sweep_before_anything_is_run(tmp_path, watcher, local, wrong):
    with pytest.raises(UsageError):
        sweep_of(tmp_path, [spec_of(), dataclasses.replace(spec_of(), **wrong)], watcher)
    assert local.made == []


@pytest.mark.usefixtures("words")
@pytest.mark.parametrize(("asked", "cores", "size"), [(8, 1, 3), (2, 8, 2), (None, 2, 2), (None, 8, 3)])
def test_there_are_as_many_workers_as_asked_for_or_cores_but_not_more_than_cells(
    tmp_path, ill, asked, cores, size, monkeypatch
):
    watcher = Watcher()
    monkeypatch.setattr(protocol.os, "cpu_count", lambda: cores)
    sweep_of(tmp_path, [spec_of(seeds=(27, 34)), spec_of(seeds=(46,), threads=2)], watcher, workers=asked)
    assert ill.made == [(size, 2, [])]


@pytest.mark.usefixtures("words", "ill")
def test_a_cell_is_named_with_the_settings_in_which_it_departs_from_the_defaults(tmp_path, watcher):
    changes = {"options": {"rank": 4, "mode": "mean"}, "n_devices": 5, "split": "sequence", "budget": "equal"}
    specs = [spec_of(), spec_of(**changes, evaluate="all")]
    cells = protocol.sweep(specs, Execution(tmp_path, tmp_path / "cache"), watcher.manager)
    variants = [ref.variant for ref, _ in cells]
    assert variants == ["", "rank=4, 5 devices, budget equal, split sequence, evaluate all"]


# The command


class FakeSweep:
    """Stands in for protocol.sweep: remembers what it was given and ends the cells of seeds as `errors` says."""

    def __init__(self) -> None:
        self.errors: dict[int, str] = {}
        self.there: set[int] = set()
        self.raises: BaseException | None = None
        self.specs: list[RunSpec] = []
        self.execution: Execution | None = None

    def __call__(self, specs, execution, observers, registry=None):
        self.specs, self.execution = list(specs), execution
        cells = [(cell_ref(spec, seed, "k"), self._result(spec, seed)) for spec in specs for seed in spec.seeds]
        observers.hook.mlecs_cells(cells=[ref for ref, _ in cells])
        for ref, result in cells:
            if not result.skipped:
                observers.hook.mlecs_cell_start(cell=ref, resumed_round=0)
            observers.hook.mlecs_cell_end(cell=ref, record=result.record, error=result.error)
        if self.raises:
            raise self.raises
        return cells

    def _result(self, spec, seed):
        if seed in self.errors:
            return CellResult(seed, error=self.errors[seed])
        record = with_identity(make_record(algo=spec.algo, seed=seed), profile={"tiny": True})
        path = self.execution.out / record_name(record["identity"])
        return CellResult(seed, path, record, skipped=seed in self.there)


@pytest.fixture
def _signals():
    """A sweep handles SIGTERM in its own way, which must not outlive a test."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def call(monkeypatch, capsys, tmp_path, _signals):
    install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    return partial(call_main, capsys, "sweep")


@pytest.fixture
def fake(monkeypatch):
    fake = FakeSweep()
    monkeypatch.setattr(protocol, "sweep", fake)
    return fake


GRID = ("--algo", "alpha,beta", "--dataset", "toy", "--rho", "0.5,0.7")
STUDY = "blocks: {b: {algo: [alpha, beta], dataset: toy, rho: 0.5, seeds: [27, 34], options: {rank: 4}}}"


def test_lists_of_flags_are_every_combination(call, fake):
    code, _, _ = call(
        *GRID, "--rho", "audio=0.25,vision=1", "--n-devices", "3, 5", "--split", "frame", "--budget", "paper,equal",
        "--n-seeds", "1", "-o", "rank=4", "--out", "o", "--workers", "3", "--cache-dir", "c",
    )  # fmt: skip  # a command line
    assert code == 0
    assert [(s.rho, s.n_devices, s.algo, s.budget) for s in fake.specs] == [
        (rho, n, algo, budget)
        for rho in (0.5, 0.7, {"audio": 0.25, "vision": 1.0})
        for n in (3, 5)
        for algo in ("alpha", "beta")
        for budget in ("paper", "equal")
    ]
    assert {(s.dataset, s.split, s.seeds, str(s.options)) for s in fake.specs} == {
        ("toy", "frame", (27,), "{'rank': '4'}")
    }
    assert fake.execution == Execution(Path("o"), Path("c"), 3, retry_failed=False)


def test_retry_failed_is_passed_on_and_the_folder_is_scratch(call, fake):
    call(*GRID, "--retry", "failed")
    assert fake.execution is not None
    assert fake.execution.retry_failed
    assert (fake.execution.out, fake.execution.workers) == (Path("results/scratch"), None)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "name what to run: --preset table1|table2|ablation|all, --study FILE, or --algo, --dataset and --rho"),
        (("--algo", "alpha", "--rho", "0.5"), "name what to run"),
        (("--preset", "table1", "--study", "s.yaml"), "--preset and --study exclude each other"),
        (("--preset", "table3"), "'table3' is not one of"),
        (("--study", "none.yaml"), "cannot read the study file none.yaml: No such file"),
        (("--preset", "table1", "--data-dir", "d"), "--data-dir is one folder and the sweep has several datasets"),
        ((*GRID, "--n-devices", "3,x"), "n-devices must be whole numbers with commas, got 3,x"),
        ((*GRID, "--n-devices", "0"), "n-devices must be a whole number of at least 1, got 0"),
        ((*GRID[:-1], "0.5,2"), "rho must be in (0, 1], got 2"),
        ((*GRID, "--budget", "half"), "budget must be paper or equal, got half"),
        ((*GRID, "--seeds", "1", "--n-seeds", "1"), "seeds and n-seeds exclude each other"),
        ((*GRID, "--n-seeds", "0"), "n-seeds must be from 1 to 5, got 0"),
        ((*GRID, "--retry", "all"), "'all' is not"),
        ((*GRID, "--workers", "0"), "0 is not in the range"),
    ],
)
def test_a_wrong_request_is_refused_in_one_line(call, fake, arguments, expected):
    code, out, err = call(*arguments)
    assert (code, out, err.count("\n"), fake.specs) == (2, "", 1, [])
    assert expected in err


def test_a_preset_goes_to_a_folder_of_its_own_and_is_kept_there(call, fake, tmp_path):
    assert call("--preset", "table2", "--device", "cpu", "--quiet")[0] == 0
    assert (len(fake.specs), fake.execution.out) == (8, Path("results/table2"))
    assert read_study(tmp_path / "results/table2/study.yaml") == preset("table2")


def test_a_part_of_a_preset_is_not_kept_as_the_whole(call, fake, tmp_path):
    assert call("--preset", "table2", "--dataset", "vast", "--n-seeds", "1", "--data-dir", "d", "--quiet")[0] == 0
    assert [(s.dataset, s.n_devices, s.seeds, s.data_dir) for s in fake.specs] == [
        ("vast", n, (27,), "d") for n in (3, 5, 10, 20)
    ]
    assert not (tmp_path / "results/table2/study.yaml").exists()


def test_a_study_that_was_kept_is_run_again_from_its_folder(call, fake, tmp_path):
    (tmp_path / "mine.yaml").write_text(STUDY)
    assert call("--study", "mine.yaml", "--quiet")[0] == 0
    first = fake.specs
    assert fake.execution.out == Path("results/mine")
    assert call("--study", "results/mine/study.yaml", "--quiet")[0] == 0
    assert (fake.specs, fake.execution.out) == (first, Path("results/mine"))


def test_another_study_in_the_folder_ends_the_command(call, fake, tmp_path):
    (tmp_path / "mine.yaml").write_text(STUDY)
    call("--preset", "table2", "--quiet", "--out", "o")
    code, out, err = call("--study", "mine.yaml", "--quiet", "--out", "o")
    assert (code, out) == (2, "")
    assert "o/study.yaml is another study ('Table 2')" in err


def test_flags_win_over_a_study_file_option_by_option(call, fake, tmp_path):
    (tmp_path / "mine.yaml").write_text(STUDY)
    call("--study", "mine.yaml", "-o", "rank=2", "-o", "mode=max", "--algo", "alpha", "--seeds", "5", "--quiet")
    assert [(s.algo, s.seeds, s.options) for s in fake.specs] == [("alpha", (5,), {"rank": "2", "mode": "max"})]


@pytest.mark.usefixtures("fake")
def test_the_result_says_what_is_there_and_what_comes_next(call):
    code, out, err = call(*GRID, "--n-seeds", "2", "--out", "o")
    assert code == 0
    assert out.splitlines() == [
        "8 of 8 cells have records in o (0 were there before).",
        "Tables and figures: mlecs-bench report o",
        "Do not compare these numbers with published ones: "
        "the data is a synthetic stand-in and the models of profile mini are tiny.",
    ]
    assert err.splitlines()[0] == "4 runs into o; packages are being loaded"


def test_failed_cells_are_named_and_end_the_command_with_one(call, fake):
    fake.errors = {34: "Traceback (most recent call last):\nKeyError: 'd00'\n"}
    fake.there = {27}
    code, out, err = call(*GRID, "--n-seeds", "3", "--out", "o", "--quiet")
    assert code == 1
    assert out.splitlines()[:2] == [
        "8 of 12 cells have records in o (4 were there before).",
        "failed: alpha toy rho 0.5 seed 34: KeyError: 'd00'",
    ]
    assert out.count("failed: ") == 4
    assert "The errors are in o/failures; run the same command with --retry failed to try again." in out
    assert "Traceback" not in out + err


def test_of_many_failures_ten_are_named(call, fake):
    fake.errors = dict.fromkeys((27, 34, 46, 52, 93), "no")
    _, out, _ = call(*GRID, "--quiet")
    assert out.count("failed: ") == 10
    assert "... and 10 more" in out
    assert "report" not in out


def test_json_is_one_object(call, fake):
    fake.errors, fake.there = {34: "no"}, {27}
    code, out, _ = call(*GRID[:1], "alpha", *GRID[2:5], "0.5", "--n-seeds", "2", "--json", "--quiet", "--out", "o")
    found = json.loads(out)
    assert (code, found["out"], found["total"], found["done"], found["failed"], found["to_do"]) == (1, "o", 2, 1, 1, 0)
    first, second = found["cells"]
    assert (first["cell"], first["state"], first["skipped"]) == ("alpha toy rho 0.5 seed 27", "done", True)
    assert Path(first["path"]).parent == Path("o")
    assert second == {
        "cell": "alpha toy rho 0.5 seed 34", "key": "k", "state": "failed", "skipped": False, "path": None,
        "error": "no",
    }  # fmt: skip  # one cell


@pytest.mark.parametrize(
    ("error", "code", "state"),
    [
        (None, 0, "done"),
        (sweep.Interrupted(1, 2, "Run it again."), 130, "interrupted"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (UsageError("no"), 2, "failed"),
    ],
)
def test_the_status_says_how_the_sweep_ended(call, fake, error, code, state):
    fake.raises = error
    assert call(*GRID, "--n-seeds", "1", "--out", "o", "--quiet")[0] == code
    (found,) = read_statuses(Path("o"))
    assert found.state == state
    assert found.values["cells"] == {"total": 4, "done": 4, "failed": 0, "skipped": 0}


def test_sigterm_is_as_good_as_ctrl_c(call, fake, monkeypatch):
    monkeypatch.setattr(protocol, "sweep", lambda *_: signal.raise_signal(signal.SIGTERM))
    code, _, err = call(*GRID, "--quiet", "--out", "o")
    assert (code, err.split("\n")[-2]) == (130, "interrupted")
    assert [status.state for status in read_statuses(Path("o"))] == ["interrupted"]


@pytest.fixture
def planned(call, words, tmp_path, watcher):
    """Four cells of which one has a record and one has failed, and the command that lists them."""
    specs = [protocol.resolve(spec_of(rho=rho, seeds=(27, 34)), Registry.installed()) for rho in (0.5, 0.7)]
    out = tmp_path / "o"
    first, second, *_ = protocol.plan_jobs(specs, Registry.installed(), Execution(out, tmp_path / "c"), watcher.manager)
    write_record(out, {**make_record(), "identity": first.identity, "key": first.key})
    write_failure(out, second.identity, "Traceback (most recent call last):\nKeyError: 'd00'\n")
    flags = ("--algo", "alpha", "--dataset", "words", "--rho", "0.5,0.7", "--seeds", "27,34", "--out", "o")
    return partial(call, *flags, "--cache-dir", "c", "--dry-run")


def test_a_dry_run_lists_the_cells_and_runs_none(planned, local):
    assert planned() == (
        0,
        "done      alpha words rho 0.5 seed 27\n"
        "failed    alpha words rho 0.5 seed 34\n"
        "to do     alpha words rho 0.7 seed 27\n"
        "to do     alpha words rho 0.7 seed 34\n"
        "4 cells in o: 1 done, 1 failed, 2 to do\n",
        "",
    )
    assert local.made == []


def test_a_dry_run_as_json_counts_the_cells(planned):
    found = json.loads(planned("--json")[1])
    assert (found["total"], found["done"], found["failed"], found["to_do"]) == (4, 1, 1, 2)
    assert [cell["state"] for cell in found["cells"]] == ["done", "failed", "to do", "to do"]
    assert [bool(cell["path"]) for cell in found["cells"]] == [True, False, False, False]
