"""The only module a plugin author imports."""

from mlecs_bench.blocks.aggregate import rank_weighted_mean, truncated, weighted_mean
from mlecs_bench.blocks.alignment import PairIndex, Unmatched, agreement, answer_pairs, vocabulary_map
from mlecs_bench.blocks.exchange import held_tensors
from mlecs_bench.blocks.gram import contrastive_loss
from mlecs_bench.blocks.mutual import TransferOptions, transfer_between
from mlecs_bench.blocks.proximal import layer_count, layer_of, middle_layers, proximal_term
from mlecs_bench.blocks.server_optimiser import ServerOptimiser, adaptive_step
from mlecs_bench.blocks.supervised import (
    ALL_PARTS,
    Stage,
    server_parts,
    supervised_loss,
    train_on_private,
    train_stage,
)
from mlecs_bench.blocks.transfer import Pool, transfer_loss
from mlecs_bench.data import (
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
from mlecs_bench.errors import AccessError, DataError, MlecsError, UsageError
from mlecs_bench.hookspecs import (
    Algorithm,
    AlgorithmInfo,
    CellRef,
    DatasetInfo,
    Exchange,
    Needs,
    Verification,
    hookimpl,
)
from mlecs_bench.messages import Message, with_kind
from mlecs_bench.metrics import Metric
from mlecs_bench.models.unified import Representation, Supervised, UnifiedModel
from mlecs_bench.options import NoOptions, option
from mlecs_bench.parties import Device, Server
from mlecs_bench.seeds import rng, torch_generator, torch_stream

__all__ = [
    "ALL_PARTS",
    "AccessError",
    "Algorithm",
    "AlgorithmInfo",
    "Batch",
    "CellRef",
    "DataError",
    "DataRequest",
    "DatasetInfo",
    "Device",
    "Exchange",
    "Manifest",
    "Message",
    "Metric",
    "MlecsError",
    "Modality",
    "Needs",
    "NoOptions",
    "PairIndex",
    "PartyData",
    "Pool",
    "Prepared",
    "Representation",
    "Server",
    "ServerOptimiser",
    "Stage",
    "Supervised",
    "TransferOptions",
    "UnifiedModel",
    "Unmatched",
    "UsageError",
    "Verification",
    "adaptive_step",
    "agreement",
    "answer_pairs",
    "contrastive_loss",
    "features_of",
    "held_tensors",
    "hookimpl",
    "layer_count",
    "layer_of",
    "middle_layers",
    "open_prepared",
    "option",
    "proximal_term",
    "rank_weighted_mean",
    "rng",
    "save_prepared",
    "server_parts",
    "supervised_loss",
    "torch_generator",
    "torch_stream",
    "train_on_private",
    "train_stage",
    "transfer_between",
    "transfer_loss",
    "truncated",
    "vocabulary_map",
    "weighted_mean",
    "with_kind",
]
