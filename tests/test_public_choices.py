"""Every closed list of values in the public API: exported, explained, and nothing else is taken.

The lists are found by reading the signatures of all public names, so a new one fails here until it has a sentence, a
place in `mlecs_bench.api`, and an example of a call that takes it.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, get_args, get_origin, is_typeddict

import pytest
import torch

import mlecs_bench
from hand_made import make_record
from mlecs_bench import api
from mlecs_bench.models.unified import UnifiedModel
from mlecs_bench.testing import toy

WRONG = "fo-o"


@cache
def names_of(module: str) -> dict[str, Any]:
    """Return the names of a module, with those that it imports for type checkers alone."""
    source = importlib.import_module(module)
    found = dict(vars(source))
    for node in ast.walk(ast.parse(Path(source.__file__).read_text())):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("mlecs_bench"):
            home = importlib.import_module(node.module)
            found |= {alias.asname or alias.name: getattr(home, alias.name) for alias in node.names}
    return found


def is_ours(value: Any) -> bool:
    return value.__module__.startswith("mlecs_bench")


def signatures(value: Any) -> list[tuple[str, dict[str, str], str]]:
    """Return the annotations of a function, or of the fields and methods of a class, and where they are written."""
    if inspect.isclass(value):
        fields = [("", dict(vars(c).get("__annotations__", {})), c.__module__) for c in value.__mro__ if is_ours(c)]
        methods = [
            m for n, m in inspect.getmembers(value, inspect.isfunction) if m.__name__ == n.lstrip("_") and is_ours(m)
        ]
        return fields + [(f".{m.__name__}", m.__annotations__, m.__module__) for m in methods]
    return [("", value.__annotations__, value.__module__)] if inspect.isfunction(value) and is_ours(value) else []


@cache
def choices() -> dict[str, str]:
    """Return the names of the Literals of every parameter of the public API, such as Exchange.direction."""
    found = {}
    for name in api.__all__:
        if is_typeddict(getattr(api, name)):  # a dict, whose values are judged where it is used
            continue
        if name in mlecs_bench.FUNCTIONS:  # the commands as functions refuse as these do, with a UsageError
            continue
        for method, hints, module in signatures(getattr(api, name)):
            for parameter, hint in hints.items():
                if parameter == "return" or re.search(r"Callable\[|Mapping\[", str(hint)):  # made by the harness
                    continue
                words = re.findall(r"\w+", str(hint))
                literals = [word for word in words if get_origin(names_of(module).get(word)) is Literal]
                literals += [hint] if "Literal[" in str(hint) else []
                for literal in literals:
                    found[f"{name}{method}.{parameter}"] = literal
    return found


def example(cls: type, **values: Any) -> Any:
    """Return a call that makes an instance of a class with one field changed."""
    return lambda name, value: cls(**{**values, name: value})


def of(function: Any, *arguments: Any, **named: Any) -> Any:
    """Return a call of a function with one named argument changed."""
    return lambda name, value: function(*arguments, **{**named, name: value})


@cache
def taking() -> dict[str, Any]:
    """Return a call for every public name that takes one of several values: call(parameter, value)."""
    row = api.Row("g", {}, (), {}, None, {})
    plain_row = SimpleNamespace(identity=make_record()["identity"], records=[make_record()])
    logits = torch.zeros(1, 1, 4)
    pairs = api.PairIndex.of([[(0, 0)]])
    tokenizer = toy.byte_level_tokenizer(toy.process_folder() / "choices")
    plan = inspect.signature(api.Plan).parameters
    profile = {f: getattr(toy.profile(), f) for f in inspect.signature(api.Profile).parameters}
    return {
        "Claim": example(api.Claim, where="", claim="", printed="", measured="", verdict="undecided", reason=""),
        "Control": example(api.Control, role="floor", label="", says=""),
        "DatasetInfo": example(
            api.DatasetInfo, title="", summary="", task="generation", modalities=(), prepare=None, metrics=()
        ),
        "Exchange": example(api.Exchange, kind="lora", direction="both", meaning="", size=""),
        "FleetInfo": example(api.FleetInfo, title="", summary="", make=None),
        "Manifest": example(
            api.Manifest, name="", version="", view="", synthetic=True, task="generation", modalities=(), prompt="",
            labels=(), max_new_tokens=1, n_samples=0, digest="", licence="",
        ),
        "MetricInfo": example(api.MetricInfo, title="", summary="", make=None),
        "Modality": example(api.Modality, name="m", shape=(1,), dtype="float32", encoding="vector"),
        "Needs": lambda name, value: api.Needs(**{name: (value,)}),
        "Number": example(api.Number, value=1.0),
        "Plan": example(api.Plan, **{**dict.fromkeys(plan), "rule": "paper", "evaluate": "last", "answer": "generate"}),
        "Profile": example(api.Profile, **profile),
        "Row.cell": of(row.cell, eval_point="local", metric="f1", stat="avg"),
        "ScoreColumn": example(api.ScoreColumn, data=None, metric="f1", stat="avg"),
        "ServerOptimiser": example(api.ServerOptimiser, rule="fedadam"),
        "Stage": example(api.Stage, name="s", budget="private", round=1, steps=1, models=()),
        "StudyInfo": lambda name, value: api.StudyInfo("", "", **{name: (value,)}),
        "TransferOptions": example(api.TransferOptions),
        "WorkersInfo": example(api.WorkersInfo, title="", summary="", make=None),
        "metric": of(api.metric, "m", per="sample"),
        "pair_divergences": of(api.pair_divergences, logits, logits, pairs, pool="none", k=1, vocabulary_map=None),
        "score_caption": lambda _, value: api.score_caption([plain_row], SimpleNamespace(about="a"), [value]),
        "transfer_loss": of(api.transfer_loss, torch.zeros(2), 1, reduction="mean"),
        "vocabulary_map": of(api.vocabulary_map, tokenizer, tokenizer),
    }  # fmt: skip  # a name, a call


@pytest.mark.usefixtures("unchecked")  # the tests' own checker of types would refuse it first
def test_every_choice_is_taken_whole_and_nothing_else_is():
    assert len(choices()) > 20
    for place, literal in choices().items():
        call, _, parameter = place.rpartition(".")
        assert call in taking(), f"give an example of a call of {call}, whose {parameter} is a {literal}"
        known = get_args(getattr(api, literal))
        for value in known:
            taking()[call](parameter, value)
        with pytest.raises(ValueError, match="must be one of") as caught:
            taking()[call](parameter, WRONG)
        assert WRONG in str(caught.value)
        assert all(str(value) in str(caught.value) for value in known), caught.value


def test_every_choice_is_exported_and_explained_where_it_is_defined():
    for place, literal in choices().items():
        assert literal in api.__all__, f"{place}: name its values in an alias, and export that"
        module = importlib.import_module(f"mlecs_bench.{api._HOME_OF[literal]}")
        body = ast.parse(Path(module.__file__).read_text()).body
        where = next(i for i, node in enumerate(body) if isinstance(node, ast.Assign) and node.targets[0].id == literal)
        below = body[where + 1]
        assert isinstance(below, ast.Expr), f"explain {literal} in a text below it"
        assert isinstance(below.value.value, str), literal


def test_a_part_that_a_model_does_not_have_is_refused_with_those_that_it_has():
    model = object.__new__(UnifiedModel)
    model.name, model.parts = "d00", ("encoder", "lora")
    for call in (model.part, lambda part: api.Stage("s", "private", 1, 1, [(model, (part,))])):
        with pytest.raises(ValueError, match=f"d00 has no part '{WRONG}'; its parts are encoder, lora"):
            call(WRONG)


def test_kinds_of_events_and_refusals_are_closed_lists_too():
    for make in (api.Event, lambda kind: api.Refusal(kind, "no")):
        with pytest.raises(ValueError, match="kind"):
            make(WRONG)


def test_a_budget_of_steps_has_the_fields_that_a_stage_may_name():
    from mlecs_bench.plan.training import Budget

    budget = Budget(1, 2, 3, 4, 5)
    assert [budget.allowed(name, 1) for name in get_args(api.BudgetName)] == [1, 2, 5, 3, 4]


def test_part_of_a_report_is_one_that_a_study_can_replace():
    from mlecs_bench.report.build import OWN_SECTIONS

    assert tuple(OWN_SECTIONS) == get_args(api.ReportPart)
