"""`sweep`: from flags and study files to specs, and from cells to what is printed."""

from __future__ import annotations

import json
import shlex
import signal
import sys
from functools import partial
from pathlib import Path

import pytest

from cli_fakes import call_main, install
from hand_made import make_record, with_identity
from mlecs_bench.doors.events import CellRef, Event
from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import UsageError
from mlecs_bench.execution import protocol, sweep
from mlecs_bench.execution.jobs import CellResult, Execution
from mlecs_bench.plan.resolve import resolve
from mlecs_bench.plan.spec import RunSpec, rho_text
from mlecs_bench.plan.study import preset, read_study
from mlecs_bench.records.failures import write_failure
from mlecs_bench.records.results import record_name, write_record
from mlecs_bench.session.status_file import read_statuses
from sweep_fakes import ENTRIES_OF_WORDS, Watcher, Words, spec_of


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
        cells = [(self._ref(spec, seed), self._result(spec, seed)) for spec in specs for seed in spec.seeds]
        tell = partial(observers.hook.mlecs_event, plan=None)
        tell(event=Event("cells", values={"cells": [ref for ref, _ in cells]}))
        for ref, result in cells:
            if not result.skipped:
                tell(event=Event("cell_start", ref))
            tell(event=result.event(ref))
        if self.raises:
            raise self.raises
        return cells

    def _ref(self, spec, seed):
        return CellRef(spec.algo, spec.dataset, rho_text(spec.rho), seed, 2, spec.n_devices, 7, "k")

    def _result(self, spec, seed):
        if seed in self.errors:
            return CellResult(seed, error=self.errors[seed])
        record = with_identity(make_record(algo=spec.algo, seed=seed), profile={"tiny": True})
        path = self.execution.out / record_name(record["identity"])
        return CellResult(seed, path, record, skipped=seed in self.there)


@pytest.fixture
def _signals():
    """A sweep handles signals in its own way, which must not outlive a test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


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
        "--n-seeds", "1", "-o", "rank=4", "--out", "o", "--workers", "slurm:3", "--fleet", "processes:2",
        "--cache-dir", "c",
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
    expected = Execution(Path("o"), Path("c"), 3, "slurm", "processes:2", retry_failed=False, argument="3", brief=True)
    assert fake.execution == expected


def test_retry_failed_is_passed_on_and_the_folder_is_scratch(call, fake):
    call(*GRID, "--retry", "failed")
    assert fake.execution is not None
    assert fake.execution.retry_failed
    assert (fake.execution.out, fake.execution.workers) == (Path("results/scratch"), None)


def test_a_wrong_request_is_refused_in_one_line(call, fake):
    for arguments, expected in (
        ((), "name what to run: --preset NAME, --study FILE, or --algo, --dataset and --rho"),
        (("--algo", "alpha", "--rho", "0.5"), "name what to run"),
        (("--preset", "table1", "--study", "s.yaml"), "--preset and --study exclude each other"),
        (("--preset", "table3"), "no preset 'table3'. Did you mean 'table2'?"),
        (("--study", "none.yaml"), "cannot read the file none.yaml: No such file"),
        (("--preset", "table1", "--data-dir", "d"), "--data-dir is one folder and the sweep has several datasets"),
        ((*GRID, "--n-devices", "3,x"), "n-devices must be whole numbers with commas, or all, got 3,x"),
        ((*GRID, "--n-devices", "0"), "n-devices must be a whole number of at least 1, got 0"),
        ((*GRID[:-1], "0.5,2"), "rho must be in (0, 1], got 2"),
        ((*GRID, "--budget", "half"), "budget must be paper or equal, got half"),
        ((*GRID, "--seeds", "1", "--n-seeds", "1"), "seeds and n-seeds exclude each other"),
        ((*GRID, "--n-seeds", "0"), "n-seeds must be from 1 to 5, got 0"),
        ((*GRID, "--retry", "all"), "'all' is not"),
        ((*GRID, "--blocks", "a"), "blocks are those of a study; give --study FILE or --preset NAME with them"),
        (("--preset", "table2", "--blocks", "tabel"), "the study has no block 'tabel'"),
        (("--preset", "table2", "--blocks", ""), "--blocks names no block; leave it out for all of them"),
        ((*GRID, "--workers", "0"), "workers must be a whole number of at least 1, NAME or NAME:ARGUMENT, got 0"),
    ):
        code, out, err = call(*arguments)
        assert (code, out, err.count("\n"), fake.specs) == (2, "", 1, [])
        assert expected in err


def test_a_preset_goes_to_a_folder_of_its_own_and_is_kept_there(call, fake, tmp_path):
    assert call("--preset", "table2", "--device", "cpu", "--quiet")[0] == 0
    assert (len(fake.specs), fake.execution.out) == (40, Path("results/table2"))  # 5 rows, 4 numbers, 2 datasets
    assert read_study(tmp_path / "results/table2/study.yaml") == preset("table2", Registry.installed())


def test_a_part_of_a_preset_is_not_kept_as_the_whole(call, fake, tmp_path):
    assert call("--preset", "table2", "--dataset", "vast", "--n-seeds", "1", "--data-dir", "d", "--quiet")[0] == 0
    assert [(s.dataset, s.n_devices, s.seeds, s.data_dir) for s in fake.specs] == [
        ("vast", n, (27,), "d") for n in (3, 5, 10, 20)
    ] * 5  # ML-ECS, two controls, two readings of ML-ECS
    assert not (tmp_path / "results/table2/study.yaml").exists()


def test_some_blocks_of_a_study_are_run_in_the_order_asked_for_and_the_whole_is_kept(call, fake, tmp_path):
    text = "blocks: {a: {algo: alpha}, b: {algo: beta}, c: {algo: standalone}}\nsettings: {dataset: d, rho: 0.5}\n"
    (tmp_path / "mine.yaml").write_text(text)
    assert call("--study", "mine.yaml", "--blocks", "c, a", "--quiet")[0] == 0
    assert [spec.algo for spec in fake.specs] == ["standalone", "alpha"]
    assert set(read_study(tmp_path / "results/mine/study.yaml").blocks) == {"a", "b", "c"}


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
        "Synthetic data (vast), tiny language models: these scores say nothing of real ones.",
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


def test_the_status_says_how_the_sweep_ended(call, fake):
    for error, code, state in (
        (None, 0, "done"),
        (sweep.Interrupted(1, 2, "Run it again."), 130, "interrupted"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (UsageError("no"), 2, "failed"),
    ):
        fake.raises = error
        assert call(*GRID, "--n-seeds", "1", "--out", state, "--quiet")[0] == code
        (found,) = read_statuses(Path(state))
        assert found.state == state
        assert found.values["cells"] == {"total": 4, "done": 4, "failed": 0, "skipped": 0}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_what_a_batch_system_sends_is_as_good_as_ctrl_c(call, fake, monkeypatch, number):
    monkeypatch.setattr(protocol, "sweep", lambda *_: signal.raise_signal(number))
    code, _, err = call(*GRID, "--quiet", "--out", "o")
    assert (code, err.split("\n")[-2]) == (130, "interrupted")
    assert [status.state for status in read_statuses(Path("o"))] == ["interrupted"]


@pytest.fixture
def planned(call, monkeypatch, prepared, tmp_path):
    """Four cells of which one has a record and one has failed, and the command that lists them."""
    install(monkeypatch, ENTRIES_OF_WORDS)
    sys.modules["acme_plugins"].words = Words(prepared)
    monkeypatch.setattr(protocol, "run_jobs", lambda *_: pytest.fail("a dry run ran cells"))
    plans = [resolve(spec_of(rho=rho, seeds=(27, 34)), Registry.installed()) for rho in (0.5, 0.7)]
    out = tmp_path / "o"
    first, second, *_ = protocol.plan_jobs(
        plans, Registry.installed(), Execution(out, tmp_path / "c"), Watcher().manager
    )
    write_record(out, {**make_record(), "identity": first.identity, "key": first.key})
    write_failure(out, second.identity, "Traceback (most recent call last):\nKeyError: 'd00'\n")
    flags = ("--algo", "alpha", "--dataset", "words", "--rho", "0.5,0.7", "--seeds", "27,34", "--out", "o")
    return partial(call, *flags, "--cache-dir", "c", "--dry-run")


def test_a_dry_run_lists_the_cells_and_runs_none(planned):
    assert planned() == (
        0,
        "done      alpha words rho 0.5 seed 27\n"
        "failed    alpha words rho 0.5 seed 34\n"
        "to do     alpha words rho 0.7 seed 27\n"
        "to do     alpha words rho 0.7 seed 34\n"
        "4 cells in o: 1 done, 1 failed, 2 to do\n",
        "",
    )


def test_a_dry_run_as_json_counts_the_cells(planned):
    found = json.loads(planned("--json")[1])
    assert (found["total"], found["done"], found["failed"], found["to_do"]) == (4, 1, 1, 2)
    assert [cell["state"] for cell in found["cells"]] == ["done", "failed", "to do", "to do"]
    assert [bool(cell["path"]) for cell in found["cells"]] == [True, False, False, False]


def test_a_script_for_slurm_runs_the_command_that_was_typed_and_nothing_is_run_for_it(call, monkeypatch):
    monkeypatch.setattr(protocol, "sweep", lambda *_: pytest.fail("the sweep was run"))
    own = (*GRID, "--out", "my results", "--rho", "audio=0.5,vision=1")
    for asked, workers in (
        (("--print-slurm",), " --workers 1"), (("--print-slurm", "cpus=4,jobs=2"), ""),
        (("--print-slurm=partition=cpu",), " --workers 1"), (("--print-slurm", "--workers", "3"), ""),
    ):  # fmt: skip  # how it is asked for, and what is said of workers beside what was typed
        code, out, err = call(*asked, *own)
        assert (code, err) == (0, "")
        (line,) = (line for line in out.splitlines() if line.endswith(" &"))
        typed = [word for word in shlex.split(line.removesuffix(" &")) if word not in ("--workers", "1", "3")]
        assert typed[:4] == [sys.executable, "-m", "mlecs_bench", "sweep"]
        assert typed[4:] == list(own)
        assert line.removesuffix(" &").endswith(workers)
        assert "#SBATCH --array=1-" in out
    code, out, err = call(*GRID, "--print-slurm", "partitions=cpu")
    assert (code, out) == (2, "")
    assert "Slurm has no setting 'partitions' here" in err
