"""Laws of texts: what stands in the data is data, whatever a tokenizer would like to see in it."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import toy
from mlecs_bench.blocks.alignment import answer_pairs
from mlecs_bench.errors import DataError, UsageError
from mlecs_bench.models.loading import check_tokenizer
from mlecs_bench.models.texts import Texts

SIZE = 300
CAPTIONS = ("a <eos> red", "<eos>", "sad<pad><pad>", "<pad>", "a <mask> thing </s>", "a red thing")


@pytest.fixture
def tokenizer(tmp_path):
    """A tokenizer whose pad and mask tokens lie outside the vocabulary of its model."""
    found = toy.byte_level_tokenizer(tmp_path, 300)
    found.add_special_tokens({"pad_token": "<pad>", "mask_token": "<mask>"})
    assert found.pad_token_id == SIZE
    return found


def test_special_tokens_in_captions_and_prompts_are_their_characters(tokenizer):
    texts = Texts(tokenizer, tokenizer.eos_token_id, torch.device("cpu"))
    answers = texts.answers(CAPTIONS)
    for ids, mask, caption in zip(answers.ids, answers.mask, CAPTIONS, strict=True):
        kept = ids[mask].tolist()
        assert kept.count(tokenizer.eos_token_id) == 1
        assert kept[-1] == tokenizer.eos_token_id
        assert max(kept) < SIZE, "nothing that the model has no row for"
        assert tokenizer.decode(kept[:-1], skip_special_tokens=True) == f" {caption}"
    assert tokenizer.decode(texts.prompt("Say <eos>.")) == "Instruction: Say <eos>. Output:"


def test_rows_are_paired_by_the_tokens_that_the_models_read(tokenizer, tmp_path):
    other = toy.byte_level_tokenizer(tmp_path / "other", 270)
    for caption in CAPTIONS:
        sizes = []
        for one in (tokenizer, other):
            answers = Texts(one, one.eos_token_id, torch.device("cpu")).answers([caption])
            sizes.append(answers.ids.shape[1] - 1)
        assert answer_pairs(tokenizer, other, f" {caption}")[-1] == tuple(sizes)


def test_a_tokenizer_that_cannot_read_it_otherwise_is_told_of_in_one_line():
    words = {"[EOS]": 0, "a": 1, "red": 2, "[UNK]": 3}
    backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))  # noqa: S106  # a token, no secret
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="[EOS]", unk_token="[UNK]")  # noqa: S106
    texts = Texts(tokenizer, 0, torch.device("cpu"))
    assert texts.answers(["a blue red"]).ids.tolist() == [[1, 3, 2, 0]]
    with pytest.raises(DataError, match=r"' a \[EOS\] red' holds '\[EOS\]'") as caught:
        texts.answers(["a red", "a [EOS] red"])
    assert "\n" not in str(caught.value)


def test_tokens_beyond_the_model_are_refused_only_where_a_text_could_hold_them(tokenizer):
    check_tokenizer("m", tokenizer, SIZE)
    tokenizer.add_tokens(["thing"])
    with pytest.raises(UsageError, match="has 303 tokens, its model 300"):
        check_tokenizer("m", tokenizer, SIZE)
