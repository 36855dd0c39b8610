"""An encoder in memory, and the raw scores of bert-score 0.3.13 on it.

The library's functions that load a model and its tokenizer do not do under transformers 5 what its authors measured,
so both are loaded here, and the library computes the scores (`bert_cos_score_idf`). What differs:

- transformers 5 ignores ``add_prefix_space`` of `encode`. Without the space the first word of a RoBERTa sentence is
  another token, and roberta-large scores 0.59 instead of 0.33 for the pair in issue 147 of the library.
- `build_inputs_with_special_tokens` is gone, with which the library encodes an empty sentence. The documentation
  promises a raw score of 0, so callers ask `has_tokens` and never pass a blank sentence on.
- A tokenizer that states no longest length says 1e30, which overflows in the library. Where one states more than the
  model has positions, a long text crashes in the model. Here texts are cut at what the model can read.
- Weights load in the precision in which they were saved, as half precision for some models; 4 loaded float32.
- The library takes every path with "t5" in it for a T5 model, and downloads for a path that starts with "scibert".

In a batch, the library matches a token whose best match is negative with a neighbour's padding instead, and the order
of a batch follows Python's hash seed. A score then depends on the other sentences of the call (0.005 were measured),
so pairs are scored one at a time, which makes every score a function of its pair alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mlecs_bench.errors import DataError
from mlecs_bench.metrics.bertscore.source import first_line
from mlecs_bench.metrics.bertscore.store import EmbeddingStore, Ids
from mlecs_bench.models.sources import LOCAL

PAIRS_AT_A_TIME = 256
"""Pairs in one call of the library, which keeps the embeddings of all their tokens: some 60 MB at width 1024."""
UNSTATED_LENGTH = 512
"""Longest text of a model without a table of positions that states no length either; BERT's own."""
MAX_KEPT = 2_048
"""Texts whose embeddings are kept in memory, some 50 KB each: those of a cell's parties and evaluation points."""
WORTH_SHOWING = 32
"""Texts to embed in one call from which on its progress is told: they take seconds."""

Progress = Callable[[int, int, str], None]
"""Told how many of how many of what are done."""


def untold(_done: int, _total: int, _what: str) -> None:
    """Tell nobody."""


class Encoder:
    """An encoder cut after `layer`, in evaluation mode and float32, on `device`.

    It is loaded for the first text whose embedding is not in `store`. `known` remembers the raw F1 of pairs, so that
    one model in memory serves all cells of a process. Raises DataError when the files are no complete model.
    """

    def __init__(self, folder: Path, layer: int, device: str, store: EmbeddingStore | None = None) -> None:
        self._device = device
        with _quiet_transformers():
            self._tokenizer = _Tokenizer(folder, _n_positions(_outline(folder, layer)))
        self._model = _Remembering(lambda: _loaded(folder, layer, device), device, store)
        self.known: dict[tuple[str, str], float] = {}

    def has_tokens(self, text: str) -> bool:
        """Return whether the tokenizer finds anything in `text`; spaces alone are nothing, accents alone may be."""
        return bool(text.strip()) and not set(self._tokenizer.encode(text.strip())) <= set(self._tokenizer.frame)

    def sees(self, text: str) -> bool:
        """Return whether a token of `text` is one that the tokenizer's vocabulary knows."""
        return bool(set(self._tokenizer.encode(text.strip())) - {*self._tokenizer.frame, self._tokenizer.unknown})

    def raw_scores(
        self,
        candidates: Sequence[str],
        references: Sequence[str],
        *,
        all_layers: bool = False,
        progress: Progress | None = None,
    ) -> Any:
        """Return the library's P, R and F1 of pairs without blank sides: (n, 3), or (layers + 1, n, 3), float32.

        `progress` is told how many texts have been embedded, where there are many.
        """
        from bert_score.utils import bert_cos_score_idf

        texts = {tuple(self._tokenizer.encode(text.strip())) for text in {*candidates, *references}}
        self._model.begin(texts, keep=not all_layers, progress=progress or untold)
        starts = range(0, len(candidates), PAIRS_AT_A_TIME)
        parts = [
            bert_cos_score_idf(
                self._model,
                list(references[i : i + PAIRS_AT_A_TIME]),
                list(candidates[i : i + PAIRS_AT_A_TIME]),
                self._tokenizer,
                # The weights of tokens: all alike, without the frame that every sentence has.
                defaultdict(lambda: 1.0, dict.fromkeys(self._tokenizer.frame, 0.0)),
                batch_size=1,
                device=self._device,
                all_layers=all_layers,
            )
            for i in starts
        ]
        self._model.end()
        return torch.cat(parts, dim=-2)


class _Remembering(nn.Module):
    """The model as the library calls it, which embeds each text once: what memory or the store has is not read again.

    Texts come one at a time, so an embedding is a function of its text alone and the same bits when it is kept. Batches
    of texts of one length gave the same bits where that was tried, in half the time; nothing says that they do on
    every processor, so there are none.
    """

    def __init__(self, load: Callable[[], nn.Module], device: str, store: EmbeddingStore | None) -> None:
        super().__init__()
        self._load = load
        self._store = store
        # The library asks the first parameter where the model is, before there is one.
        self._place = nn.Parameter(torch.empty(0, device=device), requires_grad=False)
        self._loaded: list[nn.Module] = []  # no submodule: the library's eval() is not to reach for it
        self._kept: dict[Ids, torch.Tensor] = {}
        self._new: dict[Ids, torch.Tensor] = {}
        self._progress: Progress = untold
        self._done, self._total = 0, 0

    @property
    def model(self) -> nn.Module:
        """The encoder, loaded when it is first needed."""
        if not self._loaded:
            if self._total >= WORTH_SHOWING:
                self._progress(0, self._total, "texts embedded for BERTScore")
            self._loaded.append(self._load())
        return self._loaded[0]

    def begin(self, texts: Iterable[Ids], *, keep: bool, progress: Progress) -> None:
        """Get ready for the token ids of some texts: take from the store what it has of them.

        `keep` is False where all hidden states are asked for, of which nothing is kept.
        """
        if len(self._kept) > MAX_KEPT:
            self._kept.clear()
        unknown = set(texts) - self._kept.keys() if keep else set(texts)
        if self._store is not None and keep:
            found = {ids: vectors.to(self._place.device) for ids, vectors in self._store.load(unknown).items()}
            self._kept |= found
            unknown -= found.keys()
        self._new = {}
        self._progress, self._done, self._total = progress, 0, len(unknown)

    def end(self) -> None:
        """Give the store what has been embedded since `begin`."""
        if self._store is not None:
            self._store.save(self._new)
        self._new = {}

    def forward(self, ids: torch.Tensor, attention_mask: torch.Tensor, output_hidden_states: bool) -> Any:
        """Return the model's output for one text (1, L); its first element is (1, L, d)."""
        key = tuple(ids[0].tolist())
        if not output_hidden_states and key in self._kept:
            return (self._kept[key][None],)
        output = self.model(ids, attention_mask=attention_mask, output_hidden_states=output_hidden_states)
        self._done += 1
        if self._total >= WORTH_SHOWING:
            self._progress(min(self._done, self._total), self._total, "texts embedded for BERTScore")
        if not output_hidden_states:
            self._kept[key] = self._new[key] = output[0][0]
        return output


class _Tokenizer:
    """What the library asks of a tokenizer.

    `frame` is the tokens that begin and end every sentence, `unknown` stands for what the vocabulary lacks.
    """

    def __init__(self, folder: Path, n_positions: int) -> None:
        from transformers import AutoTokenizer, GPT2Tokenizer, RobertaTokenizer

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(str(folder), **LOCAL)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
            raise _damaged(folder, "tokenizer", error) from error
        if self._tokenizer.pad_token_id is None:
            raise _damaged(folder, "tokenizer", ValueError("it has no padding token"))
        # The classes for which the library asks for a space before the first word.
        self._lead = " " if isinstance(self._tokenizer, GPT2Tokenizer | RobertaTokenizer) else ""
        self.model_max_length = min(self._tokenizer.model_max_length, n_positions)
        self.pad_token_id = self._tokenizer.pad_token_id
        self.frame = (self._tokenizer.cls_token_id, self._tokenizer.sep_token_id)
        self.unknown: int | None = self._tokenizer.unk_token_id

    def encode(self, text: str, **_settings: Any) -> list[int]:
        """Return the token ids of a stripped `text` between the frame, cut at what the model can read."""
        ids: list[int] = self._tokenizer.encode(
            self._lead + text, add_special_tokens=True, truncation=True, max_length=self.model_max_length
        )
        return ids


def _outline(folder: Path, layer: int) -> Any:
    """Return the encoder without its weights, which tells its sizes."""
    from transformers import AutoConfig, AutoModel

    try:
        config = AutoConfig.from_pretrained(str(folder), num_hidden_layers=layer, **LOCAL)
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return AutoModel.from_config(config)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise _damaged(folder, "configuration", error) from error


def _loaded(folder: Path, layer: int, device: str) -> nn.Module:
    with _quiet_transformers():
        model: nn.Module = _load_model(folder, layer).to(device)
    return model


def _load_model(folder: Path, layer: int) -> Any:
    from safetensors import SafetensorError
    from transformers import AutoModel

    try:
        # Weights that a checkpoint lacks are drawn from the global generator, which dropout of a run may be using.
        with torch.random.fork_rng(devices=[]):
            model, report = AutoModel.from_pretrained(
                str(folder),
                num_hidden_layers=layer,
                dtype=torch.float32,
                **LOCAL,
                output_loading_info=True,
            )
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise _damaged(folder, "weights", error) from error
    # Checkpoints of masked language models lack the pooler, which no layer depends on.
    lacking = sorted(name for name in report["missing_keys"] if "pooler" not in name)
    if lacking:
        raise _damaged(folder, "weights", KeyError(f"{len(lacking)} parameters are missing, such as {lacking[0]}"))
    return model.eval()


def _damaged(folder: Path, part: str, error: Exception) -> DataError:
    if "trust_remote_code" in str(error):
        return DataError(
            f"the {part} of the BERTScore model in {folder} needs code of its own (auto_map), which is never run; "
            "name another model with --bertscore-model"
        )
    return DataError(
        f"cannot load the {part} of the BERTScore model in {folder} ({first_line(error)}); copy the model again"
    )


def _n_positions(model: Any) -> int:
    """Return how many tokens the model can read at most."""
    tables = [
        part
        for name, part in model.named_modules()
        if name.endswith("position_embeddings") and isinstance(part, nn.Embedding)
    ]
    if tables:
        # RoBERTa counts positions from the one behind its padding index.
        return min(t.num_embeddings - (0 if t.padding_idx is None else t.padding_idx + 1) for t in tables)
    stated = getattr(model.config, "max_position_embeddings", None)
    return stated if isinstance(stated, int) and stated > 0 else UNSTATED_LENGTH


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep loading a model from drawing a progress bar or reporting unused heads."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
