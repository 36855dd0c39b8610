"""Laws of the unified model: its loss is the plain one, gaps and padding leave no trace, states round-trip."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from transformers import AutoModelForCausalLM

import toy
from mlecs_bench.data.samples import Batch
from mlecs_bench.errors import DataError, UsageError
from mlecs_bench.models.unified import PARTS, UnifiedModel, check_length, state_bytes

SETS = [s for k in range(4) for s in itertools.combinations(toy.NAMES, k)]
PROMPT = "Say it."
TARGETS = ["a red", "a loud quiet thing thing", "sad", "a happy sad thing"]


@pytest.fixture(scope="module")
def federation(profile, samples):
    """One device for every subset of the modalities, the empty one included."""
    return toy.federation_of(profile, samples, SETS)


@pytest.fixture
def device(federation):
    """The omni-modal device, put back to its first state afterwards."""
    chosen = federation.devices[-1]
    state = chosen.state()
    yield chosen
    chosen.load_state(state)


def rows_with_gaps(data, n: int = 4):
    """Return n rows of which the first lacks its audio and the others do not."""
    batch = data.batch(data.rows)
    gaps, full = (data.rows[batch.present["audio"].numpy() == value] for value in (False, True))
    return [*gaps[:1], *full[: n - 1]]


def gradients(model: UnifiedModel, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the gradients of all parts of a model, None as zero."""
    named = {f"{part}/{k}": p for part in PARTS for k, p in model.part(part).items()}
    grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {k: torch.zeros_like(p) if g is None else g for (k, p), g in zip(named.items(), grads, strict=True)}


def without_dropout(model: UnifiedModel) -> None:
    """Silence dropout inside `only_trainable`, which has switched the model to training."""
    model.switch(training=False)


def test_loss_is_that_of_the_plain_model_with_labels_on_the_answer_only(device, profile):
    model, texts = device.model, device.model.texts
    batch = device.train.batch(device.train.rows[:4])
    model.switch(training=False)
    soft = model.soft_prompt(model.represent(batch), 4)
    tokenizer = model.backbone.tokenizer
    plain = AutoModelForCausalLM.from_pretrained(profile.slm).eval()
    head = tokenizer(f"Instruction: {PROMPT} Output:")["input_ids"]
    total, tokens = 0.0, 0
    for row, target in enumerate(TARGETS):
        answer = [*tokenizer(" " + target)["input_ids"], tokenizer.eos_token_id]
        text = plain.get_input_embeddings()(torch.tensor([[*head, *answer]]))
        labels = torch.tensor([[-100] * (3 + len(head)) + answer])
        loss = plain(inputs_embeds=torch.cat([soft[row : row + 1], text], dim=1), labels=labels).loss.detach()
        total, tokens = total + float(loss) * len(answer), tokens + len(answer)
    assert texts.prompt(PROMPT).tolist() == head
    assert float(model.loss(batch, PROMPT, TARGETS).detach()) == pytest.approx(total / tokens, rel=1e-5)


def test_right_padding_changes_neither_loss_nor_gradients(device):
    model, rows = device.model, device.train.rows[:4]
    with model.only_trainable(PARTS):
        without_dropout(model)
        together = model.loss(device.train.batch(rows), PROMPT, TARGETS)
        ours = gradients(model, together)
        weights = model.texts.answers(TARGETS).mask.sum(dim=1).float()
        assert weights.min() < weights.max(), "the answers must differ in length"
        alone = [model.loss(device.train.batch([r]), PROMPT, [t]) for r, t in zip(rows, TARGETS, strict=True)]
        mean = (torch.stack(alone) * weights).sum() / weights.sum()
        oracle = gradients(model, mean)
    torch.testing.assert_close(together, mean)
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, oracle[name], rtol=1e-4, atol=1e-6, msg=name)


def test_logits_row_k_predicts_answer_token_k_also_beside_a_longer_answer(device):
    model = device.model
    model.switch(training=False)
    soft = model.soft_prompt(model.represent(device.train.batch(device.train.rows[:2])), 2)
    both = model.supervise(soft, PROMPT, ["sad", "a loud quiet thing thing"])
    short = model.supervise(soft[:1], PROMPT, ["sad"])
    n = short.logits.shape[1]
    assert both.answers.mask[0].sum() == n < both.logits.shape[1]
    torch.testing.assert_close(both.logits[:1, :n], short.logits)
    picked = short.logits.log_softmax(-1).gather(-1, short.answers.ids[..., None])
    torch.testing.assert_close(short.loss, -picked.mean())
    assert short.answers.ids[0, -1] == model.backbone.eos_id


def test_order_of_modalities_in_a_batch_does_not_matter(device):
    batch = device.train.batch(rows_with_gaps(device.train))
    turned = dataclasses.replace(
        batch, inputs=dict(reversed(batch.inputs.items())), present=dict(reversed(batch.present.items()))
    )
    device.model.switch(training=False)
    one, other = (device.model.represent(b).fused for b in (batch, turned))
    assert torch.equal(one, other)


def with_garbage(batch: Batch, value: float) -> Batch:
    audio = batch.inputs["audio"].clone()
    audio[~batch.present["audio"]] = value
    return dataclasses.replace(batch, inputs=batch.inputs | {"audio": audio})


@pytest.mark.parametrize("garbage", [1e30, float("nan"), float("inf")])
def test_what_is_stored_for_an_absent_sample_is_never_read(device, garbage):
    model = device.model
    batch = device.train.batch(rows_with_gaps(device.train))
    with model.only_trainable(PARTS):
        without_dropout(model)
        clean, dirty = (model.loss(b, PROMPT, TARGETS) for b in (batch, with_garbage(batch, garbage)))
        ours, oracle = gradients(model, dirty), gradients(model, clean)
    assert torch.equal(clean, dirty)
    assert not toy.differing(ours, oracle)


def test_missing_embedding_of_the_gap_gets_gradient_and_no_other(device):
    model, rows = device.model, rows_with_gaps(device.train)
    with model.only_trainable(PARTS):
        found = gradients(model, model.loss(device.train.batch(rows), PROMPT, TARGETS))
        assert found["projector/audio/missing"].any()
        assert not found["projector/text/missing"].any()
        full = gradients(model, model.loss(device.train.batch(rows[1:]), PROMPT, TARGETS[1:]))
    assert not full["projector/audio/missing"].any()


def test_only_trainable_lets_gradients_into_the_named_parts_alone(device):
    model, batch = device.model, device.train.batch(rows_with_gaps(device.train))
    for chosen in (("lora",), ("encoder", "lora"), ("projector", "fusion", "soft_prompt"), PARTS):
        with model.only_trainable(chosen):
            model.loss(batch, PROMPT, TARGETS).backward()
            moved = {part for part in PARTS for p in model.part(part).values() if p.grad is not None}
            assert moved == set(chosen)
        rest = model.parameters(PARTS)
        assert not any(p.requires_grad or p.grad is not None for p in rest)
    base = [p for k, p in model.backbone._base.named_parameters() if "lora_" not in k]
    assert not any(p.requires_grad for p in base)


def test_every_trainable_tensor_belongs_to_exactly_one_part(federation):
    for device in federation.devices:
        model = device.model
        listed = [id(p) for part in PARTS for p in model.part(part).values()]
        own = [*model.encoders.parameters(), *model.connector.parameters()]
        own += model.backbone.adapter(model.name).values()
        assert len(set(listed)) == len(listed)
        assert set(listed) == {id(p) for p in own}


@pytest.mark.parametrize("index", range(len(SETS)), ids=["+".join(s) or "none" for s in SETS])
def test_state_round_trips_bit_for_bit_for_every_modality_set(index, federation):
    device = federation.devices[index]
    first = device.state()
    assert {k.split("/")[2] for k in first if k.startswith("model/encoder")} == set(SETS[index])
    generator = torch.Generator().manual_seed(index)
    changed = {k: torch.randn(t.shape, generator=generator) for k, t in first.items()}
    device.load_state(changed)
    assert not toy.differing(device.state(), changed)
    assert all(not torch.equal(t, changed[k]) for k, t in first.items()), "state() must return copies"
    device.load_state(first)
    assert not toy.differing(device.state(), first)


def test_state_of_another_model_is_refused(federation):
    one, two = federation.devices[SETS.index(("audio",))], federation.devices[SETS.index(("audio", "text"))]
    with pytest.raises(DataError, match="d01 has no 'encoder/text"):
        one.load_state(two.state())
    with pytest.raises(DataError, match="lacks 'encoder/text"):
        two.load_state(one.state())
    with pytest.raises(DataError, match="lacks 'lora/"):
        one.load_state({k: t for k, t in one.state().items() if "/lora/" not in k})


def test_load_part_refuses_unknown_names_and_shapes(device):
    with pytest.raises(DataError, match="has no 'encoder/smell/0'"):
        device.model.load_part("encoder", {"smell/0": torch.zeros(1)})
    name, tensor = next(iter(device.model.part("soft_prompt").items()))
    with pytest.raises(DataError, match="of shape"):
        device.model.load_part("soft_prompt", {name: tensor.detach()[:1]})


def test_state_bytes_counts_four_bytes_per_float(federation):
    state = federation.devices[0].state()
    assert state_bytes(state) == 4 * sum(t.numel() for t in state.values())


def test_generation_is_repeatable_after_training_mode(device):
    batch = device.test.batch(device.test.rows)
    first = device.model.generate(batch, PROMPT, 6)
    device.model.switch(training=True)
    assert device.model.generate(batch, PROMPT, 6) == first
    assert len(first) == len(batch)


def test_answer_of_a_sample_does_not_depend_on_its_batch(device):
    with torch.no_grad():
        for key, p in device.model.part("lora").items():
            if key.endswith("lora_B"):
                p.normal_(generator=torch.Generator().manual_seed(len(key)))
    data = device.train
    together = device.model.generate(data.batch(data.rows[:5]), PROMPT, 6)
    assert len(set(together)) > 1
    assert [device.model.generate(data.batch([r]), PROMPT, 6)[0] for r in data.rows[:5]] == together


def test_device_without_modalities_has_a_soft_prompt_that_learns(federation):
    device = federation.devices[0]
    model, batch = device.model, device.train.batch(device.train.rows[:4])
    assert batch.inputs == {}
    assert model.represent(batch).fused is None
    with model.only_trainable(PARTS):
        found = gradients(model, model.loss(batch, PROMPT, TARGETS))
    assert found["soft_prompt/constant"].any()
    assert len(model.generate(batch, PROMPT, 3)) == 4


def test_text_beyond_the_positions_is_refused_in_one_line(device):
    positions = device.model.backbone.max_positions
    prompt = len(device.model.texts.prompt(PROMPT))
    room = positions - prompt - 3
    check_length(device.model.backbone, device.model.texts, (PROMPT, room), 3)
    with pytest.raises(UsageError, match=f"{positions} positions but {positions + 1} are needed") as caught:
        check_length(device.model.backbone, device.model.texts, (PROMPT, room + 1), 3)
    assert "\n" not in str(caught.value)


def test_longest_text_that_is_allowed_really_fits(device):
    model = device.model
    room = model.backbone.max_positions - len(model.texts.prompt(PROMPT)) - 3
    batch = device.train.batch(device.train.rows[:1])
    target = "~" * (room - 2)  # one token each, beside the leading space and the end token
    assert model.texts.longest_answer([target]) == room
    assert torch.isfinite(model.loss(batch, PROMPT, [target]))
