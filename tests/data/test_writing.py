"""What texts are written with, by hand."""

from __future__ import annotations

from mlecs_bench.data.writing import ENGLISH_WRITING, Writing, writing_of

ENGLISH = "a man in a red coat walks his dog along the quiet beach"


def test_scripts_are_those_of_letters_outside_ascii():
    for text, scripts in (
        (ENGLISH, ()),
        ("“Quoted” – m² of 🙂 ❤️ …", ()),
        ("ein Mädchen", ("Latin",)),
        ("Ёлка и ελιά", ("Cyrillic", "Greek")),
        ("カメラを持つ人", ("Han", "Hiragana", "Katakana")),
        ("नमस्ते", ("Devanagari",)),
        ("١٢٣ من", ("Arabic",)),
        ("한국어 ｆｕｌｌ", ("Hangul", "Latin")),
    ):
        assert writing_of([text]).scripts == scripts, text
        assert writing_of([text]).ascii_words == (not scripts)


def test_texts_are_english_while_one_word_in_a_hundred_has_other_letters():
    hundred = [ENGLISH.replace("coat", "café"), *[ENGLISH] * 10]
    assert sum(len(text.split()) for text in hundred) >= 100
    assert writing_of(hundred) == Writing(("Latin",), english=True)
    assert writing_of(hundred[:2]) == Writing(("Latin",), english=False)
    assert writing_of(["une voiture rouge s'arrête", "la forêt est déjà là"]) == Writing(("Latin",), english=False)
    assert writing_of([]) == writing_of([ENGLISH]) == ENGLISH_WRITING


def test_the_order_and_the_number_of_equal_texts_are_nothing_but_weights():
    texts = ["déjà vu", ENGLISH, ENGLISH, "привет"]
    assert writing_of(texts) == writing_of(reversed(texts))
