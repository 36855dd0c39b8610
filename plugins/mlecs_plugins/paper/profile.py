"""The profile `paper`: the models and settings of the paper and of its authors' script."""

from __future__ import annotations

from mlecs_bench.api import LearningRates, Profile, hookimpl

AUTHORS_RATE = 2e-4  # authors' script: one rate for all parts
PAPER = Profile(
    name="paper",
    summary="the paper's: MiniLLM-gpt2-760M (gpt2-large) on devices, GPT-J-6B at the server, bfloat16, a GPU",
    slm="MiniLLM/MiniLLM-gpt2-760M",  # paper, section 4.1, which prints 720M; the published model is 760M
    llm="EleutherAI/gpt-j-6b",  # paper, section 4.1
    encoders=None,
    soft_tokens=16,  # authors' script
    encoder_width=64,  # authors' script
    hidden_width=256,  # d_h = d_s: a volume needs vectors of one width
    fused_width=256,  # authors' script
    learning_rates=LearningRates(encoder=AUTHORS_RATE, connector=AUTHORS_RATE, lora=AUTHORS_RATE),
    rounds=5,  # authors' script
    steps=10,  # authors' script
    batch_size=4,  # authors' script
    tiny=False,
    torch_device="cuda",
    dtype="bfloat16",  # the authors' script has float16, whose range needs a loss scale
    generation_batch=32,
    bertscore="roberta-large",  # the literature's
)


@hookimpl
def mlecs_profile() -> Profile:
    """Return the profile."""
    return PAPER
