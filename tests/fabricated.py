"""Stands in for `pip install -e PROJECT`: real metadata and a link to the module, in a folder of the import path.

Nothing is built and no index is asked, so a test needs no network; tox installs the same projects with pip.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path


def install(project: Path, site: Path) -> Path:
    """Make the distribution in `project` importable and visible from the folder `site`; return its dist-info."""
    declared = tomllib.loads((project / "pyproject.toml").read_text())
    head = declared["project"]
    contents = declared["tool"]["setuptools"]
    for name in [*(f"{module}.py" for module in contents.get("py-modules", [])), *contents.get("packages", [])]:
        (site / name).symlink_to((project / name).resolve())
    return write_metadata(site, head["name"], head["version"], head["entry-points"])


def write_metadata(site: Path, name: str, version: str, points: Mapping[str, Mapping[str, str]]) -> Path:
    """Write the dist-info of a distribution with entry points (group → name → target); return it."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [
        f"[{group}]\n" + "".join(f"{n} = {target}\n" for n, target in each.items()) for group, each in points.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return info


class Shell:
    """A shell whose `mlecs-bench` and `pytest` are those of this test run, and whose `pip` is `install` above.

    The working folder of one block of commands is that of the next, as at a terminal. `warm` is the socket of a warm
    interpreter (see warm.py), which runs `mlecs-bench` instead of a cold one.
    """

    def __init__(self, root: Path, warm: Path | None = None) -> None:
        self.site, self.cwd = root / "site", root / "home"
        self._bin, self._where = root / "bin", root / "where"
        for folder in (self.site, self.cwd, self._bin):
            folder.mkdir()
        python = ["-m"] if warm is None else ["-S", str(Path(__file__).with_name("warm.py")), str(warm)]
        self._program("mlecs-bench", *python, "mlecs_bench.cli.main")
        self._program("pytest", "-m", "pytest", "-p", "no:cacheprovider")
        self._program("pip", __file__, str(self.site))

    def _program(self, name: str, *arguments: str) -> None:
        path = self._bin / name
        path.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, *arguments])} "$@"\n')
        path.chmod(0o755)

    def run(self, commands: str) -> subprocess.CompletedProcess[str]:
        """Run a block of commands up to the first that fails; stdout holds what all of them printed."""
        script = f"set -eu\ntrap 'pwd > {shlex.quote(str(self._where))}' EXIT\n{commands}\n"
        env = {name: value for name, value in os.environ.items() if not name.startswith(("MLECS_BENCH", "COLUMNS"))}
        env |= {
            "PATH": os.pathsep.join([str(self._bin), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join([str(self.site), *(p for p in sys.path if p)]),
            "PYTHONDONTWRITEBYTECODE": "1",  # an edit within one second of the last is still read
            "OMP_NUM_THREADS": "1",
            "MLECS_BENCH_CACHE": str(self.site.parent / "cache"),
        }
        done = subprocess.run(
            ["bash", "-c", script], cwd=self.cwd, env=env, text=True, check=False, timeout=280,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip  # where it runs, and what comes back
        self.cwd = Path(self._where.read_text().strip())
        return done


def pip(arguments: Sequence[str]) -> str | None:
    """Do what `pip install -e .` in the working folder does, apart from its dependencies; return what is wrong."""
    site, *command = arguments
    if command not in (["install", "-e", "."], ["install", "-e", ".[test]"]):
        return f"this stand-in for pip does not know 'pip {shlex.join(command)}'"
    install(Path.cwd(), Path(site))
    return None


if __name__ == "__main__":
    sys.exit(pip(sys.argv[1:]))
