"""`mlecs-bench data`: what is prepared, whether a user's files are whole, and preparing them ahead of a run."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from mlecs_bench.cli.flags import ONE_RUN, SETTINGS, parsed, settings_file, with_flags
from mlecs_bench.cli.key_value import KeyValueGroup
from mlecs_bench.data.cache import CACHE_VARIABLE, default_cache_dir
from mlecs_bench.data.samples import MANIFEST_FILE, DataRequest, Prepared, Samples, open_prepared
from mlecs_bench.doors.events import Event
from mlecs_bench.doors.hookspecs import DatasetInfo, Verification
from mlecs_bench.doors.observers import tell_all
from mlecs_bench.doors.options import build_options
from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import DataError, UsageError
from mlecs_bench.files import writable
from mlecs_bench.plan.settings import parse_pairs
from mlecs_bench.session.progress import make_view

SHOWN_IDS = 5
SHOWN_PROBLEMS = 20
SHOWN_DIGITS = 16
Pairs = tuple[str, ...]

_CACHE_DIR = click.option(
    "--cache-dir", type=click.Path(path_type=Path), metavar="DIR",
    help=f"Prepared data.  [default: ${CACHE_VARIABLE}, or the user's cache folder]",
)  # fmt: skip  # one flag
_DATA_OPTION = click.option(
    "-o", "--data-option", multiple=True, metavar="NAME=VALUE", help="An option of the dataset; repeatable."
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
_QUIET = click.option("--quiet", is_flag=True, help="Show no progress.")


@click.group(cls=KeyValueGroup)
def data() -> None:
    """List, verify and prepare data."""


@data.command("list")
@_CACHE_DIR
@_JSON
def list_command(cache_dir: Path | None, as_json: bool) -> None:
    """List the prepared data in the cache."""
    folder = _cache_dir(cache_dir)
    rows, damaged = [], []
    for found in _manifests(folder):
        try:
            prepared = open_prepared(found)
        except DataError as error:
            damaged.append(str(error))
        else:
            rows += [_row(prepared)] if prepared else []
    if as_json:
        click.echo(json.dumps({"cache_dir": str(folder), "prepared": rows, "damaged": damaged}, indent=2))
        return
    click.echo(_table(rows) if rows else f"nothing is prepared in {folder}")
    for line in damaged:
        click.echo(f"warning: {line}", err=True)


@data.command()
@click.argument("name")
@click.option("--data-dir", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Your own data.")
@_DATA_OPTION
@_CACHE_DIR
@_JSON
@_QUIET
@click.pass_context
def verify(ctx: click.Context, /, name: str, as_json: bool, quiet: bool, **given: Any) -> None:
    """Read all files of a dataset in DIR and name what is damaged or missing.

    Ends with exit code 1 if anything is damaged.
    """
    info = Registry.installed().dataset(name).info
    if info.verify is None:
        raise UsageError(f"dataset '{name}' cannot verify files; 'mlecs-bench doctor --data-dir DIR' looks for them")
    with _request(name, info, quiet, **given) as request:
        found = info.verify(request)
    as_text = _verification_text(found, f"{name} in {request.data_dir}")
    click.echo(json.dumps(dataclasses.asdict(found), indent=2) if as_json else as_text)
    ctx.exit(1 if found.problems else 0)


@data.command()
@click.argument("name")
@click.option("--data-dir", type=click.Path(path_type=Path), metavar="DIR",
              help="Your own data.  [default: none, the synthetic stand-in]")  # fmt: skip  # one flag
@_DATA_OPTION
@_CACHE_DIR
@_JSON
@_QUIET
def prepare(name: str, as_json: bool, quiet: bool, **given: Any) -> None:
    """Prepare a dataset, so that runs find it in the cache."""
    info = Registry.installed().dataset(name).info
    with _request(name, info, quiet, **given) as request:
        prepared = info.prepare(request)
    present = {m: int(has.sum()) for m, has in Samples.open(prepared).presence.items()}
    row = _row(prepared) | {"present": present, "notes": list(prepared.manifest.notes)}
    click.echo(json.dumps(row, indent=2) if as_json else _prepared_text(row))


@data.command()
@with_flags(ONE_RUN, SETTINGS)
@settings_file
@click.option(
    "--seed", type=int, required=True, metavar="S", help="The seed of the run: who has which samples depends on it."
)
@click.option("--party", required=True, metavar="ID", help="Whose data: a device such as d01, or server.")
@click.option("--to", type=click.Path(path_type=Path), required=True, metavar="DIR", help="A new folder.")
@_CACHE_DIR
@_QUIET
def export(
    file: Path | None, seed: int, party: str, to: Path, cache_dir: Path | None, quiet: bool, **flags: Any
) -> None:
    """Write what one party of a run may see into a folder of its own.

    The settings are those of 'mlecs-bench run'. A device gets its own samples and the public training samples, through
    the modalities that it holds; the server gets the public samples.
    """
    from mlecs_bench.execution.protocol import prepare_data
    from mlecs_bench.federation.exporting import export as write
    from mlecs_bench.session.carry_out import planned
    from mlecs_bench.session.request import SettingsFile, build_request, read_file

    request = build_request(parsed(flags), read_file(file) if file else SettingsFile())
    registry = Registry.installed()
    plan = planned(request, registry)
    with shown_progress(quiet) as progress:
        prepared = prepare_data(plan, registry, _cache_dir(cache_dir), progress)
    exported = write(Samples.open(prepared), plan, seed, party, to.expanduser())
    samples = Samples.open(exported)
    names = [m for m in exported.manifest.modality_names if m in samples.column_names]
    click.echo(
        f"{to}: {len(samples.table):,} of {exported.manifest.n_samples:,} samples through "
        f"{', '.join(names) or 'no modality'}, for {party} and seed {seed}"
    )


def _cache_dir(given: Path | None) -> Path:
    return given.expanduser() if given else default_cache_dir()


@contextmanager
def _request(
    name: str, info: DatasetInfo, quiet: bool, data_dir: Path | None, data_option: Pairs, cache_dir: Path | None
) -> Iterator[DataRequest]:
    """Give the request that the flags describe, while its progress is shown."""
    options = build_options(info.options, parse_pairs(data_option, "--data-option"), f"dataset '{name}'")
    cache = _cache_dir(cache_dir)
    writable(cache, "--cache-dir")
    with shown_progress(quiet) as progress:
        yield DataRequest(data_dir.expanduser() if data_dir else None, cache, options, progress)


@contextmanager
def shown_progress(quiet: bool) -> Iterator[Callable[[int, int, str], None]]:
    """Give the function that tells all observers how far the data is; warns of observers that do not load."""
    view = make_view(0, sys.stderr, quiet)
    observers, warnings = Registry.installed().observers()
    for warning in warnings:
        view.say(f"warning: {warning}")
    observers.register(view, name="live-view")

    def progress(done: int, total: int, what: str) -> None:
        event = Event("data", values={"done": done, "total": total, "what": what})
        tell_all(observers, event)

    try:
        yield progress
    finally:
        view.close()


def _manifests(folder: Path) -> Iterator[Path]:
    """Yield the folders of prepared data in the cache; folders that are still being written are hidden."""
    for path in sorted(folder.glob(f"**/{MANIFEST_FILE}")):
        if not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path.parent


def _row(prepared: Prepared) -> dict[str, Any]:
    manifest = prepared.manifest
    return {
        "name": manifest.name,
        "view": manifest.view,
        "synthetic": manifest.synthetic,
        "samples": manifest.n_samples,
        "digest": manifest.digest,
        "bytes": sum(path.stat().st_size for path in prepared.folder.rglob("*") if path.is_file()),
        "folder": str(prepared.folder),
    }


def _table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [("name", "samples", "digest", "size", "view")]
    lines += [(r["name"], f"{r['samples']:,}", r["digest"][:SHOWN_DIGITS], _size(r["bytes"]), r["view"]) for r in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    return "\n".join("  ".join([f"{x:{w}}" for x, w in zip(line, widths, strict=False)] + [line[4]]) for line in lines)


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:.1f} MiB"


@dataclass(frozen=True)
class _Count:
    """How many samples have a modality, and what to say of those that lack it."""

    modality: str
    present: int
    remark: str = ""


def _counts_text(counts: Sequence[_Count], n_samples: int) -> list[str]:
    width = max(len(count.modality) for count in counts) if counts else 0
    return [f"  {c.modality:{width}}  {c.present:,} of {n_samples:,}{c.remark}" for c in counts]


def _prepared_text(row: dict[str, Any]) -> str:
    """Return the manifest in short, and which modalities the samples have."""
    counts = [_Count(name, n) for name, n in row["present"].items()]
    lines = [
        f"{row['name']}: {row['view']}",
        f"{row['samples']:,} samples, {_size(row['bytes'])} in {row['folder']}",
        *_counts_text(counts, row["samples"]),
        f"digest {row['digest']}",
    ]
    return "\n".join([*lines, *(f"- {note}" for note in row["notes"])])


def _verification_text(found: Verification, what: str) -> str:
    """Return what was found as text: counts, notes, then every problem in a line of its own."""
    counts = []
    for modality, ids in found.missing.items():
        more = ", ..." if len(ids) > SHOWN_IDS else ""
        remark = f"; missing in {', '.join(ids[:SHOWN_IDS])}{more}" if ids else ""
        counts.append(_Count(modality, found.n_samples - len(ids), remark))
    lines = [f"{what}: {found.view}", f"{found.n_samples:,} samples", *_counts_text(counts, found.n_samples)]
    lines += [f"digest {found.digest or 'none: prepare would refuse these files'}"]
    lines += [f"- {note}" for note in found.notes]
    return "\n".join([*lines, *_problems_text(found.problems)])


def _problems_text(problems: Sequence[str]) -> list[str]:
    if not problems:
        return ["No problem found."]
    count = len(problems)
    hidden = [f"  and {count - SHOWN_PROBLEMS} more; --json lists all"] if count > SHOWN_PROBLEMS else []
    head = f"{count} problem{'s' * (count != 1)}:"
    return [head, *(f"  {line}" for line in problems[:SHOWN_PROBLEMS]), *hidden]
