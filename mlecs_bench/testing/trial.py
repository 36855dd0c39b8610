"""Runs of the algorithm under test in toy federations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from mlecs_bench.data.partition import draw_masks, rates_of
from mlecs_bench.doors.hookspecs import Algorithm, AlgorithmInfo, Needs
from mlecs_bench.doors.options import build_options
from mlecs_bench.errors import UsageError
from mlecs_bench.federation.build import Federation, build_federation
from mlecs_bench.federation.engine import Cell, CellRun, Outcome
from mlecs_bench.plan.spec import RunSpec
from mlecs_bench.testing import toy
from mlecs_bench.testing.bits import LossEvaluator, differing, state_of
from mlecs_bench.testing.diary import Diary
from mlecs_bench.testing.global_state import global_streams
from mlecs_bench.testing.steps import ListeningLink, Sent, Watch, Watched
from mlecs_bench.testing.verdict import CheckFailed, fail, failure

if TYPE_CHECKING:
    from mlecs_bench.data.samples import Samples
    from mlecs_bench.federation.link import Link

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

    `sent` holds copies of the messages as they were, `delivered` the very objects that the parties got.
    """

    federation: Federation
    outcome: Outcome
    sent: Sequence[Sent]
    delivered: Sequence[Sent]
    state: Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Subject:
    """The algorithm under test with its options, and its reference run."""

    name: str
    info: AlgorithmInfo
    given: Mapping[str, object]

    @cached_property
    def options(self) -> Any:
        """The options that it is built with."""
        return build_options(self.info.options, self.given, f"algorithm '{self.name}'")

    def build(self) -> Algorithm:
        """Return the algorithm."""
        return self.info.build(self.options)

    @property
    def needs(self) -> Needs:
        """What it says that it needs."""
        return self.info.needs(self.options)

    def federation(
        self, wanted: Callable[[Held], bool] = one_two_three, samples: Samples | None = None, **changes: Any
    ) -> Federation:
        """Return a fresh federation whose devices hold modality sets as `wanted`; `changes` are fields of the spec."""
        values: dict[str, Any] = {
            "algo": self.name,
            "dataset": toy.DATASET,
            "rho": 0.6,
            "rounds": ROUNDS,
            "steps": STEPS,
        }
        spec = RunSpec(**(values | {"split": "frame", "device": "cpu"} | changes))
        # As few setup steps as other steps: an algorithm takes what the budget gives, and a check has seconds.
        needs = dataclasses.replace(self.needs, setup_steps=min(self.needs.setup_steps, STEPS))
        return build_federation(spec, seed_with(spec, wanted), samples or toy.samples(), toy.profile(), needs=needs)

    def run(
        self,
        federation: Federation,
        *watches: Watch,
        algorithm: Callable[[], Algorithm] | None = None,
        link: Link | None = None,
        streams: int = 1,
        **cell: Any,
    ) -> Trial:
        """Run the algorithm to its end.

        `algorithm` gives it at every step (None: one object for the whole run); `streams` says where the global random
        generators stand; `cell` are fields of Cell.
        """
        listening = ListeningLink(link)
        run = CellRun(self.cell(federation, *watches, algorithm=algorithm, link=listening, **cell))
        with global_streams(streams):
            run.resume()
            outcome = run.run()
        return Trial(federation, outcome, listening.sent, listening.delivered, state_of(federation))

    def cell(
        self, federation: Federation, *watches: Watch, algorithm: Callable[[], Algorithm] | None = None, **cell: Any
    ) -> Cell:
        """Return the cell of a run."""
        values: dict[str, Any] = {
            "algorithm": Watched(algorithm or one_object(self.build()), *watches),
            "federation": federation,
            "evaluator": LossEvaluator(),
            "key": self.name,
            "rounds": federation.server.training.rounds,
            "evaluate_all": False,
            "server_score": self.info.server_score,
        }
        return Cell(**(values | cell))

    @cached_property
    def _noted(self) -> tuple[Trial, Diary]:
        diary = Diary(self.federation())
        return self.run(diary.federation, diary.watch), diary

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


def seed_with(spec: RunSpec, wanted: Callable[[Held], bool]) -> int:
    """Return the first seed whose devices hold modality sets as `wanted`."""
    rates = rates_of(spec.rho, toy.NAMES)
    for seed in range(MAX_SEEDS):
        if wanted(draw_masks(rates, spec.n_devices, seed, spec.min_modalities).devices):
            return seed
    raise UsageError(f"no seed below {MAX_SEEDS} gives the modality sets that were asked for at rho {spec.rho}")


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
    found += [f"the state {name}" for name in sorted(differing(one.state, other.state))]
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
