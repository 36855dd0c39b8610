"""Which logits of two language models may be compared: positions by the text read so far, ids by their strings.

Two models that read the same answer through different tokenizers have neither the same number of rows of logits nor
the same columns. `align_positions` pairs the rows, `vocabulary_map` the columns; `transfer` compares what they pair.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Bool, Int, Int16, Int32, Int64
from torch import Tensor

from mlecs_bench.errors import DataError, check_choice
from mlecs_bench.models.texts import as_data

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Span = tuple[int, int]
Pair = tuple[int, int]
Unmatched = Literal["edit-distance", "drop"]
"""What becomes of a token that the other vocabulary lacks: the token of least edit distance, or none."""

MAX_EDIT_PAIRS = 4_000_000
"""Largest number of (unmatched token, candidate) pairs for which edit distances are computed: about two seconds."""


def align_positions(
    spans_u: Sequence[Span], spans_v: Sequence[Span], *, pieces: tuple[Sequence[str], Sequence[str]] | None = None
) -> list[Pair]:
    """Return the pairs (row of u, row of v) at which two tokenisations of one answer have read the same text.

    `spans_*` are the character spans (start, end) of all tokens a_0..a_{n-1} of the answer, without EOS. Row k of the
    logits predicts token k of [a_0..a_{n-1}, EOS]: row 0 follows the prompt, row n predicts EOS. The string is cut at
    every offset where both tokenisations have a boundary, 0 and the end included; a cut gives the numbers of tokens
    that end at or before it.

    "The last token of each segment" is read as the row *after* that token, not the row that predicts it: a causal
    model's output at a token's own index is the distribution of what follows, and at a common cut both models
    condition on exactly the same characters. The rows that predict a segment's last token condition on different text
    as soon as the segments are split differently, and their divergence would measure the tokenizers.

    Boundaries are end offsets, so it does not matter whether a space belongs to a span or was trimmed from it. An
    offset inside a character that several tokens spell is no boundary: the cut follows the last of them. `pieces` are
    the tokens' own strings; with equal pieces and spans the tokenizers agree and every row is paired, also inside
    characters. The pairs grow strictly in both rows, end with (n_u, n_v), and swap with the arguments.

    Raises DataError for a span that is negative or ends before it starts.
    """
    for start, stop in (*spans_u, *spans_v):
        if not 0 <= start <= stop:
            raise DataError(
                f"a token's span must have 0 <= start <= end, got ({start}, {stop}); pass an offset mapping"
            )
    same_spans = list(map(tuple, spans_u)) == list(map(tuple, spans_v))
    if same_spans and pieces is not None and list(pieces[0]) == list(pieces[1]):
        return [(k, k) for k in range(len(spans_u) + 1)]
    end = max((stop for _, stop in (*spans_u, *spans_v)), default=0)
    cuts_u, cuts_v = _cuts(spans_u, end), _cuts(spans_v, end)
    return [(cuts_u[c], cuts_v[c]) for c in sorted(cuts_u.keys() & cuts_v.keys())]


def _cuts(spans: Sequence[Span], end: int) -> dict[int, int]:
    """Return boundary offset → number of tokens read there; all tokens are read at `end` and nowhere before."""
    read = [0]
    for _, stop in spans:
        read.append(max(read[-1], stop))
    cuts = {end: len(spans)}
    ahead = end  # where the text not yet read begins
    for k in reversed(range(len(spans))):
        start, stop = spans[k]
        if start < stop:  # a token without width reads nothing, wherever its span lies
            ahead = min(ahead, start)
        if read[k] <= ahead:
            cuts.setdefault(read[k], k)
    return cuts


def answer_pairs(tokenizer_u: PreTrainedTokenizerFast, tokenizer_v: PreTrainedTokenizerFast, text: str) -> list[Pair]:
    """Return `align_positions` of an answer's text (without EOS) as two fast tokenizers read it, as ordinary text.

    It depends on the text and the tokenizers only: compute it once per sample. Where an input is cut off, keep the
    pairs whose rows are still there.
    """
    (pieces_u, spans_u), (pieces_v, spans_v) = token_spans(tokenizer_u, text), token_spans(tokenizer_v, text)
    return align_positions(spans_u, spans_v, pieces=(pieces_u, pieces_v))


def token_spans(tokenizer: PreTrainedTokenizerFast, text: str) -> tuple[list[str], list[Span]]:
    """Return the pieces of `text` and their character spans.

    The pieces of a byte-level tokenizer spell the text's bytes, so their spans are counted from them. Its offset
    mapping trims spaces, and gives a lone space at the start the span (0, 0), as if it had read nothing.
    """
    encoded = as_data(tokenizer, text, return_offsets_mapping=True)
    pieces: list[str] = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    spans: list[Span] = [(int(start), int(stop)) for start, stop in encoded["offset_mapping"]]
    if _is_byte_level(tokenizer):
        added = tokenizer.get_added_vocab()
        sizes = [len(piece.encode()) if piece in added else len(piece) for piece in pieces]
        owner = [k for k, character in enumerate(text) for _ in character.encode()]
        if sum(sizes) == len(owner):  # otherwise a normalizer has changed the text: trust the offset mapping
            stops = np.cumsum(sizes).tolist()
            spans = [(owner[stop - size], owner[stop - 1] + 1) for size, stop in zip(sizes, stops, strict=True)]
    return pieces, spans


@dataclass(frozen=True)
class PairIndex:
    """The aligned rows of a batch: row numbers `u` and `v`, and `mask`, False on padding.

    `rows` are the numbers of rows of logits that u and v need at least.
    """

    u: Int64[Tensor, "b S"]
    v: Int64[Tensor, "b S"]
    mask: Bool[Tensor, "b S"]
    rows: tuple[int, int]

    @classmethod
    def of(cls, samples: Sequence[Sequence[Pair]]) -> PairIndex:
        """Return the index of a batch from the pairs of each of its samples (what `align_positions` returned).

        Raises ValueError for a batch without samples, over which no mean exists.
        """
        if not samples:
            raise ValueError("a batch of pairs must have at least one sample, got none")
        table = torch.zeros(2, len(samples), max(map(len, samples)), dtype=torch.int64)
        mask = torch.zeros(table.shape[1:], dtype=torch.bool)
        for i, pairs in enumerate(samples):
            table[:, i, : len(pairs)] = torch.tensor(list(pairs), dtype=torch.int64).reshape(-1, 2).T
            mask[i, : len(pairs)] = True
        rows_u, rows_v = (max((pair[side] + 1 for pairs in samples for pair in pairs), default=0) for side in (0, 1))
        return cls(table[0], table[1], mask, (rows_u, rows_v))

    def __len__(self) -> int:
        return len(self.mask)

    def swapped(self) -> PairIndex:
        """Return the same pairs with u and v exchanged: for the transfer in the other direction."""
        return PairIndex(self.v, self.u, self.mask, (self.rows[1], self.rows[0]))

    def to(self, device: torch.device | str) -> PairIndex:
        """Return the same pairs on `device`."""
        return PairIndex(self.u.to(device), self.v.to(device), self.mask.to(device), self.rows)


def agreement(teacher: PreTrainedTokenizerFast, student: PreTrainedTokenizerFast) -> float:
    """Return the share of the ids of either vocabulary that have the same string in both, from 0 to 1; symmetric."""
    one, other = _surfaces(teacher), _surfaces(student)
    same = sum(other.get(token_id) == text for token_id, text in one.items())
    return same / max(1, len(one.keys() | other.keys()))


def vocabulary_map(
    teacher: PreTrainedTokenizerFast,
    student: PreTrainedTokenizerFast,
    *,
    teacher_size: int | None = None,
    student_size: int | None = None,
    unmatched: Unmatched = "edit-distance",
) -> Int64[Tensor, " V_t"]:
    """Return for every teacher id the student's id of the same string, or -1; V_t is `teacher_size`.

    `*_size` are the widths of the logits (default: the tokenizer's largest id + 1). A padded vocabulary, such as
    GPT-J's 50,400 columns for GPT-2's 50,257 tokens, is mapped by identity where both have tokens; ids without a
    token map to -1. Strings are compared as the text they stand for: byte-level pieces are decoded, "▁" is a space
    and "<0x0A>" a byte. Special tokens are mapped by role (eos to eos), else to special tokens of the same string;
    nothing but the teacher's eos maps to the student's.

    With `unmatched="edit-distance"` an ordinary token without a match maps to the ordinary student token of least
    edit distance (the lowest id among equals), of those whose distance is less than the length of the longer string.
    Above MAX_EDIT_PAIRS pairs of unmatched token and candidate this is not done and -1 stays, as with "drop". Raises
    ValueError for any other `unmatched`.
    """
    check_choice(unmatched, Unmatched, "unmatched")
    ours, theirs = _up_to(teacher_size, _surfaces(teacher)), _up_to(student_size, _surfaces(student))
    special_t, special_s = set(teacher.all_special_ids), set(student.all_special_ids)
    found = _same_strings(ours, theirs, special_t, special_s)
    if _is_byte_level(teacher) == _is_byte_level(student):  # one text may have two pieces: each maps to its own twin
        found |= _same_strings(_pieces(teacher, ours), _pieces(student, theirs), special_t, special_s)
    found = {i: j for i, j in found.items() if j != student.eos_token_id or i == teacher.eos_token_id}
    found |= {i: j for i, j in _roles(teacher, student).items() if i in ours and j in theirs}
    left = [i for i in ours if i not in found and i not in special_t]
    candidates = [j for j in theirs if j not in special_s]
    if unmatched == "edit-distance" and len(left) * len(candidates) <= MAX_EDIT_PAIRS:
        nearest = _nearest([ours[i] for i in left], [theirs[j] for j in candidates])
        found |= {i: candidates[c] for i, c in zip(left, nearest, strict=True) if c >= 0}
    table = torch.full((teacher_size or max(ours, default=-1) + 1,), -1, dtype=torch.int64)
    if found:
        table[list(found)] = torch.tensor(list(found.values()))
    return table


def _up_to(size: int | None, texts: dict[int, str]) -> dict[int, str]:
    return texts if size is None else {i: text for i, text in texts.items() if i < size}


def _pieces(tokenizer: PreTrainedTokenizerFast, ids: Iterable[int]) -> dict[int, str]:
    kept = list(ids)
    return dict(zip(kept, tokenizer.convert_ids_to_tokens(kept), strict=True))


def _same_strings(
    ours: Mapping[int, str], theirs: Mapping[int, str], special_ours: set[int], special_theirs: set[int]
) -> dict[int, int]:
    """Return id → id of the same string, special to special; of several the last: byte pieces stand before words."""
    by_text = {(j in special_theirs, text): j for j, text in theirs.items()}
    wanted = {i: (i in special_ours, text) for i, text in ours.items()}
    return {i: by_text[key] for i, key in wanted.items() if key in by_text}


def _roles(teacher: PreTrainedTokenizerFast, student: PreTrainedTokenizerFast) -> dict[int, int]:
    """Return teacher id → student id of the tokens that play the same role."""
    found: dict[int, int] = {}
    for role in ("pad_token_id", "unk_token_id", "bos_token_id", "eos_token_id"):  # eos last: it decides a shared token
        i, j = getattr(teacher, role), getattr(student, role)
        # Only the probability of ending may become the student's eos, also where that token pads or begins as well.
        if i is not None and j is not None and (role == "eos_token_id" or j != student.eos_token_id):
            found[i] = j
    return found


def _surfaces(tokenizer: PreTrainedTokenizerFast) -> dict[int, str]:
    """Return id → the text a token stands for, in the order of ids; bytes that are no character are surrogates."""
    added = set(tokenizer.get_added_vocab().values())
    text_of = _byte_level_text if _is_byte_level(tokenizer) else _sentence_piece_text
    in_order = sorted((i, piece) for piece, i in tokenizer.get_vocab().items())
    return {i: piece if i in added else text_of(piece) for i, piece in in_order}


def _is_byte_level(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Say whether the tokenizer's pieces are written in the byte-level alphabet of GPT-2."""
    backend = tokenizer.backend_tokenizer
    parts = (backend.normalizer, backend.pre_tokenizer, backend.decoder)  # a part's state is its JSON, parts included
    return any(part is not None and b'"type":"ByteLevel"' in part.__getstate__() for part in parts)


@cache
def _byte_of() -> dict[str, int]:
    """Return the byte-level alphabet: printable Latin-1 stands for itself, the 68 other bytes for U+0100 onwards."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + k): byte for k, byte in enumerate(others)}


def _byte_level_text(piece: str) -> str:
    alphabet = _byte_of()
    data = b"".join(bytes([alphabet[c]]) if c in alphabet else c.encode() for c in piece)
    return data.decode("utf-8", errors="surrogateescape")


def _sentence_piece_text(piece: str) -> str:
    byte = re.fullmatch(r"<0x([0-9A-F]{2})>", piece)
    return bytes([int(byte[1], 16)]).decode("utf-8", errors="surrogateescape") if byte else piece.replace("▁", " ")


def _nearest(tokens: Sequence[str], candidates: Sequence[str]) -> list[int]:
    """Return for every token the index of its nearest candidate (the first of equals), -1 if none shares a character.

    Nearest by Levenshtein distance; a candidate shares a character if its distance is less than the longer length.
    """
    if not tokens or not candidates:
        return [-1] * len(tokens)
    lengths = np.array([len(text) for text in candidates])
    codes = np.full((lengths.max(), len(candidates)), -1, dtype=np.int32)
    for column, text in enumerate(candidates):
        codes[: len(text), column] = [ord(character) for character in text]
    nearest = []
    for token in tokens:
        distance = _edit_distances(token, codes, lengths)
        shares = distance < np.maximum(lengths, len(token))
        best = int(np.argmin(np.where(shares, distance, np.iinfo(distance.dtype).max)))
        nearest.append(best if shares[best] else -1)
    return nearest


def _edit_distances(
    token: str, codes: Int32[np.ndarray, "longest n"], lengths: Int[np.ndarray, " n"]
) -> Int16[np.ndarray, " n"]:
    """Return the Levenshtein distances of `token` to n candidates: codes of their characters, and their lengths.

    row[j] is the distance of the part of the token read so far to a candidate's first j characters.
    """
    longest, n = codes.shape
    ramp = np.arange(longest + 1, dtype=np.int16)[:, None]
    row = np.repeat(ramp, n, axis=1)
    for read, character in enumerate(token, start=1):
        change_or_delete = np.minimum(row[1:] + 1, row[:-1] + (codes != ord(character)))
        row = np.concatenate([np.full((1, n), read, dtype=np.int16), change_or_delete])
        row = np.minimum.accumulate(row - ramp) + ramp  # insertions: row[j] <= row[i] + (j - i)
    distances: np.ndarray = row[lengths, np.arange(n)]
    return distances
