"""No waiting in the hot loop: on the meta device there are no values, so whatever would wait for one fails."""

from __future__ import annotations

import pytest
import torch

import toy


class StepTakenError(Exception):
    """One step of a stage has been computed."""


def on_meta(federation) -> None:
    """Move every model of a federation to the meta device."""
    meta = torch.device("meta")
    parties = (federation.server, *federation.devices)
    models = [federation.server.slm, *(p.model for p in parties), *(p._proxy for p in parties if p._proxy)]
    for model in models:
        backbone = model.backbone
        if backbone.torch_device != meta:
            backbone._peft.to(meta)
            backbone.torch_device = meta
            backbone._adapters = {name: backbone._find_adapter(name) for name in backbone._adapters}
        model.texts._torch_device = meta
        model.texts._prompts.clear()
        model.encoders.to(meta)
        model.connector.to(meta)


def take_one_step(party, data, stage, loss):
    """Compute loss and gradients of one batch of a stage, as `train_stage` does in its loop, and stop there."""
    for model, parts in stage.models:
        model.switch(training=True)
        for p in model.parameters(parts):
            p.requires_grad_(True)
    loss(data.rows[:4]).backward()
    raise StepTakenError


STAGES = {
    "private": ("standalone", lambda a, s, d: a.local_update(d, 1)),
    "ccl": ("ml-ecs", lambda a, s, d: a.align(d, 1)),
    "amt": ("ml-ecs", lambda a, s, d: a.tune(d, 1)),
    "se-ccl": ("ml-ecs", lambda a, s, d: a.transfer(s, 1)),
    "dst": ("co-plms", lambda a, s, d: a.tune(d, 1)),
    "saml": ("co-plms", lambda a, s, d: a.learn_mutually(d, 1)),
    "fedmllm": ("fedmllm", lambda a, s, d: a.local_update(d, 1)),
}


def test_no_step_waits_for_a_value_of_the_device(profile, samples):
    for stage in STAGES:
        with pytest.MonkeyPatch.context() as patch:
            take_stage(stage, profile, samples, patch)


def take_stage(stage, profile, samples, monkeypatch):
    algo, run = STAGES[stage]
    info = toy.ALGORITHMS[algo]
    federation = toy.toy_federation(profile, samples, needs=toy.needs_of(algo), rho=1.0, n_devices=1)
    server, device = federation.server, federation.devices[0]
    algorithm = info.build(info.options())
    down = algorithm.broadcast(server, 1).get(device.id)
    if down is not None:
        algorithm.receive(device, down.copied(), 1)
    on_meta(federation)
    # transformers itself looks, once in a forward pass, whether sequences are packed; ours never are.
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda _: None)
    monkeypatch.setattr("mlecs_bench.blocks.supervised.train_stage", take_one_step)
    with pytest.raises(StepTakenError):
        run(algorithm, server, device)
