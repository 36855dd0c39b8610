"""Positions and vocabularies of two tokenizers: laws on random segmentations and on tokenizers trained here."""

from __future__ import annotations

import itertools
from itertools import pairwise

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from laws import for_all
from mlecs_bench.blocks import alignment
from mlecs_bench.blocks.alignment import (
    agreement,
    align_positions,
    answer_pairs,
    token_spans,
    vocabulary_map,
)
from mlecs_bench.errors import DataError
from mlecs_bench.seeds import rng

CORPUS = [
    "the person is lying on the ground",
    "a person stands up and walks to the door",
    "two dogs bark while a train passes the station",
    "a temporary pose near the window, not lying",
    "café crème und Öl, naïve façade",
    "smile 🙂🙃 and 東京 東京タワー",
] * 8
TEXTS = (
    " the person is lying on the ground",
    " a café near the station 🙂",
    "  two  spaces  ",
    " 東京 🙃🙂 naïve",
    "dog",
    " ",
    "",
    " the unknown glyph ⚗ here",
    "\ttab and\nline",
)


def byte_level(vocab_size: int, trim_offsets: bool = True, **roles: str) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer the way GPT-2's was made."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    special = {f"{role}_token": token for role, token in (roles or {"eos": "<|endoftext|>"}).items()}
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(dict.fromkeys(special.values())),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def unigram(vocab_size: int = 120) -> PreTrainedTokenizerFast:
    """Train a Unigram tokenizer with the space mark of sentencepiece."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special.values()),
        unk_token=special["unk_token"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def word_list(tokens: list[str], extra_special: tuple[str, ...] = (), **roles: str) -> PreTrainedTokenizerFast:
    """Make a tokenizer whose vocabulary is exactly `tokens`; `roles` are eos="</s>" and the like."""
    vocab = {token: i for i, token in enumerate(tokens)}
    backend = Tokenizer(models.WordLevel(vocab, unk_token=tokens[0]))
    special = {f"{role}_token": token for role, token in roles.items()}
    return PreTrainedTokenizerFast(tokenizer_object=backend, extra_special_tokens=list(extra_special), **special)


@pytest.fixture(scope="module")
def bpe_small() -> PreTrainedTokenizerFast:
    return byte_level(280)


@pytest.fixture(scope="module")
def bpe_large() -> PreTrainedTokenizerFast:
    return byte_level(400, trim_offsets=False)


@pytest.fixture(scope="module")
def pieces() -> PreTrainedTokenizerFast:
    return unigram()


@pytest.fixture(scope="module")
def tokenizers(bpe_small, bpe_large, pieces) -> dict[str, PreTrainedTokenizerFast]:
    return {"bpe-small": bpe_small, "bpe-large": bpe_large, "unigram": pieces}


# Positions


def random_spans(generator: np.random.Generator, text: str) -> list[tuple[int, int]]:
    """Cut `text` at random; some characters become several tokens, some spaces are trimmed, some spans are empty."""
    cuts = np.flatnonzero(generator.random(len(text) - 1) < 0.5) + 1
    bounds = [0, *cuts.tolist(), len(text)]
    spans = []
    for start, stop in pairwise(bounds):
        if generator.random() < 0.15 and start > 0:
            spans.append((start, start))
        trimmed = start + (text[start] == " " and generator.random() < 0.5)
        copies = int(generator.integers(1, 4)) if stop - start == 1 else 1
        spans += [(trimmed, stop)] * copies
    return spans


def counted_cuts(spans_u: list[tuple[int, int]], spans_v: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Apply the definition word by word: common end offsets, and how many tokens end at or before each."""
    common = {0} | ({stop for _, stop in spans_u} & {stop for _, stop in spans_v})
    return [tuple(sum(stop <= c for _, stop in spans) for spans in (spans_u, spans_v)) for c in sorted(common)]


def random_case(seed: int) -> tuple[str, list[tuple[int, int]], list[tuple[int, int]]]:
    generator = rng(seed, "alignment")
    text = "".join(generator.choice(list("ab é🙂"), size=int(generator.integers(1, 40))))
    return text, random_spans(generator, text), random_spans(generator, text)


SEEDS = for_all("seed", range(40))


@SEEDS
def test_pairs_are_the_counted_common_cuts(seed):
    _, u, v = random_case(seed)
    assert align_positions(u, v) == counted_cuts(u, v)


@SEEDS
def test_pairs_grow_strictly_and_cover_the_end(seed):
    _, u, v = random_case(seed)
    pairs = align_positions(u, v)
    assert pairs[0] == (0, 0)
    assert pairs[-1] == (len(u), len(v))
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(pairs))


@SEEDS
def test_swapping_the_tokenisations_swaps_the_pairs(seed):
    _, u, v = random_case(seed)
    assert align_positions(v, u) == [(b, a) for a, b in align_positions(u, v)]


@SEEDS
def test_one_tokenizer_is_aligned_with_itself_row_by_row(seed):
    text, u, _ = random_case(seed)
    names = [f"piece {k}" for k in range(len(u))]
    assert align_positions(u, list(u), pieces=(names, list(names))) == [(k, k) for k in range(len(u) + 1)]
    plain = [(start, start + 1) for start in range(len(text))]
    assert align_positions(plain, plain) == [(k, k) for k in range(len(text) + 1)]


def test_rows_inside_a_character_are_paired_only_when_the_pieces_are_the_same():
    spans = [(0, 1), (0, 1), (1, 2)]
    assert align_positions(spans, spans) == [(0, 0), (2, 2), (3, 3)]
    other = align_positions(spans, spans, pieces=(["ab", "c", "d"], ["a", "bc", "d"]))
    assert other == [(0, 0), (2, 2), (3, 3)]


def test_a_space_in_or_outside_the_span_makes_no_difference():
    inside = [(0, 4), (4, 8), (8, 12)]
    outside = [(1, 4), (5, 8), (9, 12)]
    coarse = [(0, 8), (8, 12)]
    assert align_positions(inside, coarse) == align_positions(outside, coarse) == [(0, 0), (2, 1), (3, 2)]


def test_a_mark_that_shares_a_span_with_the_next_token_is_no_boundary():
    marked = [(0, 1), (0, 5)]  # sentencepiece prepends "▁" to "hello" and gives it the first character's span
    letters = [(0, 1), (1, 5)]
    assert align_positions(marked, letters) == [(0, 0), (2, 2)]


def test_a_token_without_a_place_in_the_text_breaks_no_boundary():
    with_mark = [(0, 2), (2, 3), (0, 0), (3, 4)]  # templates give added tokens the span (0, 0)
    assert align_positions(with_mark, [(0, 2), (2, 3), (3, 4)]) == [(0, 0), (1, 1), (3, 2), (4, 3)]


def test_the_end_is_paired_when_one_tokenizer_drops_the_last_space():
    assert align_positions([(0, 2), (2, 3)], [(0, 2), (2, 3), (3, 4)]) == [(0, 0), (1, 1), (2, 3)]
    assert align_positions([], []) == [(0, 0)]
    assert align_positions([], [(0, 1)]) == [(0, 1)]


@for_all("span", [(3, 2), (-1, 2)])
def test_an_impossible_span_is_refused(span):
    with pytest.raises(DataError, match=r"0 <= start <= end, got"):
        align_positions([(0, 3)], [span])


def read_so_far(tokenizer: PreTrainedTokenizerFast, ids: list[int], text: str) -> str:
    """Return the text that a prefix of tokens spells, from the tokens alone: what a model has read after them."""
    if tokenizer.bos_token is None:  # the byte-level ones
        return tokenizer.decode(ids)
    spelled = "".join(tokenizer.convert_ids_to_tokens(ids)).replace("▁", " ")
    return spelled if text.startswith(" ") else spelled[1:]  # the tokenizer has put a space before the text


@for_all("text", TEXTS)
@for_all("names", [("bpe-small", "bpe-large"), ("bpe-small", "unigram"), ("unigram", "bpe-large")])
def test_paired_rows_of_real_tokenizers_have_read_the_same_text(tokenizers, names, text):
    one, other = (tokenizers[name] for name in names)
    ids = [t(text, add_special_tokens=False)["input_ids"] for t in (one, other)]
    pairs = answer_pairs(one, other, text)
    assert pairs[-1] == (len(ids[0]), len(ids[1]))
    assert pairs == [(b, a) for a, b in answer_pairs(other, one, text)]
    for a, b in pairs:
        read = [read_so_far(one, ids[0][:a], text), read_so_far(other, ids[1][:b], text)]
        assert "\ufffd" not in read[0] + read[1]
        if "<unk>" not in read[0] + read[1]:
            assert read[0] == read[1]


@for_all("name", ["bpe-small", "bpe-large", "unigram"])
@for_all("text", TEXTS)
def test_a_real_tokenizer_is_aligned_with_itself_row_by_row(tokenizers, name, text):
    n = len(tokenizers[name](text, add_special_tokens=False)["input_ids"])
    assert answer_pairs(tokenizers[name], tokenizers[name], text) == [(k, k) for k in range(n + 1)]


def test_every_common_word_end_is_a_pair(bpe_small, bpe_large):
    text = " the person is lying on the ground"
    pairs = answer_pairs(bpe_small, bpe_large, text)
    ends = {token_spans(bpe_small, text)[1][a - 1][1] for a, _ in pairs[1:]}
    assert {k for k in range(1, len(text)) if text[k] == " "} | {len(text)} <= ends
    assert len(pairs) < len(token_spans(bpe_small, text)[1]) + 1


@for_all("text", TEXTS)
def test_byte_level_spans_do_not_depend_on_the_trimming_of_spaces(text):
    trimmed, kept = byte_level(280, trim_offsets=True), byte_level(280, trim_offsets=False)
    expected = kept(text, return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]
    assert token_spans(trimmed, text)[1] == token_spans(kept, text)[1] == [tuple(span) for span in expected]


def test_spans_of_a_text_with_an_added_token_count_its_own_characters_and_a_special_one_is_plain_text():
    tokenizer = byte_level(280)
    tokenizer.add_tokens(["«end»"])
    pieces, spans = token_spans(tokenizer, " «end»a")
    assert pieces == ["Ġ", "«end»", "a"]
    assert spans == [(0, 1), (1, 6), (6, 7)]
    pieces, spans = token_spans(byte_level(280, eos="«end»"), " «end»a")
    assert "«end»" not in pieces
    assert (spans[0], spans[-1][1]) == ((0, 1), 7)
    assert all(span[0] <= following[0] <= span[1] for span, following in itertools.pairwise(spans))


def test_a_prepended_space_leaves_the_offset_mapping_in_charge():
    tokenizer = byte_level(280)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    assert token_spans(tokenizer, "dog")[1][-1][1] == 3


# Vocabularies


def surface(tokenizer: PreTrainedTokenizerFast, token: str) -> str:
    return tokenizer.backend_tokenizer.decoder.decode(["x", token])[1:]


def test_a_vocabulary_maps_to_itself_by_identity(tokenizers):
    for tokenizer in tokenizers.values():
        assert vocabulary_map(tokenizer, tokenizer).tolist() == list(range(len(tokenizer)))
        assert agreement(tokenizer, tokenizer) == 1.0


def test_padded_vocabularies_map_by_identity_where_both_have_tokens(bpe_small):
    n = len(bpe_small)
    table = vocabulary_map(bpe_small, bpe_small, teacher_size=n + 20, student_size=n + 9)
    assert table.tolist() == list(range(n)) + [-1] * 20
    narrow = vocabulary_map(bpe_small, bpe_small, student_size=n - 5, unmatched="drop")
    assert narrow.tolist() == list(range(n - 5)) + [-1] * 5


def test_byte_level_and_sentence_pieces_meet_in_the_same_text(bpe_large, pieces):
    table = vocabulary_map(bpe_large, pieces, unmatched="drop")
    teacher, student = bpe_large.convert_ids_to_tokens(range(len(bpe_large))), pieces.get_vocab()
    matched = [(i, j) for i, j in enumerate(table.tolist()) if j >= 0 and i != bpe_large.eos_token_id]
    assert len(matched) > 25
    for i, j in matched:
        assert surface(bpe_large, teacher[i]) == surface(pieces, pieces.convert_ids_to_tokens(j))
    for token, piece in (("Ġ", "▁"), ("Ã©", "é"), ("Ġa", "▁a"), ("and", "and")):
        assert table[teacher.index(token)] == student[piece]
    unmatched = {surface(bpe_large, teacher[i]) for i, j in enumerate(table.tolist()) if j < 0}
    ordinary = {surface(pieces, token) for token, j in student.items() if j not in pieces.all_special_ids}
    assert not unmatched & ordinary


def test_special_tokens_map_by_their_role_and_only_eos_maps_to_eos(bpe_small, pieces):
    there, back = vocabulary_map(bpe_small, pieces), vocabulary_map(pieces, bpe_small)
    assert there[bpe_small.eos_token_id] == pieces.eos_token_id
    assert back[pieces.eos_token_id] == bpe_small.eos_token_id
    assert back[pieces.bos_token_id] == back[pieces.unk_token_id] == -1
    for table, student in ((there, pieces), (back, bpe_small)):
        assert (table == student.eos_token_id).sum() == 1


def test_a_pad_token_with_the_students_eos_string_does_not_become_eos():
    teacher = word_list(["a", "<|end|>", "</s>", "b"], eos="</s>", pad="<|end|>")
    student = word_list(["b", "a", "<|end|>"], eos="<|end|>", pad="<|end|>")
    assert vocabulary_map(teacher, student).tolist() == [1, -1, 2, 0]


def test_one_token_of_many_roles_is_mapped_as_eos():
    teacher = word_list(["<|end|>", "a"], eos="<|end|>", bos="<|end|>", unk="<|end|>")
    student = word_list(["<unk>", "<s>", "</s>", "a"], unk="<unk>", bos="<s>", eos="</s>")
    assert vocabulary_map(teacher, student).tolist() == [2, 3]


def test_a_special_token_never_maps_to_an_ordinary_one():
    teacher = word_list(["</s>", "mark", "x"], eos="</s>", extra_special=("mark",))
    student = word_list(["</s>", "mark", "x"], eos="</s>")
    assert vocabulary_map(teacher, student).tolist() == [0, -1, 2]
    assert vocabulary_map(student, teacher).tolist() == [0, -1, 2]


def test_byte_pieces_map_to_the_byte_and_to_themselves():
    teacher = word_list(["<unk>", "<0x0A>", "<0x61>", "<0xF0>", "a"], unk="<unk>")
    assert vocabulary_map(teacher, teacher).tolist() == [0, 1, 2, 3, 4]
    student = byte_level(280)
    table, ids = vocabulary_map(teacher, student).tolist(), student.get_vocab()
    assert table[1:] == [ids["Ċ"], ids["a"], ids["ð"], ids["a"]]
    assert vocabulary_map(student, teacher).tolist()[ids["a"]] == 4


def test_special_tokens_beyond_the_logits_are_left_out():
    one, other = word_list(["a", "b", "</s>"], eos="</s>"), word_list(["b", "a", "c", "<end>"], eos="<end>")
    assert vocabulary_map(one, other, student_size=3).tolist() == [1, 0, -1]
    assert vocabulary_map(one, other, teacher_size=2).tolist() == [1, 0]


def test_special_tokens_are_read_as_written_and_matched_by_their_string():
    teacher = byte_level(280, eos="«end»", pad="«é»")
    student = word_list(["a", "</s>", "«é»"], extra_special=("«é»",), eos="</s>")
    table = vocabulary_map(teacher, student, unmatched="drop")
    assert table[teacher.pad_token_id] == 2


def test_every_byte_of_the_byte_level_alphabet_is_read_back():
    characters = [chr(code) for code in range(0x180)]
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str
    backend = Tokenizer(models.BPE({split(c)[0][0]: i for i, c in enumerate(characters)}, []))
    backend.decoder = decoders.ByteLevel()
    student = word_list(["no", *characters])
    table = vocabulary_map(PreTrainedTokenizerFast(tokenizer_object=backend), student, unmatched="drop")
    assert table.tolist() == list(range(1, len(characters) + 1))


def plain_edit_distance(a: str, b: str) -> int:
    """Compute the Levenshtein distance by the textbook table."""
    table = [[i + j if i * j == 0 else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            change = table[i - 1][j - 1] + (a[i - 1] != b[j - 1])
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, change)
    return table[-1][-1]


@for_all("seed", range(8))
def test_unmatched_tokens_go_to_the_student_token_of_least_edit_distance(seed):
    generator = rng(seed, "words")
    words = [["".join(generator.choice(list("abcd"), size=generator.integers(1, 7))) for _ in range(60)] for _ in "ts"]
    ours, theirs = (["<unk>", "</s>", *dict.fromkeys(w)] for w in words)
    teacher, student = (word_list(w, unk="<unk>", eos="</s>") for w in (ours, theirs))
    expected = [0, 1]
    for word in ours[2:]:
        ranked = [(plain_edit_distance(word, other), j) for j, other in enumerate(theirs) if j > 1]
        near = [(d, j) for d, j in ranked if d < max(len(word), len(theirs[j]))]
        expected.append(min(near)[1] if near else -1)
    table = vocabulary_map(teacher, student).tolist()
    assert table == expected
    dropped = vocabulary_map(teacher, student, unmatched="drop").tolist()
    assert dropped == [j if j >= 0 and ours[i] == theirs[j] else -1 for i, j in enumerate(table)]
    assert dropped != table


def test_a_token_that_shares_no_character_stays_unmatched():
    teacher, student = word_list(["xyz", "ab"]), word_list(["ab", "abc", "q"])
    assert vocabulary_map(teacher, student).tolist() == [-1, 0]


def test_edit_distances_are_left_out_above_their_limit(monkeypatch):
    teacher, student = word_list(["abd", "xbc", "abc"]), word_list(["abc", "q"])
    assert vocabulary_map(teacher, student).tolist() == [0, 0, 0]
    monkeypatch.setattr(alignment, "MAX_EDIT_PAIRS", 3)
    assert vocabulary_map(teacher, student).tolist() == [-1, -1, 0]


def test_agreement_is_the_share_of_equal_strings_and_symmetric(bpe_small, pieces):
    one, other = word_list(["a", "b", "c", "d"]), word_list(["a", "x", "c"])
    assert agreement(one, other) == agreement(other, one) == 2 / 4
    assert agreement(bpe_small, pieces) < 0.05
