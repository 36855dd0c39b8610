"""What `doctor --slm` and `--llm` find of a language model, in words: files, size, tokenizer, and whether it loads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlecs_bench.cli.findings import Finding
from mlecs_bench.doors.events import Telling
from mlecs_bench.errors import MlecsError, UsageError

if TYPE_CHECKING:
    from mlecs_bench.models.outline import BackboneShape

LOADED_BYTES = 4 * 10**9
"""Size of the weights up to which a model is loaded to see that it can be; larger ones take minutes."""


def model_findings(flag: str, source: str, telling: Telling) -> Iterator[Finding]:
    """Yield what is found of the model that `flag` names; of one at a hub no more than small files are fetched."""
    topic = f"{flag} {source}"
    try:
        found, n_bytes = _files(source)
        yield Finding(topic, "files", "ok", found)
        shape, tokenizer = _shape(source, telling), _tokenizer(source, telling)
        yield Finding(topic, "size", "ok", _shape_text(shape))
        yield Finding(topic, "tokenizer", "ok", _tokenizer_text(source, tokenizer, shape))
        yield Finding(topic, "weights", "ok", _weights_text(source, n_bytes))
    except MlecsError as error:
        what, _, cure = str(error).partition("; ")
        yield Finding(topic, "model", "missing", what, cure)


def _files(source: str) -> tuple[str, int]:
    """Return where a model's files are, with their size, and the bytes of those on this machine; raises UsageError."""
    from huggingface_hub import constants

    from mlecs_bench.models.hub import Part, cached, lacking, refuse_offline, size_of, size_text
    from mlecs_bench.models.sources import check_files, is_folder

    if is_folder(source):
        check_files(source)
        n_bytes = _bytes_in(Path(source).expanduser())
        return f"all in {source}, {size_text(n_bytes)}", n_bytes
    folder = cached(source)
    if folder is not None and lacking(folder, Part.WHOLE) is None:
        n_bytes = _bytes_in(folder)
        return f"all in the hub's cache at commit {folder.name[:12]}, {size_text(n_bytes)}", n_bytes
    refuse_offline(source, folder, Part.WHOLE)
    return f"at {constants.ENDPOINT}; a run fetches {size_text(size_of(source))} before it begins", 0


def _bytes_in(folder: Path) -> int:
    from mlecs_bench.models.hub import CONFIG_FILES, TOKENIZER_FILES
    from mlecs_bench.models.sources import WEIGHT_SUFFIXES

    small = {*CONFIG_FILES, *TOKENIZER_FILES}
    files = (path for path in folder.iterdir() if path.name in small or path.suffix in WEIGHT_SUFFIXES)
    return sum(path.stat().st_size for path in files)


def _shape(source: str, telling: Telling) -> BackboneShape:
    from mlecs_bench.models.hub import Part, fetched
    from mlecs_bench.models.outline import backbone_shape
    from mlecs_bench.models.sources import is_folder, is_known

    if not is_folder(source) and not is_known(source):
        fetched(source, Part.CONFIG, telling)
    return backbone_shape(source, None)


def _shape_text(shape: BackboneShape) -> str:
    return (
        f"{shape.n_parameters / 10**6:,.1f} million parameters, {shape.model_type}: {shape.n_layers} layers of width "
        f"{shape.hidden_size:,}, {shape.max_positions:,} positions, LoRA on {len(shape.adapted)} modules"
    )


def _tokenizer(source: str, telling: Telling) -> Any:
    from transformers import AutoTokenizer

    from mlecs_bench.models.hub import Part, fetched
    from mlecs_bench.models.sources import LOCAL, first_line, folder_of, is_folder

    folder = folder_of(source) if is_folder(source) else fetched(source, Part.TOKENIZER, telling)
    try:
        return AutoTokenizer.from_pretrained(str(folder), **LOCAL)
    except Exception as error:  # transformers may raise anything for a damaged folder
        what = f"cannot load the tokenizer of '{source}' ({first_line(error)})"
        raise UsageError(f"{what}; save tokenizer.json beside it") from error


def _tokenizer_text(source: str, tokenizer: Any, shape: BackboneShape) -> str:
    from mlecs_bench.models.loading import check_tokenizer
    from mlecs_bench.models.sources import prepends_bos

    check_tokenizer(source, tokenizer, shape.vocab_size)
    first = f"{tokenizer.bos_token} before every text" if prepends_bos(tokenizer) else "nothing before a text"
    return f"{len(tokenizer):,} tokens; puts {first}, answers end with {tokenizer.eos_token}"


def _weights_text(source: str, n_bytes: int) -> str:
    """Load a model that is here and not large; raises UsageError where it does not load."""
    if not n_bytes:
        return "not looked at, as they are not here"
    if n_bytes > LOADED_BYTES:
        return "all files are there; not loaded, as that takes long"
    import torch

    from mlecs_bench.models.loading import BaseSettings, load_base

    load_base(source, BaseSettings(torch.device("cpu")))
    return "load"
