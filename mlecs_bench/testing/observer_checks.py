"""Checks of an observer plugin: it takes whatever is told, and leaves alone what it watches."""

from __future__ import annotations

import contextlib
import copy
import io
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mlecs_bench.doors.events import KINDS, Event
from mlecs_bench.doors.hookspecs import TrackerInfo, TrackerRequest
from mlecs_bench.testing.cells import Recorded, no_observers, recorded_cell
from mlecs_bench.testing.global_state import global_state, global_streams
from mlecs_bench.testing.material import new_folder
from mlecs_bench.testing.verdict import fail


@dataclass(frozen=True)
class Watching:
    """The observer under test, or what makes a tracker, and a toy cell whose events it is told."""

    name: str
    info: Any
    recorded: Recorded = field(default_factory=recorded_cell)

    @cached_property
    def plugin(self) -> Any:
        """What is told: the observer itself, or a tracker that writes to a folder of its own."""
        is_tracker = isinstance(self.info, TrackerInfo)
        return self.info.make(TrackerRequest(new_folder() / self.name)) if is_tracker else self.info

    def tell(self, events: Iterable[Event]) -> str:
        """Tell some events as a run does; return what was printed meanwhile."""
        manager = no_observers()
        manager.register(self.plugin, name=self.name)
        own = self.recorded.job
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            for event in events:
                plan = own.plan if event.cell == own.ref or event.kind == "data" else None
                manager.hook.mlecs_event(event=event, plan=plan)
        return printed.getvalue()


def card(watching: Watching) -> None:
    """A docstring says in its first paragraph what it does: that is the card. That of a tracker is its info."""
    info = watching.info
    if isinstance(info, TrackerInfo):
        _tracker_card(info)
    elif not (getattr(info, "__doc__", "") or "").strip():
        fail("an observer says what it does", "it has no docstring", "write one at the head of the module or class")


def _tracker_card(info: TrackerInfo) -> None:
    for name in ("title", "summary", *(("install",) if info.packages else ())):
        text = getattr(info, name)
        if not text.strip() or "\n" in text:
            fail(f"a tracker has its '{name}' in one line", f"it is {text!r}", "write one; mlecs-bench show prints it")


def closes_twice(watching: Watching) -> None:
    """A tracker can be closed in the middle of a cell, and again, and says where its runs are."""
    if not isinstance(watching.info, TrackerInfo):
        return
    told = [event for event in watching.recorded.story() if event.kind != "cell_end"]
    watching.tell(told)
    for _ in range(2):
        watching.plugin.close()
    if not isinstance(watching.plugin.where, str) or not watching.plugin.where:
        fail(
            "a tracker says where its runs are",
            f"its 'where' is {watching.plugin.where!r}",
            "give a folder or an address",
        )


def every_kind(watching: Watching) -> None:
    """Every kind of event is taken, also of cells without a plan and of cells that fail."""
    story = watching.recorded.story()
    untold = KINDS.keys() - {event.kind for event in story}
    if untold:
        fail("every kind of event is tried", f"'{sorted(untold)[0]}' is not", "tell the harness's authors")
    watching.tell(story)


def any_moment(watching: Watching) -> None:
    """Each event is taken by itself, in any order: an observer may come late, and cells run side by side."""
    for event in reversed(watching.recorded.story()):
        watching.tell([event])


def leaves_alone(watching: Watching) -> None:
    """Global random streams, torch's switches, the environment and the working folder stay as they were."""
    with global_streams(1):
        before, environment, folder = global_state(), dict(os.environ), Path.cwd()
        watching.tell(watching.recorded.story())
        moved = [name for name, value in global_state().items() if value != before[name]]
        moved += ["the environment"] if dict(os.environ) != environment else []
        moved += ["the working folder"] if Path.cwd() != folder else []
    if moved:
        fail("an observer leaves what others share as it was", f"it moved {moved[0]}", "look and touch nothing")


def values_untouched(watching: Watching) -> None:
    """The values of events are as they were: other observers and the record are given the same ones."""
    story = watching.recorded.story()
    before = [copy.deepcopy(dict(event.values)) for event in story]
    watching.tell(story)
    for event, values in zip(story, before, strict=True):
        if dict(event.values) != values:
            fail("an observer changes nothing", f"the values of '{event.kind}' changed", "copy what you want to change")


def silent_stdout(watching: Watching) -> None:
    """Nothing is printed to stdout, which belongs to the command's result."""
    printed = watching.tell(watching.recorded.story())
    if printed:
        fail(
            "stdout belongs to the command",
            f"'{printed.splitlines()[0][:40]}' was printed",
            "write to a file or stderr",
        )


OBSERVER_CHECKS = (card, every_kind, any_moment, leaves_alone, values_untouched, silent_stdout, closes_twice)
