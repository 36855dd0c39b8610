"""Turns: what a device is asked for in a round, what it replies, and how both travel and are kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Protocol

import torch

from mlecs_bench.errors import (
    AccessError,
    DataError,
    MessageError,
    MlecsError,
    NotFiniteError,
    PluginError,
    UsageError,
)
from mlecs_bench.federation.checkpoint import Checkpoint, lease_file, load_checkpoint, save_checkpoint
from mlecs_bench.federation.lease import CellInUse, check_held
from mlecs_bench.federation.messages import Message, with_kind
from mlecs_bench.files import parsed_json

if TYPE_CHECKING:
    from mlecs_bench.federation.evaluation import Answers

Scores = Mapping[str, Mapping[str, Any]]
"""Metric → its value, n and direction, as a record holds them."""
_UPLOAD, _MODEL, _STATE = "upload", "model", "state"
LENGTH = 8
"""Bytes of a length."""
DEPTH = 2
"""How many rounds of a device are kept: the server may go on one round behind it."""


class StaleTurn(MlecsError):  # noqa: N818  # it is the ask that is stale
    """A device was asked for a round that it can neither take nor answer from what it keeps."""


class DeviceMissing(MlecsError):  # noqa: N818  # a state of affairs, no defect
    """A device gave no reply in time, or cannot be reached."""


class DefectError(MlecsError):
    """A defect in the code that ran on the device's side; the message is its traceback."""


KINDS: Mapping[str, type[MlecsError]] = {
    "usage": UsageError,
    "data": DataError,
    "plugin": PluginError,
    "access": AccessError,
    "not-finite": NotFiniteError,
    "message": MessageError,
    "stale": StaleTurn,
    "in use": CellInUse,
    "defect": DefectError,
    "missing": DeviceMissing,
    "failure": MlecsError,
}
"""What a refusal can be, from the most special error to the most general."""


ASK_HEAD = {
    **{"round": (int,), "score": (bool,), "last": (bool,), "answers": (bool,), "model": (bool,)},
    **{"without_each": (bool,), "after": (int, NoneType), "train": (bool,)},
}
"""The JSON values of an ask and their types."""


@dataclass(frozen=True)
class Ask:
    """What a device is asked for: to take in `message` in a round, to train, and to be scored if `score`.

    `last`: it is the broadcast after the last round, after which nothing is trained. `answers` and `model`: they come
    with the reply, which asks for nothing that is not computed anyway. `without_each`: it is scored once more without
    each of its modalities. `after` is the last round that the device has
    taken part in, as far as the server knows; None is the one before. Not to `train`: the device takes no part in the
    round and is scored as it is.
    """

    round: int
    message: Message = field(default_factory=Message)
    score: bool = False
    last: bool = False
    answers: bool = False
    model: bool = False
    without_each: bool = False
    after: int | None = None
    train: bool = True

    def to_bytes(self) -> bytes:
        """Return the ask as it travels."""
        return packed({name: getattr(self, name) for name in ASK_HEAD}, self.message)

    @classmethod
    def from_bytes(cls, data: bytes) -> Ask:
        """Read what `to_bytes` wrote; raises MessageError on anything else."""
        head, message = unpacked(data, ASK_HEAD)
        if head["round"] < 0:
            raise MessageError(f"an ask is for round {head['round']}; rounds are counted from 1")
        message.check_finite()
        return cls(message=message, **head)


KEPT_HEAD = {
    **{"scores": (dict, NoneType), "losses": (dict,), "steps": (dict,), "seconds": (dict,)},
    **{"answers": (dict, NoneType), "without": (dict, NoneType)},
}
"""The JSON values of a reply that are kept, and their types."""
REPLY_HEAD = {**KEPT_HEAD, "adapter": (dict, NoneType)}
"""The JSON values of a reply and their types."""


SECONDS = ("training", "evaluation")
"""What the seconds of a reply are of."""
SCORE = ("value", "n", "higher_is_better", "unseen")
"""What a score holds; the last may lack."""


@dataclass(frozen=True)
class FinalModel:
    """A party's model as a run leaves it: all that was trained, by ``part/name``, and the adapter's settings."""

    tensors: Mapping[str, torch.Tensor]
    adapter: Mapping[str, Any]


@dataclass(frozen=True)
class Reply:
    """What a device gives back: its upload, its scores if it was scored, and what its round took.

    `losses` are the means of the round's stages, `steps` the optimiser steps by stage, `seconds` by "training" and
    "evaluation". `answers`, `model` and `without` (the scores without each of its modalities, by these) are there if
    they were asked for; a reply is kept without its model, which is part of the state that the device keeps.
    """

    upload: Message
    scores: Scores | None
    losses: Mapping[str, float]
    steps: Mapping[str, int]
    seconds: Mapping[str, float]
    answers: Answers | None = None
    model: FinalModel | None = None
    without: Mapping[str, Scores] | None = None

    def head(self) -> dict[str, Any]:
        """Return what the reply tells of its round as JSON values."""
        return {
            "scores": self.scores,
            "losses": dict(self.losses),
            "steps": dict(self.steps),
            "seconds": dict(self.seconds),
        }

    def kept(self) -> dict[str, Any]:
        """Return all but the upload and the model as JSON values."""
        return {**self.head(), "answers": self.answers, "without": self.without}

    def to_bytes(self) -> bytes:
        """Return the reply as it travels."""
        tensors = with_kind(_UPLOAD, self.upload.tensors)
        if self.model is not None:
            tensors |= with_kind(_MODEL, self.model.tensors)
        head = {**self.kept(), "adapter": None if self.model is None else dict(self.model.adapter)}
        return packed(head, Message(tensors, self.upload.scalars))

    @classmethod
    def from_bytes(cls, data: bytes) -> Reply:
        """Read what `to_bytes` wrote; raises MessageError on anything else.

        The device need not be honest: what the server computes with and writes into a record is checked here.
        """
        head, message = unpacked(data, REPLY_HEAD)
        _check_told(head)
        adapter = head.pop("adapter")
        upload = Message(message.of_kind(_UPLOAD), message.scalars)
        upload.check_finite()
        return cls(upload, **head, model=None if adapter is None else FinalModel(message.of_kind(_MODEL), adapter))


def _check_told(head: Mapping[str, Any]) -> None:
    """Raise MessageError unless what a reply tells of its round is what a device can tell."""
    told = {
        "losses": all(_is_number(value) for value in head["losses"].values()),
        "steps": all(_is_count(value) for value in head["steps"].values()),
        "seconds": head["seconds"].keys() == set(SECONDS) and all(map(_is_share, head["seconds"].values())),
        "scores": all(map(_is_score, (head["scores"] or {}).values())),
        "answers": head["answers"] is None or _are_answers(head["answers"]),
        "without": all(
            isinstance(scores, dict) and all(map(_is_score, scores.values()))
            for scores in (head["without"] or {}).values()
        ),
    }
    wrong = next((name for name, holds in told.items() if not holds), None)
    if wrong is not None:
        raise MessageError(f"the {wrong} of a reply are none: {str(head[wrong])[:60]}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_share(value: object) -> bool:
    return _is_number(value) and value >= 0  # type: ignore[operator]  # numbers by now


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_score(value: object) -> bool:
    """Is it what `Metric.to_json` gives?"""
    if not isinstance(value, dict) or not {"value", "n", "higher_is_better"} <= value.keys() <= set(SCORE):
        return False
    return (
        _is_number(value["value"])
        and _is_count(value["n"])
        and isinstance(value["higher_is_better"], bool | None)
        and _is_count(value.get("unseen", 0))
    )


def _are_answers(values: Mapping[str, Any]) -> bool:
    """Are they a list of texts, and for every score a list as long?"""
    texts, scores = values.get("texts"), values.get("scores")
    if values.keys() != {"texts", "scores"} or not isinstance(texts, list) or not isinstance(scores, dict):
        return False
    columns = [*scores.values()]
    whole = all(isinstance(column, list) and len(column) == len(texts) for column in columns)
    return (
        whole
        and all(isinstance(text, str) for text in texts)
        and all(value is None or _is_number(value) for column in columns for value in column)
    )


@dataclass(frozen=True)
class Refusal:
    """Why a device could not take its turn: a kind of `KINDS` and one line, or a traceback for a defect.

    Raises ValueError for an unknown kind.
    """

    kind: str
    message: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"the kind of a refusal must be one of {', '.join(KINDS)}, got {self.kind!r}")

    @classmethod
    def of(cls, error: MlecsError) -> Refusal:
        """Return an error as it travels."""
        return cls(next(kind for kind, type_ in KINDS.items() if isinstance(error, type_)), str(error))

    def error(self) -> MlecsError:
        """Return the error again."""
        return KINDS[self.kind](self.message)

    def to_bytes(self) -> bytes:
        """Return the refusal as it travels."""
        return f"{self.kind}\n{self.message}".encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Refusal:
        """Read what `to_bytes` wrote; raises MessageError on anything else."""
        kind, newline, message = data.decode(errors="replace").partition("\n")
        if not newline or kind not in KINDS:
            raise MessageError(f"{len(data)} bytes are not a refusal: they begin with '{kind[:20]}'")
        return cls(kind, message)


def packed(head: Mapping[str, Any], message: Message) -> bytes:
    """Return JSON values and a message as bytes: the JSON's length in eight bytes, its sha256, itself, the message."""
    text = json.dumps(head, allow_nan=False).encode()
    return len(text).to_bytes(LENGTH, "little") + hashlib.sha256(text).digest() + text + message.to_bytes()


def unpacked(data: bytes, wanted: Mapping[str, tuple[type, ...]]) -> tuple[dict[str, Any], Message]:
    """Read what `packed` wrote; `wanted` are the names of its JSON values, with the types that each may have.

    Raises MessageError on anything else.
    """
    start = LENGTH + hashlib.sha256().digest_size
    end = start + int.from_bytes(data[:LENGTH], "little")
    text = data[start:end]
    if hashlib.sha256(text).digest() != data[LENGTH:start]:
        raise MessageError(f"{len(data)} bytes are not a turn, or not the one that was sent: their digest is another")
    try:
        head = parsed_json(text)
    except ValueError as error:
        raise MessageError(f"{len(data)} bytes are not a turn: {error}") from error
    _check_types(head, wanted, f"{len(data)} bytes are not a turn")
    return head, Message.from_bytes(data[end:])


def _check_types(head: Any, wanted: Mapping[str, tuple[type, ...]], what: str) -> None:
    """Raise MessageError, beginning with `what`, unless `head` holds the values that are wanted, in their types."""
    if not isinstance(head, dict) or head.keys() != wanted.keys():
        raise MessageError(f"{what} with {', '.join(wanted)}")
    wrong = next((name for name, types in wanted.items() if type(head[name]) not in types), None)
    if wrong is not None:
        raise MessageError(f"{what}: '{wrong}' is a {type(head[wrong]).__name__}")


@dataclass(frozen=True)
class Turn:
    """A finished round of a device: the state it left, the reply it gave, and the round that it had finished before."""

    round: int
    state: Mapping[str, torch.Tensor]
    reply: Reply
    before: int | None = None

    @property
    def previous(self) -> int:
        """The round that the device had finished before this one, 0 for none."""
        return self.round - 1 if self.before is None else self.before

    def to_bytes(self) -> bytes:
        """Return the turn as it travels to where the device goes on."""
        tensors = with_kind(_STATE, self.state) | with_kind(_UPLOAD, self.reply.upload.tensors)
        head = {"round": self.round, "before": self.before, "reply": self.reply.kept()}
        return packed(head, Message(tensors, self.reply.upload.scalars))

    @classmethod
    def from_bytes(cls, data: bytes) -> Turn:
        """Read what `to_bytes` wrote; raises MessageError on anything else."""
        head, message = unpacked(data, {"round": (int,), "before": (int, NoneType), "reply": (dict,)})
        upload = Message(message.of_kind(_UPLOAD), message.scalars)
        return cls(head["round"], message.of_kind(_STATE), Reply(upload, **head["reply"]), head["before"])


class Turns(Protocol):
    """Keeps the last `DEPTH` turns of every device of a cell."""

    def save(self, device: str, turn: Turn) -> None:
        """Keep a turn, and forget those before the last ones."""
        ...

    def load(self, device: str) -> list[Turn]:
        """Return what is kept of a device, the latest round first."""
        ...

    def forget(self, device: str) -> None:
        """Keep nothing of a device any more."""
        ...


class MemoryTurns:
    """Keeps turns in this process."""

    def __init__(self) -> None:
        self._kept: dict[str, list[Turn]] = {}

    def save(self, device: str, turn: Turn) -> None:
        """Keep a turn, apart from what the receiver of its reply may do with the message."""
        self._kept[device] = [_apart(turn), *self._kept.get(device, [])][:DEPTH]

    def load(self, device: str) -> list[Turn]:
        """Return what is kept of a device, the latest round first."""
        return [_apart(turn) for turn in self._kept.get(device, [])]

    def forget(self, device: str) -> None:
        """Keep nothing of a device any more."""
        self._kept.pop(device, None)


def _apart(turn: Turn) -> Turn:
    """Return a turn whose upload shares no memory with that of `turn`."""
    return Turn(turn.round, turn.state, Reply(turn.reply.upload.copied(), **turn.reply.kept()), turn.before)


class FileTurns:
    """Keeps turns as files of a folder, one per device and round, for the cell with identity `key`.

    `lease` is the text of the lease under which the folder is written; "" where nobody else knows the folder.
    """

    def __init__(self, folder: Path, key: str, lease: str = "") -> None:
        self._folder = folder
        self._key = key
        self._lease = lease

    def save(self, device: str, turn: Turn) -> None:
        """Write a turn in one step, then delete all that it and the one before do not need, of other cells too.

        Raises CellInUse, and writes nothing, where another process has taken the cell over.
        """
        if self._lease:
            check_held(lease_file(self._folder), self._lease)
        tensors = {f"state/{name}": tensor for name, tensor in turn.state.items()}
        tensors |= {f"upload/{name}": tensor for name, tensor in turn.reply.upload.tensors.items()}
        head = {
            "key": self._key,
            "round": turn.round,
            "scalars": dict(turn.reply.upload.scalars),
            "reply": turn.reply.kept(),
            "before": turn.before,
        }
        save_checkpoint(self._path(device, turn.round), Checkpoint(tensors, head))
        kept = {self._path(device, round_) for round_ in (turn.round, turn.previous)}
        for path in set(self._paths(device)) - kept:
            path.unlink(missing_ok=True)

    def load(self, device: str) -> list[Turn]:
        """Return what is kept of a device, the latest round first; what is of another cell is passed over."""
        found = (load_checkpoint(path) for path in self._paths(device))
        return [_turn(one) for one in found if one is not None and one.progress.get("key") == self._key][:DEPTH]

    def forget(self, device: str) -> None:
        """Delete all files of a device."""
        for path in self._paths(device):
            path.unlink(missing_ok=True)

    def _path(self, device: str, round_: int) -> Path:
        return self._folder / f"{device}-round{round_:06d}.safetensors"

    def _paths(self, device: str) -> list[Path]:
        return sorted(self._folder.glob(f"{device}-round*.safetensors"), reverse=True)


def _turn(saved: Checkpoint) -> Turn:
    def named(prefix: str) -> dict[str, torch.Tensor]:
        return {k.removeprefix(prefix): t for k, t in saved.tensors.items() if k.startswith(prefix)}

    head = saved.progress
    try:
        upload = Message(named("upload/"), head["scalars"])
        told = {"answers": None, "without": None, **head["reply"]}
        _check_types(told, KEPT_HEAD, "it is none")
        _check_told(told)
        return Turn(int(head["round"]), named("state/"), Reply(upload, **head["reply"]), head.get("before"))
    except (KeyError, TypeError, ValueError, AttributeError, MessageError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise MlecsError(f"a device's checkpoint holds no turn ({reason}); delete the cell's checkpoints") from error
