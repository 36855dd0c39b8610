"""The device side of a federation: some devices on one backbone, which take turns when they are asked."""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlecs_bench.errors import NotFiniteError, PluginError
from mlecs_bench.federation.compression import Link
from mlecs_bench.federation.ledger import Direction
from mlecs_bench.federation.messages import Message
from mlecs_bench.federation.party import named, under
from mlecs_bench.federation.roster import KeptDevices, Roster
from mlecs_bench.federation.saved import final_model
from mlecs_bench.federation.scoring import LastScores, Scoring
from mlecs_bench.federation.turns import Ask, Reply, StaleTurn, Turn, Turns
from mlecs_bench.plan.conditions_compression import Compression

if TYPE_CHECKING:
    import torch

    from mlecs_bench.federation.algorithm import Algorithm
    from mlecs_bench.federation.device import Device

LINK = "link"
"""What a saved state calls what is kept of messages that travelled compressed."""
Carry = Callable[[Message, str, Direction, int], Message]
"""Takes a message of a device, in a direction and round, out of its sender's hands: returns what the receiver gets."""


def copied(message: Message, _device: str, _direction: Direction, _t: int) -> Message:
    """Return a checked copy that shares no memory with the sender's tensors."""
    return message.copied()


GREETED: Mapping[str, type] = {
    **{"finished": int, "modalities": tuple, "parameters": int, "samples": dict, "random_encoders": tuple},
    **{"data": str, "versions": dict},
}
"""The types of what a greeting says."""
INSIDE = {"modalities": str, "random_encoders": str, "samples": int, "versions": str}
"""The types of what its lists and mappings hold."""


def _inside(value: object) -> list[object]:
    return [*value.values()] if isinstance(value, dict) else [*value] if isinstance(value, tuple) else []


@dataclass(frozen=True)
class Greeting:
    """What a device says of itself before the first round of a run, or when a run goes on.

    `finished` is its last finished round; `modalities` are all that it holds in any round; `parameters` is the size of
    its language model; `samples` are its training and test samples; `random_encoders` the modalities whose encoders
    start at random although the profile has pretrained ones. `data` is the digest of its data; `versions` are those of
    what can change a number.
    """

    finished: int
    modalities: tuple[str, ...]
    parameters: int
    samples: Mapping[str, int]
    random_encoders: tuple[str, ...]
    data: str
    versions: Mapping[str, str]

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Greeting:
        """Read what `dataclasses.asdict` and JSON made of a greeting; raises ValueError, or what other types raise."""
        if values.keys() != GREETED.keys():
            raise ValueError(f"a greeting holds {', '.join(GREETED)}, got {', '.join(map(str, values))[:80]}")
        lists = {name: tuple(values[name]) for name in ("modalities", "random_encoders")}
        for name, value in {**values, **lists}.items():
            if type(value) is not GREETED[name] or not all(type(one) is INSIDE.get(name) for one in _inside(value)):
                raise ValueError(f"'{name}' of a greeting cannot be {str(value)[:40]}")
        return cls(**{**values, **lists})


def own_versions() -> dict[str, str]:
    """Return the versions of what can change a number on this side."""
    import torch
    import transformers

    from mlecs_bench import __version__

    return {
        "mlecs-bench": __version__,
        "python": ".".join(platform.python_version_tuple()[:2]),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


class DeviceHost:
    """Some devices of one cell, on one backbone. Turns are idempotent: a finished round is answered from what is kept.

    `turns` None keeps nothing, which suits devices without values. `carry` takes uploads out of the devices' hands;
    `compression` says how they travel, and how broadcasts do.
    """

    def __init__(  # noqa: PLR0913  # by name, all that a host may be told
        self,
        devices: Sequence[Device] | Roster,
        algorithm: Algorithm,
        evaluator: Scoring,
        turns: Turns | None = None,
        *,
        carry: Carry = copied,
        random_encoders: Mapping[str, Sequence[str]] | None = None,
        compression: Compression | None = None,
    ) -> None:
        if isinstance(devices, Sequence):
            devices = KeptDevices(devices, remember=turns is not None)
        self._roster = devices
        self._greetings: dict[str, Greeting] = {}
        self._algorithm = algorithm
        self._scores = LastScores(evaluator)
        self._turns = turns
        self._carry = carry
        self._random_encoders = random_encoders or {}
        self._link = Link(compression or Compression(), "up")
        self._finished = dict.fromkeys(self._roster.ids, 0)
        self._broken: set[str] = set()
        for id_ in self._roster.ids:
            self.restore(id_)

    @property
    def devices(self) -> tuple[str, ...]:
        """The ids of the devices."""
        return self._roster.ids

    def hello(self, after: int) -> dict[str, Greeting]:
        """Greet a server that has finished round `after`, 0 for none; return a greeting of every device.

        A server that starts afresh makes the devices start afresh, too, but for a first round that they can answer.
        Raises StaleTurn when a device is so far ahead that it has no reply left for the server's next round. Whether
        one is behind is for the server to say, who is told of its last finished round.
        """
        for id_ in self._roster.ids:
            if self._is_too_far(id_, after):
                if after:
                    raise StaleTurn(
                        f"{id_} has finished round {self._finished[id_]} and the server round {after}: too far apart"
                    )
                self._start_afresh(id_)
        return {id_: self._greeting(id_) for id_ in self._roster.ids}

    def restore(self, id_: str) -> None:
        """Bring a device to its last finished round, as what is kept of its turns says, wherever they were taken."""
        kept = self._kept(id_)
        if kept:
            self._finished[id_] = kept[0].round
        if not self._roster.come_and_go:  # else its state is put back when it comes
            if kept:
                self._load(self._roster.come(id_), kept[0].state)
            elif id_ in self._broken:
                self._begin_again(id_)
        self._broken.discard(id_)

    def _here(self, id_: str) -> Device:
        """Return a device in the state of its last finished round."""
        device = self._roster.come(id_)
        if not self._roster.come_and_go:
            if id_ in self._broken:
                self.restore(id_)
        elif kept := self._kept(id_):
            self._load(device, kept[0].state)
        return device

    def _gone(self, id_: str) -> None:
        """Let a device go, and what is kept of its messages: both come again with its last turn."""
        self._roster.leave(id_)
        if self._roster.come_and_go:
            self._link.load_state(id_, {})

    def _is_too_far(self, id_: str, after: int) -> bool:
        """Has a device gone on from round `after` without keeping the first of the rounds behind it?"""
        if self._finished[id_] <= after:
            return False
        ahead = [turn for turn in self._kept(id_) if turn.round > after]
        return not ahead or ahead[-1].previous > after

    def turn(self, id_: str, ask: Ask) -> Reply:
        """Take a device's turn, or answer a finished round again; the model comes along if it is asked for.

        Raises StaleTurn for any other round than the next, PluginError for a device that is not here, and whatever
        goes wrong in the turn, after which the same turn can be taken again.
        """
        if id_ not in self._roster.ids:
            raise PluginError(f"'{id_}' is no device here; here are {', '.join(self._roster.ids)}")
        try:
            reply = self._answered(id_, ask)
            return dataclasses.replace(reply, model=final_model(self._here(id_).model)) if ask.model else reply
        finally:
            self._gone(id_)

    def _answered(self, id_: str, ask: Ask) -> Reply:
        finished = self._finished[id_]
        if not ask.train:
            return self._measured(id_, ask)
        if ask.round <= finished:
            reply = self._replies(id_).get(ask.round)
            if reply is None:
                raise StaleTurn(f"{id_} has finished round {finished} and keeps no reply of round {ask.round}")
            return reply
        if finished < (ask.round - 1 if ask.after is None else ask.after):
            raise StaleTurn(f"{id_} cannot take round {ask.round}: the last that it has finished is {finished}")
        device = self._here(id_)
        self._broken.add(id_)  # until the turn is over, its state is neither of this round nor of the one before
        if finished == (ask.round - 1 if ask.after is None else ask.after):  # the server has the last upload
            self._link.arrived(id_)
        reply = self._take(device, ask)
        if self._turns is not None:
            before = None if finished == ask.round - 1 else finished
            self._turns.save(id_, Turn(ask.round, self._state(device), reply, before))
        self._finished[id_] = ask.round
        self._broken.discard(id_)
        return reply

    def _measured(self, id_: str, ask: Ask) -> Reply:
        """Score a device as it is, which takes no part in the round."""
        device = self._here(id_)
        device.start_round(ask.round)
        started = time.perf_counter()
        scores, answers = self._scores.of(device, answers=ask.answers)
        return Reply(Message(), scores, {}, {}, {"training": 0.0, "evaluation": time.perf_counter() - started}, answers)

    def _take(self, device: Device, ask: Ask) -> Reply:
        """Take in the message, train unless it is the last one, and score."""
        started = time.perf_counter()
        device.start_round(ask.round)
        self._algorithm.receive(device, self._link.unpack(ask.message, device.id), ask.round)
        upload = Message() if ask.last else self._trained(device, ask.round)
        if ask.last and device.steps:
            raise PluginError(f"{device.id} trained after the last round ({device.steps}); only send and receive then")
        trained = time.perf_counter()
        scores, answers = self._scores.of(device, answers=ask.answers) if ask.score else (None, None)
        without = self._scores.without_each(device) if ask.without_each else None
        seconds = {"training": trained - started, "evaluation": time.perf_counter() - trained}
        return Reply(upload, scores, dict(device.logs), dict(device.steps), seconds, answers, without=without)

    def _trained(self, device: Device, t: int) -> Message:
        message = checked(self._algorithm.local_update(device, t), "local_update")
        device.check_budget(t)
        try:
            return self._link.pack(self._carry(message, device.id, "up", t), device.id)
        except NotFiniteError as error:
            raise NotFiniteError(f"{device.id}: {error}") from error

    def _kept(self, id_: str) -> list[Turn]:
        return [] if self._turns is None else self._turns.load(id_)

    def _replies(self, id_: str) -> dict[int, Reply]:
        return {turn.round: turn.reply for turn in self._kept(id_)}

    def _start_afresh(self, id_: str) -> None:
        if self._turns is not None:
            self._turns.forget(id_)
        self._begin_again(id_)
        self._finished[id_] = 0

    def _begin_again(self, id_: str) -> None:
        self._roster.begin_again(id_)
        self._link.load_state(id_, {})

    def _state(self, device: Device) -> dict[str, torch.Tensor]:
        """Return all that a device carries from round to round, its end of the link included."""
        return device.state() | named(LINK, self._link.state(device.id))

    def _load(self, device: Device, state: Mapping[str, torch.Tensor]) -> None:
        device.load_state(state)
        self._link.load_state(device.id, under(LINK, state))

    def _greeting(self, id_: str) -> Greeting:
        """Return the greeting of a device, which is put together for it once."""
        if id_ not in self._greetings:
            self._greetings[id_] = self._described(self._roster.come(id_))
            self._roster.leave(id_)
        return dataclasses.replace(self._greetings[id_], finished=self._finished[id_])

    def _described(self, device: Device) -> Greeting:
        manifest = device.train.manifest
        return Greeting(
            finished=self._finished[device.id],
            modalities=device.built_for,
            parameters=device.model.backbone.n_parameters,
            samples={"train": len(device.train), "test": len(device.test)},
            random_encoders=tuple(sorted(self._random_encoders.get(device.id, ()))),
            data=manifest.digest,
            versions=own_versions(),
        )


def checked(message: object, step: str) -> Message:
    """Return `message`; raises PluginError when an algorithm's step gave something else."""
    if not isinstance(message, Message):
        raise PluginError(f"the algorithm's {step} gave a {type(message).__name__}; it must give a Message")
    return message
