"""A tower whose embeddings are kept one by one, so that nothing is embedded twice and an interruption costs little."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mlecs_bench.api import UsageError
from mlecs_plugins.datasets.store import Store
from mlecs_plugins.datasets.towers.checkpoints import Checkpoint
from mlecs_plugins.datasets.towers.options import TowerOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlecs_plugins.datasets.towers.encoders import Tower

    Array = NDArray[Any]

EMBEDDING_VERSION = 2
"""Part of every stored name and digest: raise it when the same tower would give other embeddings."""


def identity_of(checkpoint: Checkpoint) -> str:
    """Return what decides the embeddings of a tower, as digests of data hold it."""
    return f"{EMBEDDING_VERSION}-{checkpoint.digest}"


class StoredTower:
    """Embeds groups of items; the tower is loaded when the first group is not in the store.

    `cut` names how a group is taken from its source, where that could be done in more than one way.
    """

    def __init__(self, checkpoint: Checkpoint, options: TowerOptions, store: Store, cut: str = "") -> None:
        self._checkpoint = checkpoint
        self._options = options
        self._store = store
        self._tower: Tower | None = None
        self._what = f"{checkpoint.kind}{EMBEDDING_VERSION}{cut}-{checkpoint.digest[:32]}"

    @property
    def name(self) -> str:
        """The tower as tables name it."""
        return self._checkpoint.name

    @property
    def batch(self) -> int:
        """How many items are embedded at a time."""
        return self._options.tower_batch

    @property
    def tower(self) -> Tower:
        """The tower, loaded."""
        if self._tower is None:
            from mlecs_plugins.datasets.towers.encoders import open_tower

            self._tower = open_tower(self._checkpoint, self._options.tower_device)
        return self._tower

    def known(self, digest: str) -> Array | None:
        """Return what is stored for a source."""
        return self._store.load(digest, self._what)

    def keep(self, digest: str, values: Array) -> None:
        """Store what was made of a source."""
        self._store.save(digest, self._what, values)

    def embed(self, items: Sequence[Any]) -> Array:
        """Return the embeddings (n, d) of some items, in batches; raises UsageError for a tower that gives NaN."""
        size = self.batch
        chunks = [self.tower.embed(items[i : i + size]) for i in range(0, len(items), size)]
        values = np.concatenate(chunks)
        if not np.isfinite(values).all():
            raise self._not_finite()
        return values

    def embed_groups(self, pending: Mapping[str, Sequence[Any]]) -> dict[str, Array]:
        """Embed groups of items by the digest of their source, and store each, (k, d)."""
        rows = iter(self.embed([item for group in pending.values() for item in group]))
        found = {}
        for digest, group in pending.items():
            found[digest] = np.stack([next(rows) for _ in group])
            self.keep(digest, found[digest])
        return found

    def _not_finite(self) -> UsageError:
        return self._checkpoint.unusable("it gives embeddings that are not finite")
