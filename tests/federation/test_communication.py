"""The two shares of the tables, against sums done by hand on the true sizes of the paper's models."""

from __future__ import annotations

import itertools
import json
from fractions import Fraction

import numpy as np
import pytest

from mlecs_bench.federation.communication import communication
from mlecs_bench.federation.ledger import Ledger, Transfer

GPT2_LARGE = 774_030_080
LORA_R8 = 4_055_040  # rank 8 on c_attn and c_proj of gpt2-large
LORA_R24 = 3 * LORA_R8
CONNECTOR = 5_325_632  # fusion, soft-prompt generator and three projectors at the authors' sizes
FUSED = 2_420 * 256  # VAST's public part times d_s
IDS = 2_420


def devices(n):
    return [f"d{j:02d}" for j in range(n)]


def entry(t, device, direction, kind, params, size=4):
    return Transfer(t, device, direction, kind, params, params * size)


def ml_ecs(rounds, n):
    """Return what ML-ECS sends: down fused in rounds 1..T, LoRA in 2..T+1, ids once; up LoRA and one number."""
    rows = []
    for device in devices(n):
        rows.append(entry(1, device, "down", "ids", IDS, 8))
        for t in range(1, rounds + 1):
            rows.append(entry(t, device, "down", "fused", FUSED))
            rows.append(entry(t + 1, device, "down", "lora", LORA_R8))
            rows.append(entry(t, device, "up", "lora", LORA_R8))
            rows.append(entry(t, device, "up", "scalar", 1, 8))
    return Ledger(rows)


def symmetric(rounds, n, **kinds):
    """Return what an averaging algorithm sends: the same kinds up in every round and down after it."""
    rows = [
        entry(t + (direction == "down"), device, direction, kind, params)
        for device in devices(n)
        for t in range(1, rounds + 1)
        for direction in ("up", "down")
        for kind, params in kinds.items()
    ]
    return Ledger(rows)


def random_ledger(seed):
    generator = np.random.default_rng(seed)
    grid = itertools.product((1, 2, 3), devices(3), ("down", "up"), ("encoder", "fused", "ids", "lora", "scalar"))
    rows = [
        entry(t, device, direction, kind, int(generator.integers(1, 1000)))
        for t, device, direction, kind in grid
        if generator.random() < 0.5
    ]
    return Ledger(rows)


def sizes(n, params):
    return dict.fromkeys(devices(n), params)


def ratios(ledger, rounds, n, device_params=GPT2_LARGE):
    block = communication(ledger, rounds, sizes(n, device_params))
    return {name: ratio["value"] for name, ratio in block["ratios"].items()}


def test_ml_ecs_has_the_shares_worked_out_by_hand():
    for n, rounds in itertools.product([1, 3, 20], [1, 5]):
        shares = ratios(ml_ecs(rounds, n), rounds, n)
        assert shares["one_way"] == pytest.approx(float(Fraction(LORA_R8 + FUSED, GPT2_LARGE)), rel=1e-12)
        full = Fraction(rounds * (2 * LORA_R8 + FUSED + 1) + IDS, rounds * GPT2_LARGE)
        assert shares["full"] == pytest.approx(float(full), rel=1e-12)


def test_the_papers_percentage_is_lora_one_way_plus_fused():
    assert round(100 * ratios(ml_ecs(5, 3), 5, 3)["one_way"], 3) == 0.604
    assert round(100 * ratios(ml_ecs(5, 3), 5, 3, 720_000_000)["one_way"], 2) == 0.65


def test_fedmllm_sends_twice_and_fedilora_2_6_times_what_ml_ecs_sends():
    ours = ratios(ml_ecs(5, 3), 5, 3)["one_way"]
    fedmllm = ratios(symmetric(5, 3, lora=LORA_R8, aux=CONNECTOR), 5, 3)["one_way"]
    fedilora = ratios(symmetric(5, 3, lora=LORA_R24), 5, 3)["one_way"]
    assert round(fedmllm / ours, 2) == 2.01
    assert round(fedilora / ours, 2) == 2.60


def test_a_symmetric_exchange_counts_half_in_the_one_way_column():
    for rounds, n in [(1, 1), (5, 3), (2, 20)]:
        shares = ratios(symmetric(rounds, n, encoder=900, lora=100), rounds, n, 10_000)
        assert shares["one_way"] == pytest.approx(0.1, rel=1e-12)
        assert shares["full"] == pytest.approx(0.2, rel=1e-12)


def test_one_way_is_the_larger_direction_of_each_kind_not_of_the_whole():
    rows = [entry(1, "d00", "up", "encoder", 300), entry(1, "d00", "down", "encoder", 100)]
    rows += [entry(1, "d00", "up", "lora", 50), entry(1, "d00", "down", "lora", 70)]
    assert ratios(Ledger(rows), 1, 1, 1000) == {"one_way": pytest.approx(0.37), "full": pytest.approx(0.52)}


def test_every_device_is_measured_by_its_own_model():
    rows = [entry(1, "d00", "up", "lora", 10), entry(1, "d01", "up", "lora", 30), entry(1, "d01", "down", "lora", 10)]
    block = communication(Ledger(rows), 1, {"d00": 100, "d01": 1000})
    found = {name: ratio["value"] for name, ratio in block["ratios"].items()}
    assert found == {
        "one_way": pytest.approx((10 / 100 + 30 / 1000) / 2),
        "full": pytest.approx((10 / 100 + 40 / 1000) / 2),
    }


def test_ids_and_scalars_count_in_full_only():
    ledger = Ledger([entry(1, "d00", "down", "ids", 30), entry(1, "d00", "up", "scalar", 10)])
    assert ratios(ledger, 1, 1, 1000) == {"one_way": 0, "full": pytest.approx(0.04)}


def test_an_algorithm_that_sends_nothing_has_shares_of_zero():
    block = communication(Ledger(), 5, sizes(3, GPT2_LARGE))
    assert {name: ratio["value"] for name, ratio in block["ratios"].items()} == {"one_way": 0, "full": 0}
    assert block["entries"] == block["by_round"] == []


def test_the_shares_of_any_ledger_equal_a_loop():
    for seed in range(10):
        ledger = random_ledger(seed)
        params = {"d00": 1000, "d01": 500, "d02": 2000}
        paper = full = 0.0
        for device, kind in itertools.product(params, ("encoder", "fused", "ids", "lora", "scalar")):
            rows = [e for e in ledger.entries if (e.device, e.kind) == (device, kind)]
            up, down = (sum(e.params for e in rows if e.direction == way) for way in ("up", "down"))
            full += (up + down) / params[device] / 9
            paper += 0 if kind in ("ids", "scalar") else max(up, down) / params[device] / 9
        block = communication(ledger, 3, params)
        shares = {name: ratio["value"] for name, ratio in block["ratios"].items()}
        assert shares == {"one_way": pytest.approx(paper), "full": pytest.approx(full)}
        assert 0 < shares["one_way"] < shares["full"]


def test_entries_list_every_kind_and_direction_once_with_its_sums():
    for seed in range(10):
        ledger = random_ledger(seed)
        expected = {}
        for e in ledger.entries:
            row = expected.setdefault((e.kind, e.direction), [0, 0, 0])
            row[0] += e.params
            row[1] += e.bytes
            row[2] += 1
        listed = communication(ledger, 3, sizes(3, 1000))["entries"]
        assert {(r["kind"], r["direction"]): [r["params"], r["bytes"], r["messages"]] for r in listed} == expected
        assert len(listed) == len(expected)


def test_the_rounds_list_every_round_and_sum_to_the_total():
    for seed in range(10):
        ledger = random_ledger(seed)
        rows = communication(ledger, 3, sizes(3, 1000))["by_round"]
        assert [r["round"] for r in rows] == sorted({e.round for e in ledger.entries})
        assert sum(r["up_params"] + r["down_params"] for r in rows) == sum(e.params for e in ledger.entries)
        assert sum(r["up_bytes"] + r["down_bytes"] for r in rows) == sum(e.bytes for e in ledger.entries)
        first = rows[0]
        assert first["up_params"] == sum(e.params for e in ledger.entries if (e.round, e.direction) == (1, "up"))


def test_the_order_of_transfers_changes_nothing():
    ledger = random_ledger(1)
    assert communication(Ledger(reversed(ledger.entries)), 3, sizes(3, 1000)) == communication(
        ledger, 3, sizes(3, 1000)
    )


def test_the_block_is_json_and_says_what_its_shares_mean():
    block = communication(ml_ecs(5, 3), 5, sizes(3, GPT2_LARGE))
    assert json.loads(json.dumps(block, allow_nan=False)) == block
    assert (block["rounds"], block["n_devices"], block["device_params"]) == (5, 3, sizes(3, GPT2_LARGE))
    assert "one way" in block["ratios"]["one_way"]["definition"]
    assert "both directions" in block["ratios"]["full"]["definition"]
