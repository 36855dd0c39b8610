"""Tells observers what happens, one by one: one that breaks costs nobody but itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlecs_bench.doors.events import Event
from mlecs_bench.errors import MlecsError

if TYPE_CHECKING:
    import pluggy


def tell_all(observers: pluggy.PluginManager, event: Event, plan: Any = None) -> None:
    """Tell every observer of an event of a cell with `plan`; the others are told of one that breaks, which is let go.

    Raises the MlecsError of an observer that cannot do what it was asked for, such as writing a file.
    """
    values = {"event": event, "plan": plan}
    for implementation in list(observers.hook.mlecs_event.get_hookimpls()):
        try:
            implementation.function(*(values[name] for name in implementation.argnames))
        except MlecsError:
            raise
        except Exception as error:  # noqa: BLE001  # a stranger's code may raise anything, and cells go on
            observers.unregister(implementation.plugin)
            cause = " ".join(f"{type(error).__name__}: {error}".split())
            text = f"observer '{implementation.plugin_name}' is let go, it failed at {event.kind}: {cause}"
            tell_all(observers, Event("note", event.cell, values={"text": text}), plan)
