"""Generated damage to the files of tokenizers: tokenizer.json, its settings, and vocabularies with merges."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

import toy
from campaigns import file_damage
from campaigns.file_damage import SilentDamageError, Tally, attempted, one_of
from mlecs_bench.models.loading import check_stored_tokenizer
from mlecs_bench.models.sources import check_files, content_id, is_given_bos
from mlecs_bench.models.texts import Texts

TEXTS = ("a red thing", "ein Größenwahn, 日本", "<eos> x </s>", "", "é" * 40)
VOCABULARY = 336


def _unpacked(folder: Path) -> None:
    """Replace tokenizer.json by the vocabulary and merges that older checkpoints have."""
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    (folder / "tokenizer.json").unlink()
    settings = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<eos>", "bos_token": "<eos>", "unk_token": "<eos>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def tokenizers(count: int, seed: int, folder: Path) -> Tally:
    """Damage one of a model's files of its tokenizer; what is accepted turns texts into ids that the model knows."""
    tally, generator = Tally("tokenizer files"), np.random.default_rng([seed, 9])
    whole = {"packed": folder / "packed", "pair": folder / "pair"}
    for name, made in whole.items():
        toy.make_gpt2(made)
        if name == "pair":
            _unpacked(made)
    for number in range(count):
        name = one_of(generator, ["packed", "packed", "pair"])
        own = folder / "own"
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir()
        for path in whole[name].iterdir():
            os.link(path, own / path.name)
        files = {
            "packed": ["tokenizer.json", "tokenizer.json", "tokenizer_config.json"],
            "pair": ["vocab.json", "merges.txt", "tokenizer_config.json"],
        }[name]
        path = own / one_of(generator, files)
        content = path.read_bytes()
        path.unlink()
        damaged = _damaged(generator, path, content)
        path.write_bytes(damaged)

        def attempt(own: Path = own, path: Path = path) -> None:
            _use(str(own))
            if path.suffix == ".json" and not _is_json(path):
                raise SilentDamageError(f"{path.name} that is no JSON")

        attempted(
            tally, f"input {number} ({path.name}, {damaged[:120]!r}..., {_difference(content, damaged)})", attempt
        )
    return tally


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        return "Exceeds the limit" in str(error)  # a number that is JSON, and that other readers take
    return True


def _difference(before: bytes, after: bytes) -> str:
    """Return the place from which two contents differ, for whoever looks at an example."""
    at = next((k for k, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after)))
    return repr(after[max(0, at - 60) : at + 100])


def _damaged(generator: np.random.Generator, path: Path, content: bytes) -> bytes:
    if path.suffix == ".json" and generator.random() < 0.7:
        values: Any = json.loads(content)
        if path.name == "tokenizer.json" and generator.random() < 0.6:  # few of its parts are not words
            part = one_of(generator, [key for key in values if key != "model"])
            odd = file_damage.odd_json(generator, values[part])
            values = {**values, part: odd}
            values["model"] = {**values["model"]}
            if generator.random() < 0.3:
                values["model"][one_of(generator, list(values["model"]))] = one_of(generator, file_damage.ODD_VALUES)
        else:
            values = file_damage.odd_json(generator, values)
        return file_damage.to_bytes(file_damage.as_json(generator, values))
    change = one_of(generator, file_damage.OF_BYTES)
    return bytes(change(generator, content))


def _use(source: str) -> None:
    """Do what a run does with a tokenizer before and while it trains."""
    from transformers import AutoTokenizer

    check_files(source)
    content_id(source)
    check_stored_tokenizer(source, VOCABULARY)
    is_given_bos(source)
    tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
    texts = Texts(tokenizer, tokenizer.eos_token_id, torch.device("cpu"))
    ids = [texts.opening, texts.prompt("Say it."), texts.answers(TEXTS).ids.flatten()]
    if any(int(part.max()) >= VOCABULARY or int(part.min()) < 0 for part in ids if len(part)):
        raise SilentDamageError("ids that the model does not have")
    tokenizer.decode(ids[2].tolist())
