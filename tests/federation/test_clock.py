"""Laws of simulated time: a round takes as long as its slowest device, to the second of a count by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

import toy
from mlecs_bench.errors import UsageError
from mlecs_bench.federation.build import Builder
from mlecs_bench.federation.clock import Clock, Pace, clock_of, paces
from mlecs_bench.models.flops import step_flops
from mlecs_bench.plan.conditions import condition
from mlecs_bench.plan.conditions_network import PRESETS
from mlecs_bench.testing import toy as made
from mlecs_bench.testing.steps import Listening

IDS = ("d00", "d01", "d02")
FLOPS = {"d00": 1000, "d01": 3000, "d02": 2000}


def run(profile, samples, network=None, flops=FLOPS, **changes):
    """Return the outcome of two rounds of Multi-FedAvg, and the bytes of every message by device, round and way."""
    plan = toy.toy_plan(profile, toy.needs_of("multi-fedavg"), rounds=2, steps=2, network=network, **changes)
    own = plan.conditions.network
    clock = None if network is None else Clock(own, paces(own, 27, IDS), flops)
    heard = Listening()
    federation = toy.copied_federation(plan, 27, samples)
    outcome = toy.run_toy("multi-fedavg", federation, samples, evaluator=toy.Unscored(), carry=heard, clock=clock)
    sizes = {
        (s.device, s.round, s.direction): sum(t.numel() * t.element_size() for t in s.message.tensors.values())
        + 8 * len(s.message.scalars)
        for s in heard.sent
    }
    return outcome, sizes


@pytest.mark.slow
def test_a_round_takes_what_its_slowest_device_takes_and_nothing_else_changes(profile, samples):
    network = {"down": 0.8, "up": 0.4, "latency": 0.5, "speed": 1e-5, "server": 1.5, "devices": {"d02": {"up": 0.1}}}
    outcome, sizes = run(profile, samples, network)
    total = 0.0
    for t, row in enumerate(outcome.metrics["rounds"], start=1):
        by_hand = max(
            (0.5 + sizes[id_, t, "down"] / 1e5)
            + 2 * FLOPS[id_] / 1e4
            + (0.5 + sizes[id_, t, "up"] / (0.1 if id_ == "d02" else 0.4) / 1.25e5)
            for id_ in IDS
        )
        assert row["time"] == pytest.approx(by_hand + 1.5, rel=1e-12)
        assert row["flops"] == 2 * sum(FLOPS.values())
        total += row["time"]
    last = max(0.5 + sizes[id_, 3, "down"] / 1e5 for id_ in IDS)
    assert outcome.cost["simulated"]["seconds"] == pytest.approx(total + last, rel=1e-12)
    assert outcome.cost["simulated"]["flops"] == 4 * sum(FLOPS.values())
    usual, _ = run(profile, samples)
    rows = [{k: v for k, v in row.items() if k not in ("time", "flops")} for row in outcome.metrics["rounds"]]
    assert usual.metrics == {**outcome.metrics, "rounds": rows}
    assert (usual.comm, usual.attended, outcome.attended) == (outcome.comm, [], [])
    assert "simulated" not in usual.cost


@pytest.mark.slow
def test_an_upload_after_the_deadline_is_dropped_and_the_server_waits_no_longer(profile, samples):
    network = {"latency": 1.0, "speed": 1e-5, "deadline": 2.5}  # two steps take 0.2, 0.6 and 0.4 s
    outcome, _ = run(profile, samples, network)
    assert [row["lost"] for row in outcome.attended] == [{"d01": "late"}] * 2
    assert [row["time"] for row in outcome.metrics["rounds"]] == [2.5, 2.5]
    assert outcome.cost["steps"]["private"] == 12, "it has trained, and keeps what it has learnt"
    in_time, _ = run(profile, samples, {**network, "deadline": 2.6 + 1e-9})
    assert [row["lost"] for row in in_time.attended] == [{}] * 2
    gone = {"participation": {"away": {"d01": "1-"}}}
    away, _ = run(profile, samples, **gone)
    merged = [o.metrics["rounds"][-1]["losses"]["d00"] for o in (outcome, away)]
    assert merged[0] == merged[1], "the others learn as without it"


def test_paces_follow_the_law_and_the_table():
    ids = [f"d{j:02d}" for j in range(2000)]
    network = condition("network", {"preset": "flash", "speed": 2, "devices": {"d3": {"speed": 9, "latency": 0.1}}})
    found = paces(network, 27, ids)
    for name in ("down", "up"):
        median, sigma = (PRESETS["flash"][key] for key in (name, f"{name}_sigma"))
        logs = np.log([getattr(pace, name) for pace in found.values()])
        assert stats.kstest(logs, "norm", args=(math.log(median), sigma)).pvalue > 0.01
    assert {pace.speed for id_, pace in found.items() if id_ != "d03"} == {2.0}
    assert (found["d03"].speed, found["d03"].latency, found["d04"].latency) == (9, 0.1, 0.0)
    alone = paces(condition("network", {"preset": "flash"}), 27, ids)
    assert [p.up for p in alone.values()] == [p.up for p in found.values()], "a law has no say in another's draws"
    assert Pace(None, None, 0.0, None).download(10**9) + Pace(None, None, 0.0, None).compute(10**9) == 0.0


def test_flops_are_counted_on_a_device_that_leaves_nothing_behind(profile, samples):
    plan = toy.toy_plan(profile, toy.needs_of("multi-fedavg"), network="4g", rho=0.6)
    builder = Builder(plan, 27, samples, made.registry())
    clock = clock_of(builder)
    for id_ in plan.device_ids:
        device = builder.device(id_)
        rows = device.train.rows[: device.training.batch_size]
        wanted = step_flops(device.model, device.train.batch(rows), device.prompt, device.train.targets(rows))
        assert clock.step_flops[id_] == wanted
        assert clock.flops(id_, {"private": 2, "public": 3}) == 5 * wanted
        builder.dismiss(device)
    assert clock_of(Builder(toy.toy_plan(profile), 27, samples, made.registry())) is None
    slow = toy.toy_plan(profile, toy.needs_of("multi-fedavg"), network={"speed": 1e-3, "deadline": 1})
    with pytest.raises(
        UsageError, match=r"^network: no upload arrives before the deadline of 1 s, as the fastest device"
    ):
        clock_of(Builder(slow, 27, samples, made.registry()))
