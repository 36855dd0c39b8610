"""Move the records of a folder of 0.1.0 to FOLDER/records, under names that a person can tell apart.

    python -m tools.move_records results/embedded

Contents stay as they are; commands read a folder either way, so this is needed by nobody and may be run twice.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from mlecs_bench.doors.registry import Registry
from mlecs_bench.records.names import cell_name, option_words
from mlecs_bench.records.results import FOLDER, read_folder
from mlecs_bench.report.installed import known_defaults


def move_records(folder: Path) -> list[Path]:
    """Move every valid record of `folder` to its place and name of today; return the new files."""
    found = read_folder(folder)
    for problem in found.problems:
        print(f"left where it is: {problem}", file=sys.stderr)
    defaults = known_defaults(found.records, Registry.installed())
    moved = []
    (folder / FOLDER).mkdir(exist_ok=True)
    for record in found.records:
        before = found.paths[record["key"]]
        # The file keeps its bytes, so its name keeps the digits of the key that it holds.
        stored = json.loads(before.read_text(encoding="utf-8"))
        algo = record["identity"]["algo"]
        variant = option_words(algo["options"], defaults[algo["name"]]) if algo["name"] in defaults else ""
        after = folder / FOLDER / cell_name(record["identity"], stored["key"], variant)
        if after != before:
            moved.append(before.rename(after))
    return moved


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(f"{len(move_records(Path(name)))} records of {name} moved")
