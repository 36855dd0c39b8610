"""Commands in forked children of a process that has imported what they import: many can be killed at little cost.

The parent runs no cell itself, so torch has started no thread in it that a child would miss.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from warm import PACKAGES

OURS = (
    "mlecs_bench.cli.run", "mlecs_bench.cli.sweep", "mlecs_bench.cli.report", "mlecs_bench.execution.protocol",
    "mlecs_bench.report.folder", "mlecs_bench.report.write", "mlecs_bench.report.markdown", "mlecs_bench.testing.toy",
    "mlecs_bench.session.status_file", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg",
    "matplotlib.backends.backend_pdf", "scipy.stats",
)  # fmt: skip
LONGEST = 60.0
"""Seconds after which one that only waits is not waited for any more."""
OUTSIDE = 99
"""The exit code of a child that a signal reached before or after its command."""


def warmed() -> None:
    """Import what the commands import."""
    import torch

    torch.set_num_threads(1)
    for name in (*PACKAGES, *OURS):
        with contextlib.suppress(ImportError):  # some belong to extras
            importlib.import_module(name)


@dataclass(frozen=True)
class Child:
    """A command on its way, and where it writes what it prints."""

    pid: int
    log: Path

    def waited(self, seconds: float) -> None:
        """Wait until the command has used so many seconds of a processor, has ended, or does nothing for long.

        These seconds say how far it is, whatever else the machine does.
        """
        deadline = time.monotonic() + LONGEST
        while time.monotonic() < deadline:
            if _of_proc(self.pid, "stat").rpartition(")")[2].split()[0] == "Z":
                return
            if int(_of_proc(self.pid, "schedstat").split()[0]) >= seconds * 1e9:
                return
            time.sleep(0.002)

    def signalled(self, number: int, after: float) -> None:
        """Send a signal when the command has used so many seconds of a processor, unless it has ended by then."""
        self.waited(after)
        os.kill(self.pid, number)  # a child that has ended keeps its number until it is waited for

    def ended(self) -> tuple[int, str]:
        """Wait for the end; return the exit code, negative for a signal, and what was printed."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return code, self.log.read_text(encoding="utf-8", errors="replace")


def _of_proc(pid: int, name: str) -> str:
    return (Path("/proc") / str(pid) / name).read_text(encoding="utf-8", errors="replace")


def used() -> float:
    """Return the seconds of a processor that the children have used which have ended."""
    times = resource.getrusage(resource.RUSAGE_CHILDREN)
    return times.ru_utime + times.ru_stime


def started(arguments: Sequence[str], log: Path) -> Child:
    """Start `mlecs-bench` with these arguments in a forked child, whose output goes to the file `log`."""
    sys.stdout.flush()
    sys.stderr.flush()
    log.write_bytes(b"")  # a child may be stopped before it opens its log
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # later Pythons warn of forks beside threads
        pid = os.fork()
    if pid == 0:
        _run(arguments, log)
    return Child(pid, log)


def _run(arguments: Sequence[str], log: Path) -> None:
    """Be the child: never return."""
    code = OUTSIDE
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number in (1, 2):
            os.dup2(file, number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8") for number in (1, 2))
        from mlecs_bench.cli.main import main

        code = main(arguments)
    except KeyboardInterrupt:
        code = OUTSIDE
    except BaseException:  # noqa: BLE001  # whatever escapes is what a campaign looks for
        traceback.print_exc()
        code = OUTSIDE + 1
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
