"""The paper's tables of a setting, its values beside ours: hand-made records only.

Means, marks and references are the report's own, which are tested with its tables.
"""

from __future__ import annotations

import statistics

import pytest

from hand_made import make_record, with_identity
from mlecs_bench.doors.hookspecs import Control
from mlecs_bench.report.arrange import Cards, Order, arrange, control_key
from mlecs_bench.report.frame import BOTH_POINTS, build_rows
from mlecs_bench.report.scores import Asked
from mlecs_bench.report.study import StudyView
from mlecs_bench.seeds import PROTOCOL_SEEDS
from mlecs_plugins.paper.masks import informative_seeds
from mlecs_plugins.paper.printed import baselines, datasets
from mlecs_plugins.paper.tables import POINT_NOTE, ablation_tables, table1, table2
from study_records import BASE, NOISE, five, number_at, referenced

AVG, BEST, WORST, SERVER = ("client", "Avg. RLS"), ("client", "B. RLS"), ("client", "W. RLS"), ("server", "RLS")


def tables_of(records, build=table1, **asked):
    (setting,) = arrange(build_rows(records), "ml-ecs", order=Order(baselines(), datasets()))
    usual = {"eval_points": ("local",), "candidate": "ml-ecs", "seeds": PROTOCOL_SEEDS}
    return build(StudyView(setting, Asked(**usual | asked)))


def table_of(records, build=table1, **asked):
    """Return the one table, or None where there is none."""
    found = tables_of(records, build, **asked)
    if isinstance(found, list):
        (found,) = found or [None]
    return found


def test_the_layout_is_the_papers_with_a_table_per_dataset():
    names = ("ml-ecs/no-kt", "ml-ecs", "co-plms", "fedilora", "fedmllm", "multi-fedavg", "standalone", "mine")
    records = [make_record(algo=name) for name in names]
    records += [*five(rho=0.8), *five(dataset="ur-fall", scorers={"f1_macro": "f1"}, seeds=(34,))]
    vast, fall = tables_of(records)
    assert [(t.name, t.title) for t in (vast, fall)] == [
        (f"table1-{name}", f"Table 1: algorithms at 3 devices, {name}") for name in ("vast", "ur-fall")
    ]
    assert vast.left == ("MER", "method")
    algorithms = ["standalone", "multi-fedavg", "fedmllm", "fedilora", "co-plms", "mine", "ml-ecs"]
    assert [line.labels for line in vast.lines] == [*(("0.5", name) for name in algorithms), ("0.8", "ml-ecs")]
    for table, metric in ((vast, "RLS"), (fall, "F1")):
        devices = tuple(("client", f"{stat} {metric}") for stat in ("Avg.", "B.", "W."))
        assert table.columns == (*devices, ("server", metric))
        assert "say nothing of real ones" in table.honest
        assert table.notes[0].startswith("MER: the rate")
    assert "RLS: Rouge-LSum." in vast.caption
    assert "F1: macro F1." in fall.caption


def test_devices_scores_stand_before_the_servers_whatever_the_metrics():
    table = table_of(five(scorers={"rouge_lsum": "r", "bertscore": "b"}))
    assert list(table.columns) == [
        *(("client", f"{stat} {metric}") for metric in ("RLS", "BS") for stat in ("Avg.", "B.", "W.")),
        *(("server", metric) for metric in ("RLS", "BS")),
    ]


def test_both_points_stand_side_by_side_and_the_papers_value_beside_the_first():
    table = table_of(five(), eval_points=BOTH_POINTS, published=True)
    devices = [("client", f"{stat} RLS", point) for stat in ("Avg.", "B.", "W.") for point in BOTH_POINTS]
    assert list(table.columns) == [*devices, ("server", "RLS")]
    published = [number.published is not None for number in table.lines[0].contents]
    assert published == [True, False] * 3 + [True]
    assert POINT_NOTE in table.notes
    assert POINT_NOTE not in table_of(five(), published=True).notes


def test_table_2_has_a_line_for_each_point_and_one_for_the_server():
    table = table_of([*devices(3), *devices(5)], table2, eval_points=BOTH_POINTS, published=True)
    assert table.left == ("dataset", "side", "score", "scored")
    expected = [("client", f"{stat} RLS", point) for stat in ("Avg.", "B.", "W.") for point in BOTH_POINTS]
    assert [line.labels[1:] for line in table.lines] == [*expected, ("server", "RLS", "")]
    local, received = (table.lines[place].contents[0] for place in (0, 1))
    assert received.value == pytest.approx(local.value + 0.05)
    assert (local.published is None, received.published is None) == (False, True)


def test_seeds_are_informative_of_mma_where_devices_hold_unequal_numbers_of_modalities():
    records = [*five(), *five("ml-ecs/no-mma"), *five("ml-ecs/no-kt")]
    for record in records:
        if record["identity"]["seed"] in (27, 52):
            record["realised"]["modalities"]["d02"] = ["vision"]
    (row,) = build_rows([r for r in records if r["identity"]["algo"]["name"] == "ml-ecs/no-mma"])
    assert informative_seeds(row) == (27, 52)
    (note,) = [note for note in table_of(records, ablation_tables).notes if note.startswith("MMA")]
    assert "unequal numbers of modalities: 2 of 5 at rho 0.5 (27, 52)." in note
    without = table_of([*five(), *five("ml-ecs/no-kt")], ablation_tables)
    assert not any(note.startswith("MMA") for note in without.notes)


def test_numbers_are_those_of_the_rows_at_the_point_asked_for():
    values = [BASE[s] + NOISE[s] for s in PROTOCOL_SEEDS]
    local, received = table_of(five()), table_of(five(), eval_points=("received",))
    for heading, plus in ((AVG, 0), (BEST, 0.1), (WORST, -0.1), (SERVER, 0.2)):
        assert number_at(local, ("ml-ecs",), heading).value == pytest.approx(statistics.mean(values) + plus)
    assert number_at(received, ("ml-ecs",), AVG).value == pytest.approx(statistics.mean(values) + 0.05)
    assert number_at(received, ("ml-ecs",), SERVER) == number_at(local, ("ml-ecs",), SERVER)


def test_missing_seeds_are_counted_in_the_number_and_named_below():
    table = table_of([*five(seeds=PROTOCOL_SEEDS[:3]), *five("standalone"), *five("fedmllm", seeds=(27, 34, 46))])
    assert number_at(table, ("0.5", "ml-ecs"), AVG).text.endswith("(n=3/5)")
    where = ("fedmllm on vast, rho 0.5, 3 devices", "ml-ecs on vast, rho 0.5, 3 devices")
    assert f"no record of seed 52, 93: {'; '.join(where)}" in table.notes


def test_references_close_their_rate():
    table = table_of([*referenced(), *referenced("standalone")])
    assert [(line.labels, line.reference) for line in table.lines][-1] == (("0.5", "copy-subtitle"), True)


def test_the_papers_values_stand_beside_ours_on_request():
    records = [*five(), *five("fedilora"), *five("mine"), *five(algo="ml-ecs", rho=0.35)]
    assert all(number.published is None for number in table_of(records).numbers())
    table = table_of(records, published=True)
    ours = number_at(table, ("0.5", "ml-ecs"), AVG)
    assert (ours.published.value, ours.published.source) == (0.244, "paper")
    assert (ours.printed, ours.difference) == ("0.244", "")  # nothing to subtract from scores of synthetic data
    reasons = "synthetic data, tiny language models, fewer than 100 steps"
    assert f"no difference to published values is shown for rows of {reasons}" in table.notes
    assert number_at(table, ("0.5", "ml-ecs"), SERVER).published.value == 0.304
    assert number_at(table, ("0.5", "mine"), AVG).published is None
    assert number_at(table, ("0.35", "ml-ecs"), AVG).published is None


def test_other_options_than_the_papers_have_no_value_of_it():
    usual, other = five(), [with_identity(r, algo={"options": {"tau": 3.0}}) for r in five()[:2]]
    table = table_of([*usual, *other], published=True)
    assert number_at(table, ("0.5", "ml-ecs (tau=3.0)"), AVG).published is None
    assert number_at(table, ("0.5", "ml-ecs"), AVG).published is not None


def test_a_misprint_is_marked_and_explained():
    table = table_of(five("ml-ecs", rho=0.8), published=True)
    marks = number_at(table, ("0.8", "ml-ecs"), AVG).published.footnotes
    assert marks
    assert all(any(note.startswith(f"[{mark}]") for note in table.notes) for mark in marks)


def devices(n, **changes):
    return [
        make_record(seed=s, local=tuple(BASE[s] + 0.01 * j for j in range(n)), server=BASE[s], rho=0.8, **changes)
        for s in PROTOCOL_SEEDS
    ]


def test_table_2_has_a_column_per_number_of_devices_of_what_has_several():
    records = [*devices(3), *devices(5), *devices(20), *devices(3, algo="standalone")]
    table = table_of(records, table2, published=True)
    assert table.columns == tuple(("ml-ecs, MER 0.8", f"N = {n}") for n in (3, 5, 20))
    stats = [("client", "Avg. RLS"), ("client", "B. RLS"), ("client", "W. RLS"), ("server", "RLS")]
    assert [line.labels for line in table.lines] == [("vast", *stat) for stat in stats]
    best = table.lines[1].contents
    base = statistics.mean(BASE.values())
    assert [n.value for n in best] == pytest.approx([base + 0.01 * (n - 1) for n in (3, 5, 20)])
    assert [n.published.value for n in best] == [0.264, 0.264, 0.259]
    assert {n.difference for n in best} == {""}  # nothing to subtract from scores of synthetic data
    assert not any(n.best or n.close for n in table.numbers())
    assert table_of(devices(3), table2) is None


def test_table_2_shows_its_own_misprint_where_it_repeats_table_1():
    scorers = {"bertscore": "a scorer"}
    table = table_of([*devices(3, scorers=scorers), *devices(5, scorers=scorers)], table2, published=True)
    server = [number.published for number in table.lines[-1].contents]
    assert [(one.value, one.footnotes) for one in server] == [(0.298, "a"), (0.296, "a")]
    assert any(note.startswith("[a]") for note in table.notes)
    one = table_of(devices(3, scorers=scorers), published=True)
    assert number_at(one, ("0.8", "ml-ecs"), ("server", "BS")).published.value == 0.398


def test_table_1_leaves_other_numbers_of_devices_and_ablations_out():
    records = [*devices(3), *devices(5), *devices(3, algo="standalone"), *devices(3, algo="ml-ecs/no-kt")]
    table = table_of(records)
    assert [line.labels for line in table.lines] == [("0.8", "standalone"), ("0.8", "ml-ecs")]
    assert number_at(table, ("ml-ecs",), BEST).value == pytest.approx(statistics.mean(BASE.values()) + 0.02)


def test_ablations_stand_below_the_whole_at_the_rates_that_they_have():
    records = [*five(), *five(rho=0.8), *five("ml-ecs/no-kt"), *five("standalone"), *five("other/no-kt")]
    table = table_of(records, ablation_tables)
    assert [line.labels for line in table.lines] == [("0.5", "ml-ecs"), ("0.5", "ml-ecs/no-kt")]
    assert tables_of(five(), ablation_tables) == []


def test_controls_stand_in_the_table_of_ablations_too():
    control = Control("floor", "alone with public data", "nothing sent")
    records = [*five(), *five("ml-ecs/no-kt"), *five("standalone")]
    cards = Cards(controls={control_key(records[-1]["identity"]): control})
    (setting,) = arrange(build_rows(records), "ml-ecs", cards)
    (table,) = ablation_tables(StudyView(setting, Asked(BOTH_POINTS, "ml-ecs", PROTOCOL_SEEDS)))
    assert [line.labels[1] for line in table.lines] == ["alone with public data", "ml-ecs", "ml-ecs/no-kt"]
