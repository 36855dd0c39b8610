"""The live view, fed with events made by hand and a clock that stands still until it is told otherwise."""

from __future__ import annotations

import io
import random
import re
from dataclasses import replace
from pathlib import Path

import pluggy
import pytest

from mlecs_bench.doors.events import KINDS, CellRef, Event
from mlecs_bench.doors.hookspecs import PROJECT, HookSpecs
from mlecs_bench.doors.registry import Registry
from mlecs_bench.execution.jobs import Execution, Job, cell_ref
from mlecs_bench.execution.sweep import Dispatcher
from mlecs_bench.plan.resolve import resolve
from mlecs_bench.plan.spec import RunSpec
from mlecs_bench.session import progress
from mlecs_bench.session.progress import Listener, LiveView, PlainView, QuietView, Tally, duration, make_view

DEVICES = ("d00", "d01", "d02")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def cell(seed: int = 27, scorings: int = 7) -> CellRef:
    """Return a cell of 15 units: 2 rounds of 3 devices and the server, 4 scores in the last round, 3 at the end."""
    return CellRef("ml-ecs", "vast", "0.5", seed, rounds=2, n_devices=3, scorings=scorings)


def manager_of(view) -> pluggy.PluginManager:
    """Return a manager that only `view` is registered with."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(HookSpecs)
    manager.register(view)
    manager.check_pending()
    return manager


class Run:
    """Plays a run to a view: each round of a device or the server, and each scoring, takes `seconds`."""

    def __init__(self, view, clock: Clock, seconds: float = 0.0) -> None:
        self._hook = manager_of(view).hook
        self._clock = clock
        self._seconds = seconds

    def tell(self, kind: str, ref: CellRef | None = None, t: int = 0, party: str = "", **values: object) -> None:
        self._hook.mlecs_event(event=Event(kind, ref, t, party, values), plan=None)

    def start(self, ref: CellRef, resumed_round: int = 0) -> None:
        self.tell("cell_start", ref, resumed_round)

    def train(self, ref: CellRef, t: int, party: str) -> None:
        self.tell("device_end", ref, t, party, losses={}, steps={}, seconds=self._seconds)

    def round(self, ref: CellRef, t: int, scores: dict[str, float] | None = None) -> None:
        for party in (*DEVICES, "server"):
            if t == ref.rounds:
                self.score(ref, t, party)
            self._clock.now += self._seconds
            self.train(ref, t, party)
        self.tell("round_end", ref, t, scores=scores or {}, parties={})

    def score(self, ref: CellRef, t: int, party: str) -> None:
        self._clock.now += self._seconds
        self.tell("score_end", ref, t, party, scores={}, seconds=self._seconds)

    def whole(self, ref: CellRef) -> None:
        """Play a cell up to the writing of its record."""
        self.start(ref)
        for t in range(1, ref.rounds + 1):
            self.round(ref, t)
        for device in DEVICES:
            self.score(ref, ref.rounds + 1, device)

    def end(self, ref: CellRef, error: str | None = None) -> None:
        self.tell("cell_end", ref, record=None if error else {}, error=error)


@pytest.fixture(autouse=True)
def scorings_like_turns(monkeypatch):
    """Until one was measured, a scoring counts as much as a turn, as in most runs that are played here."""
    monkeypatch.setattr(progress, "SCORING_GUESS", 1.0)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def stream():
    return io.StringIO()


@pytest.fixture
def plain(stream, clock):
    return PlainView(2, stream, clock)


# What listens


def test_a_listener_hears_the_kinds_it_has_a_method_for_and_passes_over_the_others():
    class Rounds(Listener):
        def __init__(self):
            self.heard = []

        def on_round_end(self, event):
            self.heard.append(event.round)

    listener = Rounds()
    run = Run(listener, Clock())
    for t, kind in enumerate(KINDS):
        run.tell(kind, cell(), t)
    assert listener.heard == [list(KINDS).index("round_end")]


def test_every_method_of_a_view_is_of_a_kind_of_event():
    for view in (QuietView, PlainView, LiveView):
        heard = {name.removeprefix("on_") for name in dir(view) if name.startswith("on_")}
        assert heard <= KINDS.keys()
    assert heard == KINDS.keys()


# How long it will take


def tally_after(clock: Clock, n_cells: int, done: int, resumed_round: int = 0, ref: CellRef | None = None) -> Tally:
    """Return a tally of `n_cells` whose first cell has finished `done` units of 10 s since it began."""
    tally = Tally(n_cells, clock)
    tally.start(ref or cell(), resumed_round)
    for _ in range(done):
        clock.now += 10
        tally.unit(ref or cell())
    return tally


def test_no_time_is_told_before_the_first_unit_is_done(clock):
    tally = tally_after(clock, 1, done=0)
    assert tally.eta() is None
    assert tally.cell_eta(cell()) is None


def test_the_time_to_go_is_the_mean_time_of_a_unit_times_the_units_left(clock):
    for n_cells, done, resumed_round, seconds in (
        (1, 1, 0, 140),
        (1, 8, 0, 70),
        (1, 14, 0, 10),
        (2, 8, 0, 70 + 150),  # a cell that has not begun counts whole
        (5, 15, 0, 4 * 150),
        (1, 1, 1, 100),  # rounds of a checkpoint are neither time spent nor work left
        (2, 1, 1, 100 + 150),
        (1, 1, 2, 20),  # a checkpoint of the last round holds its scores: only the 3 final ones were left
    ):
        assert tally_after(clock, n_cells, done, resumed_round).eta() == pytest.approx(seconds)


def test_a_checkpoint_holds_the_scores_of_its_rounds_if_all_are_scored(clock):
    every_round = cell(scorings=11)  # 19 units: 8 of work, 8 scores in the rounds, 3 at the end
    for resumed_round, seconds in ((0, 180), (1, 100), (2, 20)):
        assert tally_after(clock, 1, 1, resumed_round, every_round).eta() == pytest.approx(seconds)


def test_cells_with_a_record_or_an_error_are_no_work_left(clock):
    tally = tally_after(clock, 3, done=3)
    tally.end(cell(seed=34))  # skipped: it never started
    assert tally.eta() == pytest.approx(120 + 150)
    tally.end(cell())
    assert tally.eta() == pytest.approx(150)


def test_the_rate_is_that_of_the_whole_run(clock):
    tally = tally_after(clock, 2, done=15)
    tally.end(cell())
    tally.start(cell(seed=34), 0)
    clock.now += 26
    tally.unit(cell(seed=34))
    assert tally.eta() == pytest.approx(154)  # 176 s for 16 units are 11 s each; 14 are left
    assert tally.cell_eta(cell(seed=34)) == pytest.approx(11 * 14)


def test_no_time_is_left_while_the_record_is_written(clock):
    tally = tally_after(clock, 1, done=15)
    assert tally.eta() == tally.cell_eta(cell()) == 0
    tally.end(cell())
    assert tally.eta() == 0


def test_a_cell_without_a_server_score_ends_one_unit_early(clock):
    tally = tally_after(clock, 2, done=14)
    assert tally.eta() == pytest.approx(10 + 150)
    tally.end(cell())
    assert tally.eta() == pytest.approx(150)


def test_cells_at_the_same_time_share_the_rate(clock):
    tally = Tally(2, clock)
    for seed in (27, 34):
        tally.start(cell(seed), 0)
    clock.now += 10
    for seed in (27, 34):
        tally.unit(cell(seed))
    assert tally.eta() == pytest.approx(140)  # 2 units in 10 s; 2 * 14 are left
    assert tally.cell_eta(cell(27)) == pytest.approx(140)


def test_the_time_to_go_never_rises_while_work_goes_on_as_planned(clock, monkeypatch):
    monkeypatch.setattr(progress, "SCORING_GUESS", 3.0)
    rng = random.Random(0)  # noqa: S311
    for scoring in (0.2, 1.0, 2.5):  # seconds of one, where a turn takes 1 s, give or take
        tally, told = Tally(3, clock), []
        refs = [cell(seed) for seed in (27, 34, 46)]
        tally.plan(refs)
        for ref in refs:
            tally.start(ref, 0)
            turns = [("training", rng.uniform(0.95, 1.05))] * 4 + [("scoring", scoring), ("training", 1.0)] * 4
            turns += [("scoring", scoring)] * 3
            first = turns.index(("scoring", scoring))
            turns[first] = ("scoring", scoring + 4 * (ref == refs[0]))  # the scorer's model is loaded once
            for work, seconds in turns:
                clock.now += seconds
                tally.unit(ref, work)
                told.append(tally.eta())
            tally.end(ref)
        assert told == sorted(told, reverse=True), scoring
        assert told[-1] == 0


def test_work_that_takes_much_longer_than_planned_is_told(clock):
    tally = tally_after(clock, 1, done=4)
    before = tally.eta()
    clock.now += 60
    tally.unit(cell())
    assert tally.eta() > before


def test_durations():
    texts = {None: "?", 0: "0:00", 9.6: "0:10", 59.6: "1:00", 61: "1:01", 3725: "1:02:05"}
    assert {seconds: duration(seconds) for seconds in texts} == texts


# How long many cells will take


def worked(tally: Tally, clock: Clock, seconds: float, *refs: CellRef) -> None:
    """Let some seconds pass, after which each of `refs` has finished one more unit."""
    clock.now += seconds
    for ref in refs:
        tally.unit(ref)


def planned(clock: Clock, *refs: CellRef) -> Tally:
    tally = Tally(99, clock)
    tally.plan(refs)
    return tally


def test_a_plan_says_how_many_cells_there_are_and_how_large_each_is(clock):
    small, large = cell(), replace(cell(34), n_devices=5, scorings=11)  # 15 and 12 + 11 units
    tally = planned(clock, small, large)
    assert (tally.n_cells, tally.eta()) == (2, None)
    tally.start(small, 0)
    worked(tally, clock, 10, small)
    assert tally.eta() == pytest.approx(10 * (14 + 23))


def test_algorithms_datasets_and_numbers_of_devices_have_a_speed_of_their_own(clock):
    for changes, seconds in (
        ({"algo": "standalone"}, 150 + 14 * 40),
        ({"dataset": "ur-fall"}, 150 + 14 * 40),
        ({"n_devices": 5, "scorings": 11}, 150 + 22 * 40),
        ({"rho": "0.8"}, (15 + 14) * 190 / 16),  # the same kind: one mean over the 16 units
        ({"seed": 46}, (15 + 14) * 190 / 16),
        ({"variant": "tau=2"}, (15 + 14) * 190 / 16),
    ):
        first, slow, third = cell(), replace(cell(), **changes), cell(34)
        tally = planned(clock, first, slow, third)
        tally.start(first, 0)
        for _ in range(15):
            worked(tally, clock, 10, first)
        tally.end(first)
        tally.start(slow, 0)
        worked(tally, clock, 40, slow)
        assert tally.eta() == pytest.approx(seconds)


def test_a_kind_that_was_never_measured_takes_the_mean_of_the_others(clock):
    first, second, unknown = cell(), replace(cell(), dataset="ur-fall"), replace(cell(), algo="standalone")
    tally = planned(clock, first, second, unknown)
    for ref, seconds in ((first, 10), (second, 40)):
        tally.start(ref, 0)
        for _ in range(15):
            worked(tally, clock, seconds, ref)
        tally.end(ref)
    assert tally.eta() == pytest.approx(15 * 25)


def test_cells_that_have_not_begun_share_the_rate_of_those_that_run_at_once(clock):
    refs = [cell(seed) for seed in (27, 34, 46, 52)]
    tally = planned(clock, *refs)
    for ref in refs[:2]:
        tally.start(ref, 0)
    worked(tally, clock, 10, *refs[:2])
    assert tally.running == 2
    assert tally.eta() == pytest.approx((14 + 14 + 15 + 15) * 10 / 2)


def test_cells_of_different_speed_at_once(clock):
    fast, slow = cell(), replace(cell(), algo="standalone")
    more = [replace(fast, seed=34), replace(slow, seed=34)]
    tally = planned(clock, fast, slow, *more)
    for ref in (fast, slow):
        tally.start(ref, 0)
    for _ in range(2):
        worked(tally, clock, 10, fast)
    worked(tally, clock, 10, fast, slow)
    seconds = 12 * 10 + 14 * 30 + 15 * 10 + 15 * 30  # one after the other
    assert tally.eta() == pytest.approx(seconds / 2)


def test_cells_that_were_there_before_are_no_work_and_change_no_rate(clock):
    refs = [cell(seed) for seed in (27, 34, 46)]
    tally = planned(clock, *refs)
    clock.now += 1000
    tally.end(refs[1])
    tally.start(refs[0], 0)
    worked(tally, clock, 10, refs[0])
    assert tally.eta() == pytest.approx(10 * (14 + 15))
    assert (tally.cells_done, tally.failed, tally.running) == (1, 0, 1)


def test_a_failed_cell_leaves_no_work_and_is_counted(clock):
    refs = [cell(seed) for seed in (27, 34)]
    tally = planned(clock, *refs)
    tally.start(refs[0], 0)
    worked(tally, clock, 10, refs[0])
    tally.end(refs[0], failed=True)
    assert tally.state() == "1/2 cells, 1 failed, ETA 2:30"
    assert tally.running == 0
    tally.end(refs[1])
    assert tally.state() == "2/2 cells, 1 failed, ETA 0:00"


def test_a_plan_that_comes_after_a_start_keeps_what_is_known(clock):
    tally = Tally(1, clock)
    tally.start(cell(), 1)  # 11 of its 15 units are left
    tally.plan([cell(), cell(34)])
    worked(tally, clock, 10, cell())
    assert tally.eta() == pytest.approx(10 * (10 + 15))


# Plain lines


def test_every_line_is_out_at_once(stream, plain):
    plain.say("starting")
    assert stream.getvalue() == "starting\n"


def test_a_run_is_one_line_per_start_round_and_end(stream, plain, clock):
    run = Run(plain, clock)
    run.start(cell())
    run.round(cell(), 1)
    run.round(cell(), 2, {"rouge_lsum": 0.25})
    run.end(cell())
    assert stream.getvalue().splitlines() == [
        "ml-ecs vast rho 0.5 seed 27: 2 rounds, 3 devices",
        "ml-ecs vast rho 0.5 seed 27: round 1/2 done, ETA 0:00",
        "ml-ecs vast rho 0.5 seed 27: round 2/2 done, ETA 0:00, rouge_lsum 0.250",
        "done: ml-ecs vast rho 0.5 seed 27 (1/2 cells)",
    ]


def test_the_time_to_go_is_in_the_line_of_a_round(stream, plain, clock):
    run = Run(plain, clock, seconds=10)
    run.start(cell())
    run.round(cell(), 1)
    assert (
        stream.getvalue().splitlines()[-1].endswith("round 1/2 done, ETA 4:20")
    )  # 11 units of 10 s and 15 of the other cell


def test_other_lines_come_at_most_once_a_second(stream, plain, clock):
    run = Run(plain, clock)
    for i in range(50):
        clock.now = 100 + i / 10
        run.tell("data", done=i, total=50, what="reading videos")
    assert stream.getvalue().splitlines() == [f"reading videos: {i}/50" for i in (0, 10, 20, 30, 40)]


def test_slow_devices_get_a_line_each(stream, plain, clock):
    run = Run(plain, clock, seconds=1.5)
    run.start(cell())
    run.round(cell(), 1)
    devices = [line for line in stream.getvalue().splitlines() if re.search(r"round 1/2, d0\d done, ETA", line)]
    assert len(devices) == 3


def test_every_scoring_is_told_with_the_time_to_go(stream, plain, clock):
    run = Run(plain, clock, seconds=2)
    run.end(cell(seed=34))
    run.whole(cell())
    scored = re.findall(r"27: (.*), scored (.*), ETA (.*)", stream.getvalue())
    assert scored == [
        ("round 2/2", "d00", "0:20"),
        ("round 2/2", "d01", "0:16"),
        ("round 2/2", "d02", "0:12"),
        ("round 2/2", "server", "0:08"),
        ("after round 2/2", "d00", "0:04"),
        ("after round 2/2", "d01", "0:02"),
        ("after round 2/2", "d02", "0:00"),
    ]


def test_the_events_of_a_cell_reach_the_view(stream, clock):
    for evaluate, eta in (("last", "2:20"), ("all", "3:00")):
        spec = RunSpec("standalone", "vast", 0.5, rounds=2, n_devices=3, evaluate=evaluate)
        plan = resolve(spec, Registry.installed())
        job = Job(plan, 27, Path("data"), Execution(Path("out"), Path("cache")), {"seed": 27}, cell_ref(plan, 27, "k"))
        tell = Dispatcher([job], manager_of(PlainView(1, stream, clock)))
        tell(Event("cell_start", job.ref))
        clock.now += 10
        tell(Event("score_end", job.ref, 1, "d00", {"scores": {}, "seconds": 10}))
        name = f"standalone vast rho 0.5 seed 27 (rounds=2{', evaluate all' if evaluate == 'all' else ''})"
        assert stream.getvalue().splitlines()[-1] == f"{name}: round 1/2, scored d00, ETA {eta}"


def test_a_resumed_a_skipped_and_a_failed_cell_are_told_apart(stream, plain, clock):
    run = Run(plain, clock)
    run.end(cell(seed=34))
    run.start(cell(), resumed_round=1)
    run.end(cell(), error="Traceback (most recent call last):\n  File x\nKeyError: 'd00'\n")
    assert stream.getvalue().splitlines() == [
        "skipped: ml-ecs vast rho 0.5 seed 34: its record exists (1/2 cells)",
        "ml-ecs vast rho 0.5 seed 27: 2 rounds, 3 devices, resumed after round 1",
        "error: ml-ecs vast rho 0.5 seed 27: KeyError: 'd00' (2/2 cells)",
    ]


@pytest.mark.parametrize("view_name", ["plain", "live"])
def test_events_that_come_after_the_end_of_their_cell_change_nothing(view_name, request, clock):
    view = request.getfixturevalue(view_name)
    run = Run(view, clock)
    run.end(cell(), error="no space left")
    run.whole(cell())
    text = view._stream.getvalue()
    assert "2 rounds, 3 devices" not in text
    assert view._tally._open == {cell(): {}}
    if view_name == "live":
        assert list(rows(view)) == ["all cells"]


# Quiet


def test_quiet_shows_errors_only(stream, clock):
    view = QuietView(stream)
    view.say("starting")
    run = Run(view, clock)
    run.start(cell())
    run.round(cell(), 1)
    run.end(cell())
    assert stream.getvalue() == ""
    run.end(cell(34), error="no space left")
    assert stream.getvalue() == "error: ml-ecs vast rho 0.5 seed 34: no space left\n"


# On a terminal


@pytest.fixture
def live(clock, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "160")
    view = LiveView(2, Terminal(), clock)
    yield view
    view.close()


def rows(view: LiveView) -> dict[str, tuple[float, str]]:
    """Return what is drawn: description → (completed, state)."""
    return {task.description: (task.completed, task.fields["state"]) for task in view._progress.tasks}


def test_the_first_line_needs_no_drawing(live):
    live.say("starting")
    assert live._progress is None
    assert live._stream.getvalue() == "starting\n"


def test_each_running_cell_has_a_line_and_the_run_has_one(live, clock):
    run = Run(live, clock, seconds=8)
    run.start(cell())
    run.start(cell(seed=34), resumed_round=1)
    run.round(cell(), 1)
    run.train(cell(seed=34), 2, "d01")
    drawn = rows(live)
    assert drawn["ml-ecs vast rho 0.5 seed 27"] == (4, "round 1/2 done, ETA 1:28")  # 11 units of 8 s
    assert drawn["ml-ecs vast rho 0.5 seed 34"] == (5, "round 2/2 d01, ETA 2:08")  # 10 left; 5 in 64 s
    assert drawn["all cells"] == (0, "0/2 cells, ETA 2:14")  # 5 units in 32 s, 21 left


def test_scoring_is_drawn_and_fills_the_line_of_the_cell(live, clock):
    run = Run(live, clock, seconds=10)
    run.end(cell(seed=34))
    run.start(cell())
    run.round(cell(), 1)
    run.score(cell(), 2, "d00")
    assert rows(live)["ml-ecs vast rho 0.5 seed 27"] == (5, "round 2/2 scoring d00, ETA 1:40")


def test_a_cell_that_is_only_to_be_written_is_drawn_full(live, clock):
    run = Run(live, clock, seconds=10)
    run.end(cell(seed=34))
    run.whole(cell())
    assert rows(live)["ml-ecs vast rho 0.5 seed 27"] == (15, "after round 2/2 scoring d02, ETA 0:00")
    assert rows(live)["all cells"] == (1, "1/2 cells, ETA 0:00")
    assert {task.total for task in live._progress.tasks} == {15, 2}


def test_a_finished_cell_leaves_its_line_and_a_message(live, clock):
    run = Run(live, clock)
    run.start(cell())
    run.end(cell())
    run.end(cell(seed=34))
    assert rows(live) == {"all cells": (2, "2/2 cells, ETA ?")}
    text = live._stream.getvalue()
    assert "done: ml-ecs vast rho 0.5 seed 27" in text
    assert "skipped: ml-ecs vast rho 0.5 seed 34: its record exists" in text


def test_the_line_of_data_preparation_goes_when_it_is_done(live, clock):
    run = Run(live, clock)
    run.tell("data", done=1, total=3, what="reading [videos]")
    assert rows(live)["reading [videos]"] == (1, "1/3")
    run.tell("data", done=3, total=3, what="reading [videos]")
    assert "reading [videos]" not in rows(live)


def test_closing_twice_is_harmless_and_shows_the_cursor_again(live, clock):
    Run(live, clock).start(cell())
    live.close()
    live.close()
    assert live._stream.getvalue().rstrip().endswith("\x1b[?25h")


# Many cells


SKIPPED, DONE, BROKEN, LAST = (cell(seed) for seed in (27, 34, 46, 52))


def play_many(view, clock: Clock) -> None:
    """Play a sweep of four cells: one is there, one runs for 150 s, one fails before it begins, one comes to fail."""
    run = Run(view, clock, seconds=10)
    run.tell("cells", cells=[SKIPPED, DONE, BROKEN, LAST])
    run.end(SKIPPED)
    run.whole(DONE)
    run.end(DONE)
    run.end(BROKEN, error="no plugin")
    run.start(LAST)
    run.round(LAST, 1)
    run.end(LAST, error="Traceback (most recent call last):\nKeyError: 'd00'\n")


def test_of_many_cells_only_the_ends_are_told(stream, clock):
    play_many(PlainView(99, stream, clock, brief=True), clock)
    assert stream.getvalue().splitlines() == [
        "done: ml-ecs vast rho 0.5 seed 34 (2/4 cells, ETA 5:00)",
        "error: ml-ecs vast rho 0.5 seed 46: no plugin (3/4 cells, 1 failed, ETA 2:30)",
        "error: ml-ecs vast rho 0.5 seed 52: KeyError: 'd00' (4/4 cells, 2 failed, ETA 0:00)",
    ]


def test_a_terminal_keeps_lines_of_ends_but_of_cells_that_were_there(clock, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "160")
    view = LiveView(99, Terminal(), clock, brief=True)
    play_many(view, clock)
    assert rows(view) == {"all cells": (4, "4/4 cells, 2 failed, ETA 0:00")}
    view.close()
    text = view._stream.getvalue()
    assert "seed 27" not in text
    for line in ("done: ml-ecs vast rho 0.5 seed 34", "error: ml-ecs vast rho 0.5 seed 46: no plugin"):
        assert line in text


def test_what_tells_variants_of_an_algorithm_apart_is_in_their_name(stream, clock):
    view = PlainView(1, stream, clock, brief=True)
    Run(view, clock).end(replace(cell(), variant="tau=2, 5 devices"), error="no")
    assert stream.getvalue().startswith("error: ml-ecs vast rho 0.5 seed 27 (tau=2, 5 devices): no (")


def test_the_view_suits_the_stream_and_the_number_of_cells():
    for stream_type, quiet, view in ((Terminal, False, LiveView), (io.StringIO, False, PlainView),
                                     (Terminal, True, QuietView)):  # fmt: skip  # three streams
        assert type(make_view(1, stream_type(), quiet)) is view
    for stream_type in (Terminal, io.StringIO):
        assert make_view(1, stream_type(), False, brief=True)._brief
        assert not make_view(1, stream_type(), False)._brief
