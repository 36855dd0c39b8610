"""Checks of a workers plugin: toy cells run through it end once each, with the numbers of any other place."""

from __future__ import annotations

import dataclasses
import multiprocessing
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mlecs_bench.doors.events import Event
from mlecs_bench.doors.hookspecs import WorkersInfo, WorkersRequest
from mlecs_bench.doors.places import Place
from mlecs_bench.execution.cell import run_job
from mlecs_bench.execution.jobs import Job
from mlecs_bench.federation.checkpoint import cell_in_use, checkpoint_folder
from mlecs_bench.testing.card_checks import check_texts
from mlecs_bench.testing.cells import ROUNDS, toy_jobs
from mlecs_bench.testing.installed import installed
from mlecs_bench.testing.material import new_folder
from mlecs_bench.testing.verdict import fail

if TYPE_CHECKING:
    from mlecs_bench.doors.events import Tell
    from mlecs_bench.execution.workers import Workers

SIZE = 2
"""How many jobs workers may run at a time where no number is behind their name."""
SEEDS = (27, 34)
PATIENCE = 240.0
"""Seconds after which jobs count as lost."""
POLL = 0.2
SETTLE = 5.0
"""Seconds in which processes that were stopped may leave."""


@dataclass
class Ran:
    """What was told while jobs were run."""

    jobs: Sequence[Job]
    events: list[Event] = field(default_factory=list)

    def of(self, job: Job) -> list[Event]:
        """Return the events of one job."""
        return [event for event in self.events if event.cell is not None and event.cell.key == job.key]

    def ends(self, job: Job) -> list[Mapping[str, Any]]:
        """Return how often and how a job has ended."""
        return [event.values for event in self.of(job) if event.kind == "cell_end"]


@dataclass(frozen=True)
class Crew:
    """The workers under test, and what users write behind their name."""

    name: str
    info: WorkersInfo
    argument: str = ""

    @property
    def size(self) -> int:
        """How many jobs they may run at a time: the number behind the name, else `SIZE`."""
        return Place(self.name, self.argument).number or SIZE

    def make(self, tell: Tell) -> Workers:
        """Return fresh workers."""
        workers: Workers = self.info.make(WorkersRequest(self.size, threads=1, tell=tell, argument=self.argument))
        return workers

    @cached_property
    def ran(self) -> Ran:
        """Three jobs that were run to their end: the last one fails."""
        with installed():
            out = new_folder()
            jobs = [*toy_jobs(out, seeds=SEEDS), *toy_jobs(out, options={"breaks": True})]
            ran = Ran(jobs)
            workers = self.make(ran.events.append)
            try:
                _work_off(workers, ran)
            finally:
                workers.stop()
        return ran


def _work_off(workers: Workers, ran: Ran) -> None:
    """Run jobs as a sweep does; raises CheckFailed when some never end."""
    waiting, deadline = list(ran.jobs), time.monotonic() + PATIENCE
    while waiting or not all(ran.ends(job) for job in ran.jobs):
        while waiting and workers.free:
            workers.start(waiting.pop(0))
        workers.wait(POLL)
        lost = next((job for job in ran.jobs if not ran.ends(job)), None)
        if lost is not None and time.monotonic() > deadline:
            happened = f"seed {lost.seed} has not after {PATIENCE:.0f} s"
            fail("every job ends", happened, "tell a cell_end for each job, also when its process dies")


def card(crew: Crew) -> None:
    """The card has title and summary."""
    check_texts({"title": crew.info.title, "summary": crew.info.summary})


def room(crew: Crew) -> None:
    """Fresh workers have room for a job and for no more than were asked for; stopping them idle, twice, is safe."""
    told: list[Event] = []
    workers = crew.make(told.append)
    free = workers.free
    workers.wait(0.0)
    workers.stop()
    workers.stop()
    if not 1 <= free <= crew.size:
        fail(
            f"fresh workers have room for 1 to {crew.size} jobs",
            f"`free` is {free}",
            "count the jobs that can be started now",
        )
    if told:
        fail("workers without a job have nothing to tell", f"they told '{told[0].kind}'", "tell what jobs say")


def one_end_each(crew: Crew) -> None:
    """Every job ends exactly once."""
    for job in crew.ran.jobs:
        n = len(crew.ran.ends(job))
        if n != 1:
            fail("every job ends exactly once", f"seed {job.seed} ended {n} times", "call run_job once for each job")


def errors_of_their_own(crew: Crew) -> None:
    """A job that fails ends with its error, and costs no other job anything."""
    *good, bad = crew.ran.jobs
    error = crew.ran.ends(bad)[0]["error"]
    if not error or "told to break" not in str(error):
        fail("a job that fails ends with its error", f"it ended with {error!r}", "pass on what run_job tells")
    for job in good:
        end = crew.ran.ends(job)[0]
        if end["record"] is None:
            fail(
                "an error costs only its own job", f"seed {job.seed} ended with {end['error']!r}", "look at that error"
            )


def events_in_order(crew: Crew) -> None:
    """The events of a job come in order: its start, its rounds one after the other, its end; all name their cell."""
    wanted = ["cell_start", *(f"round_end {t}" for t in range(1, ROUNDS + 1)), "cell_end"]
    for job in crew.ran.jobs[:-1]:
        events = crew.ran.of(job)
        told = [f"{e.kind} {e.round}" if e.kind == "round_end" else e.kind for e in events]
        marks = [mark for mark in told if mark in wanted or mark.startswith(("round_end", "cell"))]
        if marks != wanted:
            happened = f"seed {job.seed} told {', '.join(marks)}"
            fail(
                f"a job tells {', '.join(wanted)}", happened, "tell the events of a job in the order in which they come"
            )
    strays = [event for event in crew.ran.events if event.cell not in [job.ref for job in crew.ran.jobs]]
    if strays:
        fail("every event names its cell", f"'{strays[0].kind}' has {strays[0].cell}", "pass events on as they are")


def same_numbers(crew: Crew) -> None:
    """The numbers of a record are those of the same job run here, bit for bit."""
    with installed():
        for job in crew.ran.jobs[: len(SEEDS)]:
            here = dataclasses.replace(job, execution=dataclasses.replace(job.execution, out=new_folder()))
            events: list[Event] = []
            run_job(here, events.append)
            one, other = events[-1].values["record"], crew.ran.ends(job)[0]["record"]
            changed = [part for part in ("identity", "realised", "metrics", "comm") if one[part] != other[part]]
            if changed:
                happened = f"'{changed[0]}' of seed {job.seed} differs from a run in this process"
                fail("where a job runs changes no number", happened, "use as many threads as were asked for")


def stops_at_once(crew: Crew) -> None:
    """Stopped in the middle of jobs, workers tell nothing more, leave no process, and the jobs can be run again."""
    told: list[Event] = []
    children = set(multiprocessing.active_children())
    with installed():
        jobs = toy_jobs(new_folder(), seeds=SEEDS)
        workers = crew.make(told.append)
        workers.start(jobs[0])
        workers.stop()
        before = len(told)
        workers.wait(POLL)
        if len(told) > before:
            fail("workers that were stopped tell nothing", f"they told '{told[-1].kind}'", "forget the jobs in `stop`")
        _expect_nothing_left(jobs[0], children)
        again = Ran(jobs)
        fresh = crew.make(again.events.append)
        try:
            _work_off(fresh, again)
        finally:
            fresh.stop()
        _expect_nothing_left(jobs[0], children)
    for job in jobs:
        if again.ends(job)[0]["record"] is None:
            happened = f"it ended with {again.ends(job)[0]['error']!r}"
            fail("a job that was stopped can be run again", happened, "end its process, and with it its lock")


def _expect_nothing_left(job: Job, children: set[Any]) -> None:
    """Raise CheckFailed when a stopped job still holds its lock, or processes stay."""
    deadline = time.monotonic() + SETTLE
    folder = checkpoint_folder(job.execution.out, job.key)
    while left := (set(multiprocessing.active_children()) - children) or cell_in_use(folder):
        if time.monotonic() > deadline:
            happened = "its cell is still locked" if left is True else f"{len(left)} processes are still there"
            fail("stop() leaves nothing behind", happened, "end all jobs at once")
        time.sleep(POLL / 4)


WORKERS_CHECKS = (card, room, one_end_each, errors_of_their_own, events_in_order, same_numbers, stops_at_once)
