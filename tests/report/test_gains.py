"""Gains over the control against swept numbers: counted again by hand, intervals by scipy, and the base found."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import pytest
from scipy import stats

from hand_made import make_record, score, with_identity
from mlecs_bench.doors.hookspecs import Control
from mlecs_bench.report import drawings, gains
from mlecs_bench.report.arrange import Cards, arrange, control_key
from mlecs_bench.report.build import Wanted, build_report
from mlecs_bench.report.figure_parts import GainPanel
from mlecs_bench.report.frame import build_rows
from mlecs_bench.report.gains import gains_of, gains_table
from mlecs_bench.report.scores import Asked
from mlecs_bench.report.swept import swept_numbers
from study_records import BASE, NOISE, lower_is_better, with_all

SEEDS = (27, 34, 46, 52, 93)
ASKED = Asked(("local", "received"), "ml-ecs", SEEDS)
LIMITS, DEVICES, RATES = (16, 128, 1024), (2, 3, 20), (0.5, 0.7, 1.0)
WITH_PUBLIC = {"use_public": True}
CONTROL = "standalone with public data"


def floor(name: str = "standalone", options: Mapping[str, Any] = WITH_PUBLIC) -> Cards:
    record = with_identity(make_record(algo=name), algo={"options": dict(options)})
    return Cards(controls={control_key(record["identity"]): Control("floor", CONTROL, "sends nothing")})


def cell(
    algo: str,
    seed: int,
    gain: tuple[float, float, float] = (0.0, 0.0, 0.0),
    *,
    limit: int | None = 128,
    n: int = 3,
    rho: float | Mapping[str, float] = 0.5,
    by_round: Sequence[float] = (),
) -> dict[str, Any]:
    """Return a record whose devices lie around BASE + gain: after training, after the broadcast, and the server's.

    Gains differ by seed by NOISE, at the second point by twice as much. `by_round` are the gains after each round.
    """
    middle, noise = BASE[seed], NOISE[seed] if any(gain) else 0.0
    local = [middle + gain[0] + noise + 0.01 * (j - (n - 1) / 2) for j in range(n)]
    record = make_record(algo=algo, seed=seed, local=local, server=middle + gain[2] + noise, rho=rho)
    metrics = record["metrics"]
    metrics["client"]["received"] = {
        "rouge_lsum": {d: score(middle + gain[1] + 2 * noise) for d in record["comm"]["device_params"]}
    }
    metrics["rounds"] = [after_round(t, middle, g) for t, g in enumerate(by_round, 1)]
    options = {"algo": {"options": WITH_PUBLIC}} if algo == "standalone" else {}
    scored = {"evaluate": "all"} if by_round else {}
    return with_identity(record, training={"private_limit": limit}, **options, **scored)


def after_round(t: int, middle: float, gain: float) -> dict[str, Any]:
    client = {"rouge_lsum": {"d00": score(middle + gain - 0.1), "d01": score(middle + gain + 0.1)}}
    return {"round": t, "losses": {}, "client": client, "server": {"rouge_lsum": score(middle + 2 * gain)}}


GAINS = {16: (0.2, 0.1, 0.1), 128: (0.1, 0.05, 0.0), 1024: (-0.1, -0.1, 0.1)}


def against_limits(algo: str = "ml-ecs", seeds: Sequence[int] = SEEDS, **where: Any) -> list[dict[str, Any]]:
    """Return an algorithm's gains of GAINS, and the control, at every limit."""
    return [
        record
        for limit, gain in GAINS.items()
        for seed in seeds
        for record in (cell(algo, seed, gain, limit=limit, **where), cell("standalone", seed, limit=limit, **where))
    ]


@cache
def crossing(seeds: Sequence[int] = SEEDS, rounds: Sequence[float] = (0.0, 0.01, 0.02, 0.1)) -> list[dict[str, Any]]:
    """Return a study of three axes through 128 samples, 3 devices and rate 0.5, where all rounds were scored."""
    none = [0.0] * len(rounds)
    elsewhere = [{"limit": one} for one in LIMITS if one != 128]
    elsewhere += [{"n": one} for one in DEVICES if one != 3] + [{"rho": one} for one in RATES if one != 0.5]
    found = []
    for seed in seeds:
        found += [cell("ml-ecs", seed, GAINS[128], by_round=rounds), cell("standalone", seed, by_round=none)]
        for where in elsewhere:
            gain = GAINS.get(where.get("limit", 128))
            found += [
                cell("ml-ecs", seed, gain, by_round=rounds, **where),
                cell("standalone", seed, by_round=none, **where),
            ]
    return found


def swept(records, cards=None):
    return swept_numbers(arrange(build_rows(records), "ml-ecs", cards or floor()))


def one_swept(records):
    ((found,),) = swept(records)
    return found


def tables(records, asked=ASKED):
    return {one.stat: gains_table(one, asked) for one in gains_of(one_swept(records), asked)}


def at(table, *labels):
    (line,) = [line for line in table.lines if line.labels == labels]
    return dict(zip(table.columns, line.contents, strict=True))


@pytest.fixture
def undrawn(monkeypatch):
    """The panels that figures of gains would have; no figure of a report is drawn, which takes a second each."""
    panels: list[GainPanel] = []
    names = ("communication_figure", "ablation_figure", "curves_figure", "spending_figure")
    for name in names:
        monkeypatch.setattr(drawings, name, lambda *_: None)
    monkeypatch.setattr(drawings, "gains_figure", lambda shown, labels: panels.extend(shown))
    monkeypatch.setattr(drawings, "figure_bytes", lambda _: {"svg": b"<svg/>", "png": b"", "pdf": b""})
    return panels


# --------------------------------------------------------------------------------------------------- finding the axes


def test_the_base_is_where_most_axes_meet_and_its_cells_are_on_all_of_them():
    found = one_swept(crossing())
    assert (found.base.rho, found.base.n_devices, found.base.numbers["training.private_limit"]) == ("0.5", 3, 128)
    assert [(axis.name, list(axis.spots)) for axis in found.axes] == [
        ("private_limit", list(LIMITS)), ("devices", list(DEVICES)), ("rho", list(RATES)),
    ]  # fmt: skip  # in order
    assert all(axis.spots[found.base.numbers[axis.path]] is found.base for axis in found.axes)
    assert found.base_words() == "private_limit 128, devices 3, rho 0.5"


def test_any_number_of_the_settings_is_an_axis_and_what_differs_in_two_is_on_none():
    rates = [with_all(against_limits(), training={"lr": {"lora": lr}}) for lr in (0.001, 0.002, 0.004)]
    same_limit = [one for of in rates for one in of if one["identity"]["training"]["private_limit"] == 128]
    (axis,) = one_swept(same_limit).axes
    assert (axis.name, list(axis.spots)) == ("lr.lora", [0.001, 0.002, 0.004])
    diagonal = [
        record
        for limit, rounds in zip(LIMITS, (2, 3, 4), strict=True)
        for record in with_all(against_limits(), training={"rounds": rounds})
        if record["identity"]["training"]["private_limit"] == limit
    ]
    assert swept(diagonal) == []


def test_settings_that_differ_in_words_are_groups_of_their_own_and_an_unlimited_number_is_no_value():
    budgets = [*against_limits(), *with_all(against_limits(), training={"budget": "equal"})]
    assert [[len(one.axes) for one in group] for group in swept(budgets)] == [[1], [1]]
    report_groups = [group[0].base.setting.label for group in swept(budgets)]
    assert len(set(report_groups)) == 2
    unlimited = [with_identity(one, training={"private_limit": None}) for one in against_limits()[:10]]
    (axis,) = one_swept([*against_limits(), *unlimited]).axes
    assert list(axis.spots) == list(LIMITS)


def test_without_a_control_three_values_or_a_number_beside_the_rate_there_is_no_section(undrawn):
    rates = [one for one in crossing() if one["identity"]["n_devices"] == 3]
    rates = [one for one in rates if one["identity"]["training"]["private_limit"] == 128]
    for records, cards in (
        (crossing(), Cards()),
        ([one for one in against_limits() if one["identity"]["training"]["private_limit"] != 16], floor()),
        ([one for one in against_limits() if one["identity"]["algo"]["name"] == "standalone"], floor()),
        (rates, floor()),
    ):
        assert swept(records, cards) == []
        titles = [section.title for section in build_report(records, "x", cards=cards).sections]
        assert not any(title.startswith(gains.TITLE) for title in titles)
    assert not undrawn
    report = build_report(against_limits(), "x", cards=floor())
    assert report.sections[0].title == gains.TITLE
    assert len({table.name for table in report.tables()}) == len(report.tables())


def test_ablations_are_left_out_and_bounds_from_above_are_shown():
    ablated = [r for r in against_limits("ml-ecs/no-kt") if r["identity"]["algo"]["name"] != "standalone"]
    bound = [r for r in against_limits("centralised") if r["identity"]["algo"]["name"] != "standalone"]
    found = one_swept([*against_limits(), *ablated, *bound])
    assert sorted(arm.algo for arm in found.rivals()) == ["centralised", "ml-ecs"]


def test_an_algorithm_that_was_not_swept_is_left_out_and_on_axes_where_it_has_the_base_alone():
    rated = [with_identity(one, algo={"name": "multi-fedavg"}) for one in crossing() if _is_rival(one, limit=128, n=3)]
    limited = [with_identity(one, algo={"name": "fedilora"}) for one in crossing() if _is_rival(one, n=3, rho=0.5)]
    table = tables([*crossing(), *rated, *limited])["avg"]
    shown = {(line.labels[0], line.labels[-1]) for line in table.lines}
    assert shown == {
        *((name, "ml-ecs") for name in ("private_limit", "devices", "rho", "round")),
        *(("private_limit", "fedilora"), ("round", "fedilora")),
    }


def _is_rival(record, limit=None, n=None, rho=None) -> bool:
    """Is it one of ML-ECS's with these numbers?"""
    own = record["identity"]
    found = {"limit": own["training"]["private_limit"], "n": own["n_devices"], "rho": own["rho"]["audio"]}
    asked = {"limit": limit, "n": n, "rho": rho}
    return own["algo"]["name"] == "ml-ecs" and all(found[k] == v for k, v in asked.items() if v is not None)


def test_every_dataset_has_its_own_axes(undrawn):
    other = [with_identity(one, dataset={"name": "ur-fall"}) for one in against_limits()]
    (group,) = swept([*against_limits(), *other])
    assert [one.data.name for one in group] == ["ur-fall", "vast"]
    names = [table.name for table in build_report([*against_limits(), *other], "x", cards=floor()).sections[0].tables]
    assert names == ["gains-ur-fall", "gains-ur-fall-server", "gains-vast", "gains-vast-server"]


# ------------------------------------------------------------------------------------------------------ the numbers


def test_gains_are_paired_by_seed_with_the_t_interval_of_scipy_and_holm_counts_the_base_once():
    records = crossing()
    table = tables(records)["avg"]
    # Seven spots: a base and two more on each of three axes. All gains of one limit are alike, so are their p.
    differences = {
        (limit, point): [GAINS[limit][i] + (1 + i) * NOISE[seed] for seed in SEEDS]
        for limit in LIMITS
        for i, point in enumerate(("local", "received"))
    }
    by_spot = [128] * 5 + [16, 1024]
    for point in ("local", "received"):
        p = {limit: stats.ttest_1samp(differences[limit, point], 0).pvalue for limit in LIMITS}
        ordered = sorted(p[limit] for limit in by_spot)
        corrected = {limit: min(1.0, max((7 - i) * q for i, q in enumerate(ordered) if q <= p[limit])) for limit in p}
        for limit in LIMITS:
            line, values = at(table, "private_limit", str(limit), "ml-ecs"), differences[limit, point]
            low, high = stats.t.interval(0.95, 4, statistics.mean(values), stats.sem(values))
            assert line[point, "gain"].value == pytest.approx(statistics.mean(values))
            assert line[point, "gain"].sd == pytest.approx(statistics.stdev(values))
            assert (line[point, "low"].value, line[point, "high"].value) == pytest.approx((low, high))
            assert line[point, "corrected p"].value == pytest.approx(corrected[limit], rel=1e-6)
            assert line["n",].value == 5
            assert len(line[point, "gain"].records) == 10
    for name, value in (("devices", "3"), ("rho", "0.5")):
        assert at(table, name, value, "ml-ecs") == at(table, "private_limit", "128", "ml-ecs")


def test_a_verdict_holds_at_both_points_or_is_none():
    found = tables(against_limits())["avg"]
    verdicts = {line.labels[1]: line.contents[0] for line in found.lines}
    assert verdicts == {"16": "better", "128": "better", "1024": "worse"}
    one = tables(against_limits(), Asked(("received",), "ml-ecs", SEEDS))["avg"]
    assert one.columns[:2] == (("verdict",), ("gain",))
    contrary = copy.deepcopy(against_limits())
    for record in contrary:
        if record["identity"]["algo"]["name"] == "ml-ecs":
            for device in record["metrics"]["client"]["received"]["rouge_lsum"].values():
                device["value"] -= 0.3
    assert {line.contents[0] for line in tables(contrary)["avg"].lines if line.labels[1] != "1024"} == {"undecided"}


def test_the_server_has_one_point_and_no_table_where_one_side_has_none():
    table = tables(against_limits())["server"]
    assert table.columns == (("verdict",), ("gain",), ("low",), ("high",), ("corrected p",), ("n",))
    line = at(table, "private_limit", "16", "ml-ecs")
    assert line["gain",].value == pytest.approx(0.1 + statistics.mean(NOISE.values()))
    silent = [
        {**one, "metrics": {**one["metrics"], "server": None}}
        if one["identity"]["algo"]["name"] == "standalone"
        else one
        for one in against_limits()
    ]
    assert list(tables(silent)) == ["avg"]


def test_only_seeds_that_both_have_count_and_above_zero_is_better_whatever_the_metric():
    few = [
        one for one in against_limits() if (one["identity"]["algo"]["name"], one["identity"]["seed"]) != ("ml-ecs", 27)
    ]
    number = at(tables(few)["avg"], "private_limit", "16", "ml-ecs")["local", "gain"]
    assert (number.n, number.expected) == (4, 5)
    assert number.value == pytest.approx(0.2 + statistics.mean(NOISE[seed] for seed in SEEDS[1:]))
    turned = at(tables(lower_is_better(against_limits()))["avg"], "private_limit", "16", "ml-ecs")
    assert turned["local", "gain"].value == pytest.approx(-0.2 - statistics.mean(NOISE.values()))


def test_gains_that_are_the_same_at_both_points_are_printed_once(undrawn):
    records = copy.deepcopy(against_limits())
    for record in records:
        record["metrics"]["client"]["received"] = record["metrics"]["client"]["local"]
    table = tables(records)["avg"]
    assert all(line.contents[5].text == "=" and line.contents[1].text != "=" for line in table.lines)
    build_report(records, "x", cards=floor())
    assert [len(panel.lines) for panel in undrawn] == [1, 1]


# ------------------------------------------------------------------------------------------------------------ rounds


def test_gains_after_each_round_are_those_of_the_base_at_the_one_point_that_records_hold():
    table = tables(crossing())["avg"]
    shown = [line for line in table.lines if line.labels[0] == "round"]
    assert [line.labels[1] for line in shown] == ["1", "2", "3", "4"]
    assert [line.contents[1].value for line in shown] == pytest.approx([0.0, 0.01, 0.02, 0.1])
    assert all(line.contents[0] is None and line.contents[5] is None for line in shown)
    assert "scored after local training, the one point" in table.caption
    server = [line for line in tables(crossing())["server"].lines if line.labels[0] == "round"]
    assert [line.contents[1].value for line in server] == pytest.approx([0.0, 0.02, 0.04, 0.2])
    received = tables(crossing(), Asked(("received",), "ml-ecs", SEEDS))["avg"]
    assert not any(line.labels[0] == "round" for line in received.lines)


def test_a_table_of_many_rounds_shows_twenty_of_them_and_the_figure_all(undrawn):
    records = crossing(seeds=SEEDS[:2], rounds=tuple(0.001 * t for t in range(25)))
    shown = [line.labels[1] for line in tables(records)["avg"].lines if line.labels[0] == "round"]
    assert len(shown) <= 20
    assert shown[-1] == "25"
    build_report(records, "x", cards=floor())
    assert [len(panel.lines[0].values) for panel in undrawn] == [3, 3, 3, 25] * 2


# ----------------------------------------------------------------------------------------------------------- figures


def test_a_figure_has_a_panel_per_axis_and_a_line_per_algorithm_and_point(undrawn):
    fedavg = [one for one in crossing() if one["identity"]["algo"]["name"] != "standalone"]
    fedavg = [with_identity(one, algo={"name": "multi-fedavg"}) for one in fedavg]
    build_report([*crossing(), *fedavg], "x", Wanted(seeds=SEEDS), cards=floor())
    assert [panel.what for panel in undrawn] == ["private_limit", "devices", "rho", "round"] * 2
    assert [[line.scored for line in panel.lines] for panel in undrawn[:4]] == [
        *[["local", "received"] * 2] * 3, ["local", "local"],
    ]  # fmt: skip  # as panels stand
    assert [panel.base for panel in undrawn[:4]] == [128, 3, 0.5, None]
    assert [len(panel.lines) for panel in undrawn[4:]] == [2] * 4
    line = next(line for line in undrawn[0].lines if (line.label, line.scored) == ("ml-ecs", "received"))
    assert list(line.values) == list(LIMITS)
    values = [GAINS[16][1] + 2 * NOISE[seed] for seed in SEEDS]
    low, high = stats.t.interval(0.95, 4, statistics.mean(values), stats.sem(values))
    assert (line.gains[0].mean, line.gains[0].low, line.gains[0].high) == pytest.approx(
        (statistics.mean(values), low, high)
    )
