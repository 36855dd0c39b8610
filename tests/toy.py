"""Tiny models and data that the tests make: two language models of different kind and tokenizer, three modalities."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest import mock

import datasets
import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPTJConfig, LlamaConfig, PreTrainedTokenizerFast
from transformers.models.gpt2 import GPT2LMHeadModel
from transformers.models.gptj import GPTJForCausalLM
from transformers.models.llama import LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

from mlecs_baselines import multi_fedavg, standalone
from mlecs_bench.data import Manifest, Modality, PartyData, Prepared, Samples, features_of, save_prepared
from mlecs_bench.engine import Cell, CellRun, Outcome
from mlecs_bench.evaluation import Evaluator
from mlecs_bench.federation import Federation, build_federation
from mlecs_bench.hookspecs import AlgorithmInfo, DatasetInfo
from mlecs_bench.metrics import Metric
from mlecs_bench.models.unified import UnifiedModel
from mlecs_bench.options import build_options
from mlecs_bench.partition import Masks
from mlecs_bench.profiles import MINI, LearningRates, Profile
from mlecs_bench.spec import RunSpec
from mlecs_plugins.ml_ecs import plugin as ml_ecs

disable_progress_bar()
WORDS = ("red", "blue", "loud", "quiet", "happy", "sad")
MODALITIES = (
    Modality("audio", (4, 2), "float32", "series"),
    Modality("text", (5,), "int64", "tokens"),
    Modality("video", (6,), "float32", "vector"),
)
NAMES = tuple(m.name for m in MODALITIES)
N_SAMPLES = 160
ALGORITHMS: dict[str, AlgorithmInfo] = {
    "ml-ecs": ml_ecs.mlecs_algorithm(),
    "standalone": standalone.mlecs_algorithm(),
    "multi-fedavg": multi_fedavg.mlecs_algorithm(),
}


def corpus() -> list[str]:
    """Return text that both tokenizers learn from."""
    return [f"Instruction: Say it. Output: a {a} {b} thing" for a in WORDS for b in WORDS]


def _save_tokenizer(tokenizer: Tokenizer, folder: Path) -> PreTrainedTokenizerFast:
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>")  # noqa: S106  # a token, no secret
    fast.save_pretrained(folder)
    return fast


def byte_level_tokenizer(folder: Path, vocab_size: int = 330) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=["<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return _save_tokenizer(tokenizer, folder)


def _save_model(model: torch.nn.Module, folder: Path) -> Path:
    model.save_pretrained(folder)  # type: ignore[operator]
    return folder


def make_gpt2(folder: Path, seed: int = 0) -> Path:
    """Save a random GPT-2 of width 16."""
    tokenizer = byte_level_tokenizer(folder, 330)
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return _save_model(GPT2LMHeadModel(config), folder)


def make_gptj(folder: Path, seed: int = 1) -> Path:
    """Save a random GPT-J of width 24 whose tokenizer splits words differently; its vocabulary is padded."""
    tokenizer = byte_level_tokenizer(folder, 270)
    torch.manual_seed(seed)
    config = GPTJConfig(
        vocab_size=len(tokenizer) + 6,
        n_positions=64,
        n_embd=24,
        n_layer=2,
        n_head=2,
        rotary_dim=4,
        bos_token_id=0,
        eos_token_id=0,
    )
    return _save_model(GPTJForCausalLM(config), folder)


def make_llama(folder: Path, seed: int = 2) -> Path:
    """Save a random Llama-type model of width 16."""
    tokenizer = byte_level_tokenizer(folder, 300)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=0,
    )
    return _save_model(LlamaForCausalLM(config), folder)


def make_profile(folder: Path) -> Profile:
    """Return a profile of a random GPT-2 and a random GPT-J."""
    return dataclasses.replace(
        MINI,
        name="toy",
        slm=str(make_gpt2(folder / "slm")),
        llm=str(make_gptj(folder / "llm")),
        encoders=None,
        soft_tokens=3,
        encoder_width=8,
        hidden_width=8,
        fused_width=8,
        learning_rates=LearningRates(1e-3, 1e-3, 2e-3),
        rounds=2,
        steps=2,
        batch_size=4,
    )


def make_prepared(folder: Path, n: int = N_SAMPLES, gaps: bool = True) -> Prepared:
    """Save a dataset whose target names two words that the modalities give away; every tenth sample lacks its audio."""
    generator = np.random.default_rng(5)
    words = generator.integers(len(WORDS), size=(n, 2))
    audio = np.zeros((n, 4, 2), np.float32)
    audio[:, :, 0] = words[:, :1]
    video = np.zeros((n, 6), np.float32)
    video[np.arange(n), words[:, 1]] = 1
    text = np.repeat(words[:, :1] + 1, 5, axis=1).astype(np.int64)
    values = {"audio": audio + generator.normal(0, 0.1, audio.shape).astype(np.float32), "text": text, "video": video}
    present = np.ones(n, bool)
    present[::10] = not gaps
    columns: dict[str, object] = {
        "id": [f"s{i}" for i in range(n)],
        "target": [f"a {WORDS[a]} {WORDS[b]} thing" for a, b in words],
        "group": [f"g{i // 4}" for i in range(n)],
        "stratum": ["fall" if (i // 4) % 3 else "adl" for i in range(n)],
    }
    for m in MODALITIES:
        columns[m.name] = values[m.name].reshape(n, -1).tolist()
        columns[f"has_{m.name}"] = present.tolist() if m.name == "audio" else [True] * n
    manifest = Manifest(
        name="toy",
        version="1",
        view="synthetic",
        synthetic=True,
        task="generation",
        modalities=MODALITIES,
        prompt="Say it.",
        labels=(),
        max_new_tokens=4,
        n_samples=n,
        digest="0" * 64,
        licence="Apache-2.0",
    )
    table = datasets.Dataset.from_dict(columns, features=features_of(MODALITIES))
    return save_prepared(table, manifest, folder)


def toy_spec(**changes: object) -> RunSpec:
    """Return a resolved spec of the toy dataset."""
    values: dict[str, object] = {
        "algo": "ml-ecs",
        "dataset": "toy",
        "rho": 0.6,
        "rounds": 2,
        "steps": 2,
        "split": "frame",
        "device": "cpu",
    }
    return RunSpec(**(values | changes))  # type: ignore[arg-type]


def toy_federation(
    profile: Profile, samples: Samples, seed: int = 27, public_stage: bool = True, **changes: object
) -> Federation:
    """Return a federation on the toy dataset."""
    return build_federation(toy_spec(**changes), seed, samples, profile, public_stage=public_stage)


def federation_of(
    profile: Profile, samples: Samples, held: Sequence[Sequence[str]], seed: int = 27, **changes: object
) -> Federation:
    """Return a federation whose devices hold the modality sets `held` instead of drawn ones."""
    sets = tuple(tuple(sorted(h)) for h in held)
    masks = Masks(sets, 0, sum(map(len, sets)) / (len(sets) * len(MODALITIES)))
    with mock.patch("mlecs_bench.federation.draw_masks", return_value=masks):
        return toy_federation(profile, samples, seed, n_devices=len(sets), **changes)  # type: ignore[arg-type]


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


def evaluator(samples: Samples) -> LossEvaluator:
    """Return what scores toy models."""
    info = DatasetInfo("toy", "", "generation", NAMES, prepare=lambda _: None, metrics=("digest",))  # type: ignore[arg-type,return-value]
    return LossEvaluator(info, samples, [TextDigest()], 64)


def toy_cell(algo: str, federation: Federation, samples: Samples, **changes: object) -> Cell:
    """Return a cell of one of `ALGORITHMS`; `options` and the fields of Cell may be given."""
    info = ALGORITHMS[algo]
    options = build_options(info.options, changes.pop("options", {}), algo)  # type: ignore[arg-type]
    values: dict[str, object] = {
        "algorithm": info.build(options),
        "federation": federation,
        "evaluator": evaluator(samples),
        "key": "k",
        "rounds": federation.server.training.rounds,
        "evaluate_all": False,
        "server_score": info.server_score,
    }
    return Cell(**(values | changes))  # type: ignore[arg-type]


def run_toy(algo: str, federation: Federation, samples: Samples, **changes: object) -> Outcome:
    """Run a cell to its end."""
    return CellRun(toy_cell(algo, federation, samples, **changes)).run()


def state_of(federation: Federation) -> dict[str, torch.Tensor]:
    """Return the states of all parties, named ``party:name``."""
    parties = (federation.server, *federation.devices)
    return {f"{p.id}:{name}": tensor for p in parties for name, tensor in p.state().items()}


def differing(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> set[str]:
    """Return the names under which two states are not equal bit for bit, or which only one of them has."""
    same = {k for k in one.keys() & other.keys() if one[k].dtype == other[k].dtype and torch.equal(one[k], other[k])}
    return (one.keys() | other.keys()) - same
