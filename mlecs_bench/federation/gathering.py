"""Gathering: one round's exchange with the devices that take part in it, and what becomes of those that do not.

Every message of a broadcast goes through the mailbox where devices may be absent, so a device that comes back gets the
newest of all that it has missed together with the message of the round. A round that too few devices report in is
tried again or skipped, as the plan says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from mlecs_bench.errors import MlecsError, NotFiniteError
from mlecs_bench.federation.attendance import Attendance
from mlecs_bench.federation.corruption import corrupted
from mlecs_bench.federation.mailbox import Mailbox
from mlecs_bench.federation.messages import Message
from mlecs_bench.federation.party import named, under
from mlecs_bench.federation.turns import Ask, DeviceMissing, Refusal, Reply
from mlecs_bench.plan.conditions import Conditions

if TYPE_CHECKING:
    import torch

    from mlecs_bench.federation.clock import Clock
    from mlecs_bench.federation.compression import Link
    from mlecs_bench.federation.fleet import Fleet
    from mlecs_bench.federation.host import Carry
    from mlecs_bench.federation.ledger import Direction, Ledger

Loss = Literal["before", "during", "after", "late", "refused", "missing", "server-restart"]
"""Why a device that was asked did not report."""


@dataclass
class Journal:
    """What happened in the rounds so far, as JSON values.

    `finished` is the last round that a device has taken part in, by id. `rounds` are the rounds as a record has them.
    `missing` are devices that were really lost, which no seed brings back: round, device and why. `sent` are the
    scalars of the last uploads of devices that send them again.
    """

    finished: dict[str, int] = field(default_factory=dict)
    rounds: list[dict[str, Any]] = field(default_factory=list)
    missing: list[dict[str, Any]] = field(default_factory=list)
    sent: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Line:
    """What messages go through: the fleet, what takes them out of the server's hands, compresses and counts them.

    `told` hears of every device that has done its round, `noted` of what a user may want to know. `clock` says what
    simulated time is made of, None for no such time.
    """

    fleet: Fleet
    carry: Carry
    link: Link
    ledger: Ledger
    told: Callable[[Ask, str, Reply], None]
    noted: Callable[[str], None]
    clock: Clock | None = None


@dataclass
class Gathered:
    """What one round brought: uploads that arrived, replies of all devices that did their round, who was lost and why.

    Too few uploads: the round is `skipped`. `restarts` is how often the server has lost what it had. `seconds` and
    `flops` are simulated.
    """

    round: int
    asked: list[str] = field(default_factory=list)
    uploads: dict[str, Message] = field(default_factory=dict)
    replies: dict[str, Reply] = field(default_factory=dict)
    lost: dict[str, Loss] = field(default_factory=dict)
    attempts: int = 0
    restarts: int = 0
    skipped: bool = False
    seconds: float = 0.0
    flops: int = 0

    def row(self) -> dict[str, Any]:
        """Return the round as a record has it."""
        return {
            "round": self.round,
            "asked": self.asked,
            "reported": list(self.uploads),
            "lost": {id_: self.lost[id_] for id_ in self.asked if id_ in self.lost},
            "attempts": self.attempts,
            "skipped": self.skipped,
        }


class Waits:
    """How long one attempt at a round has to wait for each of its devices, in simulated seconds; 0 without a clock.

    For a device that does not report it waits until the deadline; without one, as long as the device was seen.
    """

    def __init__(self, clock: Clock | None) -> None:
        self._clock = clock
        self._seconds: dict[str, float] = {}

    def _add(self, id_: str, seconds: float) -> None:
        self._seconds[id_] = self._seconds.get(id_, 0.0) + seconds

    def download(self, id_: str, size: int) -> None:
        """A message of `size` bytes goes to a device."""
        if self._clock is not None:
            self._add(id_, self._clock.paces[id_].download(size))

    def work(self, id_: str, steps: Mapping[str, int]) -> int:
        """A device trains; return the FLOPs."""
        if self._clock is None:
            return 0
        flops = self._clock.flops(id_, steps)
        self._add(id_, self._clock.paces[id_].compute(flops))
        return flops

    def upload(self, id_: str, size: int) -> None:
        """A message of `size` bytes comes from a device."""
        if self._clock is not None:
            self._add(id_, self._clock.paces[id_].upload(size))

    def is_late(self, id_: str) -> bool:
        """Is a device's upload there after the deadline?"""
        deadline = None if self._clock is None else self._clock.network.deadline
        return deadline is not None and self._seconds.get(id_, 0.0) > deadline

    def in_vain(self, id_: str) -> None:
        """A device is waited for that does not report."""
        if self._clock is not None and self._clock.network.deadline is not None:
            self._seconds[id_] = self._clock.network.deadline

    def longest(self) -> float:
        """Return how long the slowest device takes."""
        return max(self._seconds.values(), default=0.0)


class Gathering:
    """The exchanges of one cell, round by round, with all that has to last between them."""

    def __init__(
        self, conditions: Conditions, attendance: Attendance, ids: Sequence[str], line: Line, journal: Journal
    ) -> None:
        self._conditions = conditions
        self._attendance = attendance
        self._ids = tuple(ids)
        self._line = line
        self.journal = journal
        self._mailbox = Mailbox()
        self._messages: dict[str, Message] = {}
        self._last_uploads: dict[str, Message] = {}
        self._travelled: dict[str, Message] = {}
        self.last_seconds = 0.0
        """Simulated seconds of the last broadcast, once it is delivered."""

    @property
    def varies(self) -> bool:
        """May a round be without some of the devices?"""
        return conditions_vary(self._conditions)

    def gather(self, ask: Ask) -> Gathered:
        """Have the devices of a round take part in it; `ask` says in which, and whether they are scored."""
        found = Gathered(ask.round)
        for attempt in range(1, self._attendance.attempts + 1):
            found.attempts = attempt
            self._attempt(ask, found)
            if len(found.uploads) >= self._attendance.least:
                break
        found.asked = [id_ for id_ in self._ids if id_ in found.asked]
        found.uploads = {id_: found.uploads[id_] for id_ in self._ids if id_ in found.uploads}
        found.replies = {id_: found.replies[id_] for id_ in self._ids if id_ in found.replies}
        found.skipped = len(found.uploads) < self._attendance.least
        if self._line.clock is not None:
            found.seconds += self._line.clock.network.server
        if self.varies:
            self._mailbox.clear(found.replies)
            self.journal.finished |= dict.fromkeys(found.replies, ask.round)
            self.journal.rounds.append(found.row())
        if self._conditions.faults.byzantine == "stale":
            for id_ in self._attendance.faulty:
                if id_ in found.replies:
                    self._last_uploads[id_] = found.replies[id_].upload
                    self.journal.sent[id_] = dict(found.replies[id_].upload.scalars)
        return found

    def _attempt(self, ask: Ask, found: Gathered) -> None:
        """Ask the devices of one attempt that have not reported yet; note who did, and who did not and why."""
        t = ask.round
        drops = self._attendance.drops(t, found.attempts)
        asks, waits = {}, Waits(self._line.clock)
        for id_ in self._attendance.asked(t, found.attempts):
            if id_ in found.uploads:
                continue
            found.asked.append(id_)
            if drops.get(id_) == "before":
                found.lost[id_] = "before"
                waits.in_vain(id_)
                continue
            own, size = self._asked(id_, ask)
            waits.download(id_, size)
            if drops.get(id_) == "during":  # its work would be lost, so it is not done
                found.lost[id_] = "during"
                waits.in_vain(id_)
                continue
            asks[id_] = own
        replies, sizes = self._exchange(asks, found)
        for id_, reply in replies.items():
            found.flops += waits.work(id_, {} if id_ in found.replies else reply.steps)
            found.replies[id_] = reply
            waits.upload(id_, sizes[id_])
            loss: Loss | None = "after" if drops.get(id_) == "after" else "late" if waits.is_late(id_) else None
            if loss is None:
                loss = self._taken_in(id_, reply, found)
            else:
                waits.in_vain(id_)
            if loss is None:
                found.lost.pop(id_, None)
            else:
                found.lost[id_] = loss
        for id_ in asks.keys() - replies.keys():
            waits.in_vain(id_)
        found.seconds += waits.longest()
        if self._attendance.restarts(t, found.attempts):
            found.restarts += 1
            found.lost |= dict.fromkeys(found.uploads, "server-restart")
            found.uploads.clear()

    def post(self, messages: Mapping[str, Message]) -> None:
        """Have the messages of a broadcast ready for their devices."""
        if self.varies:
            self._mailbox.put(messages)
        else:
            self._messages = dict(messages)

    def _asked(self, id_: str, ask: Ask) -> tuple[Ask, int]:
        """Return what a device is asked, with its message, which has been carried and counted, and its bytes."""
        message = self._mailbox.of(id_) if self.varies else self._messages.pop(id_, Message())
        message = self._line.link.pack(self._line.carry(message, id_, "down", ask.round), id_)
        size = self._counted(message, id_, "down", ask.round)
        after = self.journal.finished.get(id_, 0) if self.varies else None
        return dataclasses.replace(ask, message=message, after=after), size

    def _counted(self, message: Message, id_: str, way: Direction, t: int) -> int:
        """Count a message in the ledger; return its bytes there."""
        before = len(self._line.ledger.entries)
        self._line.ledger.record(message, id_, way, t)
        return sum(entry.bytes for entry in self._line.ledger.entries[before:])

    def _of_all(self, asks: Mapping[str, Ask], t: int) -> dict[str, Reply]:
        """Return the replies of devices that all have to be there, since a record has the scores of every one."""
        found = Gathered(t)
        replies, _ = self._exchange(asks, found)
        if found.lost:
            raise DeviceMissing(f"{', '.join(found.lost)} cannot be scored; run the command again when it is there")
        return replies

    def _exchange(self, asks: Mapping[str, Ask], found: Gathered) -> tuple[dict[str, Reply], dict[str, int]]:
        """Return the devices' replies in the devices' order, whatever the order in which they come, and their bytes."""
        came: dict[str, Reply] = {}
        refusals: dict[str, Refusal] = {}
        for id_, reply in self._line.fleet.exchange(asks) if asks else ():
            if isinstance(reply, Refusal):
                refusals[id_] = self._tolerated(reply)
                continue
            came[id_] = reply
            if id_ not in found.replies:
                self._line.told(asks[id_], id_, reply)
        silent = [id_ for id_ in asks if id_ not in came and id_ not in refusals]
        if silent and not self._may_lose:
            raise MlecsError(f"{', '.join(silent)} gave no reply in round {found.round}")
        refusals |= {id_: Refusal.of(DeviceMissing(f"{id_} gave no reply")) for id_ in silent}
        for id_ in sorted(refusals):
            self._note_loss(id_, refusals[id_], found)
        replies = {id_: came[id_] for id_ in asks if id_ in came}
        sizes = {id_: self._counted(reply.upload, id_, "up", found.round) for id_, reply in replies.items()}
        return {id_: self._arrived(id_, asks[id_], reply) for id_, reply in replies.items()}, sizes

    def _arrived(self, id_: str, ask: Ask, reply: Reply) -> Reply:
        """Return a reply with the upload as it was before it travelled."""
        if not ask.train:
            return reply
        self._line.link.arrived(id_)
        self._travelled[id_] = reply.upload
        return dataclasses.replace(reply, upload=self._line.link.unpack(reply.upload, id_))

    @property
    def _may_lose(self) -> bool:
        """May a round go on without devices that are really lost?"""
        return self._conditions.participation.min_devices is not None

    def _tolerated(self, refusal: Refusal) -> Refusal:
        """Return a refusal that a round may go on with; raises any other as the error that it stands for."""
        may_drop = self._conditions.faults.drops_refused
        if (refusal.kind == "missing" and self._may_lose) or (refusal.kind == "not-finite" and may_drop):
            return refusal
        raise refusal.error()

    def _note_loss(self, id_: str, refusal: Refusal, found: Gathered) -> None:
        missing = refusal.kind == "missing"
        found.lost[id_] = "missing" if missing else "refused"
        if missing:
            self.journal.missing.append({"round": found.round, "device": id_, "reason": refusal.message})
        self._line.noted(f"round {found.round} goes on without {id_}: {refusal.message}")

    def _taken_in(self, id_: str, reply: Reply, found: Gathered) -> Loss | None:
        """Take an upload in, as it is or as a faulty device sends it; return why it is refused, None where it is not.

        Raises NotFiniteError for one that is not finite, unless the plan goes on without it.
        """
        faults = self._conditions.faults
        upload = reply.upload
        if self._attendance.corrupts(id_, found.round):
            upload = corrupted(upload, self._last_uploads.get(id_), faults, (self._attendance.seed, id_, found.round))
            if faults.byzantine == "repeated":  # the second one is the first one again
                self._line.ledger.record(self._travelled[id_], id_, "up", found.round)
        if id_ in self._attendance.faulty:
            try:
                upload = upload.copied()
            except NotFiniteError as error:
                refusal = Refusal.of(NotFiniteError(f"{id_}: {error}"))
                self._note_loss(id_, self._tolerated(refusal), found)
                return "refused"
        found.uploads[id_] = upload
        return None

    def measure(self, absent: Sequence[str], ask: Ask) -> dict[str, Reply]:
        """Return the scores of devices that have not done the round, as they are."""
        finished = self.journal.finished
        asks = {
            id_: Ask(ask.round, score=True, answers=ask.answers, after=finished.get(id_, 0), train=False)
            for id_ in absent
        }
        return self._of_all(asks, ask.round)

    def deliver(self, ask: Ask) -> dict[str, Reply]:
        """Have all devices take in the last broadcast, with all that they have missed; return their replies."""
        replies: dict[str, Reply] = {}
        waits = Waits(self._line.clock)
        size = max(1, self._conditions.participation.per_round(len(self._ids)))
        for start in range(0, len(self._ids), size):  # as many messages at a time as in any other round
            asks = {}
            for id_ in self._ids[start : start + size]:
                asks[id_], sent = self._asked(id_, ask)
                waits.download(id_, sent)
            replies |= self._of_all(asks, ask.round)
        self.last_seconds = waits.longest()
        return replies

    def state(self) -> dict[str, torch.Tensor]:
        """Return the tensors that last between rounds; nothing under the usual conditions."""
        state = named("mail", self._mailbox.state())
        for id_ in self._ids:
            state |= named(f"link/{id_}", self._line.link.state(id_))
        for id_, upload in self._last_uploads.items():
            state |= named(f"upload/{id_}", upload.tensors)
        return state

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Read what `state` returned; the journal is that of the same moment."""
        self._mailbox = Mailbox.from_state(under("mail", state))
        for id_ in self._ids:
            self._line.link.load_state(id_, under(f"link/{id_}", state))
        self._last_uploads = {
            id_: Message(under(f"upload/{id_}", state), scalars) for id_, scalars in self.journal.sent.items()
        }


def conditions_vary(conditions: Conditions) -> bool:
    """May rounds be without some of the devices under these conditions?"""
    departures = conditions.departures()
    return any("absence" in getattr(conditions, name).demands for name in departures)
