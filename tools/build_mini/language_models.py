"""Pretrains a small causal language model to copy what its first eight positions say into its answer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, GPTJConfig, GPTJForCausalLM, PreTrainedTokenizerFast

from mlecs_bench.api import rng, torch_stream
from mlecs_plugins.datasets.vast.diagnose import SLOT_COLUMNS, slot_scores
from mlecs_plugins.datasets.vast.synthetic import pool
from mlecs_plugins.datasets.vast.words import SLOT_NAMES, SLOTS

from .texts import CONDITION_ROWS, POSITIONS, TEMPLATE, Pairs, clip_pairs, posture_pairs, pretraining_pairs

N_POSITIONS = 256
BATCH = 32
WARMUP = 0.05
NOISE = 0.5
"""Noise on the condition vectors, as a share of their size: soft tokens will be near them, never at them."""
ANYWHERE = 0.5
"""How often the texts of a batch begin anywhere instead of at the first position."""
IGNORED = -100


@dataclass(frozen=True)
class Recipe:
    """How one model is pretrained: optimiser steps and peak learning rate (cosine to 0 after a warm-up)."""

    steps: int
    rate: float


SLM_RECIPE = Recipe(steps=900, rate=3e-3)
LLM_RECIPE = Recipe(steps=700, rate=3e-3)


def new_slm(vocabulary: int, end: int) -> GPT2LMHeadModel:
    """Return the small model: GPT-2 with width 96, 2 layers, 6 heads."""
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocabulary,
            n_positions=N_POSITIONS,
            n_embd=96,
            n_layer=2,
            n_head=6,
            activation_function="gelu_pytorch_tanh",
            bos_token_id=end,
            eos_token_id=end,
            **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
        )
    )


def new_llm(vocabulary: int, end: int) -> GPTJForCausalLM:
    """Return the large model: GPT-J with width 128, 4 layers, 4 heads, rotary dimension 16."""
    return GPTJForCausalLM(
        GPTJConfig(
            vocab_size=vocabulary,
            n_positions=N_POSITIONS,
            n_embd=128,
            n_layer=4,
            n_head=4,
            rotary_dim=16,
            bos_token_id=end,
            eos_token_id=end,
            tie_word_embeddings=False,
            **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
        )
    )


class Conditioned(nn.Module):
    """A language model behind a table of condition vectors at its first positions."""

    def __init__(self, model: Any, width: int) -> None:
        super().__init__()
        self.model: Any = model
        self.table = nn.Embedding(CONDITION_ROWS, width)
        nn.init.normal_(self.table.weight, std=0.1)

    def embed(self, conditions: Tensor, ids: Tensor, noise: float = 0.0) -> Tensor:
        """Return input vectors (b, 8 + L, width) of `conditions` (b, 8) and token `ids` (b, L)."""
        vectors = self.table(conditions)
        if noise:
            size = self.table.weight.detach().square().mean().sqrt()
            vectors = vectors + noise * size * torch.randn_like(vectors)
        return torch.cat([vectors, self.model.get_input_embeddings()(ids)], dim=1)

    def loss(self, conditions: Tensor, ids: Tensor, labels: Tensor, first: int) -> Tensor:
        """Return the mean cross-entropy of the answer tokens; `labels` (b, L) is -100 elsewhere.

        `first` is the number of the first position: where texts begin anywhere, every position is learnt.
        """
        embeds = self.embed(conditions, ids, NOISE)
        positions = torch.arange(first, first + embeds.shape[1])[None]
        mask = torch.ones(embeds.shape[:2])
        logits = self.model(inputs_embeds=embeds, attention_mask=mask, position_ids=positions).logits
        predicted = logits[:, POSITIONS - 1 : -1].reshape(-1, logits.shape[-1])
        return nn.functional.cross_entropy(predicted, labels.reshape(-1), ignore_index=IGNORED)


@dataclass(frozen=True)
class Encoded:
    """Pairs as right-padded arrays: conditions (n, 8), ids (n, L), labels (n, L) with -100 outside the answer."""

    conditions: np.ndarray[Any, Any]
    ids: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any]


def encode(pairs: Pairs, tokenizer: PreTrainedTokenizerFast) -> Encoded:
    """Return `pairs` in tokens; an answer starts with a space and ends with the end token."""
    prompts = {p: tokenizer(TEMPLATE.format(prompt=p))["input_ids"] for p in sorted(set(pairs.prompts))}
    answers = [[*ids, tokenizer.eos_token_id] for ids in tokenizer([f" {a}" for a in pairs.answers])["input_ids"]]
    length = max(len(prompts[p]) + len(a) for p, a in zip(pairs.prompts, answers, strict=True))
    ids = np.full((len(answers), length), tokenizer.eos_token_id)
    labels = np.full((len(answers), length), IGNORED)
    for i, (prompt, answer) in enumerate(zip(pairs.prompts, answers, strict=True)):
        start, end = len(prompts[prompt]), len(prompts[prompt]) + len(answer)
        ids[i, :start], ids[i, start:end] = prompts[prompt], answer
        labels[i, start:end] = answer
    return Encoded(pairs.conditions, ids, labels)


def _batches(data: Encoded, seed: int, steps: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield `steps` batches; a batch is cut to its longest sample."""
    generator = rng(seed, "mini", "batches")
    for _ in range(steps):
        rows = generator.integers(0, len(data.ids), size=BATCH)
        length = int(np.nonzero((data.labels[rows] != IGNORED).any(axis=0))[0].max()) + 1
        yield (
            torch.from_numpy(data.conditions[rows]),
            torch.from_numpy(data.ids[rows, :length]),
            torch.from_numpy(data.labels[rows, :length]),
        )


def pretrain(model: Conditioned, tokenizer: PreTrainedTokenizerFast, recipe: Recipe, seed: int) -> float:
    """Train `model` in place; return the mean loss of the last tenth of the steps."""
    data = encode(pretraining_pairs(seed, 24_000), tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step / recipe.steps))
    losses = []
    starts = rng(seed, "mini", "first positions")
    with torch_stream(seed, "mini", "pretraining noise"):
        for conditions, ids, labels in _batches(data, seed, recipe.steps):
            room = N_POSITIONS - POSITIONS - ids.shape[1]
            first = int(starts.integers(0, room + 1)) if starts.random() < ANYWHERE else 0
            loss = model.loss(conditions, ids, labels, first)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
    return float(np.mean(losses[-max(1, len(losses) // 10) :]))


def _rate(progress: float) -> float:
    """Return the share of the peak rate: linear warm-up, then cosine to 0."""
    if progress < WARMUP:
        return (progress + 1e-3) / WARMUP
    return 0.5 * (1 + math.cos(math.pi * (progress - WARMUP) / (1 - WARMUP)))


@torch.no_grad()
def answer(model: Conditioned, tokenizer: PreTrainedTokenizerFast, pairs: Pairs, max_new_tokens: int = 72) -> list[str]:
    """Return the greedy answers to `pairs`, whose prompts must all be the same."""
    prompt = tokenizer(TEMPLATE.format(prompt=pairs.prompts[0]))["input_ids"]
    conditions = torch.from_numpy(pairs.conditions)
    embeds = model.embed(conditions, torch.tensor([prompt] * len(conditions)))
    ids = model.model.generate(
        inputs_embeds=embeds,
        attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=tokenizer.eos_token_id,
    )
    texts: list[str] = tokenizer.batch_decode(ids, skip_special_tokens=True)
    return [text.strip() for text in texts]


def gate_scores(model: Conditioned, tokenizer: PreTrainedTokenizerFast, seed: int, n: int = 200) -> dict[str, float]:
    """Return what the gate looks at, on `n` unseen complete conditions: slot shares and the share of right postures."""
    model.eval()
    clips = pool(seed, n, with_inputs=False)
    columns = {c: [SLOTS[s][v][0] for v in clips.slots[s]] for c, s in zip(SLOT_COLUMNS, SLOT_NAMES, strict=True)}
    said = answer(model, tokenizer, clip_pairs(seed, n, full=True))
    postures = posture_pairs(seed, n, full=True)
    right = [a == b for a, b in zip(answer(model, tokenizer, postures), postures.answers, strict=True)]
    scores = {name: metric.value for name, metric in slot_scores(columns, said).items()}
    return {**scores, "posture": sum(right) / n}


def mean_tokens(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> tuple[float, int]:
    """Return the mean and the largest number of tokens of " text" with its end token."""
    counts = [len(ids) + 1 for ids in tokenizer([f" {t}" for t in texts])["input_ids"]]
    return float(np.mean(counts)), max(counts)
