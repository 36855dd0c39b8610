"""What is imported for light work, seen from a child interpreter, and when a run first speaks."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

LIGHT = {"mlecs_bench", "click", "pluggy"}
"""Packages outside the standard library that help texts, lists and refusals of unknown names may import."""
HEAVY = {"torch", "transformers", "numpy", "pandas", "rich", "datasets", "scipy", "yaml", "av"}
MAX_SECONDS = 0.4
COMMANDS = """
from mlecs_bench.cli.main import COMMANDS, main
sys.stderr, kept = open("/dev/null", "w"), sys.stderr
for arguments in ["--help"], ["--version"], ["list"], ["list", "--json"], *([name, "--help"] for name in COMMANDS):
    assert main(arguments) == 0, arguments
assert main(["data", "verify", "--help"]) == 0
assert main(["check", "unheard-of"]) == main(["show", "unheard-of"]) == 2
sys.stderr = kept
"""
DOORS = """
import mlecs_bench.doors.events, mlecs_bench.plan.resolve, mlecs_bench.seeds
from mlecs_bench.doors.registry import Registry
registry = Registry.installed()
for kind in "dataset", "profile":
    for entry in registry.entries(kind):
        registry.load(kind, entry.name)
"""


def child(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def imported_by(statement: str) -> set[str]:
    """Return the top-level packages that a child interpreter holds after `statement`, and not before."""
    code = f"import json, sys\nbefore = set(sys.modules)\n{statement}\n"
    code += "json.dump(sorted({n.partition('.')[0] for n in set(sys.modules) - before}), sys.stderr)"
    return set(json.loads(child(code).stderr)) - sys.stdlib_module_names


def test_light_commands_import_nothing_heavy_and_answer_at_once():
    assert imported_by("import numpy") >= {"numpy"}  # the check sees a heavy import
    assert imported_by(COMMANDS) <= LIGHT

    def seconds(argument: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        child(f"from mlecs_bench.cli.main import main\nassert main([{argument!r}]) == 0")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    for argument in ("--help", "list"):
        # Processor time of the quickest of three: neither depends on what else the machine is doing.
        assert min(seconds(argument) for _ in range(3)) < MAX_SECONDS


def test_the_package_itself_imports_nothing_but_names_its_functions():
    assert imported_by("import mlecs_bench\nassert 'run' in dir(mlecs_bench)") == {"mlecs_bench"}
    assert imported_by("from mlecs_bench import load_records, run, sweep") <= LIGHT


def test_doors_cards_and_public_names_are_had_without_torch():
    assert imported_by(DOORS) <= LIGHT | {"mlecs_plugins"}
    assert imported_by("from mlecs_bench.api import AlgorithmInfo, Event, hookimpl, option") <= LIGHT
    assert imported_by("import mlecs_bench.api\nassert 'Message' in dir(mlecs_bench.api)") <= LIGHT


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
    assert lines == ["standalone on vast, rho 0.5, seeds 3; packages are being loaded", "HEAVY"]
