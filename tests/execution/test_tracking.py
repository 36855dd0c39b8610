"""Trackers: looked at before anything starts, told of every cell of the parent's, closed, and never in a run's way."""

from __future__ import annotations

import sys
import types

import pytest

from mlecs_bench.doors.hookspecs import TrackerInfo, hookimpl
from mlecs_bench.doors.observers import tell_all
from mlecs_bench.doors.registry import PluginEntry, Registry
from mlecs_bench.errors import PluginError, UsageError
from mlecs_bench.execution.jobs import Execution
from mlecs_bench.execution.tracking import check_trackers, tracked
from mlecs_bench.testing.cells import no_observers, recorded_cell


class Made:
    """A tracker that remembers."""

    def __init__(self, where="there", fails_at=(), error=None):
        self.where, self.fails_at, self.error = where, fails_at, error or ZeroDivisionError("no server")
        self.told, self.closed = [], 0

    @hookimpl
    def mlecs_event(self, event, plan):
        self.told.append(event.kind)
        if event.kind in self.fails_at:
            raise self.error

    def close(self):
        self.closed += 1
        if "close" in self.fails_at:
            raise self.error


class Notes:
    def __init__(self):
        self.texts = []

    @hookimpl
    def mlecs_event(self, event):
        self.texts += [event.values["text"]] if event.kind == "note" else []


@pytest.fixture
def registry(monkeypatch):
    """Trackers `kept`, `broken`, `lacking` and `cannot`, and an observer that is none."""
    module = types.ModuleType("acme_trackers")
    module.made = []

    def make(request, **how):
        module.made.append(Made(str(request.folder), **how))
        return module.made[-1]

    def cannot(request):
        raise OSError("no disk")

    late = {"fails_at": ("round_end", "close"), "error": UsageError("the server is gone")}
    module.kept = TrackerInfo("Kept", "keeps", make)
    module.broken = TrackerInfo("Broken", "breaks", lambda request: make(request, **late))
    module.lacking = TrackerInfo("Lacking", "lacks", make, ("json", "no_such_package"), "pip install 'x[lacking]'")
    module.cannot = TrackerInfo("Cannot", "cannot", cannot)
    module.watch = Notes()
    monkeypatch.setitem(sys.modules, "acme_trackers", module)
    names = ("kept", "broken", "lacking", "cannot", "watch")
    return Registry([PluginEntry(name, "observer", "acme", "1", f"acme_trackers:{name}") for name in names])


def made():
    return sys.modules["acme_trackers"].made


def run(registry, out, *track, events=None):
    """Tell the events of the toy cell within the block; return the notes."""
    manager, notes = no_observers(), Notes()
    manager.register(notes)
    with tracked(Execution(out, out, track=track), registry, manager):
        for event in events or recorded_cell().story():
            tell_all(manager, event)
    assert manager.get_plugins() == {notes}
    return notes.texts


def test_those_that_are_named_hear_everything_each_once_and_are_closed(registry, tmp_path):
    texts = run(registry, tmp_path, "kept", "kept")
    (tracker,) = made()
    assert texts[0] == f"tracked by kept: {tmp_path / 'track' / 'kept'}"
    assert [kind for kind in tracker.told if kind != "note"] == [
        event.kind for event in recorded_cell().story() if event.kind != "note"
    ]
    assert tracker.closed == 1
    assert run(registry, tmp_path) == ["a process of devices was replaced"]
    assert len(made()) == 1


def test_one_that_fails_in_the_middle_costs_one_line_and_is_closed(registry, tmp_path):
    texts = run(registry, tmp_path, "broken", "kept")
    failed = [text for text in texts if "broken" in text and not text.startswith("tracked by")]
    assert failed == [
        "observer 'broken' is let go, it failed at round_end: UsageError: the server is gone",
        "tracker 'broken' could not be closed: UsageError: the server is gone",
    ]
    broken, kept = made()
    assert (broken.told.count("round_end"), kept.told.count("round_end")) == (1, 2)
    assert (broken.closed, kept.closed) == (1, 1)


def test_they_are_closed_where_the_command_is_stopped(registry, tmp_path):
    execution = Execution(tmp_path, tmp_path, track=("kept",))
    with pytest.raises(KeyboardInterrupt), tracked(execution, registry, no_observers()):
        raise KeyboardInterrupt
    assert made()[0].closed == 1


def test_what_cannot_be_had_is_refused_in_one_line_before_anything_is_told(registry, tmp_path):
    for name, error, expected in (
        (
            "lacking",
            UsageError,
            "needs the package 'no_such_package', which is not installed: pip install 'x.lacking.'",
        ),
        ("kapt", UsageError, "no tracker 'kapt'. Did you mean 'kept'[?] Known: broken, cannot, kept, lacking$"),
        ("watch", UsageError, "observer 'watch' is told of every run as long as it is installed; leave it out"),
        ("cannot", PluginError, r"tracker 'cannot' cannot start \(OSError: no disk\); leave --track cannot out"),
    ):
        manager = no_observers()
        with (
            pytest.raises(error, match=expected) as caught,
            tracked(Execution(tmp_path, tmp_path, track=("kept", name)), registry, manager),
        ):
            raise AssertionError("the block was entered")
        assert "\n" not in str(caught.value)
        assert all(tracker.closed == 1 for tracker in made())
    with pytest.raises(UsageError, match="no tracker"):
        check_trackers(("kapt",), registry)


def test_observers_of_every_run_are_no_trackers(registry):
    manager, warnings = registry.observers()
    assert (sorted(name for name, _ in manager.list_name_plugin()), warnings) == (["watch"], [])


def test_the_trackers_that_come_with_mlecs_bench_are_had_without_their_packages():
    registry = Registry.installed()
    for name in ("tensorboard", "mlflow", "wandb"):
        info = registry.tracker(name).info
        assert info.install == f"pip install 'mlecs-bench[{name}]'"
        assert info.packages
