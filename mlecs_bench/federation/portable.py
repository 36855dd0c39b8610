"""Recipes for other machines: of paths only those remain that can be found there."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from pathlib import Path
from typing import Any

from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import MessageError, UsageError
from mlecs_bench.federation.fleet import Recipe
from mlecs_bench.plan.plan import Plan, plan_from_json

PACKAGE = "package:"
"""What a path in an installed package begins with on its way; the package's name and the rest of the path follow."""


@dataclasses.dataclass(frozen=True)
class Order:
    """What a device on another machine is to build: plan, seed, and the key of the cell's record."""

    plan: Plan
    seed: int
    key: str

    @classmethod
    def of(cls, recipe: Recipe) -> Order:
        """Return what of a recipe holds on any machine."""
        return cls(dataclasses.replace(recipe.plan, data_dir=None), recipe.seed, recipe.key)

    def to_json(self) -> str:
        """Return the order as it travels."""
        return json.dumps({"plan": _departing(self.plan.to_values()), "seed": self.seed, "key": self.key})


def order_from_json(text: str, registry: Registry) -> Order:
    """Read what `Order.to_json` wrote.

    Raises PluginError where another plugin is installed here, UsageError for a package that is not here, MessageError
    for anything else.
    """
    try:
        values = json.loads(text)
        plan = json.dumps(_arriving(values["plan"]))
        return Order(plan_from_json(plan, registry), int(values["seed"]), str(values["key"]))
    except (ValueError, KeyError, TypeError) as error:
        raise MessageError(f"what the server orders cannot be read ({type(error).__name__}: {error})") from error


def _departing(value: Any) -> Any:
    """Return JSON values with paths in installed packages named by package."""
    if isinstance(value, dict):
        return {name: _departing(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_departing(each) for each in value]
    if not isinstance(value, str) or not value.startswith("/"):
        return value
    for name in [name for name in sys.modules if "." not in name]:
        spec = getattr(sys.modules[name], "__spec__", None)
        root = next(iter(getattr(spec, "submodule_search_locations", None) or ()), None)
        if root is not None and Path(value).is_relative_to(root):
            return f"{PACKAGE}{name}/{Path(value).relative_to(root).as_posix()}"
    return value


def _arriving(value: Any) -> Any:
    """Return JSON values with the paths that packages have here."""
    if isinstance(value, dict):
        return {name: _arriving(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_arriving(each) for each in value]
    if not isinstance(value, str) or not value.startswith(PACKAGE):
        return value
    name, _, rest = value.removeprefix(PACKAGE).partition("/")
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise UsageError(f"the plan needs the package '{name}', which is not installed here") from error
    return str(Path(next(iter(module.__path__))) / rest)
