"""What a converter of one format reports of the model that it has written to a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError

from mlecs_bench.errors import UsageError

UNREADABLE = (OSError, ValueError, KeyError, IndexError, TypeError, RuntimeError, AttributeError, StrictDataclassError)
"""What is wrong in a stranger's file shows as any of these, from NumPy up to the configuration of a model."""


@dataclass(frozen=True)
class Conversion:
    """A model in a folder of transformers: its name and licence as its file has them ("" where it has none).

    `quantisation` says in which formats the file held the weights, `done` what was made of them, a sentence each;
    `bos` whether its tokenizer prepends a BOS token (None: it has no tokenizer). `packages` did the work.
    """

    name: str
    licence: str
    architecture: str
    n_parameters: int
    quantisation: str
    bos: bool | None
    done: tuple[str, ...]
    packages: tuple[str, ...]


def unreadable(path: Path, wanted: str, error: Exception) -> UsageError:
    """Return the error, in one line, of a file that cannot be read as what is wanted."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return UsageError(f"{path.name} cannot be read as {wanted} ({first}); take another")
