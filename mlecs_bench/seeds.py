"""Named random streams: the only place that turns a seed into numbers.

A stream is named by the seed and a path such as ``("device", 2, 5, "amt")``. Two streams with different names are
independent, and a stream does not depend on what was drawn before it, so neither the order of devices nor a resume
after a crash can change a number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch

PROTOCOL_SEEDS = (27, 34, 46, 52, 93)
"""The five seeds of the protocol (the authors' log files carry these numbers)."""


def stream_key(seed: int, *path: str | int) -> int:
    """Return the 128-bit integer that seeds the stream `path` of `seed`."""
    name = json.dumps([seed, *path]).encode()
    return int.from_bytes(hashlib.sha256(name).digest()[:16], "big")


def rng(seed: int, *path: str | int) -> np.random.Generator:
    """Return the NumPy generator of the stream `path` of `seed`."""
    import numpy as np

    return np.random.default_rng(stream_key(seed, *path))


def torch_generator(seed: int, *path: str | int) -> torch.Generator:
    """Return a CPU torch generator of the stream `path` of `seed` (for initial weights)."""
    import torch

    generator = torch.Generator()
    generator.manual_seed(stream_key(seed, *path) % 2**63)
    return generator


@contextmanager
def torch_stream(seed: int, *path: str | int) -> Iterator[None]:
    """Let torch's global generator (dropout draws from it) follow the stream `path`; restore it afterwards."""
    import torch

    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(stream_key(seed, *path) % 2**63)
        yield
