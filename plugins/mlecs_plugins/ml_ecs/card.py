"""The card of ML-ECS, put together from its components, so that an ablation's card says what is left of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mlecs_bench.api import AlgorithmInfo, Exchange, Needs
from mlecs_plugins.ml_ecs.algorithm import MlEcs
from mlecs_plugins.ml_ecs.options import MlEcsOptions

Component = Literal["round", "contrast", "ccl", "amt", "mma", "se-ccl", "transfer"]


@dataclass(frozen=True)
class Sentences:
    """What the card says about one component, and what travels only because of it."""

    reproduced: tuple[str, ...]
    readings: tuple[str, ...] = ()
    deviations: tuple[str, ...] = ()
    exchanges: tuple[Exchange, ...] = ()


COMPONENTS: dict[Component, Sentences] = {
    "ccl": Sentences(
        reproduced=(
            "CCL (Eq. 11): L_lb on the device's view of the public data plus the contrast of its modalities with the "
            "server's fused representations of the same samples, which are constants.",
        ),
        readings=(
            "Anchors are paired with public samples by sample id; the ids travel once, in round 1.",
            "Encoders rest in CCL, as in the first stage of the authors' script; connector and LoRA are trained. With "
            "-o ccl_trains=encoder,connector,lora encoders are trained too; the paper does not say.",
            "A device without modalities minimises L_lb alone in CCL, and where modalities come and go those that a "
            "device holds in the round are aligned.",
        ),
        exchanges=(
            Exchange("fused", "down", "fused representations s' of the public training samples", "n' d_s"),
            Exchange("ids", "down", "their sample ids, in round 1 only", "n'"),
        ),
    ),
    "contrast": Sentences(
        reproduced=("The volume of Eq. 5-6 as the measure of how far a sample's vectors are from agreeing.",),
        readings=(
            "The temperature is 1, since the paper prints none: -o temperature=0.07 is where GRAM starts.",
            "Negatives are the other samples of the batch; the matched pair is in the denominator too.",
            "Vectors are normalised before the volume; a missing modality is left out of the set.",
            "d_h and d_s are equal, as a volume needs vectors of one width; the authors' script has 64 and 256.",
        ),
        deviations=(
            "Eq. 7-8 are printed without a minus sign and with one index on both sides, so that nothing is "
            "contrasted; the loss here is the cross-entropy over -V/τ in both directions, as in GRAM.",
            "The Gram matrix is smoothed by 1e-7, without which equal vectors have no finite gradient.",
        ),
    ),
    "amt": Sentences(
        reproduced=("AMT (Eq. 12): L_lb on the private data trains encoders and LoRA; the connector rests.",),
        readings=("The authors' script trains the connector too: -o amt_trains=encoder,lora,connector.",),
    ),
    "mma": Sentences(
        reproduced=(
            "MMA (Eq. 13): A and B of the devices' LoRA, each averaged with weights |M_j| / Σ |M_i|; the number of "
            "samples plays no part.",
        ),
        readings=(
            "If no device has a modality, the last φ^slm stays.",
            "Where modalities come and go, |M_j| is that of the round.",
        ),
    ),
    "se-ccl": Sentences(
        reproduced=(
            "SE-CCL (Eq. 15-16): the server's LLM and its SLM learn on the public data from one forward pass, the "
            "LLM with the contrast of its modalities, of which one drawn at random is the anchor.",
        ),
        readings=(
            "The anchor modality is drawn for every batch, and anchors get gradients at the server.",
            "The server's SLM reads the server's fused representation, without gradient, through a soft-prompt "
            "generator of its own that is trained with φ^slm; the paper gives it no connector.",
            "Whether the server's encoders are trained is left open: -o server_trains_encoders, else the profile.",
        ),
    ),
    "transfer": Sentences(
        reproduced=("Knowledge transfer both ways (Eq. 14): teacher first, teachers get no gradient, weight 1.",),
        readings=(
            "Pooling is over the vocabulary, top K and a rest bin; between tokenizers that split words differently, "
            "logits are pooled by sorted probabilities, not by token.",
            "Positions are aligned where both models have read the same text.",
            "Eq. 15-16 sum L_lb and knowledge transfer alike over samples and positions, so both weigh 1 per token; "
            "L_lb is a mean over tokens, hence the transfer is a mean over all aligned positions of a batch. "
            "-o kt_reduction=sum sums over the positions of a sample, as Eq. 14 is printed, and averages over samples.",
        ),
    ),
    "round": Sentences(
        reproduced=("The order of Algorithm 1; devices are overwritten with the server's φ^slm (l. 18).",),
        readings=(
            "φ^slm, which Algorithm 1 sends at the end of a round, travels with the next broadcast; round 1 sends "
            "none, as all parties start from the same.",
        ),
        deviations=(
            "The paper's text is followed and not the authors' published script, which computes neither contrast nor "
            "transfer, uploads the LoRA of the public stage and starts every stage from new weights.",
        ),
        exchanges=(
            Exchange("lora", "both", "LoRA of the SLM: φ_j up, φ^slm down", "r * sum(in + out)"),
            Exchange("scalar", "up", "|M_j|", "1"),
        ),
    ),
}


def card_without(*components: Component) -> AlgorithmInfo:
    """Return the card of ML-ECS, silent about `components`, which are left out."""
    kept = [sentences for name, sentences in COMPONENTS.items() if name not in components]
    return AlgorithmInfo(
        title="ML-ECS",
        summary="contrastive alignment to the server's fused anchors, private tuning, modality-aware LoRA "
        "aggregation, and knowledge transfer between the server's LLM and SLM",
        paper="arXiv 2602.14107",
        build=MlEcs,
        options=MlEcsOptions,
        exchanges=tuple(e for sentences in kept for e in sentences.exchanges),
        server_score=True,
        needs=lambda _: Needs(
            public_stage=True, same=("lora",), one_width="ccl" not in components, copes=("absence", "drift")
        ),
        reproduced=tuple(s for sentences in kept for s in sentences.reproduced),
        readings=tuple(s for sentences in kept for s in sentences.readings),
        deviations=tuple(s for sentences in kept for s in sentences.deviations),
    )
