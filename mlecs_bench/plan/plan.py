"""A plan: all that was decided about a run, complete and frozen. Nothing that reads it decides anything again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlecs_bench.doors.hookspecs import Needs
from mlecs_bench.doors.options import build_options, plain, rebuilt
from mlecs_bench.doors.profile import Profile
from mlecs_bench.doors.registry import PluginRef
from mlecs_bench.doors.scoring import ranked_name
from mlecs_bench.errors import PluginError, check_choice
from mlecs_bench.plan.conditions import Conditions
from mlecs_bench.plan.spec import LIMITS, AnswerRule, Evaluate, Rho, rho_text
from mlecs_bench.plan.structure import Deviations, Structure
from mlecs_bench.plan.training import BudgetRule, Training

if TYPE_CHECKING:
    from mlecs_bench.doors.registry import Registry


@dataclass(frozen=True)
class Plan:
    """One run: which plugins with which options, on which data and models, trained and scored how.

    `rates` is rho by modality. `profile` has every override in it, `profile_models` are its own SLM and LLM from before
    them. `structures` are those of the devices, by id. `proxy` is the model of the proxies, None where the algorithm
    has none. `training` holds the budget in steps, `rule` how it was counted; with local epochs it holds passes, of
    which each party makes steps when it knows its samples. `metrics` names the scores, headline first, `answer` says
    how an answer is taken from a model. `own_options` are those of the algorithm that depart from its defaults,
    `own_settings` those of the profile that depart from its own and can change a number, as JSON values (of files their
    last name); `variant` says in which settings the run departs from the usual. `data_dir` is where the user's files
    are, None for the stand-in. `conditions` are those of the federation. `robustness`: every party is scored once more
    without each modality. Raises ValueError for an unknown rule or kind of evaluation.
    """

    algorithm: PluginRef
    options: Any
    dataset: PluginRef
    data_options: Any
    data_dir: Path | None
    split: str
    rho: Rho
    rates: Mapping[str, float]
    min_modalities: int
    profile: Profile
    profile_models: tuple[str, str]
    needs: Needs
    server_score: bool
    structures: Mapping[str, Structure]
    deviations: Deviations
    proxy: str | None
    rule: BudgetRule
    training: Training
    evaluate: Evaluate
    metrics: tuple[str, ...]
    seeds: tuple[int, ...]
    torch_device: str
    threads: int
    own_options: Mapping[str, Any]
    own_settings: Mapping[str, Any]
    variant: str
    answer: AnswerRule = "generate"
    conditions: Conditions = field(default_factory=Conditions)
    robustness: bool = False

    @property
    def ranks(self) -> bool:
        """Are labels ranked, beside the answers that a model writes?"""
        return self.answer == "rank"

    @property
    def own_limits(self) -> dict[str, int | None]:
        """The most samples of a kind where they are not the profile's, None for all."""
        return {name: self.own_settings[name] for name in LIMITS if name in self.own_settings}

    @property
    def scores(self) -> tuple[str, ...]:
        """The names of all scores but a dataset's diagnostics: of written answers, then of ranked labels."""
        return (*self.metrics, *(map(ranked_name, self.metrics) if self.ranks else ()))

    def __post_init__(self) -> None:
        check_choice(self.rule, BudgetRule, "rule")
        check_choice(self.evaluate, Evaluate, "evaluate")
        check_choice(self.answer, AnswerRule, "answer")

    @property
    def device_ids(self) -> tuple[str, ...]:
        """The ids of all devices, in order."""
        return tuple(self.structures)

    @property
    def n_devices(self) -> int:
        """N."""
        return len(self.structures)

    @property
    def rounds(self) -> int:
        """T."""
        return self.training.rounds

    @property
    def rho_text(self) -> str:
        """The rates as they are written on the command line."""
        return rho_text(self.rho)

    @property
    def departures(self) -> dict[str, Any]:
        """What is not usual in a run: options of its algorithm, settings of its profile, conditions, scores."""
        scores = {"robustness": True} if self.robustness else {}
        return {**self.own_options, **self.own_settings, **self._own_conditions, **scores}

    @property
    def _own_conditions(self) -> dict[str, str]:
        """The conditions that are not the usual, in words without spaces."""
        names = self.conditions.departures()
        return {name: getattr(self.conditions, name).words().replace(" ", "-") for name in names}

    def models(self) -> list[str]:
        """Return the language models that are loaded, each once."""
        proxies = [self.proxy] if self.proxy else []
        devices = [structure.slm for structure in self.structures.values()]
        return list(dict.fromkeys([self.profile.slm, self.profile.llm, *devices, *proxies]))

    def at_rank(self, rank: int) -> Plan:
        """Return the plan with another LoRA rank, except on devices that were told theirs."""
        structures = {
            id_: structure if id_ in self.deviations.rank else dataclasses.replace(structure, rank=rank)
            for id_, structure in self.structures.items()
        }
        profile = dataclasses.replace(self.profile, lora=self.profile.lora.at_rank(rank))
        return dataclasses.replace(self, profile=profile, structures=structures)

    def to_values(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        values: dict[str, Any] = plain(self)
        return values

    def to_json(self) -> str:
        """Return the plan as JSON; `plan_from_json` reads it back to an equal plan."""
        return json.dumps(self.to_values(), allow_nan=False)


def plan_from_json(text: str, registry: Registry) -> Plan:
    """Read what `Plan.to_json` wrote, with the options' types from the installed plugins.

    Raises PluginError where an installed plugin is another one than the plan was made with.
    """
    values = json.loads(text)
    for kind, options in (("algorithm", "options"), ("dataset", "data_options")):
        loaded = registry.load(kind, values[kind]["name"])  # type: ignore[arg-type]  # two of the kinds
        if plain(loaded.ref) != values[kind]:
            raise PluginError(
                f"{kind} '{loaded.name}' is {loaded.distribution} {loaded.version} here, and the plan was made with "
                f"{values[kind]['distribution']} {values[kind]['version']} (or its code differs); install the same"
            )
        values[options] = build_options(loaded.info.options, values[options], f"{kind} '{loaded.name}'")
    plan: Plan = rebuilt(Plan, values)
    return plan
