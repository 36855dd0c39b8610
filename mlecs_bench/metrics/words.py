"""Words of texts in any script, by rules that need no download and no language: what Rouge counts outside ASCII."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

RULES = "words of letters, marks and digits of any script (NFKC, casefolded), single characters where none are spaced"
"""What the rules are, in one line."""
VERSION = "words 1"
"""The version of the rules: a change of them changes scores."""
UNSPACED = ("Han", "Hiragana", "Katakana", "Bopomofo", "Yi", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan")
"""Scripts that put no spaces between words."""


def words(text: str) -> list[str]:
    """Return the words of a text in lower case, in their order.

    A word is a run of letters, the marks on them, and digits; each character of the scripts in `UNSPACED` is a word of
    its own, with its marks. Of a text whose words are ASCII these are the words that rouge-score finds.
    """
    found: list[str] = _pattern().findall(_plain(text))
    return found


def has_words(text: str) -> bool:
    """Return whether `words` finds anything in a text."""
    return _pattern().search(_plain(text)) is not None


def _plain(text: str) -> str:
    """Return a text in one spelling: compatibility forms, case and invisible format characters taken away."""
    if text.isascii():
        return text.lower()
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return "".join(c for c in folded if unicodedata.category(c) != "Cf")


@cache
def _pattern() -> Any:
    import regex  # the standard module knows neither marks nor scripts

    unspaced = "".join(rf"\p{{scx={script}}}" for script in UNSPACED)
    character = rf"[[{unspaced}]&&[\p{{L}}\p{{N}}]]"
    spaced = rf"[[\p{{L}}\p{{N}}]--[{unspaced}]]"
    return regex.compile(rf"{character}\p{{M}}*|{spaced}(?:{spaced}|\p{{M}})*", regex.V1)


def unseen(references: Sequence[str], sees: Callable[[str], bool]) -> int:
    """Return of how many `references` a scorer sees nothing although they are not empty."""
    return sum(bool(text.strip()) and not sees(text) for text in references)
