"""Laws of the connector: projectors, fusion, soft prompt and what stands in for a missing modality."""

from __future__ import annotations

import dataclasses

import torch
from torch.nn import functional

from laws import for_all
from mlecs_bench.models.connector import Connector, ConnectorSizes
from mlecs_bench.seeds import torch_stream

SIZES = ConnectorSizes(encoder=5, hidden=4, fused=6, soft_tokens=3, backbone=7, dropout=0.5)
ALL = ("audio", "text", "video")


def connector_of(modalities=ALL, seed: int = 1, sizes: ConnectorSizes = SIZES) -> Connector:
    return Connector(modalities, sizes, lambda part: torch_stream(seed, part)).eval()


def features(b: int = 4, modalities=ALL) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {m: torch.randn(b, SIZES.encoder, generator=generator) for m in modalities}


def everywhere(b: int = 4, modalities=ALL) -> dict[str, torch.Tensor]:
    return {m: torch.ones(b, dtype=torch.bool) for m in modalities}


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_projection_is_one_linear_map_per_modality():
    connector, z = connector_of(), features()
    hidden = connector.project(z, everywhere())
    for m in ALL:
        weight, bias = connector.projector[m].weight, connector.projector[m].bias
        torch.testing.assert_close(hidden[m], torch.stack([weight @ row + bias for row in z[m]]))


def test_fusion_is_layer_norm_and_linear_of_the_concatenation():
    connector = connector_of()
    hidden = connector.project(features(), everywhere())
    joined = torch.cat([hidden["audio"], hidden["text"], hidden["video"]], dim=1)
    norm, linear = connector.fusion
    centred = joined - joined.mean(1, keepdim=True)
    normed = centred / (centred.square().mean(1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias
    torch.testing.assert_close(connector.fuse(hidden), normed @ linear.weight.T + linear.bias)


def test_soft_prompt_is_gelu_and_linear_cut_into_tokens():
    connector = connector_of()
    s = torch.randn(4, SIZES.fused, generator=torch.Generator().manual_seed(3))
    linear = connector.prompt[2]
    prompt = connector.soft_prompt(s)
    assert prompt.shape == (4, 3, 7)
    for row in range(4):
        flat = functional.gelu(s[row]) @ linear.weight.T + linear.bias
        torch.testing.assert_close(prompt[row], torch.stack([flat[0:7], flat[7:14], flat[14:21]]))


def test_soft_prompt_drops_out_in_training_only():
    connector, s = connector_of(), torch.ones(4, SIZES.fused)
    assert torch.equal(connector.soft_prompt(s), connector.soft_prompt(s))
    connector.train()
    assert not torch.equal(connector.soft_prompt(s), connector.soft_prompt(s))


def test_order_of_the_modalities_in_a_batch_does_not_matter():
    connector, z = connector_of(), features()
    forward = connector.fuse(connector.project(z, everywhere()))
    backward = connector.fuse(connector.project(dict(reversed(z.items())), dict(reversed(everywhere().items()))))
    assert torch.equal(forward, backward)
    hidden = connector.project(z, everywhere())
    assert torch.equal(connector.fuse(dict(reversed(hidden.items()))), forward)


def test_absent_sample_gets_the_missing_embedding_and_nothing_else_changes():
    connector, z, present = connector_of(), features(), everywhere()
    full = connector.project(z, present)
    present["audio"][[0, 2]] = False
    with torch.no_grad():
        connector.missing["audio"].copy_(torch.arange(4.0))
    hidden = connector.project(z, present)
    assert torch.equal(hidden["audio"][[0, 2]], torch.arange(4.0).expand(2, 4))
    assert torch.equal(hidden["audio"][[1, 3]], full["audio"][[1, 3]])
    assert torch.equal(hidden["text"], full["text"])


def test_missing_embedding_starts_at_zero_and_learns_from_absent_samples_only():
    connector, z, present = connector_of(), features(), everywhere()
    assert all(not connector.missing[m].any() for m in ALL)
    connector.fuse(connector.project(z, present)).square().sum().backward()
    assert all(connector.missing[m].grad is None for m in ALL)
    present["audio"][1] = False
    hidden = connector.project(z, present)
    hidden["audio"].retain_grad()
    connector.zero_grad()
    connector.fuse(hidden).square().sum().backward()
    torch.testing.assert_close(connector.missing["audio"].grad, hidden["audio"].grad[1])
    assert connector.missing["audio"].grad.abs().sum() > 0
    assert connector.missing["text"].grad is None


def test_without_modalities_the_soft_prompt_is_one_trainable_constant():
    connector = connector_of(())
    prompt = connector.constant_prompt(4)
    assert prompt.shape == (4, 3, 7)
    assert not prompt.any()
    prompt.sum().backward()
    assert torch.equal(connector.constant.grad, torch.full((3, 7), 4.0))
    assert not hasattr(connector, "fusion")


@for_all("held", [("audio",), ("audio", "video"), ALL])
def test_initial_projectors_and_soft_prompt_do_not_depend_on_what_else_is_held(held):
    whole, part = connector_of(), connector_of(held)
    for m in held:
        assert torch.equal(whole.projector[m].weight, part.projector[m].weight)
        assert torch.equal(whole.projector[m].bias, part.projector[m].bias)
    assert torch.equal(whole.prompt[2].weight, part.prompt[2].weight)
    assert torch.equal(whole.prompt[2].weight, connector_of(()).prompt[2].weight)


def test_initial_weights_follow_the_stream_and_not_the_global_generator():
    one = connector_of().state_dict()
    torch.rand(11)
    same, other = connector_of().state_dict(), connector_of(seed=2).state_dict()
    assert all(torch.equal(one[k], same[k]) for k in one)
    drawn = [k for k in one if one[k].any() and not torch.equal(one[k], torch.ones_like(one[k]))]
    assert len(drawn) == 10, "a weight and a bias of three projectors, the fusion and the soft prompt"
    assert all(not torch.equal(one[k], other[k]) for k in drawn)


def test_projectors_of_two_modalities_start_different():
    connector = connector_of()
    assert not torch.equal(connector.projector["audio"].weight, connector.projector["text"].weight)


def test_sizes_of_the_authors_script_give_its_parameter_counts():
    sizes = ConnectorSizes(encoder=64, hidden=64, fused=256, soft_tokens=16, backbone=1280, dropout=0.1)
    connector = connector_of(sizes=sizes)
    assert count(connector.prompt) == 5_263_360
    assert count(connector.fusion[0]) == 384
    assert count(connector.fusion[1]) == 49_408
    assert count(connector.projector) == 12_480
    assert count(connector) - sum(p.numel() for p in connector.missing.values()) == 5_325_632


@for_all("held", [("audio",), ("text", "video"), ALL])
def test_any_set_of_modalities_fuses_to_one_width(held):
    connector = connector_of(held, sizes=dataclasses.replace(SIZES, fused=9))
    assert connector.fuse(connector.project(features(2, held), everywhere(2, held))).shape == (2, 9)
