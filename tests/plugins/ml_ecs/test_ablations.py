"""Laws of ML-ECS's ablations: each changes its one step, and nothing else in any bit."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

import toy
from mlecs_bench.blocks.gram import ContrastiveTerms
from mlecs_bench.doors.hookspecs import AlgorithmInfo
from mlecs_bench.doors.options import option_rows
from mlecs_bench.errors import AccessError
from mlecs_bench.federation.build import Federation
from mlecs_bench.federation.messages import Message
from mlecs_bench.models.unified import PARTS
from mlecs_bench.testing.message_checks import kinds_of
from mlecs_bench.testing.steps import Listening
from mlecs_plugins.ml_ecs import ccl, mma, plugin, se_ccl
from mlecs_plugins.ml_ecs.ablations import no_amt, no_ccl, no_kt, no_mma, no_se_ccl
from mlecs_plugins.ml_ecs.algorithm import MlEcs
from mlecs_plugins.ml_ecs.options import MlEcsOptions, ServerOptions, TuningOptions

MODULES = {
    "ml-ecs/no-mma": no_mma,
    "ml-ecs/no-se-ccl": no_se_ccl,
    "ml-ecs/no-ccl": no_ccl,
    "ml-ecs/no-amt": no_amt,
    "ml-ecs/no-kt": no_kt,
}
INFOS: dict[str, AlgorithmInfo] = {name: module.mlecs_algorithm() for name, module in MODULES.items()}
STEPS = {
    "ml-ecs/no-mma": {"weights"},
    "ml-ecs/no-se-ccl": {"transfer"},
    "ml-ecs/no-ccl": {"anchors", "align", "transfer"},
    "ml-ecs/no-amt": {"tune"},
    "ml-ecs/no-kt": set(),
}
"""The methods of MlEcs that an ablation replaces; no-kt fixes an option."""
TRANSFER = {"kt_weight", "kt_reduction", "kt_pool", "kt_bins", "kt_vocabulary"}
UNEQUAL = [("audio",), ("text", "video"), toy.NAMES]


def federation_of(profile, samples, held=UNEQUAL, **changes) -> Federation:
    return toy.federation_of(profile, samples, held, **({"rounds": 2, "steps": 1} | changes))


def build(algo: str, **options: object) -> MlEcs:
    info = toy.ALGORITHMS[algo]
    return info.build(info.options(**options))


def receive(algorithm: MlEcs, federation: Federation, t: int) -> None:
    messages = algorithm.broadcast(federation.server, t)
    for device in federation.devices:
        algorithm.receive(device, messages.get(device.id, Message()).copied(), t)


def one_round(algorithm: MlEcs, federation: Federation, t: int = 1) -> dict[str, Message]:
    """Run one round without an engine; return the uploads."""
    receive(algorithm, federation, t)
    uploads = {d.id: algorithm.local_update(d, t).copied() for d in federation.devices}
    algorithm.aggregate(federation.server, uploads, t)
    return uploads


def after(algorithm: MlEcs, profile, samples, held=UNEQUAL) -> dict[str, torch.Tensor]:
    """Return the state of all parties after two rounds and the last broadcast."""
    federation = federation_of(profile, samples, held)
    for t in (1, 2):
        one_round(algorithm, federation, t)
    receive(algorithm, federation, 3)
    return toy.state_of(federation)


@pytest.fixture(scope="module")
def of_ml_ecs(profile, samples) -> dict[str, torch.Tensor]:
    """The state that ML-ECS leaves."""
    return after(MlEcs(MlEcsOptions()), profile, samples)


def lora_of(model) -> dict[str, torch.Tensor]:
    return {k: v.detach().clone() for k, v in model.part("lora").items()}


def parts_that_differ(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> set[str]:
    return {name.split("/")[1] for name in toy.differing(one, other)}


# All of them


def test_an_ablation_replaces_its_steps_and_inherits_every_other():
    for algo in INFOS:
        built = build(algo)
        replaced = {name for name in dir(MlEcs) if getattr(type(built), name) is not getattr(MlEcs, name)}
        assert {name for name in replaced if not name.startswith("__")} == STEPS[algo]


def test_with_its_step_put_back_an_ablation_is_ml_ecs_bit_for_bit(profile, samples, of_ml_ecs):
    for algo in INFOS:
        built = build(algo)
        back = {name: getattr(MlEcs, name) for name in STEPS[algo]}
        built.__class__ = type("Restored", (type(built),), back)
        if algo == "ml-ecs/no-kt":
            assert built.options == MlEcsOptions(kt_weight=0.0)
            built.options = MlEcsOptions()
        assert not toy.differing(after(built, profile, samples), of_ml_ecs)


def test_an_ablation_differs_from_ml_ecs_and_sends_what_its_card_says(profile, samples):
    """Every party ends in another state; all that is declared travels, and nothing else."""
    ends = {}
    for algo in ("ml-ecs", *INFOS):
        info, listening, federation = toy.ALGORITHMS[algo], Listening(), federation_of(profile, samples)
        outcome = toy.run_toy(algo, federation, samples, carry=listening)
        ends[algo] = toy.state_of(federation)
        seen = {(kind, sent.direction) for sent in listening.sent for kind in kinds_of(sent.message)}
        ways = {"both": ("down", "up"), "down": ("down",), "up": ("up",)}
        assert seen == {(e.kind, way) for e in info.exchanges for way in ways[e.direction]}
        assert outcome.metrics["server"] is not None
        ours = toy.ALGORITHMS["ml-ecs"].needs(MlEcsOptions())
        assert info.needs(info.options()) == dataclasses.replace(
            ours, private_stages=0 if algo == "ml-ecs/no-amt" else 1, one_width=algo != "ml-ecs/no-ccl"
        )
    for algo in INFOS:
        differs = toy.differing(ends[algo], ends["ml-ecs"])
        assert {name.split(":")[0] for name in differs} == {"server", "d00", "d01", "d02"}, algo


def test_options_without_effect_are_not_offered():
    cases = [
        ("ml-ecs/no-mma", set(), set()),
        ("ml-ecs/no-se-ccl", TRANSFER, set()),
        ("ml-ecs/no-ccl", set(), {"scope"}),
        ("ml-ecs/no-amt", {"amt_trains"}, set()),
        ("ml-ecs/no-kt", TRANSFER, set()),
    ]
    for algo, missing, more in cases:
        rows = {row["name"]: row for row in option_rows(INFOS[algo].options)}
        full = {row["name"]: row for row in option_rows(MlEcsOptions)}
        assert set(rows) == full.keys() - missing | more
        assert all(rows[name] == full[name] for name in rows.keys() & full.keys())


def test_options_that_are_offered_arrive():
    transfer = {
        "kt_weight": 2.5, "kt_reduction": "sum", "kt_pool": "sorted", "kt_bins": 3, "kt_vocabulary": "drop"
    }  # fmt: skip  # names and values
    common = {"temperature": 0.07, "ccl_trains": ("encoder", "lora"), "server_trains_encoders": False}
    amt = {"amt_trains": ("lora",)}
    everything = MlEcsOptions(**transfer, **common, **amt)
    assert no_mma.NoMma(everything).options == everything
    assert no_amt.NoAmt(ServerOptions(**transfer, **common)).options == MlEcsOptions(**transfer, **common)
    assert no_se_ccl.NoSeCcl(TuningOptions(**common, **amt)).options == MlEcsOptions(**common, **amt)
    assert no_kt.NoKt(TuningOptions(**common, **amt)).options == MlEcsOptions(kt_weight=0.0, **common, **amt)


def test_every_ablation_refuses_what_ml_ecs_refuses():
    cases = itertools.product(
        [
            ({"temperature": 0.0}, "temperature"),
            ({"ccl_trains": ()}, "ccl_trains"),
            ({"kt_bins": 0}, "kt_bins"),
            ({"kt_weight": -1.0}, "kt_weight"),
            ({"amt_trains": ()}, "amt_trains"),
        ],
        INFOS,
    )
    for (values, match), algo in cases:
        cls = INFOS[algo].options
        if match in {field.name for field in dataclasses.fields(cls)}:
            with pytest.raises(ValueError, match=f"option '{match}' must"):
                cls(**values)


def test_cards_speak_of_what_is_left_and_name_the_ablation():
    full = plugin.mlecs_algorithm()
    for name, info in INFOS.items():
        assert info.title not in {full.title, *(i.title for n, i in INFOS.items() if n != name)}
        assert info.summary != full.summary
        dropped = [s for s in (*full.reproduced, *full.readings) if s not in (*info.reproduced, *info.readings)]
        assert dropped
        assert [s for s in info.reproduced if s in full.reproduced] == [s for s in full.reproduced if s not in dropped]


# no-mma


def test_without_mma_equal_counts_give_ml_ecs_bit_for_bit(profile, samples):
    for held in [[toy.NAMES] * 3, [("audio",), ("video",), ("text",)]]:
        assert not toy.differing(*(after(build(algo), profile, samples, held) for algo in ("ml-ecs", "ml-ecs/no-mma")))


def test_without_mma_every_upload_weighs_the_same(profile, samples, monkeypatch):
    federation = federation_of(profile, samples, [(), ("audio",), toy.NAMES])
    monkeypatch.setattr(no_mma.NoMma, "transfer", lambda *_: None)
    uploads = one_round(no_mma.NoMma(MlEcsOptions()), federation)
    assert [m.scalars["num_modalities"] for m in uploads.values()] == [0, 1, 3]
    for name, tensor in federation.server.slm.part("lora").items():
        mean = sum(m.of_kind("lora")[name].double() for m in uploads.values()) / 3
        torch.testing.assert_close(tensor.detach().double(), mean, rtol=1e-6, atol=1e-9)


# no-se-ccl


def test_without_se_ccl_what_mma_gives_is_broadcast_bit_for_bit(profile, samples):
    federation = federation_of(profile, samples)
    algorithm = no_se_ccl.NoSeCcl(TuningOptions())
    for t in (1, 2):
        uploads = one_round(algorithm, federation, t)
        merged = mma.merge(uploads, mma.modality_weights(uploads))
        assert merged
        for message in algorithm.broadcast(federation.server, t + 1).values():
            assert not toy.differing(message.of_kind("lora"), merged)


def test_without_se_ccl_the_server_trains_as_if_alone_and_its_slm_not_at_all(profile, samples):
    federation, alone = federation_of(profile, samples), federation_of(profile, samples)
    prompt = {k: v.detach().clone() for k, v in federation.server.slm.part("soft_prompt").items()}
    for t in (1, 2):
        one_round(build("ml-ecs/no-se-ccl"), federation, t)
        one_round(build("standalone"), alone, t)
    assert not toy.differing(federation.server.model.state(), alone.server.model.state())
    assert not toy.differing(prompt, federation.server.slm.part("soft_prompt"))


def test_without_se_ccl_anchors_are_still_sent_and_used(profile, samples):
    federation = federation_of(profile, samples)
    algorithm = no_se_ccl.NoSeCcl(TuningOptions())
    for t in (1, 2):
        assert all("fused/public" in m.tensors for m in algorithm.broadcast(federation.server, t).values())
        one_round(algorithm, federation, t)
        assert all(0 < d.logs["ccl/volume_matched"] <= 1 for d in federation.devices)


def test_without_se_ccl_the_servers_encoders_still_follow_the_option(profile, samples):
    for trained in [True, False]:
        server = federation_of(profile, samples).server
        before = server.model.state()
        no_se_ccl.NoSeCcl(TuningOptions(server_trains_encoders=trained)).transfer(server, 1)
        moved = {k.split("/")[0] for k in toy.differing(before, server.model.state())}
        assert moved == set(PARTS) - (set() if trained else {"encoder"})
        assert server.steps == {"server": 1}


# no-ccl


def test_without_ccl_no_anchors_and_no_ids_are_in_any_message(profile, samples):
    for scope in ["devices", "both"]:
        federation, listening = federation_of(profile, samples), Listening()
        toy.run_toy("ml-ecs/no-ccl", federation, samples, carry=listening, options={"scope": scope})
        assert {kind for sent in listening.sent for kind in kinds_of(sent.message)} == {"lora", "scalar"}
        assert all(not d.memory for d in federation.devices)


def test_without_ccl_devices_are_those_of_ml_ecs_with_a_contrast_of_zero(profile, samples, monkeypatch):
    nothing = ContrastiveTerms(*(torch.zeros(()) for _ in range(3)))
    monkeypatch.setattr(ccl, "contrastive_loss", lambda *_: nothing)
    ours, theirs = (federation_of(profile, samples) for _ in range(2))
    one_round(no_ccl.NoCcl(no_ccl.NoCclOptions()), ours)
    one_round(MlEcs(MlEcsOptions()), theirs)
    for device, other in zip(ours.devices, theirs.devices, strict=True):
        assert not toy.differing(device.model.state(), other.model.state())
        assert device.logs["ccl"] == other.logs["ccl"]
        assert device.steps == other.steps == {"public": 1, "private": 1}
    assert not toy.differing(ours.server.state(), theirs.server.state())


def test_a_device_without_modalities_does_not_notice_that_ccl_is_gone(profile, samples):
    ours, theirs = (federation_of(profile, samples, [(), ("audio",)]) for _ in range(2))
    one_round(no_ccl.NoCcl(no_ccl.NoCclOptions()), ours)
    one_round(MlEcs(MlEcsOptions()), theirs)
    same, other = (
        toy.differing(a.model.state(), b.model.state()) for a, b in zip(ours.devices, theirs.devices, strict=True)
    )
    assert not same
    assert other


def test_scope_says_whether_the_server_contrasts(profile, samples, monkeypatch):
    def logs(scope: str) -> dict[str, float]:
        server = federation_of(profile, samples).server
        no_ccl.NoCcl(no_ccl.NoCclOptions(scope=scope)).transfer(server, 1)
        return server.logs

    kept = logs("devices")
    monkeypatch.setattr(se_ccl, "contrast", lambda *_: pytest.fail("the server contrasts"))
    dropped = logs("both")
    assert set(kept) - set(dropped) == {"se-ccl/contrast"}
    assert dropped["se-ccl"] < kept["se-ccl"]


def test_server_of_scope_both_is_that_of_ml_ecs_with_a_contrast_of_zero(profile, samples, monkeypatch):
    ours, theirs = (federation_of(profile, samples).server for _ in range(2))
    no_ccl.NoCcl(no_ccl.NoCclOptions(scope="both")).transfer(ours, 1)
    monkeypatch.setattr(se_ccl, "contrast", lambda *_: torch.zeros(()))
    MlEcs(MlEcsOptions()).transfer(theirs, 1)
    assert not toy.differing(ours.state(), theirs.state())


def test_without_ccl_what_the_public_stage_trains_is_still_an_option(profile, samples):
    device = federation_of(profile, samples).devices[1]
    before = device.model.state()
    no_ccl.NoCcl(no_ccl.NoCclOptions(ccl_trains=("encoder", "lora"))).align(device, 1)
    moved = {name.split("/")[0] for name in toy.differing(before, device.model.state())}
    assert moved == {"encoder", "lora"}


def test_temperature_is_refused_where_nothing_is_contrasted():
    no_ccl.NoCclOptions(scope="devices", temperature=0.07)
    no_ccl.NoCclOptions(scope="both", temperature=1.0)
    with pytest.raises(ValueError, match="option 'temperature' has no effect with scope=both"):
        no_ccl.NoCclOptions(scope="both", temperature=0.07)


# no-amt


def poison(data) -> None:
    """Make any reading of a data set fail."""

    def refuse(*_: object) -> None:
        raise AccessError(f"{data.owner} was read")

    data.batch = data.targets = refuse


def test_without_amt_private_training_data_is_never_read(profile, samples):
    federation = federation_of(profile, samples)
    for device in federation.devices:
        poison(device.train)
    outcome = toy.run_toy("ml-ecs/no-amt", federation, samples)
    assert outcome.cost["steps"] == {"public": 6, "server": 2}
    with pytest.raises(AccessError, match="was read"):
        toy.run_toy("ml-ecs", federation, samples)


def test_without_amt_what_ccl_leaves_is_uploaded_and_encoders_never_move(profile, samples):
    ours, theirs = (federation_of(profile, samples) for _ in range(2))
    receive(MlEcs(MlEcsOptions()), theirs, 1)
    encoders = [{k: v.detach().clone() for k, v in d.model.part("encoder").items()} for d in ours.devices]
    uploads = one_round(no_amt.NoAmt(ServerOptions()), ours)
    for device, other, encoder in zip(ours.devices, theirs.devices, encoders, strict=True):
        MlEcs(MlEcsOptions()).align(other, 1)
        assert not toy.differing(uploads[device.id].of_kind("lora"), other.model.part("lora"))
        assert not toy.differing(device.model.state(), other.model.state())
        assert not toy.differing(encoder, device.model.part("encoder"))


# no-kt


def test_without_transfer_it_is_ml_ecs_of_weight_zero_bit_for_bit(profile, samples):
    zero = after(build("ml-ecs", kt_weight=0.0), profile, samples)
    assert not toy.differing(after(build("ml-ecs/no-kt"), profile, samples), zero)


def test_without_transfer_both_models_still_learn_and_nothing_passes_between_them(profile, samples, monkeypatch):
    monkeypatch.setattr(se_ccl, "transfer_between", lambda *_: pytest.fail("λ = 0"))
    server = federation_of(profile, samples).server
    start = {"model": lora_of(server.model), "twin": lora_of(server.slm)}
    no_kt.NoKt(TuningOptions()).transfer(server, 1)
    assert toy.differing(start["model"], server.model.part("lora"))
    assert toy.differing(start["twin"], server.slm.part("lora"))


# What the server logs


def test_the_terms_that_the_server_logs_add_up_to_its_loss(profile, samples):
    cases = [
        ("ml-ecs", {}, {"llm", "slm", "contrast", "into_llm", "into_slm"}),
        ("ml-ecs", {"kt_weight": 2.5}, {"llm", "slm", "contrast", "into_llm", "into_slm"}),
        ("ml-ecs/no-mma", {}, {"llm", "slm", "contrast", "into_llm", "into_slm"}),
        ("ml-ecs/no-kt", {}, {"llm", "slm", "contrast"}),
        ("ml-ecs/no-ccl", {"scope": "both"}, {"llm", "slm", "into_llm", "into_slm"}),
    ]
    for algo, options, terms in cases:
        server = federation_of(profile, samples).server
        build(algo, **options).transfer(server, 1)
        assert set(server.logs) == {"se-ccl", *(f"se-ccl/{name}" for name in terms)}
        total = sum(server.logs[f"se-ccl/{name}"] for name in terms)
        assert server.logs["se-ccl"] == pytest.approx(total, rel=1e-6)
        assert all(value > 0 for value in server.logs.values())
