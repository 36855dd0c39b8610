"""The live view of a run: an observer plugin that turns events into lines on stderr.

On a terminal there is one line per running cell and one for the whole run; elsewhere plain lines, at most one a
second besides those for a finished round or cell.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TextIO

from mlecs_bench.doors.events import CellRef, Event
from mlecs_bench.doors.hookspecs import hookimpl
from mlecs_bench.records.failures import reason_of

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from mlecs_bench.plan.plan import Plan

Clock = Callable[[], float]
Kind = tuple[str, str, int]
"""Algorithm, dataset and number of devices of a cell."""
_STATE = "{task.fields[state]}"
MIN_GAP = 1.0
"""Seconds between two plain lines that report no finished round or cell."""


class View(Protocol):
    """What `run` needs of a live view besides its hooks."""

    def say(self, text: str) -> None:
        """Show one line now."""
        ...

    def close(self) -> None:
        """Stop drawing."""
        ...


def units(cell: CellRef) -> int:
    """Return the units of a whole cell: one per round of a device or the server, one per scoring."""
    return cell.rounds * (cell.n_devices + 1) + cell.scorings


def covered(cell: CellRef, resumed_round: int) -> int:
    """Return the units that a checkpoint of round `resumed_round` covers, the scores it holds among them."""
    parties = cell.n_devices + 1
    scored_rounds = (cell.scorings - cell.n_devices) // parties  # the last ones; devices are scored once more after
    return (resumed_round + max(0, resumed_round - (cell.rounds - scored_rounds))) * parties


Work = Literal["training", "scoring"]
"""What a unit is: the turn of a device or the server in a round, or one scoring."""
SCORING_GUESS = 3.0
"""How many turns one scoring is taken for until one was measured: rather too many, as a time to go should not rise."""
NOISE = 1.2
"""A time to go that would rise by less than this factor stays as it was."""


@dataclass
class _Measured:
    """What units of one kind took: the first one, how many they are, and the sum of their seconds."""

    first: float
    n: int = 0
    total: float = 0.0

    def add(self, seconds: float) -> None:
        self.n += 1
        self.total += seconds

    def mean(self) -> float:
        return self.total / self.n


class Tally:
    """Counts finished units to tell how long the rest will take.

    A unit is the work of a device or the server in a round, or one scoring. The server's scorings count even where an
    algorithm has none: its cells end that much early. The seconds of a unit are measured for each algorithm, dataset
    and number of devices, and apart for turns and scorings, since those differ most; where none has been measured yet,
    the mean of the others stands in. Units that a checkpoint or an existing record already covers are left out: they
    cost no time now. A time to go rises only where work takes longer than what was measured so far.

    Sums are kept, not lists: what an event or a time to go costs does not grow with the number of cells.
    """

    def __init__(self, n_cells: int, clock: Clock = time.monotonic) -> None:
        self.n_cells = n_cells
        self.cells_done = 0
        self.failed = 0
        self._clock = clock
        self._started: dict[CellRef, float] = {}
        self._last: dict[CellRef, float] = {}
        self._open: dict[CellRef, Counter[Work]] = {}
        self._left: Counter[tuple[Kind, Work]] = Counter()
        self._longest: CellRef | None = None
        self._seconds_of: dict[tuple[Kind, Work], _Measured] = {}
        self._ended: set[CellRef] = set()
        self._running: dict[CellRef, float] = {}
        self._first_start = 0.0
        self._took_in_all = 0.0
        self._told: float | None = None

    @property
    def running(self) -> int:
        """How many cells have begun and not ended."""
        return len(self._running)

    def plan(self, cells: Sequence[CellRef]) -> None:
        """All cells are known now."""
        self.n_cells = len(cells)
        for cell in cells:
            if cell not in self._open:
                self._leave(cell, _work(cell))
        self._told = None

    def _leave(self, cell: CellRef, work: Counter[Work]) -> None:
        """Keep what is left to do of a cell."""
        for what, n in self._open.get(cell, Counter()).items():
            self._left[_kind(cell), what] -= n
        for what, n in work.items():
            self._left[_kind(cell), what] += n
        self._open[cell] = work
        if self._longest is None or units(cell) > units(self._longest):
            self._longest = cell

    def start(self, cell: CellRef, resumed_round: int) -> bool:
        """A cell begins after round `resumed_round`; False when it is over already: a worker's events may come late."""
        if cell in self._started or cell in self._ended:
            return False
        now = self._clock()
        self._first_start = now if not self._started else self._first_start
        self._started[cell] = self._last[cell] = self._running[cell] = now
        self._leave(cell, _work(cell, resumed_round))
        return True

    def unit(self, cell: CellRef, work: Work = "training") -> None:
        """A device or the server of `cell` finished a round or was scored."""
        if cell not in self._started:
            return
        now = self._clock()
        seconds = now - self._last[cell]
        self._seconds_of.setdefault((_kind(cell), work), _Measured(seconds)).add(seconds)
        self._last[cell] = now
        left = self._open[cell]
        done = work if left[work] else next(iter(+left), None)
        if done is not None:
            left[done] -= 1
            self._left[_kind(cell), done] -= 1

    def end(self, cell: CellRef, failed: bool = False) -> None:
        """A cell is over, with a record, an error, or because its record exists already."""
        self.cells_done += 1
        self.failed += failed
        self._leave(cell, Counter())
        self._ended.add(cell)
        started = self._running.pop(cell, None)
        if started is not None:
            self._took_in_all += self._clock() - started

    def has_started(self, cell: CellRef) -> bool:
        """Tell whether `cell` began in this run."""
        return cell in self._started

    def eta(self) -> float | None:
        """Return the seconds to go; 0 while only a record is left to write, None before the first unit."""
        if not self._seconds_of:
            return None
        now = self._clock()
        took = self._took_in_all + sum(now - started for started in self._running.values())
        at_a_time = took / (now - self._first_start or 1.0)
        found = self._seconds_left() / max(at_a_time, 1e-9)
        if self._told is None or not self._told < found <= NOISE * self._told:
            self._told = found
        return self._told

    def cell_eta(self, cell: CellRef) -> float | None:
        """Return the seconds to go for a running cell; None where `eta` would tell none."""
        return self._left_of(cell) if self._last.get(cell, 0.0) > self._started.get(cell, 0.0) else None

    def _seconds_left(self) -> float:
        """Return the seconds that all cells which have not ended would take one after the other."""
        unseen, like = max(0, self.n_cells - len(self._open)), self._longest
        of_unseen = sum(n * self._mean(None, work) for work, n in _work(like).items()) if unseen and like else 0.0
        left = sum(n * self._mean(kind, work) for (kind, work), n in self._left.items() if n)
        return left + unseen * of_unseen

    def _left_of(self, cell: CellRef) -> float:
        return sum(n * self._mean(_kind(cell), work) for work, n in self._open.get(cell, Counter()).items())

    def _mean(self, kind: Kind | None, work: Work) -> float:
        """Return the seconds of one unit; None is for cells of which nothing is known."""
        measured = (self._seconds_of.get((kind, work)) if kind else None) or self._every(work)
        guess = self._guess(kind, work)
        if measured is None:
            return guess
        if measured.n == 1:
            return min(measured.first, guess) if work == "scoring" and guess else measured.first
        rest = (measured.total - measured.first) / (measured.n - 1)
        # The first one may hold what is done once, such as loading the scorer's model.
        return rest if measured.first > 2 * rest else measured.mean()

    def _guess(self, kind: Kind | None, work: Work) -> float:
        """Return the seconds of a unit by what was measured of the other work; 0 where nothing was."""
        other: Work = "training" if work == "scoring" else "scoring"
        measured = (self._seconds_of.get((kind, other)) if kind else None) or self._every(other)
        of_other = measured.mean() if measured else 0.0
        return of_other * SCORING_GUESS if work == "scoring" else of_other

    def _every(self, work: Work) -> _Measured | None:
        """Return what units of all kinds of cells took, None where none was measured."""
        found = [measured for (_, of), measured in self._seconds_of.items() if of == work]
        if not found:
            return None
        return _Measured(found[0].first, sum(one.n for one in found), sum(one.total for one in found))

    def state(self) -> str:
        """Return where all cells stand, in a few words."""
        parts = [f"{self.cells_done}/{self.n_cells} cells"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        return ", ".join([*parts, f"ETA {duration(self.eta())}"])


def _work(cell: CellRef, resumed_round: int = 0) -> Counter[Work]:
    """Return the units of a cell that are left after a checkpoint, by what they are."""
    parties = cell.n_devices + 1
    turns = (cell.rounds - resumed_round) * parties
    return Counter({"training": turns, "scoring": units(cell) - covered(cell, resumed_round) - turns})


def _kind(cell: CellRef) -> Kind:
    """Return what decides most of how long a unit takes."""
    return cell.algo, cell.dataset, cell.n_devices


def duration(seconds: float | None) -> str:
    """Return a time to go as h:mm:ss or m:ss; "?" when unknown."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def cell_name(cell: CellRef) -> str:
    """Return a cell as the view names it."""
    name = f"{cell.algo} {cell.dataset} rho {cell.rho} seed {cell.seed}"
    return f"{name} ({cell.variant})" if cell.variant else name


def moment(cell: CellRef, round_: int) -> str:
    """Return when something happens in a cell; rounds + 1 is after the last broadcast."""
    return f"round {round_}/{cell.rounds}" if round_ <= cell.rounds else f"after round {cell.rounds}/{cell.rounds}"


def outcome(cell: CellRef, error: str | None, started: bool) -> str:
    """Return the line that ends a cell; of a traceback it holds the last line, which names the error."""
    if error is not None:
        return f"error: {cell_name(cell)}: {reason_of(error)}"
    return f"done: {cell_name(cell)}" if started else f"skipped: {cell_name(cell)}: its record exists"


def scores_text(scores: Mapping[str, float]) -> str:
    """Return the scores of a round as ``, name value, name value``."""
    return "".join(f", {name} {value:.3f}" for name, value in scores.items())


class Listener:
    """An observer with a method per kind of event, such as `on_round_end`; kinds without one are passed over."""

    @hookimpl
    def mlecs_event(self, event: Event, plan: Plan | None) -> None:
        """Call the method of the event's kind."""
        method = getattr(self, f"on_{event.kind}", None)
        if method is not None:
            method(event)


def cell_of(event: Event) -> CellRef:
    """Return the cell of an event that has one; raises ValueError for any other."""
    if event.cell is None:
        raise ValueError(f"the event {event.kind} has no cell")
    return event.cell


class QuietView(Listener):
    """Shows errors only."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def say(self, text: str) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Nothing is open."""

    def on_cell_end(self, event: Event) -> None:
        """Show a failed cell."""
        cell, error = cell_of(event), event.values["error"]
        if error is not None:
            print(outcome(cell, error, started=True), file=self._stream, flush=True)


class PlainView(Listener):
    """Writes lines, for logs and pipes; a `brief` one only how cells ended, and nothing of skipped ones."""

    def __init__(self, n_cells: int, stream: TextIO, clock: Clock = time.monotonic, *, brief: bool = False) -> None:
        self._tally = Tally(n_cells, clock)
        self._stream = stream
        self._clock = clock
        self._last = -MIN_GAP
        self._brief = brief

    def say(self, text: str) -> None:
        """Write one line now."""
        self._last = self._clock()
        print(text, file=self._stream, flush=True)

    def on_data(self, event: Event) -> None:
        """Write how far the preparation is, unless a line was just written."""
        done, total, what = (event.values[name] for name in ("done", "total", "what"))
        self._say_rarely(f"{what}: {done}/{total}")

    def close(self) -> None:
        """Nothing is open."""

    def on_note(self, event: Event) -> None:
        """Say it."""
        where = f"{cell_name(event.cell)}: " if event.cell else ""
        self.say(f"{where}{event.values['text']}")

    def on_cells(self, event: Event) -> None:
        """Learn how much there is to do."""
        cells = event.values["cells"]
        self._tally.plan(cells)

    def on_cell_start(self, event: Event) -> None:
        """Write that a cell begins."""
        cell, resumed_round = cell_of(event), event.round
        if not self._tally.start(cell, resumed_round) or self._brief:
            return
        resumed = f", resumed after round {resumed_round}" if resumed_round else ""
        self.say(f"{cell_name(cell)}: {cell.rounds} rounds, {cell.n_devices} devices{resumed}")

    def on_device_end(self, event: Event) -> None:
        """Write that a device has finished, unless a line was just written."""
        cell = cell_of(event)
        self._tally.unit(cell)
        self._say_rarely(f"{cell_name(cell)}: {moment(cell, event.round)}, {event.device} done{self._eta()}")

    def on_score_end(self, event: Event) -> None:
        """Write that a device or the server has been scored, unless a line was just written."""
        cell = cell_of(event)
        self._tally.unit(cell, "scoring")
        self._say_rarely(f"{cell_name(cell)}: {moment(cell, event.round)}, scored {event.device}{self._eta()}")

    def on_round_end(self, event: Event) -> None:
        """Write that a round has ended."""
        cell = cell_of(event)
        if not self._brief:
            scores = scores_text(event.values["scores"])
            self.say(f"{cell_name(cell)}: round {event.round}/{cell.rounds} done{self._eta()}{scores}")

    def on_cell_end(self, event: Event) -> None:
        """Write how a cell has ended."""
        cell, error = cell_of(event), event.values["error"]
        self._tally.end(cell, failed=error is not None)
        if self._brief:
            if self._tally.has_started(cell) or error is not None:
                self.say(f"{outcome(cell, error, started=True)} ({self._tally.state()})")
            return
        line = outcome(cell, error, self._tally.has_started(cell))
        self.say(f"{line} ({self._tally.cells_done}/{self._tally.n_cells} cells)")

    def _eta(self) -> str:
        return f", ETA {duration(self._tally.eta())}"

    def _say_rarely(self, text: str) -> None:
        if not self._brief and self._clock() - self._last >= MIN_GAP:
            self.say(text)


class LiveView(Listener):
    """Draws one line per running cell and one for all, on a terminal; a `brief` one is silent on skipped cells."""

    def __init__(self, n_cells: int, stream: TextIO, clock: Clock = time.monotonic, *, brief: bool = False) -> None:
        self._brief = brief
        self._tally = Tally(n_cells, clock)
        self._stream = stream
        self._progress: Progress | None = None
        self._whole: TaskID | None = None
        self._data: TaskID | None = None
        self._rows: dict[CellRef, TaskID] = {}

    def say(self, text: str) -> None:
        """Write one line now, above what is drawn; the drawing library is not needed for the first one."""
        if self._progress is None:
            print(text, file=self._stream, flush=True)
        else:
            self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def on_data(self, event: Event) -> None:
        """Draw how far the preparation is; the line goes when it is finished."""
        done, total, what = (event.values[name] for name in ("done", "total", "what"))
        progress = self._drawn()
        if self._data is None:
            self._data = progress.add_task(what, total=total, state="")
        progress.update(self._data, description=what, completed=done, total=total, state=f"{done}/{total}")
        if done >= total:
            progress.remove_task(self._data)
            self._data = None

    def close(self) -> None:
        """Stop drawing and leave the terminal as it was."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def on_note(self, event: Event) -> None:
        """Say it."""
        where = f"{cell_name(event.cell)}: " if event.cell else ""
        self.say(f"{where}{event.values['text']}")

    def on_cells(self, event: Event) -> None:
        """Learn how much there is to do."""
        cells = event.values["cells"]
        self._tally.plan(cells)

    def on_cell_start(self, event: Event) -> None:
        """Draw a line for the cell."""
        cell, resumed_round = cell_of(event), event.round
        if not self._tally.start(cell, resumed_round):
            return
        progress = self._drawn()
        done = covered(cell, resumed_round)
        state = f"round {resumed_round}/{cell.rounds}"
        self._rows[cell] = progress.add_task(cell_name(cell), total=units(cell), completed=done, state=state)

    def on_device_end(self, event: Event) -> None:
        """Move the cell's line."""
        cell = cell_of(event)
        self._tally.unit(cell)
        self._move(cell, advance=1, state=f"{moment(cell, event.round)} {event.device}")

    def on_score_end(self, event: Event) -> None:
        """Move the cell's line and show that it is scoring."""
        cell = cell_of(event)
        self._tally.unit(cell, "scoring")
        self._move(cell, advance=1, state=f"{moment(cell, event.round)} scoring {event.device}")

    def on_round_end(self, event: Event) -> None:
        """Show the round's scores beside the cell's line."""
        cell = cell_of(event)
        self._move(
            cell, advance=0, state=f"round {event.round}/{cell.rounds} done{scores_text(event.values['scores'])}"
        )

    def on_cell_end(self, event: Event) -> None:
        """Replace the cell's line by one that stays."""
        cell, error = cell_of(event), event.values["error"]
        self._tally.end(cell, failed=error is not None)
        progress = self._drawn()
        if cell in self._rows:
            progress.remove_task(self._rows.pop(cell))
        if error is not None or self._tally.has_started(cell) or not self._brief:
            self.say(outcome(cell, error, self._tally.has_started(cell)))
        self._update_whole(progress)

    def _move(self, cell: CellRef, advance: int, state: str) -> None:
        progress = self._drawn()
        if cell in self._rows:
            eta = f", ETA {duration(self._tally.cell_eta(cell))}"
            progress.update(self._rows[cell], advance=advance, state=state + eta)
        self._update_whole(progress)

    def _update_whole(self, progress: Progress) -> None:
        if self._whole is not None:
            tally = self._tally
            progress.update(self._whole, completed=tally.cells_done, total=tally.n_cells, state=tally.state())

    def _drawn(self) -> Progress:
        """Return the drawing, started on first use."""
        if self._progress is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn(_STATE, markup=False))
            console = Console(file=self._stream)
            self._progress = Progress(*columns, TimeElapsedColumn(), console=console)
            self._progress.start()
            if self._tally.n_cells:  # preparing data alone has none
                self._whole = self._progress.add_task("all cells", total=self._tally.n_cells, state="")
                self._update_whole(self._progress)
        return self._progress


def make_view(n_cells: int, stream: TextIO, quiet: bool, *, brief: bool = False) -> View:
    """Return the view that suits `stream`; a `brief` one suits many cells."""
    if quiet:
        return QuietView(stream)
    return LiveView(n_cells, stream, brief=brief) if stream.isatty() else PlainView(n_cells, stream, brief=brief)
