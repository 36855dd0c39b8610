"""A correct minimal algorithm, and for each check one that breaks it."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from mlecs_bench.api import (
    ALL_PARTS,
    AccessError,
    AlgorithmInfo,
    Exchange,
    Message,
    Needs,
    Stage,
    option,
    supervised_loss,
    train_on_private,
    train_stage,
    weighted_mean,
    with_kind,
)
from mlecs_bench.testing.toy import NAMES

PARTIES: dict[str, Any] = {}
"""What an algorithm must not have: a way round the messages."""


@dataclasses.dataclass(frozen=True)
class Options:
    pull: float = option(0.5, help="How much of the mean a device takes over.", source="ours")
    parts: tuple[str, ...] = option(("lora",), help="What travels.", source="ours")


class Average:
    """Correct: devices send LoRA and n_j, keep what they sent, and take over a part of the mean."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def broadcast(self, server, t: int) -> Mapping[str, Message]:
        if t == 1:
            return {}
        mean = Message(self.parts_of(server.slm))
        return dict.fromkeys(server.devices, mean)

    def parts_of(self, model) -> dict[str, torch.Tensor]:
        return {k: v for part in self.options.parts for k, v in with_kind(part, model.part(part)).items()}

    def receive(self, device, message: Message, t: int) -> None:
        for part in self.options.parts:
            mean, own = message.of_kind(part), device.model.part(part)
            if mean:
                pulled = {k: own[k] + self.options.pull * (mean[k] - own[k]) for k in mean if k in own}
                device.model.load_part(part, pulled)

    def local_update(self, device, t: int) -> Message:
        self.train(device, t)
        device.memory["last"] = torch.tensor([float(t)])
        return self.upload(device, t)

    def train(self, device, t: int) -> None:
        train_on_private(device, t)

    def upload(self, device, t: int) -> Message:
        return Message(self.parts_of(device.model), {"n_j": self.weight(device, t)})

    def weight(self, device, t: int) -> float:
        return float(len(device.train))

    def aggregate(self, server, uploads: Mapping[str, Message], t: int) -> None:
        weights = {id_: float(message.scalars["n_j"]) for id_, message in uploads.items()}
        for part in self.options.parts:
            mean = weighted_mean({id_: message.of_kind(part) for id_, message in uploads.items()}, weights)
            own = server.slm.part(part)
            server.slm.load_part(part, {k: v for k, v in mean.items() if k in own})


class Falls(Average):
    def train(self, device, t: int) -> None:
        raise RuntimeError("at once")


CARD = AlgorithmInfo(
    title="Average",
    summary="averages LoRA",
    paper="none",
    build=Average,
    options=Options,
    needs=lambda _: Needs(same=("lora",), copes=("absence",)),
    exchanges=(
        Exchange("lora", "both", "LoRA of the SLM", "r * sum(in + out)"),
        Exchange("scalar", "up", "n_j", "1"),
    ),
)

N_J_BOTH = Exchange("scalar", "both", "n_j, and the uploads that came", "1")


def card(build: Any = Average, **changes: Any) -> AlgorithmInfo:
    return dataclasses.replace(CARD, build=build, **changes)


# One broken algorithm for each check


@dataclasses.dataclass(frozen=True)
class Unexplained:
    rate: float = 0.5


@dataclasses.dataclass
class Thawed:
    pull: float = option(0.5, help="How much of the mean a device takes over.", source="ours")


@dataclasses.dataclass(frozen=True)
class Rounded:
    pull: float = option(0.5, help="How much of the mean a device takes over.", source="ours")

    def __post_init__(self) -> None:
        object.__setattr__(self, "pull", self.pull / 2)


class ThreeSteps:
    broadcast, receive, local_update = Average.broadcast, Average.receive, Average.local_update

    def __init__(self, options: Options) -> None:
        self.options = options


class ReadsGlobalStream(Average):
    def weight(self, device, t):
        return float(1 + random.getstate()[1][1] % 1000)


class MovesGlobalStream(Average):
    def train(self, device, t):
        super().train(device, t)
        torch.rand(1)


class KeepsOnItself(Average):
    def train(self, device, t):
        super().train(device, t)
        self.trained = [*getattr(self, "trained", []), device.id]

    def aggregate(self, server, uploads, t):
        super().aggregate(server, uploads, t)
        server.memory["trained"] = torch.tensor([float(len(getattr(self, "trained", [])))])
        self.trained = []


class TrustsOrder(Average):
    """A device's weight says which device was the first of its round, as a process shared by all would know."""

    first: ClassVar[dict[int, float]] = {}

    def broadcast(self, server, t):
        if t == 1:
            self.first.clear()
        return super().broadcast(server, t)

    def weight(self, device, t):
        return 1 + self.first.setdefault(t, float(device.id[1:]))


class TrustsTensorOrder(Average):
    def upload(self, device, t):
        message = super().upload(device, t)
        return Message({name: message.tensors[name] for name in sorted(message.tensors, reverse=True)}, message.scalars)

    def aggregate(self, server, uploads, t):
        server.memory["first"] = next(iter(uploads["d00"].tensors.values())).clone()
        super().aggregate(server, uploads, t)


class KeepsOnParty(Average):
    def weight(self, device, t):
        device.rounds = getattr(device, "rounds", 0) + 1
        return float(device.rounds)


class SendsUndeclared(Average):
    def upload(self, device, t):
        message = super().upload(device, t)
        return Message({**message.tensors, "fused/mean": torch.zeros(2)}, message.scalars)


class SendsNan(Average):
    def upload(self, device, t):
        message = super().upload(device, t)
        first = min(message.tensors)
        return Message({**message.tensors, first: message.tensors[first] * float("nan")}, message.scalars)


class Stowaway(Message):
    """A message with luggage that no ledger sees."""

    def copied(self) -> Message:
        copy = super().copied()
        object.__setattr__(copy, "luggage", torch.zeros(3))
        return copy


class SendsUncounted(Average):
    def upload(self, device, t):
        message = super().upload(device, t)
        return Stowaway(message.tensors, message.scalars)


class KeepsReceived(Average):
    def receive(self, device, message, t):
        super().receive(device, message, t)
        device.memory |= {name: tensor for name, tensor in message.tensors.items() if name.endswith("lora_A")}


class ChangesReceived(Average):
    def receive(self, device, message, t):
        super().receive(device, message, t)
        for tensor in message.tensors.values():
            tensor.zero_()


class ReadsForeignTable(Average):
    def weight(self, device, t):
        targets = device.train._samples.targets
        return float(1 + sum(map(len, targets)))


class ReadsForeignData(Average):
    def broadcast(self, server, t):
        PARTIES["server"] = server
        return super().broadcast(server, t)

    def weight(self, device, t):
        data = PARTIES["server"].train
        return float(len(data.targets(data.rows[:1])[0]))


class ReadsTestData(Average):
    def weight(self, device, t):
        return float(len(device.test.targets(device.test.rows[:1])[0]))


class ReadsForeignModality(Average):
    def weight(self, device, t):
        samples = device.train._samples
        return float(1 + sum(abs(samples.array(name)[device.train.rows].sum()) for name in ("text", "video")))


class AsksForForeignModality(Average):
    def weight(self, device, t):
        for name in NAMES:
            try:
                device.train.modality(name, device.train.rows[:1])
            except AccessError:
                return 1.0
        return 1.0


class ReadsAbsentSamples(Average):
    def weight(self, device, t):
        batch = device.train.batch(device.train.rows)
        return float(1 + sum(batch.inputs[m].double().sum().abs() for m in device.modalities))


class TouchesNeighbour(Average):
    def train(self, device, t):
        super().train(device, t)
        with torch.no_grad():
            for tensor in device.model.backbone.adapter("d00").values():
                tensor.add_(1)


class StepsUncounted(Average):
    def train(self, device, t):
        parameters = device.model.parameters(["soft_prompt"])
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        torch.optim.SGD(parameters, lr=0.1).step()
        super().train(device, t)


class TrainsTooLate(Average):
    def receive(self, device, message, t):
        super().receive(device, message, t)
        if t > device.training.rounds:
            super().train(device, t)


def train_privately(device, t: int, steps: int) -> None:
    stage = Stage("private", "private", t, steps, [(device.model, ALL_PARTS)])
    train_stage(device, device.train, stage, supervised_loss(device.model, device.train, device.prompt))


class TrainsLess(Average):
    """Falls short of the budget "paper" only."""

    def train(self, device, t):
        budget = device.training.budget.private
        train_privately(device, t, budget if budget % 4 == 0 else budget - 1)


class TrainsNoLonger(Average):
    """Falls short of the budget "equal" only."""

    def train(self, device, t):
        train_privately(device, t, min(device.training.budget.private, 2))


class TouchesBackbone(Average):
    def aggregate(self, server, uploads, t):
        super().aggregate(server, uploads, t)
        if server.is_last_broadcast(t + 1):
            embedding = server.model.backbone._base.get_input_embeddings()
            embedding.weight.data.add_(1e-3)


class NeedsTwoRounds(Average):
    def weight(self, device, t):
        return t / (device.training.rounds - 1)


class NeedsTwoDevices(Average):
    def broadcast(self, server, t):
        messages = super().broadcast(server, t)
        return messages if list(server.devices)[1] else {}


class LeavesNan(Average):
    def aggregate(self, server, uploads, t):
        super().aggregate(server, uploads, t)
        server.memory["spread"] = torch.zeros(1) / (len(uploads) - 1)


class NeedsShortIds(Average):
    def aggregate(self, server, uploads, t):
        super().aggregate(server, uploads, t)
        if len({id_[-1] for id_ in uploads}) < len(uploads):
            raise KeyError("d10")


class NeedsTwoModalities(Average):
    def broadcast(self, server, t):
        held = max(server.devices.values(), key=len)
        if held:
            _pair = held[1]
        return super().broadcast(server, t)


class NeedsAModality(Average):
    def weight(self, device, t):
        return float(len(device.modalities[0]))


ONLY_PROMPT = Exchange("soft_prompt", "both", "soft-prompt generator", "(d_s + 1) P H")
ONLY_ENCODER = Exchange("encoder", "both", "encoders", "their size")


def drifting(_options: Options) -> Needs:
    """Say that modalities may come and go."""
    return Needs(same=("lora",), copes=("drift",))


def sharing(part: str) -> Any:
    """Return what builds an algorithm that averages another part than it says."""

    class Shares(Average):
        def __init__(self, options: Options) -> None:
            super().__init__(dataclasses.replace(options, parts=(part,)))

    return Shares


class NeedsAllUploads(Average):
    def aggregate(self, server, uploads, t):
        super().aggregate(server, {id_: uploads[id_] for id_ in server.devices}, t)


class TrainsLessAlone(Average):
    """Takes half of its steps in a round after one that it has missed."""

    def train(self, device, t):
        missed = t - 1 - int(device.memory.get("last", torch.zeros(1)))
        steps = device.training.budget.private // (2 if missed else 1)
        stage = Stage("private", "private", t, steps, [(device.model, ALL_PARTS)])
        train_stage(device, device.train, stage, supervised_loss(device.model, device.train, device.prompt))


class NeedsEverybodyOnce(Average):
    def aggregate(self, server, uploads, t):
        server.memory |= {id_: torch.tensor([float(t)]) for id_ in uploads}
        if server.is_last_broadcast(t + 1):
            [server.memory[id_] for id_ in server.devices]
        super().aggregate(server, uploads, t)


class NeedsEveryUpload(Average):
    """The server sends how many uploads of a device it has, which knows how many it should have."""

    def broadcast(self, server, t):
        parts = {} if t == 1 else self.parts_of(server.slm)
        return {id_: Message(parts, {"n_j": int(server.memory.get(id_, 0))}) for id_ in server.devices}

    def receive(self, device, message, t):
        super().receive(device, message, t)
        if message.scalars["n_j"] != int(device.memory.get("sent", 0)):
            raise RuntimeError("an upload is lost")

    def upload(self, device, t):
        device.memory["sent"] = device.memory.get("sent", torch.zeros(1)) + 1
        return super().upload(device, t)

    def aggregate(self, server, uploads, t):
        for id_ in uploads:
            server.memory[id_] = server.memory.get(id_, torch.zeros(1)) + 1
        super().aggregate(server, uploads, t)


class NeedsRoundOne(Average):
    def broadcast(self, server, t):
        if t > 1:
            server.memory["first"].clone()
        return super().broadcast(server, t)

    def aggregate(self, server, uploads, t):
        server.memory["first"] = torch.ones(1)
        super().aggregate(server, uploads, t)


class CountsGapOnParty(Average):
    """Weighs its upload by the rounds since its last one, which it keeps where no state is."""

    def weight(self, device, t):
        gap, device.came = t - getattr(device, "came", t - 1), t
        return float(gap)
