"""What an algorithm transmits, counted without weights: the rounds run on models that have shapes and no values.

There is no second formula: server, devices, messages, engine and ledger are those of a run. Only the language models
are outlines of their configurations, stages have no steps, and links pass shapes on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlecs_bench.doors.options import build_options
from mlecs_bench.errors import MlecsError, PluginError
from mlecs_bench.execution.cell import profile_of

if TYPE_CHECKING:
    from mlecs_bench.data.samples import PartyData, Samples
    from mlecs_bench.doors.hookspecs import AlgorithmInfo
    from mlecs_bench.federation.link import Direction
    from mlecs_bench.federation.messages import Message
    from mlecs_bench.metrics.scores import Metric
    from mlecs_bench.models.unified import UnifiedModel
    from mlecs_bench.plan.spec import RunSpec


class ShapeLink:
    """Delivers shapes: tensors of the meta device have no values that could be copied or checked."""

    def carry(self, message: Message, device: str, direction: Direction, round_: int) -> Message:
        """Return the message with its tensors detached."""
        tensors = {name: tensor.detach() for name, tensor in message.tensors.items()}
        return dataclasses.replace(message, tensors=tensors)


class _NoScores:
    """An evaluator that finds nothing to score."""

    def score(self, model: UnifiedModel, test: PartyData, prompt: str) -> Mapping[str, Metric]:
        return {}


def count_transmitted(spec: RunSpec, info: AlgorithmInfo, samples: Samples, rank: int | None = None) -> dict[str, Any]:
    """Return the `comm` block of a record of `spec` (resolved), and `ranks` of the devices' adapters, without training.

    `rank` replaces the profile's LoRA rank. Raises PluginError for an algorithm whose messages depend on values.
    """
    from mlecs_bench.federation.build import at_rank, build_federation
    from mlecs_bench.federation.engine import Cell, CellRun

    profile = profile_of(spec)
    if rank is not None:
        profile = dataclasses.replace(profile, lora=at_rank(profile.lora, rank))
    options = build_options(info.options, spec.options, f"algorithm '{spec.algo}'")
    federation = build_federation(spec, spec.seeds[0], samples, profile, needs=info.needs(options), outline=True)
    cell = Cell(
        algorithm=info.build(options),
        federation=federation,
        evaluator=_NoScores(),
        key="",
        rounds=spec.rounds or profile.rounds,
        evaluate_all=False,
        server_score=False,
        link=ShapeLink(),
    )
    try:
        comm = CellRun(cell).run().comm
    except MlecsError:
        raise
    except Exception as error:
        raise PluginError(
            f"the messages of '{spec.algo}' cannot be counted without values ({' '.join(str(error).split())[:120]}); "
            "run it and read the comm block of its record"
        ) from error
    return comm | {"ranks": {id_: structure.rank for id_, structure in federation.structures.items()}}
