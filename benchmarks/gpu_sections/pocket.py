"""The profile `pocket` with real language models at its full budget: seconds, and what the models then score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpu_sections.runner import NotRunError, Options, Report
from mlecs_bench.doors.events import Event
from mlecs_bench.doors.registry import Registry
from mlecs_bench.execution.cell import run_job
from mlecs_bench.execution.jobs import Execution
from mlecs_bench.execution.protocol import plan_jobs
from mlecs_bench.plan.resolve import resolve
from mlecs_bench.plan.spec import RunSpec
from mlecs_bench.testing.cells import no_observers

PROFILE = "pocket"
ALGORITHMS = ("ml-ecs", "standalone")
SEED = 27
CONFIGURATION = "config.json"


def measure(options: Options, report: Report) -> None:
    """Report a cell of every algorithm on the synthetic vast data when it is done."""
    slm, llm = language_models(options.models)
    registry = Registry.installed()
    if PROFILE not in {entry.name for entry in registry.entries("profile")}:
        raise NotRunError(f"no profile {PROFILE} is installed")
    size: dict[str, Any] = {"rounds": 1, "steps": 1, "n_devices": 2} if options.tiny else {}
    execution = Execution(out=options.folder / "records", cache_dir=options.folder)
    for algo in ALGORITHMS[:1] if options.tiny else ALGORITHMS:
        models = {"slm": slm, "llm": llm, "bertscore_model": "none"}
        spec = RunSpec(algo, "vast", 0.5, profile=PROFILE, seeds=(SEED,), device=options.device, **models, **size)
        (job,) = plan_jobs([resolve(spec, registry)], registry, execution, no_observers())
        events: list[Event] = []
        run_job(job, events.append)
        report(algo, told(events[-1]) | {"slm": Path(slm).name, "llm": Path(llm).name})


def language_models(folder: Path | None) -> tuple[str, str]:
    """Return the folders of the devices' and the server's language model; raises NotRunError where there is none."""
    if folder is None:
        raise NotRunError("no folder of a model was given (--models)")
    found = [folder, folder] if (folder / CONFIGURATION).is_file() else [folder / "slm", folder / "llm"]
    lacking = next((one for one in found if not (one / CONFIGURATION).is_file()), None)
    if lacking is not None:
        raise NotRunError(f"--models: there is no {CONFIGURATION} in the folder or in {lacking.name} below it")
    return str(found[0]), str(found[1])


def told(end: Event) -> dict[str, Any]:
    """Return what the end of a cell tells of its record: seconds, steps, and scores of both evaluation points."""
    record = end.values["record"]
    if record is None:
        return {"error": end.values["error"].strip().splitlines()[-1]}
    metrics = record["metrics"]
    scores = {
        point: {name: mean(by_device) for name, by_device in metrics["client"][point].items()}
        for point in ("local", "received")
    }
    return {"cost": record["cost"], "scores": scores}


def mean(by_device: dict[str, Any]) -> float:
    """Return the mean of one score over devices."""
    return sum(score["value"] for score in by_device.values()) / len(by_device)
