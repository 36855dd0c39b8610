"""The loss traces of every algorithm on the toy models, pinned: a change of any formula, stream or order shows here.

Three devices, three rounds, four steps per stage, seed 27. To regenerate after a change that is meant to move numbers:

    python tests/test_traces.py > traces.json && mv traces.json tests/

Say in the changelog what moved the numbers.
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
from mlecs_bench.data.samples import Samples

pytestmark = pytest.mark.slow

Trace = list[dict[str, dict[str, float]]]
TOLERANCE = 1e-5
"""Relative; other vector units add up in another order, which moves these numbers by up to 4e-7."""

TRACES: dict[str, Trace] = json.loads(Path(__file__).with_name("traces.json").read_text())


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
def test_loss_trace_is_the_pinned_one_and_a_second_run_in_this_process_agrees_in_every_bit(algo, profile, samples):
    (one, state), (other, state_again) = (trace_of(algo, profile, samples) for _ in range(2))
    measured, pinned = flat(one), flat(TRACES[algo])
    assert measured.keys() == pinned.keys()
    wrong = {k: (v, pinned[k]) for k, v in measured.items() if not math.isclose(v, pinned[k], rel_tol=TOLERANCE)}
    assert not wrong
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
    sys.stdout.write(json.dumps(short, indent=1) + "\n")


if __name__ == "__main__":
    main()
