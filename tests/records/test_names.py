"""Names of record files: what a person reads in them, and that every file system takes them."""

from __future__ import annotations

from hand_made import make_record, with_identity
from mlecs_bench.records.names import key_digits, option_words, rho_label
from mlecs_bench.records.results import record_name


def named(variant: str = "", **changes) -> str:
    """Return the name of the usual record with changes of its identity, without the key."""
    record = with_identity(make_record(), **changes)
    name = record_name(record["identity"], variant)
    assert name.endswith(f"--{record['key'][:8]}.json")
    return name.removesuffix(f"--{record['key'][:8]}.json")


def test_a_name_says_algorithm_dataset_rate_and_seed_and_in_what_a_cell_is_unusual():
    usual = "ml-ecs--vast--rho0.5--seed27"
    assert named() == usual
    for changes, words in (
        ({"n_devices": 5}, "devices=5"),
        ({"profile": {"name": "small"}}, "profile=small"),
        ({"dataset": {"split": "sequence"}}, "split=sequence"),
        ({"training": {"budget": "equal"}}, "budget=equal"),
        ({"evaluate": "all"}, "evaluate=all"),
    ):
        assert named(**changes) == f"{usual}--{words}"
    assert named("tau=2", n_devices=5, evaluate="all") == f"{usual}--devices=5-evaluate=all-tau=2"


def test_words_of_options_are_of_those_that_depart_from_the_usual():
    usual = {"tau": 1.0, "trains": ["encoder", "lora"], "suffix": "Answer.", "mode": "mean"}
    assert option_words(usual, usual) == ""
    other = {"tau": 0.0, "trains": ["encoder"], "suffix": "", "mode": "mean", "new": True}
    assert option_words(other, usual) == "tau=0-trains=encoder-suffix=none-new=True"
    assert option_words({"trains": ["encoder", "lora", "fusion"]}, usual) == "trains=encoder+lora+fusion"


def test_a_name_is_safe_on_every_file_system():
    record = make_record(algo="ml-ecs/no ccl:*?", rho={"audio": 0.5, "vision": 1.0})
    name = record_name(record["identity"], "a/b c")
    assert name.startswith("ml-ecs+no_ccl___--vast--rhoaudio=0.5,vision=1--seed27--a_b_c--")
    assert not set(name) & set('/\\:*?"<>| ')
    assert len(record_name(make_record(algo="x" * 300)["identity"], "y" * 300).encode()) < 255
    assert not record_name(make_record(algo="..")["identity"]).startswith(".")


def test_the_digits_of_a_key_are_read_back_from_any_name_that_has_them():
    record = make_record()
    assert key_digits(record_name(record["identity"])) == record["key"][:8]
    for name in ("copy.json", "a--b.json", "a--1234567.json", "a--123456789.json", "a--ABCDEF12.json"):
        assert key_digits(name) == ""


def test_rates_are_one_number_where_all_are_equal():
    assert rho_label({"a": 0.5, "b": 0.5}) == "0.5"
    assert rho_label({"b": 1.0, "a": 0.25}) == "a=0.25,b=1"
