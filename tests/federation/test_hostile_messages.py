"""Bytes of a sender that is not honest: lengths and shapes that lie, JSON without end, pickles, NaN."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

import damage
from damage_targets import GREETINGS, MESSAGE, REPLY, targets
from mlecs_bench.errors import MessageError
from mlecs_bench.federation.fleet import greetings_from_json, greetings_json
from mlecs_bench.federation.messages import Message, content_digest
from mlecs_bench.federation.turns import ASK_HEAD, Ask, Reply

TIMES, SPARE = 64, 2**18
"""A reader may hold so many times the bytes that it was sent, and so many more: Python's own objects for small JSON."""
MOST_RESERVED = 2**28
"""By how much the address space may grow: far below what the lies below claim."""


def packed(head: object, message: bytes = MESSAGE.to_bytes()) -> bytes:
    """Return a turn's bytes with a digest that fits, whatever the head is."""
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return len(text).to_bytes(8, "little") + hashlib.sha256(text).digest() + text + message


def safetensors(header: object, body: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def head_of(reply: Reply, **changes: object) -> dict[str, object]:
    return {**reply.kept(), "adapter": None, **changes}


ASK = {name: getattr(Ask(1), name) for name in ASK_HEAD}
TERA = 2**40
LIES = {
    "a header of terabytes": TERA.to_bytes(8, "little") + b"{}",
    "the longest header": (2**64 - 1).to_bytes(8, "little") + b"{}",
    "a tensor of terabytes": safetensors({"lora/a": {"dtype": "F32", "shape": [TERA], "data_offsets": [0, 4 * TERA]}}),
    "a shape of terabytes over few bytes": safetensors(
        {"lora/a": {"dtype": "F32", "shape": [TERA], "data_offsets": [0, 8]}}, bytes(8)
    ),
    "an empty tensor with endless sides": safetensors(
        {"lora/a": {"dtype": "F32", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}}
    ),
    "two tensors in the same place": safetensors(
        {f"lora/{n}": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]} for n in range(2)}, bytes(8)
    ),
    "JSON without end in the header": (100_000).to_bytes(8, "little") + b"[" * 100_000,
    "JSON without end in the metadata": save({"lora/a": torch.ones(1)}, metadata={"message": "[" * 100_000}),
    "JSON without end in a turn": packed(b"[" * 100_000),
    "objects without end in a turn": packed(b'{"a":' * 50_000),
    "a number of a hundred thousand digits": packed(b'{"round": ' + b"9" * 100_000 + b"}"),
    "a pickle": pickle.dumps(MESSAGE.scalars),
    "a pickle behind a length": packed(pickle.dumps({"round": 1})),
    "a file of torch": b"PK\x03\x04" + bytes(64),
}


def reserved() -> int:
    """Return the most address space that this process has had."""
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(text.partition("VmPeak:")[2].split()[0])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="/proc tells the memory of a process")
def test_no_lie_takes_memory_or_is_unpickled():
    dice = np.random.default_rng(0)
    generated = [target.damaged(dice) for target in targets().values() if target.name in ("message", "ask", "reply")]
    before = reserved()
    with damage.never_unpickling() as unpickled:
        for data in (*LIES.values(), *generated):
            for read in (Message.from_bytes, Ask.from_bytes, Reply.from_bytes):
                assert damage.peak_of(read, data) <= TIMES * len(data) + SPARE
    assert not unpickled
    assert reserved() - before < MOST_RESERVED


@pytest.mark.parametrize("lie", LIES)
def test_every_lie_is_a_message_error(lie):
    for read in (Message.from_bytes, Ask.from_bytes, Reply.from_bytes):
        with pytest.raises(MessageError):
            read(LIES[lie])


def test_a_turned_bit_anywhere_in_a_message_is_noticed():
    sound = MESSAGE.to_bytes()
    dice = np.random.default_rng(0)
    for at in dice.permutation(len(sound))[:400]:
        damaged = bytearray(sound)
        damaged[at] ^= 1 << int(dice.integers(8))
        try:
            found = Message.from_bytes(bytes(damaged))
        except MessageError:
            continue
        # Spaces in the header, and letters of its digest in another case, mean the same.
        assert found.scalars == MESSAGE.scalars
        assert all(torch.equal(found.tensors[name], tensor) for name, tensor in MESSAGE.tensors.items())


def test_what_a_reply_tells_must_be_what_a_device_can_tell():
    wrong = (
        ("losses", {"private": "1.5"}), ("losses", {"private": True}), ("losses", {"private": [1.0]}),
        ("steps", {"private": 1.5}), ("steps", {"private": -1}), ("seconds", {}), ("seconds", {"training": 1.0}),
        ("seconds", {"training": -1.0, "evaluation": 0.0}), ("scores", {"f1": 0.5}), ("scores", {"f1": {"value": 0.5}}),
        ("scores", {"f1": {"value": "x", "n": 1, "higher_is_better": True}}), ("answers", {"texts": []}),
        ("answers", {"texts": ["a"], "scores": {"f1": []}}), ("answers", {"texts": [1], "scores": {}}),
        ("answers", {"texts": ["a"], "scores": {"f1": ["x"]}}),
    )  # fmt: skip  # pairs
    assert Reply.from_bytes(packed(head_of(REPLY))).kept() == REPLY.kept()
    for name, value in wrong:
        with pytest.raises(MessageError, match=f"the {name} of a reply are none"):
            Reply.from_bytes(packed(head_of(REPLY, **{name: value})))


def test_json_that_others_read_otherwise_is_refused():
    whole = json.dumps(ASK)
    for text in (
        whole.replace("1", "NaN"), whole.replace("1", "1e999"), whole.replace("{", '{"round": 2, ', 1),
        whole.replace('"round"', '"round\\ud800"'),
    ):  # fmt: skip  # four texts
        with pytest.raises(MessageError):
            Ask.from_bytes(packed(text.encode()))


def test_numbers_that_are_none_do_not_get_in():
    for value in (float("nan"), float("inf")):
        tensors = {"upload/lora/a": torch.tensor([1.0, value])}
        values = {"scalars": {}, "sha256": content_digest({}, tensors)}
        message = save(tensors, metadata={"message": json.dumps(values)})
        with pytest.raises(MessageError, match="holds NaN or infinity"):
            Reply.from_bytes(packed(head_of(REPLY), message))
        with pytest.raises(MessageError, match="holds NaN or infinity"):
            Ask.from_bytes(packed(ASK, message))


def test_greetings_must_say_what_devices_say():
    assert greetings_from_json(greetings_json(GREETINGS)) == GREETINGS
    (greeting,) = GREETINGS.values()
    values = dataclasses.asdict(greeting)
    changes = (
        {"finished": "2"}, {"finished": True}, {"modalities": [1]}, {"samples": []}, {"samples": {"train": "3"}},
        {"versions": {"torch": 2}}, {"data": None}, {"more": 1},
    )  # fmt: skip  # one each
    texts = [json.dumps({"d00": values | change}) for change in changes]
    for text in (*texts, "[]", "{", "[" * 9999, json.dumps({"d00": []}), json.dumps({"d00": {"finished": 1}})):
        with pytest.raises(MessageError, match="no greetings of devices"):
            greetings_from_json(text)
