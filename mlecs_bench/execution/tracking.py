"""Trackers of a run or a sweep: those that it names are looked at before anything starts, told of it, and closed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mlecs_bench.doors.events import Event
from mlecs_bench.doors.hookspecs import TrackerInfo, TrackerRequest
from mlecs_bench.doors.observers import tell_all
from mlecs_bench.errors import MlecsError, PluginError, UsageError

if TYPE_CHECKING:
    import pluggy

    from mlecs_bench.doors.observers import Tracker
    from mlecs_bench.doors.registry import Registry
    from mlecs_bench.execution.jobs import Execution

FOLDER = "track"
"""Where in the folder of the records trackers write, each in a folder of its name."""


def check_trackers(names: Sequence[str], registry: Registry) -> None:
    """Raise UsageError for a name that no tracker has, and for a tracker whose packages are not installed."""
    for name in names:
        check_packages(name, registry.tracker(name).info)


def check_packages(name: str, info: TrackerInfo) -> None:
    """Raise UsageError, with the command that installs it, where a package of a tracker is not there."""
    missing = next((module for module in info.packages if importlib.util.find_spec(module) is None), None)
    if missing is not None:
        raise UsageError(f"tracker '{name}' needs the package '{missing}', which is not installed: {info.install}")


@contextmanager
def tracked(execution: Execution, registry: Registry, observers: pluggy.PluginManager) -> Iterator[None]:
    """Have the trackers that `execution` names told beside `observers` within the block, and close them at its end.

    Raises UsageError or PluginError, before the block, for one that cannot start.
    """
    check_trackers(execution.track, registry)
    made: dict[str, Tracker] = {}
    try:
        for name in dict.fromkeys(execution.track):
            made[name] = tracker = _made(name, execution, registry)
            observers.register(tracker, name=name)
            _note(observers, f"tracked by {name}: {tracker.where}")
        yield
    finally:
        for name, tracker in made.items():
            _close(name, tracker, observers)


def _made(name: str, execution: Execution, registry: Registry) -> Tracker:
    try:
        tracker: Tracker = registry.tracker(name).info.make(TrackerRequest(execution.out / FOLDER / name))
    except MlecsError:
        raise
    except Exception as error:
        raise PluginError(f"tracker '{name}' cannot start ({_cause(error)}); leave --track {name} out") from error
    return tracker


def _close(name: str, tracker: Tracker, observers: pluggy.PluginManager) -> None:
    """Close a tracker, also one that was let go; an error costs no more than a line."""
    if observers.is_registered(tracker):
        observers.unregister(tracker)
    try:
        tracker.close()
    except Exception as error:  # noqa: BLE001  # the records are written; a tracker must not take the command down
        _note(observers, f"tracker '{name}' could not be closed: {_cause(error)}")


def _note(observers: pluggy.PluginManager, text: str) -> None:
    tell_all(observers, Event("note", values={"text": text}))


def _cause(error: Any) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
