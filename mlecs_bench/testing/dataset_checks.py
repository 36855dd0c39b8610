"""Checks of a dataset plugin: its card, how it prepares its data, and that devices can train on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mlecs_bench.blocks.supervised import train_on_private
from mlecs_bench.data.samples import PartyData, Prepared, Samples
from mlecs_bench.doors.hookspecs import AlgorithmInfo, MetricRequest
from mlecs_bench.doors.registry import Loaded
from mlecs_bench.doors.scoring import Metric
from mlecs_bench.errors import MlecsError, UsageError
from mlecs_bench.execution.references import MOST_FREQUENT
from mlecs_bench.federation.build import build_federation
from mlecs_bench.federation.device import Device
from mlecs_bench.federation.engine import Cell, CellRun
from mlecs_bench.federation.evaluation import Evaluator
from mlecs_bench.federation.fleet import InProcessFleet
from mlecs_bench.federation.host import DeviceHost
from mlecs_bench.federation.messages import Message
from mlecs_bench.federation.server import Server
from mlecs_bench.metrics.scorers import make_scorers
from mlecs_bench.models.unified import UnifiedModel
from mlecs_bench.plan.resolve import planned
from mlecs_bench.plan.spec import RunSpec
from mlecs_bench.testing import toy
from mlecs_bench.testing.card_checks import check_options, check_sentences, check_texts
from mlecs_bench.testing.material import Material, new_folder
from mlecs_bench.testing.verdict import fail

SPLITS = ("frame", "sequence")
TEXT_TYPES = ("string", "large_string")
SCORED = 8
SEED = 27


def card(material: Material) -> None:
    """The card has title, summary, where to get the data, modalities in sorted order, metrics and splits."""
    info = material.info
    check_texts({"title": info.title, "summary": info.summary, "where_to_get": info.where_to_get})
    lists = {"modalities": info.modalities, "metrics": info.metrics, "splits": info.splits}
    check_sentences({**lists, "notes": info.notes, "diagnostic_columns": info.diagnostic_columns}, "DatasetInfo")
    for name, values in lists.items():
        if not values or len(set(values)) != len(values):
            fail(f"the card names its {name} once each", f"they are {tuple(values)}", "name at least one, each once")
    if list(info.modalities) != sorted(info.modalities):
        fail("modalities are in sorted order", f"they are {tuple(info.modalities)}", "sort them, as the manifest does")
    strange = [split for split in info.splits if split not in SPLITS]
    if strange:
        fail("splits are known", f"the card names '{strange[0]}'", f"use {' or '.join(SPLITS)}")
    if bool(info.diagnostic_columns) != (info.diagnose is not None):
        fail("diagnose reads the diagnostic columns", "the card has one without the other", "give both or neither")


def options(material: Material) -> None:
    """Every option has help and source; defaults and given values survive JSON and the command line."""
    check_options(material.info.options, material.options)


def metrics(material: Material) -> None:
    """The metrics are known to mlecs-bench, and the dataset has what they need."""
    try:
        request = MetricRequest(material.prepared.manifest.labels, new_folder())
        make_scorers(material.info.metrics, request, toy.registry())
    except UsageError as error:
        fail("the metrics can score this dataset", str(error), "correct `metrics` of the card")


def references(material: Material) -> None:
    """References have names of their own, and the columns that they copy hold texts where the table has them."""
    named = material.info.references
    if not isinstance(named, Mapping):
        fail("references map names to columns", f"they are {named!r}", 'write {"copy-subtitle": "subtitle_text"}')
    check_texts({f"references[{name!r}]": column for name, column in named.items()})
    for name, column in named.items():
        if name in MOST_FREQUENT.values():
            fail("references have names of their own", f"'{name}' is one of mlecs-bench's", "choose another name")
        index = material.schema.get_field_index(column)
        if index >= 0 and str(material.schema.field(index).type) not in TEXT_TYPES:
            happened = f"'{column}' is {material.schema.field(index).type} and not string"
            fail(f"the column that '{name}' copies holds texts", happened, "give it the type string")


def stand_in(material: Material) -> None:
    """Without files of a user a synthetic stand-in is prepared, in the cache folder, and its manifest says so."""
    prepared = material.prepared
    if not isinstance(prepared, Prepared):
        fail("prepare(request) returns a Prepared", f"it gave {type(prepared).__name__}", "return save_prepared(…)")
    if not prepared.manifest.synthetic:
        advice = "set synthetic=True in the manifest when request.data_dir is None"
        fail("tables mark numbers of a stand-in", "the manifest does not say synthetic", advice)
    if not prepared.folder.resolve().is_relative_to(material.cache_dir.resolve()):
        fail("prepared data lies in request.cache_dir", f"it is in {prepared.folder}", "save it below cache_dir")


def same_elsewhere(material: Material) -> None:
    """Prepared again in another cache folder the data is the same."""
    first = material.samples
    other = Samples.open(material.prepare(new_folder()))
    wanted, advice = "the data depends on nothing but options and files", "draw from mlecs_bench.api.rng"
    if first.manifest != other.manifest:
        fail(wanted, "the manifests of two preparations differ", f"{advice}, and put no path or date into it")
    for name in sorted(set(first.column_names) | set(other.column_names)):
        if not _equal_column(first, other, name):
            fail(wanted, f"column '{name}' differs between two preparations", advice)


def _equal_column(first: Samples, other: Samples, name: str) -> bool:
    if name in first.manifest.modality_names:
        one, two = first.array(name), other.array(name)
        return one.shape == two.shape and one.tobytes() == two.tobytes()
    return name in first.column_names and name in other.column_names and first.column(name) == other.column(name)


def cached(material: Material) -> None:
    """Prepared again in the same cache folder nothing is made or written again."""
    first = material.prepared
    before = _files(material.cache_dir)
    again = material.prepare(material.cache_dir)
    advice = "return open_prepared(folder) when it finds something"
    if again.folder != first.folder or again.manifest != first.manifest:
        fail("prepared data is found again in the cache", f"the second time it was {again.folder}", advice)
    written = [path for path, stamp in _files(material.cache_dir).items() if before.get(path) != stamp]
    if written:
        fail("prepared data is found again in the cache", f"{written[0].name} was written again", advice)


def _files(folder: Path) -> dict[Path, tuple[int, int]]:
    stats = {path: path.stat() for path in sorted(folder.rglob("*")) if path.is_file()}
    return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in stats.items()}


def bad_folders(material: Material) -> None:
    """A data folder that is missing or empty is refused in one line, and `check` names what is missing."""
    empty = new_folder()
    for what, folder in {"missing": empty / "nowhere", "empty": empty}.items():
        wanted = f"a data folder that is {what} is refused in one line"
        try:
            material.prepare(new_folder(), folder)
        except MlecsError as error:
            if "\n" in str(error).strip():
                fail(wanted, "the message has several lines", "say in one line what is missing and where to get it")
        except Exception as error:  # noqa: BLE001  # any other error is what this check looks for
            fail(wanted, f"prepare raised {type(error).__name__}: {error}", "raise mlecs_bench.api.DataError")
        else:
            fail(wanted, "prepare accepted it", "raise mlecs_bench.api.DataError that says what belongs there")
        if material.info.check is not None and not material.info.check(folder):
            fail(f"`check` names what a folder lacks that is {what}", "it named nothing", "return one line per file")


class _LocalTraining:
    """Devices train alone; nothing is sent."""

    def broadcast(self, server: Server, t: int) -> Mapping[str, Message]:
        return {}

    def receive(self, device: Device, message: Message, t: int) -> None:
        return None

    def local_update(self, device: Device, t: int) -> Message:
        train_on_private(device, t)
        return Message()

    def aggregate(self, server: Server, uploads: Mapping[str, Message], t: int) -> None:
        return None


class _FewSamples(Evaluator):
    """Scores the first test samples of a party only."""

    def score(self, model: UnifiedModel, test: PartyData, prompt: str) -> dict[str, Metric]:
        """Return every score on a few samples."""
        return super().score(model, test.part(np.sort(test.rows)[:SCORED]), prompt)


def federated_round(material: Material) -> None:
    """Three devices with toy models can train on it for a round, and be scored."""
    info, samples = material.info, material.samples
    algorithm = _LocalTraining()
    local = AlgorithmInfo("Local", "Devices train alone.", lambda _: algorithm)
    spec = RunSpec("local", material.name, rho=1.0, rounds=1, steps=1, profile=toy.DATASET)
    plan = planned(
        spec,
        Loaded("local", local, "unknown", "0"),
        Loaded(material.name, info, "unknown", "0"),
        Loaded(toy.DATASET, toy.profile(), "unknown", "0"),
    )
    federation = build_federation(plan, SEED, samples, toy.registry())
    request = MetricRequest(samples.manifest.labels, material.cache_dir, writing=samples.writing)
    scorers = make_scorers(info.metrics[:1], request, toy.registry())
    evaluator = _FewSamples(info, samples, scorers, SCORED)
    cell = Cell(
        algorithm=algorithm,
        server=federation.server,
        fleet=InProcessFleet(DeviceHost(federation.devices, algorithm, evaluator)),
        evaluator=evaluator,
        key=material.name,
        rounds=1,
        evaluate_all=False,
        server_score=False,
    )
    CellRun(cell).run()
