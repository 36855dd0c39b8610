"""Checks of what a plugin says about itself: card, options, needs, and that its steps can be called."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Sequence
from typing import Any

from mlecs_bench.blocks.supervised import ALL_PARTS
from mlecs_bench.doors.hookspecs import Control, Exchange, Needs
from mlecs_bench.doors.options import build_options, option_rows, plain
from mlecs_bench.testing.steps import STEPS
from mlecs_bench.testing.trial import Subject
from mlecs_bench.testing.verdict import fail

STEP_ARGUMENTS = {"broadcast": 2, "receive": 3, "local_update": 2, "aggregate": 3}


def card(subject: Subject) -> None:
    """The card has title, summary, paper (or "none") and a complete row for every kind of tensor that is sent.

    Where it says that the algorithm is a control, it says which and what for.
    """
    info = subject.info
    _check_control(info.control(subject.options))
    check_texts({"title": info.title, "summary": info.summary, "paper": info.paper})
    check_sentences(
        {"reproduced": info.reproduced, "readings": info.readings, "deviations": info.deviations}, "AlgorithmInfo"
    )
    for exchange in info.exchanges:
        check_exchange(exchange)
    pairs = [(e.kind, way) for e in info.exchanges for way in directions_of(e)]
    twice = next((pair for pair in pairs if pairs.count(pair) > 1), None)
    if twice:
        fail("a kind has one row per direction", f"'{twice[0]}' {twice[1]} has more", "merge the rows of the card")


def _check_control(control: object) -> None:
    if control is None:
        return
    if not isinstance(control, Control):
        fail("control(options) returns a Control or None", f"it returned {control!r}", "return None for a rival")
    check_texts({"label": control.label, "says": control.says})


def check_texts(texts: dict[str, object]) -> None:
    """Raise CheckFailed unless every text of a card is one line that is not empty."""
    for name, text in texts.items():
        if not isinstance(text, str) or not text.strip() or "\n" in text:
            advice = 'write "none" if there is no paper' if name == "paper" else "write one line"
            fail(f"the card needs its '{name}' in one line", f"it is {text!r}", advice)


def check_sentences(fields: dict[str, Any], where: str) -> None:
    """Raise CheckFailed unless every field is a sequence of texts; a text alone would count as its letters."""
    for name, sentences in fields.items():
        well_formed = isinstance(sentences, Sequence) and not isinstance(sentences, str)
        if not well_formed or not all(isinstance(s, str) and s.strip() for s in sentences):
            fail(f"'{name}' of the card is a tuple of texts", f"it is {sentences!r}", f"pass a tuple to {where}")


def check_exchange(exchange: Exchange) -> None:
    """Raise CheckFailed unless a row of the card is complete."""
    wanted = "every exchange has kind, direction, meaning and size"
    if not exchange.kind or "/" in exchange.kind:
        fail(wanted, f"its kind is '{exchange.kind}'", "give what stands before the first slash of the tensors' names")
    if not exchange.meaning.strip() or not exchange.size.strip():
        fail(wanted, f"'{exchange.kind}' lacks meaning or size", "say what is sent and how many numbers it has")


def directions_of(exchange: Exchange) -> tuple[str, ...]:
    """Return the directions of a row, "both" as two."""
    return ("down", "up") if exchange.direction == "both" else (exchange.direction,)


def options(subject: Subject) -> None:
    """Every option has help and source; defaults and given values survive JSON and the command line."""
    check_options(subject.info.options, subject.options)
    subject.build()


def check_options(cls: type[Any], given: Any) -> None:
    """Raise CheckFailed unless an options class can be shown, recorded and typed."""
    name = cls.__name__
    if not getattr(cls, "__dataclass_params__").frozen:  # noqa: B009  # set by dataclass, unknown to type checkers
        fail("options are frozen", f"{name} is not", "decorate it with @dataclass(frozen=True)")
    for field in dataclasses.fields(cls):
        missing = [key for key in ("help", "source") if not str(field.metadata.get(key, "")).strip()]
        if missing:
            advice = 'declare it as option(default, help="…", source="…")'
            fail(
                "every option says what it does and where its default is from",
                f"'{field.name}' lacks {missing[0]}",
                advice,
            )
    for values in (cls(), given):
        again = build_options(cls, json.loads(json.dumps(plain(values), allow_nan=False)), name)
        expect_equal(values, again, "written to JSON and read again")
    typed = {row["name"]: row["default"] for row in option_rows(cls)}
    expect_equal(cls(), build_options(cls, typed, name), "typed as -o name=value as the card shows them")


def expect_equal(values: Any, again: Any, how: str) -> None:
    """Raise CheckFailed naming the first option that changed."""
    for field in dataclasses.fields(values):
        before, after = getattr(values, field.name), getattr(again, field.name)
        if before != after:
            happened = f"'{field.name}' was {before!r} and is {after!r}"
            fail(f"options are the same when {how}", happened, "annotate it with a type that mlecs-bench can parse")


def needs(subject: Subject) -> None:
    """What the algorithm says it needs of a federation is well formed."""
    given = subject.needs
    wanted = "needs(options) returns a Needs"
    if not isinstance(given, Needs):
        fail(wanted, f"it returned {type(given).__name__}", "return mlecs_bench.api.Needs(…)")
    if isinstance(given.same, str):
        fail("Needs.same is a tuple of parts", f"it is {given.same!r}", f"choose of {', '.join(ALL_PARTS)}")
    if not all(isinstance(rank, int) and rank > 0 for rank in given.ranks):
        fail("Needs.ranks are whole numbers above 0", f"they are {given.ranks!r}", "leave it empty for the profile's")
    if not isinstance(given.setup_steps, int) or given.setup_steps < 0:
        fail("Needs.setup_steps is a whole number", f"it is {given.setup_steps!r}", "use 0 for none")
    if "\n" in given.prompt_suffix:
        fail("Needs.prompt_suffix is one line", f"it is {given.prompt_suffix!r}", "write one sentence")


def four_steps(subject: Subject) -> None:
    """The algorithm has broadcast, receive, local_update and aggregate, with the documented arguments."""
    algorithm = subject.build()
    for name in STEPS:
        step = getattr(algorithm, name, None)
        if not callable(step):
            advice = "let build(options) return an object with the four steps of mlecs_bench.api.Algorithm"
            fail(f"an algorithm has the step {name}", f"{type(algorithm).__name__} has none", advice)
        try:
            inspect.signature(step).bind(*range(STEP_ARGUMENTS[name]))
        except TypeError as error:
            advice = "give it the arguments of mlecs_bench.api.Algorithm"
            fail(f"{name} takes {STEP_ARGUMENTS[name]} arguments", f"it cannot be called so ({error})", advice)
