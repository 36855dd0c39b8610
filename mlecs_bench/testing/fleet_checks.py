"""Checks of a fleet plugin: devices that live in it are those of this process, bit for bit, whatever happens."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from mlecs_bench.doors.events import Event, silent
from mlecs_bench.doors.hookspecs import FleetInfo
from mlecs_bench.doors.places import Place
from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import MlecsError
from mlecs_bench.federation.build import Builder
from mlecs_bench.federation.checkpoint import server_file
from mlecs_bench.federation.engine import Cell, CellRun, Outcome
from mlecs_bench.federation.evaluation import evaluator_of
from mlecs_bench.federation.fleet import Fleet, FleetRequest, InProcessFleet, Recipe, build_host, open_samples
from mlecs_bench.federation.messages import Message
from mlecs_bench.federation.turns import Ask, Refusal, Reply
from mlecs_bench.testing.bits import differing
from mlecs_bench.testing.card_checks import check_texts
from mlecs_bench.testing.cells import toy_jobs
from mlecs_bench.testing.installed import REFUSED, installed
from mlecs_bench.testing.material import new_folder
from mlecs_bench.testing.verdict import fail

if TYPE_CHECKING:
    import torch

    from mlecs_bench.doors.events import Tell

N_DEVICES = 3
SETTLE = 5.0
"""Seconds in which processes of a closed fleet may leave."""


@dataclass(frozen=True)
class Finished:
    """A run: what it measured and sent, and the state that it left at the server."""

    outcome: Outcome
    server: Mapping[str, torch.Tensor]


class _Killed(Exception):  # noqa: N818  # it stands for the death of the server, not for an error
    """The server has stopped in the middle of a run."""


@dataclass(frozen=True)
class Fleets:
    """The fleet under test with what users write behind its name, and the toy cell whose devices live in it."""

    name: str
    info: FleetInfo
    argument: str = ""

    def request(self, turns: Path | None = None) -> FleetRequest:
        """Return a request for the devices of the toy cell, which keep their turns in a folder.

        Every folder stands for a cell of its own: devices that keep their turns elsewhere know cells by their keys.
        """
        (job,) = toy_jobs(new_folder(), n_devices=N_DEVICES)
        registry = Registry.installed()
        turns = turns or new_folder()
        key = f"{job.key}-{turns.name}"
        recipe = Recipe(job.plan, job.seed, key, job.data, job.execution.cache_dir, turns)
        builder = Builder(job.plan, job.seed, open_samples(job.data), registry)
        evaluator = evaluator_of(job.plan, builder.samples, registry, recipe.cache_dir)
        host = partial(build_host, recipe, registry=registry, builder=builder, evaluator=evaluator)
        size = Place(self.name, self.argument).number
        return FleetRequest(recipe, host, size, argument=self.argument)

    @contextmanager
    def opened(self, request: FleetRequest) -> Iterator[Fleet]:
        """Give the fleet under test; it is closed afterwards."""
        fleet = self.info.make(request)
        try:
            yield fleet
        finally:
            fleet.close()

    def run(self, fleet: Fleet, request: FleetRequest, folder: Path, tell: Tell = silent) -> Finished:
        """Run the toy cell on a fleet; the server keeps its checkpoint in `folder`."""
        recipe, registry = request.recipe, Registry.installed()
        builder = Builder(recipe.plan, recipe.seed, open_samples(recipe.data), registry)
        cell = Cell(
            algorithm=registry.algorithm(recipe.plan.algorithm.name).info.build(recipe.plan.options),
            server=builder.server(),
            fleet=fleet,
            evaluator=evaluator_of(recipe.plan, builder.samples, registry, recipe.cache_dir),
            key=recipe.key,
            rounds=recipe.plan.rounds,
            evaluate_all=True,
            server_score=False,
            checkpoint=server_file(folder),
            tell=tell,
        )
        return Finished(CellRun(cell).run(), cell.server.state())

    @cached_property
    def here(self) -> Finished:
        """The run with the devices in this process."""
        with installed():
            request = self.request()
            return self.run(InProcessFleet(request.host(request.recipe.plan.device_ids)), request, new_folder())


def card(fleets: Fleets) -> None:
    """The card has title and summary."""
    check_texts({"title": fleets.info.title, "summary": fleets.info.summary})


def greetings(fleets: Fleets) -> None:
    """Every device greets, with the data, versions and sizes that it has in this process."""
    with installed():
        request = fleets.request()
        here = request.host(request.recipe.plan.device_ids).hello(0)
        with fleets.opened(fleets.request()) as fleet:
            there = dict(fleet.hello(0))
    if there != here:
        other = next(id_ for id_ in sorted(here.keys() | there.keys()) if there.get(id_) != here.get(id_))
        happened = f"{other} greets as {there.get(other)}, here as {here.get(other)}"
        fail(
            "devices greet as they do in this process", happened, "build them with build_host, by recipe and ids alone"
        )


def same_bits(fleets: Fleets) -> None:
    """A run gives the same scores, messages and states as with the devices in this process, bit for bit."""
    with installed():
        request = fleets.request()
        with fleets.opened(request) as fleet:
            there = fleets.run(fleet, request, new_folder())
    _expect_same(
        fleets.here, there, "where devices live changes no bit", "use the plan's threads, and pass asks as they are"
    )


def _expect_same(here: Finished, there: Finished, wanted: str, advice: str) -> None:
    """Raise CheckFailed unless two runs agree in everything but seconds."""
    for what in ("metrics", "comm"):
        if getattr(here.outcome, what) != getattr(there.outcome, what):
            fail(wanted, f"'{what}' differs from a run in this process", advice)
    if here.outcome.cost["steps"] != there.outcome.cost["steps"]:
        fail(wanted, f"{there.outcome.cost['steps']} steps were taken instead of {here.outcome.cost['steps']}", advice)
    changed = sorted(differing(here.server, there.server))
    if changed:
        fail(wanted, f"the server's '{changed[0]}' differs from a run in this process", advice)


def _asks(request: FleetRequest, t: int = 1, **scalars: float) -> dict[str, Ask]:
    return {id_: Ask(t, Message(scalars=scalars)) for id_ in request.recipe.plan.device_ids}


def doubled_asks(fleets: Fleets) -> None:
    """Asked twice for a round, a device replies twice the same and trains once; only who is asked replies."""
    with installed():
        request = fleets.request()
        asks = _asks(request)
        one = next(iter(asks))
        with fleets.opened(request) as fleet:
            fleet.hello(0)
            alone = _replies(fleet, {one: asks[one]})
            first, second = _replies(fleet, asks), _replies(fleet, asks)
            after = _replies(fleet, _asks(request, 2))
    wanted, advice = "a finished round is answered again with the kept reply", "pass the ask on to DeviceHost.turn"
    for id_, reply in first.items():
        if _differ(reply, second[id_]) or (id_ == one and _differ(reply, alone[id_])):
            fail(wanted, f"{id_} replies otherwise when it is asked again", advice)
        if after[id_].steps != reply.steps:
            fail(wanted, f"{id_} took {after[id_].steps} steps in the round after, not {reply.steps}", advice)


def _differ(one: Reply, other: Reply) -> bool:
    tensors = differing(one.upload.tensors, other.upload.tensors)
    return bool(tensors) or one.upload.scalars != other.upload.scalars or one.head() != other.head()


def _replies(fleet: Fleet, asks: Mapping[str, Ask]) -> dict[str, Reply]:
    """Return the replies to asks; raises CheckFailed unless each who was asked replies, once."""
    found: dict[str, Reply] = {}
    for id_, reply in fleet.exchange(asks):
        if isinstance(reply, Refusal):
            raise reply.error()
        if id_ in found or id_ not in asks:
            fail("each who was asked replies once", f"{id_} replied unasked, or twice", "yield one pair for each ask")
        found[id_] = reply
    if len(found) != len(asks):
        fail("each who was asked replies once", f"{len(found)} of {len(asks)} replied", "yield one pair for each ask")
    return found


def refused_turns(fleets: Fleets) -> None:
    """A turn that fails comes back as an error of its kind, and can be taken again; a round too early is refused."""
    with installed():
        request = fleets.request()
        with fleets.opened(request) as fleet:
            fleet.hello(0)
            for what, asks in {
                "refuses": _asks(request, 1, **{REFUSED: 1}),
                "cannot take round 5": _asks(request, 5),
            }.items():
                errors = _errors(fleet, asks)
                if not errors or what not in errors[0]:
                    happened = f"it was answered with {errors or 'replies'}"
                    fail(f"an error that says '{what}' arrives as such", happened, "yield a Refusal of it, or raise it")
            _replies(fleet, _asks(request))


def _errors(fleet: Fleet, asks: Mapping[str, Ask]) -> list[str]:
    """Return the errors that asks meet, one at a time, whether they are raised or yielded."""
    found: list[str] = []
    for id_, ask in asks.items():
        try:
            found += [reply.message for _, reply in fleet.exchange({id_: ask}) if isinstance(reply, Refusal)]
        except MlecsError as error:
            found.append(str(error))
    return found


def goes_on(fleets: Fleets) -> None:
    """When the server stops in a round and a new fleet takes over, the run ends with the same bits."""

    def stop(event: Event) -> None:
        if event.kind == "device_end" and event.round == 2:
            raise _Killed

    with installed():
        folder, turns = new_folder(), new_folder()
        request = fleets.request(turns)
        with suppress(_Killed), fleets.opened(request) as fleet:
            fleets.run(fleet, request, folder, stop)
        request = fleets.request(turns)
        with fleets.opened(request) as fleet:
            there = fleets.run(fleet, request, folder)
    wanted = "a run that was stopped in round 2 goes on as if nothing had happened"
    _expect_same(fleets.here, there, wanted, "keep turns in recipe.turns, and hello(after) before anything is asked")


def closes(fleets: Fleets) -> None:
    """A fleet can be closed twice, before and after its devices were greeted, and leaves no process."""
    children = set(multiprocessing.active_children())
    with installed():
        for greeted in (False, True):
            fleet = fleets.info.make(fleets.request())
            if greeted:
                fleet.hello(0)
            fleet.close()
            fleet.close()
    deadline = time.monotonic() + SETTLE
    while left := set(multiprocessing.active_children()) - children:
        if time.monotonic() > deadline:
            fail("close() leaves nothing behind", f"{len(left)} processes are still there", "end them in close()")
        time.sleep(0.05)


FLEET_CHECKS = (card, greetings, same_bits, doubled_asks, refused_turns, goes_on, closes)
