"""Messages: what leaves one party arrives bit for bit at the other, shares nothing, and is nothing but numbers."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save

from mlecs_bench.errors import MessageError
from mlecs_bench.federation.messages import Message, content_digest, kind_of, with_kind

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2)
INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
LAYOUTS = ("plain", "transposed", "strided", "expanded", "0-d", "empty", "needs-grad")
SOUND = Message({"lora/a": torch.arange(6.0).reshape(2, 3), "fused/b": torch.ones(2)}, {"n": 3, "x": 0.1})


def bits(tensor):
    """Return the bytes of a tensor, element by element in the order of its indices."""
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def random_tensor(dtype, layout="plain", seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-100, 100, (4, 6), generator=generator).to(torch.float64) / 7
    tensor = (values.abs() if dtype in INTEGERS else values).to(dtype)
    if layout == "needs-grad":
        return tensor.requires_grad_(dtype.is_floating_point and dtype.itemsize > 1)
    views = {
        "plain": lambda t: t,
        "transposed": lambda t: t.T,
        "strided": lambda t: t[::2, 1::3],
        "expanded": lambda t: t[:1].expand(5, 6),
        "0-d": lambda t: t[2, 3],
        "empty": lambda t: t[:0],
    }
    return views[layout](tensor)


def test_bytes_keep_every_bit_of_every_dtype_and_layout():
    for dtype, layout in itertools.product(FLOATS + INTEGERS, LAYOUTS):
        tensor = random_tensor(dtype, layout)
        back = Message.from_bytes(Message({"lora/a": tensor}).to_bytes()).tensors["lora/a"]
        assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
        assert bits(back) == bits(tensor)


def test_bytes_keep_every_scalar_and_its_type():
    for value in [0, -1, 2**53 + 1, 2**63 - 1, -(2**63), 0.1, -0.0, 1 / 3, 5e-324, 1.7e308, 3.0]:
        back = Message.from_bytes(Message({}, {"a": value}).to_bytes()).scalars["a"]
        assert type(back) is type(value)
        assert (back, math.copysign(1, back)) == (value, math.copysign(1, value))


def test_names_in_any_script_survive_the_bytes():
    message = Message({"lora/größe.0/重み": torch.ones(1)}, {"zähler": 1})
    back = Message.from_bytes(message.to_bytes())
    assert (set(back.tensors), dict(back.scalars)) == (set(message.tensors), dict(message.scalars))


def test_a_copy_shares_no_memory_with_the_original():
    for dtype, layout in itertools.product([torch.float32, torch.bfloat16, torch.int64], LAYOUTS):
        tensor = random_tensor(dtype, layout)
        before = bits(tensor)
        copy = Message({"lora/a": tensor}).copied().tensors["lora/a"]
        assert bits(copy) == before
        assert copy.is_contiguous()
        assert not copy.requires_grad
        copy += 1
        assert bits(tensor) == before


def test_two_names_of_one_tensor_are_apart_after_the_copy():
    tensor = torch.ones(3)
    copy = Message({"lora/a": tensor, "lora/b": tensor[:2]}).copied()
    copy.tensors["lora/a"].zero_()
    assert copy.tensors["lora/b"].tolist() == [1, 1]
    tensor.fill_(7)
    assert copy.tensors["lora/b"].tolist() == [1, 1]


def test_a_copy_does_not_follow_later_changes_of_the_senders_dictionaries():
    tensors, scalars = {"lora/a": torch.ones(1)}, {"n": 1}
    copy = Message(tensors, scalars).copied()
    tensors["lora/b"], scalars["n"] = torch.ones(1), 2
    assert (list(copy.tensors), copy.scalars) == (["lora/a"], {"n": 1})


def test_a_tensor_with_one_number_that_is_not_finite_may_not_travel():
    dtypes = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e5m2, torch.complex64)
    for dtype, value in itertools.product(dtypes, (math.nan, math.inf, -math.inf)):
        tensor = torch.ones(3, 4).to(dtype)
        Message({"lora/a": tensor}).copied()
        tensor[2, 1] = value
        with pytest.raises(MessageError, match="'lora/a' holds NaN or infinity"):
            Message({"fused/b": torch.ones(1), "lora/a": tensor}).copied()


def test_an_8_bit_float_without_infinity_is_checked_for_nan():
    with pytest.raises(MessageError, match="NaN"):
        Message({"lora/a": torch.tensor([1.0, math.nan]).to(torch.float8_e4m3fn)}).copied()


def test_a_scalar_is_a_finite_int_or_float():
    for value in [math.nan, math.inf, -math.inf, True, False, None, "1", [1], torch.ones(1), 1j]:
        with pytest.raises(MessageError, match="scalar 'n'"):
            Message({}, {"n": value})


def test_an_integer_beyond_64_bits_is_no_scalar_because_8_bytes_are_counted_for_it():
    for value in [2**63, -(2**63) - 1, 10**400]:
        with pytest.raises(MessageError, match="64 bits"):
            Message({}, {"n": value})


def test_only_tensors_travel_under_a_name():
    for value in [np.ones(2), [1.0], 3, None]:
        with pytest.raises(MessageError, match="lora/a"):
            Message({"lora/a": value})


def test_a_tensor_without_a_kind_is_refused():
    with pytest.raises(MessageError, match="name it 'kind/a'"):
        Message({"a": torch.ones(1)})


def test_a_message_cut_off_anywhere_is_not_a_message():
    data = SOUND.to_bytes()
    for length in range(len(data)):
        with pytest.raises(MessageError, match=f"^{length} bytes are not a message"):
            Message.from_bytes(data[:length])


def test_garbage_is_not_a_message():
    generator = np.random.default_rng(0)
    for length in range(400):
        with pytest.raises(MessageError):
            Message.from_bytes(generator.bytes(length))


def test_a_damaged_header_never_escapes_as_another_error():
    generator, refused = np.random.default_rng(0), 0
    header = 8 + int.from_bytes(SOUND.to_bytes()[:8], "little")
    for _ in range(400):
        data = bytearray(SOUND.to_bytes())
        for position in generator.integers(0, header, size=2):
            data[position] = int(generator.integers(256))
        try:
            assert all("/" in name for name in Message.from_bytes(bytes(data)).tensors)
        except MessageError:
            refused += 1
    assert refused > 300


def test_a_safetensors_file_without_proper_scalars_is_not_a_message():
    texts = ("", "5", "null", "[1]", '"ab"', '{"a": "x"}', '{"a": NaN}', '{"a": true}')
    whole = [f'{{"scalars": {text}, "sha256": ""}}' for text in texts]
    for metadata in (None, {"other": "{}"}, *({"message": text} for text in (*texts, *whole))):
        with pytest.raises(MessageError):
            Message.from_bytes(save({"lora/a": torch.ones(1)}, metadata=metadata))


def test_what_crosses_as_bytes_is_checked_like_any_message():
    tensors = {"a": torch.ones(1)}
    values = {"scalars": {}, "sha256": content_digest({}, tensors)}
    with pytest.raises(MessageError, match="has no kind"):
        Message.from_bytes(save(tensors, metadata={"message": json.dumps(values)}))


def test_a_kind_is_what_stands_before_the_first_slash():
    tensors = {"lora/h.0/A": torch.ones(1), "lorax/A": torch.ones(2), "fused/lora/A": torch.ones(3)}
    message = Message(tensors)
    assert {name: kind_of(name) for name in tensors} == {
        "lora/h.0/A": "lora",
        "lorax/A": "lorax",
        "fused/lora/A": "fused",
    }
    assert list(message.of_kind("lora")) == ["h.0/A"]
    assert message.of_kind("absent") == {}


def test_renaming_to_a_kind_is_undone_by_taking_the_kind():
    tensors = {"a": torch.ones(1), "b/c": torch.zeros(2)}
    back = Message(with_kind("lora", tensors)).of_kind("lora")
    assert list(back) == list(tensors)
    assert all(back[name] is tensors[name] for name in tensors)


def test_tensors_arrive_in_the_order_of_their_names_whatever_order_they_were_sent_in():
    names = [f"lora/{i:02d}" for i in range(12)]
    for order in (names, names[::-1], names[6:] + names[:6]):
        data = Message({name: torch.tensor([float(name[-2:])]) for name in order}).to_bytes()
        for _ in range(5):
            assert list(Message.from_bytes(data).tensors) == names
