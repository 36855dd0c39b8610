"""Writes CARD.md of the embedded profile: what it is made from and what was measured when it was made."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy")

_HEAD = """# Card of the embedded profile `{name}`

{what}

Licence: Apache-2.0. Everything was made by `python -m tools.build_mini --profile {name}` from generated data; no
recorded person, no third-party text and no third-party weight is in it.
"""

_WHOLE = """\
Two tiny causal language models with their tokenizer, and six tiny encoders. They stand in for large pretrained
models, so that the whole benchmark runs on a CPU without any download. They know the texts of this project's
generators and nothing else; they are of no use outside it."""
_LLM_ALONE = """\
A tiny causal language model with a tokenizer of its own; all else is that of `mini`. It knows the texts of this
project's generators and nothing else; it is of no use outside it."""

_HOW = """## How

- Language models: pretrained on pairs of a condition and a text. The condition is eight vectors before the prompt, one
  per slot of a clip (or "nothing known"), from a table that is thrown away; the text is the prompt in the template
  "Instruction: ... Output:" and the answer. Four fifths and more of the answers are summaries of clips in four styles,
  of which the style of the benchmark's summaries is the rarest (10 %); 12 % are postures (words, and digits in a fifth
  of them). Some conditions are complete, others show what a set of modalities shows, or slots at random. Half of the
  batches begin at a random position, so that all 256 positions are learnt.
"""
_HOW_ENCODERS = """- Encoders of clips (vast): pretrained without labels to tell generated clips apart: two recordings
  of one clip, with other noise and other slots left out, shall be more alike than recordings of two clips. The probes
  of the table were fitted afterwards, and thrown away. Encoders of postures (ur-fall): pretrained on generated samples
  to name the posture through a linear probe on their 64 outputs that is thrown away.
"""
_HOW_POOL = """- The pool is disjoint from the benchmark: its clips come from other random streams, and a combination of
  slot values belongs to the pool or to the benchmark (sum of the indices modulo 5), never to both. The posture pool
  has its own seed.
- The gate: the build fails unless both language models name at least 95 % of the slots of complete conditions they
  have not seen, and answer at least 95 % of the posture questions.
"""


@dataclass(frozen=True)
class ModelReport:
    """What was measured of one language model: (mean, largest) tokens per summary and the gate's scores."""

    name: str
    architecture: str
    parameters: int
    vocabulary: int
    steps: int
    loss: float
    tokens: tuple[float, int]
    gate: Mapping[str, float]


def write_card(
    folder: Path, name: str, seed: int, models: Sequence[ModelReport], encoders: Mapping[str, Mapping[str, float]]
) -> None:
    """Write CARD.md to `folder`; `encoders` holds, per encoder, the probe accuracies."""
    head = _HEAD.format(name=name, what=_WHOLE if encoders else _LLM_ALONE)
    tables = [_models_table(models), *([_encoders_table(encoders)] if encoders else [])]
    parts = [head, *tables, _HOW + (_HOW_ENCODERS if encoders else "") + _HOW_POOL, _versions(folder, seed)]
    (folder / "CARD.md").write_text("\n".join(parts))


def _models_table(models: Sequence[ModelReport]) -> str:
    rows = [
        "## Language models",
        "",
        "| folder | architecture | parameters | vocabulary | steps (batch 32) | last loss | tokens per summary "
        "(mean, max) | gate: slots | gate: postures |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for m in models:
        rows.append(
            f"| {m.name} | {m.architecture} | {m.parameters:,} | {m.vocabulary} | {m.steps} | {m.loss:.3f} "
            f"| {m.tokens[0]:.1f}, {m.tokens[1]} | {m.gate['slots_all']:.3f} | {m.gate['posture']:.3f} |"
        )
    return "\n".join([*rows, ""])


def _encoders_table(encoders: Mapping[str, Mapping[str, float]]) -> str:
    rows = ["## Encoders", "", "| encoder | probe accuracy on unseen samples of the pool |", "|---|---|"]
    for name, scores in encoders.items():
        rows.append(f"| {name} | " + ", ".join(f"{slot} {value:.2f}" for slot, value in scores.items()) + " |")
    return "\n".join([*rows, ""])


def _versions(folder: Path, seed: int) -> str:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"## Made with\n\nSeed {seed}, one CPU thread, Python {platform.python_version()}, {packages}. "
        f"{size / 1e6:.2f} MB without this card.\n"
    )
