"""What every process of ours does when it starts: its threads, its signals, and dying with its parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
EXIT_SECONDS = 5.0
"""How long to wait for the exit code of a process that is ending."""
POLL_SECONDS = 0.02


def use_threads(threads: int) -> None:
    """One thread per process keeps results bit-exact; transformers' tokenizers must not fork their own."""
    import torch

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(threads)


def use_exact_kernels() -> None:
    """Let a GPU compute float32 convolutions in float32, and in the same order every time.

    torch's own choice rounds their inputs to 10 bits (TF32) and takes whichever kernel is fastest.
    """
    import torch

    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Let Ctrl-C wait for the end of the block: a process that is started in it never gets one, not even in its first
    moments, before `start_process` says so.

    What a child inherits is the mask; it covers this thread alone, and the system gives the signal to another thread
    if there is one. Python would then interrupt the main thread all the same, so its handler waits too.
    """
    masks = hasattr(signal, "pthread_sigmask")  # Windows has no masks, and children there get no Ctrl-C by themselves
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if masks else set()
    arrived: list[int] = []
    handler = signal.getsignal(signal.SIGINT)
    # Only the main thread may set a handler, and None is one that Python cannot put back.
    holds = threading.current_thread() is threading.main_thread() and handler is not None
    if holds:
        signal.signal(signal.SIGINT, lambda number, _: arrived.append(number))
    try:
        yield
    finally:
        if holds:
            signal.signal(signal.SIGINT, handler)
        if masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if arrived:
            signal.raise_signal(signal.SIGINT)


@contextmanager
def apart_from_script() -> Iterator[None]:
    """Let a process that is started in the block know nothing of the script that starts it.

    Python would run the script's file again in every new process, so a script without `if __name__ == "__main__"` would
    start itself over. Our processes need nothing of it: all they are given is importable. For these milliseconds the
    script's module cannot be found by its name.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def start_process(threads: int, gpu: str | None) -> None:
    """Prepare a process: it leaves Ctrl-C to its parent, which ends it by SIGTERM, and dies with its parent.

    So it does with SIGUSR1, which a batch system sends to all processes of a job before its time is over.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    threading.Thread(target=_die_with_parent, daemon=True).start()
    use_threads(threads)
    use_exact_kernels()


def _die_with_parent() -> None:
    """End this process when its parent is gone: nobody would collect it or give it work."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _leave(_signal: int, _frame: Any) -> None:
    """Stop what a process is in; leaving this way runs the clean-up that a kill would not."""
    sys.exit(1)


def exit_code(process: BaseProcess) -> int | None:
    """Return the exit code of a process that is ending, or None if it is not known in time.

    Whoever else collects it may come first, and the second learns the code only when the first has written it down.
    """
    deadline = time.monotonic() + EXIT_SECONDS
    while process.exitcode is None and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return process.exitcode


def how_it_ended(process: BaseProcess | None) -> str:
    """Return how a process ended, to go on after "the process ": its exit code, or the signal that killed it."""
    code = None if process is None else exit_code(process)
    if code is None or code >= 0:
        return "ended" if code is None else f"ended with exit code {code}"
    name = signal.Signals(-code).name
    memory = ", perhaps because memory ran out" if name == "SIGKILL" else ""
    return f"was killed by {name}{memory}"
