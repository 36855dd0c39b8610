"""Tiny random language models and a tiny dataset, made on the spot: no weights ship with the kit.

Two architectures of device and one of server, with byte-level tokenizers that split words differently; three
modalities, of which one has gaps. Everything follows from named random streams, so it is the same on every machine.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPTJConfig, LlamaConfig, PreTrainedTokenizerFast
from transformers.models.gpt2 import GPT2LMHeadModel
from transformers.models.gptj import GPTJForCausalLM
from transformers.models.llama import LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

from mlecs_bench.data.samples import Manifest, Modality, Prepared, Samples, features_of, save_prepared
from mlecs_bench.doors.hookspecs import DatasetInfo
from mlecs_bench.doors.profile import LearningRates, Profile
from mlecs_bench.doors.registry import Loaded, Registry
from mlecs_bench.seeds import rng, torch_stream

WORDS = ("red", "blue", "loud", "quiet", "happy", "sad")
MODALITIES = (
    Modality("audio", (4, 2), "float32", "series"),
    Modality("text", (5,), "int64", "tokens"),
    Modality("video", (6,), "float32", "vector"),
)
NAMES = tuple(m.name for m in MODALITIES)
GAPS_IN = "audio"
"""The modality that every tenth sample lacks."""
N_SAMPLES = 160
N_SAMPLES_MANY = 560
"""Enough for twenty devices."""
POSITIONS = 512
"""Positions of the models: their tokenizers know few words, so that texts become long."""

TOY_NUMBERS = (
    *("slm", "llm", "encoders", "soft_tokens", "encoder_width", "hidden_width", "fused_width", "learning_rates"),
    *("rounds", "steps", "batch_size", "bertscore_samples"),
)
"""The settings of the toy profile that are no defaults."""
DATA_SEED = 5
DATASET = "toy"


def corpus() -> list[str]:
    """Return the text that the tokenizers learn from."""
    return [f"Instruction: Say it. Output: a {a} {b} thing" for a in WORDS for b in WORDS]


def byte_level_tokenizer(folder: Path, vocab_size: int = 330) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on the corpus and save it to `folder`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=["<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>")  # noqa: S106  # a token, no secret
    fast.save_pretrained(folder)
    return fast


def _save_random(make: Callable[[], torch.nn.Module], folder: Path, seed: int) -> Path:
    """Save a model whose weights are drawn from a stream of their own."""
    disable_progress_bar()
    with torch_stream(seed, DATASET, "weights"):
        model: Any = make()
    model.save_pretrained(folder)
    return folder


def make_gpt2(folder: Path, seed: int = 0, positions: int = POSITIONS) -> Path:
    """Save a random GPT-2 of width 16."""
    tokenizer = byte_level_tokenizer(folder, 330)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=positions, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return _save_random(lambda: GPT2LMHeadModel(config), folder, seed)


def make_gptj(folder: Path, seed: int = 1, positions: int = POSITIONS) -> Path:
    """Save a random GPT-J of width 24 whose tokenizer splits words differently; its vocabulary is padded."""
    tokenizer = byte_level_tokenizer(folder, 270)
    config = GPTJConfig(
        vocab_size=len(tokenizer) + 6,
        n_positions=positions,
        n_embd=24,
        n_layer=2,
        n_head=2,
        rotary_dim=4,
        bos_token_id=0,
        eos_token_id=0,
    )
    return _save_random(lambda: GPTJForCausalLM(config), folder, seed)


def make_llama(folder: Path, seed: int = 2, width: int = 16, positions: int = POSITIONS) -> Path:
    """Save a random Llama-type model."""
    tokenizer = byte_level_tokenizer(folder, 300)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=positions,
        bos_token_id=0,
        eos_token_id=0,
    )
    return _save_random(lambda: LlamaForCausalLM(config), folder, seed)


def make_profile(folder: Path, slm_positions: int = POSITIONS, llm_positions: int = POSITIONS) -> Profile:
    """Return a profile of a random GPT-2 and a random GPT-J."""
    return Profile(
        name=DATASET,
        summary="random tiny models",
        slm=str(make_gpt2(folder / "slm", positions=slm_positions)),
        llm=str(make_gptj(folder / "llm", positions=llm_positions)),
        encoders=None,
        soft_tokens=3,
        encoder_width=8,
        hidden_width=8,
        fused_width=8,
        learning_rates=LearningRates(1e-3, 1e-3, 2e-3),
        rounds=2,
        steps=2,
        batch_size=4,
        tiny=True,
        bertscore_samples=64,
        sources=dict.fromkeys(TOY_NUMBERS, "ours: as small as can be"),
    )


def make_columns(n: int = N_SAMPLES, gaps: bool = True) -> dict[str, Any]:
    """Return the columns of n samples; a modality's is an array (n, *shape).

    The target names two words that the modalities give away; with `gaps`, every tenth sample lacks its audio.
    """
    generator = rng(DATA_SEED, DATASET, "samples")
    words = generator.integers(len(WORDS), size=(n, 2))
    audio = np.zeros((n, 4, 2), np.float32)
    audio[:, :, 0] = words[:, :1]
    video = np.zeros((n, 6), np.float32)
    video[np.arange(n), words[:, 1]] = 1
    present = np.ones(n, bool)
    present[::10] = not gaps
    return {
        "id": [f"s{i}" for i in range(n)],
        "target": [f"a {WORDS[a]} {WORDS[b]} thing" for a, b in words],
        "group": [f"g{i // 4}" for i in range(n)],
        "stratum": ["fall" if (i // 4) % 3 else "adl" for i in range(n)],
        "audio": audio + generator.normal(0, 0.1, audio.shape).astype(np.float32),
        "text": np.repeat(words[:, :1] + 1, 5, axis=1).astype(np.int64),
        "video": video,
        **{f"has_{name}": present if name == GAPS_IN else np.ones(n, bool) for name in NAMES},
    }


def make_table(columns: Mapping[str, Any]) -> datasets.Dataset:
    """Return columns as `make_columns` gives them as a table."""
    flat = {name: columns[name].reshape(len(columns["id"]), -1).tolist() for name in NAMES}
    flags = {name: columns[name].tolist() for name in columns if name.startswith("has_")}
    return datasets.Dataset.from_dict({**columns, **flat, **flags}, features=features_of(MODALITIES))


def make_manifest(n: int = N_SAMPLES) -> Manifest:
    """Return the manifest of the toy dataset."""
    return Manifest(
        name=DATASET,
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


def make_prepared(folder: Path, n: int = N_SAMPLES, gaps: bool = True) -> Prepared:
    """Save the toy dataset to `folder`."""
    return save_prepared(make_table(make_columns(n, gaps)), make_manifest(n), folder)


def dataset() -> Loaded[DatasetInfo]:
    """Return the toy dataset as a plugin; its samples are made by `samples` and not prepared."""
    info = DatasetInfo(
        "Toy", "Two words.", "generation", NAMES, _not_prepared, metrics=("loss",), splits=("frame", "sequence")
    )
    return Loaded(DATASET, info, "mlecs-bench", "0")


def _not_prepared(_request: object) -> Prepared:
    raise NotImplementedError("the toy dataset is made in memory")


@cache
def registry() -> Registry:
    """Return the installed plugins, whose encoders the toy models have; read once per process."""
    return Registry.installed()


@cache
def process_folder() -> Path:
    """Return the folder of this process' toys; it is removed when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="mlecs-bench-toy-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def profile() -> Profile:
    """Return the toy profile, built once per process."""
    return make_profile(process_folder() / "models")


@cache
def other_slm() -> str:
    """Return a small language model of another architecture and width than the profile's, built once per process."""
    return str(make_llama(process_folder() / "other-slm", width=24))


@cache
def prepared(n: int = N_SAMPLES) -> Prepared:
    """Return n toy samples as a folder that other processes can open, made once per process."""
    return make_prepared(process_folder() / f"data-{n}", n)


@cache
def samples(n: int = N_SAMPLES) -> Samples:
    """Return n toy samples, built once per process."""
    return Samples(make_manifest(n), make_table(make_columns(n)))
