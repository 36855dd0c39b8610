"""The entry point of ML-ECS: its card."""

from __future__ import annotations

from mlecs_bench.api import AlgorithmInfo, Exchange, Needs, hookimpl
from mlecs_plugins.ml_ecs.algorithm import MlEcs
from mlecs_plugins.ml_ecs.options import MlEcsOptions


@hookimpl
def mlecs_algorithm() -> AlgorithmInfo:
    """Return the card of ML-ECS."""
    return AlgorithmInfo(
        title="ML-ECS",
        summary="contrastive alignment to the server's fused anchors, private tuning, modality-aware LoRA "
        "aggregation, and knowledge transfer between the server's LLM and SLM",
        paper="arXiv 2602.14107",
        build=MlEcs,
        options=MlEcsOptions,
        exchanges=(
            Exchange("fused", "down", "fused representations s' of the public training samples", "n' d_s"),
            Exchange("ids", "down", "their sample ids, in round 1 only", "n'"),
            Exchange("lora", "both", "LoRA of the SLM: φ_j up, φ^slm down", "r * sum(in + out)"),
            Exchange("scalar", "up", "|M_j|", "1"),
        ),
        server_score=True,
        needs=lambda _: Needs(public_stage=True, same=("lora",)),
        readings=(
            "Eq. 7-8 are printed without a minus sign and with one index on both sides; the loss here is the "
            "cross-entropy over -V/τ in both directions, as in GRAM.",
            "Vectors are normalised before the volume; a missing modality is left out of the set.",
            "AMT trains encoders and LoRA as printed; the authors' script also trains the connector: "
            "-o amt_trains=encoder,lora,connector.",
            "Knowledge transfer sums over aligned positions (Eq. 14) and averages over the samples of a batch; beside "
            "a cross-entropy that averages over tokens it weighs heavily, and costs the server's score on tiny models.",
            "Between tokenizers that split words differently, logits are pooled by sorted probabilities, not by token.",
        ),
    )
