"""`mlecs-bench eval`: what saved models score, on the data of their run or on other data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import UsageError
from mlecs_bench.plan.settings import parse_pairs
from mlecs_bench.session.request import CACHE_VARIABLE, default_cache_dir

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlecs_bench.data.samples import Samples
    from mlecs_bench.doors.hookspecs import DatasetInfo
    from mlecs_bench.execution.saved_scores import SavedScores


@click.command("eval")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--dataset", metavar="NAME", help="The dataset.  [default: that of the run]")
@click.option("--data-dir", metavar="DIR", help="Your own data.  [default: none, the synthetic stand-in]")
@click.option("--data-option", multiple=True, metavar="NAME=VALUE", help="An option of the dataset; repeatable."
              "  [default: those of the run, where the dataset is its own]")  # fmt: skip
@click.option("--party", metavar="NAME", help="One party, such as d00 or server.  [default: all]")
@click.option("--test-limit", "--limit-test", type=click.IntRange(min=1), metavar="N", help="Most samples of a model,"
              " spread evenly.  [default: all]")  # fmt: skip
@click.option("--device", metavar="NAME", help="cpu or cuda.  [default: that of the run]")
@click.option("--cache-dir", metavar="DIR", help=f"Prepared data.  [default: ${CACHE_VARIABLE}, or the user's cache"
              " folder]")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def evaluate(  # noqa: PLR0913, PLR0917  # a flag each
    folder: Path,
    dataset: str | None,
    data_dir: str | None,
    data_option: tuple[str, ...],
    party: str | None,
    test_limit: int | None,
    device: str | None,
    cache_dir: str | None,
    as_json: bool,
) -> None:
    """Score the saved models in FOLDER without training.

    FOLDER is what --save-models has left beside a record, one party's folder in it, or the folder of a study. On the
    data of its run a model is scored on the same test samples, and the scores are those of the record; on other data
    it is scored on all samples.
    """
    from mlecs_bench.execution.saved_scores import How, model_folders, score_saved
    from mlecs_bench.execution.saved_scores import as_json as scores_json
    from mlecs_bench.federation.saved import read_description

    folders = model_folders(folder)
    parties = {path: read_description(path).party for path in folders}
    folders = [path for path in folders if party in (None, parties[path])]
    if not folders:
        raise UsageError(f"{folder} holds no model of '{party}'; there are {', '.join(sorted(set(parties.values())))}")
    registry = Registry.installed()
    cache = Path(cache_dir).expanduser() if cache_dir else default_cache_dir()
    given = {"name": dataset, "dir": data_dir, "options": parse_pairs(data_option, "--data-option")}
    info, samples = _data(folders[0], given, cache, registry)
    found = score_saved(folders, info, samples, How(cache, device, test_limit), registry)
    click.echo(json.dumps({"models": [scores_json(one) for one in found]}, indent=2) if as_json else _text(found))


def _data(folder: Path, given: dict[str, Any], cache: Path, registry: Registry) -> tuple[DatasetInfo, Samples]:
    """Return the dataset that is asked for, or that of the model in `folder`, with its samples."""
    from mlecs_bench.data.samples import DataRequest, Samples
    from mlecs_bench.doors.options import build_options
    from mlecs_bench.federation.saved import read_description

    own = read_description(folder)
    name = given["name"] or own.dataset
    info = registry.dataset(name).info
    usual = own.data_options if name == own.dataset else {}
    options = build_options(info.options, {**usual, **given["options"]}, f"dataset '{name}'")
    place = Path(given["dir"]).expanduser() if given["dir"] else None
    return info.given(place, options), Samples.open(info.prepare(DataRequest(place, cache, options)))


def _text(found: Sequence[SavedScores]) -> str:
    lines: list[str] = []
    heads: dict[str, None] = {}
    for one in found:
        own = one.description
        head = f"{own.algo} on {own.dataset}, seed {own.seed} (record {own.key[:8]})"
        if head not in heads:
            heads[head] = None
            lines.append(head)
        scores = "  ".join(f"{name} {score['value']:.4f}" for name, score in one.scores.items())
        reads = ", ".join(one.read) or "no modality"
        lines.append(f"  {own.party}  {one.n} samples of {reads}:  {scores}  ({_against(one)})")
    return "\n".join(lines)


def _against(one: SavedScores) -> str:
    """Return how scores stand to those of the record."""
    if not one.same:
        return "other data than its run's"
    if one.recorded is None:
        return "the data of its run; its record is not beside it"
    if one.n < len(one.description.test):
        return "some of the test samples of its run"
    if one.scores == one.recorded:
        return "as in its record"
    differing = [name for name, score in one.scores.items() if score != one.recorded.get(name)]
    return f"its record differs in {', '.join(differing) or 'metrics'}"
