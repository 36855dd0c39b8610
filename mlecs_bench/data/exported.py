"""Data of one party alone, cut out of prepared data: its own samples, and of the public ones what it may see.

An exported folder is a prepared folder whose table has the party's rows and no others, and whose modalities are those
that it holds. Rows keep their numbers, so a party trains on it as on the whole. A second file says who has which rows,
as numbers, which tell nothing of what is in them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlecs_bench.data.parts import Part, Partition
from mlecs_bench.data.samples import REFERENCES, Prepared, Samples, save_prepared
from mlecs_bench.data.writing import Writing
from mlecs_bench.errors import AccessError, DataError

if TYPE_CHECKING:
    import datasets
    import numpy as np

FILE = "export.json"
ROW = "row"
"""The column with the number that a row has in the whole data."""


@dataclasses.dataclass(frozen=True)
class Export:
    """What an exported folder says beside its manifest.

    `party` is whose it is, `seed` and `cut` say who has which rows; `writing` and `several` (samples may have several
    texts that are right) are of the whole data, since scores depend on them.
    """

    party: str
    seed: int
    cut: Partition
    writing: Writing
    several: bool

    def to_json(self) -> str:
        """Return it as JSON."""
        return json.dumps(dataclasses.asdict(self))


def export_from_json(text: str) -> Export:
    """Read what `Export.to_json` wrote; raises ValueError, KeyError or TypeError for anything else."""
    values = json.loads(text)
    public, *devices = (
        Part(tuple(part["train"]), tuple(part["test"])) for part in [values["cut"]["public"], *values["cut"]["devices"]]
    )
    cut = Partition(public, tuple(devices), values["cut"]["unused"], values["cut"]["redraws"])
    writing = Writing(tuple(values["writing"]["scripts"]), values["writing"]["english"])
    return Export(values["party"], values["seed"], cut, writing, values["several"])


def cut_digest(cut: Partition, seed: int) -> str:
    """Return a digest of who has which rows."""
    return hashlib.sha256(json.dumps([seed, dataclasses.asdict(cut)]).encode()).hexdigest()


def is_exported(folder: Path) -> bool:
    """Is a folder one of a single party?"""
    return (folder / FILE).is_file()


def save_export(samples: Samples, export: Export, rows: Sequence[int], held: Sequence[str], folder: Path) -> Prepared:
    """Write what a party may see into `folder`: `rows`, through the modalities in `held`.

    Raises DataError for a folder that is there already.
    """
    if folder.exists():
        raise DataError(f"{folder} is there already; name a new folder")
    table = samples.table.select(list(rows))
    lacking = [m for m in samples.manifest.modality_names if m not in held]
    table = table.remove_columns([name for m in lacking for name in (m, f"has_{m}")])
    return save_prepared(table.add_column(ROW, list(rows)), samples.manifest, folder, {FILE: export.to_json()})


class ExportedSamples(Samples):
    """The samples of one party; in the place of all others there is nothing: no text, no modality."""

    def __init__(self, prepared: Prepared, table: datasets.Dataset) -> None:
        try:
            self.export = export_from_json((prepared.folder / FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{prepared.folder / FILE} cannot be read ({error}); export the data again") from error
        self._own_rows: list[int] = table[ROW][:]
        super().__init__(prepared.manifest, table)

    def column(self, name: str) -> list[Any]:
        """Return a whole column; blank for samples of others, False for modalities that are not here."""
        if name.startswith("has_") and name not in self.column_names:
            return [False] * self.manifest.n_samples
        own = super().column(name)
        blank: Any = False if name.startswith("has_") else "" if all(isinstance(v, str) for v in own) else None
        whole = [blank] * self.manifest.n_samples
        for row, value in zip(self._own_rows, own, strict=True):
            whole[row] = value
        return whole

    @property
    def references(self) -> list[tuple[str, ...]] | None:
        """All texts that are right for every sample; None where no sample of the whole data has another one."""
        if not self.export.several:
            return None
        pairs = zip(self.targets, self.column(REFERENCES), strict=True)
        return [tuple(dict.fromkeys([target, *(texts or ())])) for target, texts in pairs]

    @property
    def writing(self) -> Writing:
        """What the targets of the whole data are written with."""
        return self.export.writing

    def array(self, modality: str) -> np.ndarray[Any, Any]:
        """Return all samples of a modality, zeros for those of others; raises AccessError where it is not here."""
        import numpy as np

        if modality not in self.column_names:
            raise AccessError(f"the data of {self.export.party} have no '{modality}'; they were exported without it")
        if modality not in self._arrays:
            spec = self.manifest.modality(modality)
            chunks = [np.asarray(c.flatten()) for c in self._table.data.column(modality).chunks]
            whole = np.zeros((self.manifest.n_samples, *spec.shape), dtype=spec.dtype)
            whole[self._own_rows] = np.concatenate(chunks).reshape(len(self._own_rows), *spec.shape)
            self._arrays[modality] = whole
        return self._arrays[modality]
