"""Where language models come from: a folder, or a hub id with an optional revision (``id@revision``).

Everything here works before any weight is read: what a source is called, which exact content it has, and the
configuration of its architecture. Hub ids are read from the hub's cache, where `mlecs_bench.models.hub` puts them ahead
of a run: nothing here fetches anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mlecs_bench.errors import DataError, MlecsError, UsageError, shortened
from mlecs_bench.files import read_json
from mlecs_bench.models.hub import Part, cached, lacking, refuse_offline, split

DIGESTED_FILES = (
    *("config.json", "tokenizer.json", "*.safetensors", "*.bin", "*.index.json"),
    *("special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt"),
    *("*.model", "*.tiktoken", "tekken.json", "bpe.codes"),
)
"""What decides what a model computes. tokenizer_config.json joins them unless it says what they say already.

What loading passes over is left out: generation_config.json, since all models decode greedily, and chat templates."""
PLAIN_TOKENIZERS = ("TokenizersBackend", "PreTrainedTokenizerFast")
"""Tokenizer classes that are tokenizer.json and nothing else."""
PLAIN_SETTINGS = {"backend", "clean_up_tokenization_spaces", "model_max_length", "padding_side"}
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""The names of weights in the order in which transformers looks for them, each with an index for shards."""
LOCAL: Mapping[str, bool] = MappingProxyType({"local_files_only": True, "trust_remote_code": False})
"""How transformers loads what is there: without the hub, and without code of a model's own."""
WEIGHT_SUFFIXES = (".safetensors", ".bin")
TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model")
"""One of these is there if a folder has any tokenizer; whether it can serve is seen when it is loaded."""


def _gpt2(width: int, layers: int, heads: int) -> Mapping[str, Any]:
    return MappingProxyType({"model_type": "gpt2", "n_embd": width, "n_layer": layers, "n_head": heads})


KNOWN_CONFIGURATIONS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "MiniLLM/MiniLLM-gpt2-760M": _gpt2(1280, 36, 20),
        "openai-community/gpt2-large": _gpt2(1280, 36, 20),
        "openai-community/gpt2-medium": _gpt2(1024, 24, 16),
        "openai-community/gpt2": _gpt2(768, 12, 12),
        "distilbert/distilgpt2": _gpt2(768, 6, 12),
        "EleutherAI/gpt-j-6b": MappingProxyType(
            {"model_type": "gptj", "n_embd": 4096, "n_layer": 28, "n_head": 16, "rotary_dim": 64, "n_inner": None}
        ),
        "HuggingFaceTB/SmolLM2-135M-Instruct": MappingProxyType(
            {
                **{"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30},
                **{"num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152},
                **{"max_position_embeddings": 8192, "tie_word_embeddings": True},
            }
        ),
    }
)
"""The published sizes of the profiles' models: shapes are known without a hub. What is left out is the default of
the architecture in transformers, as in the published configurations."""


def is_folder(source: str) -> bool:
    """Say whether `source` is a folder, else a hub id; raises UsageError for a path that leads nowhere."""
    folder = Path(source).expanduser()
    if not folder.is_dir() and (folder.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1):
        raise UsageError(f"{source} is no folder; give one saved by transformers' save_pretrained")
    return folder.is_dir()


def source_name(source: str) -> str:
    """Return the last part of a source, as tables show it."""
    return Path(source).name


def content_id(source: str) -> str:
    """Return what tells contents apart: the sha256 over a folder's files, or ``id@commit`` of the hub.

    Raises DataError for a folder without weights, UsageError for an id that the hub's cache does not have.
    """
    if is_folder(source):
        return folder_digest(Path(source).expanduser())
    return f"{split(source)[0]}@{hub_commit(source)}"


def hub_commit(source: str) -> str:
    """Return the commit that a hub id stands for in the hub's cache; raises UsageError where it is not there."""
    return folder_of(source, Part.CONFIG).name


def folder_of(source: str, part: Part = Part.WHOLE) -> Path:
    """Return the folder that holds `part` of a model: the user's own, or that of a hub id in the hub's cache.

    Raises UsageError where the cache does not have it.
    """
    if is_folder(source):
        return Path(source).expanduser()
    folder = cached(source)
    if folder is None or lacking(folder, part) is not None:
        refuse_offline(source, folder, part)
        raise UsageError(
            f"'{source}' has not been fetched from the hub; run and sweep fetch models before they begin, and so does "
            f"mlecs-bench models fetch --slm {source}"
        )
    return folder


def folder_digest(folder: Path) -> str:
    """Return the sha256 over the files of a saved model that decide what it computes."""
    files = digested_files(folder)
    if not any(path.suffix in WEIGHT_SUFFIXES for path in files):
        raise DataError(f"{folder} holds no weights (*.safetensors); save the model there first")
    digest = hashlib.sha256()
    for path in files:
        found = path.stat()
        digest.update(path.name.encode() + b"\0" + _file_sha256(path, found.st_size, found.st_mtime_ns))
    return digest.hexdigest()


def digested_files(folder: Path) -> list[Path]:
    """Return the files of a saved model that decide what it computes, in order."""
    files = {path for pattern in DIGESTED_FILES for path in folder.glob(pattern)}
    settings = folder / "tokenizer_config.json"
    if settings.is_file() and not _says_nothing_new(settings):
        files.add(settings)
    return sorted(files)


def _says_nothing_new(settings: Path) -> bool:
    """Say whether a tokenizer_config.json adds nothing to config.json and tokenizer.json, which are digested anyway.

    That is so for a tokenizer without a class of its own whose end-of-sequence token is the model's.
    """
    try:
        values, config, tokenizer = (
            read_json(settings.parent / name) for name in (settings.name, "config.json", "tokenizer.json")
        )
        eos = values.pop("eos_token")
        ids = [token["id"] for token in tokenizer["added_tokens"] if token["content"] == eos]
        return bool(
            ids == [config["eos_token_id"]]
            and values.pop("pad_token", eos) == eos
            and values.pop("tokenizer_class") in PLAIN_TOKENIZERS
            and not values.get("clean_up_tokenization_spaces")
            and values.keys() <= PLAIN_SETTINGS
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


@lru_cache(maxsize=256)
def _file_sha256(path: Path, _size: int, _changed: int) -> bytes:
    """Return the sha256 of a file; read once, unless its size or time of change is another: weights are large."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def pretrained(source: str) -> tuple[str, dict[str, Any]]:
    """Return what `from_pretrained` needs to load exactly the content that `content_id` names: a name and keywords.

    Code that comes with a model is never run, and nobody is asked whether it should be.
    """
    return str(folder_of(source)), {**LOCAL}


def prepends_bos(tokenizer: Any) -> bool:
    """Say whether a tokenizer of transformers puts its BOS token before a text by itself, as it does with "x"."""
    bos = tokenizer.bos_token_id
    if bos is None:
        return False
    with_special, without = (tokenizer("x", add_special_tokens=special)["input_ids"] for special in (True, False))
    return bool(with_special[:1] == [bos] and without[:1] != [bos])


def is_given_bos(source: str) -> bool:
    """Say whether the model at `source` reads a BOS token first; raises UsageError where it has no tokenizer."""
    return _is_given_bos(source, content_id(source))


@lru_cache(maxsize=32)
def _is_given_bos(source: str, _content: str) -> bool:
    from transformers import AutoTokenizer

    folder = folder_of(source, Part.TOKENIZER)
    with whole_tokenizer(source):
        return prepends_bos(AutoTokenizer.from_pretrained(str(folder), **LOCAL))


@contextmanager
def whole_tokenizer(source: str) -> Iterator[None]:
    """Turn what loading or using a tokenizer raises into one line: for a damaged file that may be anything.

    A panic in the library's Rust is no Exception, and has its own name only.
    """
    try:
        yield
    except (MlecsError, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UsageError(f"cannot load the tokenizer of '{source}': {first_line(error)}") from error


def is_known(source: str) -> bool:
    """Say whether a source is a hub id whose configuration is known without the hub."""
    return not is_folder(source) and split(source)[0] in KNOWN_CONFIGURATIONS


def configuration(source: str) -> Any:
    """Return the transformers configuration of a source; known hub ids need no hub. Raises UsageError in one line."""
    from transformers import AutoConfig

    if is_known(source):
        return AutoConfig.for_model(**dict(KNOWN_CONFIGURATIONS[split(source)[0]]))
    return stored_configuration(source)


def stored_configuration(source: str) -> Any:
    """Return the configuration that a source holds, as its model is built with it. Raises UsageError in one line.

    A pad id outside the vocabulary is dropped: nothing here is ever padded with it, and no model could be built.
    """
    from transformers import AutoConfig

    folder = folder_of(source, Part.CONFIG)
    try:
        config = AutoConfig.from_pretrained(str(folder), **LOCAL)
        text = config.get_text_config()
        if text.pad_token_id is not None and not 0 <= text.pad_token_id < text.vocab_size:
            text.pad_token_id = None
    except Exception as error:  # transformers may raise anything for a damaged folder
        raise UsageError(
            f"cannot read a causal language model's configuration from '{source}': {first_line(error)}"
        ) from error
    return config


def check_files(source: str) -> None:
    """Raise UsageError unless a model has a configuration, all weights that its index names, and a tokenizer."""
    if not is_folder(source):
        folder_of(source)
        return
    folder = Path(source).expanduser()
    if not (folder / "config.json").is_file():
        raise UsageError(f"{source} holds no config.json; give a folder saved by transformers' save_pretrained")
    if (folder / "adapter_config.json").is_file():
        raise UsageError(
            f"{source} holds an adapter (adapter_config.json), which would be trained beside another; merge it into "
            "its model with peft's merge_and_unload and save that, or take the file away"
        )
    _check_code(source, folder / "config.json")
    _check_weights(source, folder)
    if not any(path for pattern in TOKENIZER_FILES for path in folder.glob(pattern)):
        raise UsageError(f"{source} holds no tokenizer; save tokenizer.json beside the model")


def _check_code(source: str, config: Path) -> None:
    """Raise UsageError for a model whose code comes with it; a damaged configuration is judged where it is read."""
    try:
        values = read_json(config)
    except (OSError, ValueError):
        return
    if isinstance(values, dict) and "auto_map" in values:
        from transformers import CONFIG_MAPPING

        if values.get("model_type") not in CONFIG_MAPPING:
            raise UsageError(
                f"{source} needs code of its own (auto_map in config.json), which is never run, whatever the flags; "
                "give a model of a family that transformers has"
            )


def _check_weights(source: str, folder: Path) -> None:
    """Raise UsageError unless the weights that would be loaded are all there; other files may be of another save."""
    present = {path.name for path in folder.iterdir() if path.suffix in WEIGHT_SUFFIXES}
    if not present:
        raise UsageError(f"{source} holds no weights (*.safetensors); save the model there first")
    for name in WEIGHT_FILES:
        index = folder / f"{name}.index.json"
        if name in present:
            return
        if index.is_file():
            lacking = sorted(_shards(index) - present)
            if lacking:
                raise UsageError(f"{source} lacks {lacking[0]}, which {index.name} names; copy all files of the model")
            return
    raise UsageError(f"{source} holds weights under other names ({min(present)}); save them as {WEIGHT_FILES[0]}")


def _shards(index: Path) -> set[str]:
    try:
        return set(read_json(index)["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{index} is no index of weights ({type(error).__name__}); copy it again") from error


def first_line(error: BaseException) -> str:
    """Return the first sentence of an error's first line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    line = (
        f"{lines[0]} {lines[1].strip()}" if lines[0].endswith(":") and lines[1:] else lines[0]
    )  # "field 'x':" and what is wrong with it
    return shortened(line.partition(". ")[0].rstrip("."))
