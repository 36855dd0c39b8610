"""The profile `paper`: the models and settings of the paper and of its authors' script."""

from __future__ import annotations

from mlecs_bench.api import LearningRates, Profile, hookimpl

AUTHORS = "authors' script"
PAPER = Profile(
    name="paper",
    summary="the paper's: MiniLLM-gpt2-760M (gpt2-large) on devices, GPT-J-6B at the server, bfloat16, a GPU",
    slm="MiniLLM/MiniLLM-gpt2-760M",
    llm="EleutherAI/gpt-j-6b",
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
    torch_device="cuda",
    dtype="bfloat16",
    generation_batch=32,
    bertscore="roberta-large",
    sources={
        "slm": "paper, section 4.1, which prints 720M; the published model is 760M",
        "llm": "paper, section 4.1",
        "encoders": "ours: they start at random",
        "soft_tokens": AUTHORS,
        "encoder_width": AUTHORS,
        "hidden_width": "ours: d_h = d_s, since a volume needs vectors of one width",
        "fused_width": AUTHORS,
        "learning_rates": f"{AUTHORS}: one rate for all parts",
        "rounds": AUTHORS,
        "steps": AUTHORS,
        "batch_size": AUTHORS,
        "torch_device": "ours: the models need a GPU",
        "dtype": f"ours: {AUTHORS} has float16, whose range needs a loss scale",
        "generation_batch": "ours: changes no number",
        "bertscore": "the literature's",
    },
)


@hookimpl
def mlecs_profile() -> Profile:
    """Return the profile."""
    return PAPER
