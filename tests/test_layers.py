"""Every module imports only to its left in the order of layers, and plugins import only the public names."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

import mlecs_bench

LAYERS = (
    "errors seeds options spec messages data link partition blocks models metrics parties hookspecs api registry "
    "engine results protocol testing report cli"
)
ORDER = LAYERS.split()
BELONGS_TO = {
    "profiles": "models",
    "bertscore": "metrics",
    "checkpoint": "engine",
    "communication": "engine",
    "evaluation": "engine",
    "federation": "engine",
    "provenance": "results",
    "structure": "engine",
    "scaffold": "cli",
    "cell": "protocol",
    "references": "protocol",
    "counting": "protocol",
    "preflight": "protocol",
    "jobs": "protocol",
    "workers": "protocol",
    "sweep": "protocol",
    "failures": "results",
}
PACKAGE = Path(mlecs_bench.__file__).parent
REPOSITORY = Path(__file__).resolve().parent.parent


def imported(source: str, *, type_checking: bool) -> Iterator[str]:
    """Yield the dotted names that a source imports; imports only for type checkers count when asked for."""
    pending: list[ast.AST] = [ast.parse(source)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING") and not type_checking:
            pending += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)
        pending += ast.iter_child_nodes(node)


def layer(module: str) -> int | None:
    """Return the rank of a top-level module of mlecs_bench; None for what is no module of it."""
    name = BELONGS_TO.get(module, module)
    return ORDER.index(name) if name in ORDER else None


def wrong_imports(module: str, source: str) -> list[str]:
    """Return what `module` (of mlecs_bench) imports from its right, from plugins, or relatively."""
    own, wrong = layer(module), []
    assert own is not None, f"mlecs_bench.{module} has no layer yet; give it one in {Path(__file__).name}"
    for name in imported(source, type_checking=False):
        top, *rest = name.split(".")
        if top in ("", "mlecs_plugins", "mlecs_baselines"):
            wrong.append(name)
        elif top == "mlecs_bench" and rest:
            rank = layer(rest[0])
            if rank is not None and rank > own:
                wrong.append(name)
    return wrong


def modules() -> list[tuple[str, Path]]:
    """Return the top-level name and the path of every module of the harness."""
    paths = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")
    return [(path.relative_to(PACKAGE).parts[0].removesuffix(".py"), path) for path in paths]


@pytest.mark.parametrize(("module", "path"), [pytest.param(m, p, id=str(p.relative_to(PACKAGE))) for m, p in modules()])
def test_module_imports_only_to_its_left(module, path):
    assert wrong_imports(module, path.read_text(encoding="utf-8")) == []


def test_the_package_itself_imports_nothing_of_the_harness():
    source = (PACKAGE / "__init__.py").read_text(encoding="utf-8")
    assert [name for name in imported(source, type_checking=True) if name.startswith("mlecs")] == []


def plugin_files() -> list[tuple[str, Path]]:
    """Return package name and path of every module of the first-party plugins, and of the example plugins."""
    found = []
    for package in ("mlecs_plugins", "mlecs_baselines"):
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        found += [(package, path) for path in sorted(Path(spec.origin).parent.rglob("*.py"))]
    examples = [REPOSITORY / "plugins" / name for name in ("example", "example_dataset")]
    return found + [(p.stem, p) for folder in examples for p in sorted(folder.glob("*.py"))]


def not_public(package: str, source: str) -> list[str]:
    """Return what a plugin imports from the harness besides mlecs_bench.api, or from another plugin package."""
    ours = ("mlecs_bench", "mlecs_plugins", "mlecs_baselines")
    names = [name for name in imported(source, type_checking=True) if name.split(".")[0] in ours]
    return [n for n in names if n.split(".")[0] != package and n != "mlecs_bench.api" and "mlecs_bench.api." not in n]


@pytest.mark.parametrize(
    ("package", "path"), [pytest.param(n, p, id=f"{n}/{p.parent.name}/{p.name}") for n, p in plugin_files()]
)
def test_plugin_imports_only_the_public_names(package, path):
    assert not_public(package, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "from mlecs_bench.cli.main import main",
        "from mlecs_bench import protocol",
        "import mlecs_bench.doors.registry",
        "def f():\n    from mlecs_bench.federation.engine import Cell",
        "from mlecs_plugins.ml_ecs import plugin",
        "import mlecs_baselines",
        "from .cli import main",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    pass\nelse:\n    import mlecs_bench.cli",
    ],
)
def test_an_import_to_the_right_is_found(source):
    assert len(wrong_imports("link", source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "from mlecs_bench.federation.messages import Message",
        "from mlecs_bench.federation.link import Ledger",
        "from mlecs_bench import __version__",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from mlecs_bench.cli.main import main",
        "import torch",
    ],
)
def test_an_import_to_the_left_is_allowed(source):
    assert wrong_imports("link", source) == []


def test_a_module_without_a_layer_is_refused():
    with pytest.raises(AssertionError, match="has no layer yet"):
        wrong_imports("stray", "")


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("from mlecs_bench.api import Message", []),
        ("from mlecs_plugins.ml_ecs.options import Options", []),
        ("from mlecs_bench.federation.messages import Message", ["mlecs_bench.federation.messages.Message"]),
        ("import mlecs_bench", ["mlecs_bench"]),
        ("def f():\n    from mlecs_baselines.standalone import x", ["mlecs_baselines.standalone.x"]),
    ],
)
def test_a_private_import_of_a_plugin_is_found(source, wrong):
    assert not_public("mlecs_plugins", source) == wrong
