"""Builds a whole report from records: sections of tables, figures and claims, setting by setting."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from mlecs_bench.report import drawings
from mlecs_bench.report.arrange import Defaults, Setting, arrange
from mlecs_bench.report.claims import claims
from mlecs_bench.report.evidence import (
    ablation_statistics,
    candidates,
    communication_table,
    overall_sentence,
    statistics_tables,
)
from mlecs_bench.report.frame import Moment, Row, build_rows, expected_seeds
from mlecs_bench.report.overview import honest_sentence
from mlecs_bench.report.paper import ML_ECS
from mlecs_bench.report.paper_tables import Asked, ablation_table, table1, table2
from mlecs_bench.report.table import Report, Section


@dataclass(frozen=True)
class Wanted:
    """What a report shows: the devices' `moment`, the algorithm that is held against the others, the paper's values.

    `candidate` None: ML-ECS, or the last algorithm where there is none.
    """

    moment: Moment = "local"
    candidate: str | None = None
    with_paper: bool = False


def build_report(
    records: Sequence[Mapping[str, Any]],
    title: str,
    wanted: Wanted = Wanted(),
    defaults: Defaults = MappingProxyType({}),
    warnings: Sequence[str] = (),
) -> Report:
    """Return the report of `records`, which are at least one; raises RecordError when a seed of a cell occurs twice.

    `defaults` are the default options of algorithms, from which others are told apart.
    """
    rows = build_rows(records)
    name = wanted.candidate or _default_candidate(rows)
    settings = arrange(rows, name, defaults)
    asked = Asked(wanted.moment, name, expected_seeds(rows), wanted.with_paper)
    sections = [section for i, setting in enumerate(settings) for section in _sections(setting, asked, i)]
    return Report(title, _made_by(records), honest_sentence(rows), sections, (*warnings, *_dirty(records)))


def _default_candidate(rows: Sequence[Row]) -> str:
    names = list(dict.fromkeys(str(row.identity["algo"]["name"]).partition("/")[0] for row in rows))
    return ML_ECS if ML_ECS in names else names[-1]


def _sections(setting: Setting, asked: Asked, number: int) -> Iterator[Section]:
    """Yield what there is to say of one setting; the files of all but the first carry its label."""
    return (
        section for section in _possible(setting, asked, number) if section.tables or section.figures or section.claims
    )


def _possible(setting: Setting, asked: Asked, number: int) -> Iterator[Section]:
    suffix = f"-{slug(setting.label)}" if number else ""
    apart = f" ({setting.label})" if setting.label else ""
    scores = (table1(setting, asked, suffix), table2(setting, asked, suffix), ablation_table(setting, asked, suffix))
    sent = (communication_table(setting, suffix),)
    tests = (*statistics_tables(setting, asked, suffix), ablation_statistics(setting, asked, suffix))
    overall = [overall_sentence(setting, arm, asked) for arm in candidates(setting, asked)]
    yield _section(f"Scores{apart}", setting.about, scores, (drawings.ablation(setting, asked, suffix),))
    yield _section(f"Communication{apart}", "", sent, (drawings.communication(setting, asked, suffix),))
    yield _section(f"Learning curves{apart}", "", (), (drawings.curves(setting, suffix),))
    yield _section(f"Statistics{apart}", " ".join(filter(None, overall)), tests, ())
    about = f"The verdicts hold for these records alone. {honest_sentence(list(setting.rows.values()))}".strip()
    found = claims(setting) if asked.candidate == ML_ECS else []  # the paper claims nothing of others
    yield Section(f"The paper's claims{apart}", about, claims=found)


def _section(title: str, about: str, tables: Sequence[Any], figures: Sequence[Any]) -> Section:
    return Section(title, about, [t for t in tables if t is not None], [f for f in figures if f is not None])


def slug(text: str) -> str:
    """Return a text as a part of a file's name."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")[:60]


def _made_by(records: Sequence[Mapping[str, Any]]) -> str:
    """Return how many records there are and what made them."""
    versions = _distinct(f"mlecs-bench {r['provenance']['packages'].get('mlecs-bench', '?')}" for r in records)
    torch = _distinct(f"torch {r['provenance']['packages'].get('torch', '?')}" for r in records)
    commits = _distinct(r["provenance"]["git"]["commit"][:12] for r in records if r["provenance"].get("git"))
    made = [versions, torch, *([f"commit {commits}"] if commits else [])]
    seeds = sorted({int(record["identity"]["seed"]) for record in records})
    count = f"{len(records)} record{'' if len(records) == 1 else 's'}"
    return f"{count}, seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))}; made with {', '.join(made)}."


def _distinct(texts: Any) -> str:
    return " and ".join(dict.fromkeys(texts))


def _dirty(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a warning where records come from a checkout with changes that no commit holds."""
    n = sum(bool((record["provenance"].get("git") or {}).get("dirty")) for record in records)
    return [f"{n} of {len(records)} records were made from a checkout with uncommitted changes"] if n else []
