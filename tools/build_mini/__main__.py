"""Rebuild an embedded profile: python -m tools.build_mini [--profile NAME]. Minutes on one CPU thread, no network."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from mlecs_bench.api import torch_stream

from .card import ModelReport, write_card
from .encoders import named_tensors, pretrain_encoder, ur_fall_tasks, vast_tasks
from .language_models import (
    LLM_RECIPE,
    SLM_RECIPE,
    Conditioned,
    Recipe,
    gate_scores,
    mean_tokens,
    new_llm,
    new_slm,
    pretrain,
)
from .segmentation import SHARED, SHORT, Segmentation, train_tokenizer
from .texts import clip_pairs, tokenizer_texts, words_of

PROFILES = Path(__file__).resolve().parents[2] / "plugins" / "mlecs_plugins" / "profiles"
SEED, GATE_SEED = 1, 2
GATE = 0.95


class GateError(RuntimeError):
    """A language model did not learn to copy its condition."""


def build_model(name: str, tokenizer: PreTrainedTokenizerFast, recipe: Recipe, folder: Path) -> ModelReport:
    """Pretrain the model `name` (slm, llm), write it to `folder`/`name`; raises GateError below the gate."""
    with torch_stream(SEED, "mini", name):
        base = {"slm": new_slm, "llm": new_llm}[name](len(tokenizer), tokenizer.eos_token_id)
        model = Conditioned(base, base.config.n_embd)
    loss = pretrain(model, tokenizer, recipe, SEED)
    gate = gate_scores(model, tokenizer, GATE_SEED)
    if min(gate["slots_all"], gate["posture"]) < GATE:
        raise GateError(f"{name} reaches {gate}, less than {GATE}: more steps or another seed are needed")
    base.save_pretrained(str(folder / name))
    tokenizer.save_pretrained(str(folder / name))
    summaries = clip_pairs(GATE_SEED, 500).answers
    return ModelReport(
        name,
        type(base).__name__,
        base.num_parameters(),
        len(tokenizer),
        recipe.steps,
        loss,
        mean_tokens(tokenizer, summaries),
        gate,
    )


def build_encoders(folder: Path) -> dict[str, dict[str, float]]:
    """Pretrain all encoders and write encoders.safetensors; return the probe accuracies per encoder."""
    tensors, scores = {}, {}
    for task in [*vast_tasks(SEED), *ur_fall_tasks(SEED)]:
        encoder, accuracies = pretrain_encoder(task, SEED)
        tensors.update(named_tensors(task, encoder))
        scores[f"{task.dataset}/{task.modality.name}"] = accuracies
        print(f"encoder {task.dataset}/{task.modality.name}: {accuracies}", flush=True)
    save_file(dict(sorted(tensors.items())), str(folder / "encoders.safetensors"), metadata={"format": "pt"})
    return scores


@dataclass(frozen=True)
class Pair:
    """An embedded profile: its folder, how each model of its own splits words, and whether it has own encoders."""

    folder: str
    segmentations: Mapping[str, Segmentation]
    with_encoders: bool


RECIPES = {"slm": SLM_RECIPE, "llm": LLM_RECIPE}
PAIRS = {
    "mini": Pair("mini", {"slm": SHARED, "llm": SHARED}, with_encoders=True),
    "mini-split": Pair("mini_split", {"llm": SHORT}, with_encoders=False),
}


def build(name: str, folder: Path) -> None:
    """Write the whole profile `name` to the empty `folder`."""
    pair = PAIRS[name]
    texts = tokenizer_texts(SEED, 6000)
    encoders = build_encoders(folder) if pair.with_encoders else {}
    models = []
    for use, segmentation in pair.segmentations.items():
        models.append(build_model(use, train_tokenizer(texts, segmentation), RECIPES[use], folder))
        print(models[-1], flush=True)
    write_card(folder, name, SEED, models, encoders)
    if pair.with_encoders:  # the other profile names the same file
        (folder / "words.txt").write_text("\n".join(words_of(texts)) + "\n")
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def replace(built: Path, target: Path) -> None:
    """Put `built` in the place of `target`, whose __init__.py, if any, is kept."""
    old = target.with_name(f".{target.name}-old")
    if target.exists():
        for kept in target.glob("*.py"):
            shutil.copy2(kept, built / kept.name)
        target.replace(old)
    built.replace(target)
    shutil.rmtree(old, ignore_errors=True)


def main() -> int:
    """Build into a temporary folder beside the target, then exchange the two."""
    parser = argparse.ArgumentParser(prog="python -m tools.build_mini", description=__doc__)
    parser.add_argument("--profile", choices=sorted(PAIRS), default="mini", help="which profile")
    parser.add_argument("--out", type=Path, help="where to write it; by default where it belongs")
    asked = parser.parse_args()
    target: Path = (asked.out or PROFILES / PAIRS[asked.profile].folder).resolve()
    torch.set_num_threads(1)
    disable_progress_bar()
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    part.chmod(0o755)
    start = time.process_time()
    try:
        build(asked.profile, part)
        replace(part, target)
    except GateError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(part, ignore_errors=True)
    print(f"{target} written in {time.process_time() - start:.0f} s of CPU time")
    return 0


if __name__ == "__main__":
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    sys.exit(main())
