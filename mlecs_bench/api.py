"""The only module a plugin author imports, and where `mlecs_bench.run` and its like come from.

A name is imported when it is used, with what it needs and no more.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlecs_bench.blocks.aggregate import rank_weighted_mean, truncated, weighted_mean
    from mlecs_bench.blocks.alignment import PairIndex, Unmatched, agreement, answer_pairs, vocabulary_map
    from mlecs_bench.blocks.exchange import held_tensors
    from mlecs_bench.blocks.gram import contrastive_loss
    from mlecs_bench.blocks.mutual import PoolChoice, TransferOptions, transfer_between
    from mlecs_bench.blocks.proximal import layer_count, layer_of, middle_layers, proximal_term
    from mlecs_bench.blocks.server_optimiser import ServerOptimiser, ServerRule, adaptive_step
    from mlecs_bench.blocks.supervised import (
        ALL_PARTS,
        Objective,
        Stage,
        Terms,
        minimise,
        server_parts,
        supervised_loss,
        train_on_private,
        train_server,
        train_stage,
    )
    from mlecs_bench.blocks.transfer import Pool, Reduction, pair_divergences, transfer_loss
    from mlecs_bench.data.samples import (
        Batch,
        DataRequest,
        Manifest,
        Modality,
        PartyData,
        Prepared,
        StoredType,
        Task,
        features_of,
        open_prepared,
        save_prepared,
    )
    from mlecs_bench.data.writing import Writing
    from mlecs_bench.doors.events import CellRef, Event, Tell, Telling
    from mlecs_bench.doors.hookspecs import (
        AlgorithmInfo,
        BudgetName,
        Change,
        Control,
        ControlRole,
        DatasetInfo,
        EncoderInfo,
        Exchange,
        ExchangeDirection,
        FleetInfo,
        MetricInfo,
        MetricRequest,
        Needs,
        Part,
        ReportPart,
        ScoredPer,
        StudyInfo,
        TowerInfo,
        TrackerInfo,
        TrackerRequest,
        Verification,
        WorkersInfo,
        WorkersRequest,
        hookimpl,
    )
    from mlecs_bench.doors.metric_function import metric
    from mlecs_bench.doors.observers import Tracker
    from mlecs_bench.doors.options import NoOptions, option
    from mlecs_bench.doors.places import ArgumentKind
    from mlecs_bench.doors.profile import BaseBits, Dtype, LearningRates, LoraSettings, Profile
    from mlecs_bench.doors.scoring import FunctionScorer, Metric, Scorer, check_pairs
    from mlecs_bench.errors import AccessError, DataError, MlecsError, RecordError, UsageError
    from mlecs_bench.execution.cell import run_job
    from mlecs_bench.execution.elsewhere import Arrivals, Sender, run_parcel
    from mlecs_bench.execution.event_lines import event_line, event_of
    from mlecs_bench.execution.jobs import CellResult, Job
    from mlecs_bench.execution.losses import Losses
    from mlecs_bench.execution.slurm import SlurmSettings, slurm_minutes, slurm_settings
    from mlecs_bench.execution.workers import Workers
    from mlecs_bench.federation.algorithm import Algorithm
    from mlecs_bench.federation.device import Device
    from mlecs_bench.federation.fleet import Fleet, FleetRequest, Recipe, build_host
    from mlecs_bench.federation.host import DeviceHost, Greeting
    from mlecs_bench.federation.ledger import Direction
    from mlecs_bench.federation.messages import Message, with_kind
    from mlecs_bench.federation.saved import SavedModel, load_model
    from mlecs_bench.federation.server import Server
    from mlecs_bench.federation.turns import Ask, Refusal, Reply
    from mlecs_bench.metrics.labels import recall_by_label
    from mlecs_bench.models.encoders import installed_encoder
    from mlecs_bench.models.hub import fetched_encoder
    from mlecs_bench.models.unified import Representation, Supervised, UnifiedModel
    from mlecs_bench.plan.plan import Plan
    from mlecs_bench.plan.spec import AnswerRule, Evaluate
    from mlecs_bench.plan.training import BudgetRule
    from mlecs_bench.report.arrange import Arm, Data, Place, Setting
    from mlecs_bench.report.captions import score_caption
    from mlecs_bench.report.controls import NO_FLOOR, control_notes, floors
    from mlecs_bench.report.drawings import (
        FigureWords,
        draw_ablation,
        draw_bars,
        draw_communication,
        draw_shares,
        estimate,
    )
    from mlecs_bench.report.evidence import communication_table
    from mlecs_bench.report.figure_parts import Bar, BarPanel, ShareBar
    from mlecs_bench.report.folder import WrittenReport, report
    from mlecs_bench.report.frame import BOTH_POINTS, EvalPoint, Row, SeedMean, Stat, honest_sentence
    from mlecs_bench.report.scores import (
        ScoreColumn,
        ScoreLayout,
        beside_published,
        file_part,
        score_columns,
        score_notes,
        score_number,
        score_table,
    )
    from mlecs_bench.report.statistics import MARGIN, Difference, Verdict, holm, paired_difference, verdict
    from mlecs_bench.report.study import StudyView
    from mlecs_bench.report.table import (
        ABSENT,
        Claim,
        ClaimVerdict,
        Figure,
        Line,
        Number,
        NumberKind,
        Published,
        Section,
        Table,
    )
    from mlecs_bench.seeds import rng, torch_generator, torch_stream
    from mlecs_bench.session.python import RunSettings, run, sweep
    from mlecs_bench.session.results import FailedCell, FailedCellsError, Results, Run, load_records

_HOMES = {
    "blocks.aggregate": (
        "rank_weighted_mean",
        "truncated",
        "weighted_mean",
    ),
    "blocks.alignment": (
        "PairIndex",
        "Unmatched",
        "agreement",
        "answer_pairs",
        "vocabulary_map",
    ),
    "blocks.exchange": ("held_tensors",),
    "blocks.gram": ("contrastive_loss",),
    "blocks.mutual": (
        "PoolChoice",
        "TransferOptions",
        "transfer_between",
    ),
    "blocks.proximal": (
        "layer_count",
        "layer_of",
        "middle_layers",
        "proximal_term",
    ),
    "blocks.server_optimiser": (
        "ServerOptimiser",
        "ServerRule",
        "adaptive_step",
    ),
    "blocks.supervised": (
        "ALL_PARTS",
        "Objective",
        "Stage",
        "Terms",
        "minimise",
        "server_parts",
        "supervised_loss",
        "train_on_private",
        "train_server",
        "train_stage",
    ),
    "blocks.transfer": (
        "Pool",
        "Reduction",
        "pair_divergences",
        "transfer_loss",
    ),
    "data.samples": (
        "Batch",
        "DataRequest",
        "Manifest",
        "Modality",
        "PartyData",
        "Prepared",
        "StoredType",
        "Task",
        "features_of",
        "open_prepared",
        "save_prepared",
    ),
    "data.writing": ("Writing",),
    "doors.events": (
        "CellRef",
        "Event",
        "Tell",
        "Telling",
    ),
    "doors.hookspecs": (
        "AlgorithmInfo",
        "BudgetName",
        "Change",
        "Control",
        "ControlRole",
        "DatasetInfo",
        "EncoderInfo",
        "Exchange",
        "ExchangeDirection",
        "FleetInfo",
        "MetricInfo",
        "MetricRequest",
        "Needs",
        "Part",
        "ReportPart",
        "ScoredPer",
        "StudyInfo",
        "TowerInfo",
        "TrackerInfo",
        "TrackerRequest",
        "Verification",
        "WorkersInfo",
        "WorkersRequest",
        "hookimpl",
    ),
    "doors.metric_function": ("metric",),
    "doors.observers": ("Tracker",),
    "doors.options": (
        "NoOptions",
        "option",
    ),
    "doors.places": ("ArgumentKind",),
    "doors.profile": (
        "BaseBits",
        "Dtype",
        "LearningRates",
        "LoraSettings",
        "Profile",
    ),
    "doors.scoring": (
        "FunctionScorer",
        "Metric",
        "Scorer",
        "check_pairs",
    ),
    "errors": (
        "AccessError",
        "DataError",
        "MlecsError",
        "RecordError",
        "UsageError",
    ),
    "execution.cell": ("run_job",),
    "execution.elsewhere": (
        "Arrivals",
        "Sender",
        "run_parcel",
    ),
    "execution.event_lines": (
        "event_line",
        "event_of",
    ),
    "execution.jobs": (
        "CellResult",
        "Job",
    ),
    "execution.losses": ("Losses",),
    "execution.slurm": (
        "SlurmSettings",
        "slurm_minutes",
        "slurm_settings",
    ),
    "execution.workers": ("Workers",),
    "federation.algorithm": ("Algorithm",),
    "federation.device": ("Device",),
    "federation.fleet": (
        "Fleet",
        "FleetRequest",
        "Recipe",
        "build_host",
    ),
    "federation.host": (
        "DeviceHost",
        "Greeting",
    ),
    "federation.ledger": ("Direction",),
    "federation.messages": (
        "Message",
        "with_kind",
    ),
    "federation.saved": (
        "SavedModel",
        "load_model",
    ),
    "federation.server": ("Server",),
    "federation.turns": (
        "Ask",
        "Refusal",
        "Reply",
    ),
    "metrics.labels": ("recall_by_label",),
    "models.encoders": ("installed_encoder",),
    "models.hub": ("fetched_encoder",),
    "models.unified": (
        "Representation",
        "Supervised",
        "UnifiedModel",
    ),
    "plan.plan": ("Plan",),
    "plan.spec": ("AnswerRule", "Evaluate"),
    "plan.training": ("BudgetRule",),
    "report.arrange": (
        "Arm",
        "Data",
        "Place",
        "Setting",
    ),
    "report.captions": ("score_caption",),
    "report.controls": (
        "NO_FLOOR",
        "control_notes",
        "floors",
    ),
    "report.drawings": (
        "FigureWords",
        "draw_ablation",
        "draw_bars",
        "draw_communication",
        "draw_shares",
        "estimate",
    ),
    "report.evidence": ("communication_table",),
    "report.figure_parts": (
        "Bar",
        "BarPanel",
        "ShareBar",
    ),
    "report.folder": (
        "WrittenReport",
        "report",
    ),
    "report.frame": (
        "BOTH_POINTS",
        "EvalPoint",
        "Row",
        "SeedMean",
        "Stat",
        "honest_sentence",
    ),
    "report.scores": (
        "ScoreColumn",
        "ScoreLayout",
        "beside_published",
        "file_part",
        "score_columns",
        "score_notes",
        "score_number",
        "score_table",
    ),
    "report.statistics": (
        "MARGIN",
        "Difference",
        "Verdict",
        "holm",
        "paired_difference",
        "verdict",
    ),
    "report.study": ("StudyView",),
    "report.table": (
        "ABSENT",
        "Claim",
        "ClaimVerdict",
        "Figure",
        "Line",
        "Number",
        "NumberKind",
        "Published",
        "Section",
        "Table",
    ),
    "seeds": (
        "rng",
        "torch_generator",
        "torch_stream",
    ),
    "session.python": (
        "RunSettings",
        "run",
        "sweep",
    ),
    "session.results": (
        "FailedCellsError",
        "FailedCell",
        "Results",
        "Run",
        "load_records",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "ABSENT",
    "ALL_PARTS",
    "BOTH_POINTS",
    "MARGIN",
    "NO_FLOOR",
    "AccessError",
    "Algorithm",
    "AlgorithmInfo",
    "AnswerRule",
    "ArgumentKind",
    "Arm",
    "Arrivals",
    "Ask",
    "Bar",
    "BarPanel",
    "BaseBits",
    "Batch",
    "BudgetName",
    "BudgetRule",
    "CellRef",
    "CellResult",
    "Change",
    "Claim",
    "ClaimVerdict",
    "Control",
    "ControlRole",
    "Data",
    "DataError",
    "DataRequest",
    "DatasetInfo",
    "Device",
    "DeviceHost",
    "Difference",
    "Direction",
    "Dtype",
    "EncoderInfo",
    "EvalPoint",
    "Evaluate",
    "Event",
    "Exchange",
    "ExchangeDirection",
    "FailedCell",
    "FailedCellsError",
    "Figure",
    "FigureWords",
    "Fleet",
    "FleetInfo",
    "FleetRequest",
    "FunctionScorer",
    "Greeting",
    "Job",
    "LearningRates",
    "Line",
    "LoraSettings",
    "Losses",
    "Manifest",
    "Message",
    "Metric",
    "MetricInfo",
    "MetricRequest",
    "MlecsError",
    "Modality",
    "Needs",
    "NoOptions",
    "Number",
    "NumberKind",
    "Objective",
    "PairIndex",
    "Part",
    "PartyData",
    "Place",
    "Plan",
    "Pool",
    "PoolChoice",
    "Prepared",
    "Profile",
    "Published",
    "Recipe",
    "RecordError",
    "Reduction",
    "Refusal",
    "Reply",
    "ReportPart",
    "Representation",
    "Results",
    "Row",
    "Run",
    "RunSettings",
    "SavedModel",
    "ScoreColumn",
    "ScoreLayout",
    "ScoredPer",
    "Scorer",
    "Section",
    "SeedMean",
    "Sender",
    "Server",
    "ServerOptimiser",
    "ServerRule",
    "Setting",
    "ShareBar",
    "SlurmSettings",
    "Stage",
    "Stat",
    "StoredType",
    "StudyInfo",
    "StudyView",
    "Supervised",
    "Table",
    "Task",
    "Tell",
    "Telling",
    "Terms",
    "TowerInfo",
    "Tracker",
    "TrackerInfo",
    "TrackerRequest",
    "TransferOptions",
    "UnifiedModel",
    "Unmatched",
    "UsageError",
    "Verdict",
    "Verification",
    "Workers",
    "WorkersInfo",
    "WorkersRequest",
    "Writing",
    "WrittenReport",
    "adaptive_step",
    "agreement",
    "answer_pairs",
    "beside_published",
    "build_host",
    "check_pairs",
    "communication_table",
    "contrastive_loss",
    "control_notes",
    "draw_ablation",
    "draw_bars",
    "draw_communication",
    "draw_shares",
    "estimate",
    "event_line",
    "event_of",
    "features_of",
    "fetched_encoder",
    "file_part",
    "floors",
    "held_tensors",
    "holm",
    "honest_sentence",
    "hookimpl",
    "installed_encoder",
    "layer_count",
    "layer_of",
    "load_model",
    "load_records",
    "metric",
    "middle_layers",
    "minimise",
    "open_prepared",
    "option",
    "pair_divergences",
    "paired_difference",
    "proximal_term",
    "rank_weighted_mean",
    "recall_by_label",
    "report",
    "rng",
    "run",
    "run_job",
    "run_parcel",
    "save_prepared",
    "score_caption",
    "score_columns",
    "score_notes",
    "score_number",
    "score_table",
    "server_parts",
    "slurm_minutes",
    "slurm_settings",
    "supervised_loss",
    "sweep",
    "torch_generator",
    "torch_stream",
    "train_on_private",
    "train_server",
    "train_stage",
    "transfer_between",
    "transfer_loss",
    "truncated",
    "verdict",
    "vocabulary_map",
    "weighted_mean",
    "with_kind",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home."""
    if name not in _HOME_OF:
        raise AttributeError(f"mlecs_bench.api has no '{name}'; see docs/plugin-guide.md for what a plugin may use")
    value = getattr(importlib.import_module(f"mlecs_bench.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
