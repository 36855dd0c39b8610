"""Laws of SE-CCL at the server: two models learn from each other, each through its own loss only."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from collections import Counter
from collections.abc import Callable

import pytest
import torch

import toy
from mlecs_bench.blocks.alignment import PairIndex, answer_pairs, vocabulary_map
from mlecs_bench.blocks.gram import contrastive_loss
from mlecs_bench.blocks.mutual import pairs_between
from mlecs_bench.blocks.supervised import minimise
from mlecs_bench.blocks.transfer import pooled_kl
from mlecs_bench.errors import UsageError
from mlecs_bench.federation.build import Federation
from mlecs_bench.federation.server import Server
from mlecs_bench.models.unified import PARTS
from mlecs_plugins.ml_ecs import se_ccl
from mlecs_plugins.ml_ecs.options import MlEcsOptions

SERVER_PARTS = {"encoder", "projector", "fusion", "soft_prompt", "lora"}


def federation_of(profile, samples, **changes) -> Federation:
    return toy.federation_of(profile, samples, [toy.NAMES], **({"rounds": 2, "steps": 2} | changes))


@pytest.fixture
def server(profile, samples) -> Server:
    return federation_of(profile, samples).server


def moved(server: Server, action: Callable[[], None]) -> set[tuple[str, str]]:
    """Return (model or twin, part) of what an action changes, the missing embeddings apart."""
    _ = server.slm
    before = server.state()
    action()
    names = {k for k in toy.differing(before, server.state()) if not k.endswith("/missing")}
    return {tuple(k.split("/")[:2]) for k in names}


def randomise_lora(model, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, p in sorted(model.part("lora").items()):
            p.add_(torch.randn(p.shape, generator=generator) * 0.3)


def test_server_trains_its_whole_model_and_of_the_slm_only_lora_and_soft_prompt(server):
    changed = moved(server, lambda: train(server, MlEcsOptions()))
    assert changed == {("model", part) for part in SERVER_PARTS} | {("slm", "soft_prompt"), ("slm", "lora")}
    assert server.steps == {"server": 2}


def test_server_encoders_rest_when_told_to(server):
    changed = moved(server, lambda: train(server, MlEcsOptions(server_trains_encoders=False)))
    assert ("model", "encoder") not in changed
    assert ("model", "projector") in changed


def test_server_encoders_follow_the_profile_otherwise(profile, samples):
    server = federation_of(dataclasses.replace(profile, server_trains_encoders=False), samples).server
    assert ("model", "encoder") not in moved(server, lambda: train(server, MlEcsOptions()))


def train(server: Server, options: MlEcsOptions) -> None:
    """Take the steps of SE-CCL in round 1."""
    minimise(server, se_ccl.objective(server, 1, options))


def loss_of(server: Server, options: MlEcsOptions, rows) -> torch.Tensor:
    """Return the loss that SE-CCL minimises in round 1, without training."""
    return se_ccl.objective(server, 1, options).terms(rows).total


def gradients(server: Server, loss: Callable[[], torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the gradients of both models' parts under a loss, dropout off; None as zero."""
    with server.model.only_trainable(PARTS), server.slm.only_trainable(("soft_prompt", "lora")):
        server.model.switch(training=False)
        server.slm.switch(training=False)
        trained = {"model": (server.model, PARTS), "slm": (server.slm, ("soft_prompt", "lora"))}
        named = {f"{n}/{p}/{k}": t for n, (m, ps) in trained.items() for p in ps for k, t in m.part(p).items()}
        grads = torch.autograd.grad(loss(), list(named.values()), allow_unused=True)
    return {k: torch.zeros_like(p) if g is None else g for (k, p), g in zip(named.items(), grads, strict=True)}


def llm_loss(server: Server, rows, options: MlEcsOptions) -> torch.Tensor:
    """Return Eq. 15 written out: supervised + contrast with the drawn anchor + λ KT(slm → llm), teacher constant."""
    batch, targets = server.train.batch(rows), server.train.targets(rows)
    seen = server.model.represent(batch)
    mine = server.model.supervise(server.model.soft_prompt(seen, len(batch)), server.prompt, targets)
    with torch.no_grad():
        soft = server.slm.connector.soft_prompt(seen.fused)
        teacher = server.slm.supervise(soft, server.prompt, targets)
    anchor = se_ccl.draw_anchors(server, 1, 2)[0]
    have = batch.present[anchor]
    others = [m for m in toy.NAMES if m != anchor]
    hidden = torch.stack([seen.hidden[m] for m in others], dim=1)[have]
    present = torch.stack([batch.present[m] for m in others], dim=1)[have]
    contrast = contrastive_loss(seen.hidden[anchor][have], hidden, 1.0, present).loss
    return mine.loss + contrast + options.kt_weight * transferred(server, "slm", (teacher, mine), targets, options)


def slm_loss(server: Server, rows, options: MlEcsOptions) -> torch.Tensor:
    """Return Eq. 16 written out: supervised + λ KT(llm → slm), teacher and the server's s constant."""
    batch, targets = server.train.batch(rows), server.train.targets(rows)
    with torch.no_grad():
        seen = server.model.represent(batch)
        teacher = server.model.supervise(server.model.soft_prompt(seen, len(batch)), server.prompt, targets)
    mine = server.slm.supervise(server.slm.connector.soft_prompt(seen.fused), server.prompt, targets)
    return mine.loss + options.kt_weight * transferred(server, "model", (teacher, mine), targets, options)


def transferred(server: Server, teacher_name: str, sides, targets, options: MlEcsOptions) -> torch.Tensor:
    """Return Eq. 14 in a loop over samples and pairs: the sum, by the number of pairs or by that of samples."""
    teacher, student = sides
    other = {"slm": "model", "model": "slm"}[teacher_name]
    t, s = (getattr(server, name).backbone for name in (teacher_name, other))
    table = vocabulary_map(t.tokenizer, s.tokenizer, teacher_size=t.vocab_size, student_size=s.vocab_size)
    total, n_pairs = torch.zeros(()), 0
    for row, target in enumerate(targets):
        for u, v in answer_pairs(t.tokenizer, s.tokenizer, " " + target):
            rows = teacher.logits[row, u][None], student.logits[row, v][None]
            total, n_pairs = total + pooled_kl(*rows, "topk", 128, table).sum(), n_pairs + 1
    return total / (n_pairs if options.kt_reduction == "mean" else len(targets))


@pytest.mark.parametrize(("kt_weight", "kt_reduction"), [(0.0, "mean"), (1.0, "mean"), (2.5, "mean"), (1.0, "sum")])
def test_one_backward_pass_gives_each_model_the_gradient_of_its_own_loss(kt_weight, kt_reduction, server):
    randomise_lora(server.model, 1)
    randomise_lora(server.slm, 2)
    rows = server.train.rows[:6]
    options = MlEcsOptions(kt_weight=kt_weight, kt_reduction=kt_reduction, kt_pool="topk")
    ours = gradients(server, lambda: loss_of(server, options, rows))
    large = gradients(server, lambda: llm_loss(server, rows, options))
    small = gradients(server, lambda: slm_loss(server, rows, options))
    for name, gradient in ours.items():
        own, foreign = (large, small) if name.startswith("model/") else (small, large)
        torch.testing.assert_close(gradient, own[name], rtol=1e-3, atol=1e-6, msg=name)
        assert not foreign[name].any(), name
    assert any(g.any() for k, g in ours.items() if k.startswith("slm/lora"))


def test_by_default_both_terms_are_means_over_tokens(server):
    """Both reductions differ by the pairs per sample alone, so the mean takes out the length of the answers."""
    rows = server.train.rows[:6]
    targets = server.train.targets(rows)
    tokenizers = (server.slm.backbone.tokenizer, server.model.backbone.tokenizer)
    per_sample = sum(len(pairs_between(*tokenizers, " " + target)) for target in targets) / len(targets)
    with torch.no_grad():
        server.model.switch(training=False)
        server.slm.switch(training=False)
        mean, total = (
            se_ccl.objective(server, 1, MlEcsOptions(**given)).terms(rows).minimised
            for given in ({}, {"kt_reduction": "sum"})
        )
    assert per_sample > 2
    for name, term in mean.items():
        factor = per_sample if name.startswith("into_") else 1.0
        assert float(total[name]) == pytest.approx(factor * float(term), rel=1e-5)


def after_transfer(profile, samples, options: MlEcsOptions, change: str) -> dict[str, torch.Tensor]:
    """Return the server's state after SE-CCL that began with another adapter of the model or of its twin."""
    server = federation_of(profile, samples).server
    randomise_lora(getattr(server, change))
    train(server, options)
    return server.state()


def test_slm_reaches_the_servers_model_through_knowledge_transfer_alone(profile, samples):
    for kt_weight in [0.0, 1.0]:
        server = federation_of(profile, samples).server
        options = MlEcsOptions(kt_weight=kt_weight)
        train(server, options)
        other = after_transfer(profile, samples, options, "slm")
        changed = {k for k in toy.differing(server.state(), other) if k.startswith("model/")}
        assert bool(changed) == (kt_weight > 0)


def test_without_transfer_the_divergence_is_not_even_computed(server, monkeypatch):
    monkeypatch.setattr(se_ccl, "transfer_between", lambda *_: pytest.fail("λ = 0"))
    train(server, MlEcsOptions(kt_weight=0.0))
    assert server.steps == {"server": server.training.budget.server}


@pytest.fixture
def twins(profile, samples) -> Server:
    """A server whose LLM is the SLM, with equal soft prompts and adapters that act."""
    server = federation_of(dataclasses.replace(profile, llm=profile.slm), samples).server
    server.slm.load_part("soft_prompt", server.model.part("soft_prompt"))
    randomise_lora(server.model)
    server.slm.load_part("lora", server.model.part("lora"))
    return server


@pytest.mark.parametrize("pool", ["auto", "topk", "sorted", "avg", "none"])
def test_identical_models_have_nothing_to_transfer(pool, twins):
    rows = twins.train.rows[:5]
    with torch.no_grad():
        twins.model.switch(training=False)
        twins.slm.switch(training=False)
        losses = [float(loss_of(twins, MlEcsOptions(kt_weight=weight, kt_pool=pool), rows)) for weight in (0.0, 1.0)]
        assert losses[1] == pytest.approx(losses[0], abs=1e-5)
        randomise_lora(twins.slm, 9)
        without, with_transfer = (
            float(loss_of(twins, MlEcsOptions(kt_weight=weight, kt_pool=pool), rows)) for weight in (0.0, 1.0)
        )
        assert with_transfer > without + 1e-5


def test_identical_models_get_the_gradients_of_their_other_losses(twins):
    rows = twins.train.rows[:5]
    plain, with_transfer = (
        gradients(twins, lambda w=w: loss_of(twins, MlEcsOptions(kt_weight=w), rows)) for w in (0.0, 1.0)
    )
    for name, gradient in with_transfer.items():
        torch.testing.assert_close(gradient, plain[name], rtol=1e-3, atol=1e-6, msg=name)


def test_models_of_different_vocabularies_can_be_compared(server):
    for pool in ["auto", "topk", "sorted", "avg"]:
        train(server, MlEcsOptions(kt_pool=pool))
        assert 0 < server.logs["se-ccl"] < 100


def test_whole_distributions_of_different_vocabularies_are_refused_in_one_line(server):
    with pytest.raises(UsageError, match="one vocabulary") as caught:
        train(server, MlEcsOptions(kt_pool="none"))
    assert "\n" not in str(caught.value)


def test_anchors_get_gradient_at_the_server(server):
    seen = server.model.represent(server.train.batch(server.train.rows[:4]))
    for anchor in toy.NAMES:
        hidden = {m: h.detach().requires_grad_() for m, h in seen.hidden.items()}
        se_ccl.contrast(dataclasses.replace(seen, hidden=hidden), toy.NAMES, anchor, MlEcsOptions()).backward()
        assert all(h.grad is not None and h.grad.any() for h in hidden.values())


def test_samples_without_the_anchor_modality_take_no_part(server):
    rows = server.train.rows
    audio = server.train.batch(rows).present["audio"].numpy()
    mixed, full = [*rows[~audio][:2], *rows[audio][:4]], rows[audio][:4]
    server.model.switch(training=False)
    losses = [
        se_ccl.contrast(server.model.represent(server.train.batch(r)), toy.NAMES, "audio", MlEcsOptions())
        for r in (mixed, full)
    ]
    torch.testing.assert_close(*losses)


def test_one_modality_alone_has_no_contrast_but_can_be_backpropagated(server):
    seen = server.model.represent(server.train.batch(server.train.rows[:4]))
    hidden = {"text": seen.hidden["text"].detach().requires_grad_()}
    loss = se_ccl.contrast(dataclasses.replace(seen, hidden=hidden), ("text",), "text", MlEcsOptions())
    loss.backward()
    assert float(loss.detach()) == 0
    assert not hidden["text"].grad.any()


def test_anchor_modalities_are_drawn_evenly_and_repeatably(server):
    draws = [m for t in range(1, 31) for m in se_ccl.draw_anchors(server, t, 20)]
    counts = Counter(draws)
    # 600 draws from three: mean 200, standard deviation 11.5; five of them either side.
    assert all(142 < counts[m] < 258 for m in toy.NAMES)
    assert se_ccl.draw_anchors(server, 3, 20) == se_ccl.draw_anchors(server, 3, 20)
    assert se_ccl.draw_anchors(server, 3, 5) == se_ccl.draw_anchors(server, 3, 20)[:5]
    assert se_ccl.draw_anchors(server, 3, 20) != se_ccl.draw_anchors(server, 4, 20)


def test_anchors_are_drawn_anew_for_every_batch(server, monkeypatch):
    used = []

    def spy(seen, modalities, anchor, options):
        used.append(anchor)
        return original(seen, modalities, anchor, options)

    original = se_ccl.contrast
    monkeypatch.setattr(se_ccl, "contrast", spy)
    train(server, MlEcsOptions())
    assert used == se_ccl.draw_anchors(server, 1, 2)


def test_caches_do_not_keep_a_finished_cells_models_alive(profile, samples):
    federation = federation_of(profile, samples)
    train(federation.server, MlEcsOptions())
    gone = [weakref.ref(m.backbone) for m in (federation.server.model, federation.server.slm)]
    del federation
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


def test_answers_of_both_tokenizers_are_paired_up_to_the_end(server):
    targets = server.train.targets(server.train.rows[:4])
    small, large = (m.backbone.tokenizer for m in (server.slm, server.model))
    pairs = PairIndex.of([pairs_between(small, large, " " + t) for t in targets])
    lengths = [(len(small(" " + t)["input_ids"]), len(large(" " + t)["input_ids"])) for t in targets]
    assert any(a != b for a, b in lengths), "the toy tokenizers must differ"
    for row, ends in enumerate(lengths):
        last = int(pairs.mask[row].sum()) - 1
        assert (int(pairs.u[row, last]), int(pairs.v[row, last])) == ends
