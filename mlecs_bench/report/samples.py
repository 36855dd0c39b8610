"""Answers side by side: what algorithms said to the same samples, from the files beside their records."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlecs_bench.errors import RecordError, UsageError, did_you_mean
from mlecs_bench.federation.evaluation import EXACT_MATCH, spread
from mlecs_bench.records.predictions import HELD, SCORE, read_predictions, score_columns
from mlecs_bench.report.arrange import NO_CARDS, Arm, Cards, Place, Setting, arrange
from mlecs_bench.report.frame import Row, build_rows
from mlecs_bench.report.table import AnswerBlock, Answered

if TYPE_CHECKING:
    import pandas as pd

PER_ROW = 10
"""Samples that a report shows of a row."""
SAME_SAMPLE = ["eval_point", "device", "sample"]
"""The columns that name one answer of a seed."""

Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class SamplesAsked:
    """Which answers are asked for: the `worst` of the first of `algos` by `metric`, of a party, at a point.

    `algos` are one or two names, or labels that tables give variants. None: the headline metric, all parties, the point
    "received" of devices with the server's only one.
    """

    algos: tuple[str, ...]
    worst: int = PER_ROW
    metric: str | None = None
    party: str | None = None
    point: str | None = None


@dataclass(frozen=True)
class WorstSamples:
    """The worst answers of one algorithm in one place, beside those of another: of `total`, by `metric`."""

    where: str
    algos: tuple[str, ...]
    metric: str
    total: int
    rows: Sequence[Mapping[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**vars(self), "algos": list(self.algos), "rows": [dict(row) for row in self.rows]}


def worst_samples(
    records: Records, paths: Mapping[str, Path], asked: SamplesAsked, cards: Cards = NO_CARDS
) -> list[WorstSamples]:
    """Return the worst answers of every place that the algorithms have records at; `paths` are the files by key.

    Raises UsageError for an algorithm, a metric or a party that is not there, RecordError for a record without answers.
    """
    settings = arrange(build_rows(records), asked.algos[0], cards)
    known = list(dict.fromkeys(arm for setting in settings for arm in setting.arms))
    arms = [_arm(name, known) for name in asked.algos]
    found = [
        _worst([by_arm[arm] for arm in arms], arms, where, asked, paths)
        for setting in settings
        for where, by_arm in _places(setting)
        if all(arm in by_arm for arm in arms)
    ]
    if not found:
        raise UsageError(f"{' and '.join(arm.label for arm in arms)} have no records under the same settings")
    return found


def _arm(name: str, known: Sequence[Arm]) -> Arm:
    fitting = [arm for arm in known if arm.label == name] or [arm for arm in known if arm.algo == name]
    labels = [arm.label for arm in known]
    if not fitting:
        raise UsageError(f"no record of algorithm '{name}'. {did_you_mean(name, labels)}")
    if len(fitting) > 1:
        raise UsageError(f"'{name}' has several variants; name one of {'; '.join(arm.label for arm in fitting)}")
    return fitting[0]


def _places(setting: Setting) -> Iterator[tuple[str, dict[Arm, tuple[Place, Row]]]]:
    """Yield the rows that differ in nothing but the algorithm, and in words what they share."""
    found: dict[tuple[Any, ...], dict[Arm, tuple[Place, Row]]] = {}
    for place, row in setting.rows.items():
        found.setdefault((place.data, place.rho, place.n_devices), {})[place.arm] = (place, row)
    for (data, rho, n), by_arm in found.items():
        own = f", {setting.label}" if setting.label else ""
        yield f"{data.label}, rho {rho}, {n} device{'s' * (n != 1)}{own}", by_arm


def _worst(
    rows: Sequence[tuple[Place, Row]], arms: Sequence[Arm], where: str, asked: SamplesAsked, paths: Mapping[str, Path]
) -> WorstSamples:
    joined = _joined([row for _, row in rows], paths)
    place, row = rows[0]
    joined = _chosen(joined, asked)
    metrics = [name.removeprefix(SCORE).removesuffix(" 0") for name in joined.columns if name.startswith(SCORE)]
    metrics = [name for name in metrics if f"{SCORE}{name} 0" in joined]
    metric = asked.metric or (place.data.headline if place.data.headline in metrics else EXACT_MATCH)
    if metric not in metrics:
        raise UsageError(f"there is no score '{metric}' of single samples; there are {', '.join(metrics)}")
    scored = joined[joined[f"{SCORE}{metric} 0"].notna()]
    by = [f"{SCORE}{metric} 0", "seed", "device", "eval_point", "sample"]
    ascending = [row.directions.get(metric, True), True, True, True, True]
    chosen = scored.sort_values(by, ascending=ascending, kind="stable").head(asked.worst)
    shown = [_row(one, metric, len(arms)) for one in chosen.to_dict("records")]
    return WorstSamples(where, tuple(arm.label for arm in arms), metric, len(scored), shown)


def _joined(rows: Sequence[Row], paths: Mapping[str, Path]) -> pd.DataFrame:
    """Return the answers of rows to the same samples of their common seeds; columns end in the number of the row."""
    import pandas as pd

    by_seed = [{int(record["identity"]["seed"]): record for record in row.records} for row in rows]
    frames = []
    for seed in sorted(set.intersection(*(set(one) for one in by_seed))):
        tables = [read_predictions(paths[one[seed]["key"]], one[seed]) for one in by_seed]
        shared = ["target", HELD]
        frame = tables[0][[*SAME_SAMPLE, *shared]]
        for number, table in enumerate(tables):
            own = [*SAME_SAMPLE, "answer", *(c for c in table.columns if c.startswith(SCORE))]
            named = table[own].rename(columns={c: f"{c} {number}" for c in own if c not in SAME_SAMPLE})
            frame = frame.merge(named, on=SAME_SAMPLE, validate="one_to_one")
        frames.append(frame.assign(seed=seed))
    if not frames:
        raise UsageError("the algorithms have no seed in common; run one of them with the seeds of the other")
    return pd.concat(frames, ignore_index=True)


def _chosen(frame: pd.DataFrame, asked: SamplesAsked) -> pd.DataFrame:
    points = {asked.point} if asked.point else {"received", "server"}
    if asked.party is not None:
        parties = sorted(set(frame["device"]))
        if asked.party not in parties:
            raise UsageError(f"no answers of party '{asked.party}'; there are {', '.join(parties)}")
        points |= {"server"} if asked.party == "server" else set()
        frame = frame[frame["device"] == asked.party]
    return frame[frame["eval_point"].isin(points)]


def _row(one: Mapping[Any, Any], metric: str, n: int) -> dict[str, Any]:
    names = ("seed", "eval_point", "device", "sample", "target")
    scores = [one[f"{SCORE}{metric} {i}"] for i in range(n)]
    return {
        **{name: one[name] for name in names},
        "held": list(one[HELD]),
        "answers": [one[f"answer {i}"] for i in range(n)],
        "scores": [_number(score) for score in scores],
    }


def _number(score: float) -> float | None:
    """Return a score of a table, None where a sample has none."""
    return None if math.isnan(score) else float(score)


def answer_blocks(setting: Setting, paths: Mapping[str, Path], kept_private: frozenset[str]) -> list[AnswerBlock]:
    """Return ten answers of every row of a setting whose records have some: those of its first seed, spread evenly.

    Rows on the same data show the same samples. `kept_private` are the datasets whose texts may not be passed on.
    """
    blocks = []
    for place, row in setting.rows.items():
        for record in row.records:
            try:
                frame = read_predictions(paths[record["key"]], record) if record["key"] in paths else None
            except RecordError:
                continue
            if frame is not None:
                blocks.append(_block(place, record, frame, kept_private))
                break
    return blocks


def _block(place: Place, record: Mapping[str, Any], frame: pd.DataFrame, kept_private: frozenset[str]) -> AnswerBlock:
    identity = record["identity"]
    metric = place.data.headline if place.data.headline in score_columns(frame) else EXACT_MATCH
    own = frame[frame["eval_point"] == "received"].sort_values(["device", "sample"], kind="stable")
    shown = own.iloc[spread(len(own), PER_ROW)].to_dict("records")
    private = place.data.name in kept_private and not identity["dataset"]["synthetic"]
    return AnswerBlock(
        title=f"{place.arm.label} on {place.data.label}, rho {place.rho}, {place.n_devices} devices, "
        f"seed {identity['seed']}",
        metric=metric,
        note="The texts of this data may not be passed on, and so neither may this page." if private else "",
        answers=tuple(
            Answered(one["device"], one["sample"], one["target"], one["answer"], _number(one[SCORE + metric]))
            for one in shown
        ),
    )
