"""Recipes for other machines: of paths only those remain that can be found there."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from pathlib import Path
from typing import Any

from mlecs_bench.data.exported import ExportedSamples, cut_digest
from mlecs_bench.data.samples import Samples
from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import DataError, MessageError, UsageError
from mlecs_bench.federation.build import lay_out
from mlecs_bench.federation.fleet import Recipe, open_samples
from mlecs_bench.plan.plan import Plan, plan_from_json

PACKAGE = "package:"
"""What a path in an installed package begins with on its way; the package's name and the rest of the path follow."""


@dataclasses.dataclass(frozen=True)
class Order:
    """What a device on another machine is to build: plan, seed, and the key of the cell's record.

    `cut` is the digest of who has which samples, as the server cuts them.
    """

    plan: Plan
    seed: int
    key: str
    cut: str

    @classmethod
    def of(cls, recipe: Recipe) -> Order:
        """Return what of a recipe holds on any machine."""
        layout = lay_out(recipe.plan, recipe.seed, open_samples(recipe.data))
        plan = dataclasses.replace(recipe.plan, data_dir=None)
        return cls(plan, recipe.seed, recipe.key, cut_digest(layout.partition, recipe.seed))

    def to_json(self) -> str:
        """Return the order as it travels."""
        own = {"seed": self.seed, "key": self.key, "cut": self.cut}
        return json.dumps({"plan": _departing(self.plan.to_values()), **own})

    def check(self, samples: Samples) -> None:
        """Raise DataError for data that were exported for another seed or another cut."""
        if isinstance(samples, ExportedSamples):
            own = cut_digest(samples.export.cut, samples.export.seed)
            if own != self.cut:
                raise DataError(
                    f"the data were exported for a run with the cut {own[:12]}, the server's is {self.cut[:12]}; "
                    "export them for this run and seed"
                )


def order_from_json(text: str, registry: Registry) -> Order:
    """Read what `Order.to_json` wrote.

    Raises PluginError where another plugin is installed here, UsageError for a package that is not here, MessageError
    for anything else.
    """
    try:
        values = json.loads(text)
        plan = json.dumps(_arriving(values["plan"]))
        return Order(plan_from_json(plan, registry), int(values["seed"]), str(values["key"]), str(values["cut"]))
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
