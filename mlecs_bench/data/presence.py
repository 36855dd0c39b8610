"""Which modalities single samples have: a device's sensor may be silent now and then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlecs_bench.seeds import rng

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mlecs_bench.data.parts import Part
    from mlecs_bench.data.samples import Samples

    Bools = NDArray[np.bool_]
    Uniforms = NDArray[np.float64]


def draw_absent(
    ids: Sequence[str], there: Bools, held: Bools, rates: Sequence[float], seed: int, *, fill: bool
) -> Bools:
    """Draw which modalities samples of devices lack, (n, modalities) bool.

    Sample i keeps modality m with probability rates[m], from a stream of its own that its id names: neither device nor
    split nor other samples have a say in it. `there` (n, modalities) says what the sample has, `held` (modalities,)
    what its device holds. With `fill` a sample of which the device would see nothing is drawn again until it sees
    something, by one draw from the law that this leads to.
    """
    import numpy as np

    n_modalities = len(rates)
    draws: Uniforms = np.array([rng(seed, "sample masks", id_).random(2 * n_modalities + 1) for id_ in ids])
    draws = draws.reshape(len(ids), 2 * n_modalities + 1)
    kept = draws[:, :n_modalities] < np.asarray(rates)
    seen = there & held
    empty = seen.any(axis=1) & ~(kept & seen).any(axis=1)
    if fill and empty.any():
        again = _not_empty(seen[empty] * np.asarray(rates), draws[empty, n_modalities:])
        kept[empty] |= again
    return there & ~kept


def _not_empty(chances: Uniforms, draws: Uniforms) -> Bools:
    """Return Bernoulli draws with `chances` (n, modalities), given that one of each row succeeds.

    `draws` (n, 1 + modalities) are uniform. The first is which modality succeeds first: m with chances[m] times the
    chance that all before it fail. Those behind it are free.
    """
    import numpy as np

    failing = np.cumprod(np.concatenate([np.ones((len(chances), 1)), 1 - chances[:, :-1]], axis=1), axis=1)
    firsts = np.cumsum(chances * failing, axis=1)
    first = (firsts <= draws[:, :1] * firsts[:, -1:]).sum(axis=1)
    places = np.arange(chances.shape[1])
    free: Any = (places > first[:, None]) & (draws[:, 1:] < chances)
    found: Bools = free | (places == first[:, None])
    return found


@dataclass(frozen=True)
class Thinning:
    """What devices' samples lack, by modality for all samples (n,) bool, and how often they have what they might."""

    absent: Mapping[str, Bools]
    shares: Mapping[str, float]


def thinning(
    samples: Samples,
    parts: Sequence[Part],
    held: Sequence[Sequence[str]],
    rates: Mapping[str, float],
    seed: int,
    *,
    fill: bool,
) -> Thinning:
    """Draw what the samples of devices with these parts and modalities lack; those of nobody and public ones are whole.

    `shares` are those of a modality among the samples that have it and whose device holds it.
    """
    import numpy as np

    names = samples.manifest.modality_names
    presence = np.stack([samples.presence[name] for name in names], axis=1)
    absent, might = np.zeros_like(presence), np.zeros_like(presence)
    for part, own in zip(parts, held, strict=True):
        rows = np.array([*part.train, *part.test], dtype=np.int64)
        held_here = np.array([name in own for name in names])
        ids = [samples.ids[row] for row in rows]
        absent[rows] = draw_absent(ids, presence[rows], held_here, [rates[name] for name in names], seed, fill=fill)
        might[rows] = presence[rows] & held_here
    n, kept = might.sum(axis=0), (might & ~absent).sum(axis=0)
    shares = {name: int(kept[m]) / int(n[m]) for m, name in enumerate(names) if n[m]}
    return Thinning({name: absent[:, m] for m, name in enumerate(names)}, shares)
