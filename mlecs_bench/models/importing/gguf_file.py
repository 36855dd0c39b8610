"""From a GGUF file to a folder with config, safetensors and tokenizer, by what transformers reads of it."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from mlecs_bench.errors import UsageError
from mlecs_bench.models.importing.conversion import UNREADABLE, Conversion, unreadable
from mlecs_bench.models.loading import check_complete, check_tokenizer
from mlecs_bench.models.sources import LOCAL, prepends_bos


def check_gguf_package() -> None:
    """Raise UsageError unless the package that reads GGUF files is installed."""
    if importlib.util.find_spec("gguf") is None:
        raise UsageError("reading a GGUF file needs the package gguf; run pip install 'mlecs-bench[gguf]'")


def convert_gguf(path: Path, target: Path) -> Conversion:
    """Write the language model in the GGUF file `path` to the folder `target`, in float32; say what was found.

    Raises UsageError, in one line, for a file that cannot be read or an architecture that transformers does not know.
    """
    check_gguf_package()
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        name, licence, quantisation = _metadata(path)
        model, tokenizer = _loaded(path)
    except UNREADABLE as error:
        raise unreadable(path, "a language model in GGUF", error) from error
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return Conversion(
        name=name or path.stem,
        licence=licence,
        architecture=model.config.model_type,
        n_parameters=sum(p.numel() for p in model.parameters()),
        quantisation=quantisation,
        bos=prepends_bos(tokenizer),
        done=(
            "weights dequantised to float32",
            f"copied into a new {type(model).__name__} of the configuration in the file",
            "tokenizer built from the vocabulary in the file",
        ),
        packages=("gguf", "transformers", "torch"),
    )


def _metadata(path: Path) -> tuple[str, str, str]:
    """Return a file's name and licence, and in which formats its tensors are, the most frequent first."""
    from gguf import GGUFReader

    reader = GGUFReader(path)
    texts = [str(reader.fields[key].contents()) if key in reader.fields else "" for key in _TEXTS]
    formats = Counter(tensor.tensor_type.name for tensor in reader.tensors)
    return texts[0], texts[1], ", ".join(f"{name} ({n} tensors)" for name, n in formats.most_common())


_TEXTS = ("general.name", "general.license")


def _loaded(path: Path) -> tuple[Any, Any]:
    """Return model and tokenizer; the model is a new one, since transformers saves none that came from GGUF."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {"gguf_file": path.name, **LOCAL}
    config = AutoConfig.from_pretrained(path.parent, **where)
    config.name_or_path = ""
    tokenizer = AutoTokenizer.from_pretrained(path.parent, **where)
    dequantised, report = AutoModelForCausalLM.from_pretrained(
        path.parent, **where, dtype=torch.float32, output_loading_info=True
    )
    check_complete(path.name, report["missing_keys"])
    check_tokenizer(path.name, tokenizer, config.vocab_size)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(dequantised.state_dict(), assign=True)
    model.tie_weights()
    return model, tokenizer
