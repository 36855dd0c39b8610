"""Which rows share a table, and what they are called there: hand-made records only."""

from __future__ import annotations

from hand_made import SCORERS, make_record, with_identity
from mlecs_bench.doors.hookspecs import Control
from mlecs_bench.report.arrange import Cards, Order, arrange, control_key
from mlecs_bench.report.frame import build_rows


def settings_of(records, candidate="ml-ecs", order=None, controls=(), real_texts=(), **defaults):
    cards = Cards(defaults, dict(controls), frozenset(real_texts))
    return arrange(build_rows(records), candidate, cards, order or Order())


def labels(setting):
    return [arm.label for arm in setting.arms]


def test_algorithms_stand_in_the_order_asked_for_then_others_then_the_candidate_then_ablations():
    records = [make_record(algo=name) for name in ("b/no-x", "b", "z", "a", "mine", "y")]
    order = Order(algorithms=("z", "absent", "y"))
    assert labels(*settings_of(records, "b", order)) == ["z", "y", "a", "mine", "b", "b/no-x"]
    assert labels(*settings_of(records, "mine", order)) == ["z", "y", "a", "b", "mine", "b/no-x"]
    assert labels(*settings_of(records, "b")) == ["a", "mine", "y", "z", "b", "b/no-x"]


def test_datasets_stand_in_the_order_asked_for_and_others_behind():
    records = [make_record(dataset=name) for name in ("aaa", "ur-fall", "vast")]
    for first, expected in (((), ["aaa", "ur-fall", "vast"]), (("vast", "absent"), ["vast", "aaa", "ur-fall"])):
        (setting,) = settings_of(records, order=Order(datasets=first))
        assert [data.label for data in setting.data] == expected


def test_rates_ascend_as_numbers_and_a_rate_per_modality_comes_last():
    rates = (0.9, {"audio": 0.5, "vision": 1.0}, 0.05, 0.5)
    (setting,) = settings_of([make_record(rho=rho) for rho in rates])
    assert setting.rates() == ["0.05", "0.5", "0.9", "audio=0.5,vision=1"]


def test_what_every_number_depends_on_makes_a_table_of_its_own():
    for changes in (
        {"training": {"budget": "equal"}},
        {"training": {"steps": 40}},
        {"training": {"lr": {"lora": 0.1}}},
        {"profile": {"name": "small"}},
        {"numerics": {"torch": "9.9"}},
        {"min_modalities": 0},
        {"structure": {"rank": {"d00": 4}}},
    ):
        found = settings_of([make_record(), with_identity(make_record(), **changes)])
        assert [len(setting.rows) for setting in found] == [1, 1]
        assert found[0].label != found[1].label


def test_settings_say_in_what_they_differ_and_budget_paper_comes_first_however_few_its_records():
    records = [with_identity(make_record(seed=s), training={"budget": "equal"}) for s in (27, 34, 46)]
    found = settings_of([*records, make_record()])
    assert [setting.label for setting in found] == ["budget paper", "budget equal"]
    assert "budget equal" in found[1].about
    assert [setting.label for setting in settings_of(records)] == [""]


def test_of_equal_budgets_the_one_with_more_records_comes_first():
    long = [with_identity(make_record(seed=s), training={"steps": 40}) for s in (27, 34)]
    assert [setting.label for setting in settings_of([make_record(), *long])] == ["steps 40", "steps 20"]


def test_numbers_of_a_profile_make_tables_of_their_own_under_the_names_that_set_takes():
    rates = [with_identity(make_record(), training={"learning_rates": {"lora": rate}}) for rate in (1e-3, 2e-3)]
    found = settings_of(rates)
    assert [setting.label for setting in found] == ["learning_rates.lora 0.001", "learning_rates.lora 0.002"]
    assert [len(setting.rows) for setting in found] == [1, 1]
    epochs = with_identity(make_record(), training={"local_epochs": 2})
    del epochs["identity"]["training"]["steps"]
    labels = {setting.label for setting in settings_of([make_record(), epochs])}
    assert labels == {"local_epochs absent, steps 20", "local_epochs 2, steps absent"}
    assert "2 rounds x 2 local epochs" in settings_of([epochs])[0].about


def test_data_that_differ_in_anything_are_columns_apart_in_one_table():
    for changes, parts in (
        ({"split": "sequence"}, ["vast (split frame)", "vast (split sequence)"]),
        ({"view": "captions"}, ["vast (view captions)", "vast (view synthetic)"]),
    ):
        records = [make_record(), with_identity(make_record(), dataset=changes)]
        (setting,) = settings_of(records)
        assert sorted(data.label for data in setting.data) == parts


def test_scores_of_different_scorers_never_share_a_column():
    other = {**SCORERS, "rouge_lsum": "rouge-score==0.0.1"}
    (setting,) = settings_of([make_record(), make_record(scorers=other, seed=34)])
    assert len(setting.data) == len(setting.rows) == 2
    assert all(len(row.records) == 1 for row in setting.rows.values())
    assert "rouge-score==0.0.1" in " ".join(data.label for data in setting.data)


def test_a_scorer_that_is_not_installed_is_no_column():
    (setting,) = settings_of([make_record()])
    assert setting.data[0].metrics == ("rouge_lsum",)


def test_options_that_depart_from_the_usual_ones_are_in_the_label():
    usual = [make_record(seed=s) for s in (27, 34)]
    other = with_identity(make_record(), algo={"options": {"tau": [1, 2]}})
    (setting,) = settings_of([*usual, other])
    assert labels(setting) == ["ml-ecs", "ml-ecs (tau=1,2)"]
    assert [arm.algo for arm in setting.arms] == ["ml-ecs", "ml-ecs"]


def test_default_options_are_the_usual_ones_however_many_records_have_others():
    other = [with_identity(make_record(algo="a", seed=s), algo={"options": {"tau": 0.5}}) for s in (27, 34)]
    (setting,) = settings_of([*other, make_record(algo="a")], a={"tau": 1.0})
    assert labels(setting) == ["a", "a (tau=0.5)"]
    (setting,) = settings_of(other, a={"tau": 1.0})
    assert labels(setting) == ["a (tau=0.5)"]
    (setting,) = settings_of(other, a={"tau": 1.0, "new": 3})  # another version's options: nothing is known
    assert labels(setting) == ["a"]


def test_records_from_before_an_option_never_pass_for_its_default():
    before = [with_identity(make_record(algo="a", seed=s), algo={"options": {"tau": 1.0}}) for s in (27, 34)]
    since = [
        with_identity(make_record(algo="a", seed=s), algo={"options": {"tau": 1.0, "new": 3}}) for s in (27, 34, 46)
    ]
    for old, new, expected in [
        (before, since, ["a", "a (new=absent)"]),
        (before, since[:1], ["a", "a (new=3)"]),
    ]:
        (setting,) = settings_of([*old, *new], a={"tau": 1.0, "new": 3})
        assert labels(setting) == expected


def test_a_proxy_belongs_to_the_algorithm_and_not_to_the_setting():
    proxied = with_identity(make_record(algo="co-plms"), structure={"proxy": {"name": "mini", "digest": "e" * 64}})
    (setting,) = settings_of([make_record(), proxied])
    assert labels(setting) == ["co-plms", "ml-ecs"]


def test_a_row_scored_in_every_round_gives_curves_and_stands_in_where_there_is_no_other():
    often = [with_identity(make_record(seed=s), evaluate="all") for s in (27, 34)]
    (setting,) = settings_of(often)
    assert list(setting.curves) == list(setting.rows)
    (setting,) = settings_of([*often, *(make_record(seed=s) for s in (27, 34))])
    (row,), (curve,) = setting.rows.values(), setting.curves.values()
    assert (row.identity["evaluate"], curve.identity["evaluate"]) == ("last", "all")
    (setting,) = settings_of([*often, make_record()])
    (row,) = setting.rows.values()
    assert row.seeds == (27, 34)


def test_the_usual_number_of_devices_is_that_of_most_algorithms():
    many = [make_record(local=(0.1,) * n) for n in (3, 5, 10)]
    (setting,) = settings_of([*many, make_record(algo="standalone", local=(0.1,) * 5)])
    assert setting.usual_devices() == 5
    (setting,) = settings_of(many)
    assert setting.usual_devices() == 3


# Controls


FLOOR = Control("floor", "alone with public data", "the same data and steps, nothing sent")
CEILING = Control("ceiling", "all in one place", "all private data in one place")


def controlled():
    """Return records of four algorithms, and which of them are controls."""
    alone, public = (
        with_identity(make_record(algo="alone"), algo={"options": {"public": public}}) for public in (False, True)
    )
    central = make_record(algo="central")
    controls = {control_key(public["identity"]): FLOOR, control_key(central["identity"]): CEILING}
    others = [make_record(algo=name) for name in ("zeta", "mine", "mine/no-x")]
    return [public, central, alone, *others], controls


def test_controls_have_their_own_labels_and_stand_around_the_candidate():
    records, controls = controlled()
    (setting,) = settings_of(records, "mine", controls=controls, alone={"tau": 1.0, "public": False})
    names = ["alone", "zeta", "alone with public data", "mine", "all in one place", "mine/no-x"]
    assert labels(setting) == names
    roles = {arm.label: (arm.is_floor, arm.is_ceiling) for arm in setting.arms}
    assert {name for name, role in roles.items() if role[0]} == {"alone with public data"}
    assert {name for name, role in roles.items() if role[1]} == {"all in one place"}


def test_controls_that_would_have_one_label_keep_those_of_their_options():
    records, controls = controlled()
    other = with_identity(make_record(algo="alone"), algo={"options": {"public": True, "tau": 3}})
    (setting,) = settings_of([*records, other], "mine", controls={**controls, control_key(other["identity"]): FLOOR})
    found = [arm.label for arm in setting.arms if arm.is_floor]
    assert len(found) == len(set(found)) == 2
    assert FLOOR.label not in found


def test_a_metric_of_real_texts_is_none_of_synthetic_data():
    scorers = {**SCORERS, "by_sentence": "x"}
    for synthetic, metrics in ((True, ("rouge_lsum",)), (False, ("rouge_lsum", "by_sentence"))):
        record = with_identity(make_record(scorers=scorers), dataset={"synthetic": synthetic})
        (setting,) = settings_of([record], real_texts=["by_sentence"])
        assert setting.data[0].metrics == metrics
        assert "by_sentence" not in setting.data[0].unscored


def test_limits_of_a_try_are_said_and_those_of_a_profile_are_not():
    record = make_record()
    assert "at most" not in settings_of([record])[0].about
    record["realised"]["limits"] = {"private_limit": 8, "public_limit": None, "test_limit": 3}
    about = settings_of([record])[0].about
    assert ", at most 8 training samples of a device, all public training samples" in about


def test_a_row_scored_without_each_modality_stands_in_for_one_that_is_not_unless_that_has_more_seeds():
    usual = [make_record(seed=seed) for seed in (27, 34)]
    robust = [with_identity(make_record(seed=seed), robustness=True) for seed in (27, 34)]
    for records, expected in (([*usual, *robust], True), ([*robust, *usual], True), ([*usual, robust[0]], False)):
        (setting,) = settings_of(records)
        (row,) = setting.rows.values()
        assert row.identity.get("robustness", False) is expected
        assert len(row.records) == 2
