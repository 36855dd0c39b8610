"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path

from mlecs_bench.errors import UsageError


def publish(path: Path, text: str) -> None:
    """Create `path` with `text` in one step, unless another process has just created it."""
    part = _write_part(path, text.encode())
    try:
        os.link(part, path)
    except FileExistsError:
        pass
    except OSError:
        # A file system without hard links: a rename is as atomic but could replace a file created this instant.
        if not path.exists():
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` in one step, replacing what was there."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` in one step, replacing what was there."""
    part = _write_part(path, content)
    try:
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _write_part(path: Path, content: bytes) -> Path:
    """Write `content`, down to the disk, to a hidden file beside `path`, and return that file."""
    part = path.with_name(f".{path.stem[:40]}-{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return part


def writable(out: Path, flag: str = "--out") -> None:
    """Create the folder `out` and make sure that files can be written there; raises UsageError naming `flag`."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=out, prefix=".writable-"):
            pass
    except OSError as error:
        raise UsageError(f"cannot write to {out}: {error.strerror}; choose another folder with {flag}") from error
