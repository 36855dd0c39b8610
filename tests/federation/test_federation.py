"""Laws of a federation: equal starts, private data, step budgets, and one frozen backbone for any number of devices."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import GPT2Config
from transformers.models.gpt2 import GPT2LMHeadModel

import toy
from mlecs_bench.data.partition import draw_masks, limited, partition, rates_of
from mlecs_bench.doors.hookspecs import Needs
from mlecs_bench.errors import AccessError, PluginError, UsageError
from mlecs_bench.federation.build import Federation, ModelFactory
from mlecs_bench.models.encoders import build_encoder, encoders_of
from mlecs_bench.models.placement import torch_device
from mlecs_bench.models.unified import PARTS, state_bytes
from mlecs_bench.plan.structure import device_id
from mlecs_bench.plan.training import Budget
from mlecs_bench.testing import toy as made

SETS = [("audio",), ("audio", "text"), ("text", "video"), ("audio", "text"), toy.NAMES, ()]


@pytest.fixture(scope="module")
def mixed(profile, samples) -> Federation:
    """Six devices with different modality sets, two of them equal, one empty."""
    return toy.federation_of(profile, samples, SETS)


def test_ids_sort_in_the_order_of_devices():
    ids = [device_id(j) for j in range(20)]
    assert ids == sorted(ids)


def test_initial_weights_are_equal_across_devices_twin_and_modality_sets(mixed):
    for part in ["encoder", "projector", "soft_prompt", "lora"]:
        reference = mixed.server.slm.part(part)
        seen = set()
        for device in mixed.devices:
            for key, tensor in device.model.part(part).items():
                if key != "constant":
                    assert torch.equal(tensor, reference[key]), (device.id, key)
                    seen.add(key)
        assert seen == set(reference)


def test_initial_fusion_is_equal_where_the_modality_sets_are(mixed):
    one, other = (mixed.devices[j].model.part("fusion") for j in (1, 3))
    assert not toy.differing(one, other)
    whole, twin = mixed.devices[4].model.part("fusion"), mixed.server.slm.part("fusion")
    assert not toy.differing(whole, twin)


def test_server_starts_from_the_devices_encoders_and_its_own_connector(mixed):
    server, twin = mixed.server.model, mixed.server.slm
    assert not toy.differing(server.part("encoder"), twin.part("encoder"))
    assert toy.differing(server.part("projector"), twin.part("projector"))


def test_initial_weights_depend_on_the_seed_and_not_on_the_global_generator(profile, samples):
    one = toy.state_of(toy.toy_federation(profile, samples, 27))
    torch.rand(7)
    assert not toy.differing(one, toy.state_of(toy.toy_federation(profile, samples, 27)))
    other = toy.toy_federation(profile, samples, 28, rho=1.0)
    weights = {k: t for k, t in toy.state_of(toy.toy_federation(profile, samples, 27, rho=1.0)).items() if t.dim() > 1}
    same = set(weights) - toy.differing(weights, {k: t for k, t in toy.state_of(other).items() if k in weights})
    assert all(k.endswith(("lora_B", "constant")) for k in same)


def test_cut_and_masks_follow_the_seed_and_not_the_algorithm(profile, samples):
    for seed in (27, 34):
        one = toy.toy_federation(profile, samples, seed, public_stage=True)
        other = toy.toy_federation(profile, samples, seed, public_stage=False, algo="standalone", budget="equal")
        assert one.layout == other.layout
        strata = samples.column("stratum")
        assert one.layout.partition == partition(samples.column("group"), strata, "frame", 3, seed)
        assert one.layout.masks == draw_masks(rates_of(0.6, toy.NAMES), 3, seed)
        assert tuple(d.modalities for d in one.devices) == one.layout.masks.devices


def test_a_test_limit_follows_the_seed_and_not_the_algorithm_and_changes_no_training_sample(profile, samples):
    whole = toy.toy_federation(profile, samples)
    one = toy.toy_federation(profile, samples, test_limit=2)
    other = toy.toy_federation(profile, samples, public_stage=False, algo="standalone", test_limit=2)
    assert one.layout == other.layout
    assert one.layout.masks == whole.layout.masks
    for before, after in zip((whole.server, *whole.devices), (one.server, *one.devices), strict=True):
        assert before.train.rows.tolist() == after.train.rows.tolist()
        assert len(after.test) == 2 < len(before.test)
        assert set(after.test.rows.tolist()) < set(before.test.rows.tolist())


def test_parties_share_the_public_rows_and_nothing_else(mixed):
    public = set(mixed.server.train.rows.tolist())
    held_out = set(mixed.server.test.rows.tolist())
    private: set[int] = set()
    for device in mixed.devices:
        np.testing.assert_array_equal(device.public.rows, mixed.server.train.rows)
        own = set(device.train.rows.tolist()) | set(device.test.rows.tolist())
        assert len(own) == len(device.train) + len(device.test)
        assert not own & (public | held_out | private)
        private |= own


def test_limits_take_training_samples_and_nothing_else(profile, samples):
    usual, own = toy.toy_federation(profile, samples), dataclasses.replace(profile, private_limit=5)
    few = toy.toy_federation(own, samples, public_limit=7)
    assert few.layout.partition == limited(usual.layout.partition, 5, 7, 27)
    assert few.layout.masks == usual.layout.masks
    assert len(few.server.train) == 7
    for one, other in zip(few.devices, usual.devices, strict=True):
        assert len(one.train) == 5
        assert set(one.train.rows) < set(other.train.rows)
        np.testing.assert_array_equal(one.public.rows, few.server.train.rows)
    for one, other in zip((few.server, *few.devices), (usual.server, *usual.devices), strict=True):
        np.testing.assert_array_equal(one.test.rows, other.test.rows)
    assert not toy.differing(toy.state_of(few), toy.state_of(usual)), "nobody starts elsewhere"
    lifted = toy.toy_federation(own, samples, private_limit="all")
    assert lifted.layout == usual.layout


@pytest.fixture(scope="module")
def pooled(profile, samples) -> Federation:
    """The devices of `mixed`, for an algorithm that has all data in one place."""
    return toy.federation_of(profile, samples, SETS, needs=Needs(private_stages=0, pool=True))


def test_a_pool_holds_the_training_samples_of_all_that_a_party_sees_something_of(pooled, samples):
    owners = dict.fromkeys(pooled.server.train.rows.tolist(), frozenset(toy.NAMES))
    for device in pooled.devices:
        owners |= dict.fromkeys(device.train.rows.tolist(), frozenset(device.modalities))
    for party in (pooled.server, *pooled.devices):
        held = set(party.model.modalities)
        expected = {row for row, owned in owners.items() if held & owned or not held}
        rows = party.pool.rows.tolist()
        assert (len(rows), set(rows), party.pool.owner) == (len(expected), expected, party.id)
        assert set(party.pool.modalities) == held
        batch = party.pool.batch(rows)
        for m in held:
            values, present = samples.array(m), samples.presence[m]
            for place, row in enumerate(rows):
                shown = m in owners[row]
                assert bool(batch.present[m][place]) == (shown and bool(present[row])), (party.id, m, row)
                given = batch.inputs[m][place].numpy()
                assert np.array_equal(given, values[row] if shown else np.zeros_like(values[row]))


def test_a_pool_has_no_test_sample_of_anyone_and_refuses_them(pooled):
    parties = (pooled.server, *pooled.devices)
    for party in parties:
        for other in parties:
            assert not set(party.pool.rows.tolist()) & set(other.test.rows.tolist())
            for read in (party.pool.batch, party.pool.targets):
                with pytest.raises(AccessError, match=f"{party.id} asked for sample '.*', which is not in its data"):
                    read(other.test.rows[:1])


def test_a_pool_shows_neither_a_modality_that_its_party_lacks_nor_a_sample_without_a_common_one(pooled):
    audio, _, text_and_video = pooled.devices[:3]
    assert not set(audio.pool.rows.tolist()) & set(text_and_video.train.rows.tolist())
    with pytest.raises(AccessError, match=r"d00 asked for modality 'text' but holds only \['audio'\]"):
        audio.pool.modality("text", audio.train.rows[:1])
    with pytest.raises(AccessError, match="not in its data"):
        audio.pool.batch(text_and_video.train.rows[:1])


def test_a_pool_follows_the_limits(profile, samples):
    federation = toy.toy_federation(profile, samples, needs=Needs(pool=True), rho=1.0, private_limit=5, public_limit=7)
    assert {len(party.pool) for party in (federation.server, *federation.devices)} == {7 + 3 * 5}


def test_a_pool_is_there_only_for_an_algorithm_that_needs_it(mixed):
    for party in (mixed.server, *mixed.devices):
        with pytest.raises(PluginError, match=f"^{party.id} has no pool of all data; let the .* needs say pool=True$"):
            _ = party.pool


def test_device_cannot_read_foreign_samples_or_modalities(mixed):
    one, other = mixed.devices[0], mixed.devices[1]
    with pytest.raises(AccessError, match="not in its data"):
        one.train.batch(other.train.rows[:1])
    with pytest.raises(AccessError, match="not in its data"):
        one.train.targets(one.test.rows[:1])
    with pytest.raises(AccessError, match="holds only"):
        one.public.modality("text", one.public.rows[:1])
    assert set(one.public.batch(one.public.rows[:2]).inputs) == {"audio"}


def test_budget_gives_every_stage_its_steps(profile):
    cases = [
        ("paper", 1, True, 5, 5),
        ("paper", 1, False, 5, 0),
        ("paper", 2, False, 10, 0),
        ("paper", 2, True, 10, 5),
        ("equal", 1, True, 5, 5),
        ("equal", 1, False, 10, 0),
        ("equal", 2, False, 10, 0),
        ("equal", 2, True, 5, 5),
    ]
    for budget, private_stages, public_stage, private, public in cases:
        needs = Needs(private_stages=private_stages, public_stage=public_stage)
        training = toy.toy_plan(profile, needs, steps=5, budget=budget).training
        assert training.budget == Budget(private=private, public=public, server=5)


def test_algorithm_without_a_private_stage_gets_no_private_steps(profile):
    for budget in ["paper", "equal"]:
        needs = Needs(private_stages=0, public_stage=True, setup_steps=3)
        training = toy.toy_plan(profile, needs, steps=5, budget=budget).training
        assert training.budget == Budget(private=0, public=5, server=5, setup=3)


def test_steps_on_the_pool_are_those_of_a_public_and_a_private_stage_under_either_rule(profile):
    for budget in ["paper", "equal"]:
        needs = Needs(private_stages=0, pool=True)
        training = toy.toy_plan(profile, needs, steps=5, budget=budget).training
        assert training.budget == Budget(private=0, public=0, server=5, pooled=10)
        assert [training.budget.allowed("pooled", t) for t in (1, 2)] == [10, 10]


def test_steps_and_rounds_default_to_the_profile(profile):
    training = toy.toy_plan(profile, Needs(), steps=None, rounds=None).training
    assert (training.budget.private, training.rounds) == (profile.steps, profile.rounds)


def test_texts_beyond_the_positions_are_refused_before_anything_runs(profile, samples):
    with pytest.raises(UsageError, match=r"has \d+ positions but 1\d\d are needed") as caught:
        toy.toy_federation(dataclasses.replace(profile, soft_tokens=90), samples)
    assert "\n" not in str(caught.value)


def test_unknown_and_absent_torch_devices_are_refused():
    assert torch_device("cpu") == torch.device("cpu")
    with pytest.raises(UsageError, match="unknown device 'tpu!'"):
        torch_device("tpu!")
    with pytest.raises(UsageError, match="torch sees"):
        torch_device("cuda:99")


def test_pretrained_encoders_are_used_where_they_fit(profile, samples, tmp_path):
    width = profile.encoder_width
    infos = encoders_of(toy.MODALITIES, made.registry())
    weights = {
        m.name: build_encoder(m, width, infos[m.encoding]).state_dict() for m in toy.MODALITIES if m.name != "video"
    }
    tensors = {f"toy/{m}/{k}": t.clone() for m, state in weights.items() for k, t in state.items()}
    path = tmp_path / "encoders.safetensors"
    save_file(tensors | {"other/video/0": torch.zeros(1)}, path)
    pretrained = dataclasses.replace(profile, encoders=path)
    fresh, model = (
        ModelFactory(samples, one, 27, torch.device("cpu"), infos).server_slm(profile.lora.rank)
        for one in (profile, pretrained)
    )
    for m, state in weights.items():
        assert not toy.differing(model.encoders[m].state_dict(), state)
    assert not toy.differing(model.encoders["video"].state_dict(), fresh.encoders["video"].state_dict())


def test_many_devices_and_devices_without_modalities_can_be_built(profile, samples):
    federation = toy.toy_federation(profile, samples, n_devices=9, rho=1e-9, min_modalities=0)
    assert [d.modalities for d in federation.devices] == [()] * 9
    assert federation.server.devices == {d.id: () for d in federation.devices}


def reachable(federation: Federation) -> dict[int, int]:
    """Return address → bytes of every storage that the federation's models hold, each once."""
    parties = (federation.server, *federation.devices)
    modules: list[nn.Module] = [m for p in parties for m in (p.model.encoders, p.model.connector)]
    modules += [p.model.backbone._peft for p in parties]
    tensors = [t for module in modules for t in (*module.parameters(), *module.buffers())]
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}


def test_parameters_grow_by_the_devices_own_parts_alone(profile, tmp_path):
    from mlecs_bench.data.samples import Samples

    samples = Samples.open(toy.make_prepared(tmp_path / "large", n=560))
    few, many = (toy.toy_federation(profile, samples, n_devices=n, rho=1.0) for n in (3, 20))
    own = state_bytes(few.devices[0].state())
    assert own == sum(4 * p.numel() for part in PARTS for p in few.devices[0].model.part(part).values())
    assert sum(reachable(many).values()) - sum(reachable(few).values()) == 17 * own
    assert len({id(d.model.backbone._base) for d in many.devices}) == 1
    addresses = [p.untyped_storage().data_ptr() for d in many.devices for p in d.model.parameters(PARTS)]
    assert len(set(addresses)) == len(addresses), "no two devices may share what they train"
    assert set(addresses) < set(reachable(many))


PEAK = """
import json, os, resource, sys
sys.path.insert(0, sys.argv[1])
import torch
import toy
from mlecs_bench.testing import toy as made
from mlecs_bench.blocks.supervised import train_on_private
from mlecs_bench.data.samples import Samples, open_prepared
from mlecs_bench.models.unified import state_bytes
from mlecs_plugins.profiles.mini import MINI
import dataclasses, pathlib

torch.set_num_threads(1)
folder = pathlib.Path(sys.argv[2])
models = {"slm": str(folder / "slm"), "llm": sys.argv[3], "encoders": None}
profile = dataclasses.replace(MINI, **models, soft_tokens=3, batch_size=1)
samples = Samples.open(open_prepared(folder / "data"))

def measure(n):
    federation = toy.toy_federation(profile, samples, n_devices=n, rho=1.0, rounds=1, steps=1)
    for device in federation.devices:
        train_on_private(device, 1)
    own = max(state_bytes(d.state()) for d in federation.devices)
    return {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "own": own}

for n in (3, 20):  # each in a child of its own, so that the peaks are independent and the imports are paid for once
    child = os.fork()
    if child == 0:
        print(json.dumps(measure(n)), flush=True)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(1)
"""


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
def test_peak_memory_does_not_grow_by_a_backbone_per_device(profile, tmp_path):
    tokenizer = toy.byte_level_tokenizer(tmp_path / "slm")
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=640, n_layer=4, n_head=4, bos_token_id=0, eos_token_id=0
    )
    slm = GPT2LMHeadModel(config)
    backbone_bytes = 4 * sum(p.numel() for p in slm.parameters())
    assert backbone_bytes > 70e6
    slm.save_pretrained(tmp_path / "slm")
    toy.make_prepared(tmp_path / "data", n=560)
    command = [sys.executable, "-c", PEAK, str(Path(toy.__file__).parent), str(tmp_path), profile.llm]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    few, many = (json.loads(line) for line in done.stdout.splitlines())
    # Beside its tensors a device costs only adapter modules and AdamW moments of the one stage in progress.
    assert many["peak"] <= 1.15 * few["peak"] + 17 * few["own"]
    assert 1.15 * few["peak"] + 17 * few["own"] < few["peak"] + 17 * backbone_bytes, "the bound must exclude copies"
