"""Leases: who runs a cell, as a file beside its checkpoints, on any file system that processes and machines share.

Locks of the system (flock) lack on some file systems and lie on others. A lease is a small file that names its holder
and that the holder touches every `BEAT` seconds. It ends when the holder gives it back; when the holder's process is
gone, which processes of the same machine see at once; and for others when it has not been touched for `EXPIRY` seconds,
by the file system's own clock. A holder that was held up for that long finds another's name in the file, and stops
before it saves anything more (`Lease.check`).
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mlecs_bench.errors import MlecsError
from mlecs_bench.files import clock_of, create, parsed_json
from mlecs_bench.machine import machine_id, process_lives, process_started

BEAT = 10.0
"""Seconds between two signs of life."""
EXPIRY = 120.0
"""Seconds without one after which a lease is over: above what a busy machine or a server of files delays them by."""


class CellInUse(MlecsError):  # noqa: N818  # nothing is wrong: another process is at work
    """Another process runs this cell."""


@dataclass(frozen=True)
class _Written:
    """What stands in a lease file: its text, and when it was last touched, by the file system's clock."""

    text: str
    touched: float

    def is_over(self, clock: float) -> bool:
        """Is the holder gone, at a time of the file system's clock?"""
        try:
            values = parsed_json(self.text)
            machine, pid, started = str(values["machine"]), int(values["pid"]), str(values["started"])
        except (ValueError, KeyError, TypeError):
            machine, pid, started = "", 0, ""  # being written, cut off, or of an older version
        if machine == machine_id() and (lives := process_lives(pid)) is not None:
            # A number is given again when its process has ended, but not with the same start.
            return not lives or process_started(pid) != started
        return clock - self.touched > EXPIRY


class Lease:
    """A cell that this process has for itself; `text` is what its file says."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self.text = text
        self._over = threading.Event()
        threading.Thread(target=self._beat, name=f"lease of {path.stem}", daemon=True).start()

    def check(self) -> None:
        """Raise CellInUse where another process has taken the cell over: this one was held up for too long."""
        check_held(self._path, self.text)

    def release(self) -> None:
        """Give the cell back."""
        self._over.set()
        found = _read(self._path)
        if found is not None and found.text == self.text:
            self._path.unlink(missing_ok=True)

    def _beat(self) -> None:
        """Touch the file now and then; a disk that fails is told of by whoever writes a checkpoint."""
        while not self._over.wait(BEAT):
            with suppress(OSError):  # a server of files may be away for a moment
                found = _read(self._path)
                if found is None or found.text != self.text:
                    return
                os.utime(self._path)


@contextmanager
def held(path: Path) -> Iterator[Lease]:
    """Hold the lease at `path`; raises CellInUse while another process does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({
        "machine": machine_id(), "pid": os.getpid(), "started": process_started(os.getpid()),
        "token": secrets.token_hex(8),
    })  # fmt: skip
    if not create(path, text.encode()):
        _take_over(path, text)
    lease = Lease(path, text)
    try:
        yield lease
    finally:
        lease.release()


def check_held(path: Path, text: str) -> None:
    """Raise CellInUse unless the lease at `path` is the one with this text, which another process may have written."""
    found = _read(path)
    if found is None or found.text != text:
        raise CellInUse(f"another process has taken over this cell ({path.stem}), since this one stood still")


def is_held(path: Path) -> bool:
    """Say whether a process holds the lease at `path` now."""
    found = _read(path)
    return found is not None and not found.is_over(clock_of(path.parent))


def _take_over(path: Path, text: str) -> None:
    """Put `text` in the place of a lease that is over; raises CellInUse for one that is not.

    Of several processes that want it one may act at a time: it creates the file `.taken`, then looks at the lease
    again. One that dies in between leaves that file, which is ignored when it is old.
    """
    found = _read(path)
    if found is not None and not found.is_over(clock_of(path.parent)):
        raise _in_use(path)
    taken = path.with_suffix(".taken")
    abandoned = _read(taken)
    if abandoned is not None and clock_of(path.parent) - abandoned.touched > EXPIRY:
        taken.unlink(missing_ok=True)
    if not create(taken, text.encode()):
        raise _in_use(path)
    try:
        now = _read(path)
        if now is not None and (found is None or now.text != found.text):
            raise _in_use(path)
        path.unlink(missing_ok=True)
        if not create(path, text.encode()):
            raise _in_use(path)
    finally:
        taken.unlink(missing_ok=True)


def _in_use(path: Path) -> CellInUse:
    return CellInUse(f"another process is running this cell ({path.stem}); wait for it or use another --out")


def _read(path: Path) -> _Written | None:
    """Return what stands in a lease file, None where there is none; opening it asks a server of files anew."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return _Written(file.read(), os.fstat(file.fileno()).st_mtime)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ESTALE:
            return None  # removed on another machine while it was being opened
        raise
