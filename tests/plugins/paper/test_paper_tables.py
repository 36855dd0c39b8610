"""The paper's tables against hand values and scipy: hand-made records only."""

from __future__ import annotations

import statistics

import pytest
from mlecs_bench.report.paper_tables import Asked, ablation_table, table1, table2
from scipy import stats
from test_reference_rows import referenced

from hand_made import make_record, with_identity
from mlecs_bench.records.results import record_name
from mlecs_bench.report.arrange import arrange
from mlecs_bench.report.frame import build_rows
from mlecs_bench.report.table import Number
from mlecs_bench.seeds import PROTOCOL_SEEDS

BASE = dict(zip(PROTOCOL_SEEDS, (0.30, 0.34, 0.28, 0.41, 0.33), strict=True))
NOISE = dict(zip(PROTOCOL_SEEDS, (0.01, -0.012, 0.004, -0.006, 0.003), strict=True))


def five(algo="ml-ecs", gain=0.0, noise=1.0, seeds=PROTOCOL_SEEDS, **changes):
    """Return records of five seeds whose average device lies `gain` above BASE, with some noise."""
    records = []
    for seed in seeds:
        middle = BASE[seed] + gain + noise * NOISE[seed]
        records.append(
            make_record(
                algo=algo, seed=seed, local=(middle - 0.1, middle, middle + 0.1), server=middle + 0.2, **changes
            )
        )
    return records


def table_of(records, build=table1, **asked):
    (setting,) = arrange(build_rows(records), "ml-ecs")
    return build(setting, Asked(**{"moment": "local", "candidate": "ml-ecs", "seeds": PROTOCOL_SEEDS, **asked}))


def number(table, labels, heading) -> Number:
    (line,) = [line for line in table.lines if line.labels == labels]
    return line.contents[[path[-2:] for path in table.columns].index(heading)]


AVG, BEST, WORST, SERVER = ("client", "Avg. RLS"), ("client", "B. RLS"), ("client", "W. RLS"), ("server", "RLS")


def test_the_layout_is_the_papers():
    records = [*five(), *five("standalone"), *five(rho=0.8), *five(dataset="ur-fall", scorers={"f1_macro": "f1"})]
    table = table_of(records)
    assert table.left == ("MER", "method")
    assert [line.labels for line in table.lines] == [("0.5", "standalone"), ("0.5", "ml-ecs"), ("0.8", "ml-ecs")]
    assert [line.group for line in table.lines] == ["MER 0.5", "MER 0.5", "MER 0.8"]
    vast = [("vast", "client", f"{stat} RLS") for stat in ("Avg.", "B.", "W.")] + [("vast", "server", "RLS")]
    fall = [("ur-fall", "client", f"{stat} F1") for stat in ("Avg.", "B.", "W.")] + [("ur-fall", "server", "F1")]
    assert table.columns == (*vast, *fall)
    assert "not comparable with the paper" in table.honest


def test_numbers_are_mean_and_sd_over_seeds_of_device_statistics_with_their_records():
    records = five()
    table = table_of(records)
    values = [BASE[s] + NOISE[s] for s in PROTOCOL_SEEDS]
    for heading, plus in ((AVG, 0), (BEST, 0.1), (WORST, -0.1), (SERVER, 0.2)):
        found = number(table, ("0.5", "ml-ecs"), heading)
        assert found.value == pytest.approx(statistics.mean(values) + plus)
        assert found.sd == pytest.approx(statistics.stdev(values))
        assert (found.n, found.expected) == (5, 5)
        assert found.records == tuple(record_name(r["identity"]) for r in records)


def test_the_other_moment_takes_the_other_scores_of_devices_and_the_same_of_the_server():
    local, received = table_of(five()), table_of(five(), moment="received")
    row = ("0.5", "ml-ecs")
    assert number(received, row, AVG).value == pytest.approx(number(local, row, AVG).value + 0.05)
    assert number(received, row, SERVER) == number(local, row, SERVER)
    assert "moment received" in received.caption


def test_the_best_is_bold_and_what_a_paired_test_cannot_tell_from_it_is_close():
    records = [*five(gain=0.05, noise=0), *five("standalone", gain=0.045), *five("fedmllm", gain=-0.2)]
    table = table_of(records)
    ours, near, far = (number(table, ("0.5", name), AVG) for name in ("ml-ecs", "standalone", "fedmllm"))
    assert (ours.best, ours.close) == (True, False)
    p = stats.ttest_rel([BASE[s] + 0.05 for s in BASE], [BASE[s] + 0.045 + NOISE[s] for s in BASE]).pvalue
    assert p > 0.05
    assert (near.best, near.close) == (False, True)
    assert (far.best, far.close) == (False, False)


def test_marks_are_corrected_for_the_rows_of_a_rate():
    """p is 0.03 for one row: alone it is told from the best, beside a second one at p = 0.04 it is not."""
    wanted = {"standalone": 0.03, "fedmllm": 0.04}
    gains = {}
    for name, p in wanted.items():
        noise = list(NOISE.values())
        t = stats.t.isf(p / 2, 4)
        gains[name] = t * statistics.stdev(noise) / 5**0.5 - statistics.mean(noise)
    best = five(gain=0.0, noise=0)
    one = [*best, *five("standalone", gain=-gains["standalone"], noise=-1)]
    assert not number(table_of(one), ("0.5", "standalone"), AVG).close
    two = [*one, *five("fedmllm", gain=-gains["fedmllm"], noise=-1)]
    assert number(table_of(two), ("0.5", "standalone"), AVG).close


def test_equal_means_are_all_best():
    table = table_of([*five(), *five("standalone")])
    assert all(number(table, ("0.5", name), AVG).best for name in ("ml-ecs", "standalone"))


def test_where_lower_is_better_the_smallest_is_best():
    records = [*five(gain=0.05, noise=0), *five("standalone", noise=0)]
    for record in records:
        for moment in record["metrics"]["client"].values():
            for score in [*moment["rouge_lsum"].values(), record["metrics"]["server"]["rouge_lsum"]]:
                score["higher_is_better"] = False
    table = table_of(records)
    assert [number(table, ("0.5", name), AVG).best for name in ("standalone", "ml-ecs")] == [True, False]


def test_one_row_has_no_best_and_one_seed_no_test():
    assert not number(table_of(five()), ("0.5", "ml-ecs"), AVG).best
    table = table_of([*five(seeds=(27,)), *five("standalone", gain=-0.001, seeds=(27,))], seeds=(27,))
    assert number(table, ("0.5", "ml-ecs"), AVG).best
    assert not number(table, ("0.5", "standalone"), AVG).close


def test_a_mean_over_fewer_seeds_is_not_in_the_running():
    records = [*five(gain=0.2, seeds=(27, 34)), *five("standalone"), *five("fedmllm", gain=-0.001, noise=-1)]
    table = table_of(records)
    found = {name: number(table, ("0.5", name), AVG) for name in ("ml-ecs", "standalone", "fedmllm")}
    assert [(n.best, n.close) for n in found.values()] == [(False, False), (True, False), (False, True)]
    assert found["ml-ecs"].value > found["standalone"].value


def test_missing_seeds_are_counted_in_the_number_and_named_below():
    table = table_of(five(seeds=PROTOCOL_SEEDS[:3]))
    assert number(table, ("0.5", "ml-ecs"), AVG).text.endswith("(n=3/5)")
    assert "no record of seed 52, 93: any row" in table.notes
    table = table_of([*five(seeds=PROTOCOL_SEEDS[:3]), *five("standalone"), *five("fedmllm", seeds=(27, 34, 46))])
    where = ("fedmllm on vast, MER 0.5, N = 3", "ml-ecs on vast, MER 0.5, N = 3")
    assert f"no record of seed 52, 93: {'; '.join(where)}" in table.notes


def test_an_algorithm_without_a_server_has_no_number_there():
    records = [*five(), *(make_record(algo="fedavg", seed=s, server=None) for s in PROTOCOL_SEEDS)]
    table = table_of(records)
    assert number(table, ("0.5", "fedavg"), SERVER) is None
    no_server = table_of([make_record(algo="fedavg", server=None)])
    assert {path[1] for path in no_server.columns} == {"client"}


def test_references_close_their_rate_without_marks_or_records():
    table = table_of([*referenced(), *referenced("standalone")])
    assert [line.reference for line in table.lines] == [False, False, True]
    line = table.lines[-1]
    assert line.labels == ("0.5", "copy-subtitle")
    assert not any(n.best or n.close or n.records for n in line.contents)


def test_the_papers_values_stand_beside_ours_on_request_with_their_misprints():
    records = [*five(), *five("fedilora"), *five("mine"), *five(algo="ml-ecs", rho=0.35)]
    assert all(n.paper is None for line in table_of(records).lines for n in line.contents)
    table = table_of(records, with_paper=True)
    ours = number(table, ("0.5", "ml-ecs"), AVG)
    assert ours.paper == 0.244
    assert (ours.printed, ours.difference) == ("0.244", f"{ours.value - 0.244:+.3f}")
    assert number(table, ("0.5", "ml-ecs"), SERVER).paper == 0.304
    assert number(table, ("0.5", "mine"), AVG).paper is None
    assert number(table, ("0.35", "ml-ecs"), AVG).paper is None


def test_other_options_than_the_papers_have_no_value_of_it():
    usual, other = five(), [with_identity(r, algo={"options": {"tau": 3.0}}) for r in five()[:2]]
    table = table_of([*usual, *other], with_paper=True)
    assert number(table, ("0.5", "ml-ecs (tau=3.0)"), AVG).paper is None
    assert number(table, ("0.5", "ml-ecs"), AVG).paper is not None


def test_a_misprint_is_marked_and_explained():
    records = five("ml-ecs", rho=0.8)
    table = table_of(records, with_paper=True)
    marked = number(table, ("0.8", "ml-ecs"), AVG)
    assert marked.misprint
    assert all(any(note.startswith(f"[{mark}]") for note in table.notes) for mark in marked.misprint)


def devices(n, **changes):
    return [
        make_record(seed=s, local=tuple(BASE[s] + 0.01 * j for j in range(n)), server=BASE[s], rho=0.8, **changes)
        for s in PROTOCOL_SEEDS
    ]


def test_table_2_has_a_column_per_number_of_devices_of_what_has_several():
    records = [*devices(3), *devices(5), *devices(20), *devices(3, algo="standalone")]
    table = table_of(records, table2, with_paper=True)
    assert table.columns == tuple(("ml-ecs, MER 0.8", f"N = {n}") for n in (3, 5, 20))
    assert [line.labels for line in table.lines] == [
        ("vast", "client", "Avg. RLS"),
        ("vast", "client", "B. RLS"),
        ("vast", "client", "W. RLS"),
        ("vast", "server", "RLS"),
    ]
    best = table.lines[1].contents
    assert [n.value for n in best] == pytest.approx(
        [statistics.mean(BASE.values()) + 0.01 * (n - 1) for n in (3, 5, 20)]
    )
    assert [n.paper for n in best] == [0.264, 0.264, 0.259]
    assert not any(n.best or n.close for line in table.lines for n in line.contents)
    assert table_of(devices(3), table2) is None


def test_table_2_shows_its_own_misprint_where_it_repeats_table_1():
    scorers = {"bertscore": "a scorer"}
    table = table_of([*devices(3, scorers=scorers), *devices(5, scorers=scorers)], table2, with_paper=True)
    server = table.lines[-1].contents
    assert [(n.paper, n.misprint) for n in server] == [(0.298, "a"), (0.296, "a")]
    assert any(note.startswith("[a]") for note in table.notes)
    assert (
        number(table_of(devices(3, scorers=scorers), with_paper=True), ("0.8", "ml-ecs"), ("server", "BS")).paper
        == 0.398
    )


def test_table_1_leaves_other_numbers_of_devices_and_ablations_out():
    records = [*devices(3), *devices(5), *devices(3, algo="standalone"), *devices(3, algo="ml-ecs/no-kt")]
    table = table_of(records)
    assert [line.labels for line in table.lines] == [("0.8", "standalone"), ("0.8", "ml-ecs")]
    assert number(table, ("0.8", "ml-ecs"), BEST).value == pytest.approx(statistics.mean(BASE.values()) + 0.02)


def test_ablations_stand_below_the_whole_at_the_rates_that_they_have():
    records = [*five(), *five(rho=0.8), *five("ml-ecs/no-kt"), *five("standalone"), *five("other/no-kt")]
    table = table_of(records, ablation_table)
    assert [line.labels for line in table.lines] == [("0.5", "ml-ecs"), ("0.5", "ml-ecs/no-kt")]
    assert table_of(five(), ablation_table) is None
