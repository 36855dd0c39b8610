"""What of a plugin's source can change a number: all but comments, docstrings, blank lines and how lines are broken.

The text is read token by token and not as a syntax tree, whose printed form differs between versions of Python: a file
has the same digest under all of them.
"""

from __future__ import annotations

import hashlib
import io
import token
import tokenize
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

LAYOUT = (token.COMMENT, token.NL, token.ENCODING, token.ENDMARKER, token.TYPE_COMMENT)
"""Tokens that change nothing."""
BLOCKS = (token.NEWLINE, token.INDENT, token.DEDENT)
"""Tokens that end a statement or begin and end a block, however wide the indentation is."""


def files_digest(files: Sequence[Path]) -> str:
    """Return the sha256 of the names of some Python files and of what in them can change a number."""
    digest = hashlib.sha256(b"tokens\0")
    for path in files:
        digest.update(path.name.encode() + b"\0" + _digest(path.read_bytes()))
    return digest.hexdigest()


@lru_cache(maxsize=2048)
def _digest(source: bytes) -> bytes:
    """Return the sha256 of what is effective in a source; a plugin is loaded many times in a process."""
    return hashlib.sha256(effective(source)).digest()


def effective(source: bytes) -> bytes:
    """Return a source without comments, docstrings and layout; one that cannot be read as Python as it is.

    Where a source names `__doc__` or getdoc, its docstrings stay: it may do something with them.
    """
    try:
        lines = list(_statements(source))
    except (tokenize.TokenError, SyntaxError, UnicodeDecodeError):
        return source
    if b"__doc__" not in source and b"getdoc" not in source:
        lines = [line for line in lines if not _is_text_alone(line)]
    return "\n".join("\0".join(line) for line in lines).encode("utf-8", "surrogateescape")


def _statements(source: bytes) -> Iterator[list[str]]:
    """Yield the tokens of every logical line; a token that opens or closes a block stands on a line of its own."""
    text = io.TextIOWrapper(io.BytesIO(source), tokenize.detect_encoding(io.BytesIO(source).readline)[0]).read()
    line: list[str] = []
    for kind, words in _tokens(text):
        if kind not in BLOCKS:
            line.append(words)
            continue
        if line:
            yield line
            line = []
        if kind != token.NEWLINE:
            yield [token.tok_name[kind]]
    if line:
        yield line


def _tokens(text: str) -> Iterator[tuple[int, str]]:
    """Yield kind and text of every token but those of layout; a text with values in it, such as f"{x}", is one token.

    Until Python 3.11 the tokenizer gives it whole, from 3.12 on in parts.
    """
    rows = list(io.StringIO(text))
    depth, start = 0, (0, 0)
    for found in tokenize.generate_tokens(io.StringIO(text).readline):
        name = token.tok_name[found.type]
        if name.endswith("STRING_START"):
            start = found.start if depth == 0 else start
            depth += 1
        elif name.endswith("STRING_END"):
            depth -= 1
            if depth == 0:
                yield token.STRING, _between(rows, start, found.end)
        elif depth == 0 and found.type not in LAYOUT:
            yield found.type, found.string


def _between(rows: Sequence[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    """Return the text from (row, column) to (row, column), rows counted from 1."""
    (first, left), (last, right) = start, end
    if first == last:
        return rows[first - 1][left:right]
    return rows[first - 1][left:] + "".join(rows[first : last - 1]) + rows[last - 1][:right]


def _is_text_alone(line: Sequence[str]) -> bool:
    """Is a statement a text and nothing else, as docstrings are?"""
    return len(line) == 1 and line[0][-1:] in "'\"" and line[0][:1].lower() in "'\"ru"
