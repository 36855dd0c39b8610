"""Captions of tables of scores: the setting, the data, and when and over what scores are taken."""

from __future__ import annotations

from collections.abc import Sequence

from mlecs_bench.errors import check_choice
from mlecs_bench.report.arrange import Setting
from mlecs_bench.report.frame import EVAL_POINTS, EvalPoint, Row


def score_caption(rows: Sequence[Row], setting: Setting, eval_points: Sequence[EvalPoint]) -> str:
    """Return what scores are of: the setting, the data, and when and over what they are taken.

    Raises ValueError for an unknown point of evaluation.
    """
    for point in eval_points:
        check_choice(point, EvalPoint, "a point of evaluation")
    about = f"{setting.about[0].upper()}{setting.about[1:]}"
    structure = "".join(f", {text}" for text in _structure(rows))
    data = {row.identity["dataset"]["name"]: row.identity["dataset"] for row in rows}
    views = [f"{name}: {one['view']}, split {_splits(rows, name)}" for name, one in data.items()]
    when = " and ".join(EVAL_POINTS[point] for point in eval_points)
    return (
        f"{about}{structure}. {'; '.join(views)}. {_models(rows)}{_at_random(rows)} Scores {when}: "
        "per seed the average, the best and the worst device, and the server; then mean ± sd (ddof = 1) over seeds."
    )


def _splits(rows: Sequence[Row], name: str) -> str:
    splits = {row.identity["dataset"]["split"] for row in rows if row.identity["dataset"]["name"] == name}
    return " or ".join(sorted(splits))


def _models(rows: Sequence[Row]) -> str:
    """Return what language models the rows have, devices that differ from the profile apart."""
    profiles = [row.identity["profile"] for row in rows]
    slm, llm = (" or ".join(dict.fromkeys(str(one[name]["name"]) for one in profiles)) for name in ("slm", "llm"))
    return f"Language models: {slm} on devices, {llm} on the server."


def _at_random(rows: Sequence[Row]) -> str:
    """Return whose encoders start at random although the profile has pretrained ones, "" where none does."""
    found: dict[str, set[str]] = {}
    for record in (record for row in rows for record in row.records):
        for party, names in record["realised"]["random_encoders"].items():
            for name in names:
                found.setdefault(str(name), set()).add(str(party))
    texts = [f"{name} ({', '.join(sorted(parties))})" for name, parties in sorted(found.items())]
    return f" Encoders that start at random: {', '.join(texts)}." if texts else ""


def _structure(rows: Sequence[Row]) -> list[str]:
    """Return in what single devices differ from the profile, which is alike in all rows of a setting."""
    structure = rows[0].identity["structure"]
    models = {id_: model["name"] for id_, model in structure["slm"].items()}
    parts = {"SLM": models, "LoRA rank": structure["rank"], "encoder width": structure["encoder_width"]}
    return [f"{what} of {id_}: {value}" for what, values in parts.items() for id_, value in values.items()]
