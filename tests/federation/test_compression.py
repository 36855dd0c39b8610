"""Laws of compressed messages: what arrives is what was sent but for a known error, and nothing is lost for good."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load, save

import toy
from laws import for_all
from mlecs_bench.errors import MessageError
from mlecs_bench.federation.compression import NAMES, Link
from mlecs_bench.federation.ledger import Ledger
from mlecs_bench.federation.messages import Message, kind_of
from mlecs_bench.plan.conditions_compression import Compression

LAWS = (Compression("fp16"), Compression("int8"), Compression("topk", 0.1))
TOPK = Compression("topk", 0.25)
ODD = {
    "ids/rows": torch.arange(40),
    "ids/few": torch.tensor([3, 1], dtype=torch.uint8),
    "mask/seen": torch.tensor([True, False]),
    "wave/phase": torch.tensor([1 + 2j, 3 - 1j]),
    "lora/eighth": torch.arange(9.0).to(torch.float8_e4m3fn),
    "lora/nothing": torch.zeros(0, 3),
    "lora/one": torch.tensor(0.125),
    "lora/scalar-like": torch.tensor([7.0]),
}
"""What a compression has nothing to gain from."""


def ends(compression: Compression) -> tuple[Link, Link]:
    """Return the ends of a link: the device's and the server's."""
    return Link(compression, "up"), Link(compression, "down")


def drawn(seed: int, dtype: torch.dtype = torch.float32, shape: tuple[int, ...] = (7, 12)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * 10 ** (seed % 5 - 2)).to(dtype)


def over(link: tuple[Link, Link], tensor: torch.Tensor) -> torch.Tensor:
    """Return what the server gets of a tensor that a device sends, over bytes; the device is told that it arrived."""
    device, server = link
    packed = Message.from_bytes(device.pack(Message({"lora/a": tensor}), "d00").to_bytes())
    device.arrived("d00")
    return server.unpack(packed, "d00").tensors["lora/a"]


def test_a_message_arrives_with_its_names_shapes_types_and_scalars_and_is_never_larger():
    for compression in LAWS:
        device, server = ends(compression)
        for seed in range(12):
            big = {f"lora/{name}": drawn(seed, dtype, (1 + seed // 4, 40)) for dtype, name in NAMES.items()}
            sent = Message(big | {"fused/#x": drawn(seed)} | ODD, {"n": 2**40 + 1, "loss": 0.1 + seed})
            packed = device.pack(sent, "d00")
            device.arrived("d00")
            got = server.unpack(Message.from_bytes(packed.to_bytes()), "d00")
            assert got.scalars == sent.scalars
            assert {k: (t.shape, t.dtype) for k, t in got.tensors.items()} == {
                k: (t.shape, t.dtype) for k, t in sent.tensors.items()
            }
            assert not toy.differing(ODD, {name: got.tensors[name] for name in ODD})
            whole, less = counted(sent), counted(packed)
            assert whole.keys() == less.keys(), "kinds keep their names"
            assert all(less[kind] <= whole[kind] for kind in whole)
            first_time = compression.law == "topk" and seed % 4 == 0  # of these shapes
            assert (less["lora"] < whole["lora"]) != first_time


def counted(message: Message) -> dict[str, int]:
    ledger = Ledger()
    ledger.record(message, "d00", "up", 1)
    return {entry.kind: entry.bytes for entry in ledger.entries}


def test_only_the_direction_that_is_asked_for_is_compressed():
    sent = Message({"lora/a": drawn(0)})
    for direction, (up, down) in {"both": (1, 1), "up": (1, 0), "down": (0, 1)}.items():
        device, server = ends(Compression("int8", direction=direction))
        assert [device.pack(sent, "d00") is not sent, server.pack(sent, "d00") is not sent] == [up, down]
        assert server.unpack(device.pack(sent, "d00"), "d00").tensors.keys() == sent.tensors.keys()
        assert device.unpack(server.pack(sent, "d00"), "d00").tensors.keys() == sent.tensors.keys()
    device, server = ends(Compression())
    assert server.unpack(device.pack(sent, "d00"), "d00") is sent


def test_half_floats_are_torchs_own_and_what_they_cannot_hold_is_refused():
    for seed in range(20):
        sent = drawn(seed)
        assert torch.equal(over(ends(Compression("fp16")), sent), sent.half().float())
    for value in (65504.0, -65504.0, 65519.0, 1e-9):
        sent = torch.full((2,), value)
        assert torch.equal(over(ends(Compression("fp16")), sent), sent.half().float())
    with pytest.raises(MessageError, match=r"tensor 'lora/a' holds 65520 and fp16 reaches 65504; run with .*int8"):
        over(ends(Compression("fp16")), torch.tensor([1.0, -65520.0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_bytes_are_off_by_half_a_step_at_most(dtype):
    largest = torch.finfo(dtype).max
    tiny = torch.finfo(dtype).smallest_normal
    numbers = ([0.0] * 9, [largest] * 9, [largest * (i / 127) for i in range(-127, 128)], [tiny] * 9, [tiny, -1.0] * 9)
    for sent in [drawn(seed, dtype) for seed in range(20)] + [torch.tensor(n, dtype=dtype) for n in numbers]:
        got = over(ends(Compression("int8")), sent)
        step = sent.double().abs().max() / 127
        rounding = got.double().abs() * torch.finfo(dtype).eps  # of the answer's own type
        assert bool(((got.double() - sent.double()).abs() <= step / 2 * (1 + 1e-5) + rounding + 1e-37).all())
        assert bool(torch.isfinite(got).all())


def test_bytes_are_those_of_torchs_own_quantisation():
    for seed in range(30):
        sent = drawn(seed)
        scale = float(sent.abs().max() / 127)
        own = torch.fake_quantize_per_tensor_affine(sent, scale, 0, -127, 127)
        assert torch.equal(over(ends(Compression("int8")), sent), own)


def test_topk_sends_exactly_the_numbers_that_have_changed_most_and_the_rest_is_the_residual():
    for seed in range(30):
        dtype = (torch.float32, torch.float64, torch.bfloat16)[seed % 3]
        device, server = ends(TOPK)
        before, now = drawn(seed, dtype), drawn(seed + 100, dtype)
        assert torch.equal(over((device, server), before), before), "the first time a tensor travels whole"
        packed = device.pack(Message({"lora/a": now}), "d00").tensors
        places = packed["lora/a#places"].tolist()
        change = [abs(float(a) - float(b)) for a, b in zip(now.flatten(), before.flatten(), strict=True)]
        assert len(set(places)) == math.ceil(0.25 * now.numel())
        left = [c for i, c in enumerate(change) if i not in places]
        assert min(change[i] for i in places) >= max(left)
        assert packed["lora/a#values"].tolist() == [now.flatten()[i].item() for i in places]
        got = server.unpack(Message(packed), "d00").tensors["lora/a"]
        residual = now - got
        sent = got - before
        assert bool(((sent == 0) | (residual == 0)).all()), "a number is sent or held back"
        assert torch.equal(torch.where(residual == 0, now, before), got)


@for_all("seed", range(10))
def test_over_many_rounds_what_was_sent_and_the_residual_add_up_to_all_changes(seed):
    # Whole numbers, so that sums are exact whatever their order.
    generator = torch.Generator().manual_seed(seed)
    link = ends(TOPK)
    value = torch.zeros(5, 9)
    total, got = over(link, value), torch.zeros(5, 9)
    for _ in range(40):
        value = value + torch.randint(-50, 50, value.shape, generator=generator)
        arrived = over(link, value)
        total = total + (arrived - got)
        got = arrived
        assert torch.equal(total + (value - got), value)
    for _ in range(4):  # a quarter at a time
        got = over(link, value)
    assert torch.equal(got, value), "what was held back has come in the end"


def test_lost_messages_leave_older_numbers_and_nothing_else():
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        device, server = ends(TOPK)
        seen: list[set[float]] = [set() for _ in range(24)]
        for _ in range(30):
            value = torch.randn(24, generator=generator)
            for held, number in zip(seen, value.tolist(), strict=True):
                held.add(number)
            packed = device.pack(Message({"lora/a": value}), "d00")
            if torch.rand(1, generator=generator) < 0.5:
                got = server.unpack(packed, "d00").tensors["lora/a"]
                if torch.rand(1, generator=generator) < 0.7:  # or the device never hears of it
                    device.arrived("d00")
                assert all(number in held for held, number in zip(seen, got.tolist(), strict=True))
        last = torch.randn(24, generator=generator)
        for _ in range(5):
            got = over((device, server), last)
        assert torch.equal(got, last)


def test_an_end_that_is_saved_and_loaded_goes_on_bit_for_bit():
    for compression in LAWS:
        one, other = ends(compression), ends(compression)
        for seed in range(6):
            expected = over(one, drawn(seed))
            for old, new in zip(other, fresh := ends(compression), strict=True):
                new.load_state("d00", from_a_file(old.state("d00")))
            other = fresh
            assert torch.equal(over(other, drawn(seed)), expected)
        other[0].load_state("d00", {})
        assert other[0].state("d00") == {}


def from_a_file(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors as a file gives them back."""
    return dict(load(save(state)))


def test_what_arrives_shares_no_memory_with_what_is_kept():
    device, server = ends(TOPK)
    for seed in range(4):
        got = over((device, server), drawn(seed))
        got.fill_(float("nan"))
        assert all(
            bool(torch.isfinite(t).all()) for t in (*server.state("d00").values(), *device.state("d00").values())
        )


def test_a_tensor_of_another_shape_or_type_travels_whole():
    link = ends(TOPK)
    for sent in (drawn(0), drawn(1, shape=(12, 7)), drawn(2, torch.float64, (12, 7)), drawn(3, shape=(84,))):
        assert torch.equal(over(link, sent), sent)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"lora/a": torch.ones(2)}, "'' does not travel as lora/a; both sides must compress alike"),
        ({"lora/a#zip": torch.ones(2)}, "'lora/a' does not travel as zip"),
        ({"lora/a#int8.float32": torch.ones(2)}, "'lora/a' does not travel as int8.float32"),
        ({"lora/a#fp16.int64": torch.ones(2)}, "'lora/a' does not travel as fp16.int64"),
        (
            {"lora/b#values": torch.ones(1), "lora/b#places": torch.ones(1, dtype=torch.int16)},
            "changes of 'lora/b' have come, of which nothing is here",
        ),
        (
            {"lora/a#values": torch.ones(2), "lora/a#places": torch.ones(1, dtype=torch.int16)},
            "the changes of 'lora/a' do not fit the tensor that is here",
        ),
        (
            {"lora/a#values": torch.ones(1), "lora/a#places": torch.ones(1)},
            "the changes of 'lora/a' do not fit the tensor that is here",
        ),
        (
            {"lora/a#values": torch.ones(1), "lora/a#places": torch.tensor([84], dtype=torch.int16)},
            "the changes of 'lora/a' lie outside of the tensor that is here",
        ),
    ],
)
def test_a_message_that_was_not_packed_here_is_refused(parts, words):
    link = ends(TOPK)
    over(link, drawn(0))
    with pytest.raises(MessageError) as caught:
        link[1].unpack(Message(parts), "d00")
    assert words in str(caught.value)
    assert kind_of("lora/a#values") == "lora"
