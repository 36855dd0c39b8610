"""The engine: runs one cell round by round and owns loop, evaluation points, the ledger and the server's checkpoint.

It knows the server and a fleet. One exchange with the devices makes a round: what the server sends at the end of round
t rides with the start of round t + 1, and after the last round there is one more, in which nothing is trained.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from mlecs_bench.doors.events import Event, Tell, silent
from mlecs_bench.errors import MlecsError, PluginError
from mlecs_bench.federation.attendance import Attendance
from mlecs_bench.federation.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from mlecs_bench.federation.communication import communication
from mlecs_bench.federation.gathering import Gathering, Journal, Line
from mlecs_bench.federation.host import Carry, Greeting, checked, copied, own_versions
from mlecs_bench.federation.ledger import Direction, Ledger
from mlecs_bench.federation.messages import Message
from mlecs_bench.federation.party import named, under
from mlecs_bench.federation.saved import final_model
from mlecs_bench.federation.scoring import Scoring, scored, scores_without_each
from mlecs_bench.federation.turns import Ask, FinalModel, Reply, Scores, StaleTurn
from mlecs_bench.plan.conditions import Conditions

if TYPE_CHECKING:
    import torch

    from mlecs_bench.federation.algorithm import Algorithm
    from mlecs_bench.federation.evaluation import Answers
    from mlecs_bench.federation.fleet import Fleet
    from mlecs_bench.federation.server import Server


LOCAL, RECEIVED = "local", "received"
"""When devices are scored: after the last local training, and after the broadcast that follows it."""
ANSWERS, GATHERING = "answers", "gathering"
"""What a checkpoint calls the answers that are kept, and the tensors of messages that have not arrived."""


@dataclass
class Progress:
    """How far a cell is: everything beside tensors that a checkpoint carries and a record needs."""

    round: int = 0
    ledger: list[dict[str, str | int]] = field(default_factory=list)
    rounds: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    journal: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a finished cell yields for its record, and what is kept beside it where that was asked for.

    `answers` are those of every party by evaluation point; a party that gave none lacks. `models` are those of all
    parties after the last broadcast. `attended` are the rounds as a record has them, where devices may be absent, and
    `missing` the devices that were really lost.
    """

    metrics: dict[str, Any]
    comm: dict[str, Any]
    cost: dict[str, Any]
    answers: Mapping[str, Mapping[str, Answers]] = field(default_factory=dict)
    models: Mapping[str, FinalModel] = field(default_factory=dict)
    attended: Sequence[Mapping[str, Any]] = ()
    missing: Sequence[Mapping[str, Any]] = ()


def _nobody_else() -> None:
    """Stand for a lease where no other process knows the cell."""


@dataclass(frozen=True)
class Cell:
    """Everything one cell runs with.

    `server_score`: the algorithm trains the server's model, so it is scored. `checkpoint` is the server's file, None to
    keep nothing. `carry` takes the server's messages out of its hands. `keep_answers` and `keep_models` ask all parties
    for them at the end. `check_lease` is called before anything is saved; it raises CellInUse where another process
    has taken the cell over. `conditions` say who takes part in which round. `robustness` has all parties scored once
    more without each modality, at the end.
    """

    algorithm: Algorithm
    server: Server
    fleet: Fleet
    evaluator: Scoring
    key: str
    rounds: int
    evaluate_all: bool
    server_score: bool
    checkpoint: Path | None = None
    carry: Carry = copied
    tell: Tell = silent
    keep_answers: bool = False
    keep_models: bool = False
    check_lease: Callable[[], None] = _nobody_else
    conditions: Conditions = field(default_factory=Conditions)
    robustness: bool = False


class CellRun:
    """One cell in motion."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._server = cell.server
        self._progress = Progress()
        self._ledger = Ledger()
        self._greetings: Mapping[str, Greeting] = {}
        self._answers: dict[str, dict[str, Answers]] = {}
        self._journal = Journal()
        self._undelivered: dict[str, torch.Tensor] = {}

    @property
    def greetings(self) -> Mapping[str, Greeting]:
        """What the devices said of themselves, by id in order; empty before `start`."""
        return self._greetings

    def run(self) -> Outcome:
        """Run all rounds that are left, the last broadcast and the final scores."""
        self.start()
        for t in range(self._progress.round + 1, self._cell.rounds + 1):
            self._round(t)
        return self._finish()

    def start(self) -> int:
        """Take over the checkpoint if there is one, and greet the devices; return the last finished round, or 0.

        Raises MlecsError for devices that cannot go on from there, or are not of this cell.
        """
        if not self._greetings:
            self._resume()
            greetings = self._cell.fleet.hello(self._progress.round)
            self._greetings = {id_: greetings[id_] for id_ in sorted(greetings)}
            self._check_greetings()
            self._gathering = self._made_gathering()
        return self._progress.round

    def _made_gathering(self) -> Gathering:
        """Return what exchanges messages with the devices, which are known now."""
        cell = self._cell
        samples = {id_: int(greeting.samples["train"]) for id_, greeting in self._greetings.items()}
        line = Line(cell.fleet, cell.carry, self._ledger, self._told_of, self._noted)
        attendance = Attendance(cell.conditions, self._server.seed, samples)
        gathering = Gathering(cell.conditions, attendance, tuple(self._greetings), line, self._journal)
        gathering.load_state(self._undelivered)
        self._undelivered = {}
        for id_, greeting in self._greetings.items():
            expected = self._journal.finished.get(id_, 0) if gathering.varies else self._progress.round
            if greeting.finished < expected:
                own = f"{id_} has state of round {greeting.finished}"
                raise StaleTurn(f"{own} and the server of round {expected}: files are missing")
        return gathering

    def _resume(self) -> None:
        saved = load_checkpoint(self._cell.checkpoint) if self._cell.checkpoint else None
        if saved is None or saved.progress["key"] != self._cell.key:
            return
        self._progress = Progress(**{k: v for k, v in saved.progress.items() if k != "key"})
        self._ledger = Ledger.from_json(self._progress.ledger)
        self._journal = Journal(**self._progress.journal)
        self._undelivered = under(GATHERING, saved.tensors)
        self._server.load_state(saved.tensors)
        if ANSWERS in saved.tensors:
            self._answers = json.loads(bytes(saved.tensors[ANSWERS].tolist()))

    def _check_greetings(self) -> None:
        """Refuse devices that are other ones than the server's, hold other data, or run other versions."""
        ours, data = own_versions(), self._server.train.manifest.digest
        if self._greetings.keys() != self._server.devices.keys():
            raise MlecsError(
                f"the devices {', '.join(self._greetings)} are here, expected {', '.join(self._server.devices)}"
            )
        for id_, greeting in self._greetings.items():
            if greeting.data != data:
                raise MlecsError(
                    f"{id_} holds data with digest {greeting.data[:12]}, the server {data[:12]}; prepare the same"
                )
            other = next((name for name, version in ours.items() if greeting.versions.get(name) != version), None)
            if other is not None:
                raise MlecsError(
                    f"{id_} runs {other} {greeting.versions.get(other)}, the server {ours[other]}; install the same"
                )

    def _round(self, t: int) -> None:
        self._server.start_round(t)
        score = self._cell.evaluate_all or t == self._cell.rounds
        seconds = {"training": 0.0, "evaluation": 0.0}
        with _timed(seconds, "training"):
            self._gathering.post(self._broadcast(t))
        gathered = self._gathering.gather(Ask(t, score=score, answers=score and self._keeps_answers(t)))
        if gathered.restarts:
            self._server.load_state(self._server.state())
        if not gathered.skipped:
            with _timed(seconds, "training"):
                self._cell.algorithm.aggregate(self._server, gathered.uploads, t)
        self._server.check_budget(t)
        others = self._scores_of_others(gathered.replies, t) if score else {}
        server, answers = None, None
        if score and self._cell.server_score:
            with _timed(seconds, "evaluation"):
                server, answers = scored(self._cell.evaluator, self._server, answers=self._keeps_answers(t))
        own = Reply(Message(), server, self._server.logs, self._server.steps, seconds, answers)
        self._told(t, self._server.id, own)
        if self._keeps_answers(t):
            self._answers = {
                LOCAL: answers_of(self._ordered(gathered.replies | others)),
                self._server.id: answers_of({self._server.id: own}),
            }
        self._close_round(t, {self._server.id: own, **gathered.replies}, others)

    def _keeps_answers(self, t: int) -> bool:
        """Are the answers of round t kept? Those of the last round are, and those after the last broadcast."""
        return self._cell.keep_answers and t >= self._cell.rounds

    def _broadcast(self, t: int) -> Mapping[str, Message]:
        """Return the messages of a round that the algorithm broadcasts, by device."""
        messages = self._cell.algorithm.broadcast(self._server, t)
        unknown = sorted(set(messages) - set(self._greetings))
        if unknown:
            raise PluginError(f"broadcast of round {t} addresses '{unknown[0]}', which is no device of this run")
        return {id_: checked(message, "broadcast") for id_, message in messages.items()}

    def _scores_of_others(self, replies: Mapping[str, Reply], t: int) -> dict[str, Reply]:
        """Return what devices that took no part in a round reply: they are scored as they are."""
        absent = [id_ for id_ in self._greetings if id_ not in replies]
        return self._gathering.measure(absent, Ask(t, score=True, answers=self._keeps_answers(t)))

    def _ordered(self, replies: Mapping[str, Reply]) -> dict[str, Reply]:
        """Return replies in the devices' order."""
        return {id_: replies[id_] for id_ in self._greetings if id_ in replies}

    def _told_of(self, ask: Ask, id_: str, reply: Reply) -> None:
        self._told(ask.round, id_, reply, took_part=ask.train)

    def _noted(self, text: str) -> None:
        self._cell.tell(Event("note", values={"text": text}))

    def _told(self, t: int, id_: str, reply: Reply, *, took_part: bool = True) -> None:
        """Tell that a party has done its part of a round, and that it was scored."""
        seconds = reply.seconds
        if took_part and t <= self._cell.rounds:
            values = {"losses": dict(reply.losses), "steps": dict(reply.steps), "seconds": seconds["training"]}
            self._cell.tell(Event("device_end", round=t, device=id_, values=values))
        if reply.scores is not None:
            scores = {name: score["value"] for name, score in reply.scores.items()}
            values = {"scores": scores, "seconds": seconds["evaluation"]}
            self._cell.tell(Event("score_end", round=t, device=id_, values=values))

    def _close_round(self, t: int, replies: Mapping[str, Reply], others: Mapping[str, Reply]) -> None:
        """Note what a round brought, and save it; `others` are devices that took no part and were scored."""
        scored_ = self._ordered({**replies, **others})
        client = {id_: dict(reply.scores) for id_, reply in scored_.items() if reply.scores is not None}
        server = replies[self._server.id].scores
        row: dict[str, Any] = {"round": t, "losses": {id_: dict(reply.losses) for id_, reply in replies.items()}}
        if client:
            row |= {"client": by_metric(client), "server": server}
        self._progress.rounds.append(row)
        self._progress.round = t
        for reply in (*replies.values(), *others.values()):
            self._add_cost(reply)
        self._progress.ledger = self._ledger.to_json()
        self._progress.journal = dataclasses.asdict(self._journal) if self._gathering.varies else {}
        self._save()
        headline = next(iter(by_metric(client).items()), None)
        means = {} if headline is None else {headline[0]: mean_value(headline[1])}
        sent = Ledger(entry for entry in self._ledger.entries if entry.round == t)
        parties = {id_: {**reply.head(), **self._sent(sent, id_)} for id_, reply in replies.items()}
        values = {"scores": means, "parties": parties, "ledger": sent.to_json()}
        self._cell.tell(Event("round_end", round=t, values=values))

    def _sent(self, ledger: Ledger, id_: str) -> dict[str, dict[str, int]]:
        """Return the parameters and bytes that a ledger has going down and up: of a device, or all for the server."""
        where = {} if id_ == self._server.id else {"device": id_}
        totals = {way: ledger.total(direction=way, **where) for way in get_args(Direction)}
        return {what: {way: total[i] for way, total in totals.items()} for i, what in enumerate(("sent", "bytes"))}

    def _add_cost(self, reply: Reply) -> None:
        for what, seconds in reply.seconds.items():
            self._progress.seconds[what] = self._progress.seconds.get(what, 0.0) + seconds
        for stage, steps in reply.steps.items():
            self._progress.steps[stage] = self._progress.steps.get(stage, 0) + steps

    def _save(self) -> None:
        if self._cell.checkpoint is None:
            return
        self._cell.check_lease()
        progress = dataclasses.asdict(self._progress) | {"key": self._cell.key}
        tensors = self._server.state() | named(GATHERING, self._gathering.state())
        if self._answers:  # as a tensor, because the text beside tensors has a limit
            tensors |= {ANSWERS: _as_tensor(json.dumps(self._answers, allow_nan=False))}
        save_checkpoint(self._cell.checkpoint, Checkpoint(tensors, progress))

    def _finish(self) -> Outcome:
        """The broadcast after the last round, the second evaluation point, and the sums."""
        after = self._cell.rounds + 1
        self._server.start_round(after)
        self._gathering.post(self._broadcast(after))
        if self._server.steps:
            raise PluginError(f"server trained after the last round ({self._server.steps}); only send and receive then")
        keep = self._cell.keep_answers
        models, without_each = self._cell.keep_models, self._cell.robustness
        ask = Ask(after, score=True, last=True, answers=keep, model=models, without_each=without_each)
        replies = self._gathering.deliver(ask)
        for reply in replies.values():
            self._add_cost(dataclasses.replace(reply, seconds={"evaluation": reply.seconds["evaluation"]}))
        received = by_metric({id_: reply.scores or {} for id_, reply in replies.items()})
        if self._cell.keep_answers:
            self._answers[RECEIVED] = answers_of(replies)
        last = self._progress.rounds[-1]
        metrics = {
            "client": {LOCAL: last["client"], RECEIVED: received},
            "server": last["server"],
            "rounds": self._progress.rounds,
        }
        if self._cell.robustness:
            metrics["without"] = self._without_each(replies, last["server"])
        parameters = {id_: greeting.parameters for id_, greeting in self._greetings.items()}
        comm = communication(self._ledger, self._cell.rounds, parameters)
        cost = {"seconds": self._progress.seconds, "steps": self._progress.steps}
        answers = self._answers if self._cell.keep_answers else {}
        journal = self._journal
        return Outcome(metrics, comm, cost, answers, self._models(replies), journal.rounds, journal.missing)

    def _without_each(self, replies: Mapping[str, Reply], server: Scores | None) -> dict[str, Any]:
        """Return the scores of all parties without each modality; one that does not hold it keeps its usual score.

        `server`: the server's usual scores, None where it is not scored.
        """
        own: Mapping[str, Scores] = {}
        if server is not None:
            with _timed(self._progress.seconds, "evaluation"):
                own = scores_without_each(self._cell.evaluator, self._server)
        found = {}
        for modality in self._server.train.manifest.modality_names:
            client = {id_: (reply.without or {}).get(modality, reply.scores or {}) for id_, reply in replies.items()}
            found[modality] = {"client": by_metric(client), "server": own.get(modality, server)}
        return found

    def _models(self, replies: Mapping[str, Reply]) -> dict[str, FinalModel]:
        """Return the models of all parties, where they are to be kept; the server's only where it is trained."""
        if not self._cell.keep_models:
            return {}
        own = {self._server.id: final_model(self._server.model)} if self._cell.server_score else {}
        return own | {id_: reply.model for id_, reply in replies.items() if reply.model is not None}


@contextmanager
def _timed(seconds: dict[str, float], what: str) -> Iterator[None]:
    """Add the seconds of the block to what is there."""
    started = time.perf_counter()
    yield
    seconds[what] += time.perf_counter() - started


def answers_of(replies: Mapping[str, Reply]) -> dict[str, Answers]:
    """Return the answers that came with replies, by party."""
    return {id_: reply.answers for id_, reply in replies.items() if reply.answers is not None}


def _as_tensor(text: str) -> torch.Tensor:
    import torch

    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


def by_metric(client: Mapping[str, Scores]) -> dict[str, dict[str, Any]]:
    """Turn device → metric → score into metric → device → score."""
    names = list(dict.fromkeys(name for scores in client.values() for name in scores))
    return {name: {device: scores[name] for device, scores in client.items() if name in scores} for name in names}


def mean_value(scores: Mapping[str, Mapping[str, Any]]) -> float:
    """Return the mean over devices of one metric."""
    return float(sum(s["value"] for s in scores.values()) / len(scores))
