"""The engine: runs one cell round by round and owns loop, moments of evaluation, budgets and checkpoints."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mlecs_bench.errors import PluginError
from mlecs_bench.federation.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from mlecs_bench.federation.communication import communication
from mlecs_bench.federation.link import InProcessLink, Ledger, Link, MeteredLink
from mlecs_bench.federation.messages import Message

if TYPE_CHECKING:
    from mlecs_bench.data.samples import PartyData
    from mlecs_bench.doors.hookspecs import Algorithm
    from mlecs_bench.federation.build import Federation
    from mlecs_bench.federation.parties import Device, Party, Server
    from mlecs_bench.metrics.scores import Metric
    from mlecs_bench.models.unified import UnifiedModel

Scores = dict[str, dict[str, Any]]


class Scoring(Protocol):
    """What gives a model its scores on a party's test data; `evaluation.Evaluator` does."""

    def score(self, model: UnifiedModel, test: PartyData, prompt: str) -> Mapping[str, Metric]:
        """Return every score of `model` on `test`."""
        ...


@dataclass(frozen=True)
class Events:
    """What the engine tells whoever watches: a device (or the server) is done or scored, a round is saved."""

    device_end: Callable[[int, str], None] = lambda _round, _device: None
    round_end: Callable[[int, Mapping[str, float]], None] = lambda _round, _scores: None
    score_end: Callable[[int, str], None] = lambda _round, _device: None


@dataclass
class Progress:
    """How far a cell is: everything beside tensors that a checkpoint carries and a record needs."""

    round: int = 0
    ledger: list[dict[str, str | int]] = field(default_factory=list)
    rounds: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a finished cell yields for its record."""

    metrics: dict[str, Any]
    comm: dict[str, Any]
    cost: dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """Everything one cell runs with. `server_score`: the algorithm trains the server's model, so it is scored."""

    algorithm: Algorithm
    federation: Federation
    evaluator: Scoring
    key: str
    rounds: int
    evaluate_all: bool
    server_score: bool
    checkpoint: Path | None = None
    link: Link = field(default_factory=InProcessLink)
    events: Events = field(default_factory=Events)


class CellRun:
    """One cell in motion."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._server = cell.federation.server
        self._devices = cell.federation.devices
        self._progress = Progress()
        self._link = MeteredLink(cell.link, Ledger())

    def run(self) -> Outcome:
        """Run all rounds that are left, the last broadcast and the final scores."""
        for t in range(self._progress.round + 1, self._cell.rounds + 1):
            self._round(t)
        return self._finish()

    def resume(self) -> int:
        """Take over the checkpoint if there is one; return the last finished round, or 0."""
        saved = load_checkpoint(self._cell.checkpoint) if self._cell.checkpoint else None
        if saved is None or saved.progress["key"] != self._cell.key:
            return 0
        values = {k: v for k, v in saved.progress.items() if k != "key"}
        self._progress = Progress(**values)
        self._link = MeteredLink(self._cell.link, Ledger.from_json(self._progress.ledger))
        for party in self._parties():
            prefix = f"{party.id}:"
            party.load_state({k.removeprefix(prefix): t for k, t in saved.tensors.items() if k.startswith(prefix)})
        return self._progress.round

    def _parties(self) -> list[Server | Device]:
        return [self._server, *self._devices]

    def _round(self, t: int) -> None:
        started, evaluated = time.perf_counter(), self._progress.seconds.get("evaluation", 0.0)
        for party in self._parties():
            party.start_round()
        scored = self._cell.evaluate_all or t == self._cell.rounds
        client: dict[str, Scores] = {}
        self._broadcast(t)
        uploads = {}
        for device in self._devices:
            message = checked(self._cell.algorithm.local_update(device, t), "local_update")
            uploads[device.id] = self._link.carry(message, device.id, "up", t)
            if scored:
                client[device.id] = self._score(device, t)
            self._cell.events.device_end(t, device.id)
        self._cell.algorithm.aggregate(self._server, uploads, t)
        server = self._score(self._server, t) if scored and self._cell.server_score else None
        self._cell.events.device_end(t, self._server.id)
        evaluated = self._progress.seconds.get("evaluation", 0.0) - evaluated
        self._add_seconds("training", time.perf_counter() - started - evaluated)
        self._close_round(t, client, server)

    def _broadcast(self, t: int) -> None:
        messages = self._cell.algorithm.broadcast(self._server, t)
        unknown = sorted(set(messages) - {d.id for d in self._devices})
        if unknown:
            raise PluginError(f"broadcast of round {t} addresses '{unknown[0]}', which is no device of this run")
        for device in self._devices:
            message = messages.get(device.id, Message())
            delivered = self._link.carry(checked(message, "broadcast"), device.id, "down", t)
            self._cell.algorithm.receive(device, delivered, t)

    def _score(self, party: Party, t: int) -> Scores:
        started = time.perf_counter()
        scores = self._cell.evaluator.score(party.model, party.test, party.prompt)
        self._add_seconds("evaluation", time.perf_counter() - started)
        self._cell.events.score_end(t, party.id)
        return {name: metric_json(metric) for name, metric in scores.items()}

    def _add_seconds(self, what: str, seconds: float) -> None:
        self._progress.seconds[what] = self._progress.seconds.get(what, 0.0) + seconds

    def _close_round(self, t: int, client: dict[str, Scores], server: Scores | None) -> None:
        for party in self._parties():
            party.check_budget(t)
            for stage, steps in party.steps.items():
                self._progress.steps[stage] = self._progress.steps.get(stage, 0) + steps
        row: dict[str, Any] = {"round": t, "losses": {p.id: dict(p.logs) for p in self._parties()}}
        if client:
            row |= {"client": by_metric(client), "server": server}
        self._progress.rounds.append(row)
        self._progress.round = t
        self._progress.ledger = self._link.ledger.to_json()
        self._save()
        headline = next(iter(by_metric(client).items()), None)
        shown = {} if headline is None else {headline[0]: mean_value(headline[1])}
        self._cell.events.round_end(t, shown)

    def _save(self) -> None:
        if self._cell.checkpoint is None:
            return
        tensors = {f"{party.id}:{k}": t for party in self._parties() for k, t in party.state().items()}
        progress = dataclasses.asdict(self._progress) | {"key": self._cell.key}
        save_checkpoint(self._cell.checkpoint, Checkpoint(tensors, progress))

    def _finish(self) -> Outcome:
        """The broadcast after the last round, the second moment of evaluation, and the sums."""
        after = self._cell.rounds + 1
        for party in self._parties():
            party.start_round()
        self._broadcast(after)
        for party in self._parties():
            if party.steps:
                raise PluginError(
                    f"{party.id} trained after the last round ({party.steps}); only send and receive then"
                )
        received = by_metric({device.id: self._score(device, after) for device in self._devices})
        last = self._progress.rounds[-1]
        metrics = {
            "client": {"local": last["client"], "received": received},
            "server": last["server"],
            "rounds": self._progress.rounds,
        }
        device_params = {device.id: device.model.backbone.n_parameters for device in self._devices}
        comm = communication(self._link.ledger, self._cell.rounds, device_params)
        return Outcome(metrics, comm, {"seconds": self._progress.seconds, "steps": self._progress.steps})


def checked(message: object, step: str) -> Message:
    """Return `message`; raises PluginError when an algorithm's step gave something else."""
    if not isinstance(message, Message):
        raise PluginError(f"the algorithm's {step} gave a {type(message).__name__}; it must give a Message")
    return message


def metric_json(metric: Metric) -> dict[str, Any]:
    """Return a metric as the record stores it."""
    return dataclasses.asdict(metric)


def by_metric(client: Mapping[str, Scores]) -> dict[str, Scores]:
    """Turn device → metric → score into metric → device → score."""
    names = list(dict.fromkeys(name for scores in client.values() for name in scores))
    return {name: {device: scores[name] for device, scores in client.items() if name in scores} for name in names}


def mean_value(scores: Mapping[str, Mapping[str, Any]]) -> float:
    """Return the mean over devices of one metric."""
    return float(sum(s["value"] for s in scores.values()) / len(scores))
