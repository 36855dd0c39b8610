"""Laws of counting without weights: it equals, tensor by tensor, what the ledger of a real run measures."""

from __future__ import annotations

import dataclasses
import json
from functools import cache

import pytest
import torch

import toy
from mlecs_bench.cli.main import main
from mlecs_bench.doors.profile import LoraSettings
from mlecs_bench.doors.registry import Loaded, Registry
from mlecs_bench.errors import PluginError
from mlecs_bench.execution.counting import count_transmitted
from mlecs_bench.federation.build import build_federation
from mlecs_bench.federation.ledger import Ledger
from mlecs_bench.federation.messages import Message
from mlecs_bench.models.backbone import Backbone
from mlecs_bench.models.loading import BaseSettings
from mlecs_bench.models.outline import BackboneOutline, backbone_shape
from mlecs_bench.report.transmission import Counted, transmission_json, transmission_text
from mlecs_bench.testing.installed import DATASET, installed

REGISTRY = Registry.installed()
PAPER = REGISTRY.profile("paper").info
METHODS = [name for name in toy.ALGORITHMS if "/" not in name]
"""An ablation overrides single steps of ML-ECS; what it sends is counted as ML-ECS's is."""
GPT2_LARGE, GPT_J = 774_030_080, 6_050_882_784
LORA_R8 = 4_055_040


@pytest.fixture
def sent(monkeypatch):
    """Everything that any ledger counts: round, device, direction, then name → shape and dtype, and scalars."""
    log: list[tuple] = []
    record = Ledger.record

    def logging(self, message, device, direction, round_):
        shapes = {name: (tuple(t.shape), t.dtype) for name, t in message.tensors.items()}
        log.append((round_, device, direction, shapes, sorted(message.scalars)))
        return record(self, message, device, direction, round_)

    monkeypatch.setattr(Ledger, "record", logging)
    return log


def test_counted_equals_measured_tensor_by_tensor(profile, samples, sent):
    usual = [(algo, {}) for algo in METHODS]
    others = [("ml-ecs", {"rho": 1.0}), ("ml-ecs/no-kt", {})]
    others += [("ml-ecs", {"compression": "int8"}), ("multi-fedavg", {"compression": "topk:0.1"})]
    for algo, changes in usual + others:
        plan = toy.toy_plan(profile, algo=algo, seeds=(27,), steps=1, n_devices=2, **changes)
        federation = build_federation(plan, 27, samples, REGISTRY)
        sent.clear()
        measured = toy.run_toy(algo, federation, samples, evaluator=toy.Unscored()).comm
        real, sent[:] = list(sent), []
        counted = count_transmitted(plan, REGISTRY, samples)
        ranks = counted.pop("ranks")
        assert sent == real
        assert len(real) == 2 * 2 * (plan.rounds + 1)  # down and up for every device, the last time with nothing up
        assert counted == measured
        assert ranks == {d.id: next(iter(d.model.part("lora").values())).shape[0] for d in federation.devices}


def test_an_outline_has_the_adapter_that_peft_makes(checkpoints):
    settings = LoraSettings(rank=5)
    for folder in checkpoints.values():
        real, outline = Backbone(folder, BaseSettings(torch.device("cpu"))), BackboneOutline(folder)
        for backbone in (real, outline):
            backbone.add_adapter("d00", settings, 1, "device")
        shapes = [{k: p.shape for k, p in b.adapter("d00").items()} for b in (real, outline)]
        assert shapes[0] == shapes[1]
        assert real.n_parameters == outline.n_parameters


def test_the_papers_models_have_their_published_sizes():
    slm, llm = (backbone_shape(source, None) for source in (PAPER.slm, PAPER.llm))
    assert (slm.n_parameters, llm.n_parameters) == (GPT2_LARGE, GPT_J)
    assert 8 * sum(a + b for a, b in slm.adapted.values()) == LORA_R8


@pytest.fixture(scope="module")
def counted(samples):
    """Count an algorithm with the paper's models, at a rank and for some rounds; each setting once."""

    @cache
    def count(algo: str, rank: int | None = None) -> Counted:
        plan = toy.toy_plan(PAPER, algo=algo, rho=1.0, seeds=(27,), rounds=3)
        plan = plan if rank is None else plan.at_rank(rank)
        return Counted(algo, count_transmitted(plan, REGISTRY, samples))

    return count


def test_ml_ecs_at_paper_scale_is_known_arithmetic(counted):
    rows = counted("ml-ecs")
    public = int(rows.sent("down", "ids") * 3)
    assert rows.sent("up") == LORA_R8
    assert rows.sent("down", "lora") == LORA_R8
    assert rows.sent("down", "fused") == public * 256
    assert rows.share("one_way") == pytest.approx((LORA_R8 + public * 256) / GPT2_LARGE)


def test_fedmllm_is_twice_ml_ecs_and_fedilora_three_times_its_adapters(counted):
    assert counted("fedilora").sent("up") == 3 * LORA_R8
    assert counted("fedilora").rank == "24"
    sent = counted("fedmllm").sent("up") / LORA_R8
    assert sent == pytest.approx(2.3, abs=0.05)  # LoRA and soft-prompt generator


def test_a_rank_scales_the_adapters_and_nothing_else(counted):
    eight, more = counted("ml-ecs", 8), counted("ml-ecs", 24)
    assert more.sent("up", "lora") == 3 * eight.sent("up", "lora")
    assert more.sent("down", "fused") == eight.sent("down", "fused")


class Curious:
    """Sends what depends on an answer of the model."""

    def broadcast(self, server, t):
        server.model.generate(server.test.batch(server.test.rows[:1]), server.prompt, 3)
        return {}

    def receive(self, device, message, t):
        pass

    def local_update(self, device, t):
        return Message()

    def aggregate(self, server, uploads, t):
        pass


class Reading(Curious):
    """Reads a value of a tensor."""

    def broadcast(self, server, t):
        return {} if float(server.model.parameters(["lora"])[0].sum()) > 0 else {"d00": Message()}


def test_an_algorithm_that_needs_values_is_refused_in_one_line(profile, samples, monkeypatch):
    for algorithm, match in ((Curious, "depends on answers of"), (Reading, "without values")):
        info = dataclasses.replace(toy.ALGORITHMS["standalone"], build=lambda _, algorithm=algorithm: algorithm())
        monkeypatch.setattr(Registry, "algorithm", lambda _, name, info=info: Loaded(name, info, "acme", "1"))
        with pytest.raises(PluginError, match=match) as caught:
            count_transmitted(toy.toy_plan(profile, algo="standalone", seeds=(27,)), REGISTRY, samples)
        assert "\n" not in str(caught.value)


@pytest.fixture
def counted_rows(counted):
    return [counted(algo) for algo in ("standalone", "ml-ecs", "fedilora")]


def test_the_text_holds_every_number_of_the_json(counted_rows):
    text = transmission_text(counted_rows)
    for row in transmission_json(counted_rows):
        for by_kind in row["params_per_device_and_round"].values():
            assert all(f"{value:,.0f}" in text for value in by_kind.values())
        assert all(f"{100 * value:.3f} %" in text for value in row["shares"].values())


def test_bars_are_as_long_as_their_shares(counted_rows):
    block = transmission_text(counted_rows).split("```")[1].strip().splitlines()[1:]
    largest = max(row.share("one_way") for row in counted_rows)
    assert [line.count("#") for line in block] == [round(40 * row.share("one_way") / largest) for row in counted_rows]


@pytest.fixture
def call(tmp_path):
    """Run the command on a small dataset."""
    with installed():
        given = ("--dataset", DATASET, "--cache-dir", str(tmp_path), "--quiet")
        yield lambda *arguments: main(["comm", *arguments, *given])


def test_the_command_counts_what_is_asked_for(call, capsys):
    given = ("--algo", "ml-ecs,fedilora", "--n-devices", "2,3", "--rank", "4,8", "--profile", "mini", "--json")
    assert call(*given) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    found = [(r["algo"], r["n_devices"], sorted(set(r["ranks"].values()))) for r in rows]
    assert found == [
        *(("ml-ecs", 2, [4]), ("ml-ecs", 2, [8]), ("fedilora", 2, [24])),
        *(("ml-ecs", 3, [4]), ("ml-ecs", 3, [8]), ("fedilora", 3, [24])),
    ]


def test_a_wrong_flag_is_refused_in_one_line(call, capsys):
    for flag, value, match in (
        ("--n-devices", "3,x", "--n-devices takes different whole numbers"),
        ("--rank", "8,8", "--rank takes different whole numbers"),
        ("--rank", "0", "--rank takes different whole numbers"),
        ("--profile", "papr", "no profile 'papr'"),
        ("--algo", "ml-ec", "no algorithm 'ml-ec'"),
        ("--slm", "/no/such", "is no folder"),
    ):
        assert call(flag, value) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert match in lines[0]
