"""Checks that an algorithm survives any federation that its needs do not exclude."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any

from mlecs_bench.errors import UsageError
from mlecs_bench.testing import toy
from mlecs_bench.testing.trial import Held, Subject, blaming, expect_finite
from mlecs_bench.testing.verdict import fail

OTHER_RANK = 3
OTHER_WIDTH = 12
TINY_RATE = 1e-9


def _any_sets(_held: Held) -> bool:
    return True


def _one_each(held: Held) -> bool:
    return all(len(names) == 1 for names in held) and len(set(held)) == len(held)


def _none_one_all(held: Held) -> bool:
    return sorted(map(len, held)) == [0, 1, 3]


def _survives(subject: Subject, what: str, wanted: Any = _any_sets, **changes: Any) -> None:
    """Run with `changes` and look for numbers that are not finite."""
    expected = f"an algorithm survives {what}"
    with blaming(expected, "treat what is not there as absent, not as an error"):
        trial = subject.run(subject.federation(wanted, **({"steps": 1} | changes)))
    expect_finite(trial, expected)


def one_round(subject: Subject) -> None:
    """A run of a single round works."""
    _survives(subject, "a single round", rounds=1)


def one_device(subject: Subject) -> None:
    """A federation of one device works."""
    _survives(subject, "a federation of one device", n_devices=1)


def twenty_devices(subject: Subject) -> None:
    """A federation of twenty devices works."""
    samples = toy.samples(toy.N_SAMPLES_MANY)
    _survives(subject, "twenty devices", n_devices=20, samples=samples)


def one_modality(subject: Subject) -> None:
    """Devices with one modality each, all different, work."""
    _survives(subject, "devices that hold one modality each", _one_each, rho=0.3)


def no_modality(subject: Subject) -> None:
    """Devices without any modality work, beside others and alone."""
    _survives(subject, "a device without modalities", _none_one_all, min_modalities=0, rho=0.4)
    _survives(subject, "devices without modalities", min_modalities=0, rho=TINY_RATE, n_devices=2)


def mixed_backbones(subject: Subject) -> None:
    """Devices of two language models work, unless the needs name parts whose shapes follow from them."""
    _mixed(subject, "language models", {"lora", "soft_prompt"}, device_slm={"d01": toy.other_slm()})


def mixed_ranks(subject: Subject) -> None:
    """Devices of two LoRA ranks work, unless the needs name "lora" and not any_rank."""
    parts = set() if subject.needs.any_rank else {"lora"}
    _mixed(subject, "LoRA ranks", parts, device_rank={"d01": OTHER_RANK})


def mixed_encoders(subject: Subject) -> None:
    """Devices of two encoder widths work, unless the needs name the encoder or the projector."""
    _mixed(subject, "encoder widths", {"encoder", "projector"}, device_encoder_width={"d01": OTHER_WIDTH})


def _mixed(subject: Subject, what: str, parts: AbstractSet[str], **changes: Any) -> None:
    """Run with devices that differ in `what`; where the needs name one of `parts`, expect a refusal instead."""
    averaged = sorted(parts & set(subject.needs.same))
    wanted = f"devices may differ in {what} unless Needs.same names a part whose shapes follow from them"
    try:
        federation = subject.federation(**({"steps": 1} | changes))
    except UsageError:
        if averaged:
            return
        raise
    if averaged:
        fail(
            f"Needs.same names '{averaged[0]}', so {what} may not differ",
            "the federation was built",
            "report it to mlecs-bench",
        )
    with blaming(wanted, "name every part that is averaged or overwritten in Needs(same=…)"):
        trial = subject.run(federation)
    expect_finite(trial, wanted)
