"""The loss traces of every algorithm on the toy models, pinned: a change of any formula, stream or order shows here.

Three devices, three rounds, four steps per stage, seed 27, at rates that move the losses well beyond the tolerance. To regenerate after a change that is meant to move numbers:

    python tests/test_traces.py

and replace TRACES by what it prints. Say in the changelog what moved the numbers.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

import toy
from mlecs_bench.data import Samples
from mlecs_bench.profiles import LearningRates

pytestmark = pytest.mark.slow

Trace = list[dict[str, dict[str, float]]]
TOLERANCE = 1e-5
"""Relative; other processors and libraries add up in another order."""

TRACES: dict[str, Trace] = {
    "ml-ecs": [
        {
            "d00": {"ccl": 7.0364624, "volume_matched": 0.7395469, "volume_mismatched": 0.74666059, "amt": 5.5768281},
            "d01": {"ccl": 7.0423819, "volume_matched": 0.87655884, "volume_mismatched": 0.88013041, "amt": 5.5805284},
            "d02": {"ccl": 7.0368572, "volume_matched": 0.75971889, "volume_mismatched": 0.75743461, "amt": 5.5834301},
            "server": {"se-ccl": 12.545492},
        },
        {
            "d00": {"ccl": 6.9251539, "volume_matched": 0.53449589, "volume_mismatched": 0.54961932, "amt": 5.5503273},
            "d01": {"ccl": 6.92711, "volume_matched": 0.85127592, "volume_mismatched": 0.85842943, "amt": 5.5453607},
            "d02": {"ccl": 6.9434422, "volume_matched": 0.63558966, "volume_mismatched": 0.62463152, "amt": 5.5411972},
            "server": {"se-ccl": 12.367603},
        },
        {
            "d00": {"ccl": 6.9034673, "volume_matched": 0.56415963, "volume_mismatched": 0.58979529, "amt": 5.5312755},
            "d01": {"ccl": 6.902364, "volume_matched": 0.79814762, "volume_mismatched": 0.82379258, "amt": 5.523647},
            "d02": {"ccl": 6.9222312, "volume_matched": 0.78461266, "volume_mismatched": 0.78040683, "amt": 5.5306824},
            "server": {"se-ccl": 12.248108},
        },
    ],
    "standalone": [
        {
            "d00": {"private": 5.6633625},
            "d01": {"private": 5.6595922},
            "d02": {"private": 5.6621768},
            "server": {"server": 5.5456396},
        },
        {
            "d00": {"private": 5.5822586},
            "d01": {"private": 5.5764081},
            "d02": {"private": 5.5924333},
            "server": {"server": 5.4051245},
        },
        {
            "d00": {"private": 5.5598032},
            "d01": {"private": 5.5477904},
            "d02": {"private": 5.5594494},
            "server": {"server": 5.3571651},
        },
    ],
    "multi-fedavg": [
        {"d00": {"private": 5.6633625}, "d01": {"private": 5.6595922}, "d02": {"private": 5.6621768}, "server": {}},
        {"d00": {"private": 5.5808995}, "d01": {"private": 5.5768889}, "d02": {"private": 5.5828367}, "server": {}},
        {"d00": {"private": 5.5605551}, "d01": {"private": 5.5487239}, "d02": {"private": 5.5581598}, "server": {}},
    ],
}


def trace_of(algo: str, profile: Any, samples: Samples) -> tuple[Trace, dict[str, torch.Tensor]]:
    """Return the mean losses (and volumes) round → party → stage of a run, and the state it leaves."""
    fast = dataclasses.replace(profile, learning_rates=LearningRates(encoder=5e-3, connector=5e-3, lora=1e-2))
    federation = toy.toy_federation(fast, samples, rounds=3, steps=4, public_stage=algo == "ml-ecs", rho=0.6)
    outcome = toy.run_toy(algo, federation, samples)
    rows = [{party: row["losses"][party] for party in sorted(row["losses"])} for row in outcome.metrics["rounds"]]
    return rows, toy.state_of(federation)


def flat(trace: Trace) -> dict[str, float]:
    """Return a trace as one mapping."""
    return {
        f"round {t} {party} {stage}": value
        for t, row in enumerate(trace, start=1)
        for party, stages in row.items()
        for stage, value in stages.items()
    }


@pytest.mark.parametrize("algo", list(toy.ALGORITHMS))
def test_loss_trace_is_the_pinned_one(algo, profile, samples):
    measured, pinned = flat(trace_of(algo, profile, samples)[0]), flat(TRACES[algo])
    assert measured.keys() == pinned.keys()
    wrong = {k: (v, pinned[k]) for k, v in measured.items() if not math.isclose(v, pinned[k], rel_tol=TOLERANCE)}
    assert not wrong


@pytest.mark.parametrize("algo", list(toy.ALGORITHMS))
def test_two_runs_in_one_process_agree_in_every_bit(algo, profile, samples):
    (one, state), (other, state_again) = (trace_of(algo, profile, samples) for _ in range(2))
    assert one == other
    assert not toy.differing(state, state_again)


def main() -> None:
    """Print the traces as they are now."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        profile, prepared = toy.make_profile(Path(name) / "models"), toy.make_prepared(Path(name) / "data")
        samples = Samples.open(prepared)
        traces = {algo: trace_of(algo, profile, samples)[0] for algo in toy.ALGORITHMS}
    short = json.loads(json.dumps(traces), parse_float=lambda text: float(f"{float(text):.8g}"))
    sys.stdout.write(f"TRACES: dict[str, Trace] = {json.dumps(short, indent=4)}\n")


if __name__ == "__main__":
    main()
