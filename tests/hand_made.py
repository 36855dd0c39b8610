"""Records made by hand, for tests of records and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlecs_bench.records.results import SCHEMA, identity_key

DEVICES = ("d00", "d01", "d02")
SCORERS = {"rouge_lsum": "rouge-score==0.1.2 rougeLsum F1 stemmer", "bertscore": None}
DEVICE_PARAMS = 1_000


def make_record(
    *,
    algo: str = "ml-ecs",
    dataset: str = "vast",
    rho: float | Mapping[str, float] = 0.5,
    seed: int = 27,
    local: Sequence[float] = (0.1, 0.2, 0.3),
    server: float | None = 0.4,
    scorers: Mapping[str, str | None] | None = None,
) -> dict[str, Any]:
    """Return a valid record: `local` are the devices' scores, those after the last broadcast are 0.05 higher."""
    scorers = SCORERS if scorers is None else scorers
    devices = [f"d{j:02d}" for j in range(len(local))]
    metrics = [name for name, identity in scorers.items() if identity is not None]
    points = {
        point: {m: {d: score(v + plus) for d, v in zip(devices, local, strict=True)} for m in metrics}
        for point, plus in (("local", 0.0), ("received", 0.05))
    }
    identity = make_identity(algo, dataset, rho, seed, len(devices), scorers)
    return {
        "schema": SCHEMA,
        "key": identity_key(identity),
        "identity": identity,
        "realised": {
            "modalities": {d: ["audio", "vision"] for d in devices},
            "redraws": 1,
            "rate": 2 / 3,
            "structures": {d: {"slm": "mini", "rank": 8, "encoder_width": 64} for d in devices},
            "random_encoders": {},
            "samples": {p: {"train": 90, "test": 10} for p in ("server", *devices)},
        },
        "metrics": {
            "client": points,
            "server": None if server is None else {m: score(server) for m in metrics},
            "rounds": [{"round": 1, "losses": {}}, {"round": 2, "client": points["local"], "server": None}],
        },
        "comm": make_comm(len(devices)),
        "cost": {"seconds": {"rounds": 12.5}, "steps": {"local": 40}},
        "provenance": {"packages": {"torch": "2.13.0"}, "started": "2030-01-01T00:00:00Z"},
    }


def score(value: float) -> dict[str, Any]:
    return {"value": value, "n": 10, "higher_is_better": True}


def make_identity(
    algo: str, dataset: str, rho: float | Mapping[str, float], seed: int, n: int, scorers: Mapping[str, str | None]
) -> dict[str, Any]:
    modalities = ["audio", "vision"]
    return {
        "algo": {"name": algo, "distribution": "mlecs-bench", "version": "0.1.0", "options": {"tau": 1.0}},
        "dataset": {
            "name": dataset,
            "version": "1",
            "view": "synthetic",
            "synthetic": True,
            "task": "generation",
            "digest": "a" * 64,
            "options": {},
            "split": "frame",
            "modalities": modalities,
        },
        "rho": dict(rho) if isinstance(rho, Mapping) else dict.fromkeys(modalities, rho),
        "n_devices": n,
        "min_modalities": 1,
        "seed": seed,
        "profile": {
            "name": "mini",
            "slm": {"name": "mini", "digest": "b" * 64},
            "llm": {"name": "mini", "digest": "c" * 64},
            "encoders": "d" * 64,
        },
        "structure": {"slm": {}, "rank": {}, "encoder_width": {}, "proxy": None},
        "training": {"rounds": 2, "steps": 20, "budget": "paper", "lr": {"lora": 0.002}},
        "evaluate": "last",
        "scorers": dict(scorers),
        "numerics": {"torch": "2.13.0", "device": "cpu", "threads": 1},
    }


def make_comm(n: int) -> dict[str, Any]:
    """Return two rounds in which each device gets 30 fused numbers and sends 20 of LoRA, and a last broadcast of 30."""
    down, up = 30 * 3 * n, 20 * 2 * n
    return {
        "entries": [
            {"direction": "down", "kind": "fused", "params": down, "bytes": 4 * down, "messages": 3 * n},
            {"direction": "up", "kind": "lora", "params": up, "bytes": 4 * up, "messages": 2 * n},
        ],
        "rounds": 2,
        "n_devices": n,
        "device_params": {f"d{j:02d}": DEVICE_PARAMS for j in range(n)},
        "ratios": {
            "one_way": {"value": 0.065, "definition": "LoRA one way and fused"},
            "full": {"value": (down + up) / (2 * n * DEVICE_PARAMS), "definition": "everything"},
        },
        "by_round": [],
    }


def with_identity(record: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return `record` with parts of its identity replaced (nested objects are merged) and the key that fits."""
    identity = merged(record["identity"], changes)
    return {**record, "identity": identity, "key": identity_key(identity)}


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    both = {
        name: merged(old[name], value) if isinstance(value, Mapping) and isinstance(old.get(name), Mapping) else value
        for name, value in new.items()
    }
    return {**old, **both}
