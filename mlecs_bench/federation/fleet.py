"""Fleets: where the devices of a cell live. The engine knows its devices through a fleet alone.

A fleet shares nothing with the engine but bytes' worth of values: no memory, no file system and no live object need to
be common to both sides. The devices of `InProcessFleet` live in this process, on the server's backbone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mlecs_bench.data.samples import Samples, open_prepared
from mlecs_bench.doors.events import Tell, silent
from mlecs_bench.doors.hookspecs import FleetInfo
from mlecs_bench.doors.places import Place, place
from mlecs_bench.errors import DataError, MessageError, NotFiniteError
from mlecs_bench.federation.build import Builder
from mlecs_bench.federation.evaluation import evaluator_of
from mlecs_bench.federation.host import DeviceHost, Greeting
from mlecs_bench.federation.roster import BuiltDevices, KeptDevices, Roster
from mlecs_bench.federation.scoring import Scoring
from mlecs_bench.federation.turns import Ask, FileTurns, MemoryTurns, Refusal, Reply, Turns
from mlecs_bench.files import parsed_json
from mlecs_bench.plan.plan import plan_from_json

if TYPE_CHECKING:
    from mlecs_bench.doors.registry import Registry
    from mlecs_bench.plan.plan import Plan

IN_PROCESS = "in-process"


class Fleet(Protocol):
    """The devices of a cell."""

    def hello(self, after: int) -> Mapping[str, Greeting]:
        """Tell all devices that the server has finished round `after`; return their greetings.

        Raises MlecsError when a device cannot be reached, or cannot go on from there.
        """
        ...

    def exchange(self, asks: Mapping[str, Ask]) -> Iterator[tuple[str, Reply | Refusal]]:
        """Have devices take their turns; yield a reply or a refusal for each, in the order in which they come."""
        ...

    def close(self) -> None:
        """Let the devices go. What they have saved stays. Safe to call again."""
        ...


@dataclass(frozen=True)
class Recipe:
    """All that it takes to build any device of a cell somewhere else.

    `key` is that of the cell's record. `data` is the folder of the prepared data, `cache_dir` where scorers keep what
    is costly, `turns` the folder where devices keep their turns, None to keep them in memory. `lease` is the text of
    the lease under which they write there.
    """

    plan: Plan
    seed: int
    key: str
    data: Path
    cache_dir: Path
    turns: Path | None = None
    lease: str = ""

    def to_json(self) -> str:
        """Return the recipe as JSON."""
        paths = {name: str(getattr(self, name)) for name in ("data", "cache_dir")}
        own = {"seed": self.seed, "key": self.key, "lease": self.lease}
        own["turns"] = str(self.turns) if self.turns else None
        return json.dumps({"plan": self.plan.to_json(), **own, **paths})


def recipe_from_json(text: str, registry: Registry) -> Recipe:
    """Read what `Recipe.to_json` wrote; raises PluginError where another plugin is installed here."""
    values = json.loads(text)
    plan = plan_from_json(values["plan"], registry)
    turns = Path(values["turns"]) if values["turns"] else None
    paths = {name: Path(values[name]) for name in ("data", "cache_dir")}
    return Recipe(plan, values["seed"], values["key"], **paths, turns=turns, lease=values["lease"])


def build_host(
    recipe: Recipe,
    ids: Sequence[str],
    registry: Registry,
    builder: Builder | None = None,
    evaluator: Scoring | None = None,
    turns: Turns | None = None,
) -> DeviceHost:
    """Return the host of the devices `ids`; those of one builder share its backbones, and may share an evaluator.

    Their turns are kept in `turns`, None for where the recipe says. Raises MlecsError for data or models that are not
    here.
    """
    plan = recipe.plan
    if builder is None:
        builder = Builder(plan, recipe.seed, open_samples(recipe.data), registry)
    algorithm = registry.algorithm(plan.algorithm.name).info.build(plan.options)
    evaluator = evaluator or evaluator_of(plan, builder.samples, registry, recipe.cache_dir)
    turns = turns or turns_of(recipe)
    few = plan.conditions.participation.per_round(plan.n_devices) < plan.n_devices
    # Where few of the devices are there at a time, only these take memory.
    roster: Roster = BuiltDevices(builder, ids) if few else KeptDevices([builder.device(id_) for id_ in ids])
    for id_ in {plan.structures[id_].slm: id_ for id_ in reversed(ids)}.values():
        roster.come(id_)  # and with it its backbone, of which the positions are checked
        roster.leave(id_)
    builder.check_lengths()
    return DeviceHost(
        roster,
        algorithm,
        evaluator,
        turns,
        random_encoders=builder.random_encoders,
        compression=plan.conditions.compression,
    )


def turns_of(recipe: Recipe) -> Turns:
    """Return where the turns of a recipe's devices are kept."""
    return FileTurns(recipe.turns, recipe.key, recipe.lease) if recipe.turns else MemoryTurns()


def open_samples(folder: Path) -> Samples:
    """Return the prepared data in a folder; raises DataError when it is gone."""
    prepared = open_prepared(folder)
    if prepared is None:
        raise DataError(f"the prepared data in {folder} is gone; run the command again to prepare it")
    return Samples.open(prepared)


@dataclass(frozen=True)
class FleetRequest:
    """What a fleet is made for.

    `recipe` builds any of the devices anywhere; `host(ids)` builds some in this process, on the server's backbones.
    `argument` is what the user wrote behind the fleet's name, "" for nothing, and `size` is that as a number: 2 for
    ``processes:2``. `tell` is told of what a user may want to know. A device that gives no reply for `round_timeout`
    seconds is missing from the round (a refusal of that kind); None waits.
    """

    recipe: Recipe
    host: Callable[[Sequence[str]], DeviceHost]
    size: int | None = None
    tell: Tell = silent
    argument: str = ""
    round_timeout: float | None = None


class InProcessFleet:
    """Devices of this process, which take their turns one after the other."""

    def __init__(self, host: DeviceHost) -> None:
        self._host = host

    def hello(self, after: int) -> Mapping[str, Greeting]:
        """Return the greetings of all devices."""
        return self._host.hello(after)

    def exchange(self, asks: Mapping[str, Ask]) -> Iterator[tuple[str, Reply | Refusal]]:
        """Have the devices take their turns in the order of `asks`; an error keeps its place and its traceback.

        But for uploads that are not finite: without them a round may go on.
        """
        for id_, ask in asks.items():
            try:
                reply: Reply | Refusal = self._host.turn(id_, ask)
            except NotFiniteError as error:
                reply = Refusal.of(error)
            yield id_, reply

    def close(self) -> None:
        """Nothing is open."""


def _in_process(request: FleetRequest) -> Fleet:
    return InProcessFleet(request.host(request.recipe.plan.device_ids))


FLEET = FleetInfo(
    title="In this process",
    summary="All devices of a cell in its own process, one after the other, on one backbone.",
    make=_in_process,
    argument="none",
)


def fleet_place(text: str) -> Place:
    """Return name and argument of a fleet as users write it: ``in-process``, ``processes:2``; raises UsageError."""
    return place(text, "--fleet")


def greetings_json(greetings: Mapping[str, Greeting]) -> str:
    """Return greetings as JSON."""
    return json.dumps({id_: asdict(greeting) for id_, greeting in greetings.items()})


def greetings_from_json(text: str) -> dict[str, Greeting]:
    """Read what `greetings_json` wrote; raises MessageError on anything else."""
    try:
        return {id_: Greeting.from_values(values) for id_, values in parsed_json(text).items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise MessageError(f"{len(text)} characters are no greetings of devices: {reason}") from error
