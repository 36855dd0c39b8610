"""Disks that become full and folders that become read-only, in mid-command: one line, and then it goes on.

    pytest -m campaign tests/campaigns/test_disks.py

A small file system of memory is mounted for every case, which only root may do; elsewhere the tests are skipped.
CAMPAIGN_SHARE and CAMPAIGN_SEED: see test_kills.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import forked
import pytest
import tiny_cells

from mlecs_bench.testing.installed import installed

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(7200)]
COMMANDS = (("run", "ml-ecs"), ("sweep", "ml-ecs,standalone"), ("report", ""))
ROOM = "32m"


def _mount(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[Path]:
    """Mount a file system of memory on a new folder; skips the test where that is not allowed."""
    folder.mkdir()
    done = _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remounted(folder: Path, option: str) -> bool:
    """Change an option of what is mounted; False where it is busy."""
    return _mount("-o", f"remount,{option}", str(folder)).returncode == 0


@pytest.fixture(scope="module", autouse=True)
def _installed() -> Iterator[None]:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with installed():
        forked.warmed()
        tiny_cells.warmed()
        yield


def arguments_of(one: tuple[str, str], folder: Path, cache: Path) -> list[str]:
    verb, algo = one
    return (
        ["report", str(folder / "out")] if verb == "report" else tiny_cells.command(verb, algo, folder / "out", cache)
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, float]]:
    """A folder that each command has filled undisturbed, and the seconds that it took."""
    found = {}
    folder = tmp_path_factory.mktemp("whole")
    for one in COMMANDS:
        own = folder / one[0]
        if one[0] == "report":
            shutil.copytree(folder / "sweep", own)
        began = time.monotonic()
        own.mkdir(exist_ok=True)
        code, printed = forked.started(arguments_of(one, own, folder / "cache"), folder / "log").ended()
        assert code == 0, printed
        found[one[0]] = own / "out", time.monotonic() - began
    return found


def one_line(printed: str, code: int) -> str:
    """Return how a command ended on such a disk; raises AssertionError for anything but success or one line each."""
    assert "Traceback" not in printed, printed
    assert "Exception ignored" not in printed, printed
    if code == 0:
        return "was done"
    assert code in (1, 2), (code, printed)
    lines = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert lines, printed
    return "failed in a line"


def visible(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def check_left(one: tuple[str, str], folder: Path, whole: Path) -> None:
    """Raise AssertionError for anything half-written."""
    if one[0] == "report":
        assert visible(folder / "out" / "report").items() <= visible(whole / "report").items()
        return
    assert tiny_cells.cells(folder / "out").items() <= tiny_cells.cells(whole).items()
    left = [path for path in tiny_cells.hidden_files(folder / "out") if path.suffix != ".lock"]
    assert not left, left


def check_end(one: tuple[str, str], folder: Path, whole: Path) -> None:
    if one[0] == "report":
        assert visible(folder / "out" / "report") == visible(whole / "report")
    else:
        tiny_cells.check_ended(folder / "out", tiny_cells.cells(whole), tiny_cells.answers(whole))
        assert not (folder / "out" / "failures").exists()


def _prepared(one: tuple[str, str], folder: Path, whole: Path) -> None:
    if one[0] == "report":
        shutil.copytree(whole / "records", folder / "out" / "records")


@pytest.mark.parametrize("one", COMMANDS, ids=[verb for verb, _ in COMMANDS])
def test_a_command_whose_disk_becomes_full_ends_in_a_line_and_goes_on_when_there_is_room(
    one, undisturbed, tmp_path, dice, times
):
    ends = Counter[str]()
    whole, _ = undisturbed[one[0]]
    needed = sum(len(content) for content in visible(whole).values()) // 1024
    for number in range(times(7)):
        least = (
            40 + sum(path.stat().st_size for path in (whole / "records").iterdir()) // 1024 if one[0] == "report" else 4
        )
        size = int(dice.integers(least, least + needed + 200))
        with mounted(tmp_path / f"full{number}", f"{size}k") as disk:
            _prepared(one, disk, whole)
            arguments = arguments_of(one, disk, tmp_path / "cache")
            code, printed = forked.started(arguments, tmp_path / "log").ended()
            ends[one_line(printed, code)] += 1
            check_left(one, disk, whole)
            assert remounted(disk, f"size={ROOM}")
            code, printed = forked.started(_again(arguments), tmp_path / "log").ended()
            assert code == 0, printed
            check_end(one, disk, whole)
    print(f"\n{one[0]}, full disk: {dict(ends)}")


@pytest.mark.parametrize("one", COMMANDS, ids=[verb for verb, _ in COMMANDS])
def test_a_command_whose_folder_can_be_written_no_more_ends_in_a_line_and_goes_on_when_it_can(
    one, undisturbed, tmp_path, dice, times
):
    ends = Counter[str]()
    whole, seconds = undisturbed[one[0]]
    for number in range(times(7)):
        with mounted(tmp_path / f"closed{number}", ROOM) as disk:
            _prepared(one, disk, whole)
            arguments = arguments_of(one, disk, tmp_path / "cache")
            child = forked.started(arguments, tmp_path / "log")
            time.sleep(dice.uniform(0, 0.9 * seconds))
            for _ in range(1000):
                if remounted(disk, "ro"):
                    break
                time.sleep(0.001)
            code, printed = child.ended()
            ends[one_line(printed, code)] += 1
            assert remounted(disk, "rw")
            check_left(one, disk, whole)
            code, printed = forked.started(_again(arguments), tmp_path / "log").ended()
            assert code == 0, printed
            check_end(one, disk, whole)
    print(f"\n{one[0]}, read-only: {dict(ends)}")


def _again(arguments: list[str]) -> list[str]:
    return [*arguments, "--retry", "failed"] if arguments[0] == "sweep" else arguments
