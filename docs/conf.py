"""How Sphinx builds these pages, with the API reference made from docstrings. Nothing comes from the network."""

from __future__ import annotations

import importlib
import inspect
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sphinx.ext.autodoc.mock import mock

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # the docstrings of this checkout, whatever is installed

project = "mlecs-bench"
release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
html_show_copyright = False

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"{project} {release}"
myst_heading_anchors = 3

autodoc_mock_imports = ["datasets", "jaxtyping", "numpy", "peft", "pyarrow", "safetensors", "torch", "transformers"]
"""What docstrings do not need: a build takes seconds and no gigabytes."""
add_module_names = False  # a plugin writes Device, not mlecs_bench.api.Device
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "inherited-members": "object, BaseException, Exception, Protocol, dict"}
default_role = "code"  # docstrings mark code with one backtick, as Markdown does

API_MARKER = "<!-- every name of mlecs_bench.api -->"


def setup(app: Sphinx) -> None:
    """Fill in the API page when it is read."""
    app.connect("source-read", list_api)


def list_api(_: Sphinx, page: str, source: list[str]) -> None:
    """Replace the marker on the API page by a section for each module that is home to public names."""
    if page == "api":
        with mock(autodoc_mock_imports):
            api = importlib.import_module("mlecs_bench.api")
            homes = {home: [name for name in names if name in api.__all__] for home, names in api._HOMES.items()}
            sections = [section(f"mlecs_bench.{home}", names) for home, names in homes.items()]
        source[0] = source[0].replace(API_MARKER, "\n".join(sections))


def section(home: str, names: list[str]) -> str:
    """Return the section of one module: what it is for, and its public names with their docstrings."""
    module = importlib.import_module(home)
    about = inspect.getdoc(module) or ""
    return "\n".join([f"## {home.removeprefix('mlecs_bench.')}", "", about.split("\n\n")[0], "", *map(entry, names)])


def entry(name: str) -> str:
    """Return the directive that documents one name as it is imported: from `mlecs_bench.api`."""
    api = importlib.import_module("mlecs_bench.api")
    value = getattr(api, name)
    if inspect.isclass(value):
        directive = f"autoclass:: mlecs_bench.api.{name}"
    elif inspect.isroutine(value):
        directive = f"autofunction:: mlecs_bench.api.{name}{settings(value)}"
    else:  # the text below a constant is found only in the module that defines it
        directive = f"autodata:: mlecs_bench.{api._HOME_OF[name]}.{name}"
    return f"```{{eval-rst}}\n.. {directive}\n```\n"


def settings(function: Callable[..., Any]) -> str:
    """Return the parameters of a function that takes settings, which its source does not name; "" for any other."""
    if not hasattr(function, "__signature__"):
        return ""
    parameters = inspect.signature(function).parameters.values()
    named = [f"{parameter.name}={parameter.default!r}" for parameter in parameters]
    first = sum(parameter.kind is not inspect.Parameter.KEYWORD_ONLY for parameter in parameters)
    return f"({', '.join([*named[:first], '*', *named[first:]])})"
