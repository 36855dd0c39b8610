"""What a plugin provides: the hooks, and the types that pass through them.

A distribution declares an entry point in the group ``mlecs_bench.algorithms``, ``mlecs_bench.datasets`` or
``mlecs_bench.observers``; the entry point's name is the name on the command line, and it points to a module (or
object) that implements the hook of that group with `hookimpl`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import pluggy

from mlecs_bench.data import DataRequest, Prepared, Task
from mlecs_bench.options import NoOptions

if TYPE_CHECKING:
    from mlecs_bench.messages import Message
    from mlecs_bench.metrics import Metric
    from mlecs_bench.parties import Device, Server

PROJECT = "mlecs_bench"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Algorithm(Protocol):
    """One federated algorithm: four functions around the messages of a round t = 1..T.

    The object holds options only; all state lives on the parties. Round t is broadcast → receive → local_update →
    aggregate for all devices; after round T one last broadcast → receive (t = T + 1).
    """

    def broadcast(self, server: Server, t: int) -> Mapping[str, Message]:
        """Cloud: what goes down in round t, by device id. A device without an entry gets an empty message."""
        ...

    def receive(self, device: Device, message: Message, t: int) -> None:
        """Device: take in what came down."""
        ...

    def local_update(self, device: Device, t: int) -> Message:
        """Device: train; return what goes up."""
        ...

    def aggregate(self, server: Server, uploads: Mapping[str, Message], t: int) -> None:
        """Cloud: merge the uploads (by device id) and train."""
        ...


@dataclass(frozen=True)
class Exchange:
    """One kind of tensor that an algorithm sends: kind, direction, what it is, its size in symbols."""

    kind: str
    direction: Literal["down", "up", "both"]
    meaning: str
    size: str


@dataclass(frozen=True)
class Needs:
    """What an algorithm needs of the federation it runs in, under given options.

    private_stage: devices take optimiser steps on their private data, as nearly every algorithm does.
    public_stage: devices take optimiser steps on the public data; `--budget equal` gives as many private steps more
      to algorithms that do not.
    same: parts of the devices' models (of `ALL_PARTS`) that are averaged, so their tensors must have equal shapes on
      all devices, modality by modality. A federation that cannot give that is refused before training.
    any_rank: adapters may differ in rank; "lora" in `same` then asks for equal shapes but for the rank.
    ranks: LoRA ranks of devices d00, d01, …, repeated cyclically; empty: the profile's. Alpha / r is the same for all.
    proxy: every party gets `party.proxy`, a small language model of its own.
    setup_steps: optimiser steps that the server takes in round 1 on top of its budget.
    prompt_suffix: a sentence put behind the dataset's prompt, in training and at test.
    """

    private_stage: bool = True
    public_stage: bool = False
    same: tuple[str, ...] = ()
    any_rank: bool = False
    ranks: tuple[int, ...] = ()
    proxy: bool = False
    setup_steps: int = 0
    prompt_suffix: str = ""


@dataclass(frozen=True)
class AlgorithmInfo:
    """An algorithm plugin: how to build it and its card.

    `build(options)` returns the algorithm. `server_score`: the server's model is trained and scored. `needs(options)`
    says what it needs of a federation. The card's sentences: `reproduced` is done as the paper prints it, `readings`
    is what the sources leave open and how it was read, `deviations` is what departs from them, with the reason.
    """

    title: str
    summary: str
    build: Callable[[Any], Algorithm]
    paper: str = ""
    options: type[Any] = NoOptions
    exchanges: Sequence[Exchange] = ()
    server_score: bool = False
    needs: Callable[[Any], Needs] = lambda _: Needs()
    reproduced: Sequence[str] = ()
    readings: Sequence[str] = ()
    deviations: Sequence[str] = ()


@dataclass(frozen=True)
class Verification:
    """What reading all files of a user has shown; `mlecs-bench data verify` prints it.

    `missing` names, for every modality, the samples that lack it, which is allowed. `problems` has one line for each
    file that is damaged, inconsistent or needed and not there. `digest` is that of the data as `prepare` would make
    it, or None where it would refuse.
    """

    view: str
    n_samples: int
    digest: str | None
    missing: Mapping[str, Sequence[str]]
    problems: Sequence[str] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class DatasetInfo:
    """A dataset plugin: how to prepare it and its card.

    `prepare(request)` returns the prepared folder (from the cache where it can). `metrics` names the scores, headline
    first. `diagnose(rows, predictions)` may add diagnostic scores from the prepared table's own columns: it is
    given the columns in `diagnostic_columns` of the scored samples. `check(folder)` names what is missing from a
    user's folder, quickly and without decoding anything; `mlecs-bench doctor` shows it. `verify(request)` reads all
    that `prepare` would, and names what is damaged or missing instead of failing.

    `references` maps the name of a trivial reference to the text column of the prepared table that it answers with,
    such as {"copy-subtitle": "subtitle_text"}; tables show what that scores, beside the most frequent target of the
    training samples, which every dataset gets. A reference whose column a prepared table lacks is left out.
    """

    title: str
    summary: str
    task: Task
    modalities: Sequence[str]
    prepare: Callable[[DataRequest], Prepared]
    metrics: Sequence[str]
    options: type[Any] = NoOptions
    splits: Sequence[str] = ("frame",)
    diagnostic_columns: Sequence[str] = ()
    diagnose: Callable[[Mapping[str, Sequence[Any]], Sequence[str]], Mapping[str, Metric]] | None = None
    where_to_get: str = ""
    check: Callable[[Path], Sequence[str]] | None = None
    notes: Sequence[str] = ()
    verify: Callable[[DataRequest], Verification] | None = None
    references: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CellRef:
    """Names one cell of a run or a sweep in events: one algorithm, dataset, rate and seed.

    `scorings`: how often a device or the server is scored in the cell, counting the server as if it always were.
    `key` is that of its record. `variant` says in which settings it departs from the defaults, "" for none.
    """

    algo: str
    dataset: str
    rho: str
    seed: int
    rounds: int
    n_devices: int
    scorings: int
    key: str = ""
    variant: str = ""


class HookSpecs:
    """All hooks. A hook exists only if something in this project implements or calls it."""

    @hookspec
    def mlecs_algorithm(self) -> AlgorithmInfo:  # type: ignore[empty-body]  # a specification has no body
        """Return the algorithm this plugin provides."""

    @hookspec
    def mlecs_dataset(self) -> DatasetInfo:  # type: ignore[empty-body]  # a specification has no body
        """Return the dataset this plugin provides."""

    @hookspec
    def mlecs_data_progress(self, done: int, total: int, what: str) -> None:
        """Data is being prepared: `done` of `total` of `what`."""

    @hookspec
    def mlecs_cells(self, cells: Sequence[CellRef]) -> None:
        """All cells of a run or a sweep are known, those that are done already among them; none has begun."""

    @hookspec
    def mlecs_cell_start(self, cell: CellRef, resumed_round: int) -> None:
        """A cell begins; `resumed_round` is the last finished round of its checkpoint, or 0."""

    @hookspec
    def mlecs_device_end(self, cell: CellRef, round: int, device: str) -> None:
        """A device (or "server") has finished its work of a round."""

    @hookspec
    def mlecs_score_end(self, cell: CellRef, round: int, device: str) -> None:
        """A device, or the server, has been scored; `round` is rounds + 1 for scores after the last broadcast."""

    @hookspec
    def mlecs_round_end(self, cell: CellRef, round: int, scores: Mapping[str, float]) -> None:
        """A round has ended and its checkpoint is written; `scores` holds what was evaluated in it, if anything."""

    @hookspec
    def mlecs_cell_end(self, cell: CellRef, record: Mapping[str, Any] | None, error: str | None) -> None:
        """A cell has ended with a record or with an error."""
