"""What the light commands import, seen from a child interpreter."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import pytest

LIGHT = {"mlecs_bench", "click", "pluggy"}
"""Packages outside the standard library that `--help` and `list` may import."""
HEAVY = {"torch", "transformers", "numpy", "pandas", "rich", "datasets", "scipy", "yaml"}
MAX_SECONDS = 0.4
REPORT = "json.dump(sorted({name.partition('.')[0] for name in sys.modules}), sys.stderr)"


def child(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def imported_by(statement: str) -> set[str]:
    """Return the top-level packages that a child interpreter holds after `statement`."""
    found = json.loads(child(f"import json, sys\n{statement}\n{REPORT}").stderr)
    return {name for name in found if name not in sys.stdlib_module_names}


@pytest.fixture(scope="module")
def always():
    """What any interpreter of this installation imports at its start, such as the finder of an editable install."""
    return imported_by("")


def command(*arguments: str) -> str:
    return f"from mlecs_bench.cli.main import main\nassert main({list(arguments)!r}) == 0"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("--version",),
        ("list",),
        ("list", "--json"),
        ("run", "--help"),
        ("doctor", "--help"),
        ("check", "--help"),
        ("new-plugin", "--help"),
    ],
)
def test_light_commands_import_nothing_heavy(always, arguments):
    assert imported_by(command(*arguments)) - always <= LIGHT


def test_the_report_command_imports_nothing_heavy_to_show_its_help(always):
    assert not (imported_by(command("report", "--help")) - always) & HEAVY


def test_the_check_sees_a_heavy_import(always):
    assert {"numpy"} <= imported_by("import numpy") - always


@pytest.mark.parametrize("module", ["registry", "options", "spec", "errors", "hookspecs", "seeds"])
def test_light_modules_import_nothing_heavy(always, module):
    assert imported_by(f"import mlecs_bench.{module}") - always <= LIGHT


@pytest.mark.parametrize("arguments", [["--help"], ["list"]])
def test_light_commands_answer_at_once(arguments):
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        child(command(*arguments))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # Processor time of the quickest of three: neither depends on what else the machine is doing.
    assert min(seconds() for _ in range(3)) < MAX_SECONDS


def test_a_run_speaks_before_the_heavy_packages_are_imported():
    arguments = ["run", "--algo", "standalone", "--dataset", "vast", "--rho", "0.5", "--seeds", "3"]
    code = f"""
import sys
class Spy:
    def find_spec(self, name, path=None, target=None):
        if name in {sorted(HEAVY)!r}:
            sys.stderr.write("HEAVY\\n")
            sys.exit(0)
sys.meta_path.insert(0, Spy())
from mlecs_bench.cli.main import main
main({arguments!r})
"""
    lines = child(code).stderr.splitlines()
    assert lines == ["standalone on vast, rho 0.5, seeds 3", "HEAVY"]
