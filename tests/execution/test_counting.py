"""Laws of counting without weights: it equals, tensor by tensor, what the ledger of a real run measures."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

import toy
from mlecs_bench.cli.main import main
from mlecs_bench.doors.profile import PAPER
from mlecs_bench.errors import PluginError
from mlecs_bench.execution import counting
from mlecs_bench.execution.counting import count_transmitted
from mlecs_bench.federation.link import MeteredLink
from mlecs_bench.federation.messages import Message
from mlecs_bench.models.outline import BackboneOutline, backbone_shape
from mlecs_bench.report.transmission import Counted

GPT2_LARGE, GPT_J = 774_030_080, 6_050_882_784
LORA_R8 = 4_055_040


@pytest.fixture
def sent(monkeypatch):
    """Everything that passes any metered link: round, device, direction, then name → shape and dtype, and scalars."""
    log: list[tuple] = []
    carry = MeteredLink.carry

    def logging(self, message, device, direction, round_):
        shapes = {name: (tuple(t.shape), t.dtype) for name, t in message.tensors.items()}
        log.append((round_, device, direction, shapes, sorted(message.scalars)))
        return carry(self, message, device, direction, round_)

    monkeypatch.setattr(MeteredLink, "carry", logging)
    return log


@pytest.mark.parametrize("rho", [0.6, 1.0])
@pytest.mark.parametrize("algo", toy.ALGORITHMS)
def test_counted_equals_measured_tensor_by_tensor(algo, rho, profile, samples, sent, monkeypatch):
    monkeypatch.setattr(counting, "profile_of", lambda _: profile)
    spec = toy.toy_spec(algo=algo, rho=rho, seeds=(27,))
    federation = toy.toy_federation(profile, samples, needs=toy.needs_of(algo), rho=rho)
    measured = toy.run_toy(algo, federation, samples).comm
    real, sent[:] = list(sent), []
    counted = count_transmitted(spec, toy.ALGORITHMS[algo], samples)
    ranks = counted.pop("ranks")
    assert sent == real
    assert counted == measured
    assert ranks == {d.id: next(iter(d.model.part("lora").values())).shape[0] for d in federation.devices}


@pytest.mark.parametrize("kind", ["gpt2", "gptj", "llama"])
def test_an_outline_has_the_adapter_that_peft_makes(kind, checkpoints):
    from mlecs_bench.doors.profile import LoraSettings
    from mlecs_bench.models.backbone import Backbone
    from mlecs_bench.models.loading import BaseSettings

    settings = LoraSettings(rank=5)
    real, outline = Backbone(checkpoints[kind], BaseSettings(torch.device("cpu"))), BackboneOutline(checkpoints[kind])
    for backbone in (real, outline):
        backbone.add_adapter("d00", settings, 1, "device")
    shapes = [{k: p.shape for k, p in b.adapter("d00").items()} for b in (real, outline)]
    assert shapes[0] == shapes[1]
    assert real.n_parameters == outline.n_parameters


def test_the_papers_models_have_their_published_sizes():
    slm, llm = (backbone_shape(source, None) for source in (PAPER.slm, PAPER.llm))
    assert (slm.n_parameters, llm.n_parameters) == (GPT2_LARGE, GPT_J)
    assert 8 * sum(a + b for a, b in slm.adapted.values()) == LORA_R8


def test_ml_ecs_at_paper_scale_is_known_arithmetic(samples):
    spec = toy.toy_spec(profile="paper", rho=1.0, seeds=(27,), rounds=3)
    rows = Counted("ml-ecs", count_transmitted(spec, toy.ALGORITHMS["ml-ecs"], samples))
    public = int(rows.sent("down", "ids") * 3)
    assert rows.sent("up") == LORA_R8
    assert rows.sent("down", "lora") == LORA_R8
    assert rows.sent("down", "fused") == public * 256
    assert rows.share("one_way") == pytest.approx((LORA_R8 + public * 256) / GPT2_LARGE)


def test_fedmllm_is_twice_ml_ecs_and_fedilora_three_times_its_adapters(samples):
    counted = {}
    for algo in ("ml-ecs", "fedmllm", "fedilora"):
        spec = toy.toy_spec(algo=algo, profile="paper", rho=1.0, seeds=(27,))
        counted[algo] = Counted(algo, count_transmitted(spec, toy.ALGORITHMS[algo], samples))
    assert counted["fedilora"].sent("up") == 3 * LORA_R8
    assert counted["fedilora"].rank == "24"
    assert counted["fedmllm"].sent("up") / LORA_R8 == pytest.approx(2.3, abs=0.05)  # LoRA and soft-prompt generator


def test_a_rank_scales_the_adapters_and_nothing_else(samples):
    spec = toy.toy_spec(profile="paper", rho=1.0, seeds=(27,))
    eight, more = (Counted("ml-ecs", count_transmitted(spec, toy.ALGORITHMS["ml-ecs"], samples, r)) for r in (8, 24))
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


@pytest.mark.parametrize(("algorithm", "match"), [(Curious, "depends on answers of"), (Reading, "without values")])
def test_an_algorithm_that_needs_values_is_refused_in_one_line(algorithm, match, profile, samples, monkeypatch):
    monkeypatch.setattr(counting, "profile_of", lambda _: profile)
    info = dataclasses.replace(toy.ALGORITHMS["standalone"], build=lambda _: algorithm())
    with pytest.raises(PluginError, match=match) as caught:
        count_transmitted(toy.toy_spec(algo="standalone", seeds=(27,)), info, samples)
    assert "\n" not in str(caught.value)


def call(*arguments: str) -> int:
    return main(["comm", *arguments, "--quiet"])


def test_the_command_counts_what_is_asked_for(capsys, tmp_path: Path):
    given = ("--algo", "ml-ecs,fedilora", "--n-devices", "2,3", "--rank", "4,8", "--profile", "mini", "--json")
    assert call(*given, "--cache-dir", str(tmp_path)) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    found = [(r["algo"], r["n_devices"], sorted(set(r["ranks"].values()))) for r in rows]
    assert found == [
        *(("ml-ecs", 2, [4]), ("ml-ecs", 2, [8]), ("fedilora", 2, [24])),
        *(("ml-ecs", 3, [4]), ("ml-ecs", 3, [8]), ("fedilora", 3, [24])),
    ]


@pytest.mark.parametrize(
    ("flag", "value", "match"),
    [
        ("--n-devices", "3,x", "--n-devices takes different whole numbers"),
        ("--rank", "8,8", "--rank takes different whole numbers"),
        ("--rank", "0", "--rank takes different whole numbers"),
        ("--profile", "papr", "no profile 'papr'"),
        ("--algo", "ml-ec", "no algorithm 'ml-ec'"),
        ("--slm", "/no/such", "is no folder"),
    ],
)
def test_a_wrong_flag_is_refused_in_one_line(flag, value, match, capsys, tmp_path):
    assert call(flag, value, "--cache-dir", str(tmp_path)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert match in lines[0]
