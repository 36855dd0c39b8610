"""Gradient norms term by term: of linear losses, whose gradients are known, and without a trace in the training."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import toy
from benchmarks import gradient_norms
from mlecs_bench.blocks.supervised import Objective, Stage, Terms
from mlecs_bench.federation.build import Federation


def federation_of(algo: str, profile, samples) -> Federation:
    held = [("audio",), ("text", "video")]
    return toy.federation_of(profile, samples, held, needs=toy.needs_of(algo), rounds=2, steps=1)


def test_norms_and_cosines_are_those_of_the_gradients_model_by_model(profile, samples):
    """A linear term has its coefficients as its gradient; a term that leaves a model alone pulls nothing there."""
    federation = federation_of("ml-ecs", profile, samples)
    server = federation.server
    models = [(server.model, ("lora",)), (server.slm, ("lora", "soft_prompt"))]
    generator = np.random.default_rng(0)
    linear = {
        (name, i): [torch.from_numpy(generator.normal(size=p.shape)).float() for p in model.parameters(parts)]
        for name in ("first", "second")
        for i, (model, parts) in enumerate(models)
    }
    del linear["second", 1]

    def terms(_rows) -> Terms:
        found = {}
        for (name, i), coefficients in linear.items():
            model, parts = models[i]
            term = sum((c * p).sum() for c, p in zip(coefficients, model.parameters(parts), strict=True))
            found[name] = found.get(name, 0) + term
        return Terms(found)

    found = gradient_norms.pulls(Objective(server.train, Stage("x", "server", 1, 1, models), terms), server.train.rows)
    vectors = {key: np.concatenate([c.numpy().ravel() for c in value]) for key, value in linear.items()}
    assert set(found) == {(models[i][0], name) for name, i in linear}
    for (name, i), vector in vectors.items():
        first, pull = vectors["first", i], found[models[i][0], name]
        assert pull.norm == pytest.approx(np.linalg.norm(vector), rel=1e-5)
        cosine = vector @ first / np.linalg.norm(vector) / np.linalg.norm(first)
        assert pull.cosine == pytest.approx(cosine, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("algo", list(gradient_norms.METERED))
def test_measuring_leaves_the_training_as_it_was_bit_for_bit(algo, profile, samples):
    info = toy.ALGORITHMS[algo]
    options = info.options(**({"distill_steps": 1} if algo == "co-plms" else {}))
    meter = gradient_norms.Meter([1, 2], n_batches=1)
    states = []
    for algorithm in (info.build(options), gradient_norms.METERED[algo](options, meter)):
        federation = federation_of(algo, profile, samples)
        gradient_norms.play(algorithm, federation, 2)
        states.append(toy.state_of(federation))
    assert not toy.differing(*states)
    moments = {moment for by_moment in meter.seen.values() for moment in by_moment}
    assert moments == {f"round {t}, {when}" for t in (1, 2) for when in ("before", "after")}
    assert gradient_norms.table(meter.seen).count("\n") == len(meter.seen) + 1


def test_transfer_is_measured_under_both_reductions_at_the_same_weights(profile, samples):
    info = toy.ALGORITHMS["ml-ecs"]
    meter = gradient_norms.Meter([1], n_batches=1)
    gradient_norms.play(
        gradient_norms.METERED["ml-ecs"](info.options(), meter), federation_of("ml-ecs", profile, samples), 1
    )
    means, sums = (
        meter.seen["se-ccl, server", "LLM", f"into_llm ({name})"]["round 1, before"] for name in ("mean", "sum")
    )
    for mean, total in zip(means, sums, strict=True):
        assert total.norm > 2 * mean.norm > 0
        assert total.cosine == pytest.approx(mean.cosine, abs=1e-4)
    assert not any(term == "into_llm" for _, _, term in meter.seen)


def test_a_cell_holds_means_and_the_first_term_of_a_model_no_cosine():
    found = [gradient_norms.Pull(1.0, 0.5), gradient_norms.Pull(2.0, -0.25)]
    assert gradient_norms.cell(found, with_cosine=True) == "1.5 (+0.12)"
    assert gradient_norms.cell(found, with_cosine=False) == "1.5"
    assert gradient_norms.cell([], with_cosine=True) == "-"
