"""What a sweep asks of Slurm, and a script that survives the end of its time: bash runs it, Slurm is played."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest

from mlecs_bench.errors import UsageError
from mlecs_bench.execution.slurm import SlurmSettings, slurm_minutes, slurm_script, slurm_settings


def test_settings_are_pairs_with_commas():
    assert slurm_settings("") == SlurmSettings()
    found = slurm_settings("partition=cpu, time=1-02:00:00,gpus=a100:2,cpus=4,jobs=32,constraint=a|b,mem=8G")
    assert found == SlurmSettings(
        partition="cpu", time="1-02:00:00", gpus="a100:2", cpus=4, jobs=32, constraint="a|b", mem="8G"
    )
    assert (found.n_gpus, slurm_settings("gpus=3").n_gpus, SlurmSettings().n_gpus) == (2, 3, 0)
    for text, expected in (
        ("partitoin=cpu", "Slurm has no setting 'partitoin' here. Did you mean 'partition'"),
        ("partition", "written name=value with commas, got 'partition'"),
        ("partition=", "written name=value with commas"),
        ("jobs=0", "jobs of Slurm must be a whole number of at least 1, got '0'"),
        ("cpus=two", "cpus of Slurm must be a whole number"),
        ("gpus=a100", "gpus of Slurm must be a number, or KIND:NUMBER, got 'a100'"),
        ("partition=a b", "must be a word without spaces or quotes, got 'a b'"),
        ("account=$(rm)", "must be a word"),
        ("qos='x'", "must be a word"),
        ("time=soon", "time of Slurm is written MINUTES, HH:MM:SS, D-HH:MM:SS, got 'soon'"),
        ("time=00:00:00", "time of Slurm is written"),
    ):
        with pytest.raises(UsageError) as caught:
            slurm_settings(text)
        assert expected in str(caught.value)
        assert "\n" not in str(caught.value)


def test_times_are_read_as_slurm_reads_them():
    # The forms of sbatch's manual: minutes, minutes:seconds, hours:minutes:seconds, days-hours, ...
    for text, minutes in (
        ("90", 90), ("90:30", 91), ("04:00:00", 240), ("100:00:01", 6001), ("1-00", 1440), ("2-03:30", 3090),
        ("0-01:00:00", 60),
    ):  # fmt: skip  # a form, a line
        assert slurm_minutes(text) == minutes


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A PATH on which scontrol notes what it is asked, and a program that plays the sweep."""
    folder = tmp_path / "bin"
    folder.mkdir()
    notes = tmp_path / "notes"

    def program(name, text):
        path = folder / name
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    program("scontrol", f'echo "scontrol $*" >> {notes}')
    sweep = program(
        "sweep",
        f'echo "$PWD $*" >> {notes}\n'
        f'for s in USR1 TERM; do trap "echo ended by $s >> {notes}; exit 130" $s; done\n'
        f"echo ready >> {notes}\n"
        '[ "$1" = quick ] && exit 3\n'
        "for i in $(seq 500); do sleep 0.02; done",
    )
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "77")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    return sweep, notes


def ran(script: str, folder: Path, notes: Path, number: int | None) -> tuple[int, list[str]]:
    """Run a script, send it a signal when its sweep is ready; return its exit code and what was noted."""
    (folder / "job.sh").write_text(script)
    with subprocess.Popen(["bash", str(folder / "job.sh")]) as job:
        deadline = time.monotonic() + 20
        while number is not None and (not notes.exists() or "ready" not in notes.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        if number is not None:
            job.send_signal(number)
        code = job.wait(20)
    return code, notes.read_text().splitlines()


@pytest.mark.parametrize(
    ("number", "code", "noted"),
    [
        (signal.SIGUSR1, 0, ["ended by USR1", "scontrol requeue 77_3"]),
        (signal.SIGTERM, 143, ["ended by TERM"]),
        (None, 3, []),
    ],
)
def test_a_job_ends_its_sweep_in_order_and_queues_again_only_when_its_time_is_over(
    slurm, tmp_path, number, code, noted
):
    sweep, notes = slurm
    place = tmp_path / 'it\'s a $HOME of "mine"'
    place.mkdir()
    word = "slow" if number else "quick"
    script = slurm_script(SlurmSettings(), [sweep, word, "rho=a b;c", "it's"], place, "table 1", 4)
    assert ran(script, tmp_path, notes, number) == (code, [f"{place} {word} rho=a b;c it's", "ready", *noted])


def test_the_head_of_a_script_says_what_was_asked_for_and_no_more():
    script = slurm_script(slurm_settings("partition=gpu,gpus=1,time=90,jobs=16"), ["x"], Path("/f"), "a b/c", 5)
    head = [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")]
    assert head == [
        "job-name=a-b-c", "array=1-5", "cpus-per-task=1", "gres=gpu:1", "partition=gpu", "time=90",
        "signal=B:USR1@120", "output=slurm-%x-%A_%a.log", "open-mode=append", "requeue",
    ]  # fmt: skip  # a line each
    assert "array=1-16" in slurm_script(SlurmSettings(), ["x"], Path("/f"), "a", 500)
