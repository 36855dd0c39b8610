"""What texts are written with: which scripts, and whether they are English as far as their letters tell."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

ENGLISH = 0.01
"""Texts are taken for English while at most this share of their words has a letter outside a-z.

English names and loanwords stay below it (café, naïve); German, French and Spanish have several in a hundred.
"""
_SCRIPT_OF_NAME = {
    "CJK": "Han", "IDEOGRAPHIC": "Han", "FULLWIDTH": "Latin", "HALFWIDTH": "Katakana", "EXTENDED": "Arabic",
}  # fmt: skip  # where the first word of a character's name is not its script


@dataclass(frozen=True)
class Writing:
    """What texts are written with.

    `scripts` are those of the letters and decimal digits outside ASCII, in alphabetical order; none where all words are
    of a-z, A-Z and 0-9. `english`: the texts are English as far as letters can tell.
    """

    scripts: tuple[str, ...] = ()
    english: bool = True

    @property
    def ascii_words(self) -> bool:
        """Are all words of a-z, A-Z and 0-9? Quotation marks, dashes and emoji make no word."""
        return not self.scripts

    @property
    def text(self) -> str:
        """The scripts as a sentence names them."""
        return " and ".join(self.scripts) if len(self.scripts) < 3 else ", ".join(self.scripts)


ENGLISH_WRITING = Writing()
"""English in ASCII."""


def writing_of(texts: Iterable[str]) -> Writing:
    """Return what `texts` are written with."""
    scripts: set[str] = set()
    words = foreign = 0
    for text, n in Counter(texts).items():
        in_text = text.split()
        words += n * len(in_text)
        if not text.isascii():
            found = [{script_of(c) for c in word if _is_foreign(c)} for word in in_text]
            foreign += n * sum(map(bool, found))
            scripts.update(*found)
    return Writing(tuple(sorted(scripts)), english=foreign <= ENGLISH * words)


def _is_foreign(character: str) -> bool:
    return not character.isascii() and (character.isalpha() or character.isdecimal())


def script_of(letter: str) -> str:
    """Return the script of a letter or a digit, such as Cyrillic."""
    first = unicodedata.name(letter, "UNKNOWN").split()[0].partition("-")[0]
    return _SCRIPT_OF_NAME.get(first, first.capitalize())
