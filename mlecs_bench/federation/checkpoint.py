"""Checkpoints: safetensors files with some JSON, replaced atomically, in a folder per cell.

A digest of all that is in one stands in the JSON: a bit that a disk has turned is a damaged file, and no other
training. Checkpoints of 0.1.0 have none and are taken at their word.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from mlecs_bench.errors import MlecsError
from mlecs_bench.federation.lease import Lease, held, is_held
from mlecs_bench.federation.messages import DIGEST, content_digest
from mlecs_bench.files import parsed_json, write_bytes

FOLDER = ".checkpoints"
CHECKED, PROGRESS = "checked_progress", "progress"
"""What the JSON beside the tensors is called, with a digest of it all among its values, and in 0.1.0 without."""


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
    values = {**checkpoint.progress, DIGEST: content_digest(checkpoint.progress, tensors)}
    write_bytes(path, save(tensors, metadata={CHECKED: json.dumps(values, allow_nan=False)}))


def load_checkpoint(path: Path) -> Checkpoint | None:
    """Return the checkpoint at `path`, or None when there is none; raises MlecsError for a file that is not one."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            texts = file.metadata()
            progress = dict(parsed_json(texts[CHECKED] if CHECKED in texts else texts[PROGRESS]).items())
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    except (SafetensorError, RuntimeError, AttributeError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise MlecsError(f"{path} is not a checkpoint ({reason}); delete it to start this cell again") from error
    if CHECKED in texts and progress.pop(DIGEST, None) != content_digest(progress, tensors):
        raise MlecsError(f"{path} was damaged after it was written; delete it to start this cell again")
    return Checkpoint(tensors, progress)


@contextmanager
def cell_lock(folder: Path) -> Iterator[Lease]:
    """Hold a cell; raises CellInUse when another process runs it. A killed process frees it."""
    with held(lease_file(folder)) as lease:
        yield lease


def remove_leftovers(folder: Path) -> None:
    """Delete what a process has left of a cell with a record that was killed between the record and the deleting."""
    if folder.exists() or lease_file(folder).exists():
        with suppress(MlecsError), cell_lock(folder):  # another process is at it, or nothing can be written here
            remove_checkpoint(folder)


def cell_in_use(folder: Path) -> bool:
    """Say whether another process holds a cell now."""
    return is_held(lease_file(folder))


def lease_file(folder: Path) -> Path:
    """Return where the lease of the cell with checkpoints in `folder` lies."""
    return folder.with_suffix(".lock")


def remove_checkpoint(folder: Path) -> None:
    """Delete what a finished cell kept to go on."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.with_suffix(".safetensors").unlink(missing_ok=True)  # where 0.1.0 kept it
