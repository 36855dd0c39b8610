"""Tells observers what happens, one by one: one that breaks costs nobody but itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from mlecs_bench.doors.events import Event
from mlecs_bench.errors import MlecsError

if TYPE_CHECKING:
    import pluggy

BEFORE_CELLS = ("data", "cells")
"""Kinds of events during which an observer may still refuse: nothing has been computed yet that could be lost."""


class Tracker(Protocol):
    """An observer that a run asked for by name; its `mlecs_event` is marked with `hookimpl`, as any observer's.

    `where` says where its runs can be found: a folder, or the address of a server.
    """

    @property
    def where(self) -> str:
        """Where its runs can be found."""
        ...

    def mlecs_event(self, event: Event, plan: Any) -> None:
        """Take what happens."""
        ...

    def close(self) -> None:
        """Write what is left; cells that have not ended were interrupted. Nothing is told after it."""
        ...


def tell_all(observers: pluggy.PluginManager, event: Event, plan: Any = None) -> None:
    """Tell every observer of an event of a cell with `plan`; the others are told of one that breaks, which is let go.

    Raises the MlecsError of an observer that cannot do what it was asked for, such as writing a file, as long as no
    cell has begun; later it is let go like any other.
    """
    values = {"event": event, "plan": plan}
    for implementation in list(observers.hook.mlecs_event.get_hookimpls()):
        try:
            implementation.function(*(values[name] for name in implementation.argnames))
        except Exception as error:  # a stranger's code may raise anything, and cells go on
            if isinstance(error, MlecsError) and event.kind in BEFORE_CELLS:
                raise
            observers.unregister(implementation.plugin)
            cause = " ".join(f"{type(error).__name__}: {error}".split())
            text = f"observer '{implementation.plugin_name}' is let go, it failed at {event.kind}: {cause}"
            tell_all(observers, Event("note", event.cell, values={"text": text}), plan)
