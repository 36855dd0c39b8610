"""The only module a plugin author imports. A name is imported when it is used, with what it needs and no more."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlecs_bench.blocks.aggregate import rank_weighted_mean, truncated, weighted_mean
    from mlecs_bench.blocks.alignment import PairIndex, Unmatched, agreement, answer_pairs, vocabulary_map
    from mlecs_bench.blocks.exchange import held_tensors
    from mlecs_bench.blocks.gram import contrastive_loss
    from mlecs_bench.blocks.mutual import TransferOptions, transfer_between
    from mlecs_bench.blocks.proximal import layer_count, layer_of, middle_layers, proximal_term
    from mlecs_bench.blocks.server_optimiser import ServerOptimiser, adaptive_step
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
    from mlecs_bench.blocks.transfer import Pool, pair_divergences, transfer_loss
    from mlecs_bench.data.samples import (
        Batch,
        DataRequest,
        Manifest,
        Modality,
        PartyData,
        Prepared,
        features_of,
        open_prepared,
        save_prepared,
    )
    from mlecs_bench.doors.events import CellRef, Event, Tell
    from mlecs_bench.doors.hookspecs import (
        AlgorithmInfo,
        Control,
        DatasetInfo,
        EncoderInfo,
        Exchange,
        FleetInfo,
        MetricInfo,
        MetricRequest,
        Needs,
        StudyInfo,
        TowerInfo,
        Verification,
        WorkersInfo,
        WorkersRequest,
        hookimpl,
    )
    from mlecs_bench.doors.options import NoOptions, option
    from mlecs_bench.doors.profile import LearningRates, LoraSettings, Profile
    from mlecs_bench.doors.scoring import FunctionScorer, Metric, Scorer, check_pairs
    from mlecs_bench.errors import AccessError, DataError, MlecsError, UsageError
    from mlecs_bench.execution.cell import run_job
    from mlecs_bench.execution.jobs import Job
    from mlecs_bench.execution.workers import Workers
    from mlecs_bench.federation.algorithm import Algorithm
    from mlecs_bench.federation.device import Device
    from mlecs_bench.federation.fleet import Fleet, FleetRequest, Recipe, build_host
    from mlecs_bench.federation.host import DeviceHost, Greeting
    from mlecs_bench.federation.messages import Message, with_kind
    from mlecs_bench.federation.saved import SavedModel, load_model
    from mlecs_bench.federation.server import Server
    from mlecs_bench.federation.turns import Ask, Refusal, Reply
    from mlecs_bench.models.encoders import installed_encoder
    from mlecs_bench.models.unified import Representation, Supervised, UnifiedModel
    from mlecs_bench.plan.plan import Plan
    from mlecs_bench.report.arrange import Arm, Data, Place, Setting
    from mlecs_bench.report.captions import score_caption
    from mlecs_bench.report.controls import NO_FLOOR, control_notes, floors
    from mlecs_bench.report.drawings import FigureWords, draw_ablation, draw_communication
    from mlecs_bench.report.evidence import communication_table
    from mlecs_bench.report.frame import BOTH_POINTS, EvalPoint, Row, SeedMean, Stat, honest_sentence
    from mlecs_bench.report.scores import (
        ScoreColumn,
        ScoreLayout,
        file_part,
        score_columns,
        score_notes,
        score_number,
        score_table,
    )
    from mlecs_bench.report.statistics import MARGIN, Difference, Verdict, holm, paired_difference, verdict
    from mlecs_bench.report.study import StudyView
    from mlecs_bench.report.table import ABSENT, Claim, Figure, Line, Number, Published, Section, Table
    from mlecs_bench.seeds import rng, torch_generator, torch_stream

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
        "features_of",
        "open_prepared",
        "save_prepared",
    ),
    "doors.events": (
        "CellRef",
        "Event",
        "Tell",
    ),
    "doors.hookspecs": (
        "AlgorithmInfo",
        "Control",
        "DatasetInfo",
        "EncoderInfo",
        "Exchange",
        "FleetInfo",
        "MetricInfo",
        "MetricRequest",
        "Needs",
        "StudyInfo",
        "TowerInfo",
        "Verification",
        "WorkersInfo",
        "WorkersRequest",
        "hookimpl",
    ),
    "doors.options": (
        "NoOptions",
        "option",
    ),
    "doors.profile": (
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
        "UsageError",
    ),
    "execution.cell": ("run_job",),
    "execution.jobs": ("Job",),
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
    "models.encoders": ("installed_encoder",),
    "models.unified": (
        "Representation",
        "Supervised",
        "UnifiedModel",
    ),
    "plan.plan": ("Plan",),
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
        "draw_communication",
    ),
    "report.evidence": ("communication_table",),
    "report.frame": (
        "BOTH_POINTS",
        "EvalPoint",
        "SeedMean",
        "Row",
        "Stat",
        "honest_sentence",
    ),
    "report.scores": (
        "ScoreColumn",
        "ScoreLayout",
        "file_part",
        "score_columns",
        "score_notes",
        "score_number",
        "score_table",
    ),
    "report.statistics": (
        "Difference",
        "MARGIN",
        "Verdict",
        "holm",
        "paired_difference",
        "verdict",
    ),
    "report.study": ("StudyView",),
    "report.table": (
        "ABSENT",
        "Claim",
        "Figure",
        "Line",
        "Number",
        "Published",
        "Section",
        "Table",
    ),
    "seeds": (
        "rng",
        "torch_generator",
        "torch_stream",
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
    "Arm",
    "Ask",
    "Batch",
    "CellRef",
    "Claim",
    "Control",
    "Data",
    "DataError",
    "DataRequest",
    "DatasetInfo",
    "Device",
    "DeviceHost",
    "Difference",
    "EncoderInfo",
    "EvalPoint",
    "Event",
    "Exchange",
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
    "Objective",
    "PairIndex",
    "PartyData",
    "Place",
    "Plan",
    "Pool",
    "Prepared",
    "Profile",
    "Published",
    "Recipe",
    "Refusal",
    "Reply",
    "Representation",
    "Row",
    "SavedModel",
    "ScoreColumn",
    "ScoreLayout",
    "Scorer",
    "Section",
    "SeedMean",
    "Server",
    "ServerOptimiser",
    "Setting",
    "Stage",
    "Stat",
    "StudyInfo",
    "StudyView",
    "Supervised",
    "Table",
    "Tell",
    "Terms",
    "TowerInfo",
    "TransferOptions",
    "UnifiedModel",
    "Unmatched",
    "UsageError",
    "Verdict",
    "Verification",
    "Workers",
    "WorkersInfo",
    "WorkersRequest",
    "adaptive_step",
    "agreement",
    "answer_pairs",
    "build_host",
    "check_pairs",
    "communication_table",
    "contrastive_loss",
    "control_notes",
    "draw_ablation",
    "draw_communication",
    "features_of",
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
    "middle_layers",
    "minimise",
    "open_prepared",
    "option",
    "pair_divergences",
    "paired_difference",
    "proximal_term",
    "rank_weighted_mean",
    "rng",
    "run_job",
    "save_prepared",
    "score_caption",
    "score_columns",
    "score_notes",
    "score_number",
    "score_table",
    "server_parts",
    "supervised_loss",
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
