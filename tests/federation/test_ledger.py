"""The ledger counts each transfer once, by kind, direction, device and round, whatever carries it."""

from __future__ import annotations

import itertools
import json

import torch

from mlecs_bench.federation.ledger import SCALAR_BYTES, Ledger, Transfer
from mlecs_bench.federation.messages import Message

ROUNDS, DEVICES, DIRECTIONS = (1, 2, 3), ("d00", "d01", "d02"), ("down", "up")
KINDS = ("lora", "encoder", "fused", "ids", "scalar")
DTYPES = (torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool)


def random_message(seed):
    """Return a message of random names, shapes, dtypes, layouts and scalars; every fourth seed gives an empty one."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low, high):
        return int(torch.randint(low, high, (1,), generator=generator))

    tensors, scalars = {}, {}
    for i in range(draw(0, 6) if seed % 4 else 0):
        shape = [draw(0, 5) for _ in range(draw(0, 4))]
        values = torch.randint(0, 200, shape, generator=generator).to(DTYPES[draw(0, len(DTYPES))])
        values = values.T if values.ndim == 2 else values
        tensors[f"{KINDS[draw(0, 5)]}/{i}"] = values
    for i in range(draw(0, 4) if seed % 4 else 0):
        scalars[f"s{i}"] = draw(0, 9) if i % 2 else draw(0, 9) / 7
    return Message(tensors, scalars)


def transfers():
    """Return one message for every round, device and direction."""
    keys = list(itertools.product(ROUNDS, DEVICES, DIRECTIONS))
    return [(random_message(i), device, direction, t) for i, (t, device, direction) in enumerate(keys)]


def recorded(carry=lambda message: message):
    """Return a ledger of all transfers, each as `carry` delivers it."""
    ledger = Ledger()
    for message, device, direction, t in transfers():
        ledger.record(carry(message), device, direction, t)
    return ledger


def counted(keep=lambda name, device, direction, t: True):
    """Count (elements, bytes) of the transfers one number at a time; scalars have the name "scalar/..."."""
    params = size = 0
    for message, device, direction, t in transfers():
        for name, tensor in message.tensors.items():
            if keep(name, device, direction, t):
                params += len(tensor.flatten().tolist())
                size += sum(1 for _ in tensor.contiguous().flatten().view(torch.uint8).tolist())
        for name in message.scalars:
            if keep(f"scalar/{name}", device, direction, t):
                params += 1
                size += 8
    return params, size


def test_the_same_is_counted_whatever_carries():
    as_they_are = recorded().entries
    assert recorded(Message.copied).entries == as_they_are
    assert recorded(lambda message: Message.from_bytes(message.to_bytes())).entries == as_they_are


def test_totals_equal_a_count_one_number_at_a_time():
    ledger = recorded()
    assert ledger.total() == counted()
    assert counted()[0] > 100
    for kind, direction in itertools.product(KINDS, DIRECTIONS):
        expected = counted(lambda name, _device, d, _t: name.startswith(f"{kind}/") and d == direction)  # noqa: B023  # called at once
        assert ledger.total(kind=kind, direction=direction) == expected
        assert expected[0] > 0
    for device, t in itertools.product(DEVICES, ROUNDS):
        expected = counted(lambda _name, d, _direction, r: (d, r) == (device, t))  # noqa: B023  # called at once
        assert ledger.total(device=device, round=t) == expected


def test_totals_over_the_values_of_a_field_add_up():
    ledger = recorded()
    for field in ("round", "device", "direction", "kind"):
        parts = [ledger.total(**{field: value}) for value in {getattr(e, field) for e in ledger.entries}]
        assert (sum(p for p, _ in parts), sum(b for _, b in parts)) == ledger.total()
        assert len(parts) > 1


def test_one_message_gives_one_entry_per_kind():
    ledger = Ledger()
    tensors = {"lora/a": torch.ones(2, 3), "lora/b": torch.ones(4, dtype=torch.bfloat16), "fused/s": torch.ones(5)}
    ledger.record(Message(tensors, {"n": 1, "k": 2}), "d01", "up", 7)
    assert ledger.entries == [
        Transfer(7, "d01", "up", "fused", 5, 20),
        Transfer(7, "d01", "up", "lora", 10, 32),
        Transfer(7, "d01", "up", "scalar", 2, 2 * SCALAR_BYTES),
    ]
    assert ledger.kinds() == ["fused", "lora", "scalar"]


def test_a_tensor_called_scalar_does_not_vanish_behind_the_scalars():
    ledger = Ledger()
    ledger.record(Message({"scalar/hidden": torch.ones(1000)}, {"n": 1}), "d00", "up", 1)
    assert ledger.total() == (1001, 4008)


def test_what_is_sent_twice_is_counted_twice():
    ledger, message = Ledger(), random_message(1)
    ledger.record(message, "d00", "up", 1)
    once = ledger.total()
    ledger.record(message, "d00", "up", 1)
    assert ledger.total() == (2 * once[0], 2 * once[1])


def test_an_empty_message_leaves_no_trace():
    ledger = Ledger()
    ledger.record(Message(), "d00", "down", 1)
    assert ledger.entries == []
    assert ledger.total() == (0, 0)


def test_a_ledger_survives_json():
    ledger = recorded()
    back = Ledger.from_json(json.loads(json.dumps(ledger.to_json())))
    assert back.entries == ledger.entries
    assert back.total(kind="lora") == ledger.total(kind="lora")


def test_a_ledger_that_was_read_back_goes_on_counting():
    first, second = transfers()[:9], transfers()[9:]
    half = Ledger()
    for transfer in first:
        half.record(*transfer)
    resumed = Ledger.from_json(half.to_json())
    for transfer in second:
        resumed.record(*transfer)
    assert resumed.entries == recorded().entries
