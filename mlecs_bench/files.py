"""Files that are written whole or not at all, and JSON that is read without surprises."""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from mlecs_bench.errors import MlecsError, UsageError

CURES = {
    errno.ENOSPC: "make room on the disk",
    errno.EDQUOT: "make room in your quota",
    errno.EROFS: "make it writable, or choose another folder,",
    errno.EACCES: "make it writable, or choose another folder,",
    errno.EPERM: "make it writable, or choose another folder,",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}

DISK_ERRORS = frozenset({
    *CURES, errno.EIO, errno.ESTALE, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENAMETOOLONG, errno.ENOENT,
    errno.ENOTDIR, errno.EISDIR, errno.ELOOP,
})  # fmt: skip
"""What a full disk, missing rights, a folder that went away and their like answer: nobody's defect."""


def publish(path: Path, text: str) -> None:
    """Create `path` with `text` in one step, unless another process has just created it."""
    create(path, text.encode())


def create(path: Path, content: bytes) -> bool:
    """Create `path` with `content` in one step, unless there is such a file; return whether this call created it."""
    part = _write_part(path, content)
    try:
        return _moved(part, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        _forget(part)


def _moved(part: Path, path: Path) -> bool:
    """Give a file its name, unless that is taken; return whether it has it now."""
    try:
        os.link(part, path)
    except FileExistsError:
        return part.stat().st_nlink == 2  # a server of files whose answer was lost was asked twice
    except OSError:
        pass  # a file system without hard links
    else:
        return True
    # The name is reserved by an empty file, which only its creator replaces.
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    try:
        part.replace(path)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return True


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` in one step, replacing what was there."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` in one step, replacing what was there."""
    part = _write_part(path, content)
    try:
        part.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        _forget(part)


def _write_part(path: Path, content: bytes) -> Path:
    """Write `content`, down to the disk, to a hidden file beside `path`, and return that file."""
    part = path.with_name(f".{path.stem[:40]}-{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        _forget(part)
        raise cannot_write(path, error) from error
    except BaseException:
        _forget(part)
        raise
    return part


def _forget(part: Path) -> None:
    """Delete a file where that is still possible: what went wrong before is what has to be told."""
    with suppress(OSError):
        part.unlink(missing_ok=True)


def clock_of(folder: Path) -> float:
    """Return the time by the clock of the file system of `folder`, which may be another machine's."""
    probe = folder / f".clock-{secrets.token_hex(8)}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        _forget(probe)


def cannot_write(path: Path, error: OSError) -> MlecsError:
    """Return the failure to write `path` as one line that says what to do."""
    cure = CURES.get(error.errno or 0, "look at that folder")
    return MlecsError(f"cannot write {path}: {error.strerror or error}; {cure} and run the same command again")


def disk_failure(error: OSError) -> MlecsError | None:
    """Return an error of the system that the user's files and disks bring about as one line; None for any other."""
    if error.errno not in DISK_ERRORS or (error.errno == errno.ENOENT and error.filename is None):
        return None
    where = f" {error.filename}" if error.filename is not None else ""
    cure = CURES.get(error.errno, "look at that file")
    return MlecsError(f"cannot use{where}: {error.strerror}; {cure} and run the same command again")


def read_json(path: Path) -> Any:
    """Return what a JSON file holds. Raises OSError, and ValueError for anything that is no JSON, however deep."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def parsed_json(text: str | bytes) -> Any:
    """Return JSON values; raises ValueError, in a line, for all that others would read in another way, or not at all.

    That is bytes that are not UTF-8, NaN and infinity, numbers beyond a float's range or of thousands of digits, a name
    that stands twice in an object, half a character, and nesting without end.
    """
    decoded = text if isinstance(text, str) else text.decode()
    try:
        values = json.loads(
            decoded, parse_constant=_no_number, parse_float=_finite, object_pairs_hook=_without_repeated_names
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if isinstance(values, dict | list):
        _check_depth(values)
    if "\\u" in decoded:
        try:
            json.dumps(values, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("it holds half a character (a lone surrogate)") from error
    return values


MOST_LEVELS = 100
"""How deeply JSON may be nested: far below where Python's stack ends, for whatever walks through it later."""


def _check_depth(values: Any) -> None:
    """Raise ValueError for values that are nested too deeply."""
    level = [values]
    for _ in range(MOST_LEVELS):
        inside = (one.values() if isinstance(one, dict) else one for one in level)
        level = [value for values_ in inside for value in values_ if isinstance(value, dict | list)]
        if not level:
            return
    raise ValueError("it is nested too deeply")


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text[:40])


def _without_repeated_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names: set[str] = set()
        twice = next(name for name, _ in pairs if name in names or names.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"'{twice[:40]}' stands there twice")
    return values


def writable(out: Path, flag: str = "--out") -> None:
    """Create the folder `out` and make sure that files can be written there; raises UsageError naming `flag`."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=out, prefix=".writable-"):
            pass
    except OSError as error:
        raise UsageError(f"cannot write to {out}: {error.strerror}; choose another folder with {flag}") from error
