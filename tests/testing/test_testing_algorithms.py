"""The checks of algorithms: a correct one passes all of them, and for each there is one that breaks it."""

from __future__ import annotations

import pytest

import contract_toys as toys
from mlecs_bench.doors.hookspecs import AlgorithmInfo, Control, Exchange, Needs
from mlecs_bench.doors.registry import Loaded
from mlecs_bench.testing import Check, CheckFailed, checks_of_info, run_checks
from mlecs_bench.testing.checks import ALGORITHM_CHECKS

BROKEN: dict[str, tuple[AlgorithmInfo, str]] = {
    "card": (toys.card(summary=""), "the card needs its 'summary'"),
    "options": (toys.card(options=toys.Unexplained), "'rate' lacks help"),
    "needs": (toys.card(needs=lambda _: Needs(same="lora")), "Needs.same is a tuple of parts, but it is 'lora'"),
    "four-steps": (toys.card(toys.ThreeSteps), "has the step aggregate, but ThreeSteps has none"),
    "deterministic": (toys.card(toys.ReadsGlobalStream), "the message from d00 in round 1: its scalars"),
    "global-streams-untouched": (
        toys.card(toys.MovesGlobalStream),
        "local_update of d00 in round 1 moved torch's global",
    ),
    "stateless": (toys.card(toys.KeepsOnItself), "keep what lasts in device.memory"),
    "device-order": (toys.card(toys.TrustsOrder), "the message from d00 in round 1: its scalars"),
    "over-bytes": (toys.card(toys.TrustsTensorOrder), "the state server:memory/first"),
    "resumable": (toys.card(toys.KeepsOnParty), "the message to d00 in round 3: lora/"),
    "declared-messages": (toys.card(toys.SendsUndeclared), "the message from d00 in round 1 holds 'fused'"),
    "finite-messages": (toys.card(toys.SendsNan), "the message from d00 in round 1 holds NaN"),
    "counted-messages": (toys.card(toys.SendsUncounted), "going up the ledger counted"),
    "received-messages": (toys.card(toys.KeepsReceived), "keep tensor.clone()"),
    "own-data": (toys.card(toys.ReadsForeignTable), "(the rest was overwritten), but the message from d00"),
    "own-modalities": (toys.card(toys.ReadsForeignModality), "(the rest was overwritten), but the message from d0"),
    "absent-samples": (toys.card(toys.ReadsAbsentSamples), "scalar 'n_j' is nan"),
    "only-own-state": (toys.card(toys.TouchesNeighbour), "local_update of d01 in round 1 changed d00:model/lora"),
    "counted-steps": (toys.card(toys.StepsUncounted), "local_update of d00 in round 1 took 3 and counted 2"),
    "budget-paper": (toys.card(toys.TrainsLess), "with --budget paper d00 took 1 of 2 private steps in round 1"),
    "budget-equal": (toys.card(toys.TrainsNoLonger), "with --budget equal d00 took 2 of 4 private steps in round 1"),
    "server-score": (toys.card(server_score=True), "server_score is True and the model did not change"),
    "frozen-backbones": (toys.card(toys.TouchesBackbone), "transformer.wte.weight changed"),
    "one-round": (toys.card(toys.NeedsTwoRounds), "ZeroDivisionError: division by zero"),
    "one-device": (toys.card(toys.NeedsTwoDevices), "IndexError: list index out of range"),
    "twenty-devices": (toys.card(toys.NeedsShortIds), "KeyError: 'd10'"),
    "one-modality": (toys.card(toys.NeedsTwoModalities), "IndexError: tuple index out of range"),
    "no-modality": (toys.card(toys.NeedsAModality), "IndexError: tuple index out of range"),
    "mixed-backbones": (
        toys.card(
            toys.sharing("soft_prompt"), needs=lambda _: Needs(), exchanges=(toys.ONLY_PROMPT, *toys.CARD.exchanges)
        ),
        "name every part that is averaged",
    ),
    "mixed-ranks": (
        toys.card(needs=lambda _: Needs(same=("lora",), any_rank=True)),
        "name every part that is averaged",
    ),
    "mixed-encoders": (
        toys.card(
            toys.sharing("encoder"), needs=lambda _: Needs(), exchanges=(toys.ONLY_ENCODER, *toys.CARD.exchanges)
        ),
        "name every part that is averaged",
    ),
    "some-absent": (toys.card(toys.NeedsAllUploads), "KeyError: 'd00'"),
    "device-gone": (toys.card(toys.NeedsEverybodyOnce), "KeyError: 'd00'"),
    "lost-upload": (toys.card(toys.NeedsEveryUpload, exchanges=(*toys.CARD.exchanges[:1], toys.N_J_BOTH)), "is lost"),
    "skipped-round": (toys.card(toys.NeedsRoundOne), "KeyError: 'first'"),
    "absence-repeats": (toys.card(toys.CountsGapOnParty), "stopped in round 3 goes on as if nothing had happened"),
    "returning-modality": (
        toys.card(toys.sharing("encoder"), needs=toys.drifting, exchanges=(toys.ONLY_ENCODER, *toys.CARD.exchanges)),
        "has encoder/text/",
    ),
    "losing-everything": (toys.card(toys.NeedsAModality, needs=toys.drifting), "IndexError: tuple index out of range"),
    "drift-device-order": (toys.card(toys.TrustsOrder, needs=toys.drifting), "(they ran in reverse), but the message"),
    "drift-resumable": (toys.card(toys.KeepsOnParty, needs=toys.drifting), "the message to d00 in round 3: lora/"),
}
"""Check → the card of an algorithm that breaks it, and what its reason says."""

BROKEN_OTHERWISE: list[tuple[str, AlgorithmInfo, str]] = [
    ("card", toys.card(paper=""), 'write "none" if there is no paper'),
    ("card", toys.card(readings="one text"), "'readings' of the card is a tuple of texts"),
    ("card", toys.card(exchanges=(Exchange("lora/x", "up", "m", "s"),)), "its kind is 'lora/x'"),
    ("card", toys.card(exchanges=(Exchange("lora", "up", "", "s"),)), "'lora' lacks meaning or size"),
    ("card", toys.card(exchanges=(*toys.CARD.exchanges, Exchange("lora", "up", "m", "s"))), "'lora' up has more"),
    (
        "card",
        toys.card(control=lambda _: "floor"),
        "control(options) returns a Control or None, but it returned 'floor'",
    ),
    ("card", toys.card(control=lambda _: Control("wall", "a", "b")), "must be one of floor, ceiling, got 'wall'"),
    ("card", toys.card(control=lambda _: Control("floor", "a", "")), "the card needs its 'says'"),
    ("options", toys.card(options=toys.Thawed), "Thawed is not; decorate it with @dataclass(frozen=True)"),
    ("options", toys.card(options=toys.Rounded), "read again, but 'pull' was 0.25 and is 0.125"),
    ("needs", toys.card(needs=lambda _: None), "it returned NoneType"),
    ("needs", toys.card(needs=lambda _: Needs(same=("adapter",))), "soft_prompt, lora, got 'adapter'"),
    ("needs", toys.card(needs=lambda _: Needs(ranks=(0,))), "whole numbers above 0"),
    ("needs", toys.card(needs=lambda _: Needs(setup_steps=-1)), "it is -1"),
    ("needs", toys.card(needs=lambda _: Needs(prompt_suffix="a\nb")), "write one sentence"),
    ("received-messages", toys.card(toys.ChangesReceived), "receive of d00 in round 2 changed lora/"),
    ("own-data", toys.card(toys.ReadsForeignData), "local_update of d00 in round 1 read data of server"),
    ("own-data", toys.card(toys.ReadsTestData), "local_update of d00 in round 1 read the test data of d00"),
    ("own-modalities", toys.card(toys.AsksForForeignModality), "asked for 'audio', which it lacks"),
    ("counted-steps", toys.card(toys.TrainsTooLate), "d00 trained after the last round"),
    (
        "budget-paper",
        toys.card(needs=lambda _: Needs(same=("lora",), public_stage=True)),
        "d00 took 0 of 2 public steps in round 1",
    ),
    (
        "budget-paper",
        toys.card(needs=lambda _: Needs(same=("lora",), pool=True)),
        "d00 took 0 of 4 pooled steps in round 1",
    ),
    ("budget-paper", toys.card(needs=lambda _: Needs(same=("lora",), setup_steps=3)), "server took 0 of 2 setup steps"),
    ("some-absent", toys.card(toys.TrainsLessAlone), "two devices in each of three rounds took 10 of 12 private steps"),
    ("one-device", toys.card(toys.LeavesNan), "the state server:memory/spread holds NaN"),
    ("mixed-backbones", toys.card(needs=lambda _: Needs()), "the run broke with DataError"),
]
"""More ways to break a check."""

FAST = ("card", "options", "needs", "four-steps", "deterministic", "counted-messages", "own-data", "budget-paper")
"""Checks that run nothing, and one of each module that does; the broken algorithms of the others take half a minute."""
STOPS_ALL = {"options", "needs", "four-steps", "finite-messages"}
"""What breaks these stops every run of the algorithm, and with it other checks."""
BREAKS_TOO = {
    "stateless": ["resumable"],
    "over-bytes": ["resumable"],
    "some-absent": ["device-gone", "lost-upload", "absence-repeats"],
    "device-gone": ["lost-upload"],
    "lost-upload": ["skipped-round"],
}
"""What breaks these breaks others, too: a run that goes on has a new algorithm object, a kept reply is bytes, and an
upload that is lost is lost to the server as that of a device that is away."""
MODULE_OF = {function.__name__.replace("_", "-"): function.__module__ for function in ALGORITHM_CHECKS}
"""Check → where it is; its neighbours are about the same matter."""


def checks_by_name(info: AlgorithmInfo) -> dict[str, Check]:
    return {check.name: check for check in checks_of_info(Loaded("broken", info, "toys", "1"))}


@pytest.mark.slow
@pytest.mark.parametrize("check", checks_of_info(Loaded("average", toys.CARD, "toys", "1")), ids=str)
def test_a_correct_algorithm_passes(check):
    check()


def test_there_is_a_broken_algorithm_for_every_check():
    assert list(BROKEN) == list(MODULE_OF)


def cases() -> list[object]:
    rows = [(name, *given) for name, given in BROKEN.items()] + BROKEN_OTHERWISE
    return [
        pytest.param(name, info, reason, id=f"{name}-{reason[:24]}", marks=[] if name in FAST else [pytest.mark.slow])
        for name, info, reason in rows
    ]


@pytest.mark.parametrize(("name", "info", "reason"), cases())
def test_a_broken_algorithm_fails_its_check_in_one_line(name, info, reason):
    with pytest.raises(CheckFailed) as caught:
        checks_by_name(info)[name]()
    message = str(caught.value)
    assert reason in message
    assert "\n" not in message


@pytest.mark.nightly
@pytest.mark.parametrize("name", [name for name in BROKEN if name not in STOPS_ALL])
def test_a_broken_algorithm_passes_the_checks_beside_its_own(name):
    checks = checks_by_name(BROKEN[name][0])
    beside = [n for n in BROKEN if MODULE_OF[n] == MODULE_OF[name] and n != name]
    failed = [verdict.check.name for verdict in run_checks(checks[n] for n in beside) if not verdict.passed]
    assert failed == BREAKS_TOO.get(name, [])
