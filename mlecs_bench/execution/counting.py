"""What an algorithm transmits, counted without weights: the rounds run on models that have shapes and no values.

There is no second formula: server, devices, messages, engine and ledger are those of a run. Only the language models
are outlines of their configurations, stages have no steps, and messages pass on shapes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlecs_bench.errors import MlecsError, PluginError

if TYPE_CHECKING:
    from mlecs_bench.data.samples import PartyData, Samples
    from mlecs_bench.doors.registry import Registry
    from mlecs_bench.doors.scoring import Metric
    from mlecs_bench.federation.ledger import Direction
    from mlecs_bench.federation.messages import Message
    from mlecs_bench.models.unified import UnifiedModel
    from mlecs_bench.plan.plan import Plan


def shapes_of(message: Message, _device: str, _direction: Direction, _t: int) -> Message:
    """Return a message with its tensors detached: those of the meta device have no values to be copied or checked."""
    tensors = {name: tensor.detach() for name, tensor in message.tensors.items()}
    return dataclasses.replace(message, tensors=tensors)


class _NoScores:
    """An evaluator that finds nothing to score."""

    def score(self, model: UnifiedModel, test: PartyData, prompt: str) -> Mapping[str, Metric]:
        return {}


def count_transmitted(plan: Plan, registry: Registry, samples: Samples) -> dict[str, Any]:
    """Return the `comm` block of a record of the plan's first seed, and `ranks` of the devices, without training.

    Raises PluginError for an algorithm whose messages depend on values.
    """
    from mlecs_bench.federation.build import build_federation
    from mlecs_bench.federation.engine import Cell, CellRun
    from mlecs_bench.federation.fleet import InProcessFleet
    from mlecs_bench.federation.host import DeviceHost
    from mlecs_bench.plan.conditions import Conditions

    federation = build_federation(plan, plan.seeds[0], samples, registry, outline=True)
    algorithm, evaluator = registry.algorithm(plan.algorithm.name).info.build(plan.options), _NoScores()
    travels = plan.conditions.compression
    cell = Cell(
        algorithm=algorithm,
        server=federation.server,
        fleet=InProcessFleet(
            DeviceHost(federation.devices, algorithm, evaluator, carry=shapes_of, compression=travels)
        ),
        evaluator=evaluator,
        key="",
        rounds=plan.rounds,
        evaluate_all=False,
        server_score=False,
        carry=shapes_of,
        conditions=Conditions(compression=travels),
    )
    try:
        comm = CellRun(cell).run().comm
    except MlecsError:
        raise
    except Exception as error:
        raise PluginError(
            f"the messages of '{plan.algorithm.name}' cannot be counted without values "
            f"({' '.join(str(error).split())[:120]}); run it and read the comm block of its record"
        ) from error
    return comm | {"ranks": {id_: structure.rank for id_, structure in plan.structures.items()}}
