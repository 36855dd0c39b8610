"""Random tiny encoders of every type that BERTScore accepts, with their tokenizers, and a process to try them in."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from mlecs_bench.metrics import bertscore
from mlecs_bench.metrics.bertscore import baseline_pairs

LAYERS, POSITIONS = 2, 64
SENTENCES = [text for pair in baseline_pairs() for text in pair]
WORDS = sorted({word.lower() for text in SENTENCES for word in re.findall(r"\w+|[^\w\s]", text)})
SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
DISTILBERT_SIZES = {"dim": 16, "n_heads": 2, "hidden_dim": 32}
DISENTANGLED = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False}
"""DeBERTa's attention, without a table of positions, as in the published models."""
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
BRACKETS = dict(zip(SPECIAL, ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"], strict=True))
ROBERTA_IDS = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "max_position_embeddings": POSITIONS + 2}
"""RoBERTa counts positions from the one behind its padding index, 1."""
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "albert": ("unigram", "AlbertTokenizer", {"embedding_size": 16}),
    "bert": ("wordpiece", "BertTokenizer", {}),
    "deberta": ("bpe", "DebertaTokenizer", DISENTANGLED),
    "deberta-v2": ("unigram", "DebertaV2Tokenizer", DISENTANGLED | {"position_buckets": 16, "share_att_key": True}),
    "distilbert": ("wordpiece", "DistilBertTokenizer", DISTILBERT_SIZES),
    "electra": ("wordpiece", "ElectraTokenizer", {"embedding_size": 16}),
    "mpnet": ("wordpiece", "MPNetTokenizer", ROBERTA_IDS),
    "roberta": ("bpe", "RobertaTokenizer", ROBERTA_IDS),
    "xlm-roberta": ("unigram", "XLMRobertaTokenizer", ROBERTA_IDS),
}
"""By type: how it splits words, the class of its tokenizer, and its configuration beside the sizes."""


def save_encoder(folder: Path, kind: str = "bert", *, layers: int = LAYERS, **tokenizer: Any) -> Path:
    """Save a random encoder of type `kind`; `tokenizer` are settings of its tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    size = save_tokenizer(folder, kind, **tokenizer)
    common = {"vocab_size": size, "max_position_embeddings": POSITIONS, "num_hidden_layers": layers}
    sizes = {} if kind == "distilbert" else SIZES
    config = AutoConfig.for_model(kind, **(common | sizes | KINDS[kind][2]))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModel.from_config(config)
        # Fresh weights are so small that every layer is nearly the identity.
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.4)
    model.save_pretrained(folder)
    return folder


def save_tokenizer(folder: Path, kind: str, **settings: Any) -> int:
    """Save a tokenizer that reads the baseline sentences, and return how many tokens it knows."""
    import transformers

    split, name, _ = KINDS[kind]
    made = getattr(transformers, name)
    parts = {"wordpiece": _wordpiece, "bpe": _bpe, "unigram": _unigram}[split](made)
    tokenizer = made(*parts, **({"model_max_length": POSITIONS} | settings))
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def _names(tokenizer: Any) -> dict[str, str]:
    """Return how a class of tokenizers spells the special tokens."""
    angled = tokenizer.__name__ in ("RobertaTokenizer", "XLMRobertaTokenizer", "MPNetTokenizer")
    return {token: token for token in SPECIAL} if angled else BRACKETS


def _wordpiece(tokenizer: Any) -> tuple[dict[str, int]]:
    names = _names(tokenizer)
    # MPNet spells the unknown token like BERT.
    special = [*names.values(), *(["[UNK]"] if "[UNK]" not in names.values() else [])]
    return ({word: i for i, word in enumerate([*special, *WORDS])},)


def _bpe(tokenizer: Any) -> tuple[dict[str, int], list[tuple[str, str]]]:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    trained.train_from_iterator(SENTENCES, trainer)
    model = json.loads(trained.to_str())["model"]
    names = _names(tokenizer)
    vocabulary = {names.get(token, token): i for token, i in model["vocab"].items()}
    return vocabulary, [tuple(merge) for merge in model["merges"]]


def _unigram(tokenizer: Any) -> tuple[list[tuple[str, float]]]:
    letters = "\u2581abcdefghijklmnopqrstuvwxyz.,'"
    words = [(f"\u2581{word}", -3.0) for word in WORDS if word.isalpha()]
    return ([*((name, 0.0) for name in _names(tokenizer).values()), *words, *((c, -9.0) for c in letters)],)


def cut_off_python(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code that can reach no network in a process of its own, with the settings of the hub that are given."""
    cut_off = "import socket, sys\ndef refuse(*_, **__): raise OSError('no network')\n"
    cut_off += "socket.socket.connect = socket.getaddrinfo = refuse\n"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-c", cut_off + textwrap.dedent(code), *map(str, arguments)],
        env={**inherited, "PYTHONPATH": str(Path(bertscore.__file__).parents[3]), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
