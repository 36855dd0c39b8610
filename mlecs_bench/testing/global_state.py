"""What a process shares with everybody: global random streams and torch's switches."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from mlecs_bench.seeds import torch_stream


@contextmanager
def global_streams(number: int) -> Iterator[None]:
    """Let the global generators of Python, NumPy and torch stand somewhere else; restore them afterwards."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002  # plugins must not depend on it
    random.setstate(random.Random(number).getstate())  # noqa: S311  # no secret
    np.random.set_state(np.random.RandomState(number).get_state())  # noqa: NPY002  # as above
    try:
        with torch_stream(number, "testing", "global"):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002  # as above


def global_state() -> dict[str, Any]:
    """Return what a plugin must leave as it was, in comparable values."""
    _, words, *position = np.random.get_state()  # noqa: NPY002  # a plugin must not move it
    return {
        "Python's global random stream": random.getstate(),
        "NumPy's global random stream": (np.asarray(words).tobytes(), *position),
        "torch's global random stream": torch.get_rng_state().numpy().tobytes(),
        "torch's gradient mode": torch.is_grad_enabled(),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's number of threads": torch.get_num_threads(),
    }


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread, without which results are not bit-exact; restore the number afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
