"""What is damaged: valid inputs of every kind, and how each is read."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import damage
from hand_made import make_record
from mlecs_bench.doors.registry import Registry
from mlecs_bench.federation.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from mlecs_bench.federation.fleet import greetings_from_json, greetings_json
from mlecs_bench.federation.host import Greeting
from mlecs_bench.federation.lease import is_held
from mlecs_bench.federation.messages import Message
from mlecs_bench.federation.turns import Ask, FileTurns, FinalModel, Refusal, Reply, Turn
from mlecs_bench.plan.resolve import resolve
from mlecs_bench.plan.study import read_study
from mlecs_bench.records.failures import read_failure, read_failures, write_failure
from mlecs_bench.records.results import read_record, with_digests
from mlecs_bench.session.request import PLACE_KEYS, Chosen, build_sweep
from mlecs_bench.session.status_file import read_statuses

REGISTRY = Registry.installed()
SETTINGS = """algo: ml-ecs
dataset: vast
rho: {audio: 0.5, subtitle: 0.7, vision: 1.0}
n_devices: 4
seeds: [27, 34]
rounds: 3
steps: 2
batch_size: 4
split: frame
budget: paper
private_limit: 40
test_limit: all
metrics: [bleu, exact_match]
evaluate: last
options: {ccl_trains: [lora, encoder], temperature: 0.5}
set: {lora: {rank: 4}, clip_norm: 0.5, learning_rates.lora: 1.0e-3}
device_rank: {d00: 4, d01: 4}
out: results/damage
workers: 2
save_models: false
"""
STUDY = """title: Damage
about: A study
candidate: ml-ecs
report: [paper]
track: none
settings: &all {profile: mini, rounds: 2}
blocks:
  one:
    algo: [standalone, ml-ecs]
    dataset: [vast, ur-fall]
    rho: [0.5, 0.7]
    budget: [paper, equal]
    seeds: "27,34"
  two:
    <<: *all
    algo: fedilora
    dataset: vast
    rho: "audio=0.5,subtitle=1,vision=0.5"
    n_seeds: 2
    set: {"lora.rank": [4, 8]}
    options: {}
"""


@dataclass(frozen=True)
class Target:
    """A kind of input: a valid one, how it is damaged and read, and whether what was damaged must never be believed.

    Where the digest itself may lack, as in records of earlier versions, `mark` is what is in every input that has one.
    """

    name: str
    valid: bytes
    damaged: Callable[[np.random.Generator], bytes]
    read: Callable[[bytes], Any]
    detects: bool = False
    mark: bytes = b""

    def must_tell(self, data: bytes) -> bool:
        """Must damaged bytes be told from the valid ones?"""
        return self.detects and self.mark in data

    def original(self) -> Any:
        """Return what the valid input says."""
        return self.read(self.valid)


def _through(path: Path, read: Callable[[Path], Any]) -> Callable[[bytes], Any]:
    """Return a reader of bytes out of a reader of files."""

    def of_bytes(data: bytes) -> Any:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return read(path)

    return of_bytes


def _specs(study: Any) -> list[str]:
    """Return the runs of a study, of which the first are planned."""
    specs = study.specs(REGISTRY)
    for spec in specs[:1]:
        resolve(spec, REGISTRY)
    return [spec.to_json() for spec in specs]


def _settings(path: Path) -> list[str]:
    asked = build_sweep(Chosen(path), {}, dict.fromkeys(PLACE_KEYS), retry_failed=False, registry=REGISTRY)
    return _specs(asked.study)


def tensors(kinds: tuple[str, ...] = ("lora", "encoder")) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    found = {f"{kind}/{i}": torch.randn(3, 5, generator=generator) for kind in kinds for i in range(2)}
    return found | {f"{kinds[0]}/half": torch.ones(4, dtype=torch.bfloat16), f"{kinds[0]}/ids": torch.arange(6)}


SCORE = {"value": 0.25, "n": 8, "higher_is_better": True}
MESSAGE = Message(tensors(), {"n": 3, "weight": 0.5})
REPLY = Reply(
    MESSAGE, {"rouge_lsum": SCORE}, {"private": 1.5}, {"private": 6}, {"training": 0.5, "evaluation": 0.25},
    {"texts": ["a", "é"], "scores": {"exact_match": [0.0, None]}}, FinalModel(tensors(), {"r": 8}),
)  # fmt: skip
REFUSAL = Refusal("data", "no").to_bytes()
GREETINGS = {"d00": Greeting(2, ("audio",), 100, {"train": 3, "test": 4}, (), "0" * 64, {"torch": "2.13.0"})}
PROGRESS = {"key": "k", "round": 2, "ledger": [], "rounds": [{"round": 1}], "seconds": {"training": 0.5}, "steps": {}}


def _comparable(message: Message) -> Any:
    return [(name, str(t.dtype), t.tolist()) for name, t in sorted(message.tensors.items())], dict(message.scalars)


def _reply(data: bytes) -> Any:
    reply = Reply.from_bytes(data)
    model = None if reply.model is None else (_comparable(Message(reply.model.tensors)), dict(reply.model.adapter))
    return _comparable(reply.upload), reply.kept(), model


def _ask(data: bytes) -> Any:
    ask = Ask.from_bytes(data)
    return _comparable(ask.message), ask.round, ask.score, ask.last, ask.answers, ask.model


def _checkpoint(path: Path) -> Any:
    found = load_checkpoint(path)
    assert found is not None
    return _comparable(Message(found.tensors)), dict(found.progress)


def _turns(path: Path) -> Any:
    return [
        (turn.round, _comparable(Message(turn.state)), _comparable(turn.reply.upload), turn.reply.kept())
        for turn in FileTurns(path.parent, "k").load("d00")
    ]


def _saved(folder: Path) -> tuple[bytes, bytes]:
    """Return a server's and a device's checkpoint."""
    save_checkpoint(folder / "server", Checkpoint(tensors(("model", "slm")), PROGRESS))
    FileTurns(folder, "k").save("d00", Turn(2, tensors(("model", "memory")), REPLY))
    return (folder / "server").read_bytes(), (folder / "d00-round000002.safetensors").read_bytes()


def without_digest(checkpoint: bytes) -> bytes:
    """Return a checkpoint as earlier versions wrote it."""
    from safetensors.torch import load, save

    header = json.loads(checkpoint[8 : 8 + int.from_bytes(checkpoint[:8], "little")])
    values = json.loads(header["__metadata__"]["checked_progress"])
    del values["sha256"]
    return save(load(checkpoint), metadata={"progress": json.dumps(values)})


def _with_json(data: bytes, key: str, dice: np.random.Generator) -> bytes:
    """Damage bytes, or the JSON in a safetensors file, whose lengths are right again."""
    if dice.random() < 0.5:
        return damage.of_bytes(data, dice)
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    if dice.random() < 0.5:
        header["__metadata__"][key] = damage.of_json(json.loads(header["__metadata__"][key]), dice).decode(
            errors="replace"
        )
        text = json.dumps(header).encode()
    else:
        text = damage.of_json(header, dice)
    return len(text).to_bytes(8, "little") + text + data[end:]


def _packed(data: bytes, dice: np.random.Generator) -> bytes:
    """Damage a turn's bytes, or its JSON with a digest that is right again, as a hostile sender would."""
    import hashlib

    if dice.random() < 0.4:
        return damage.of_bytes(data, dice)
    end = 40 + int.from_bytes(data[:8], "little")
    text, rest = data[40:end], data[end:]
    if dice.random() < 0.7:
        text = damage.of_json(json.loads(text), dice)
    else:
        rest = _with_json(rest, "message", dice)
    return len(text).to_bytes(8, "little") + hashlib.sha256(text).digest() + text + rest


def _failure(path: Path) -> Any:
    read_failures(path.parent.parent)
    return vars(read_failure(path))


def _statuses(path: Path) -> Any:
    return [found.state for found in read_statuses(path.parent.parent)]


def targets(root: Path | None = None) -> Mapping[str, Target]:
    """Return every kind of input by its name; files lie below `root`."""
    root = root or Path(tempfile.mkdtemp(prefix="damage-"))
    root.mkdir(parents=True, exist_ok=True)
    server, device = _saved(root / "valid")
    record = json.dumps(with_digests(make_record())).encode()
    former = json.dumps(make_record()).encode()
    failure = write_failure(root / "failed", make_record()["identity"], "training has diverged").read_bytes()
    status = json.dumps({
        "schema": "mlecs-bench/status/1", "host": "h", "pid": 1, "started": "s", "state": "running", "updated": "u",
        "cells": {"total": 4, "done": 1, "failed": 0, "skipped": 0}, "eta_seconds": 6, "running": [], "workers": None,
    }).encode()  # fmt: skip
    lease = json.dumps({"machine": "m", "pid": 1, "started": "1", "token": "t"}).encode()

    def text(valid: str) -> Callable[[np.random.Generator], bytes]:
        return lambda dice: damage.of_text(valid, dice)

    def values(valid: bytes) -> Callable[[np.random.Generator], bytes]:
        return lambda dice: damage.of_json(json.loads(valid), dice)

    import yaml

    settings = json.dumps(yaml.safe_load(SETTINGS)).encode()
    found = (
        Target("settings", SETTINGS.encode(), text(SETTINGS), _through(root / "s.yaml", _settings)),
        Target("settings in JSON", settings, values(settings), _through(root / "s.json", _settings)),
        Target("study", STUDY.encode(), text(STUDY), _through(root / "t.yaml", lambda path: _specs(read_study(path)))),
        Target("record", record, values(record), _through(root / "r.json", read_record), True, b'"sha256"'),
        Target("record without digests", former, values(former), _through(root / "f.json", read_record)),
        Target("server checkpoint", server, lambda d: _with_json(server, "checked_progress", d),
               _through(root / "server", _checkpoint), detects=True),
        Target("device checkpoint", device, lambda d: _with_json(device, "checked_progress", d),
               _through(root / "turns" / "d00-round000002.safetensors", _turns), detects=True),
        Target("device checkpoint of 0.1.0", without_digest(device),
               lambda d: _with_json(without_digest(device), "progress", d),
               _through(root / "old" / "d00-round000002.safetensors", _turns)),
        Target("message", MESSAGE.to_bytes(), lambda d: _with_json(MESSAGE.to_bytes(), "message", d),
               lambda data: _comparable(Message.from_bytes(data)), detects=True),
        Target("ask", Ask(2, MESSAGE, True).to_bytes(), lambda d: _packed(Ask(2, MESSAGE, True).to_bytes(), d), _ask),
        Target("reply", REPLY.to_bytes(), lambda d: _packed(REPLY.to_bytes(), d), _reply),
        Target("refusal", REFUSAL, lambda d: damage.of_bytes(REFUSAL, d), Refusal.from_bytes),
        Target("greetings", greetings_json(GREETINGS).encode(), values(greetings_json(GREETINGS).encode()),
               lambda data: greetings_from_json(data.decode(errors="surrogateescape"))),
        Target("failure", failure, values(failure), _through(root / "o" / "failures" / "x.json", _failure)),
        Target("status file", status, values(status),
               _through(root / "w" / ".sweeps" / "x.json", _statuses)),
        Target("lease", lease, values(lease), _through(root / "c.lock", is_held)),
    )  # fmt: skip  # a row each
    return {target.name: target for target in found}
