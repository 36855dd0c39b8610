"""Commands that are stopped at random moments, again and again, and then end: nothing is lost, doubled or changed.

    pytest -m campaign tests/campaigns

CAMPAIGN_SHARE=0.1 does a tenth of everything, CAMPAIGN_SEED=1 draws other moments. A whole campaign takes half an hour
on two cores. Most commands are forked children of this process (see forked.py), some are real processes with workers.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import forked
import pytest
import tiny_cells

from mlecs_bench.testing.installed import installed

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(7200)]
DONE, LEFT = "was done", "hidden files left"
IN_A_ROW = 4
"""How often one command is stopped before it may end."""
INTERRUPTED = 130
RUN = ("run", "ml-ecs")
SWEEP = ("sweep", "ml-ecs,standalone")


@dataclass(frozen=True)
class Whole:
    """What a command yields that nobody stops: records, answers, the report on them, and how many seconds it takes."""

    cells: Mapping[str, str]
    answers: Mapping[str, bytes]
    seconds: float


@pytest.fixture(scope="module", autouse=True)
def _installed() -> Iterator[None]:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with installed():
        forked.warmed()
        tiny_cells.warmed()
        yield


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Whole]:
    """What the commands yield undisturbed."""
    return {one: _whole(one, tmp_path_factory.mktemp(one[0])) for one in (RUN, SWEEP)}


def _whole(one: tuple[str, str], folder: Path) -> Whole:
    before = forked.used()
    code, printed = forked.started(tiny_cells.command(*one, folder / "out", folder / "cache"), folder / "log").ended()
    assert code == 0, printed
    return Whole(tiny_cells.cells(folder / "out"), tiny_cells.answers(folder / "out"), forked.used() - before)


def stopped(ends: Counter[str]) -> int:
    """Return how many commands a signal has stopped."""
    return ends.total() - ends[DONE] - ends[LEFT]


def _check_end(code: int, printed: str, number: int) -> str:
    """Return how a command that was sent a signal has ended; raises AssertionError for a way that none may."""
    assert "Traceback" not in printed, printed
    assert "Exception ignored" not in printed, printed
    if code == 0:
        return DONE
    if code == forked.OUTSIDE and number == signal.SIGINT:
        return "before or after the command"
    if code == INTERRUPTED:
        assert "interrupted" in printed, printed
        return "interrupted"
    assert code == -number, (code, printed)
    return "killed"


def _stopped(arguments: list[str], log: Path, number: int, after: float) -> str:
    child = forked.started(arguments, log)
    child.signalled(number, after)
    return _check_end(*child.ended(), number)


@pytest.mark.parametrize(("number", "whole_campaign"), [("SIGKILL", 80), ("SIGTERM", 20), ("SIGINT", 20)])
def test_a_run_that_is_stopped_again_and_again_ends_with_the_records_of_one_that_is_not(
    number, whole_campaign, wholes, tmp_path, dice, times
):
    whole, ends = wholes[RUN], Counter[str]()
    for episode in itertools.takewhile(lambda _: stopped(ends) < times(whole_campaign), itertools.count()):
        folder = tmp_path / str(episode)
        folder.mkdir()
        arguments = tiny_cells.command(*RUN, folder / "out", folder / "cache")
        for _ in range(IN_A_ROW):
            after = dice.uniform(0, whole.seconds)
            end = _stopped(arguments, folder / "log", getattr(signal, number), after)
            ends[end] += 1
            tiny_cells.check_stopped(folder / "out", whole.cells)
            if end == DONE:
                break
        code, printed = forked.started(arguments, folder / "log").ended()
        assert code == 0, printed
        tiny_cells.check_ended(folder / "out", whole.cells, whole.answers)
        ends[LEFT] += len(tiny_cells.hidden_files(folder / "out"))
        shutil.rmtree(folder)
        print(f"\nrun, {number}: {dict(ends)}", flush=True)


@pytest.mark.parametrize(("number", "whole_campaign"), [("SIGKILL", 80), ("SIGTERM", 20), ("SIGINT", 20)])
def test_two_sweeps_of_one_folder_that_are_stopped_again_and_again_end_with_the_records_of_one_that_is_not(
    number, whole_campaign, wholes, tmp_path, dice, times
):
    whole, ends = wholes[SWEEP], Counter[str]()
    for episode in itertools.takewhile(lambda _: stopped(ends) < times(whole_campaign), itertools.count()):
        folder = tmp_path / str(episode)
        folder.mkdir()
        arguments = tiny_cells.command(*SWEEP, folder / "out", folder / "cache")
        for _ in range(IN_A_ROW // 2):
            children = [forked.started(arguments, folder / f"log{i}") for i in range(2)]
            for child, after in zip(children, sorted(dice.uniform(0, 0.7 * whole.seconds, size=2)), strict=True):
                child.signalled(getattr(signal, number), after)
                ends[_check_end(*child.ended(), getattr(signal, number))] += 1
            tiny_cells.check_stopped(folder / "out", whole.cells)
        children = [forked.started(arguments, folder / f"log{i}") for i in range(2)]
        for child in children:
            code, printed = child.ended()
            assert code == 0, printed
        tiny_cells.check_ended(folder / "out", whole.cells, whole.answers)
        ends[LEFT] += len(tiny_cells.hidden_files(folder / "out"))
        shutil.rmtree(folder)
        print(f"\ntwo sweeps, {number}: {dict(ends)}", flush=True)


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes], float]:
    """A folder of records, the files of the report on them, and the seconds that it takes."""
    folder = tmp_path_factory.mktemp("reported")
    code, printed = forked.started(tiny_cells.command(*SWEEP, folder / "out", folder / "cache"), folder / "log").ended()
    assert code == 0, printed
    before = forked.used()
    code, printed = forked.started(["report", str(folder / "out")], folder / "log").ended()
    assert code == 0, printed
    return folder / "out", _files(folder / "out" / "report"), forked.used() - before


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("number", "whole_campaign"), [("SIGKILL", 40), ("SIGTERM", 10), ("SIGINT", 10)])
def test_a_report_that_is_stopped_again_and_again_ends_with_the_bytes_of_one_that_is_not(
    number, whole_campaign, reported, tmp_path, dice, times
):
    out, whole, seconds = reported
    ends, report, arguments = Counter[str](), out / "report", ["report", str(out)]
    while stopped(ends) < times(whole_campaign):
        shutil.rmtree(report)
        for _ in range(IN_A_ROW):
            after = dice.uniform(0, seconds)
            ends[_stopped(arguments, tmp_path / "log", getattr(signal, number), after)] += 1
            visible = {name: content for name, content in _files(report).items() if not Path(name).name.startswith(".")}
            assert visible.items() <= whole.items(), "a file of the report is half-written"
        code, printed = forked.started(arguments, tmp_path / "log").ended()
        assert code == 0, printed
        left = set(_files(report)) - set(whole)
        ends[LEFT] += len(left)
        assert {name: content for name, content in _files(report).items() if name not in left} == whole
        print(f"\nreport, {number}: {dict(ends)}", flush=True)


@pytest.mark.parametrize(("number", "whole_campaign"), [("SIGKILL", 6), ("SIGTERM", 4), ("SIGINT", 4)])
def test_real_processes_with_workers_that_are_stopped_end_like_forked_ones(
    number, whole_campaign, wholes, tmp_path, dice, times
):
    whole, ends = wholes[SWEEP], Counter[str]()
    arguments = tiny_cells.command(*SWEEP, tmp_path / "out", tmp_path / "cache", workers=2)
    seconds = 25 + 3 * whole.seconds  # of which the imports of three processes are most
    for _ in range(times(whole_campaign)):
        with _process(arguments) as process:
            time.sleep(dice.uniform(5, seconds))
            if process.poll() is None:
                process.send_signal(getattr(signal, number))
            printed = process.communicate(timeout=120)[0]
        ends[_check_end(process.returncode, printed, getattr(signal, number))] += 1
        tiny_cells.check_stopped(tmp_path / "out", whole.cells)
    with _process(arguments) as process:
        printed = process.communicate(timeout=600)[0]
        assert process.returncode == 0, printed
    tiny_cells.check_ended(tmp_path / "out", whole.cells, whole.answers)
    print(f"\nsweep with workers, {number}: {dict(ends)}")


def _process(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mlecs_bench", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  # no thread runs here
    )
