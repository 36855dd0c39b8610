"""The study `paper`: the paper's tables, figures, claims and presets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlecs_bench.api import FigureWords, Section, Stat, StudyInfo, StudyView, honest_sentence, hookimpl
from mlecs_plugins.paper.printed import ML_ECS, PAPER_NOTES, baselines, datasets, sending

PRESETS = Path(__file__).parent / "presets"


def sections(view: StudyView) -> Sequence[Section]:
    """Return Tables 1 and 2, Figures 3 and 4 and the paper's claims, for one setting."""
    from mlecs_bench.api import communication_table, draw_ablation, draw_communication
    from mlecs_plugins.paper.tables import ablation_tables, table1, table2

    setting, asked, suffix = view.setting, view.asked, view.suffix
    figure3 = FigureWords("figure3-communication", "Figure 3: communication", "MER", _score)
    figure4 = FigureWords("figure4-ablation", "Figure 4: ablations", "MER", _score)
    tables = [*table1(view), table2(view), *ablation_tables(view)]
    drawn = draw_ablation(setting, asked, suffix, figure4)
    sent, shares = communication_table(setting, suffix), draw_communication(setting, asked, suffix, figure3)
    return (
        Section(view.titled("Tables 1 and 2"), setting.about, [t for t in tables if t], [drawn] if drawn else []),
        Section(view.titled("Communication"), "", [sent] if sent else [], [shares] if shares else []),
        _claims(view),
    )


def as_printed(view: StudyView) -> Sequence[Section]:
    """Return the tables and figures as the paper prints them, with what it leaves out in tables of their own."""
    from mlecs_bench.api import communication_table
    from mlecs_plugins.paper.figures import figure3, figure4
    from mlecs_plugins.paper.layout import companions, printed_table1, printed_table2

    setting = view.setting
    first, shares = printed_table1(view), figure3(view)
    tables = [*([first] if first else []), *printed_table2(view)]
    figures = [*([shares] if shares else []), *figure4(view)]
    sent = communication_table(setting, view.suffix)
    return (
        Section(view.titled("Tables and figures as in the paper"), setting.about, tables, figures),
        Section(view.titled("Spread and both points of evaluation"), "", companions(view)),
        Section(view.titled("Communication"), "", [sent] if sent else []),
        _claims(view),
    )


def _claims(view: StudyView) -> Section:
    """Return the paper's claims, which it makes of nothing but its own algorithm."""
    from mlecs_bench.api import NO_FLOOR, floors
    from mlecs_plugins.paper.claims import claims

    setting, asked = view.setting, view.asked
    controls = "" if floors(setting) else f"There is {NO_FLOOR}."
    about = f"The verdicts hold for these records alone. {controls} {honest_sentence(list(setting.rows.values()))}"
    found = claims(setting, ML_ECS, asked.eval_points) if asked.candidate == ML_ECS else []
    return Section(view.titled("The paper's claims"), " ".join(about.split()), claims=found)


def _score(metric: str, stat: Stat) -> str:
    from mlecs_plugins.paper.tables import metric_name

    return f"{'server' if stat == 'server' else 'client avg.'} {metric_name(metric)}"


def _sent() -> dict[str, str]:
    """Return what the paper says of the volume that an algorithm sends."""
    says = sending()
    return {ML_ECS: f"{says.share_percent:.2f} %", **{algo: f"about {n:g}x" for algo, n in says.times.items()}}


@hookimpl
def mlecs_study() -> StudyInfo:
    """Return the study."""
    return StudyInfo(
        title="the paper",
        summary="ML-ECS (arXiv 2602.14107): its Tables 1 and 2, Figures 3 and 4, claims, and presets of its runs",
        presets={name: PRESETS / f"{name}.yaml" for name in ("table1", "table2", "ablation", "all")},
        sections=sections,
        layouts={"paper": as_printed},
        replaces=("scores", "communication"),
        algorithms=baselines(),
        datasets=datasets(),
        candidate=ML_ECS,
        sent=_sent(),
        sent_notes=PAPER_NOTES,
    )
