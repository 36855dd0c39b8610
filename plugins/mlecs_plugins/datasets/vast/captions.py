"""Summaries of synthetic clips: three clauses in a style, each slot named by one of its three synonyms.

A style is an order of clauses, their templates and a liking for one synonym. The benchmark's summaries are written in
one style (`CLIP_STYLE`); the texts that the embedded models were pretrained on are written in four (`POOL_WEIGHTS`),
and that one is the rarest: a model must adapt, and can.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .words import SLOT_NAMES, SLOTS

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Style:
    """A way to write: alternatives for the whole text, and which synonym (0, 1, 2) is liked.

    The first template is used in `first_share` of the texts, the others share the rest.
    """

    templates: tuple[str, ...]
    liked: int
    first_share: float = 0.5


STYLES = (
    Style(
        (
            "a {colour} {object} is {action} at the {place} to {sound} ; a {tone} {voice} talk about {topic} .",
            "{sound} as a {colour} {object} is {action} at the {place} ; a {tone} {voice} talk about {topic} .",
        ),
        liked=0,
    ),
    Style(
        (
            "{topic} report , {tone} , {voice} speaker ; {sound} in the {place} and {object} , {colour} , {action} .",
            "{sound} in the {place} ; {topic} report , {tone} , {voice} speaker , and {object} , {colour} , {action} .",
        ),
        liked=0,
    ),
    Style(
        (
            "the {place} has {sound} and {voice} words on {topic} , all {tone} , some {object} {action} in {colour} .",
            "some {object} {action} in {colour} , the {place} has {sound} and {voice} words on {topic} , all {tone} .",
        ),
        liked=1,
    ),
    Style(
        (
            "{colour} {object} {action} near {place} , {sound} , {voice} voice on {topic} , {tone} .",
            "{sound} , {colour} {object} {action} near {place} , {voice} voice on {topic} , {tone} .",
        ),
        liked=2,
        first_share=0.7,
    ),
)
CLIP_STYLE = 3
"""The style of the benchmark's summaries."""

POOL_WEIGHTS = (0.3, 0.3, 0.3, 0.1)
"""The share of each style in the pretraining texts."""

LIKED_SHARE = 0.8
"""How often a style's liked synonym is used; the other two share the rest."""


def write_captions(
    slots: Mapping[str, np.ndarray], generator: np.random.Generator, style_weights: tuple[float, ...] | None = None
) -> list[str]:
    """Return one summary per clip whose slot values (name → indices (n,)) are given.

    `style_weights` are the shares of the styles; None writes all in `CLIP_STYLE`.
    """
    import numpy as np

    n = len(slots[SLOT_NAMES[0]])
    weights = style_weights or tuple(float(i == CLIP_STYLE) for i in range(len(STYLES)))
    style_of = generator.choice(len(STYLES), size=n, p=weights)
    template_u = generator.random(n)
    synonym_u = generator.random((n, len(SLOT_NAMES)))
    rest_u = generator.integers(1, 3, size=(n, len(SLOT_NAMES)))
    liked = np.array([style.liked for style in STYLES])[style_of][:, None]
    synonym = np.where(synonym_u < LIKED_SHARE, liked, (liked + rest_u) % 3)
    captions = []
    for i in range(n):
        words = {name: SLOTS[name][slots[name][i]][synonym[i, s]] for s, name in enumerate(SLOT_NAMES)}
        text = _template(STYLES[style_of[i]], template_u[i]).format(**words)
        captions.append(text.replace(" ,", ",").replace(" .", ".").replace(" ;", ";"))
    return captions


def _template(style: Style, u: float) -> str:
    """Return the template that the uniform number `u` picks."""
    if u < style.first_share or len(style.templates) == 1:
        return style.templates[0]
    others = style.templates[1:]
    return others[int((u - style.first_share) / (1.0 - style.first_share) * len(others))]
