"""What `doctor` finds, one thing at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "missing", "warning"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `missing` means that the default run, or what was asked for, cannot do without."""

    topic: str
    name: str
    status: Status
    found: str
    cure: str = ""
