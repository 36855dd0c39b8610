"""Texts cut into sentences by a few rules that need no download."""

from __future__ import annotations

import re

RULES = "sentences end at a line break, or at . ! ? before a capital or a digit but for initials and titles; rules 1"
"""What the rules are, in one line, and their version: a change of them changes scores."""
TITLES = frozenset({
    "mr", "mrs", "ms", "dr", "prof", "st", "mt", "ft", "jr", "sr", "gen", "col", "lt", "sgt", "capt", "cmdr", "rev",
    "hon", "gov", "sen", "rep", "vs", "cf", "fig", "eq", "approx",
})  # fmt: skip  # words
"""Words whose full stop ends no sentence."""
BEFORE_NUMBERS = frozenset({"no", "nos", "vol", "ch", "pp", "p", "sec"})
"""Words whose full stop ends no sentence where a digit follows."""

_END = re.compile(r"""[.!?…]+["'”’)\]]*\s+(?=["'“‘(\[]*(?P<next>[^\W_a-z]))""")
_LAST_WORD = re.compile(r"[^\s\"'“‘(\[]*$")


def sentences(text: str) -> list[str]:
    """Return the sentences of a text in their order, without the space around them; none is empty.

    A sentence ends at a line break, and behind `.`, `!`, `?` or `…`, closing quotes and brackets included, where space
    and then a capital or a digit follow. A full stop behind a title (Dr.), a single letter but I, or letters with
    points between them (U.S.) ends none, nor does one behind words such as No. before a digit.
    """
    return [sentence for line in text.splitlines() for sentence in _of_line(line)]


def _of_line(line: str) -> list[str]:
    found, start = [], 0
    for end in _END.finditer(line):
        if end["next"].islower() or _is_abbreviation(line[start : end.start()], end[0].strip(), end["next"]):
            continue
        found.append(line[start : end.end()].strip())
        start = end.end()
    return [sentence for sentence in [*found, line[start:].strip()] if sentence]


def _is_abbreviation(before: str, mark: str, following: str) -> bool:
    """Does the mark behind these words belong to the last of them?"""
    if mark != ".":
        return False
    match = _LAST_WORD.search(before)
    word = match[0] if match else ""
    if len(word) == 1:
        return word.isalpha() and word != "I"
    if re.fullmatch(r"(?:[^\W\d_]\.)+[^\W\d_]", word):
        return True
    return word.lower() in TITLES or (word.lower() in BEFORE_NUMBERS and following.isdigit())
