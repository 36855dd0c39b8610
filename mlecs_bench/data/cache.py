"""Where this machine keeps what was prepared for a user, unless told otherwise."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "MLECS_BENCH_CACHE"


def default_cache_dir() -> Path:
    """Return the user's cache folder for prepared data: $MLECS_BENCH_CACHE, else $XDG_CACHE_HOME or ~/.cache."""
    own = os.environ.get(CACHE_VARIABLE)
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mlecs-bench"
