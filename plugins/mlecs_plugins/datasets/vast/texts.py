"""Texts as word ids, without a word list: every word is hashed into a fixed range, so nothing is fitted on data.

Source: Weinberger et al., "Feature hashing for large scale multitask learning", ICML 2009 (without the signs: the ids
are rows of a table of vectors).
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import lru_cache

from mlecs_plugins.datasets.vast.card import VOCABULARY


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case: letters and digits of any script, composed (NFC)."""
    return re.findall(r"\w+", unicodedata.normalize("NFC", text).lower())


@lru_cache(maxsize=1 << 16)
def word_id(word: str) -> int:
    """Return the id of a word: 1 + (the first 8 bytes of its sha256, as a big-endian number) mod 2047."""
    return 1 + int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big") % (VOCABULARY - 1)


def text_ids(text: str, length: int) -> list[int]:
    """Return the ids of the first `length` words of a text, padded with 0 to `length`."""
    ids = [word_id(word) for word in words_of(text)[:length]]
    return ids + [0] * (length - len(ids))
