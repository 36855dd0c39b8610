"""Builds a whole report from records: sections of tables and figures, setting by setting, and those of studies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mlecs_bench.report.arrange import NO_CARDS, Cards, Order, arrange, control_key
from mlecs_bench.report.attendance import classes_table, participation_table
from mlecs_bench.report.curves import curves_csv
from mlecs_bench.report.drawings import draw_ablation, draw_communication, draw_curves, draw_losses
from mlecs_bench.report.evidence import (
    ablation_statistics,
    candidates,
    communication_table,
    overall_sentences,
    statistics_tables,
)
from mlecs_bench.report.frame import BOTH_POINTS, EvalPoint, Row, Stat, build_rows, expected_seeds, honest_sentence
from mlecs_bench.report.gains import TITLE, draw_gains_of, gains_of, gains_table
from mlecs_bench.report.markdown import table_text
from mlecs_bench.report.modalities import modalities_table, rounds_table
from mlecs_bench.report.robustness import Family, families, robustness_tables, without_table
from mlecs_bench.report.samples import answer_blocks
from mlecs_bench.report.scores import USUAL_STATS, Asked, score_tables
from mlecs_bench.report.spending import draw_costs, draw_costs_by_condition
from mlecs_bench.report.steps import steps_table
from mlecs_bench.report.study import StudyView
from mlecs_bench.report.swept import Swept, swept_numbers
from mlecs_bench.report.table import Figure, Report, Section, Table

if TYPE_CHECKING:
    from mlecs_bench.doors.hookspecs import StudyInfo

Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Wanted:
    """What a report shows: when devices are scored, the algorithm that is held against the others, published values.

    `diagnostics` shows those of datasets in tables. `candidate` None: that of the first study that names one of the
    algorithms, else the algorithm with ablations, else the last one. `studies` add their sections, in place of some
    of the report's own. Tables of scores show `metrics` (none: all of them) and `stats`. `seeds` are those that
    were asked for (none: all that occur), `further_seeds` those of some blocks of the study alone, `about` is what
    the study says of itself. `answers` are the paths of records by key, beside which there may be answers to show;
    `variants` say in what a record departs from the usual, by key.
    """

    eval_points: tuple[EvalPoint, ...] = BOTH_POINTS
    candidate: str | None = None
    published: bool = False
    studies: Sequence[StudyInfo] = ()
    diagnostics: bool = False
    answers: Mapping[str, Path] = field(default_factory=dict)
    variants: Mapping[str, str] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    stats: tuple[Stat, ...] = USUAL_STATS
    seeds: tuple[int, ...] = ()
    further_seeds: tuple[int, ...] = ()
    about: str = ""

    def asked(self, rows: Sequence[Row], candidate: str) -> Asked:
        """Return what is asked of tables on `rows`."""
        return Asked(
            eval_points=self.eval_points,
            candidate=candidate,
            seeds=expected_seeds(rows, self.seeds, self.further_seeds),
            published=self.published,
            diagnostics=self.diagnostics,
            metrics=self.metrics,
            stats=self.stats,
        )


def build_report(
    records: Records,
    title: str,
    wanted: Wanted = Wanted(),
    cards: Cards = NO_CARDS,
    warnings: Sequence[str] = (),
    files: Mapping[str, str] = MappingProxyType({}),
) -> Report:
    """Return the report of `records`, which are at least one; raises RecordError when a seed of a cell occurs twice.

    `cards` are what installed plugins say of what the records hold; `files` are the names of the record files by key.
    """
    rows = build_rows(records)
    candidate = wanted.candidate or _default_candidate(rows, wanted.studies, cards)
    asked = wanted.asked(rows, candidate)
    settings = arrange(rows, candidate, cards, _order(wanted.studies))
    views = [StudyView(setting, asked, number) for number, setting in enumerate(settings)]
    sections = [_robustness(family, asked, i) for i, family in enumerate(families(settings))]
    groups = swept_numbers(settings)
    sections += [_gains(group, asked, i, several=len(groups) > 1) for i, group in enumerate(groups)]
    sections += [section for view in views for section in _sections(view, wanted.studies) if _says_something(section)]
    sections += [section for view in views if (section := _answers(view, wanted.answers, cards)).answers]
    warnings = (*warnings, *_dirty(records))
    curves = curves_csv([record for row in rows for record in row.records], wanted.variants)
    about = "\n\n".join(filter(None, (wanted.about.strip(), _made_by(records))))
    return Report(title, about, _honest(rows, wanted.studies), sections, warnings, files, curves)


def _honest(rows: Sequence[Row], studies: Sequence[StudyInfo]) -> str:
    """Return what numbers may not be taken for, and whose they are not comparable with where a report shows a study."""
    sentence = honest_sentence(rows)
    titles = ", ".join(study.title for study in studies)
    return f"{sentence} They are not comparable with those of {titles}." if sentence and titles else sentence


def build_table(
    records: Records,
    eval_points: tuple[EvalPoint, ...] = BOTH_POINTS,
    cards: Cards = NO_CARDS,
    *,
    diagnostics: bool = False,
    stats: tuple[Stat, ...] = USUAL_STATS,
) -> str:
    """Return the scores of all `records` as text for the terminal, a table per setting and dataset.

    Raises RecordError when a seed of a cell occurs twice.
    """
    wanted = Wanted(eval_points, diagnostics=diagnostics, stats=stats)
    return "\n".join(table_text(table) for table in tables_of_scores(records, wanted, cards))


def tables_of_scores(records: Records, wanted: Wanted = Wanted(), cards: Cards = NO_CARDS) -> list[Table]:
    """Return the scores of all `records`, a table per setting and dataset; raises RecordError as `build_table` does."""
    rows = build_rows(records)
    candidate = wanted.candidate or _default_candidate(rows, (), cards)
    asked = wanted.asked(rows, candidate)
    return [table for setting in arrange(rows, candidate, cards) for table in score_tables(setting, asked)]


def _order(studies: Sequence[StudyInfo]) -> Order:
    def first(names: Iterable[Sequence[str]]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for of in names for name in of))

    return Order(first(study.algorithms for study in studies), first(study.datasets for study in studies))


def _default_candidate(rows: Sequence[Row], studies: Sequence[StudyInfo], cards: Cards) -> str:
    """Return the candidate where nobody names one: a study's, one that has ablations, else the last one by name.

    One that sends nothing is a candidate only where no other is there.
    """
    rivals = [row for row in rows if control_key(row.identity) not in cards.controls] or list(rows)
    sending = [row for row in rivals if any(record["comm"]["entries"] for record in row.records)]
    names = [str(row.identity["algo"]["name"]) for row in sending or rivals]
    bases = [name.partition("/")[0] for name in names]
    of_studies = [study.candidate for study in studies if study.candidate in bases]
    ablated = [base for name, base in zip(names, bases, strict=True) if name != base]
    return next(iter([*of_studies, *ablated]), bases[-1])


def _sections(view: StudyView, studies: Sequence[StudyInfo]) -> list[Section]:
    """Return what there is to say of one setting: the studies' sections, then the report's own."""
    replaced = {kind for study in studies for kind in study.replaces}
    own = [make(view) for kind, make in OWN_SECTIONS.items() if kind not in replaced]
    return [*(section for study in studies for section in study.sections(view)), *own]


def _says_something(section: Section) -> bool:
    return bool(section.tables or section.figures or section.claims)


def _robustness(family: Family, asked: Asked, number: int) -> Section:
    """Return scores under all conditions beside those under the usual ones; settings differ in nothing else."""
    title = f"Robustness ({family.name})" if family.name else "Robustness"
    conditions = "; ".join(map(family.label, family.settings))
    about = f"{family.usual.about[0].upper()}{family.usual.about[1:]}. Conditions: {conditions}."
    suffix = f"-{number + 1}" if number else ""
    figure = draw_costs_by_condition(family, suffix)
    return Section(title, about, robustness_tables(family, asked, suffix), [figure] if figure else [])


def _gains(group: Sequence[Swept], asked: Asked, number: int, *, several: bool) -> Section:
    """Return gains over the control against the numbers that settings differ in."""
    name = group[0].base.setting.label if several else ""
    suffix = f"-{number + 1}" if number else ""
    found = [gains for swept in group for gains in gains_of(swept, asked)]
    tables = [gains_table(gains, asked, suffix, name) for gains in found]
    figures = [draw_gains_of(gains, asked, suffix) for gains in found]
    return Section(f"{TITLE} ({name})" if name else TITLE, "", tables, figures)


def _scores(view: StudyView) -> Section:
    setting, asked = view.setting, view.asked
    tables = score_tables(setting, asked, view.suffix)
    without = [without_table(setting, data, asked, view.suffix) for data in setting.data]
    return _section(view, "Scores", setting.about, [*tables, *without], [draw_ablation(setting, asked, view.suffix)])


def _modalities(view: StudyView) -> Section:
    held = [modalities_table(view.setting, view.suffix), rounds_table(view.setting, view.suffix)]
    others = [classes_table(view.setting, view.suffix), participation_table(view.setting, view.suffix)]
    title = "Who holds what, who takes part" if any(others) else "Modalities"
    return _section(view, title, "", [*held, *others], [])


def _communication(view: StudyView) -> Section:
    figure = draw_communication(view.setting, view.asked, view.suffix)
    figures = [figure, draw_costs(view.setting, view.suffix)]
    return _section(view, "Communication", "", [communication_table(view.setting, view.suffix)], figures)


def _curves(view: StudyView) -> Section:
    figures = [draw_curves(view.setting, view.suffix), draw_losses(view.setting, view.suffix)]
    return _section(view, "Learning curves", "", [], figures)


def _answers(view: StudyView, paths: Mapping[str, Path], cards: Cards) -> Section:
    about = "Ten of every row, spread evenly over devices and samples of its first seed, after the last broadcast."
    blocks = answer_blocks(view.setting, paths, cards.kept_private) if paths else []
    return Section(view.titled("Answers"), about, answers=blocks)


def _statistics(view: StudyView) -> Section:
    setting, asked = view.setting, view.asked
    tests = [*statistics_tables(setting, asked, view.suffix), ablation_statistics(setting, asked, view.suffix)]
    overall = [text for arm in candidates(setting, asked) for text in overall_sentences(setting, arm, asked)]
    return _section(view, "Statistics", "\n\n".join(overall), tests, [])


def _steps(view: StudyView) -> Section:
    return _section(view, "What the steps did", "", [steps_table(view.setting, view.suffix)], [])


OWN_SECTIONS = {
    "scores": _scores,
    "modalities": _modalities,
    "communication": _communication,
    "curves": _curves,
    "statistics": _statistics,
    "steps": _steps,
}
"""What a report says of a setting, by the kinds that `StudyInfo.replaces` names."""


def _section(
    view: StudyView, title: str, about: str, tables: Sequence[Table | None], figures: Sequence[Figure | None]
) -> Section:
    shown, drawn = [t for t in tables if t is not None], [f for f in figures if f is not None]
    return Section(view.titled(title), about, shown, drawn)


def _made_by(records: Records) -> str:
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


def _dirty(records: Records) -> list[str]:
    """Return a warning where records come from a checkout with changes that no commit holds."""
    n = sum(bool((record["provenance"].get("git") or {}).get("dirty")) for record in records)
    return [f"{n} of {len(records)} records were made from a checkout with uncommitted changes"] if n else []
