"""What a sweep asks of Slurm, as users write it (partition=cpu,time=04:00:00), and the script of an array of sweeps."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlecs_bench.errors import UsageError, did_you_mean

NOTICE = 120
"""Seconds before the end of its time at which a job is told: enough to end a sweep, which saves after every round."""
_TEXT = re.compile(r"[\w.:@/+|&*()\[\]-]+")
_TIMES = (
    (re.compile(r"(?P<minutes>\d+)(:(?P<seconds>\d\d))?"), "MINUTES"),
    (re.compile(r"(?P<hours>\d+):(?P<minutes>\d\d):(?P<seconds>\d\d)"), "HH:MM:SS"),
    (re.compile(r"(?P<days>\d+)-(?P<hours>\d\d?)(:(?P<minutes>\d\d))?(:(?P<seconds>\d\d))?"), "D-HH:MM:SS"),
)


@dataclass(frozen=True)
class SlurmSettings:
    """What each job of a sweep asks for; "" and 0 leave it to the partition.

    `gpus` is a number, or a kind and a number such as a100:1. `jobs` is the most jobs at a time, `cells` how many
    cells a job is given, 0 for a share of them; the script of an array, whose jobs take what is left, has no use for
    it. Raises UsageError for a value that Slurm would misread.
    """

    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    time: str = ""
    mem: str = ""
    gpus: str = ""
    cpus: int = 1
    jobs: int = 16
    cells: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value and isinstance(value, str) and not _TEXT.fullmatch(value):
                raise UsageError(f"{field.name} of Slurm must be a word without spaces or quotes, got '{value}'")
        if self.time:
            slurm_minutes(self.time)
        if not re.fullmatch(r"((\w[\w.-]*:)?\d+)?", self.gpus):
            raise UsageError(f"gpus of Slurm must be a number, or KIND:NUMBER, got '{self.gpus}'")

    @property
    def n_gpus(self) -> int:
        """How many GPUs a job has."""
        return int(self.gpus.rpartition(":")[2] or 0)


def slurm_settings(text: str) -> SlurmSettings:
    """Read settings with commas, such as ``partition=cpu,gpus=1``; "" is none. Raises UsageError."""
    kinds = {field.name: field.default for field in dataclasses.fields(SlurmSettings)}
    found: dict[str, str | int] = {}
    for pair in filter(None, text.split(",")):
        name, equals, value = (part.strip() for part in pair.partition("="))
        if name not in kinds:
            raise UsageError(f"Slurm has no setting '{name}' here. {did_you_mean(name, kinds)}")
        if not equals or not value:
            raise UsageError(f"settings of Slurm are written name=value with commas, got '{pair}'")
        counted = isinstance(kinds[name], int)
        if counted and not (value.isdecimal() and int(value) > 0):
            raise UsageError(f"{name} of Slurm must be a whole number of at least 1, got '{value}'")
        found[name] = int(value) if counted else value
    return SlurmSettings(**found)  # type: ignore[arg-type]  # names and types are those of the fields


def slurm_minutes(time: str) -> int:
    """Return a time limit as Slurm writes it in whole minutes, rounded up; raises UsageError."""
    for pattern, _ in _TIMES:
        if match := pattern.fullmatch(time):
            parts = {name: int(value) for name, value in match.groupdict(default="0").items()}
            hours = 24 * parts.get("days", 0) + parts.get("hours", 0)
            minutes = 60 * hours + parts["minutes"] + (parts["seconds"] > 0)
            if minutes:
                return minutes
    raise UsageError(f"time of Slurm is written {', '.join(form for _, form in _TIMES)}, got '{time}'")


def slurm_script(settings: SlurmSettings, command: Sequence[str], folder: Path, name: str, n_cells: int) -> str:
    """Return the script of an array of jobs that share the cells of a sweep, for ``sbatch``.

    `command` is the sweep, run in `folder`. A job that is told that its time is over ends the sweep after what it has
    saved, and puts itself into the queue again; one that is cancelled ends the sweep.
    """
    jobs = min(settings.jobs, max(1, n_cells))
    wanted = {
        "job-name": re.sub(r"[^\w.-]", "-", name),
        "array": f"1-{jobs}",
        "cpus-per-task": settings.cpus,
        "gres": f"gpu:{settings.gpus}" if settings.gpus else "",
        **{key: getattr(settings, key) for key in ("partition", "account", "qos", "constraint", "time", "mem")},
        "signal": f"B:USR1@{NOTICE}",
        "output": "slurm-%x-%A_%a.log",
        "open-mode": "append",
    }
    lines = [f"#SBATCH --{key}={value}" for key, value in wanted.items() if value]
    return "\n".join([
        "#!/bin/bash",
        *lines,
        "#SBATCH --requeue",
        "",
        f"cd {shlex.quote(str(folder))} || exit 1",
        f"export OMP_NUM_THREADS={settings.cpus} TOKENIZERS_PARALLELISM=false",
        "",
        "# Every finished round is kept, and so is every record: what is stopped goes on where it was.",
        'stop() { kill -s "$1" $! 2>/dev/null; wait $!; }',
        "trap 'stop USR1; scontrol requeue \"${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}\"; exit 0' USR1",
        "trap 'stop TERM; exit 143' TERM",
        "",
        f"{shlex.join(command)} &",
        "wait $!",
        "",
    ])  # fmt: skip  # a line of the script each
