"""The profile `small`: small published models; the paper's settings otherwise."""

from __future__ import annotations

import dataclasses

from mlecs_bench.api import Profile, hookimpl
from mlecs_plugins.paper.profile import PAPER

SMALL = dataclasses.replace(
    PAPER,
    name="small",
    summary="distilgpt2 on devices, gpt2-medium at the server, bfloat16, a GPU; else as the paper's",
    slm="distilbert/distilgpt2",
    llm="openai-community/gpt2-medium",
    sources={**PAPER.sources, "slm": "ours: a small GPT-2", "llm": "ours: a larger GPT-2"},
)


@hookimpl
def mlecs_profile() -> Profile:
    """Return the profile."""
    return SMALL
