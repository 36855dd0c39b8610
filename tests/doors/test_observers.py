"""Observers are told one by one: one that breaks costs itself alone."""

from __future__ import annotations

import pluggy
import pytest

from mlecs_bench.doors.events import Event
from mlecs_bench.doors.hookspecs import PROJECT, HookSpecs, hookimpl
from mlecs_bench.doors.observers import tell_all
from mlecs_bench.errors import UsageError


class Listening:
    def __init__(self) -> None:
        self.heard = []

    @hookimpl
    def mlecs_event(self, event, plan):
        self.heard.append((event.kind, plan, event.values.get("text", "")))


class Raising:
    def __init__(self, error: Exception) -> None:
        self.error, self.calls = error, 0

    @hookimpl
    def mlecs_event(self, event):
        self.calls += 1
        raise self.error


def observers(*plugins):
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(HookSpecs)
    for plugin in plugins:
        manager.register(plugin, name=type(plugin).__name__.lower())
    return manager


def test_one_that_breaks_is_let_go_and_the_others_hear_everything_and_why():
    for order in (0, 1):
        one, other = Listening(), Raising(ZeroDivisionError("by\nzero"))
        manager = observers(*((one, other) if order else (other, one)))
        for kind in ("cells", "round_end", "cell_end"):
            tell_all(manager, Event(kind), plan="p")
        assert other.calls == 1
        text = "observer 'raising' is let go, it failed at cells: ZeroDivisionError: by zero"
        assert sorted(one.heard) == sorted(
            [("cells", "p", ""), ("note", "p", text), ("round_end", "p", ""), ("cell_end", "p", "")]
        )


def test_an_observer_that_cannot_do_what_it_was_asked_for_ends_the_command():
    manager = observers(Raising(UsageError("cannot write x; set Y")))
    with pytest.raises(UsageError, match="cannot write x; set Y"):
        tell_all(manager, Event("cells"))


def test_once_cells_have_begun_it_is_let_go_like_any_other():
    one, other = Listening(), Raising(UsageError("the disk is full"))
    manager = observers(one, other)
    tell_all(manager, Event("round_end"))
    assert (
        "note",
        None,
        "observer 'raising' is let go, it failed at round_end: UsageError: the disk is full",
    ) in one.heard
    assert not manager.is_registered(other)
