"""Embeddings of texts on disk: what one cell has read, no other cell has to read again.

A file per scorer and machine, in SQLite: workers share it, a row is there whole or not at all, and a process that is
killed leaves nothing behind. A cache decides no number: where the file cannot be used, texts are embedded again.
"""

from __future__ import annotations

import hashlib
import platform
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = "bertscore"
"""Where in the cache the files are; deleting it costs time alone."""
MOST_BYTES = 512 * 2**20
"""Size of the embeddings in a file, beyond which the oldest half goes: some 15,000 texts of a MiniLM."""
WAIT_SECONDS = 30.0
"""How long a process waits for another one that is writing."""
AT_A_TIME = 500
"""Texts that are asked for in one statement."""

Ids = tuple[int, ...]


def store_path(cache_dir: Path, identity: str, device: str) -> Path:
    """Return the file of a scorer's embeddings on this machine.

    Bits of a float depend on the kernels too, so on torch, its threads and the processor or GPU: a cache that machines
    share has a file for each kind of them.
    """
    kind = hashlib.sha256("\n".join([identity, *_machine(device)]).encode()).hexdigest()[:16]
    return cache_dir / FOLDER / f"embeddings-{kind}.sqlite"


def _machine(device: str) -> Iterator[str]:
    import torch

    yield from (torch.__version__, platform.machine(), _processor())
    if device.startswith("cuda"):
        yield torch.cuda.get_device_name(device)
    else:
        yield from (torch.backends.cpu.get_cpu_capability(), str(torch.get_num_threads()))


def _processor() -> str:
    """Return the processor's name: libraries of linear algebra choose their kernels by it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


class EmbeddingStore:
    """Embeddings (L, d) in float32 by the token ids of their text, in one file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self, texts: Iterable[Ids]) -> dict[Ids, Tensor]:
        """Return the embeddings that are there of some texts; a damaged one is not."""
        keys = {_key(ids): ids for ids in texts}
        found: dict[Ids, Tensor] = {}
        if not keys or not self._path.is_file():
            return found
        wanted = list(keys)
        try:
            with self._opened() as database:
                for start in range(0, len(wanted), AT_A_TIME):
                    part = wanted[start : start + AT_A_TIME]
                    marks = ",".join("?" * len(part))
                    query = f"SELECT key, sha256, vectors FROM embeddings WHERE key IN ({marks})"  # noqa: S608  # marks alone
                    for key, sha256, vectors in database.execute(query, part):
                        if hashlib.sha256(vectors).digest() == sha256:
                            found[keys[key]] = _tensor(vectors, len(keys[key]))
        except (sqlite3.Error, OSError):
            return {}
        return found

    def save(self, embeddings: Mapping[Ids, Tensor]) -> None:
        """Keep embeddings beside those that are there; what cannot be written is left out."""
        if not embeddings:
            return
        rows = [(_key(ids), *_packed(vectors)) for ids, vectors in embeddings.items()]
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._opened() as database, database:
                # A row of another digest is a damaged one: it is replaced.
                database.executemany("INSERT OR REPLACE INTO embeddings VALUES (?, ?, ?, ?)", rows)
                (size,) = database.execute("SELECT sum(size) FROM embeddings").fetchone()
                if size > MOST_BYTES:
                    middle = "SELECT (min(rowid) + max(rowid)) / 2 FROM embeddings"
                    database.execute(f"DELETE FROM embeddings WHERE rowid <= ({middle})")  # noqa: S608  # fixed text
        except (sqlite3.Error, OSError):
            return

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._path, timeout=WAIT_SECONDS)) as database:
            database.execute(
                "CREATE TABLE IF NOT EXISTS embeddings (key BLOB PRIMARY KEY, size INTEGER, sha256 BLOB, vectors BLOB)"
            )
            yield database


def _key(ids: Ids) -> bytes:
    return hashlib.sha256(",".join(map(str, ids)).encode()).digest()


def _packed(vectors: Tensor) -> tuple[int, bytes, bytes]:
    content = vectors.detach().cpu().contiguous().numpy().tobytes()
    return len(content), hashlib.sha256(content).digest(), content


def _tensor(content: bytes, length: int) -> Tensor:
    import torch

    return torch.frombuffer(bytearray(content), dtype=torch.float32).reshape(length, -1)
