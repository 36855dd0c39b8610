"""The paper's printed numbers against values typed from it and against the authors' logs."""

from __future__ import annotations

import itertools

import pytest

from authors_logs import BOTH, LOG_RECORDS
from mlecs_bench.report.frame import STATS, build_rows
from mlecs_plugins.paper.printed import (
    Drop,
    baselines,
    datasets,
    drops,
    errata,
    erratum,
    follows,
    gains,
    impossible_triples,
    printed,
    printed_in_table2,
    recomputed,
    sending,
    sizes,
)

ALL = ("standalone", "multi-fedavg", "fedmllm", "fedilora", "co-plms")


# Tables


def test_printed_scores_are_those_of_the_paper():
    for where, value in (
        (("standalone", "vast", "0.5", 3, "bertscore", "avg"), 0.272),
        (("multi-fedavg", "ur-fall", "0.5", 3, "f1_macro", "worst"), 0.527),
        (("fedmllm", "vast", "0.7", 3, "rouge_lsum", "best"), 0.233),
        (("fedilora", "vast", "0.8", 3, "rouge_lsum", "worst"), 0.246),
        (("fedilora", "ur-fall", "0.7", 3, "f1_macro", "best"), 0.794),
        (("co-plms", "vast", "0.5", 3, "rouge_lsum", "server"), 0.289),
        (("co-plms", "ur-fall", "0.8", 3, "f1_macro", "server"), 0.925),
        (("ml-ecs", "vast", "0.7", 3, "bertscore", "best"), 0.307),
        (("ml-ecs", "vast", "0.8", 3, "bertscore", "server"), 0.398),
        (("ml-ecs", "ur-fall", "0.5", 3, "f1_macro", "avg"), 0.754),
        (("ml-ecs", "vast", "0.8", 5, "bertscore", "server"), 0.296),
        (("ml-ecs", "vast", "0.8", 10, "rouge_lsum", "avg"), 0.256),
        (("ml-ecs", "ur-fall", "0.8", 20, "f1_macro", "worst"), 0.754),
    ):
        assert printed(*where).value == value


def test_what_the_paper_does_not_print_is_none():
    for where in (
        ("fedmllm", "vast", "0.5", 3, "bertscore", "server"),
        ("ml-ecs", "ur-fall", "0.5", 3, "f1_weighted", "avg"),
        ("ml-ecs", "vast", "0.5", 5, "bertscore", "avg"),
        ("ml-ecs", "vast", "0.8", 7, "bertscore", "avg"),
        ("fedmllm", "vast", "0.8", 5, "bertscore", "avg"),
        ("ml-ecs/no-mma", "vast", "0.8", 3, "bertscore", "avg"),
        ("ml-ecs", "two-sensors", "0.8", 3, "f1_macro", "avg"),
    ):
        assert printed(*where) is None


def test_the_column_of_table_2_with_three_devices_is_table_1_but_for_misprint_a():
    columns = [("vast", m, s) for m in BOTH for s in STATS] + [("ur-fall", "f1_macro", s) for s in STATS]
    apart = {
        (dataset, metric, stat)
        for dataset, metric, stat in columns
        if printed_in_table2(dataset, 3, metric, stat).value != printed("ml-ecs", dataset, "0.8", 3, metric, stat).value
    }
    assert apart == {("vast", "bertscore", "server")}
    assert "a" in printed_in_table2("vast", 3, "bertscore", "server").misprints


def test_the_sizes_and_algorithms_are_those_of_the_tables():
    found = sizes()
    assert (found.rates, found.n_devices) == (("0.5", "0.7", "0.8"), 3)
    assert (found.table2_rho, found.table2_devices) == ("0.8", (3, 5, 10, 20))
    assert baselines() == ALL
    assert datasets() == ("vast", "ur-fall")


# The authors' logs through this project's aggregation


def test_the_logs_give_the_printed_table_2_except_where_a_misprint_is_marked():
    rows = {row.identity["n_devices"]: row for row in build_rows(LOG_RECORDS)}
    places = [(n, metric, stat) for n in (3, 5, 10, 20) for metric in BOTH for stat in STATS]
    means = {(n, metric, stat): rows[n].cell("local", metric, stat).mean for n, metric, stat in places}
    cells = {(n, metric, stat): printed_in_table2("vast", n, metric, stat) for n, metric, stat in places}
    different = {place for place in places if f"{means[place]:.3f}" != f"{cells[place].value:.3f}"}
    assert different == {place for place in places if cells[place].misprints}
    assert {place: cells[place].misprints for place in different} == {
        **{(n, "bertscore", "server"): ("a",) for n in (3, 5, 10, 20)},
        (3, "rouge_lsum", "avg"): ("b",),
        (10, "rouge_lsum", "worst"): ("c",),
    }
    assert all(f"{means[place]:.3f}" == f"{cells[place].logs:.3f}" for place in different)


def test_the_logs_give_table_1_except_for_misprint_b():
    (row,) = (row for row in build_rows(LOG_RECORDS) if row.identity["n_devices"] == 3)
    cells = {(m, s): printed("ml-ecs", "vast", "0.8", 3, m, s) for m in BOTH for s in STATS}
    different = {
        place for place, cell in cells.items() if f"{row.cell('local', *place).mean:.3f}" != f"{cell.value:.3f}"
    }
    assert different == {place for place, cell in cells.items() if "b" in cell.misprints} == {("rouge_lsum", "avg")}


# Misprints


def test_the_triples_that_three_devices_cannot_have():
    assert sorted(impossible_triples()) == [
        ("co-plms", "0.8", "vast", "rouge_lsum"),
        ("fedilora", "0.5", "ur-fall", "f1_macro"),
        ("fedilora", "0.5", "vast", "bertscore"),
        ("ml-ecs", "0.7", "vast", "bertscore"),
        ("ml-ecs", "0.8", "vast", "rouge_lsum"),
        ("multi-fedavg", "0.8", "ur-fall", "f1_macro"),
        ("standalone", "0.7", "ur-fall", "f1_macro"),
        ("standalone", "0.8", "ur-fall", "f1_macro"),
        ("standalone", "0.8", "vast", "rouge_lsum"),
    ]


def three_devices(average, best, worst):
    """Can three devices have these, each rounded by at most half a unit of the third digit? In twentieths of it."""
    a, b, w = (round(20_000 * value) for value in (average, best, worst))
    for da, db, dw in itertools.product((-10, 0, 10), repeat=3):
        middle = 3 * (a + da) - (b + db) - (w + dw)
        if w + dw <= middle <= b + db:
            return True
    return False


def test_the_impossible_triples_are_those_that_no_rounding_explains():
    found = {}
    for algo, rho in itertools.product((*ALL, "ml-ecs"), ("0.5", "0.7", "0.8")):
        for dataset, metric in (("vast", "bertscore"), ("vast", "rouge_lsum"), ("ur-fall", "f1_macro")):
            cells = [printed(algo, dataset, rho, 3, metric, stat) for stat in ("avg", "best", "worst")]
            found[algo, rho, dataset, metric] = three_devices(*(cell.value for cell in cells))
            assert all(("d" in cell.misprints) is not found[algo, rho, dataset, metric] for cell in cells)
    assert len(found) == 54
    assert {triple for triple, possible in found.items() if not possible} == set(impossible_triples())


def test_every_misprint_has_a_mark_and_one_sentence():
    assert list(errata()) == list("abcdefgh")
    for mark, sentence in errata().items():
        assert erratum(mark) == sentence
        assert sentence.endswith(".")
        assert ". " not in sentence.replace("Avg. ", "").replace("B. ", "").replace("W. ", "")
    used = {m for n in (3, 5, 10, 20) for metric in BOTH for s in STATS for m in printed_marks(n, metric, s)}
    assert used == set("abcd")


def printed_marks(n, metric, stat):
    cells = (printed("ml-ecs", "vast", "0.8", n, metric, stat), printed_in_table2("vast", n, metric, stat))
    return [mark for cell in cells for mark in cell.misprints]


# Percentages of sections 4.2 to 4.5


def named(claim):
    """Return what tells the printed percentages apart."""
    return (claim.metric, "drop") if isinstance(claim, Drop) else (claim.metrics[0], len(claim.baselines), claim.form)


def test_the_percentages_are_those_of_the_text():
    found = {(g.metrics, g.baselines, g.stats, g.form): g.percent for g in gains()}
    devices = ("avg", "best", "worst")
    assert len(found) == 24
    assert found[("bertscore",), ALL, devices, "range"] == (0.36, 12.70)
    assert found[("f1_macro",), ALL, devices, "range"] == (0.61, 32.45)
    assert found[("rouge_lsum",), ("standalone",), devices, "range"] == (5.44, 12.08)
    assert found[("f1_macro",), ("fedilora",), devices, "by rate"] == (11.47, 2.04, 0.49)
    assert found[("rouge_lsum",), ("fedmllm",), devices, "by rate"] == (5.51, 7.83, 3.47)
    assert found[("bertscore",), ("standalone", "co-plms"), ("server",), "range"] == (1.31, 4.03)
    assert found[("f1_macro",), ("standalone", "co-plms"), ("server",), "by rate"] == (1.27,)
    no_mma = found[("bertscore", "rouge_lsum"), ("ml-ecs/no-mma",), ("avg", "server"), "by score"]
    assert no_mma == (1.93, 1.63, 2.00, 1.90)
    assert found[("f1_macro",), ("ml-ecs/no-se-ccl",), ("avg",), "by score"] == (6.63,)
    assert {d.metric: d.percent for d in drops()} == {"bertscore": (3.19,), "rouge_lsum": (3.15,), "f1_macro": (0.88,)}
    assert (sending().share_percent, sending().times) == (0.65, {"fedilora": 7, "fedmllm": 2})
    assert sending().senders == ALL[1:]


def test_which_percentages_do_not_follow_from_the_printed_tables():
    wrong = {named(claim): recomputed(claim) for claim in (*gains(), *drops()) if not follows(claim)}
    assert wrong == {
        ("bertscore", 5, "range"): pytest.approx((100 * (0.280 / 0.281 - 1), 100 * (0.284 / 0.252 - 1))),
        ("f1_macro", 5, "range"): pytest.approx((100 * (0.771 / 0.772 - 1), 100 * (0.698 / 0.527 - 1))),
        ("f1_macro", 1, "range"): pytest.approx((100 * (0.734 / 0.713 - 1), 100 * (0.754 / 0.697 - 1))),
        ("bertscore", "drop"): pytest.approx((100 * (0.309 / 0.298 - 1),)),
    }


def test_each_of_them_has_a_sentence_with_both_numbers():
    wrong = [claim for claim in (*gains(), *drops()) if not follows(claim)]
    sentences = [errata()[mark] for mark in "efgh"]
    for claim in wrong:
        numbers = (f"{claim.percent[0]:.2f} %", f"{recomputed(claim)[0]:.2f} %")
        assert sum(all(number in sentence for number in numbers) for sentence in sentences) == 1
    assert len(wrong) == len(sentences)


def test_with_the_logs_instead_of_misprint_b_four_percentages_in_rouge_fall():
    tables = {named(claim) for claim in (*gains(), *drops()) if not follows(claim)}
    logs = {
        named(claim) + getattr(claim, "baselines", ())[:1]: recomputed(claim, logs=True)
        for claim in (*gains(), *drops())
        if not follows(claim, logs=True) and named(claim) not in tables
    }
    assert {name: tuple(round(percent, 2) for percent in found) for name, found in logs.items()} == {
        ("rouge_lsum", 1, "range", "standalone"): (4.88, 12.08),
        ("rouge_lsum", 5, "range", "standalone"): (0.0, 16.75),
        ("rouge_lsum", 1, "by rate", "fedilora"): (7.32, 6.51, 1.98),
        ("rouge_lsum", 1, "by rate", "fedmllm"): (5.51, 7.83, 2.94),
        ("rouge_lsum", "drop"): (1.57,),
    }
    assert all(text in erratum("b") for text in ("0 %", "1.57 %"))


def test_a_picture_cannot_be_recomputed():
    pictures = [gain for gain in gains() if not gain.rates]
    assert len(pictures) == 6
    assert all(recomputed(gain) == () and follows(gain) for gain in pictures)
