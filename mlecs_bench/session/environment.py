"""What the libraries below a run are told: to be quiet, and to leave the user's own process as it was."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlecs_bench.errors import UsageError

QUIET_LIBRARIES = {
    "DISABLE_SAFETENSORS_CONVERSION": "1",  # transformers would ask the hub for a conversion behind the user's back
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",  # the live view shows progress
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",  # tokenizers warns when a process forks after using threads
}
"""Environment variables; what the user has set stays."""


def quiet_libraries() -> None:
    """Set `QUIET_LIBRARIES` for this process and those that it starts, before the libraries are imported."""
    for name, value in QUIET_LIBRARIES.items():
        os.environ.setdefault(name, value)


def ensure_home() -> None:
    """Give a user without $HOME and without a name, as containers have them, a private home in the temporary folder.

    NLTK, the hub's client and Matplotlib do not work without a home, and data is prepared below it. Raises UsageError
    where somebody else has that folder.
    """
    try:
        Path.home()
    except RuntimeError:
        home = Path(tempfile.gettempdir(), f"mlecs-bench-{os.getuid()}")
        home.mkdir(mode=0o700, exist_ok=True)
        status = home.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
            raise UsageError(f"there is no home folder, and {home} is not yours alone; set HOME to a folder") from None
        os.environ["HOME"] = str(home)


@contextmanager
def borrowed_process() -> Iterator[None]:
    """Let cells run in the user's own process, a script or a notebook, and leave it as it was.

    Libraries are imported first, since some of them read the environment once and for all: a progress bar of the user's
    own has to work afterwards. Cells set torch's threads and the kernels of a GPU.
    """
    import datasets
    import torch
    from transformers.utils import logging

    from mlecs_bench.federation.processes import THREAD_VARIABLES

    threads, cudnn = torch.get_num_threads(), torch.backends.cudnn
    kernels = cudnn.allow_tf32, cudnn.deterministic
    environment = {name: os.environ.get(name) for name in (*QUIET_LIBRARIES, *THREAD_VARIABLES)}
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    bars_of_data = datasets.are_progress_bars_disabled()
    quiet_libraries()
    logging.set_verbosity_error()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
        if not bars_of_data:
            datasets.enable_progress_bars()
        torch.set_num_threads(threads)
        cudnn.allow_tf32, cudnn.deterministic = kernels
