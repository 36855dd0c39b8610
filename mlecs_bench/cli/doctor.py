"""`mlecs-bench doctor`: what this machine has, what is missing, and the command that gets it."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlecs_bench import __version__
from mlecs_bench.cli.findings import Finding, Status
from mlecs_bench.cli.flags import offline_flag
from mlecs_bench.doors.events import Telling
from mlecs_bench.doors.registry import KINDS, OWN_DISTRIBUTION, PLUGINS_VARIABLE, Registry
from mlecs_bench.errors import MlecsError
from mlecs_bench.machine import usable_cores
from mlecs_bench.plan.profiles import profile_named
from mlecs_bench.plan.spec import USUAL_DEVICES, RunSpec
from mlecs_bench.session.request import CACHE_VARIABLE, DEFAULT_OUT, default_cache_dir

if TYPE_CHECKING:
    from mlecs_bench.doors.profile import Profile

CHECKPOINT_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
SHOWN_EXTRAS = ("bertscore",)
"""The optional extras that users need; the developers' own is not among them."""
N_MODALITIES = 3
"""Modalities of the datasets that come with mlecs-bench, for estimates that ask for no dataset."""
SCRATCH_BYTES = 2 * 2**30
"""Free space below which a folder is reported: prepared data of both datasets, checkpoints and records fit in it."""


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path), help="Also look at this folder with your own data.")
@click.option("--profile", metavar="NAME", help="Also estimate the memory that a run of this profile needs.")
@click.option("--slm", metavar="MODEL", help="Also look at this language model for devices: folder or hub id.")
@click.option("--llm", metavar="MODEL", help="Also look at this language model for the server.")
@offline_flag
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def doctor(ctx: click.Context, /, data_dir: Path | None, as_json: bool, **asked: str | None) -> None:
    """Check that this machine has what a run needs."""
    checks = [*_software(), *_hardware(), *_plugins(Registry.installed()), *_weights(), *_folders(), *_data(data_dir)]
    checks += _models(**asked)
    healthy = all(check.status != "missing" for check in checks)
    if as_json:
        click.echo(json.dumps({"ok": healthy, "checks": [dataclasses.asdict(c) for c in checks]}, indent=2))
    else:
        click.echo(report_text(checks))
    ctx.exit(0 if healthy else 1)


def report_text(checks: Iterable[Finding]) -> str:
    """Return the checks as text: a block per topic, then what to do."""
    marks = {"ok": "ok", "missing": "MISSING", "warning": "note"}
    lines: list[str] = []
    topic = ""
    for check in checks:
        if check.topic != topic:
            topic = check.topic
            lines += [f"{topic}:"]
        cure = f" -> {check.cure}" if check.cure else ""
        lines += [f"  {marks[check.status]:7}  {check.name}: {check.found}{cure}"]
    needed = sum(check.status == "missing" for check in checks)
    verdict = (
        f"The default run lacks what is marked MISSING: {needed}." if needed else "The default run has all it needs."
    )
    return "\n".join([*lines, verdict])


def _software() -> Iterator[Finding]:
    """Yield Python, mlecs-bench and each package that its metadata requires."""
    topic = "software"
    yield Finding(topic, "python", "ok", platform.python_version())
    try:
        requirements = importlib.metadata.requires(OWN_DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding(topic, OWN_DISTRIBUTION, "missing", "not installed, so no plugin is found", _reinstall())
        return
    yield Finding(topic, OWN_DISTRIBUTION, "ok", __version__)
    for line in requirements:
        yield from _requirement(topic, line)


def _requirement(topic: str, line: str) -> Iterator[Finding]:
    """Finding one requirement of the metadata, such as ``torch>=2.6`` or ``bert-score; extra == "bertscore"``."""
    from packaging.requirements import Requirement

    requirement = Requirement(line)
    marker = requirement.marker
    needed = marker is None or marker.evaluate({"extra": ""})
    extra = next((e for e in SHOWN_EXTRAS if marker and not needed and marker.evaluate({"extra": e})), None)
    if not needed and extra is None:
        return
    wanted = f"{requirement.name}{requirement.specifier}"
    cure = f"pip install '{wanted}'"
    lacking: Status = "warning" if extra else "missing"
    purpose = f" (optional: {extra})" if extra else ""
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        yield Finding(topic, requirement.name, lacking, f"not installed{purpose}", cure)
        return
    if requirement.specifier.contains(version, prereleases=True):
        yield Finding(topic, requirement.name, "ok", f"{version}{purpose}")
    else:
        yield Finding(topic, requirement.name, lacking, f"{version}, but {wanted} is required{purpose}", cure)


def _hardware() -> Iterator[Finding]:
    """Yield cores, threads and accelerators."""
    topic = "hardware"
    yield Finding(topic, "cpu", "ok", f"{platform.machine()}, {os.cpu_count()} cores, {usable_cores()} usable here")
    try:
        import torch
    except ImportError:
        return
    yield Finding(
        topic, "threads", "ok", f"torch would use {torch.get_num_threads()}; a run uses 1 unless --threads says"
    )
    if not torch.cuda.is_available():
        yield Finding(topic, "gpu", "ok", "none that torch can use; the profile mini needs none")
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield Finding(topic, f"gpu cuda:{index}", "ok", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")


def _plugins(registry: Registry) -> Iterator[Finding]:
    """Import every plugin and yield how that went; only those of mlecs-bench itself are needed."""
    topic = "plugins"
    if PLUGINS_VARIABLE in os.environ:
        value = os.environ[PLUGINS_VARIABLE]
        yield Finding(
            topic, PLUGINS_VARIABLE, "warning", f"'{value}' limits which plugins are seen", "unset it for all"
        )
    for kind in KINDS:
        for entry in registry.entries(kind):
            origin = f"{entry.distribution} {entry.version}"
            own = entry.distribution == OWN_DISTRIBUTION
            try:
                registry.load(kind, entry.name)
            except MlecsError as error:
                cure = _reinstall() if own else f"pip install --upgrade {entry.distribution}, or uninstall it"
                yield Finding(topic, f"{kind} {entry.name}", "missing" if own else "warning", str(error), cure)
            else:
                yield Finding(topic, f"{kind} {entry.name}", "ok", origin)


def _weights() -> Iterator[Finding]:
    """Yield the models of every profile; only those of the default profile are needed."""
    for profile in _profiles(Registry.installed()):
        lacking: Status = "missing" if profile.name == RunSpec.profile else "warning"
        looked = [(side, *_model(source)) for side, source in (("slm", profile.slm), ("llm", profile.llm))]
        if profile.encoders is not None:
            looked.append(("encoders", *_files([profile.encoders])))
        for name, found, cure in looked:
            yield Finding(f"weights of profile {profile.name}", name, lacking if cure else "ok", found, cure)
    if importlib.util.find_spec("bert_score") is not None:
        yield _bertscore()


def _bertscore() -> Finding:
    """Finding the model of BERTScore where none is named."""
    from mlecs_bench.metrics.bertscore.packaged import WHEEL_MEGABYTES, packaged_model

    topic, name = "weights of BERTScore", "all-MiniLM-L6-v2"
    try:
        folder = packaged_model(default_cache_dir())
    except MlecsError as error:
        return Finding(topic, name, "warning", str(error))
    if folder is None:
        return Finding(topic, name, "ok", f"not here; the first run fetches {WHEEL_MEGABYTES} MB with pip")
    return Finding(topic, name, "ok", str(folder))


def _profiles(registry: Registry) -> Iterator[Profile]:
    """Yield the profiles that can be loaded."""
    for entry in registry.entries("profile"):
        with contextlib.suppress(MlecsError):  # among the plugins it is named
            yield registry.profile(entry.name).info


def _models(profile: str | None, slm: str | None, llm: str | None) -> Iterator[Finding]:
    """Yield what is found of the models that were asked for, and the memory of a run with them."""
    from mlecs_bench.cli.model_findings import model_findings

    telling = Telling(lambda text: click.echo(text, err=True), lambda *_: None)
    asked = {"slm": slm, "llm": llm}
    broken = False
    for side, source in asked.items():
        for finding in model_findings(f"--{side}", source, telling) if source else ():
            broken |= finding.status == "missing"
            yield finding
    given = [f"--{side}" for side, source in asked.items() if source]
    if profile or (given and not broken):
        own = profile_named(profile or RunSpec.profile, Registry.installed()).info
        words = f" with {' and '.join(given)}" if given else ""
        used = dataclasses.replace(own, slm=slm or own.slm, llm=llm or own.llm)
        yield from _memory(used, f"memory of profile {own.name}{words}")


def _memory(profile: Profile, topic: str) -> Iterator[Finding]:
    """Yield the memory that three devices and modalities need, on every device that a run could use."""
    import torch

    from mlecs_bench.models.memory import GIB, advice, available_memory, estimate_memory

    try:
        estimate = estimate_memory(profile, USUAL_DEVICES, N_MODALITIES)
    except MlecsError as error:
        yield Finding(topic, "a cell", "warning", str(error))
        return
    yield Finding(topic, "a cell", "ok", f"needs about {estimate} with {USUAL_DEVICES} devices")
    for device in ("cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))):
        available = available_memory(device)
        if available is None:
            continue
        fits = estimate.total <= available
        cure = "" if fits else advice(profile, USUAL_DEVICES, N_MODALITIES, available)
        yield Finding(topic, device, "ok" if fits else "warning", f"has {available / GIB:.1f} GiB", cure)


def _model(source: str) -> tuple[str, str]:
    """Return what was found of a language model, a folder or a hub id, and the cure ("" when all is there)."""
    if Path(source).is_absolute():
        return _files([Path(source) / name for name in CHECKPOINT_FILES])
    from mlecs_bench.models.hub import Part, cached, lacking

    folder = cached(source)
    if folder is not None and lacking(folder, Part.WHOLE) is None:
        return f"{source} in the hub's cache, commit {folder.name[:12]}", ""
    return (
        f"{source} is not in the hub's cache; a run fetches it before it begins",
        f"mlecs-bench models fetch --slm {source}",
    )


def _files(paths: Sequence[Path]) -> tuple[str, str]:
    """Return what was found of files in one folder of the package, and the cure ("" when all are there)."""
    folder = paths[0].parent
    absent = [path for path in paths if not path.is_file()]
    if absent:
        return f"{folder} lacks {', '.join(path.name for path in absent)}", _reinstall(absent)
    size = sum(path.stat().st_size for path in paths) / 2**20
    return f"{folder if len(paths) > 1 else paths[0]}, {size:.1f} MiB", ""


def _reinstall(absent: Sequence[Path] = ()) -> str:
    """Return the command that restores mlecs-bench (or its `absent` files) from where it was installed from."""
    for distribution in importlib.metadata.distributions(name=OWN_DISTRIBUTION):
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
        if not origin.get("dir_info", {}).get("editable"):
            if "url" in origin:
                return f"pip install --force-reinstall --no-deps '{origin['url']}'"
            continue
        checkout = origin["url"].removeprefix("file://")
        files = " ".join(f"'{path}'" for path in absent)
        return f"git -C '{checkout}' restore {files}" if files else f"pip install -e '{checkout}'"
    return f"install {OWN_DISTRIBUTION} again from where you got it"


def _folders() -> Iterator[Finding]:
    """Yield the cache and the default output folder: writable, and with space left."""
    yield _writable("cache", default_cache_dir(), f"set {CACHE_VARIABLE} to a folder you can write")
    yield _writable("output", Path(DEFAULT_OUT), "give --out a folder you can write")


def _writable(name: str, folder: Path, cure: str) -> Finding:
    """Finding a folder, or the nearest existing one above it, without creating anything."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        return Finding("folders", name, "missing", f"{folder} is not writable ({place})", cure)
    free = shutil.disk_usage(place).free
    status: Status = "ok" if free >= SCRATCH_BYTES else "warning"
    return Finding("folders", name, status, f"{folder} is writable, {free / 2**30:.1f} GiB free")


def _data(data_dir: Path | None) -> Iterator[Finding]:
    """Yield where real data comes from, and what `data_dir` holds."""
    registry = Registry.installed()
    topic = "data"
    if data_dir is None:
        yield Finding(topic, "--data-dir", "ok", "not given; runs without it use the synthetic stand-in")
    elif not data_dir.is_dir():
        yield Finding(topic, str(data_dir), "missing", "is not a folder", "give --data-dir the folder with your data")
    else:
        names = sorted(path.name for path in data_dir.iterdir())
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        yield Finding(topic, str(data_dir), "ok" if names else "warning", f"{len(names)} entries: {shown or 'empty'}")
    for entry in registry.entries("dataset"):
        try:
            info = registry.dataset(entry.name).info
        except MlecsError:
            continue
        if info.where_to_get:
            yield Finding(topic, entry.name, "ok", f"real data: {info.where_to_get}")
        if info.check is not None and data_dir is not None and data_dir.is_dir():
            problems = list(info.check(data_dir))
            found = problems[0] + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "") if problems else ""
            cure = f"see 'mlecs-bench show {entry.name}' for where to get it" if problems else ""
            status: Status = "warning" if problems else "ok"
            yield Finding(topic, f"{entry.name} in {data_dir}", status, found or "all files are there", cure)
