"""What a plugin provides: the hooks, and the types that pass through them.

A distribution declares an entry point in a group of `mlecs_bench.doors.registry.DOORS`, such as
``mlecs_bench.algorithms``; the entry point's name is the name on the command line. It points to a module (or object)
that implements the hook of that group with `hookimpl`, or straight to what the hook would return.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pluggy

from mlecs_bench.data.samples import Task
from mlecs_bench.data.writing import ENGLISH_WRITING, Writing
from mlecs_bench.doors.events import SILENT, Telling
from mlecs_bench.doors.options import NoOptions
from mlecs_bench.doors.places import PlaceInfo
from mlecs_bench.errors import check_choice

if TYPE_CHECKING:
    from torch import nn

    from mlecs_bench.data.samples import DataRequest, Modality, Prepared
    from mlecs_bench.doors.events import Event, Tell
    from mlecs_bench.doors.profile import Profile
    from mlecs_bench.doors.registry import Registry
    from mlecs_bench.doors.scoring import Metric, Scorer

PROJECT = "mlecs_bench"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


Part = Literal["encoder", "projector", "fusion", "soft_prompt", "lora"]
"""A trainable part of a unified model.

The encoders E; of the connector C the projectors (with the embeddings of missing modalities), the fusion layer and the
generator of soft tokens; the adapter of the backbone.
"""
PER_MODALITY: tuple[Part, ...] = ("encoder", "projector")
"""The parts whose tensors belong to one modality each; its name stands before the slash."""
BudgetName = Literal["private", "public", "pooled", "server", "setup"]
"""What the steps of a stage count against.

A device's steps on its private, the public or all parties' data; the server's, of which those for setup are taken in
round 1 alone.
"""
ExchangeDirection = Literal["down", "up", "both"]
"""Which way a kind of tensor is sent: from the server to devices (down), from devices to the server (up), or both."""
ControlRole = Literal["floor", "ceiling"]
"""What a control is held against others for: what they have to beat (floor), or how much there is to gain (ceiling)."""
Change = Literal["absence", "drift"]
"""What may change in a federation.

Devices stay away or their uploads are lost (absence); modalities come and go (drift).
"""
ReportPart = Literal["scores", "modalities", "communication", "curves", "statistics", "steps"]
"""A part of a report on one setting: tables of scores, what was sent, scores by round, tests, what the steps logged."""


@dataclass(frozen=True)
class Exchange:
    """One kind of tensor that an algorithm sends: kind, direction, what it is, its size in symbols.

    Raises ValueError for an unknown direction.
    """

    kind: str
    direction: ExchangeDirection
    meaning: str
    size: str

    def __post_init__(self) -> None:
        check_choice(self.direction, ExchangeDirection, f"the direction of '{self.kind}'")


@dataclass(frozen=True)
class Needs:
    """What an algorithm needs of the federation it runs in, under given options.

    - private_stages: how many stages of a round devices train on their private data, nearly always 1; 0 for none.
      `--budget paper` gives each of them q steps.
    - public_stage: devices take q optimiser steps on the public data. `--budget equal` gives all algorithms the same
      total: q private and q public steps, or 2 q private ones, however many stages share them.
    - same: parts of the devices' models (each a `Part`) that are averaged, so their tensors must have equal shapes on
      all devices, modality by modality. A federation that cannot give that is refused before training.
    - any_rank: adapters may differ in rank; "lora" in `same` then asks for equal shapes but for the rank.
    - ranks: LoRA ranks of devices d00, d01, …, repeated cyclically; empty: the profile's. Alpha / r is the same for
      all.
    - proxy: every party gets `party.proxy`, a small language model of its own.
    - setup_steps: optimiser steps that the server takes in round 1 on top of its budget.
    - pool: every party has the training data of all (`party.pool`), which no federation allows: the bound from above
      that a federation can be held against.
    - one_width: fused representations are held against hidden ones, so a profile's hidden_width and fused_width must be
      equal.
    - prompt_suffix: a sentence put behind the dataset's prompt, in training and at test.
    - copes: the changes of a federation that the algorithm copes with (each a `Change`). "absence": `aggregate` may be
      given the uploads of some devices only, and a device may miss broadcasts, of which it gets the newest of every
      tensor when it comes back. "drift": `device.modalities` and `server.devices` may be others in every round. A run
      that brings a change which is not named here is refused.

    Raises ValueError for an unknown part or change.
    """

    private_stages: int = 1
    public_stage: bool = False
    same: tuple[Part, ...] = ()
    any_rank: bool = False
    ranks: tuple[int, ...] = ()
    proxy: bool = False
    setup_steps: int = 0
    pool: bool = False
    prompt_suffix: str = ""
    one_width: bool = False
    copes: tuple[Change, ...] = ()

    def __post_init__(self) -> None:
        for part in self.same if isinstance(self.same, tuple | list) else ():  # of a text, a check says what is wrong
            check_choice(part, Part, "a part in 'same'")
        for change in self.copes if isinstance(self.copes, tuple | list) else ():
            check_choice(change, Change, "a change in 'copes'")


@dataclass(frozen=True)
class Control:
    """What an algorithm stands in tables for where it is no rival of the others but what they are held against.

    A "floor" sees the same data and takes the same steps as a collaborative algorithm and sends nothing: what
    collaboration has to beat. A "ceiling" has what no device may have, such as all private data in one place: how much
    there is to gain at all. `label` is what tables call it; `says` is what it shares and lacks, as part of a sentence.
    Raises ValueError for an unknown role.
    """

    role: ControlRole
    label: str
    says: str

    def __post_init__(self) -> None:
        check_choice(self.role, ControlRole, "the role of a control")


@dataclass(frozen=True)
class AlgorithmInfo:
    """An algorithm plugin: how to build it and its card.

    `build(options)` returns the algorithm (an `Algorithm` of mlecs_bench.federation.algorithm). `server_score`: the
    server's model is trained and scored. `needs(options)` says what it needs of a federation, `control(options)`
    whether it is a control. The card's sentences: `reproduced` is done as the paper prints it, `readings` is what the
    sources leave open and how it was read, `deviations` is what departs from them, with the reason.
    """

    title: str
    summary: str
    build: Callable[[Any], Any]
    paper: str = ""
    options: type[Any] = NoOptions
    exchanges: Sequence[Exchange] = ()
    server_score: bool = False
    needs: Callable[[Any], Needs] = lambda _: Needs()
    control: Callable[[Any], Control | None] = lambda _: None
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

    `redistributable` False: the user's own data may not be passed on, nor may pages and files that hold its texts.

    `for_data(data_dir, options)` returns the card for a user's folder where that decides task, modalities, metrics or
    splits; the others of its fields are those of this card. It is asked whenever a run is planned, so it reads no
    samples; it raises DataError for a folder that it cannot read. Raises ValueError for an unknown task.
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
    redistributable: bool = True
    for_data: Callable[[Path, Any], DatasetInfo] | None = None

    def __post_init__(self) -> None:
        check_choice(self.task, Task, "the task of a dataset")

    def given(self, data_dir: Path | None, options: Any) -> DatasetInfo:
        """Return the card for the user's folder `data_dir`, which is this one where data have no say in it."""
        return self if data_dir is None or self.for_data is None else self.for_data(data_dir, options)


@dataclass(frozen=True)
class MetricRequest:
    """What a metric is made for.

    `labels` are the dataset's classes, none for generation; `cache_dir` is where it may keep what is costly; `model`
    is that of a learned metric as `--bertscore-model` or the profile names it; `torch_device` is where it runs.
    `writing` says what the targets of the dataset are written with. `telling` is told of what is slow.
    """

    labels: tuple[str, ...]
    cache_dir: Path
    model: str | None = None
    torch_device: str = "cpu"
    writing: Writing = ENGLISH_WRITING
    telling: Telling = SILENT


ScoredPer = Literal["sample", "corpus"]
"""What a metric scores: every sample, of which the mean is the score, or all samples together."""


@dataclass(frozen=True)
class MetricInfo:
    """A metric plugin. `make(request)` returns its scorer, or None where an optional package is not installed.

    The entry point's name is the metric's name in `DatasetInfo.metrics` and in records. No model is loaded by `make`.
    `check(request)` raises UsageError before any data is prepared (so without labels) when a model cannot be used, and
    fetches it where it may: nothing is fetched later.
    `real_texts`: it says something of real texts alone, so tables of synthetic data leave it out; records hold it.
    `per` "sample": the score is the mean over samples of what each scores; "corpus": it is of all samples together.
    `range` are its least and greatest value. `labels`: it is for datasets with classes alone. `reading` says, as part
    of a sentence, how texts are read where the identity does not; captions show it.
    Raises ValueError for an unknown `per`.
    """

    title: str
    summary: str
    make: Callable[[MetricRequest], Scorer | None]
    higher_is_better: bool = True
    check: Callable[[MetricRequest], None] | None = None
    real_texts: bool = False
    per: ScoredPer = "corpus"
    range: tuple[float, float] = (-math.inf, math.inf)
    labels: bool = False
    reading: str = ""

    def __post_init__(self) -> None:
        check_choice(self.per, ScoredPer, "per of a metric")


def _same(name: str) -> str:
    return name


@dataclass(frozen=True)
class TowerInfo:
    """How a file of published weights (a state dict) becomes a frozen tower, whose embeddings of pictures are features.

    `build()` returns the network: pictures (b, 3, size, size) float32 to embeddings (b, d), each of its picture alone.
    A picture is resized as a whole, scaled to 0..1, and `mean` and `std` of its channels are taken out. `key(name)` is
    what the network calls a tensor of the file, or None for one that it has no use for.
    """

    build: Callable[[], nn.Module]
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    key: Callable[[str], str | None] = _same


@dataclass(frozen=True)
class EncoderInfo:
    """An encoder plugin: the trainable network in front of modalities of one encoding.

    The entry point's name is the encoding in a manifest. `axes` is how many axes a sample's shape has.
    `build(modality, dim)` returns a module from a batch `(b, *modality.shape)` to float32 (b, dim), with weights from
    torch's current stream and without running statistics. With `tower`, files of published weights of its network can
    serve datasets as frozen towers, by the encoder's name.
    """

    title: str
    summary: str
    axes: int
    build: Callable[[Modality, int], nn.Module]
    tower: TowerInfo | None = None


@dataclass(frozen=True)
class WorkersRequest:
    """What workers are made for: how many cells run at a time, with how many threads, and who is told of events.

    `gpus` are the visible GPUs among which processes may be dealt out; empty when no cell needs one. `registry` has the
    plugins of this process, for workers that run cells in it; others find those that are installed where they are.
    `argument` is the text behind the workers' name, for cards that take one: they get `size` for all cells at a time,
    and no GPUs of this machine.
    """

    size: int
    threads: int
    tell: Tell
    gpus: tuple[str, ...] = ()
    registry: Registry | None = None
    argument: str = ""


@dataclass(frozen=True)
class WorkersInfo(PlaceInfo):
    """A workers plugin: where cells run.

    `make(request)` takes a `WorkersRequest` and returns `Workers` of mlecs_bench.execution.workers. An `argument` that
    is a number is how many cells run at a time: the request's `size`.
    """


@dataclass(frozen=True)
class FleetInfo(PlaceInfo):
    """A fleet plugin: where the devices of one federation live.

    `make(request)` takes a `FleetRequest` and returns a `Fleet`, both of mlecs_bench.federation.fleet. An `argument`
    that is a number is the request's `size`, any is its `argument`.
    """


@dataclass(frozen=True)
class StudyInfo:
    """A study plugin: what belongs to one paper or question.

    `presets` maps names for `mlecs-bench sweep --preset` to study files. `sections(view)` adds sections to a report
    that asks for the study, for one setting at a time; they come first, and take the place of the report's own sections
    that `replaces` names. `layouts` are other ways to lay out what `sections` says, by the names that `report --layout`
    and the `layout` of a study file choose them by. `algorithms` and `datasets` stand first in
    tables, in this order; `candidate` is the algorithm that is held against the others. `sent` is what the study says
    of the volume that an algorithm sends, by its name, and `sent_notes` explain it; `mlecs-bench comm --study` shows
    them. Raises ValueError for an unknown part of a report.
    """

    title: str
    summary: str
    presets: Mapping[str, Path] = field(default_factory=dict)
    sections: Callable[[Any], Sequence[Any]] = lambda _: ()
    layouts: Mapping[str, Callable[[Any], Sequence[Any]]] = field(default_factory=dict)
    replaces: Sequence[ReportPart] = ()
    algorithms: Sequence[str] = ()
    datasets: Sequence[str] = ()
    candidate: str = ""
    sent: Mapping[str, str] = field(default_factory=dict)
    sent_notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        for part in self.replaces if isinstance(self.replaces, tuple | list) else ():
            check_choice(part, ReportPart, "a part in 'replaces'")


@dataclass(frozen=True)
class TrackerRequest:
    """What a tracker is made for: `folder` is where its files go unless its own variables say otherwise.

    The folder need not be there yet.
    """

    folder: Path


@dataclass(frozen=True)
class TrackerInfo:
    """A tracker: an observer that is told of a run only where `--track` names it. An entry point points straight to it.

    `make(request)` returns a `Tracker` of mlecs_bench.doors.observers, and raises UsageError when it cannot write.
    `packages` are the modules that it imports and mlecs-bench does not need, `install` is the command that brings them;
    a run is refused before anything starts where one is not there.
    """

    title: str
    summary: str
    make: Callable[[TrackerRequest], Any]
    packages: Sequence[str] = ()
    install: str = ""


class HookSpecs:
    """All hooks. A hook exists only if something in this project implements or calls it."""

    @hookspec
    def mlecs_algorithm(self) -> AlgorithmInfo:  # type: ignore[empty-body]  # a specification has no body
        """Return the algorithm this plugin provides."""

    @hookspec
    def mlecs_dataset(self) -> DatasetInfo:  # type: ignore[empty-body]  # a specification has no body
        """Return the dataset this plugin provides."""

    @hookspec
    def mlecs_metric(self) -> MetricInfo:  # type: ignore[empty-body]  # a specification has no body
        """Return the metric this plugin provides."""

    @hookspec
    def mlecs_encoder(self) -> EncoderInfo:  # type: ignore[empty-body]  # a specification has no body
        """Return the encoder this plugin provides."""

    @hookspec
    def mlecs_profile(self) -> Profile:  # type: ignore[empty-body]  # a specification has no body
        """Return the profile this plugin provides."""

    @hookspec
    def mlecs_workers(self) -> WorkersInfo:  # type: ignore[empty-body]  # a specification has no body
        """Return the workers this plugin provides."""

    @hookspec
    def mlecs_fleet(self) -> FleetInfo:  # type: ignore[empty-body]  # a specification has no body
        """Return the fleet this plugin provides."""

    @hookspec
    def mlecs_study(self) -> StudyInfo:  # type: ignore[empty-body]  # a specification has no body
        """Return the study this plugin provides."""

    @hookspec
    def mlecs_event(self, event: Event, plan: Any) -> None:
        """Something has happened; `plan` (a `Plan`) is that of the event's cell, None where it has none."""
