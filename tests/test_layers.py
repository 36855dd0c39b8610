"""Folders are layers: the harness imports only from the floors below, and plugins import only the public names."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
FLOORS = (
    {"errors"},
    {"seeds", "files", "machine"},
    {"data"},
    {"doors"},
    {"models"},
    {"blocks", "metrics"},
    {"plan"},
    {"federation"},
    {"records"},
    {"execution"},
    {"report"},
    {"session"},
    {"testing", "scaffold"},
    {"cli"},
    {"api"},
    {"__main__"},
)
"""Folders and files of mlecs_bench, from the ground up: each imports only itself and what is on floors below."""
HARNESS, PUBLIC = "mlecs_bench", "mlecs_bench.api"
GUESTS = ("mlecs_plugins", "mlecs_baselines")
PACKAGES_IN = {"mlecs_plugins": 2}
"""How many parts of a dotted name make up one plugin, where it is not the first alone."""
SHARED = {("mlecs_plugins.profiles", "mlecs_plugins.paper")}
"""Which plugins may import from which others: a profile departs from the paper's."""


@cache
def parsed(source: str) -> ast.Module:
    return ast.parse(source)


def imports(source: str, *, deferred: bool = True, type_checking: bool = False) -> Iterator[str]:
    """Yield the dotted names that a source imports; `deferred` also those inside functions."""
    pending: list[ast.AST] = [parsed(source)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING") and not type_checking:
            pending += node.orelse
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not deferred:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            home = "." * node.level + (f"{node.module}." if node.module else "")
            yield from (home + alias.name for alias in node.names)
        pending += ast.iter_child_nodes(node)


def floor(part: str) -> int:
    """Return the number of a floor; names that are not there are inside `mlecs_bench/__init__.py`, below them all."""
    return next((number for number, parts in enumerate(FLOORS) if part in parts), -1)


def part_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def upward(sources: Mapping[str, str]) -> list[str]:
    """Return what modules (name → source) import from above, from beside, from a plugin or relatively."""
    wrong = []
    for module, source in sources.items():
        own = part_of(module)
        assert not own or floor(own) >= 0, f"{module} stands on no floor yet; give it one in {Path(__file__).name}"
        for name in imports(source):
            top, part = name.split(".")[0], part_of(name)
            above = floor(part) > floor(own) or (floor(part) == floor(own) and part != own)
            if top in ("", *GUESTS) or (top == HARNESS and above):
                wrong.append(f"{module} imports {name}")
    return wrong


def circle(sources: Mapping[str, str]) -> list[str]:
    """Return modules (name → source) that import each other in a circle when they are imported; [] for none."""
    graph = {module: set() for module in sources}
    for module, source in sources.items():
        for name in imports(source, deferred=False):
            home = name if name in sources else name.rpartition(".")[0]
            graph[module] |= {home} & (sources.keys() - {module})
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def plugin_of(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[: PACKAGES_IN.get(parts[0], 1)])


def private(sources: Mapping[str, str]) -> list[str]:
    """Return what plugins (module → source) import besides the public names and their own package."""
    wrong = []
    for module, source in sources.items():
        own = plugin_of(module)
        for name in imports(source, type_checking=True):
            ours = name.split(".")[0] in (HARNESS, *GUESTS) or name.startswith("..")
            public = name == PUBLIC or name.startswith(f"{PUBLIC}.")
            if ours and not public and plugin_of(name) != own and (own, plugin_of(name)) not in SHARED:
                wrong.append(f"{module} imports {name}")
    return wrong


def sources_in(root: Path, pattern: str = "**/*.py") -> dict[str, str]:
    """Return the modules below a folder of the import path by dotted name."""
    names = {path: ".".join(path.relative_to(root).with_suffix("").parts) for path in sorted(root.glob(pattern))}
    return {name.removesuffix(".__init__"): path.read_text(encoding="utf-8") for path, name in names.items()}


def test_the_harness_imports_only_from_the_floors_below_and_in_no_circle():
    sources = sources_in(REPOSITORY, f"{HARNESS}/**/*.py")
    assert len(sources) > 100
    assert upward(sources) == []
    assert circle(sources) == []


def test_plugins_import_only_the_public_names_and_their_own_package():
    plugins = REPOSITORY / "plugins"
    sources = sources_in(REPOSITORY / "baselines", "mlecs_baselines/**/*.py")
    sources |= sources_in(plugins, "mlecs_plugins/**/*.py")
    for example in ("example", "example_dataset"):
        sources |= sources_in(plugins / example, "*.py")
    assert len(sources) > 30
    assert private(sources) == []


TYPES_ONLY = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    {0}\nelse:\n    {1}"


def test_a_wrong_import_is_found_wherever_it_stands():
    def found(module: str, source: str) -> bool:
        return bool(upward({module: source}))

    for wrong in (
        "from mlecs_bench.cli.main import main",
        "from mlecs_bench import execution",
        "import mlecs_bench.records.results",
        "from mlecs_bench.api import Message",
        "def f():\n    from mlecs_bench.federation.engine import Cell",
        "from mlecs_plugins.ml_ecs import plugin",
        "import mlecs_baselines",
        "from .cli import main",
        TYPES_ONLY.format("pass", "import mlecs_bench.cli"),
    ):
        assert found("mlecs_bench.plan.plan", wrong), wrong
    for right in (
        "from mlecs_bench.doors.registry import Registry",
        "from mlecs_bench.plan.spec import RunSpec",
        "from mlecs_bench import __version__",
        TYPES_ONLY.format("from mlecs_bench.cli.main import main", "import torch"),
    ):
        assert not found("mlecs_bench.plan.plan", right), right
    assert not found("mlecs_bench.blocks.gram", "import mlecs_bench.models.unified")
    assert found("mlecs_bench.blocks.gram", "import mlecs_bench.metrics.rouge")
    assert found("mlecs_bench.models.unified", "import mlecs_bench.metrics.rouge")
    assert found("mlecs_bench.scaffold", "import mlecs_bench.testing.toy")
    assert found("mlecs_bench", "import mlecs_bench.errors")
    with pytest.raises(AssertionError, match="stands on no floor yet"):
        found("mlecs_bench.stray", "")

    circular = {"m.a": "from m.b import x", "m.b": "import m.c", "m.c": "def f():\n    import m.a", "m.d": "import m.a"}
    assert circle(circular) == []
    assert set(circle({**circular, "m.c": "from m import a"})) == {"m.a", "m.b", "m.c"}

    for module, name, allowed in (
        ("mlecs_plugins.ml_ecs.amt", "mlecs_bench.api.Message", True),
        ("mlecs_plugins.ml_ecs.amt", "mlecs_plugins.ml_ecs.options", True),
        ("mlecs_plugins.ml_ecs.amt", "mlecs_plugins.datasets.vast", False),
        ("mlecs_plugins.profiles.small", "mlecs_plugins.paper.profile", True),
        ("mlecs_plugins.paper.profile", "mlecs_plugins.profiles.small", False),
        ("mlecs_plugins.ml_ecs.amt", "mlecs_bench.federation.messages", False),
        ("mlecs_plugins.ml_ecs.amt", "mlecs_bench", False),
        ("mlecs_plugins.datasets.vast.words", "mlecs_plugins.datasets.user_files", True),
        ("mlecs_baselines.fedmllm", "mlecs_baselines.standalone", True),
        ("mlecs_fedprox", "mlecs_baselines.standalone", False),
    ):
        for source in (f"import {name}", f"def f():\n    import {name}", TYPES_ONLY.format(f"import {name}", "pass")):
            assert (private({module: source}) == []) == allowed, (module, name)
    assert private({"mlecs_plugins.datasets.vast.words": "from . import notes\nfrom ..towers import x"}) == [
        "mlecs_plugins.datasets.vast.words imports ..towers.x"
    ]
