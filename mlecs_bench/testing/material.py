"""The dataset under test, prepared once."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlecs_bench.data.samples import DataRequest, Prepared, Samples
from mlecs_bench.doors.hookspecs import DatasetInfo
from mlecs_bench.doors.options import build_options
from mlecs_bench.testing.toy import process_folder

if TYPE_CHECKING:
    import pyarrow

TABLE = "table"
"""The folder of the Arrow table in a prepared folder."""


def new_folder() -> Path:
    """Return an empty folder that is removed when the process ends."""
    return Path(tempfile.mkdtemp(dir=process_folder()))


@dataclass(frozen=True)
class Material:
    """The dataset under test with its options, and its prepared samples."""

    name: str
    info: DatasetInfo
    given: Mapping[str, object]

    @cached_property
    def options(self) -> Any:
        """The options that it is prepared with."""
        return build_options(self.info.options, self.given, f"dataset '{self.name}'")

    def prepare(self, cache_dir: Path, data_dir: Path | None = None) -> Prepared:
        """Prepare the dataset in a cache folder, without files of a user unless `data_dir` holds some."""
        return self.info.prepare(DataRequest(data_dir, cache_dir, self.options))

    @cached_property
    def cache_dir(self) -> Path:
        """The cache folder of `prepared`."""
        return new_folder()

    @cached_property
    def prepared(self) -> Prepared:
        """The dataset as it is without files of a user."""
        return self.prepare(self.cache_dir)

    @cached_property
    def samples(self) -> Samples:
        """The prepared samples."""
        return Samples.open(self.prepared)

    @cached_property
    def schema(self) -> pyarrow.Schema:
        """The columns of the prepared table and their types."""
        import datasets

        return datasets.load_from_disk(str(self.prepared.folder / TABLE)).features.arrow_schema
