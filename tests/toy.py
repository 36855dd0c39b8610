"""Toy cells for tests, on the tiny models and data of `mlecs_bench.testing.toy`, with the first-party algorithms."""

from __future__ import annotations

import copy
import dataclasses
import zlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import torch

from mlecs_baselines import centralised, co_plms, fedilora, fedmllm, multi_fedavg, standalone
from mlecs_bench.data.partition import Masks
from mlecs_bench.data.samples import PartyData, Samples
from mlecs_bench.doors.hookspecs import AlgorithmInfo, DatasetInfo, Needs
from mlecs_bench.doors.options import build_options
from mlecs_bench.doors.profile import Profile
from mlecs_bench.doors.registry import Loaded
from mlecs_bench.doors.scoring import Metric
from mlecs_bench.federation.build import Federation, build_federation
from mlecs_bench.federation.checkpoint import server_file
from mlecs_bench.federation.engine import Cell, CellRun, Outcome
from mlecs_bench.federation.evaluation import Evaluator
from mlecs_bench.federation.fleet import Fleet, InProcessFleet
from mlecs_bench.federation.host import Carry, DeviceHost, copied
from mlecs_bench.federation.turns import FileTurns, MemoryTurns
from mlecs_bench.models.unified import UnifiedModel
from mlecs_bench.plan.plan import Plan
from mlecs_bench.plan.resolve import planned
from mlecs_bench.plan.spec import RunSpec
from mlecs_bench.testing import toy as made
from mlecs_bench.testing.bits import differing, state_of
from mlecs_bench.testing.toy import (
    MODALITIES,
    NAMES,
    byte_level_tokenizer,
    make_gpt2,
    make_gptj,
    make_llama,
    make_prepared,
)
from mlecs_plugins.ml_ecs import plugin as ml_ecs
from mlecs_plugins.ml_ecs.ablations import no_amt, no_ccl, no_kt, no_mma, no_se_ccl

__all__ = [
    "ALGORITHMS",
    "MODALITIES",
    "NAMES",
    "byte_level_tokenizer",
    "differing",
    "make_gpt2",
    "make_gptj",
    "make_llama",
    "make_prepared",
    "make_profile",
    "state_of",
]
MODULES = {
    "standalone": standalone,
    "centralised": centralised,
    "multi-fedavg": multi_fedavg,
    "co-plms": co_plms,
    "fedilora": fedilora,
    "fedmllm": fedmllm,
    "ml-ecs": ml_ecs,
    "ml-ecs/no-mma": no_mma,
    "ml-ecs/no-se-ccl": no_se_ccl,
    "ml-ecs/no-ccl": no_ccl,
    "ml-ecs/no-amt": no_amt,
    "ml-ecs/no-kt": no_kt,
}
ALGORITHMS: dict[str, AlgorithmInfo] = {name: module.mlecs_algorithm() for name, module in MODULES.items()}


def make_profile(folder: Path) -> Profile:
    """Return a profile of a random GPT-2 and a random GPT-J with few positions."""
    return made.make_profile(folder, slm_positions=64, llm_positions=96)


def toy_spec(**changes: object) -> RunSpec:
    """Return a spec of the toy dataset."""
    values: dict[str, object] = {
        "algo": "ml-ecs",
        "dataset": "toy",
        "profile": "toy",
        "rho": 0.6,
        "rounds": 2,
        "steps": 2,
        "split": "frame",
        "device": "cpu",
    }
    return RunSpec(**(values | changes))  # type: ignore[arg-type]


def needs_of(algo: str, **options: object) -> Needs:
    """Return what one of `ALGORITHMS` needs under some options."""
    info = ALGORITHMS[algo]
    needs: Needs = info.needs(build_options(info.options, options, algo))
    return needs


def toy_plan(profile: Profile, needs: Needs | None = None, **changes: object) -> Plan:
    """Return a plan on the toy dataset; `needs` stand in for the algorithm's."""
    spec = toy_spec(**changes)
    info = ALGORITHMS.get(spec.algo) or AlgorithmInfo("", "", build=lambda _: None)  # type: ignore[arg-type,return-value]
    if needs is not None:
        info = dataclasses.replace(info, needs=lambda _: needs)
    loaded = Loaded(spec.algo, info, "mlecs-bench", "0")
    return planned(spec, loaded, made.dataset(), Loaded(profile.name, profile, "mlecs-bench", "0"))


_BUILT: dict[tuple[object, ...], Federation] = {}


def copied_federation(plan: Plan, seed: int, samples: Samples, masks: Masks | None = None) -> Federation:
    """Return a federation of one's own: a copy of one that was built once, which takes a third of the time."""
    key = (plan.to_json(), seed, id(samples), masks)
    if key not in _BUILT:
        with mock.patch("mlecs_bench.federation.build.draw_masks", return_value=masks) if masks else nullcontext():
            _BUILT[key] = build_federation(plan, seed, samples, made.registry())
    built = _BUILT[key]
    texts = [party.model.texts for party in (built.server, *built.devices)]
    shared = (plan, built.plan, samples, *texts, *(text._tokenizer for text in texts))
    return copy.deepcopy(built, {id(one): one for one in shared})


def toy_federation(
    profile: Profile,
    samples: Samples,
    seed: int = 27,
    public_stage: bool = True,
    needs: Needs | None = None,
    **changes: object,
) -> Federation:
    """Return a federation on the toy dataset, for an algorithm of these needs."""
    plan = toy_plan(profile, needs or Needs(public_stage=public_stage), **changes)
    return build_federation(plan, seed, samples, made.registry())


def federation_of(
    profile: Profile, samples: Samples, held: Sequence[Sequence[str]], seed: int = 27, **changes: object
) -> Federation:
    """Return a federation whose devices hold the modality sets `held` instead of drawn ones."""
    sets = tuple(tuple(sorted(h)) for h in held)
    masks = Masks(sets, 0, sum(map(len, sets)) / (len(sets) * len(MODALITIES)))
    needs = changes.pop("needs", None) or Needs(public_stage=bool(changes.pop("public_stage", True)))
    plan = toy_plan(profile, needs, n_devices=len(sets), **changes)  # type: ignore[arg-type]
    return copied_federation(plan, seed, samples, masks)


class TextDigest:
    """A score that any change of any answer changes."""

    name = "digest"
    identity = "crc32 of the answers"

    def score(self, predictions: Sequence[str], references: Sequence[str]) -> Metric:
        """Return the checksum of the predictions as a fraction."""
        return Metric(zlib.crc32(repr(list(predictions)).encode()) / 2**32, len(references))


class LossEvaluator(Evaluator):
    """Scores the answers' digest and the loss on the test samples: sensitive to every bit of a model."""

    def score(self, model: UnifiedModel, test: PartyData, prompt: str) -> dict[str, Metric]:
        """Return both scores."""
        scores = super().score(model, test, prompt)
        with torch.no_grad():
            loss = float(model.loss(test.batch(test.rows), prompt, test.targets(test.rows)))
        return scores | {"loss": Metric(loss, len(test), higher_is_better=False)}


class Unscored:
    """Scores nothing, for laws that scores have no part in: answers take most of a toy cell's time."""

    def score(self, model: UnifiedModel, test: PartyData, prompt: str) -> dict[str, Metric]:
        """Return no score."""
        return {}


def evaluator(samples: Samples) -> LossEvaluator:
    """Return what scores toy models."""
    info = DatasetInfo("toy", "", "generation", NAMES, prepare=lambda _: None, metrics=("digest",))  # type: ignore[arg-type,return-value]
    return LossEvaluator(info, samples, [TextDigest()], 64)


def toy_cell(
    algo: str,
    federation: Federation,
    samples: Samples,
    *,
    fleet: Callable[[DeviceHost], Fleet] = InProcessFleet,
    folder: Path | None = None,
    carry: Carry = copied,
    **changes: object,
) -> Cell:
    """Return a cell of one of `ALGORITHMS`; `options` and the fields of Cell may be given.

    `folder` is where server and devices keep what they need to go on; `carry` takes the messages of both sides.
    """
    info = ALGORITHMS[algo]
    options = build_options(info.options, changes.pop("options", {}), algo)  # type: ignore[arg-type]
    key = str(changes.get("key", "k"))
    values: dict[str, object] = {
        "algorithm": info.build(options),
        "server": federation.server,
        "evaluator": evaluator(samples),
        "key": key,
        "rounds": federation.server.training.rounds,
        "evaluate_all": False,
        "server_score": info.server_score,
        "checkpoint": folder and server_file(folder),
        "carry": carry,
        "conditions": federation.plan.conditions,
    } | changes
    turns = FileTurns(folder, key) if folder else MemoryTurns()
    host = DeviceHost(federation.devices, values["algorithm"], values["evaluator"], turns, carry=carry)  # type: ignore[arg-type]
    return Cell(**values, fleet=fleet(host))  # type: ignore[arg-type]


def run_toy(algo: str, federation: Federation, samples: Samples, **changes: object) -> Outcome:
    """Run a cell to its end."""
    return CellRun(toy_cell(algo, federation, samples, **changes)).run()  # type: ignore[arg-type]
