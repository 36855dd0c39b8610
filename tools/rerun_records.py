"""Runs cells of committed studies again and says of every part of their records whether each bit is the same.

    python -m tools.rerun_records results/embedded results/ur-fall --cells 3 --data-dir DIR --out FOLDER

The cells are spread over the records of a study, by name. DIR is the user's data, for studies on real files; FOLDER
takes the new records. The exit code is 0 if all parts of all cells are equal.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from mlecs_bench.doors.options import identifying, plain
from mlecs_bench.doors.profile_settings import flat, settable
from mlecs_bench.doors.registry import Registry
from mlecs_bench.execution.jobs import Execution
from mlecs_bench.execution.protocol import run
from mlecs_bench.federation.evaluation import spread
from mlecs_bench.plan.resolve import resolve
from mlecs_bench.plan.spec import RunSpec
from mlecs_bench.records.results import REPRODUCIBLE, Record, canonical_json, read_records
from mlecs_bench.session.request import default_cache_dir


@click.command()
@click.argument("folders", type=click.Path(path_type=Path, exists=True), nargs=-1, required=True)
@click.option("--cells", default=3, show_default=True, help="Cells of each study.")
@click.option("--data-dir", help="The user's data, for records that are not of a stand-in.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Where the new records go.")
@click.option("--fleet", default="in-process", show_default=True, help="Where the devices of a cell live.")
def main(folders: Sequence[Path], cells: int, data_dir: str | None, out: Path, fleet: str) -> None:
    """Run cells of committed studies again and compare every bit."""
    execution = Execution(out, default_cache_dir(), workers=1, fleet=fleet)
    different = 0
    for folder in folders:
        records, problems = read_records(folder)
        for problem in problems:
            print(f"warning: {problem}", file=sys.stderr)
        for number in spread(len(records), cells):
            found = list(_differences(records[number], _again(records[number], execution, data_dir)))
            different += bool(found)
            print(f"{folder.name}: {_name(records[number])}: {', '.join(found) or 'every bit is the same'}")
    sys.exit(1 if different else 0)


def spec_of_record(identity: Mapping[str, Any], data_dir: str | None, registry: Registry) -> RunSpec:
    """Return the spec of a record's cell; models other than the profile's own are not named by a record."""
    data, structure, training = identity["dataset"], identity["structure"], identity["training"]
    options = registry.dataset(data["name"]).info.options
    usual = plain(identifying(options, plain(options())))
    return RunSpec(
        algo=identity["algo"]["name"],
        dataset=data["name"],
        rho=identity["rho"],
        n_devices=identity["n_devices"],
        profile=identity["profile"]["name"],
        seeds=(identity["seed"],),
        options=identity["algo"]["options"],
        data_options={name: value for name, value in data["options"].items() if value != usual[name]},
        split=data["split"],
        evaluate=identity["evaluate"],
        min_modalities=identity["min_modalities"],
        device_rank=structure["rank"],
        device_encoder_width=structure["encoder_width"],
        data_dir=None if data["synthetic"] else data_dir,
        device=identity["numerics"]["device"],
        threads=identity["numerics"]["threads"],
        budget=training["budget"],
        set={name: value for name, value in flat(training).items() if name in settable()},
        **identity.get("conditions", {}),
    )


def _again(record: Record, execution: Execution, data_dir: str | None) -> Mapping[str, Any]:
    """Return the record that the same cell yields now."""
    registry = Registry.installed()
    observers, _ = registry.observers()
    plan = resolve(spec_of_record(record["identity"], data_dir, registry), registry)
    (result,) = run(plan, execution, observers, registry)
    if result.record is None:
        sys.exit(f"{_name(record)} failed: {result.error}")
    return result.record


def _differences(old: Record, new: Mapping[str, Any]) -> Iterator[str]:
    for part in REPRODUCIBLE:
        if canonical_json(old[part]) != canonical_json(new[part]):
            yield f"{part} DIFFERS"


def _name(record: Record) -> str:
    identity = record["identity"]
    return f"{identity['algo']['name']} {identity['dataset']['name']} seed {identity['seed']} {record['key'][:8]}"


if __name__ == "__main__":
    main()
