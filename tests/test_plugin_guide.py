"""docs/plugin-guide.md, followed word by word: its commands run in order, what it shows is what they print and write.

The commands run in a shell in an empty folder, each as it is printed. Only `pip` is not the real one: `pip install -e`
fabricates the metadata that it would write (see fabricated.py), because a test has no network. tox installs the same
projects with pip in its environment `plugins`. And thirty commands import torch once (see warm.py).

A block of text shows lines of the output of the commands before it, in their order; a block of python or toml is an
excerpt of a file of the project that the commands have come to, but for its indentation. A block of commands that ends
with another exit code than 0 says so in a comment.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

import fabricated

GUIDE = Path(__file__).parent.parent / "docs" / "plugin-guide.md"
BLOCK = re.compile(r"(?:<!-- exit code (\d+) -->\n)?^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
LONG = (*(f"mlecs-bench {name}" for name in ("run", "check", "report", "show")), "pytest", "MLECS_BENCH_CSV", "head")
"""Commands that import torch, or need what those have written."""


@dataclass(frozen=True)
class Block:
    kind: str
    text: str
    exit_code: int


def blocks() -> list[Block]:
    return [Block(kind, text, int(code or 0)) for code, kind, text in BLOCK.findall(GUIDE.read_text())]


def words(line: str) -> str:
    return " ".join(line.split())


def first_line_that_is_missing(shown: str, output: str) -> str | None:
    """Return the first line of `shown` that no line of `output` behind the one before it has, spaces apart.

    Three dots in `shown` stand for anything.
    """
    rest = iter([words(line) for line in output.splitlines()])
    for line in filter(None, map(words, shown.splitlines())):
        pattern = re.compile(".*".join(re.escape(part.strip()) for part in line.split("...")))
        if not any(pattern.fullmatch(candidate) for candidate in rest):
            return line
    return None


def is_excerpt(block: str, project: Path) -> bool:
    sources = [path.read_text() for pattern in ("*.py", "*.toml") for path in project.rglob(pattern)]
    return any(textwrap.indent(block, " " * n) in source for source in sources for n in (0, 4, 8, 12))


def follow(shell: fabricated.Shell, skipped: Sequence[str] = ()) -> int:
    """Follow the guide, without commands that start with one of `skipped` and the output of a block that has any.

    Returns how many blocks were checked.
    """
    output: str | None = None
    checked = 0
    for block in blocks():
        if block.kind == "bash":
            lines = block.text.splitlines()
            kept = [line for line in lines if not line.startswith(tuple(skipped))]
            done = shell.run("\n".join(kept))
            assert done.returncode == (block.exit_code if kept == lines else 0), f"{block.text}\n{done.stdout}"
            output = done.stdout if kept == lines else None
        elif block.kind == "text":
            if output is None:
                continue
            missing = first_line_that_is_missing(block.text, output)
            assert missing is None, f"the guide shows '{missing}', which was not printed:\n{output}"
        else:
            assert is_excerpt(block.text, shell.cwd), f"{shell.cwd.name} has no such lines:\n{block.text}"
        checked += 1
    return checked


def test_every_block_is_of_a_kind_that_is_tested():
    found = blocks()
    fences = [line for line in GUIDE.read_text().splitlines() if line.lstrip().startswith("```")]
    assert 2 * len(found) == len(fences)
    assert {block.kind for block in found} == {"bash", "python", "toml", "text"}


def test_the_code_in_the_guide_is_the_code_of_the_project(tmp_path):
    assert follow(fabricated.Shell(tmp_path), skipped=LONG) >= 25


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_guide_can_be_followed_to_its_end(tmp_path, warm):
    assert follow(fabricated.Shell(tmp_path, warm)) == len(blocks())


@pytest.mark.parametrize(
    ("shown", "output", "missing"),
    [
        ("a  b\nc", "x\n a b\ny\nc\n", None),
        ("a ... c ...", "a b c d\n", None),
        ("a", "a b\n", "a"),
        ("a ... c", "a b c d\n", "a ... c"),
        ("c\na", "a\nc\n", "a"),
        ("a\na", "a\n", "a"),
        ("a\n\nb", "a\n", "b"),
    ],
)
def test_text_is_compared_line_by_line_in_order(shown, output, missing):
    assert first_line_that_is_missing(shown, output) == missing
