"""Correct workers, fleets and observers, and for each check one that breaks it."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import Any

from mlecs_bench.api import Ask, Event, FleetInfo, Message, Reply, TrackerInfo, WorkersInfo, build_host, hookimpl
from mlecs_bench.doors.registry import PluginEntry, Registry
from mlecs_bench.errors import UsageError
from mlecs_bench.execution.workers import InProcess
from mlecs_bench.federation.fleet import InProcessFleet

# Workers


class Full(InProcess):
    free = 5


class EndsTwice(InProcess):
    def __init__(self, tell):
        super().__init__(lambda event: [tell(event) for _ in range(2 if event.kind == "cell_end" else 1)])


class Loses(InProcess):
    def start(self, job):
        return None


class Swallows(InProcess):
    def __init__(self, tell):
        super().__init__(lambda event: tell(without_error(event)))


def without_error(event: Event) -> Event:
    if event.kind != "cell_end":
        return event
    return dataclasses.replace(event, values={**event.values, "error": None})


class Backwards(InProcess):
    def __init__(self, tell):
        super().__init__(self.kept)
        self.told, self.to = [], tell

    def kept(self, event):
        self.told.insert(0, event)
        if event.kind == "cell_end":
            told, self.told = self.told, []
            for one in told:
                self.to(one)


class OtherSeeds(InProcess):
    def start(self, job):
        super().start(dataclasses.replace(job, seed=job.seed + 1))


class GoesOn(InProcess):
    def stop(self):
        return None


def crew(made: Callable[[Any], Any] = InProcess, **card: Any) -> WorkersInfo:
    return WorkersInfo(**{
        "title": "Crew", "summary": "one at a time", "make": lambda request: made(request.tell), **card
    })  # fmt: skip  # a card


WORKERS = crew()
BROKEN_WORKERS = [
    ("card", crew(title="two\nlines"), "the card needs its 'title'"),
    ("room", crew(Full), "fresh workers have room for 1 to 2 jobs, but `free` is 5"),
    ("one-end-each", crew(EndsTwice), "seed 27 ended 2 times"),
    ("one-end-each", crew(Loses), "every job ends, but seed 27 has not"),
    ("errors-of-their-own", crew(Swallows), "a job that fails ends with its error, but it ended with None"),
    ("events-in-order", crew(Backwards), "seed 27 told cell_end, round_end 2, round_end 1, cell_start"),
    ("same-numbers", crew(OtherSeeds), "of seed 27 differs from a run in this process"),
    ("stops-at-once", crew(GoesOn), "workers that were stopped tell nothing"),
]


# Fleets


class Deaf(InProcessFleet):
    def hello(self, after):
        greetings = dict(super().hello(after))
        greetings["d01"] = dataclasses.replace(greetings["d01"], data="1" * 64)
        return greetings


class LosesMessages(InProcessFleet):
    def exchange(self, asks):
        return super().exchange({id_: dataclasses.replace(ask, message=Message()) for id_, ask in asks.items()})


class RepliesTwice(InProcessFleet):
    def exchange(self, asks):
        for pair in super().exchange(asks):
            yield from (pair, pair)


class AnswersAfresh(InProcessFleet):
    """Gives its second answer for a round without what the device sent."""

    asked: Any = ()

    def exchange(self, asks):
        for id_, reply in super().exchange(asks):
            again = (id_, asks[id_].round) in self.asked
            self.asked = {*self.asked, (id_, asks[id_].round)}
            yield id_, dataclasses.replace(reply, upload=Message()) if again else reply


class HidesErrors(InProcessFleet):
    def exchange(self, asks):
        for id_, ask in asks.items():
            try:
                yield id_, self._host.turn(id_, Ask.from_bytes(ask.to_bytes()))
            except Exception:  # noqa: BLE001  # it hides whatever happens
                yield id_, Reply(Message(), None, {}, {}, {"training": 0.0, "evaluation": 0.0})


class ClosesOnce(InProcessFleet):
    open = True

    def close(self):
        if not self.open:
            raise OSError("closed already")
        self.open = False


def forgetful(request: Any) -> InProcessFleet:
    """Build devices that keep their turns in memory alone."""
    recipe = dataclasses.replace(request.recipe, turns=None)
    return InProcessFleet(build_host(recipe, recipe.plan.device_ids, Registry.installed()))


def fleet(made: Callable[[Any], Any] = InProcessFleet, **card: Any) -> FleetInfo:
    return FleetInfo(**{
        "title": "Fleet", "summary": "here",
        "make": lambda request: made(request.host(request.recipe.plan.device_ids)), **card,
    })  # fmt: skip  # a card


FLEET = fleet()
BROKEN_FLEETS = [
    ("card", fleet(summary=""), "the card needs its 'summary'"),
    ("greetings", fleet(Deaf), "d01 greets as"),
    ("same-bits", fleet(LosesMessages), "where devices live changes no bit"),
    ("doubled-asks", fleet(RepliesTwice), "replied unasked, or twice"),
    ("doubled-asks", fleet(AnswersAfresh), "replies otherwise when it is asked again"),
    ("refused-turns", fleet(HidesErrors), "an error that says 'refuses' arrives as such"),
    ("goes-on", fleet(make=forgetful), "d00 has state of round 0 and the server of round 1"),
    ("closes", fleet(ClosesOnce), "closed already"),
]


# Workers and a fleet that are somewhere, and are told where


def check_somewhere(text: str) -> None:
    if not text.startswith("there:"):
        raise UsageError(f"the address must be there:PORT, got '{text}'")


class Somewhere:
    """Plugins of both kinds under one name; `asked` has how they were asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int | None]] = []

    @hookimpl
    def mlecs_workers(self):
        return self.card(crew(), lambda request: InProcess(request.tell))

    @hookimpl
    def mlecs_fleet(self):
        return self.card(fleet(), fleet().make)

    def card(self, usual: Any, make: Callable[[Any], Any]) -> Any:
        def made(request: Any) -> Any:
            self.asked.append((request.argument, request.size))
            return make(request)

        return dataclasses.replace(usual, make=made, argument="text", check_argument=check_somewhere)


SOMEWHERE = Somewhere()
ENTRIES = [PluginEntry("somewhere", kind, "acme", "1.2", "contract_places:SOMEWHERE") for kind in ("workers", "fleet")]


# Observers


class Watcher:
    """Watches."""

    def __init__(self, look: Callable[[Any, Any], object] = lambda event, plan: None) -> None:
        self.look = look

    @hookimpl
    def mlecs_event(self, event, plan):
        self.look(event, plan)


class Nameless(Watcher):
    __doc__ = None


class Remembers(Watcher):
    """Knows cells from their start."""

    def __init__(self):
        self.started = {}

    @hookimpl
    def mlecs_event(self, event, plan):
        if event.kind == "cell_start":
            self.started[event.cell] = event
        elif event.kind == "round_end":
            self.started[event.cell]


class Mute(Watcher):
    """A tracker that does not say where it writes."""

    where = ""

    def close(self):
        """Write nothing."""


def tracker(made: object) -> TrackerInfo:
    return TrackerInfo("Made", "is told of what it is named for", lambda request: made)


OBSERVER = Watcher()
BROKEN_OBSERVERS = [
    ("card", Nameless(), "an observer says what it does"),
    ("every-kind", Watcher(lambda event, plan: plan.rounds), "AttributeError: 'NoneType'"),
    ("any-moment", Remembers(), "KeyError"),
    ("leaves-alone", Watcher(lambda event, plan: random.getrandbits(1)), "it moved Python's global random stream"),
    ("values-untouched", Watcher(lambda event, plan: event.values.clear()), "an observer changes nothing"),
    ("silent-stdout", Watcher(lambda event, plan: print(event.kind)), "'data' was printed"),
    ("closes-twice", tracker(Mute()), "a tracker says where its runs are, but its 'where' is ''"),
]
