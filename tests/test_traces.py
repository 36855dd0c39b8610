"""The loss traces of every algorithm on the toy models, pinned: a change of any formula, stream or order shows here.

Three devices, three rounds, four steps per stage, seed 27. To regenerate after a change that is meant to move numbers:

    python tests/test_traces.py

and replace TRACES by what it prints. Say in the changelog what moved the numbers.
"""

from __future__ import annotations

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

pytestmark = pytest.mark.slow

Trace = list[dict[str, dict[str, float]]]
TOLERANCE = 1e-5
"""Relative; other vector units add up in another order, which moves these numbers by up to 4e-7."""

TRACES: dict[str, Trace] = {
    "ml-ecs": [
        {
            "d00": {"ccl": 7.0654175, "volume_matched": 0.75491095, "volume_mismatched": 0.76131564, "amt": 5.6614833},
            "d01": {"ccl": 7.0744005, "volume_matched": 0.8842141, "volume_mismatched": 0.88776553, "amt": 5.6576208},
            "d02": {"ccl": 7.0678487, "volume_matched": 0.75876486, "volume_mismatched": 0.75492585, "amt": 5.6635249},
            "server": {"se-ccl": 12.680756},
        },
        {
            "d00": {"ccl": 6.9926465, "volume_matched": 0.78900874, "volume_mismatched": 0.78686291, "amt": 5.5860205},
            "d01": {"ccl": 6.9942682, "volume_matched": 0.90498674, "volume_mismatched": 0.91026229, "amt": 5.5854293},
            "d02": {"ccl": 6.9986266, "volume_matched": 0.79835898, "volume_mismatched": 0.79977727, "amt": 5.5890533},
            "server": {"se-ccl": 12.539246},
        },
        {
            "d00": {"ccl": 6.9373748, "volume_matched": 0.81748986, "volume_mismatched": 0.81830233, "amt": 5.5516787},
            "d01": {"ccl": 6.9281286, "volume_matched": 0.92575699, "volume_mismatched": 0.92586708, "amt": 5.5446396},
            "d02": {"ccl": 6.9320731, "volume_matched": 0.77999008, "volume_mismatched": 0.78395909, "amt": 5.5540795},
            "server": {"se-ccl": 12.366367},
        },
    ],
    "standalone": [
        {
            "d00": {"private": 5.6915566},
            "d01": {"private": 5.6866115},
            "d02": {"private": 5.6975583},
            "server": {"server": 5.6164192},
        },
        {
            "d00": {"private": 5.6590526},
            "d01": {"private": 5.6561623},
            "d02": {"private": 5.6631862},
            "server": {"server": 5.5335784},
        },
        {
            "d00": {"private": 5.6341804},
            "d01": {"private": 5.6323094},
            "d02": {"private": 5.6393862},
            "server": {"server": 5.4571013},
        },
    ],
    "multi-fedavg": [
        {"d00": {"private": 5.6915566}, "d01": {"private": 5.6866115}, "d02": {"private": 5.6975583}, "server": {}},
        {"d00": {"private": 5.6593492}, "d01": {"private": 5.6574492}, "d02": {"private": 5.6653175}, "server": {}},
        {"d00": {"private": 5.6344004}, "d01": {"private": 5.6327221}, "d02": {"private": 5.6410166}, "server": {}},
    ],
}


def trace_of(algo: str, profile: Any, samples: Samples) -> tuple[Trace, dict[str, torch.Tensor]]:
    """Return the mean losses (and volumes) round → party → stage of a run, and the state it leaves."""
    federation = toy.toy_federation(profile, samples, needs=toy.needs_of(algo), rounds=3, steps=4, rho=0.6)
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
