"""Carries out requests under a live view: the last step of the commands `run` and `sweep`, and of Python's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlecs_bench.plan.spec import ALL, RunSpec, rho_text
from mlecs_bench.plan.study import keep_study

if TYPE_CHECKING:
    from mlecs_bench.doors.events import CellRef
    from mlecs_bench.doors.registry import Registry
    from mlecs_bench.execution.jobs import CellResult
    from mlecs_bench.plan.plan import Plan
    from mlecs_bench.session.progress import View
    from mlecs_bench.session.request import Places, Request, Sweep

Cells = list[tuple["CellRef", "CellResult"]]


def run_text(spec: RunSpec) -> str:
    """Return the line that a run begins with, before the heavy packages are imported."""
    seeds = ", ".join(map(str, spec.seeds))
    return f"{spec.algo} on {spec.dataset}, rho {rho_text(spec.rho)}, seeds {seeds}; packages are being loaded"


def sweep_text(sweep: Sweep) -> str:
    """Return the line that a sweep begins with, before the heavy packages are imported."""
    return f"{len(sweep.specs)} runs into {sweep.out}; packages are being loaded"


def planned(request: Request, registry: Registry, view: View | None = None) -> Plan:
    """Return the plan of a request, whose workers and fleet are there; raises UsageError and PluginError."""
    from mlecs_bench.execution.jobs import Execution
    from mlecs_bench.execution.protocol import check_places

    check_places(Execution(**vars(request.places)), registry)
    return resolved(request, registry, view)


def resolved(request: Request, registry: Registry, view: View | None = None) -> Plan:
    """Return the plan of a request; where the data say how many devices there are, they are prepared under the view.

    Raises UsageError and PluginError.
    """
    from mlecs_bench.plan.resolve import resolve

    if request.spec.n_devices != ALL:
        return resolve(request.spec, registry)
    import pluggy

    from mlecs_bench.doors.hookspecs import PROJECT, HookSpecs
    from mlecs_bench.execution.all_groups import counted
    from mlecs_bench.execution.protocol import prepare

    observers = pluggy.PluginManager(PROJECT)
    observers.add_hookspecs(HookSpecs)
    if view is not None:
        observers.register(view, name="live-view")
    cache_dir = request.places.cache_dir
    spec = counted(request.spec, registry, lambda plan: prepare(plan, registry, cache_dir, observers))
    return resolve(spec, registry)


def run_cells(plan: Plan, places: Places, registry: Registry, view: View) -> Cells:
    """Run the cells of a plan; return all of them, in the order of seeds, and how they ended."""
    from mlecs_bench.doors.events import Telling
    from mlecs_bench.execution import protocol
    from mlecs_bench.execution.jobs import Execution, cell_ref
    from mlecs_bench.plan.preflight import memory_warning

    observers, warnings = registry.observers()
    for warning in warnings:
        view.say(f"warning: {warning}")
    observers.register(view, name="live-view")
    tight = memory_warning(plan, Telling(view.say, lambda *_: None))
    if tight:
        view.say(f"warning: {tight}")
    results = protocol.run(plan, Execution(**vars(places)), observers, registry)
    return [(cell_ref(plan, result.seed), result) for result in results]


def sweep_cells(sweep: Sweep, registry: Registry, view: View) -> Cells:
    """Run the cells of a sweep and keep its status file up to date; return all cells and how they ended."""
    from mlecs_bench.execution import protocol
    from mlecs_bench.execution.jobs import Execution
    from mlecs_bench.execution.sweep import Interrupted
    from mlecs_bench.files import writable
    from mlecs_bench.session.status_file import StatusFile

    observers, warnings = registry.observers()
    for warning in warnings:
        view.say(f"warning: {warning}")
    writable(sweep.out)
    if sweep.whole:
        keep_study(sweep.study, sweep.out)
    status = StatusFile(sweep.out, sweep.places.workers)
    observers.register(view, name="live-view")
    observers.register(status, name="status-file")
    execution = Execution(**vars(sweep.places), retry_failed=sweep.retry_failed)
    state = "failed"
    try:
        cells = protocol.sweep(sweep.specs, execution, observers, registry)
        state = "done"
        return cells
    except (Interrupted, KeyboardInterrupt):
        state = "interrupted"
        raise
    finally:
        status.close(state)
