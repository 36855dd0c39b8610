"""A correct study, and for each check one that breaks it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from mlecs_bench.api import Line, Number, Section, StudyInfo, Table

COUNTER = itertools.count(1)
HERE = Path(__file__).parent


def table(view: Any, value: float = 0.5, name: str = "mine", contents: int = 1) -> Table:
    lines = tuple(Line((place.arm.label,), (Number(value),) * contents) for place in view.setting.rows)
    return Table(f"{name}{view.suffix}", "Mine", "What is mine.", ("algorithm",), (("value",),), lines)


def section(view: Any, **of_table: Any) -> tuple[Section, ...]:
    return (Section(view.titled("Mine"), "", [table(view, **of_table)]),)


def study(**changes: Any) -> StudyInfo:
    return StudyInfo(**{"title": "Mine", "summary": "what is mine", "sections": section, **changes})


STUDY = study()
BROKEN_STUDIES = [
    ("card", study(title=""), "the card needs its 'title'"),
    ("card", study(presets={"My Runs": HERE}), "presets and layouts have names for a command line"),
    ("card", study(layouts={"My Layout": section}), "presets and layouts have names for a command line"),
    ("presets", study(presets={"mine": HERE / "nowhere.yaml"}), "cannot read the study file"),
    ("sections", study(sections=lambda view: section(view, contents=2)), "a line of 2 contents under 1 columns"),
    ("sections", study(sections=lambda view: section(view, value=float("nan"))), "holds nan"),
    ("sections", study(sections=lambda view: section(view) * 2), "two are called 'mine'"),
    (
        "sections",
        study(layouts={"own": lambda view: section(view, contents=2)}),
        "a line of 2 contents under 1 columns",
    ),
    (
        "strangers",
        study(algorithms=("own",), sections=lambda view: {"own": section(view)}[view.asked.candidate]),
        "KeyError: 'somebody'",
    ),
    (
        "same-again",
        study(sections=lambda view: (Section(f"Mine {next(COUNTER)}", "", [table(view)]),)),
        "other sections came from the same records",
    ),
]
