"""Arrays made from the files of a user, kept in the cache so that an interrupted preparation goes on where it was."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlecs_plugins.datasets.user_files import write_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


class Store:
    """A folder with one .npy file per array, named by the digest of its source and by what was made from it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, digest: str, what: str) -> Array | None:
        """Return an array, or None when it is not there or damaged: it can be made again."""
        try:
            values: Array = np.load(self._path(digest, what), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return values

    def save(self, digest: str, what: str, values: Array) -> None:
        """Keep an array."""
        write_whole(self._path(digest, what), lambda file: np.save(file, values, allow_pickle=False))

    def _path(self, digest: str, what: str) -> Path:
        return self._folder / digest[:2] / f"{digest}-{what}.npy"
