"""The profile `pocket`: a real language model of 135 M parameters on devices and server, for any CPU or small GPU.

The rule of its rounds, which no ranking enters: Standalone has plateaued, or a seed of ML-ECS, which has the most
stages, takes a quarter of an hour of one CPU thread. The second decides. One thread takes 0.9 s (UR-FALL) to
1.4 s (captions) for a step of a device and 2.6 to 3.2 s for one of SE-CCL; so 5 rounds of 10 steps with three devices
are 7 to 9 minutes of training, and the answers to 64 test samples a party 2 to 6 more. `docs/real-models.md` has the
figures, and the variant with another language model at the server.
"""

from __future__ import annotations

from mlecs_bench.api import LearningRates, Profile, hookimpl

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""Apache-2.0; without a hub, `mlecs-bench models import` makes a folder for --slm and --llm of a package."""
AUTHORS = "authors' script"
TIME = "ours: the time budget of the profile"
POCKET = Profile(
    name="pocket",
    summary="SmolLM2-135M-Instruct on devices and server, random small encoders, any CPU",
    slm=SMOLLM2,
    llm=SMOLLM2,
    encoders=None,
    soft_tokens=16,
    encoder_width=64,
    hidden_width=256,
    fused_width=256,
    learning_rates=LearningRates(encoder=2e-4, connector=2e-4, lora=2e-4),
    rounds=5,
    steps=10,
    batch_size=4,
    tiny=False,
    generation_batch=32,
    test_limit=64,
    bertscore_samples=64,
    sources={
        "slm": "ours: the smallest instructed model that a laptop trains",
        "llm": "ours: the same, so that one is loaded",
        "encoders": "ours: they start at random",
        "soft_tokens": AUTHORS,
        "encoder_width": AUTHORS,
        "hidden_width": "ours: d_h = d_s, since a volume needs vectors of one width",
        "fused_width": AUTHORS,
        "learning_rates": f"{AUTHORS}: one rate for all parts",
        "rounds": f"{AUTHORS}, and the time budget of the profile",
        "steps": AUTHORS,
        "batch_size": AUTHORS,
        "generation_batch": "ours: changes no number",
        "test_limit": TIME,
        "bertscore_samples": TIME,
    },
)


@hookimpl
def mlecs_profile() -> Profile:
    """Return the profile."""
    return POCKET
