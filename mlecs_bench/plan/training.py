"""How parties are trained: settings that are the same for every party and algorithm, and budgets of optimiser steps."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mlecs_bench.doors.profile import LearningRates
from mlecs_bench.errors import PluginError, UsageError

if TYPE_CHECKING:
    from mlecs_bench.doors.hookspecs import Needs
    from mlecs_bench.doors.profile import Profile

BudgetRule = Literal["paper", "equal"]
"""How optimiser steps are counted: q for every stage, as the paper does, or the same total for every algorithm."""


@dataclass(frozen=True)
class Budget:
    """Optimiser steps per round: on a device's private data, on its public data, and at the server.

    Of a plan that counts epochs these are passes over a party's samples, which `Training.in_steps` makes steps of.
    `setup`: steps that the server takes in round 1 alone, on top of the others. `pooled`: steps of a device on the
    training data of all parties, where the algorithm's needs name them.
    """

    private: int
    public: int
    server: int
    setup: int = 0
    pooled: int = 0

    def allowed(self, stage: str, t: int) -> int:
        """Return the steps of `stage` in round t; raises PluginError for a name that is none of the fields."""
        names = [field.name for field in dataclasses.fields(self)]
        if stage not in names:
            raise PluginError(f"a stage counts against '{stage}'; use one of {', '.join(names)}")
        return 0 if stage == "setup" and t > 1 else int(getattr(self, stage))


@dataclass(frozen=True)
class Training:
    """How a stage is trained: the same for every party and algorithm.

    `counts` says what the budget counts: optimiser steps or, in a plan, passes over samples that are not dealt yet.
    """

    learning_rates: LearningRates
    batch_size: int
    clip_norm: float
    weight_decay: float
    budget: Budget
    rounds: int
    server_trains_encoders: bool
    counts: Literal["steps", "epochs"] = "steps"

    def in_steps(self, private: int, public: int, pooled: int) -> Training:
        """Return the settings of a party with so many private, public and pooled training samples, counted in steps.

        A pass is as many steps as there are full batches, one where there are fewer samples than a batch, and none
        without samples.
        """
        if self.counts == "steps":
            return self
        budget = Budget(
            private=self.budget.private * self._steps_of_a_pass(private),
            public=self.budget.public * self._steps_of_a_pass(public),
            server=self.budget.server * self._steps_of_a_pass(public),
            setup=self.budget.setup,
            pooled=self.budget.pooled * self._steps_of_a_pass(pooled),
        )
        return dataclasses.replace(self, budget=budget, counts="steps")

    def _steps_of_a_pass(self, n: int) -> int:
        return n // min(n, self.batch_size) if n else 0


def training_of(profile: Profile, needs: Needs, rule: BudgetRule) -> Training:
    """Return the training settings of a profile; q = steps of one stage.

    Rule "paper": every stage of a device takes q steps, so an algorithm with two private stages takes 2q private steps,
    and one with a public stage q more on the public data. Rule "equal": the total is 2q for all that train on private
    data, of which a public stage takes q; two private stages share what is left. One that has all data in one place
    takes 2q steps there under either rule.

    With local epochs q is a number of passes over the samples of the stage, which differs in steps from party to party
    and from private to public samples; so no total can be equal, and rule "equal" is refused with a UsageError.
    """
    q = profile.steps if profile.local_epochs is None else profile.local_epochs
    if profile.local_epochs is not None and rule == "equal":
        raise UsageError(
            f"budget equal counts steps, and local-epochs {q} does not; give --steps, or --budget paper with epochs"
        )
    public = q if needs.public_stage else 0
    private = q * needs.private_stages
    if rule == "equal" and private:
        private = 2 * q - public
    pooled = 2 * q if needs.pool else 0
    return Training(
        learning_rates=profile.learning_rates,
        batch_size=profile.batch_size,
        clip_norm=profile.clip_norm,
        weight_decay=profile.weight_decay,
        budget=Budget(private=private, public=public, server=q, setup=needs.setup_steps, pooled=pooled),
        rounds=profile.rounds,
        server_trains_encoders=profile.server_trains_encoders,
        counts="steps" if profile.local_epochs is None else "epochs",
    )
