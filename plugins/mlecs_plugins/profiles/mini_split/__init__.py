"""The profile `mini-split`: as `mini`, but its language models split words differently, to put transfer to the test."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from mlecs_bench.api import Profile, hookimpl
from mlecs_plugins.profiles.mini import MINI

FOLDER = Path(__file__).parent
MINI_SPLIT = dataclasses.replace(
    MINI,
    name="mini-split",
    summary="as mini, but SLM and LLM have tokenizers of their own, which agree in a third of their ids",
    llm=str(FOLDER / "llm"),
    sources={**MINI.sources, "llm": "ours: trained by tools/build_mini with a tokenizer of its own"},
)


@hookimpl
def mlecs_profile() -> Profile:
    """Return the profile."""
    return MINI_SPLIT
