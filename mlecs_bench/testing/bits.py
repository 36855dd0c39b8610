"""States compared bit for bit, and scores that any change of a model moves."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import torch
from torch import nn

from mlecs_bench.doors.scoring import Metric
from mlecs_bench.errors import PluginError

if TYPE_CHECKING:
    from mlecs_bench.data.samples import PartyData
    from mlecs_bench.federation.build import Federation
    from mlecs_bench.models.backbone import AnyBackbone
    from mlecs_bench.models.unified import UnifiedModel


def state_of(federation: Federation) -> dict[str, torch.Tensor]:
    """Return the states of all parties, named ``party:name``."""
    parties = (federation.server, *federation.devices)
    return {f"{p.id}:{name}": tensor for p in parties for name, tensor in p.state().items()}


def differing(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> set[str]:
    """Return the names under which two states are not equal bit for bit, or which only one of them has."""
    same = {k for k in one.keys() & other.keys() if one[k].dtype == other[k].dtype and torch.equal(one[k], other[k])}
    return (one.keys() | other.keys()) - same


def frozen_weights(federation: Federation) -> dict[str, torch.Tensor]:
    """Return every tensor of the federation's language models that belongs to no adapter, named ``party: name``."""
    backbones: dict[int, tuple[str, AnyBackbone]] = {}
    for party in (federation.server, *federation.devices):
        backbones.setdefault(id(party.model.backbone), (party.id, party.model.backbone))
        with suppress(PluginError):  # the algorithm asked for no proxies
            backbones.setdefault(id(party.proxy.backbone), (f"{party.id} proxy", party.proxy.backbone))
    found: dict[str, torch.Tensor] = {}
    for owner, backbone in backbones.values():
        for module in (m for m in vars(backbone).values() if isinstance(m, nn.Module)):
            found |= {f"{owner}: {k}": t for k, t in module.named_parameters() if "lora_" not in k}
            found |= {f"{owner}: {k}": t for k, t in module.named_buffers()}
    return found


class LossEvaluator:
    """Scores the loss on the test samples: any change of a model moves it, and nothing has to be generated."""

    def score(self, model: UnifiedModel, test: PartyData, prompt: str) -> dict[str, Metric]:
        """Return the loss of `model` on `test`."""
        model.switch(training=False)
        with torch.no_grad():
            loss = float(model.loss(test.batch(test.rows), prompt, test.targets(test.rows)))
        return {"loss": Metric(loss, len(test), higher_is_better=False)}
