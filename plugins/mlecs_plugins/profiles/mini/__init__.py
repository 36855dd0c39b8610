"""The profile `mini`: tiny pretrained backbones and encoders that ship with the package, for a CPU."""

from __future__ import annotations

from pathlib import Path

from mlecs_bench.api import LearningRates, Profile, hookimpl

FOLDER = Path(__file__).parent
OURS = "ours: a seed in minutes on one core"
MEASURED = "ours, measured: rows that send nothing, by the criteria of tools/regime.py (docs/regime.md)"
MINI = Profile(
    name="mini",
    summary="embedded: GPT-2 type SLM (d96, 2 layers), GPT-J type LLM (d128, 4 layers), tiny pretrained encoders; few "
    "training samples (128 of a device, 64 public), so that data and not steps are scarce",
    slm=str(FOLDER / "slm"),
    llm=str(FOLDER / "llm"),
    encoders=FOLDER / "encoders.safetensors",
    soft_tokens=8,
    encoder_width=64,
    hidden_width=64,
    fused_width=64,
    learning_rates=LearningRates(encoder=1e-4, connector=2e-3, lora=2e-3),
    rounds=10,
    steps=20,
    batch_size=8,
    tiny=True,
    private_limit=128,
    public_limit=64,
    bertscore_samples=64,
    words=FOLDER / "words.txt",
    sources={
        "slm": "ours: trained by tools/build_mini",
        "llm": "ours: trained by tools/build_mini",
        "encoders": "ours: trained by tools/build_mini",
        "soft_tokens": OURS,
        "encoder_width": "authors' script",
        "hidden_width": OURS,
        "fused_width": "ours: d_h = d_s, since a volume needs vectors of one width",
        "learning_rates": "ours: chosen with Standalone alone",
        "rounds": "ours, measured: Standalone has plateaued by then, criterion (d) of tools/regime.py",
        "steps": OURS,
        "batch_size": OURS,
        "private_limit": MEASURED,  # data, not steps, limit a device
        "public_limit": MEASURED,
        "bertscore_samples": "ours: the time budget of the profile",
    },
)


@hookimpl
def mlecs_profile() -> Profile:
    """Return the profile."""
    return MINI
