"""Runs of the algorithm under test in toy federations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from mlecs_bench.doors.hookspecs import AlgorithmInfo, Needs
from mlecs_bench.doors.options import build_options
from mlecs_bench.doors.registry import Loaded
from mlecs_bench.errors import UsageError
from mlecs_bench.federation.algorithm import Algorithm
from mlecs_bench.federation.build import Federation, build_federation, deal_modalities
from mlecs_bench.federation.checkpoint import server_file
from mlecs_bench.federation.engine import Cell, CellRun, Outcome
from mlecs_bench.federation.fleet import Fleet, FleetRequest, InProcessFleet, Recipe
from mlecs_bench.federation.host import Carry, DeviceHost, copied
from mlecs_bench.federation.turns import FileTurns, MemoryTurns
from mlecs_bench.plan.resolve import planned
from mlecs_bench.plan.spec import RunSpec
from mlecs_bench.testing import toy
from mlecs_bench.testing.bits import LossEvaluator, differing, state_of
from mlecs_bench.testing.diary import Diary
from mlecs_bench.testing.fleets import Around, CarriedFleet
from mlecs_bench.testing.global_state import global_streams
from mlecs_bench.testing.steps import Listening, Sent, Watch, Watched
from mlecs_bench.testing.verdict import CheckFailed, fail, failure

if TYPE_CHECKING:
    from pathlib import Path

    from mlecs_bench.data.samples import Samples
    from mlecs_bench.doors.events import Tell
    from mlecs_bench.plan.plan import Plan

ROUNDS = 2
STEPS = 2
MAX_SEEDS = 10_000
Held = tuple[tuple[str, ...], ...]


def one_two_three(held: Held) -> bool:
    """Do the devices hold one, two and three modalities?"""
    return sorted(map(len, held)) == [1, 2, 3]


@dataclass(frozen=True)
class Trial:
    """A finished run: the parties, what it measured, what was sent and delivered, and the state it left.

    `sent` holds copies of the messages as they were, `delivered` the very objects that the parties got. `state` lacks
    that of devices that live elsewhere.
    """

    federation: Federation
    outcome: Outcome
    sent: Sequence[Sent]
    delivered: Sequence[Sent]
    state: Mapping[str, torch.Tensor]


MakeFleet = Callable[[FleetRequest], Fleet]


def in_process(request: FleetRequest) -> Fleet:
    """Return a fleet of this process."""
    return InProcessFleet(request.host(request.recipe.plan.device_ids))


@dataclass(frozen=True)
class Subject:
    """The algorithm under test with its options, what its devices live in, and its reference run."""

    loaded: Loaded[AlgorithmInfo]
    given: Mapping[str, object]
    fleet: MakeFleet = in_process

    @property
    def name(self) -> str:
        """Its name."""
        return self.loaded.name

    @property
    def info(self) -> AlgorithmInfo:
        """Its card."""
        return self.loaded.info

    @cached_property
    def options(self) -> Any:
        """The options that it is built with."""
        return build_options(self.info.options, self.given, f"algorithm '{self.name}'")

    def build(self) -> Algorithm:
        """Return the algorithm."""
        algorithm: Algorithm = self.info.build(self.options)
        return algorithm

    @property
    def needs(self) -> Needs:
        """What it says that it needs."""
        return self.info.needs(self.options)

    def plan(self, **changes: Any) -> Plan:
        """Return the plan of a run on the toy data; `changes` are fields of the spec."""
        values: dict[str, Any] = {
            "algo": self.name,
            "dataset": toy.DATASET,
            "rho": 0.6,
            "rounds": ROUNDS,
            "steps": STEPS,
        }
        # As few setup steps as other steps: an algorithm takes what the budget gives, and a check has seconds.
        needs = dataclasses.replace(self.needs, setup_steps=min(self.needs.setup_steps, STEPS))
        info = dataclasses.replace(self.info, needs=lambda _: needs)
        profile = Loaded(toy.DATASET, toy.profile(), "mlecs-bench", "0")
        spec = RunSpec(**(values | {"options": self.given, "profile": toy.DATASET} | changes))
        return planned(spec, dataclasses.replace(self.loaded, info=info), toy.dataset(), profile)

    def federation(
        self, wanted: Callable[[Held], bool] = one_two_three, samples: Samples | None = None, **changes: Any
    ) -> Federation:
        """Return a fresh federation whose devices hold modality sets as `wanted`; `changes` are fields of the spec."""
        plan = self.plan(**changes)
        return build_federation(plan, seed_with(plan, wanted), samples or toy.samples(), toy.registry())

    def run(
        self,
        federation: Federation,
        *watches: Watch,
        algorithm: Callable[[], Algorithm] | None = None,
        carry: Carry = copied,
        streams: int = 1,
        **cell: Any,
    ) -> Trial:
        """Run the algorithm to its end.

        `algorithm` gives it at every step (None: one object for the whole run); `streams` says where the global random
        generators stand; `cell` are further settings of `cell`.
        """
        listening = Listening(carry)
        run = self.cell(federation, *watches, algorithm=algorithm, carry=listening, **cell)
        try:
            with global_streams(streams):
                outcome = CellRun(run).run()
        finally:
            run.fleet.close()
        return Trial(federation, outcome, listening.sent, listening.delivered, self._state(federation))

    def _state(self, federation: Federation) -> dict[str, torch.Tensor]:
        """Return the states of the parties that live here."""
        here = federation if self.fleet is in_process else dataclasses.replace(federation, devices=())
        return state_of(here)

    def cell(
        self,
        federation: Federation,
        *watches: Watch,
        algorithm: Callable[[], Algorithm] | None = None,
        carry: Carry = copied,
        around: Callable[[Fleet], Fleet] = Around,
        folder: Path | None = None,
        tell: Tell | None = None,
    ) -> Cell:
        """Return the cell of a run. `folder`: where server and devices keep what they need to go on."""
        watched = Watched(algorithm or one_object(self.build()), *watches)

        def host(_ids: Sequence[str]) -> DeviceHost:
            turns = MemoryTurns() if folder is None else FileTurns(folder, self.name)
            return DeviceHost(federation.devices, watched, LossEvaluator(), turns, carry=carry)

        fleet = around(self.fleet(FleetRequest(self._recipe(federation, folder), host)))
        cell = Cell(
            algorithm=watched,
            server=federation.server,
            fleet=fleet if self.fleet is in_process else CarriedFleet(fleet, carry),
            evaluator=LossEvaluator(),
            key=self.name,
            rounds=federation.server.training.rounds,
            evaluate_all=False,
            server_score=self.info.server_score,
            checkpoint=None if folder is None else server_file(folder),
            carry=carry,
            conditions=federation.plan.conditions,
        )
        return cell if tell is None else dataclasses.replace(cell, tell=tell)

    def _recipe(self, federation: Federation, folder: Path | None) -> Recipe:
        """Return what it takes to build the devices of a federation elsewhere, on toy samples as many as its own."""
        data = toy.prepared(federation.server.train.manifest.n_samples).folder
        return Recipe(federation.plan, federation.server.seed, self.name, data, toy.process_folder(), folder)

    @cached_property
    def _noted(self) -> tuple[Trial, Diary]:
        here = dataclasses.replace(self, fleet=in_process)
        diary = Diary(here.federation())
        return here.run(diary.federation, diary.watch), diary

    @cached_property
    def shared(self) -> dict[str, Any]:
        """Runs of single modules of checks that several of their checks read."""
        return {}

    @property
    def reference(self) -> Trial:
        """The run that others are compared with: three devices, two rounds, two steps per stage."""
        return self._noted[0]

    @property
    def diary(self) -> Diary:
        """What the reference run showed beside its result."""
        return self._noted[1]


def one_object(algorithm: Algorithm) -> Callable[[], Algorithm]:
    """Return a function that always gives the same algorithm."""
    return lambda: algorithm


def seed_with(plan: Plan, wanted: Callable[[Held], bool]) -> int:
    """Return the first seed whose devices hold modality sets as `wanted`."""
    for seed in range(MAX_SEEDS):
        if wanted(deal_modalities(plan, seed, sorted(plan.rates)).devices):
            return seed
    raise UsageError(f"no seed below {MAX_SEEDS} gives the modality sets that were asked for at rho {plan.rho_text}")


def differences(one: Trial, other: Trial, from_round: int = 1) -> list[str]:
    """Return in words where two runs differ: messages, states, scores."""
    sent, again = (
        {(s.round, s.direction, s.device): s for s in trial.sent if s.round >= from_round} for trial in (one, other)
    )
    found = [str(sent.get(key) or again[key]) for key in sorted(sent.keys() ^ again.keys())]
    for key in sorted(sent.keys() & again.keys()):
        here, there = sent[key].message, again[key].message
        names = sorted(differing(here.tensors, there.tensors))
        names += [] if here.scalars == there.scalars else ["its scalars"]
        found += [f"{sent[key]}: {names[0]}"] if names else []
    parties = {name.partition(":")[0] for name in other.state}
    expected = {name: tensor for name, tensor in one.state.items() if name.partition(":")[0] in parties}
    found += [f"the state {name}" for name in sorted(differing(expected, other.state))]
    return found + ([] if one.outcome.metrics == other.outcome.metrics else ["the scores or losses"])


def expect_same(one: Trial, other: Trial, wanted: str, advice: str, from_round: int = 1) -> None:
    """Raise CheckFailed unless two runs agree in every bit of messages, states and scores."""
    found = differences(one, other, from_round)
    if found:
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        fail(wanted, f"{found[0]}{more} differ", advice)


def expect_finite(trial: Trial, wanted: str) -> None:
    """Raise CheckFailed when a run left a number that is not finite."""
    for name, tensor in trial.state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            advice = "look for a division by a count that can be 0"
            fail(wanted, f"the state {name} holds NaN or infinity", advice)


@contextmanager
def blaming(wanted: str, advice: str) -> Iterator[None]:
    """Turn any error within the block into a CheckFailed that says what was asked for."""
    try:
        yield
    except CheckFailed:
        raise
    except Exception as error:
        raise failure(wanted, f"the run broke with {type(error).__name__}: {error}", advice) from error
