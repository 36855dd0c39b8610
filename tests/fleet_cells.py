"""Cells of the toy dataset that differ in their fleets alone."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch

import toy
from mlecs_bench.doors.events import Event, Tell
from mlecs_bench.doors.registry import Loaded, Registry
from mlecs_bench.federation.build import Builder
from mlecs_bench.federation.checkpoint import server_file
from mlecs_bench.federation.engine import Cell, CellRun, Outcome
from mlecs_bench.federation.evaluation import evaluator_of
from mlecs_bench.federation.fleet import Fleet, FleetRequest, Recipe, build_host, fleet_place
from mlecs_bench.federation.turns import Ask, DeviceMissing, Refusal, Reply
from mlecs_bench.plan.plan import Plan
from mlecs_bench.plan.resolve import planned
from mlecs_bench.testing.fleets import Around

SEED, KEY, ROUNDS = 27, "key", 2
PARTIES = ("server", "d00", "d01", "d02")
MakeFleet = Callable[[FleetRequest], Fleet]
Act = Callable[[], None]


@dataclasses.dataclass(frozen=True)
class Cells:
    """Makes cells of the toy dataset that differ in their fleets alone."""

    registry: Registry
    profile: Loaded
    prepared: object
    samples: object
    cache_dir: Path

    def plan(self, algo: str = "multi-fedavg", **changes: object) -> Plan:
        spec = toy.toy_spec(algo=algo, **({"rounds": ROUNDS, "steps": 1, "evaluate": "all"} | changes))
        return planned(spec, self.registry.algorithm(algo), self.registry.dataset("toy"), self.profile)

    def recipe(self, plan: Plan, turns: Path | None = None) -> Recipe:
        return Recipe(plan, SEED, f"{KEY}-{plan.algorithm.name}", self.prepared.folder, self.cache_dir, turns)

    def run(self, plan: Plan, make: MakeFleet, folder: Path | None = None, tell: Tell | None = None) -> Result:
        """Run a cell to its end and close its fleet."""
        recipe = self.recipe(plan, folder)
        builder = Builder(plan, SEED, self.samples, self.registry)
        evaluator = evaluator_of(plan, self.samples, self.registry, self.cache_dir)
        parts = {"registry": self.registry, "builder": builder, "evaluator": evaluator}
        fleet = make(FleetRequest(recipe, functools.partial(build_host, recipe, **parts)))
        info = self.registry.algorithm(plan.algorithm.name).info
        server = builder.server()
        cell = Cell(
            algorithm=info.build(plan.options),
            server=server,
            fleet=fleet,
            evaluator=evaluator,
            key=recipe.key,
            rounds=plan.rounds,
            evaluate_all=plan.evaluate == "all",
            server_score=plan.server_score,
            checkpoint=folder and server_file(folder),
            conditions=plan.conditions,
            robustness=plan.robustness,
        )
        run = CellRun(cell if tell is None else dataclasses.replace(cell, tell=tell))
        try:
            outcome = run.run()
        finally:
            fleet.close()
        return Result(outcome, dict(run.greetings), server.state())


@dataclasses.dataclass(frozen=True)
class Result:
    """All of a finished cell that its record is made of, and the server's state."""

    outcome: Outcome
    greetings: dict
    server: dict[str, torch.Tensor]


def assert_same(one: Result, other: Result) -> None:
    assert one.outcome.metrics == other.outcome.metrics
    assert one.outcome.comm == other.outcome.comm
    assert one.outcome.cost["steps"] == other.outcome.cost["steps"]
    fresh = [{id_: dataclasses.replace(g, finished=0) for id_, g in r.greetings.items()} for r in (one, other)]
    assert fresh[0] == fresh[1]
    assert not toy.differing(one.server, other.server)


class LosingFleet(Around):
    """A fleet whose d01 is missing from one round: it cannot be reached, or does its turn when that is too late."""

    def __init__(self, fleet: Fleet, lost: int = 2, *, late: bool = False) -> None:
        super().__init__(fleet)
        self._lost = ("d01", lost)
        self._late = late

    def exchange(self, asks: Mapping[str, Ask]) -> Iterator[tuple[str, Reply | Refusal]]:
        """Yield replies, and for d01 in its round that it has gone."""
        lost = {id_: ask for id_, ask in asks.items() if (id_, ask.round) == self._lost}
        yield from self._fleet.exchange({id_: ask for id_, ask in asks.items() if id_ not in lost})
        if self._late:
            list(self._fleet.exchange(lost))
        for id_ in lost:
            yield id_, Refusal.of(DeviceMissing(f"{id_} has gone"))


def check_a_silent_host(cells: Cells, make: MakeFleet, folder: Path, stop: Act, go_on: Act, seconds: float) -> None:
    """Let the process of d01 be stopped for all of round 2: the round goes on without it, and its turn comes too late.

    All else is as in this process. `make` makes a fleet that waits for a round for so many seconds, `stop` stops the
    process, `go_on` lets it go on.
    """
    plan = cells.plan("ml-ecs", rounds=4, evaluate="last", participation={"min_devices": 2})
    took: list[float] = []

    def tell(event: Event) -> None:
        if event.kind == "round_end":
            took.append(time.monotonic())
            {1: stop, 2: go_on}.get(event.round, lambda: None)()

    there = cells.run(plan, make, folder, tell)
    usual = functools.partial(request_fleet, cells.registry, "in-process")
    here = cells.run(plan, lambda request: LosingFleet(usual(request), late=True))
    assert took[1] - took[0] >= seconds
    assert there.outcome.attended == here.outcome.attended
    assert [row["lost"] for row in there.outcome.attended] == [{}, {"d01": "missing"}, {}, {}]
    (missing,) = there.outcome.missing
    reason = f"d01 gave no reply in round 2 within {seconds:g} s"
    assert missing == {"round": 2, "device": "d01", "reason": reason}
    assert_same(there, here)


def request_fleet(registry: Registry, name: str, request: FleetRequest) -> Fleet:
    """Make a fleet by the name that users write."""
    place = fleet_place(name)
    own = {"size": place.number, "argument": place.argument}
    return registry.fleet(place.name).info.make(dataclasses.replace(request, **own))


def gone(pid: int, seconds: float = 20.0) -> bool:
    """Wait until a process is gone, or has ended and waits to be collected by somebody else."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False
