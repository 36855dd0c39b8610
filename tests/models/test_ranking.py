"""Ranked labels: their log-probabilities against the plain model, text by text, with and without its cache."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from transformers import AutoModelForCausalLM

import toy

PROMPT = "Say it."
LABELS = ("sad", "a red", "a loud quiet thing thing")


@pytest.fixture(scope="module")
def parties(profile, samples):
    """A device on GPT-2 and the server on GPT-J."""
    federation = toy.federation_of(profile, samples, [toy.NAMES])
    return {"slm": federation.devices[0], "llm": federation.server}


def oracle(party, source: str, rows) -> torch.Tensor:
    """Return log p of every label, one sequence at a time through the plain model."""
    model = party.model
    model.switch(training=False)
    plain = AutoModelForCausalLM.from_pretrained(source).eval()
    embed, tokenizer = plain.get_input_embeddings(), model.backbone.tokenizer
    found = torch.zeros(len(rows), len(LABELS))
    with torch.no_grad():
        soft = model.soft_prompt(model.represent(party.test.batch(rows)), len(rows))
        prompt = tokenizer(f"Instruction: {PROMPT} Output:")["input_ids"]
        for i in range(len(rows)):
            for k, label in enumerate(LABELS):
                answer = [*tokenizer(f" {label}")["input_ids"], tokenizer.eos_token_id]
                text = embed(torch.tensor([[*prompt, *answer]]))
                logits = plain(inputs_embeds=torch.cat([soft[i : i + 1], text], dim=1)).logits[0].log_softmax(-1)
                behind = logits[-len(answer) - 1 : -1]
                found[i, k] = behind[range(len(answer)), answer].sum()
    return found


def test_log_likelihoods_are_those_of_the_plain_model_and_rank_takes_the_greatest(parties, profile):
    for name, party in parties.items():
        rows = party.test.rows[:3]
        expected = oracle(party, getattr(profile, name), rows)
        batch = party.test.batch(rows)
        found = party.model.log_likelihoods(batch, PROMPT, LABELS)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert party.model.rank(batch, PROMPT, LABELS) == [LABELS[i] for i in expected.argmax(1).tolist()]


def test_neither_the_batch_nor_the_cache_nor_the_order_of_labels_changes_them(parties):
    for party in parties.values():
        rows = party.test.rows[:3]
        batch = party.test.batch(rows)
        together = party.model.log_likelihoods(batch, PROMPT, LABELS)
        alone = [party.model.log_likelihoods(party.test.batch([row]), PROMPT, LABELS) for row in rows]
        turned = party.model.log_likelihoods(batch, PROMPT, LABELS[::-1]).flip(1)
        with mock.patch("mlecs_bench.models.backbone._is_plain_cache", return_value=False):
            uncached = party.model.log_likelihoods(batch, PROMPT, LABELS)
        for other in (torch.cat(alone), turned, uncached):
            torch.testing.assert_close(together, other, rtol=1e-4, atol=1e-4)


def test_the_inputs_are_read_once_for_all_labels(parties):
    model, batch = parties["slm"].model, parties["slm"].test.batch(parties["slm"].test.rows[:2])
    lengths = []
    handle = model.backbone._peft.base_model.model.transformer.register_forward_pre_hook(
        lambda _module, _args, given: lengths.append(tuple(given["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    with handle:
        model.log_likelihoods(batch, PROMPT, LABELS)
    longest = model.texts.answers(LABELS).ids.shape[1] - 1
    assert lengths[1:] == [(2 * len(LABELS), longest)]
    assert lengths[0][0] == 2
