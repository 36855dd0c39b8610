"""Laws of the device's side of the seam: turns are idempotent, can be taken again, and travel and are kept exactly."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import sys

import numpy as np
import pytest
import torch

import toy
from mlecs_bench.doors.scoring import Metric
from mlecs_bench.errors import AccessError, DataError, MessageError, MlecsError, PluginError, UsageError
from mlecs_bench.federation.fleet import greetings_from_json, greetings_json
from mlecs_bench.federation.host import DeviceHost, own_versions
from mlecs_bench.federation.messages import Message
from mlecs_bench.federation.turns import (
    KINDS,
    Ask,
    DefectError,
    FileTurns,
    FinalModel,
    MemoryTurns,
    Refusal,
    Reply,
    StaleTurn,
    Turn,
)
from mlecs_bench.plan.conditions_compression import Compression

IDS = ("d00", "d01")
FLOAT_ROUND = (
    b'{"round": 2.0, "score": true, "last": false, "answers": false, "model": false, "without_each": false, '
    b'"after": null, "train": true}'
)
"""The head of an ask whose round is no whole number."""
DTYPES = (
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.int32, torch.int64, torch.uint8,
    torch.bool,
)  # fmt: skip  # one set
FIRST = Message({"x/y": torch.tensor([1.5, -2.0])}, {"step": 3})
SECOND = Message({"x/y": torch.tensor([0.25, 4.0])}, {"step": 1})


class Walk:
    """An algorithm that moves a device's adapter and memory by what it receives, and fails where it is told to."""

    def __init__(self) -> None:
        self.done: list[tuple[str, str, int]] = []
        self.fails_in = ""

    def receive(self, device, message, t):
        self._step("receive", device, t, message.of_kind("x").get("y", torch.zeros(2)))

    def local_update(self, device, t):
        device.count_steps("private", 1)
        device.logs["private"] = 0.5 / t
        self._step("local_update", device, t, torch.full((2,), float(t)))
        return Message({"x/sum": device.memory["sum"]}, {"steps": int(device.memory["n"])})

    def _step(self, name, device, t, change):
        self.done.append((name, device.id, t))
        device.memory["sum"] = device.memory.get("sum", torch.zeros(2)) + change
        device.memory["n"] = device.memory.get("n", torch.zeros((), dtype=torch.int64)) + 1
        with torch.no_grad():
            for p in device.model.part("lora").values():
                p.add_(float(change[0]))
        if self.fails_in == name:
            raise DataError(f"{name} failed")


class Reading:
    """An evaluator that reads the model's adapter, and fails when it is told to; `asked` is how often it was."""

    fails = False
    asked = 0

    def score(self, model, test, prompt):
        self.asked += 1
        if self.fails:
            raise DataError("score failed")
        value = sum(float(p.detach().double().sum()) for p in model.part("lora").values())
        return {"sum": Metric(value, len(test))}


@pytest.fixture(scope="module")
def federation(profile, samples):
    return toy.toy_federation(profile, samples, n_devices=2, rounds=4, steps=1)


@pytest.fixture(scope="module")
def initial(federation):
    return {device.id: device.state() for device in federation.devices}


@pytest.fixture
def make(federation, initial):
    """Return a function that builds a host as a fresh process would: devices at their start, turns as they are kept."""

    def host(turns) -> DeviceHost:
        for device in federation.devices:
            device.load_state(initial[device.id])
        made = DeviceHost(federation.devices, Walk(), Reading(), turns)
        made.algorithm, made.evaluator = made._algorithm, made._scores._evaluator
        return made

    return host


@pytest.fixture
def keepers(tmp_path):
    """Both ways of keeping turns."""
    return (MemoryTurns(), FileTurns(tmp_path, "key"))


def ask(t: int, last: bool = False) -> Ask:
    return Ask(t, FIRST if t % 2 else SECOND, score=True, last=last)


def play(host: DeviceHost, rounds, ids=IDS) -> None:
    for t, id_ in itertools.product(rounds, ids):
        host.turn(id_, ask(t))


def states_of(host: DeviceHost) -> dict[str, torch.Tensor]:
    return {f"{id_}:{name}": t for id_ in host.devices for name, t in host._roster.come(id_).state().items()}


def without_seconds(reply: Reply) -> bytes:
    return Reply(reply.upload, reply.scores, reply.losses, reply.steps, {"training": 0.0, "evaluation": 0.0}).to_bytes()


# --------------------------------------------------------------------------------------------------------------- turns


def test_a_finished_round_is_answered_again_with_the_same_bytes_and_no_work(make, keepers):
    for turns in keepers:
        host = make(turns)
        first = {t: host.turn("d00", ask(t)).to_bytes() for t in (1, 2)}
        state, done = states_of(host), list(host.algorithm.done)
        for t in (2, 1, 1, 2):
            assert host.turn("d00", ask(t)).to_bytes() == first[t]
            assert host.turn("d00", Ask(t)).to_bytes() == first[t], "whatever is asked for a second time"
        assert host.algorithm.done == done
        assert not toy.differing(states_of(host), state)


def test_turns_whose_messages_are_compressed_are_idempotent_and_go_on_from_what_is_kept(federation, initial, tmp_path):
    def host(turns) -> DeviceHost:
        for device in federation.devices:
            device.load_state(initial[device.id])
        return DeviceHost(federation.devices, Long(), toy.Unscored(), turns, compression=Compression("topk", 0.1))

    class Long(Walk):
        def local_update(self, device, t):
            super().local_update(device, t)
            return Message({"x/long": torch.sin(torch.arange(60.0) * t)})

    def replies(made: DeviceHost, rounds, heard=lambda t: t - 1) -> dict[int, bytes]:
        return {t: without_seconds(made.turn("d00", Ask(t, after=heard(t)))) for t in rounds}

    steady = replies(host(MemoryTurns()), range(1, 5))
    assert len(steady[4]) < len(steady[1])
    made = host(FileTurns(tmp_path, "key"))
    assert replies(made, (1, 1, 2, 1, 2)) == {t: steady[t] for t in (1, 2)}
    again = host(FileTurns(tmp_path, "key"))
    assert replies(again, (2, 3, 3, 4)) == {t: steady[t] for t in (2, 3, 4)}
    unheard = replies(host(MemoryTurns()), range(1, 4), heard=lambda t: 0)
    assert all("x/long#whole" in Reply.from_bytes(reply).upload.tensors for reply in unheard.values())


def test_a_reply_has_what_the_turn_gave(make):
    host = make(MemoryTurns())
    reply = host.turn("d01", ask(1))
    assert reply.upload.tensors["x/sum"].tolist() == [2.5, -1.0]
    assert reply.upload.scalars == {"steps": 2}
    assert (reply.losses, reply.steps) == ({"private": 0.5}, {"private": 1})
    assert reply.scores["sum"]["n"] == len(host._roster.come("d01").test)
    assert set(reply.seconds) == {"training", "evaluation"}
    silent = host.turn("d00", Ask(1, FIRST))
    assert silent.scores is None
    last = host.turn("d01", ask(2, last=True))
    assert (last.upload, last.steps, last.losses) == (Message(), {}, {})
    assert last.scores["sum"]["value"] != reply.scores["sum"]["value"]


def test_a_receiver_cannot_change_what_is_kept(make, keepers):
    for turns in keepers:
        host = make(turns)
        first = host.turn("d00", ask(1))
        wanted = first.to_bytes()
        for reply in (first, host.turn("d00", ask(1)), host.turn("d00", ask(1))):
            assert reply.to_bytes() == wanted
            reply.upload.tensors["x/sum"].fill_(9.0)


def test_a_stale_an_early_and_a_late_ask_are_typed_errors_and_change_nothing(make, keepers):
    for turns in keepers:
        straight = make(MemoryTurns())
        play(straight, (1, 2, 3, 4))
        expected = without_seconds(straight.turn("d00", ask(4)))
        host = make(turns)
        for finished in range(4):
            state = states_of(host)
            kept = range(max(1, finished - 1), finished + 2)
            for t in {-1, 0, 1, 2, 3, 4, 5, 6} - set(kept):
                with pytest.raises(StaleTurn, match=r"^d00 (cannot take|has finished) round") as caught:
                    host.turn("d00", ask(t))
                assert "\n" not in str(caught.value)
            assert not toy.differing(states_of(host), state)
            play(host, (finished + 1,))
        assert without_seconds(host.turn("d00", ask(4))) == expected


def test_a_turn_that_failed_half_way_is_taken_again_with_the_same_bits(make, keepers):
    straight = make(MemoryTurns())
    play(straight, (1, 2))
    expected = {t: without_seconds(straight.turn("d00", ask(t))) for t in (1, 2)}
    wanted = states_of(straight)
    for turns, where in itertools.product(keepers, ("receive", "local_update", "score")):
        host = make(turns)
        host.hello(0)
        for t in (1, 2):
            host.algorithm.fails_in, host.evaluator.fails = where, where == "score"
            for _ in range(2):
                with pytest.raises(DataError, match=f"{where} failed"):
                    host.turn("d00", ask(t))
            host.algorithm.fails_in, host.evaluator.fails = "", False
            host.turn("d01", ask(t))
            assert without_seconds(host.turn("d00", ask(t))) == expected[t]
        assert not toy.differing(states_of(host), wanted)
        for id_ in IDS:
            turns.forget(id_)


def test_a_turn_beyond_the_budget_is_not_kept(make, monkeypatch):
    host = make(MemoryTurns())
    monkeypatch.setattr(Walk, "local_update", lambda _self, device, _t: device.count_steps("private", 2) or Message())
    with pytest.raises(PluginError, match="d00 took 2 private steps in round 1; the budget is 1"):
        host.turn("d00", ask(1))
    assert host.hello(0)["d00"].finished == 0


def test_only_devices_that_are_here_are_asked(make):
    with pytest.raises(PluginError, match="'d07' is no device here; here are d00, d01"):
        make(MemoryTurns()).turn("d07", ask(1))


def nudge(parameter: torch.Tensor) -> None:
    """Change one bit of a tensor, the sign of a zero if its first element is one."""
    flat = parameter.detach().view(-1)
    flat[0] = -0.0 if float(flat[0]) == 0 else torch.nextafter(flat[0], torch.tensor(torch.inf))


def test_a_device_is_scored_again_only_after_something_that_its_answers_depend_on_has_changed(make, monkeypatch):
    """One bit of any tensor is enough; the algorithm is not asked."""
    for part in ("nothing", "encoder", "soft_prompt", "lora"):
        host = make(MemoryTurns())
        monkeypatch.setattr(host.algorithm, "receive", lambda *_: None)
        first = host.turn("d00", ask(1))
        asked = host.evaluator.asked
        if part != "nothing":
            nudge(host._roster.come("d00").model.parameters([part])[-1])
        second = host.turn("d00", Ask(2, Message(), score=True, last=True))
        assert host.evaluator.asked - asked == (part != "nothing"), part
        if part == "nothing":
            assert second.scores == first.scores


def test_another_prompt_or_other_test_samples_are_scored_again(make, monkeypatch):
    host = make(MemoryTurns())
    monkeypatch.setattr(host.algorithm, "receive", lambda *_: None)
    device = host._roster.come("d01")
    host.turn("d01", ask(1))
    asked = host.evaluator.asked
    with monkeypatch.context() as changed:
        changed.setattr(device, "prompt", f"{device.prompt} ")
        host._scores.of(device)
    with monkeypatch.context() as changed:
        changed.setattr(device, "test", device.test.part(device.test.rows[:1]))
        host._scores.of(device)
    assert host.evaluator.asked - asked == 2


# ---------------------------------------------------------------------------------------------------------- greetings


def test_a_greeting_says_what_a_device_is(make, federation):
    greetings = make(MemoryTurns()).hello(0)
    assert greetings_from_json(greetings_json(greetings)) == greetings
    for device in federation.devices:
        greeting = greetings[device.id]
        assert (greeting.finished, greeting.modalities) == (0, device.modalities)
        assert greeting.parameters == device.model.backbone.n_parameters
        assert greeting.samples == {"train": len(device.train), "test": len(device.test)}
        assert (greeting.data, greeting.versions) == ("0" * 64, own_versions())
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert own_versions().items() >= {"torch": torch.__version__, "python": python}.items()


def test_a_server_may_be_one_round_behind_and_goes_on_with_the_kept_replies(make, tmp_path):
    host = make(FileTurns(tmp_path, "key"))
    play(host, (1, 2, 3))
    wanted, replies = states_of(host), {t: host.turn("d00", ask(t)).to_bytes() for t in (2, 3)}
    host = make(FileTurns(tmp_path, "key"))
    assert [greeting.finished for greeting in host.hello(2).values()] == [3, 3]
    assert not toy.differing(states_of(host), wanted)
    assert host.turn("d00", ask(3)).to_bytes() == replies[3]
    assert [g.finished for g in make(FileTurns(tmp_path, "key")).hello(1).values()] == [3, 3], "two kept rounds do too"
    assert host.algorithm.done == []


def test_a_server_that_is_further_away_is_refused_in_one_line(make, tmp_path):
    play(make(FileTurns(tmp_path, "key")), (1, 2, 3, 4))
    host = make(FileTurns(tmp_path, "key"))
    with pytest.raises(StaleTurn, match=r"^d00 has finished round 4 and the server round 1: too far apart$"):
        host.hello(1)
    FileTurns(tmp_path, "key").forget("d01")
    greetings = make(FileTurns(tmp_path, "key")).hello(4)
    assert [greeting.finished for greeting in greetings.values()] == [4, 0], "which the server judges"


def test_a_device_may_miss_rounds_and_is_followed_from_where_it_was(make, keepers):
    """An ask that says after which round it comes may be for any later one; two turns are kept all the same."""
    for turns in keepers:
        host = make(turns)
        play(host, (1,), ids=("d00",))
        late = dataclasses.replace(ask(3), after=1)
        with pytest.raises(StaleTurn, match=r"^d00 cannot take round 3: the last that it has finished is 1$"):
            host.turn("d00", ask(3))
        with pytest.raises(StaleTurn, match=r"^d00 cannot take round 3"):
            host.turn("d00", dataclasses.replace(late, after=2))
        reply = host.turn("d00", late).to_bytes()
        assert host.turn("d00", late).to_bytes() == reply, "asked again it is answered again"
        host = make(turns)
        for after, finished in ((3, 3), (2, 3), (1, 3), (0, 3)):  # both turns are kept, so any of these can go on
            assert host.hello(after)["d00"].finished == finished
        for t in (4, 5):
            host.turn("d00", Ask(t, FIRST, after=t - 1))
        assert host.hello(3)["d00"].finished == 5
        with pytest.raises(StaleTurn, match=r"^d00 has finished round 5 and the server round 2: too far apart$"):
            host.hello(2)


def test_a_device_that_is_only_measured_stays_as_it_is(make, keepers):
    for turns in keepers:
        host = make(turns)
        play(host, (1,))
        state = states_of(host)
        reply = host.turn("d00", Ask(3, score=True, train=False))
        assert reply.scores == host.turn("d00", ask(1)).scores
        assert (reply.upload.tensors, reply.losses, reply.steps) == ({}, {}, {})
        assert not toy.differing(states_of(host), state)
        assert host.hello(1)["d00"].finished == 1


def test_a_server_that_starts_afresh_makes_its_devices_do_so(make, keepers):
    for turns in keepers:
        straight = make(MemoryTurns())
        play(straight, (1, 2))
        expected = without_seconds(straight.turn("d00", ask(2)))
        host = make(turns)
        play(host, (1, 2, 3))
        host.algorithm.done.clear()
        assert [greeting.finished for greeting in host.hello(0).values()] == [0, 0]
        assert not any(turns.load(id_) for id_ in IDS)
        play(host, (1, 2))
        assert without_seconds(host.turn("d00", ask(2))) == expected
        assert len(host.algorithm.done) == 2 * 2 * 2


def test_devices_that_still_keep_the_first_round_answer_a_server_that_starts_afresh(make, keepers):
    for turns in keepers:
        host = make(turns)
        play(host, (1, 2))
        first = host.turn("d00", ask(1)).to_bytes()
        assert [greeting.finished for greeting in host.hello(0).values()] == [2, 2]
        assert host.turn("d00", ask(1)).to_bytes() == first


def test_devices_of_one_host_may_be_a_round_apart(make, tmp_path):
    host = make(FileTurns(tmp_path, "key"))
    play(host, (1,))
    host.turn("d01", ask(2))
    assert [greeting.finished for greeting in make(FileTurns(tmp_path, "key")).hello(1).values()] == [1, 2]


# ------------------------------------------------------------------------------------------- how turns travel and stay


def random_message(generator: np.random.Generator) -> Message:
    tensors = {}
    for i in range(generator.integers(4)):
        shape = tuple(generator.integers(0, 4, size=generator.integers(0, 4)))
        values = torch.as_tensor(np.asarray(generator.integers(0, 100, size=shape) / 8))
        tensors[f"kind{i}/größe.{i}"] = values.to(DTYPES[generator.integers(len(DTYPES))])
    scalars = {"n": int(generator.integers(-(2**62), 2**62)), "x": float(generator.normal()), "tiny": 5e-324, "z": -0.0}
    return Message(tensors, dict(list(scalars.items())[: generator.integers(5)]))


def random_reply(generator: np.random.Generator) -> Reply:
    score = {"value": float(generator.normal()), "n": int(generator.integers(9)), "higher_is_better": None}
    scores = ({}, None, {"f1": score, "größe": score})[generator.integers(3)]
    return Reply(
        random_message(generator),
        scores,
        {"private": float(generator.normal()), "third": 1 / 3},
        {"private": int(generator.integers(99))},
        {"training": float(generator.random()), "evaluation": 0.0},
    )


def assert_same_message(one: Message, other: Message) -> None:
    assert not toy.differing(one.tensors, other.tensors)
    assert [t.shape for t in one.tensors.values()] == [other.tensors[name].shape for name in one.tensors]
    assert list(one.scalars.items()) == list(other.scalars.items())
    assert [(type(v), math.copysign(1, v)) for v in one.scalars.values()] == [
        (type(v), math.copysign(1, v)) for v in other.scalars.values()
    ]


def test_asks_replies_and_refusals_come_back_from_bytes_as_they_were():
    generator = np.random.default_rng(0)
    for _ in range(100):
        ask = Ask(int(generator.integers(99)), random_message(generator), *map(bool, generator.integers(2, size=4)))
        again = Ask.from_bytes(ask.to_bytes())
        assert dataclasses.replace(again, message=ask.message) == ask
        assert_same_message(again.message, ask.message)
        reply = random_reply(generator)
        if generator.integers(2):
            answers = {"texts": ["ä\n", ""], "scores": {"rouge": [0.5, None]}}
            model = FinalModel(random_message(generator).tensors, {"r": 8})
            reply = dataclasses.replace(reply, answers=answers, model=model)
        back = Reply.from_bytes(reply.to_bytes())
        assert back.kept() == reply.kept()
        assert_same_message(back.upload, reply.upload)
        assert (back.model is None) == (reply.model is None)
        if back.model and reply.model:
            assert_same_message(Message(back.model.tensors), Message(reply.model.tensors))
            assert back.model.adapter == reply.model.adapter
    for kind, text in itertools.product(KINDS, ("", "one line", "größe\nTraceback:\n  x\n", "\n")):
        refusal = Refusal(kind, text)
        assert Refusal.from_bytes(refusal.to_bytes()) == refusal
        error = refusal.error()
        assert type(error) is KINDS[kind]
        assert error.args == (text,)
        assert str(error) == ("\\n".join(text.splitlines()) if KINDS[kind] is UsageError else text)


def test_bytes_of_an_ask_are_these():
    data = Ask(2, Message({"a/b": torch.tensor([1.0])}, {"n": 1}), score=True, model=True).to_bytes()
    head = b'{"round": 2, "score": true, "last": false, "answers": false, "model": true, '
    head += b'"without_each": false, "after": null, "train": true}'
    assert data[:8] == len(head).to_bytes(8, "little")
    assert data[8:40] == hashlib.sha256(head).digest()
    assert data[40 : 40 + len(head)] == head
    assert data[40 + len(head) :] == Message({"a/b": torch.tensor([1.0])}, {"n": 1}).to_bytes()


def test_every_error_arrives_as_the_nearest_kind():
    class SpecialError(AccessError):
        pass

    arrives = {
        UsageError("a"): UsageError, DataError("a"): DataError, PluginError("a"): PluginError,
        SpecialError("a"): AccessError,
        MessageError("a"): MessageError, StaleTurn("a"): StaleTurn, DefectError("a"): DefectError,
        MlecsError("a"): MlecsError,
    }  # fmt: skip  # pairs
    for error, type_ in arrives.items():
        again = Refusal.from_bytes(Refusal.of(error).to_bytes()).error()
        assert (type(again), str(again)) == (type_, "a")


def test_damaged_bytes_are_a_message_error():
    generator = np.random.default_rng(0)
    sound = (Ask(3, FIRST).to_bytes(), random_reply(generator).to_bytes())
    for read, data, other in ((Ask, *sound), (Reply, *reversed(sound))):
        wrong = [data[:length] for length in range(len(data))] + [other, b"", data[8:], b"\xff" * 40]
        wrong += [generator.bytes(length) for length in range(200)]
        for head in (b"[]", b'"a"', b"{}", b"null", FLOAT_ROUND, b'[["round", 1]]'):
            wrong.append(len(head).to_bytes(8, "little") + hashlib.sha256(head).digest() + head + FIRST.to_bytes())
        for case in wrong:
            with pytest.raises(MessageError, match=f"^{len(case)} bytes are not a turn|bytes are not a message"):
                read.from_bytes(case)
        for _ in range(300):
            damaged = bytearray(data)
            damaged[int(generator.integers(len(data)))] ^= int(generator.integers(1, 256))
            with pytest.raises(MessageError):
                read.from_bytes(bytes(damaged))
    for data in (b"", b"defect", b"unknown\nx", b"\xff\n"):
        with pytest.raises(MessageError, match="are not a refusal"):
            Refusal.from_bytes(data)


def test_kept_turns_come_back_as_they_were_the_latest_first(keepers):
    generator = np.random.default_rng(1)
    for turns in keepers:
        for device in ("d00", "d10"):
            saved: list[Turn] = []
            for t in range(1, 30):
                state = {f"model/{name}": tensor for name, tensor in random_message(generator).tensors.items()}
                saved.insert(0, Turn(t, state, random_reply(generator)))
                turns.save(device, saved[0])
                loaded = turns.load(device)
                assert [turn.round for turn in loaded] == [t, t - 1][: len(saved)], "two rounds and no more"
                for one, other in zip(loaded, saved, strict=False):
                    assert not toy.differing(one.state, other.state)
                    assert one.reply.head() == other.reply.head()
                    assert_same_message(one.reply.upload, other.reply.upload)
        turns.forget("d10")
        assert turns.load("d10") == turns.load("d11") == []
        assert len(turns.load("d00")) == 2


def test_files_are_one_per_device_and_round_and_other_cells_files_are_passed_over(tmp_path):
    ours, theirs = FileTurns(tmp_path, "ours"), FileTurns(tmp_path, "theirs")

    def turn(t: int, value: float) -> Turn:
        seconds = {"training": 0.0, "evaluation": 0.0}
        return Turn(t, {"model/a": torch.tensor(value)}, Reply(Message(), None, {}, {}, seconds))

    def kept(turns: FileTurns) -> list[tuple[int, float]]:
        return [(turn.round, float(turn.state["model/a"])) for turn in turns.load("d00")]

    for t in (3, 4):
        theirs.save("d00", turn(t, -1.0))
    (tmp_path / ".d00-round000009.part").write_bytes(b"what a kill left")
    assert kept(ours) == []
    for t in (1, 2, 3):
        ours.save("d00", turn(t, float(t)))
        assert kept(ours) == [(t, float(t)), (t - 1, t - 1.0)][:t]
    assert kept(theirs) == []
    names = {"d00-round000002.safetensors", "d00-round000003.safetensors", ".d00-round000009.part"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_a_kept_turn_that_is_damaged_is_named(make, tmp_path):
    play(make(FileTurns(tmp_path, "key")), (1,))
    path = tmp_path / "d00-round000001.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(MlecsError, match=f"{path.name} is not a checkpoint") as caught:
        make(FileTurns(tmp_path, "key"))
    assert "\n" not in str(caught.value)
