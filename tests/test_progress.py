"""The live view, fed with events made by hand and a clock that stands still until it is told otherwise."""

from __future__ import annotations

import io
import re

import pluggy
import pytest

from mlecs_bench.cli.progress import LiveView, PlainView, QuietView, Tally, duration, make_view
from mlecs_bench.hookspecs import PROJECT, CellRef, HookSpecs


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def cell(seed: int = 27, rounds: int = 2, n_devices: int = 3) -> CellRef:
    return CellRef("ml-ecs", "vast", "0.5", seed, rounds, n_devices)


def hooks(view):
    """Return the hooks of a manager that only `view` is registered with."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(HookSpecs)
    manager.register(view)
    manager.check_pending()
    return manager.hook


class Run:
    """Plays a run to a view: each device takes `seconds`, the server none."""

    def __init__(self, view, clock: Clock, seconds: float = 0.0) -> None:
        self.hook = hooks(view)
        self._clock = clock
        self._seconds = seconds

    def start(self, ref: CellRef, resumed_round: int = 0) -> None:
        self.hook.mlecs_cell_start(cell=ref, resumed_round=resumed_round)

    def round(self, ref: CellRef, t: int, scores: dict[str, float] | None = None) -> None:
        for j in range(ref.n_devices):
            self._clock.now += self._seconds
            self.hook.mlecs_device_end(cell=ref, round=t, device=f"d{j:02d}")
        self.hook.mlecs_device_end(cell=ref, round=t, device="server")
        self.hook.mlecs_round_end(cell=ref, round=t, scores=scores or {})

    def end(self, ref: CellRef, error: str | None = None) -> None:
        self.hook.mlecs_cell_end(cell=ref, record=None if error else {}, error=error)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def stream():
    return io.StringIO()


@pytest.fixture
def plain(stream, clock):
    return PlainView(2, stream, clock)


# How long it will take


def tally_after(clock: Clock, n_cells: int, devices_done: int, resumed_round: int = 0) -> Tally:
    tally = Tally(n_cells, clock)
    tally.start(cell(), resumed_round)
    for _ in range(devices_done):
        clock.now += 10
        tally.device(cell())
    return tally


def test_no_time_is_told_before_the_first_device_is_done(clock):
    assert tally_after(clock, 1, devices_done=0).eta() is None


@pytest.mark.parametrize(
    ("n_cells", "devices_done", "resumed_round", "left"),
    [
        (1, 1, 0, 5),
        (1, 3, 0, 3),
        (2, 3, 0, 3 + 6),  # a cell that has not begun counts whole
        (5, 6, 0, 4 * 6),
        (1, 1, 1, 2),  # rounds of a checkpoint are neither time spent nor work left
        (2, 1, 1, 2 + 6),
    ],
)
def test_the_time_to_go_is_the_mean_time_of_a_device_times_the_devices_left(
    clock, n_cells, devices_done, resumed_round, left
):
    assert tally_after(clock, n_cells, devices_done, resumed_round).eta() == pytest.approx(10 * left)


def test_cells_with_a_record_or_an_error_are_no_work_left(clock):
    tally = tally_after(clock, 3, devices_done=3)
    tally.end(cell(seed=34))  # skipped: it never started
    assert tally.eta() == pytest.approx(10 * (3 + 6))
    tally.end(cell())
    assert tally.eta() == pytest.approx(10 * 6)


def test_the_rate_is_that_of_the_whole_run(clock):
    tally = tally_after(clock, 2, devices_done=6)
    tally.end(cell())
    tally.start(cell(seed=34), 0)
    clock.now += 17
    tally.device(cell(seed=34))
    assert tally.eta() == pytest.approx((60 + 17) / 7 * 5)
    assert tally.cell_eta(cell(seed=34)) == pytest.approx(17 * 5)


def test_nothing_is_foretold_while_only_the_final_scores_are_left(clock):
    tally = tally_after(clock, 1, devices_done=6)
    assert tally.eta() is None
    tally.end(cell())
    assert tally.eta() == 0


def test_cells_at_the_same_time_share_the_rate(clock):
    tally = Tally(2, clock)
    for seed in (27, 34):
        tally.start(cell(seed), 0)
    clock.now += 10
    for seed in (27, 34):
        tally.device(cell(seed))
    assert tally.eta() == pytest.approx(10 / 2 * 10)
    assert tally.cell_eta(cell(27)) == pytest.approx(10 * 5)


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "?"), (0, "0:00"), (9.6, "0:10"), (59.6, "1:00"), (61, "1:01"), (3725, "1:02:05")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


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
    assert stream.getvalue().splitlines()[-1].endswith("round 1/2 done, ETA 1:30")


def test_other_lines_come_at_most_once_a_second(stream, plain, clock):
    hook = hooks(plain)
    for i in range(50):
        clock.now = 100 + i / 10
        hook.mlecs_data_progress(done=i, total=50, what="reading videos")
    assert stream.getvalue().splitlines() == [f"reading videos: {i}/50" for i in (0, 10, 20, 30, 40)]


def test_slow_devices_get_a_line_each(stream, plain, clock):
    run = Run(plain, clock, seconds=1.5)
    run.start(cell())
    run.round(cell(), 1)
    devices = [line for line in stream.getvalue().splitlines() if re.search(r"round 1/2, d0\d done, ETA", line)]
    assert len(devices) == 3


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
    run.start(cell())
    run.round(cell(), 1)
    text = view._stream.getvalue()
    assert "2 rounds, 3 devices" not in text
    assert view._tally._open == {cell(): 0}
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
    run = Run(live, clock, seconds=10)
    run.start(cell())
    run.start(cell(seed=34), resumed_round=1)
    run.round(cell(), 1)
    run.hook.mlecs_device_end(cell=cell(seed=34), round=2, device="d01")
    drawn = rows(live)
    assert drawn["ml-ecs vast rho 0.5 seed 27"] == (3, "round 1/2 done, ETA 0:30")
    assert drawn["ml-ecs vast rho 0.5 seed 34"] == (4, "round 2/2 d01, ETA 1:00")
    assert drawn["all cells"] == (0, f"0/2 cells, ETA {duration(30 / 4 * 5)}")


def test_a_finished_cell_leaves_its_line_and_a_message(live, clock):
    run = Run(live, clock)
    run.start(cell())
    run.end(cell())
    run.end(cell(seed=34))
    assert rows(live) == {"all cells": (2, "2/2 cells, ETA ?")}
    text = live._stream.getvalue()
    assert "done: ml-ecs vast rho 0.5 seed 27" in text
    assert "skipped: ml-ecs vast rho 0.5 seed 34: its record exists" in text


def test_the_line_of_data_preparation_goes_when_it_is_done(live):
    hook = hooks(live)
    hook.mlecs_data_progress(done=1, total=3, what="reading [videos]")
    assert rows(live)["reading [videos]"] == (1, "1/3")
    hook.mlecs_data_progress(done=3, total=3, what="reading [videos]")
    assert "reading [videos]" not in rows(live)


def test_closing_twice_is_harmless_and_shows_the_cursor_again(live, clock):
    Run(live, clock).start(cell())
    live.close()
    live.close()
    assert live._stream.getvalue().rstrip().endswith("\x1b[?25h")


@pytest.mark.parametrize(
    ("stream_type", "quiet", "view"),
    [(Terminal, False, LiveView), (io.StringIO, False, PlainView), (Terminal, True, QuietView)],
)
def test_the_view_suits_the_stream(stream_type, quiet, view):
    assert type(make_view(1, stream_type(), quiet)) is view
