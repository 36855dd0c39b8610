"""Where a record comes from: versions, revision, hardware, times. No paths and no names of users or hosts."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

PACKAGES = (
    "mlecs-bench",
    "torch",
    "transformers",
    "peft",
    "datasets",
    "tokenizers",
    "numpy",
    "rouge-score",
    "bert-score",
)


def installed_version(package: str) -> str | None:
    """Return the installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def now() -> str:
    """Return the current time in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


OUTPUTS = ":(exclude)results"
"""Records and reports make no checkout dirty: what is there before a run cannot change a number of it."""


@lru_cache(maxsize=1)
def git_state() -> dict[str, Any] | None:
    """Return commit and dirty flag of the checkout this package runs from, or None when it is not a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        sha = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        status = subprocess.run(
            ["git", "--no-optional-locks", "status", "--porcelain", "--", ".", OUTPUTS],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": sha.stdout.strip(), "dirty": bool(status.stdout.strip())}


def hardware(device: str) -> dict[str, Any]:
    """Return processor, cores and, for a CUDA device, the GPU's name."""
    found: dict[str, Any] = {"machine": platform.machine(), "cores": os.cpu_count(), "gpu": None}
    if device.startswith("cuda"):
        import torch

        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def provenance(device: str, started: str) -> dict[str, Any]:
    """Return the record's `provenance` block."""
    return {
        "packages": {name: installed_version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "system": platform.system(),
        "git": git_state(),
        "hardware": hardware(device),
        "started": started,
        "ended": now(),
    }
