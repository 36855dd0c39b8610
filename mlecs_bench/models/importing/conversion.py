"""What a converter of one format reports of the model that it has written to a folder."""

from __future__ import annotations

from dataclasses import dataclass


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
