"""The digest of a plugin's code: the same for the same program, another for any other."""

from __future__ import annotations

import pytest

from mlecs_bench.doors.source_code import effective, files_digest

PROGRAM = b"""import os
def step(a, b):
    text = f"{a!r} # {b}"
    if a:
        return (a + b) * 0.5
    return text
class Options:
    mu: float = 0.1
"""
SAID = b'''# -*- coding: utf-8 -*-
"""What it does.

In two paragraphs.
"""

import os  # for paths


def step(
    a,
    b,  # the other one
):
        "Add."
        text = f"{a!r} # {b}"  # no comment inside
\t
        if a:
            # half
            return (a
                    + b) * 0.5
        return text


class Options:
    r"""Options."""

    mu: float = 0.1
    """Strength."""
'''


def test_comments_docstrings_blank_lines_and_broken_lines_change_nothing():
    said = SAID.replace(b"b,  # the other one", b"b")
    assert effective(said) == effective(PROGRAM)
    assert effective(said.replace(b"\n", b"\r\n")) == effective(PROGRAM)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"0.5", b"0.25"),
        (b"# {b}", b"#  {b}"),  # inside a text it is no comment
        (b"!r", b"!s"),
        (b"    return text", b"        return text"),
        (b"mu", b"nu"),
        (b"a + b", b"b + a"),
        (b"if a:", b"if not a:"),
        (b"import os\n", b""),
    ],
)
def test_anything_else_changes_it(old, new):
    assert old in PROGRAM
    assert effective(PROGRAM.replace(old, new, 1)) != effective(PROGRAM)


def test_docstrings_count_in_a_source_that_may_read_them():
    one, other = (b'def f():\n    "%s"\nprompt = f.__doc__\n' % text for text in (b"a", b"b"))
    assert effective(one) != effective(other)
    assert effective(one.replace(b"__doc__", b"x")) == effective(other.replace(b"__doc__", b"x"))


def test_what_is_no_python_counts_as_it_is():
    for source in (b"def f(:", b"x = '", b"# coding: latin-1\nx = '\xe9'", b"\xff\xfe"):
        assert effective(source) == effective(source)
        assert effective(source) != effective(source + b"1")


def test_names_of_files_count_and_the_digest_is_pinned(tmp_path):
    """It stands in records: another version of Python has to find the same."""
    first, second = tmp_path / "a.py", tmp_path / "b.py"
    first.write_bytes(PROGRAM)
    second.write_bytes(PROGRAM)
    assert files_digest([first]) == "99edde4b5155712863aecbf3c81926878b8cd92a4d9d3e3a573851dbd9fb3626"
    assert len({files_digest(files) for files in ([first], [second], [first, second])}) == 3
