"""Checkpoints: safetensors files with some JSON, replaced atomically, in a folder per cell."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from mlecs_bench.errors import MlecsError
from mlecs_bench.federation.lease import Lease, held, is_held
from mlecs_bench.files import write_bytes

FOLDER = ".checkpoints"


@dataclass(frozen=True)
class Checkpoint:
    """All that a party needs to go on: named tensors, and the progress so far as JSON values."""

    tensors: Mapping[str, torch.Tensor]
    progress: Mapping[str, Any]


def checkpoint_folder(out: Path, key: str) -> Path:
    """Return where the server and the devices of the cell with identity `key` keep what they need to go on."""
    return out / FOLDER / key[:16]


def server_file(folder: Path) -> Path:
    """Return where the server of a cell keeps its checkpoint."""
    return folder / "server.safetensors"


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint; after a kill at any moment the old or the new one is there, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()}
    data = save(tensors, metadata={"progress": json.dumps(checkpoint.progress, allow_nan=False)})
    write_bytes(path, data)


def load_checkpoint(path: Path) -> Checkpoint | None:
    """Return the checkpoint at `path`, or None when there is none; raises MlecsError for a file that is not one."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            progress = dict(json.loads(file.metadata()["progress"]).items())
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    except (SafetensorError, AttributeError, ValueError, KeyError, TypeError) as error:
        raise MlecsError(f"{path} is not a checkpoint ({error}); delete it to start this cell again") from error
    return Checkpoint(tensors, progress)


@contextmanager
def cell_lock(folder: Path) -> Iterator[Lease]:
    """Hold a cell; raises CellInUse when another process runs it. A killed process frees it."""
    with held(_lease_file(folder)) as lease:
        yield lease


def cell_in_use(folder: Path) -> bool:
    """Say whether another process holds a cell now."""
    return is_held(_lease_file(folder))


def _lease_file(folder: Path) -> Path:
    return folder.with_suffix(".lock")


def remove_checkpoint(folder: Path) -> None:
    """Delete what a finished cell kept to go on."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.with_suffix(".safetensors").unlink(missing_ok=True)  # where 0.1.0 kept it
