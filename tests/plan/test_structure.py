"""Structure heterogeneity: what may differ between devices, what an algorithm allows, and that all else is refused."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import toy
from mlecs_bench.doors.hookspecs import Needs
from mlecs_bench.doors.profile import LoraSettings
from mlecs_bench.errors import UsageError
from mlecs_bench.plan.structure import Structure, canonical_devices, check_structures


def test_devices_are_the_profiles_unless_the_spec_names_them(profile):
    told = {"device_rank": {"d1": 4}, "device_encoder_width": {"02": 5}, "device_slm": {"d00": "x"}}
    assert toy.toy_plan(profile, Needs(), n_devices=3, **told).structures == {
        "d00": Structure("x", 8, 8),
        "d01": Structure(profile.slm, 4, 8),
        "d02": Structure(profile.slm, 8, 5),
    }


def test_the_algorithms_ranks_repeat_and_the_spec_wins(profile):
    plan = toy.toy_plan(profile, Needs(ranks=(2, 3)), n_devices=5, device_rank={"d01": 7})
    assert [s.rank for s in plan.structures.values()] == [2, 7, 2, 3, 2]
    assert [s.rank for s in plan.at_rank(6).structures.values()] == [6, 7, 6, 6, 6]


def test_device_ids_have_one_spelling():
    assert canonical_devices({"2": "c", "d0": "a", "d01": "b"}, 3, "x") == {"d00": "a", "d01": "b", "d02": "c"}
    for wrong in ("d3", "e1", "", "d-1", "d1x"):
        with pytest.raises(UsageError, match="devices of this run are d0 to d2"):
            canonical_devices({wrong: 1}, 3, "x")
    with pytest.raises(UsageError, match="'d01' twice"):
        canonical_devices({"d1": 1, "1": 2}, 3, "x")


PARTS = ("encoder", "projector", "fusion", "soft_prompt", "lora")
DIFFERENCES = {
    "slm": {"soft_prompt", "lora"},
    "same shape": set(),
    "rank": {"lora"},
    "encoder_width": {"encoder", "projector"},
}


def test_a_part_is_refused_exactly_where_its_shapes_really_differ(profile, samples, checkpoints, tmp_path):
    others = {
        "slm": {"device_slm": {"d01": checkpoints["gptj"]}},
        "same shape": {"device_slm": {"d01": str(toy.make_gpt2(tmp_path, seed=9))}},
        "rank": {"device_rank": {"d01": 3}},
        "encoder_width": {"device_encoder_width": {"d01": 5}},
    }
    for what, other in others.items():
        federation = toy.federation_of(profile, samples, [toy.NAMES] * 2, needs=Needs(), **other)
        for part in PARTS:
            one, two = ({k: t.shape for k, t in d.model.part(part).items()} for d in federation.devices)
            assert (one != two) == (part in DIFFERENCES[what])
            changes = {"needs": Needs(same=(part,)), "n_devices": 2, **other}
            if part not in DIFFERENCES[what]:
                toy.toy_plan(profile, **changes)
                continue
            with pytest.raises(UsageError, match=f"averages the devices' '{part}', but that of d0") as caught:
                toy.toy_plan(profile, **changes)
            assert "\n" not in str(caught.value)


def test_any_rank_allows_ranks_and_nothing_else(profile, checkpoints):
    needs = Needs(same=("lora",), any_rank=True)
    base = Structure(profile.slm, 8, 8)
    check_structures({"d00": base, "d01": dataclasses.replace(base, rank=2)}, needs, profile)
    with pytest.raises(UsageError, match="language model"):
        check_structures({"d00": base, "d01": dataclasses.replace(base, slm=checkpoints["llama"])}, needs, profile)


def test_a_model_that_cannot_be_read_is_refused_in_one_line(profile, tmp_path):
    base = Structure(profile.slm, 8, 8)
    with pytest.raises(UsageError, match="cannot read a causal language model's configuration from") as caught:
        check_structures(
            {"d00": base, "d01": dataclasses.replace(base, slm=str(tmp_path))}, Needs(same=("lora",)), profile
        )
    assert "\n" not in str(caught.value)


def test_scale_of_an_update_is_the_same_at_every_rank():
    settings = LoraSettings()
    for rank in (1, 3, 24):
        assert settings.at_rank(rank).alpha / rank == settings.alpha / settings.rank


def test_devices_of_different_structure_train_and_share_one_backbone_per_model(profile, samples, checkpoints):
    federation = toy.federation_of(
        profile,
        samples,
        [toy.NAMES, ("audio",), ("text", "video")],
        public_stage=False,
        device_slm={"d01": checkpoints["llama"]},
        device_rank={"d02": 3},
        device_encoder_width={"d02": 5},
    )
    one, two, three = (d.model for d in federation.devices)
    assert one.backbone is three.backbone
    assert one.backbone is not two.backbone
    assert {t.shape[0] for k, t in three.part("lora").items() if k.endswith("lora_A")} == {3}
    outcome = toy.run_toy("standalone", federation, samples)
    assert set(outcome.metrics["client"]["local"]["digest"]) == {"d00", "d01", "d02"}
    assert outcome.comm["device_params"] == {d.id: d.model.backbone.n_parameters for d in federation.devices}
    assert len(set(outcome.comm["device_params"].values())) == 2


def test_the_servers_slm_has_the_largest_rank_and_its_own_model_the_profiles(profile, samples):
    federation = toy.federation_of(profile, samples, [toy.NAMES] * 3, needs=Needs(ranks=(2, 5, 3)))
    assert federation.server.ranks == {"d00": 2, "d01": 5, "d02": 3}
    ranks = [
        {t.shape[0] for k, t in model.part("lora").items() if k.endswith("lora_A")}
        for model in (federation.server.slm, federation.server.model)
    ]
    assert ranks == [{5}, {profile.lora.rank}]


def test_encoders_whose_pretrained_weights_do_not_fit_are_named(profile, samples, tmp_path):
    from safetensors.torch import save_file

    federation = toy.federation_of(profile, samples, [toy.NAMES])
    own = federation.devices[0].model.encoders["video"].state_dict()
    path = tmp_path / "encoders.safetensors"
    save_file({f"toy/video/{k}": torch.full_like(t, 0.5) for k, t in own.items()}, path)
    pretrained = dataclasses.replace(profile, encoders=path)
    federation = toy.federation_of(
        pretrained, samples, [toy.NAMES, ("audio", "video")], needs=Needs(), device_encoder_width={"d01": 5}
    )
    assert federation.random_encoders == {"d01": ["video"]}
    found = federation.devices[0].model.encoders["video"].state_dict()
    assert all(bool((t == 0.5).all()) for t in found.values())


def test_parties_have_a_proxy_only_if_the_algorithm_asked(profile, samples, checkpoints):
    from mlecs_bench.errors import PluginError

    plain = toy.federation_of(profile, samples, [("audio",)], needs=Needs())
    with pytest.raises(PluginError, match="d00 has no proxy model"):
        _ = plain.devices[0].proxy
    federation = toy.federation_of(
        profile, samples, [("audio",), toy.NAMES], needs=Needs(proxy=True), proxy=checkpoints["llama"]
    )
    parties = (federation.server, *federation.devices)
    assert len({id(p.proxy.backbone) for p in parties}) == 1
    first = parties[0].proxy.state()
    assert all(not toy.differing(first, p.proxy.state()) for p in parties)
    assert {name.split("/")[0] for name in first} == {"lora", "domain", "soft_prompt"}
    assert toy.differing(
        {k: v for k, v in parties[0].proxy.part("lora").items() if "lora_A" in k}, parties[0].proxy.part("domain")
    )


def test_prompt_suffix_reaches_every_party(profile, samples):
    federation = toy.federation_of(profile, samples, [("audio",), toy.NAMES], needs=Needs(prompt_suffix="Be brief."))
    assert {p.prompt for p in (federation.server, *federation.devices)} == {"Say it. Be brief."}
