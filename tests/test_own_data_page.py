"""docs/own-data.md, followed word by word as the guide for plugins is: its commands run in order in an empty folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import fabricated
from test_plugin_guide import BLOCK, first_line_that_is_missing

PAGE = Path(__file__).parent.parent / "docs" / "own-data.md"


@pytest.mark.nightly
@pytest.mark.timeout(300)
def test_the_page_of_own_data_can_be_followed_to_its_end(tmp_path, warm):
    shell, output = fabricated.Shell(tmp_path, warm), ""
    blocks = BLOCK.findall(PAGE.read_text())
    assert {kind for _, kind, _ in blocks} == {"bash", "text", ""}
    for code, kind, text in blocks:
        if kind == "bash":
            done = shell.run(text)
            assert done.returncode == int(code or 0), f"{text}\n{done.stdout}"
            output = done.stdout
        elif kind == "text":
            missing = first_line_that_is_missing(text, output)
            assert missing is None, f"the page shows '{missing}', which was not printed:\n{output}"


def test_the_page_of_own_data_names_every_entry_and_kind_of_a_manifest():
    from mlecs_plugins.datasets.jsonl.layout import FIELDS, SETTINGS

    shown = set(re.findall(r"`([a-z_]+)[`:]", re.sub(r"\s+", " ", PAGE.read_text())))
    assert {*FIELDS, *SETTINGS, *(name for names in SETTINGS.values() for name in names)} <= shown
