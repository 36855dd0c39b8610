"""Studies: which runs a file or a preset stands for, and the copy that stays with the records."""

from __future__ import annotations

import dataclasses
import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from mlecs_bench.doors.options import option
from mlecs_bench.errors import PluginError, UsageError
from mlecs_bench.plan.study import Study, default_folder, expanded, keep_study, read_study

PROTOCOL = (27, 34, 46, 52, 93)
ONE = {"algo": "a", "dataset": "x", "rho": 0.5}
FULL = """
title: Everything in one
about: A study with all that a file may hold, größer.
settings:
  profile: mini
  options: {tau: 1.0, mode: mean}
  n_seeds: 2
blocks:
  first:
    algo: [a, b]
    dataset: x
    rho: [0.5, {audio: 0.25, vision: 1}]
  second:
    algo: a
    dataset: [x, y]
    rho: 0.7
    seeds: [5, 6]
    rounds: 3
    private_limit: 64
    options: {tau: 2.0}
"""


def study_of(*blocks, **settings) -> Study:
    return Study("T", "", {f"b{i}": block for i, block in enumerate(blocks)}, settings)


def written(tmp_path, text: str, name: str = "s.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def cells(study: Study) -> int:
    return sum(len(spec.seeds) for spec in study.specs())


# Grids


def test_every_combination_of_the_lists_is_a_run_and_the_last_setting_changes_fastest():
    block = {
        "split": ["s", "t"],
        "budget": ["paper", "equal"],
        "algo": ["a", "b"],
        "dataset": ["x", "y"],
        "n_devices": [3, 5],
        "rho": [0.5, 0.7],
    }
    found = [(s.rho, s.n_devices, s.dataset, s.algo, s.budget, s.split) for s in study_of(block).specs()]
    assert found == [
        (rho, n, dataset, algo, budget, split)
        for rho in (0.5, 0.7)
        for n in (3, 5)
        for dataset in ("x", "y")
        for algo in ("a", "b")
        for budget in ("paper", "equal")
        for split in ("s", "t")
    ]


def test_blocks_are_run_one_after_the_other():
    study = study_of({**ONE, "algo": ["b", "a"]}, {**ONE, "algo": "c"})
    assert [spec.algo for spec in study.specs()] == ["b", "a", "c"]


def test_a_run_that_two_blocks_name_is_run_once_where_it_comes_first():
    study = study_of({**ONE, "algo": ["a", "b"]}, {**ONE, "algo": ["c", "a"], "n_devices": [3, 5]})
    found = [(spec.algo, spec.n_devices) for spec in study.specs()]
    assert found == [("a", 3), ("b", 3), ("c", 3), ("c", 5), ("a", 5)]


def test_runs_that_differ_in_any_setting_are_different_runs():
    assert len(study_of(ONE, {**ONE, "evaluate": "all"}, {**ONE, "options": {"tau": 1}}).specs()) == 3


def test_a_rate_per_modality_is_one_rate():
    rates = {"audio": 0.25, "vision": 1}
    assert [spec.rho for spec in study_of({**ONE, "rho": rates}).specs()] == [rates]
    assert [spec.rho for spec in study_of({**ONE, "rho": [0.5, "audio=0.25,vision=1"]}).specs()] == [0.5, rates]


def test_an_empty_list_is_refused():
    for key in ("rho", "n_devices", "dataset", "algo", "budget", "split"):
        with pytest.raises(UsageError, match=f"block 'b0': names no {key}; give at least one"):
            study_of({**ONE, key: []}).specs()


@dataclass(frozen=True)
class Listing:
    """Options of a made-up algorithm: one value of `trains` is a list."""

    mu: float = option(0.1, help="h", source="ours")
    trains: tuple[str, ...] = option(("lora",), help="h", source="ours")


@dataclass(frozen=True)
class Lister:
    """A registry that knows one algorithm and one dataset."""

    def algorithm(self, name):
        if name == "broken":
            raise PluginError("it cannot be loaded")
        return SimpleNamespace(info=SimpleNamespace(options=Listing))

    dataset = algorithm


def found_in(block, *names: str) -> list[tuple]:
    """Return the values of single options and settings of every run of a block."""
    specs = study_of({**ONE, **block}).specs(Lister())
    return [tuple({**vars(s), **s.options, **s.data_options, **s.set}[name] for name in names) for s in specs]


def test_lists_sweep_anything_in_the_order_in_which_it_is_written():
    block = {
        "set": {"lora": {"rank": [4, 8]}, "learning_rates.lora": ["1e-3", 0.002]},
        "steps": [10, 20],
        "options": {"mu": [0.01, 0.1]},
        "rho": [0.5, 0.7],
        "dtype": ["float32", "float16"],
    }
    names = ("rho", "steps", "dtype", "mu", "lora.rank", "learning_rates.lora")
    axes = ((0.5, 0.7), (10, 20), ("float32", "float16"), (0.01, 0.1), (4, 8), (1e-3, 2e-3))
    assert found_in(block, *names) == list(itertools.product(*axes))


def test_an_option_that_is_a_list_is_swept_by_lists_of_lists():
    for written_as, meant in (
        (["encoder", "lora"], [["encoder", "lora"]]),
        ([["encoder"], ["encoder", "lora"]], [["encoder"], ["encoder", "lora"]]),
        (["encoder", ["encoder", "lora"]], ["encoder", ["encoder", "lora"]]),
        ("encoder,lora", ["encoder,lora"]),
    ):
        for key in ("options", "data_options"):
            assert found_in({key: {"trains": written_as}}, "trains") == [(one,) for one in meant]
    targets = found_in({"set": {"lora.targets": ["c_attn", "c_proj"]}}, "lora.targets")
    assert targets == [(["c_attn", "c_proj"],)]
    several = found_in({"set": {"lora.targets": [["c_attn"], ["c_attn", "c_proj"], None]}}, "lora.targets")
    assert several == [(["c_attn"],), (["c_attn", "c_proj"],), (None,)]


def test_lists_of_what_is_unknown_are_left_to_who_looks_it_up():
    assert found_in({"options": {"nu": [1, 2]}}, "nu") == [([1, 2],)]
    assert found_in({"algo": "broken", "options": {"mu": [1, 2]}}, "mu") == [([1, 2],)]
    with pytest.raises(UsageError, match=r"block 'b0': a profile has no setting 'lora.rnak'"):
        found_in({"set": {"lora.rnak": [1, 2]}})


def test_an_empty_list_anywhere_is_refused():
    for block, what in (({"steps": []}, "steps"), ({"options": {"mu": []}}, "options mu")):
        with pytest.raises(UsageError, match=f"block 'b0': names no {what}; give at least one"):
            found_in(block)


def test_a_flag_replaces_a_number_of_the_profile_however_the_study_names_it():
    """By its flag, in `set`, or by what it takes the place of: epochs that of steps."""
    study = study_of({**ONE, "steps": 3, "set": {"batch_size": 4}}, {**ONE, "set": {"local_epochs": 2}, "rounds": 5})

    def told(flags):
        return [(s.steps, s.local_epochs, s.batch_size, s.rounds, dict(s.set)) for s in study.overlaid(flags).specs()]

    assert told({"batch_size": 8, "rounds": 1}) == [(3, None, 8, 1, {}), (None, None, 8, 1, {"local_epochs": 2})]
    assert [(rounds, own) for *_, rounds, own in told({"set": {"rounds": "7"}})] == [
        (None, {"batch_size": 4, "rounds": 7}), (None, {"local_epochs": 2, "rounds": 7}),
    ]  # fmt: skip  # of two runs
    assert told({"steps": 9}) == [(9, None, None, None, {"batch_size": 4}), (9, None, None, 5, {})]
    assert told({"local_epochs": 1})[0] == (None, 1, None, None, {"batch_size": 4})


WRONG_BLOCKS = (
    ({"algo": "a", "dataset": "x"}, "block 'b1': setting 'rho' is missing"),
    ({**ONE, "rho": 1.5}, "block 'b1': rho must be in"),
    ({**ONE, "rho": [0.5, "half"]}, "block 'b1': rho must be a rate"),
    ({**ONE, "budget": ["paper", "half"]}, "block 'b1': budget must be paper or equal, got half"),
    ({**ONE, "n_devices": [3, 0]}, "block 'b1': n-devices must be a whole number of at least 1, got 0"),
)


def test_a_wrong_setting_is_refused_with_the_name_of_its_block():
    for block, expected in WRONG_BLOCKS:
        with pytest.raises(UsageError, match=expected):
            study_of(ONE, block).specs()


# Seeds


SEEDS = (
    ({}, {}, PROTOCOL),
    ({}, {"n_seeds": 2}, PROTOCOL[:2]),
    ({}, {"seeds": [5, 6]}, (5, 6)),
    ({}, {"seeds": "5,6"}, (5, 6)),
    ({}, {"seeds": 5}, (5,)),
    ({"n_seeds": 2}, {}, PROTOCOL[:2]),
    ({"n_seeds": 2}, {"seeds": [5]}, (5,)),  # a block replaces both ways of naming seeds
    ({"seeds": [5]}, {"n_seeds": 1}, (27,)),
)


def test_seeds_of_a_block_replace_those_of_the_study():
    for settings, block, seeds in SEEDS:
        assert [spec.seeds for spec in study_of({**ONE, **block}, **settings).specs()] == [seeds]


def test_seeds_of_all_blocks_and_of_some_are_told_apart():
    study = study_of({**ONE, "seeds": [1, 2, 3]}, {**ONE, "seeds": [2, 3, 4]}, {**ONE, "seeds": [9, 3, 2]})
    assert (study.seeds, study.further_seeds) == ((2, 3), (1, 4, 9))
    assert (study_of(ONE).seeds, study_of(ONE).further_seeds) == (PROTOCOL, ())


def test_a_flag_for_seeds_replaces_them_everywhere():
    for named in ({"n_seeds": 2}, {"seeds": [5, 6]}, {}):
        for study in (study_of(ONE, **named), study_of({**ONE, **named})):
            for flags in ({"seeds": "7"}, {"seeds": [7], "n_seeds": None}):
                assert [spec.seeds for spec in study.overlaid(flags).specs()] == [(7,)]
            assert [spec.seeds for spec in study.overlaid({"n_seeds": 1}).specs()] == [(27,)]


WRONG_SEEDS = (
    ({"seeds": [1], "n_seeds": 1}, "seeds and n-seeds exclude each other"),
    ({"n_seeds": 6}, "n-seeds must be from 1 to 5, got 6"),
    ({"seeds": ["x"]}, "seeds must be whole numbers"),
    ({"seeds": [1, 1]}, "seeds must be different whole numbers"),
    ({"seeds": []}, "seeds must be different whole numbers"),
)


def test_wrong_seeds_are_refused():
    for block, expected in WRONG_SEEDS:
        with pytest.raises(UsageError, match=expected):
            study_of({**ONE, **block}).specs()


# Settings and flags


def test_a_block_replaces_the_settings_of_the_study_and_options_name_by_name():
    study = study_of(
        {**ONE, "rounds": 3, "options": {"tau": 2}},
        ONE,
        rounds=9,
        steps=4,
        options={"tau": 1, "mode": "mean"},
        device_rank={"d0": 4},
    )
    first, second = study.specs()
    assert (first.rounds, first.steps, first.options) == (3, 4, {"tau": 2, "mode": "mean"})
    assert (second.rounds, second.steps, second.options) == (9, 4, {"tau": 1, "mode": "mean"})
    assert first.device_rank == second.device_rank == {"d0": 4}


def test_flags_replace_the_settings_of_the_study_and_of_its_blocks():
    study = study_of({**ONE, "algo": ["a", "b"], "rounds": 3}, {**ONE, "rounds": 4}, rho=0.9, rounds=5)
    flags = {"algo": ["c"], "rounds": 7, "rho": ["0.7", "0.8"], "steps": None, "options": {}}
    found = [(spec.algo, spec.rho, spec.rounds, spec.steps) for spec in study.overlaid(flags).specs()]
    assert found == [("c", 0.7, 7, None), ("c", 0.8, 7, None)]
    assert [spec.rounds for spec in study.specs()] == [3, 3, 4]  # the study itself stays as it was


def test_an_option_given_as_a_flag_wins_and_leaves_the_others():
    options = {"tau": 1, "mode": "mean"}
    for study in (study_of(ONE, options=options), study_of({**ONE, "options": options})):
        (spec,) = study.overlaid({"options": {"tau": "3", "rank": "8"}}).specs()
        assert spec.options == {"tau": "3", "mode": "mean", "rank": "8"}


def test_a_device_setting_given_as_a_flag_wins_over_that_of_a_block():
    study = study_of({**ONE, "device_rank": {"d0": 4, "d1": 8}}, ONE)
    first, second = study.overlaid({"device_rank": {"d0": "2"}}).specs()
    assert (first.device_rank, second.device_rank) == ({"d0": 2, "d1": 8}, {"d0": 2})


def test_flags_alone_are_a_study():
    flags = {"algo": ["a", "b"], "dataset": ["x"], "rho": ["0.5"], "n_seeds": 1}
    assert [(s.algo, s.seeds) for s in Study("", "", {"sweep": {}}).overlaid(flags).specs()] == [
        ("a", (27,)),
        ("b", (27,)),
    ]


# Files


def test_a_file_holds_the_title_the_settings_and_the_blocks(tmp_path):
    study = read_study(written(tmp_path, FULL))
    assert (study.title, study.about) == ("Everything in one", "A study with all that a file may hold, größer.")
    found = [(s.algo, s.dataset, s.rho, s.seeds, s.rounds, s.options["tau"]) for s in study.specs()]
    both = {"audio": 0.25, "vision": 1}
    assert found == [
        ("a", "x", 0.5, (27, 34), None, 1.0),
        ("b", "x", 0.5, (27, 34), None, 1.0),
        ("a", "x", both, (27, 34), None, 1.0),
        ("b", "x", both, (27, 34), None, 1.0),
        ("a", "x", 0.7, (5, 6), 3, 2.0),
        ("a", "y", 0.7, (5, 6), 3, 2.0),
    ]


def test_the_shortest_file_has_one_block(tmp_path):
    study = read_study(written(tmp_path, "title:\nblocks: {only: {algo: a, dataset: x, rho: 0.5}}"))
    assert (study.title, study.about, cells(study)) == ("", "", 5)


WRONG_FILES = (
    ("", "is no study: 'blocks' must map names to settings (algo, dataset, rho, ...), got nothing of that name"),
    ("- algo", "is no study"),
    ("algo: a", "is no study"),
    ("blocks: {}", "is no study"),
    ("blocks: [a]", "is no study: 'blocks' must map names to settings (algo, dataset, rho, ...), got list [\"a\"]"),
    ("blocks: {a: {algo: a}, a: {algo: b}}", "'a' stands there twice, again in line 1"),
    ("blocks: &a\n  b: [*a]", "what begins in line 1 holds itself"),
    (
        "a: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40)),
        "what begins in line 16 stands for more than 100,000 values",
    ),
    ("? [a]\n: b", "a name must be one word, got a list or a mapping in line 1"),
    ("a: " + "[" * 5000, "it is nested too deeply"),
    ("blocks:\n  a: {algo: a,\n    rho: [{x: 1, x: 2}]}", "'x' stands there twice, again in line 3"),
    ("title: [", "is not YAML"),
    ("block: {}\nblocks: {b: {algo: a}}", "has an unknown key 'block'. Did you mean 'blocks'?"),
    ("blocks: {b: {algos: a}}", "'b' in {path} has an unknown key 'algos'. Did you mean 'algo'?"),
    ("blocks: {b: {algo: a}, c: {1: a}}", "'c' in {path} has an unknown key '1'. Known: "),
    ("blocks: {b: {n-devices: 3, n_clients: 4}}", "the setting 'n_devices' stands there twice, again as 'n_clients'"),
    ("settings: {out: o}\nblocks: {settings: {algo: a}}", "'settings' in {path} has an unknown key 'out'"),
    (
        "settings: [a]\nblocks: {b: {algo: a}}",
        "'settings' in {path} must hold settings as 'name: value', got ['a']",
    ),
    ("blocks: {b: a}", "'b' in {path} must hold settings as 'name: value', got 'a'"),
    ("blocks: {b: }", "'b' in {path} must hold settings as 'name: value', got None"),
    ("blocks: {b: {options: tau}}", "'options' of 'b' in {path} must be a mapping of names to values"),
    ("settings: {device_rank: 4}\nblocks: {b: {algo: a}}", "'device_rank' of 'settings' in {path} must be a"),
)


def test_a_wrong_file_is_refused_in_one_line(tmp_path):
    for text, expected in WRONG_FILES:
        path = written(tmp_path, text)
        with pytest.raises(UsageError) as caught:
            read_study(path)
        assert expected.replace("{path}", str(path)) in str(caught.value)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_is_no_text_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read the study file .*none.yaml: No such file"):
        read_study(tmp_path / "none.yaml")
    (tmp_path / "s.yaml").write_bytes(b"\xff\xfe\x00blocks")
    with pytest.raises(UsageError, match="is not YAML"):
        read_study(tmp_path / "s.yaml")


def test_records_go_beside_a_kept_study_and_else_to_a_folder_of_its_name():
    for path, folder in (
        ("s/study.yaml", "s"), ("s/big.yaml", "results/big"), ("study.yaml", "."), ("study.yml", "results/study"),
    ):  # fmt: skip  # files and folders
        assert default_folder(Path(path)) == Path(folder)


def test_the_study_of_dynamic_federations_has_every_row_under_every_condition(monkeypatch):
    monkeypatch.setenv("UR_FALL_DIR", "/frames")
    specs = read_study(Path(__file__).parents[2] / "results/dynamic/study.yaml").specs()
    rows: dict[str, set[tuple[str, str, str]]] = {}
    for spec in specs:
        words = " ".join(word for word in spec.conditions.words() if not word.startswith("network"))
        rows.setdefault(words, set()).add((spec.algo, spec.dataset, str(spec.options)))
    assert list(rows) == [
        "", "modalities fail 0.2 repair 0.5", "participation 0.5", "dropout 0.2", "partition dirichlet 0.3",
        "int8 messages up",
    ]  # fmt: skip  # the conditions
    assert all(of == rows[""] for of in rows.values())
    assert len(rows[""]) == 2 * (6 + 2)
    assert {(spec.budget, len(spec.seeds), spec.network["up"]) for spec in specs} == {("equal", 5, 11.22)}


# The user's data


def test_blocks_may_be_chosen_in_any_order():
    study = Study("", "", {"a": ONE, "b": {**ONE, "rounds": [1, 2]}, "c": {**ONE, "rounds": 3}})
    rounds = lambda only: [spec.rounds for spec in study.specs(only=only)]  # noqa: E731  # one line says it
    assert rounds(()) == [None, 1, 2, 3]
    assert rounds(("c", "b")) == [3, 1, 2]
    assert rounds(("a",)) == [None]
    with pytest.raises(UsageError, match=r"no block 'aa'\. Did you mean 'a'\?"):
        study.specs(only=("b", "aa"))


def test_a_variable_in_a_folder_is_replaced(monkeypatch):
    for text in ("$MLECS_TEST_DATA/vast", "${MLECS_TEST_DATA}/vast"):
        monkeypatch.setenv("MLECS_TEST_DATA", "/my/data")
        assert expanded(text) == "/my/data/vast"
        assert [s.data_dir for s in study_of(ONE, data_dir=text).specs()] == ["/my/data/vast"]
        assert [s.data_dir for s in study_of({**ONE, "data_dir": "/own"}, data_dir=text).specs()] == ["/own"]


@pytest.mark.parametrize("empty", [True, False])
def test_a_variable_that_is_not_set_or_empty_is_named(monkeypatch, empty):
    if empty:
        monkeypatch.setenv("MLECS_TEST_DATA", "")
    else:
        monkeypatch.delenv("MLECS_TEST_DATA", raising=False)
    with pytest.raises(UsageError, match="set the variable MLECS_TEST_DATA to it"):
        study_of({**ONE, "slm": "$MLECS_TEST_DATA"}).specs()
    for text in ("$MLECS_TEST_DATA", "$MLECS_TEST_DATA/vast", "${MLECS_TEST_DATA}", "/a/${MLECS_TEST_DATA}/b"):
        with pytest.raises(UsageError, match="set the variable MLECS_TEST_DATA to its folder, or give --data-dir"):
            study_of({**ONE, "data_dir": text}).specs()


def test_models_and_towers_may_lie_where_variables_say(monkeypatch):
    monkeypatch.setenv("MLECS_TEST_MODELS", "/my/models")
    monkeypatch.delenv("MLECS_TEST_NONE", raising=False)
    towers = {"vision_tower": "$MLECS_TEST_MODELS/tower.pth", "features": "towers"}
    models = {"slm": ["${MLECS_TEST_MODELS}/a", "gpt2"], "llm": "$MLECS_TEST_MODELS", "data_options": towers}
    specs = study_of({**ONE, **models, "algo": "fedmllm", "options": {"prompt_suffix": "$MLECS_TEST_MODELS"}}).specs()
    assert [spec.slm for spec in specs] == ["/my/models/a", "gpt2"]
    assert {spec.llm for spec in specs} == {"/my/models"}
    assert [dict(spec.data_options) for spec in specs] == [{**towers, "vision_tower": "/my/models/tower.pth"}] * 2
    assert [dict(spec.options) for spec in specs] == [{"prompt_suffix": "$MLECS_TEST_MODELS"}] * 2  # is no path
    for key in ("slm", "llm", "proxy", "bertscore_model"):
        with pytest.raises(UsageError, match=r"set the variable MLECS_TEST_NONE to it"):
            study_of({**ONE, key: "$MLECS_TEST_NONE/x"}).specs()


def test_a_flag_for_the_data_needs_no_variable(monkeypatch):
    monkeypatch.delenv("MLECS_TEST_DATA", raising=False)
    study = study_of({**ONE, "data_dir": "$MLECS_TEST_DATA"}).overlaid({"data_dir": "/own"})
    assert [spec.data_dir for spec in study.specs()] == ["/own"]


# The copy beside the records


def test_a_study_that_is_written_and_read_again_names_the_same_runs(tmp_path):
    study = read_study(written(tmp_path, FULL))
    again = read_study(written(tmp_path, study.to_yaml(), "again.yaml"))
    assert again == study
    assert again.to_yaml() == study.to_yaml()


def test_the_copy_holds_no_setting_of_a_machine_but_variables_stay():
    local = {"data_dir": "/home/me/vast", "device": "cuda", "threads": 4}
    text = study_of({**ONE, **local}, {**ONE, "data_dir": "$VAST"}, **local, rounds=2).to_yaml()
    assert yaml.safe_load(text) == {
        "title": "T",
        "settings": {"rounds": 2},
        "blocks": {"b0": ONE, "b1": {**ONE, "data_dir": "$VAST"}},
    }


def test_a_copy_is_kept_once(tmp_path):
    out = tmp_path / "new" / "out"
    study = study_of(ONE)
    keep_study(study, out)
    path = out / "study.yaml"
    assert read_study(path).specs() == study.specs()
    with path.open("a") as file:
        file.write("# a remark of the user\n")
    before = path.read_bytes()
    keep_study(study_of(ONE, device="cuda", data_dir="/elsewhere"), out)  # the same study on another machine
    assert path.read_bytes() == before
    assert [p.name for p in out.iterdir()] == ["study.yaml"]


def test_a_folder_that_holds_another_study_is_refused(tmp_path):
    keep_study(study_of(ONE), tmp_path)
    before = (tmp_path / "study.yaml").read_bytes()
    with pytest.raises(UsageError, match=r"study.yaml is another study \('T'\); write to another folder with --out"):
        keep_study(study_of({**ONE, "rho": 0.7}), tmp_path)
    assert (tmp_path / "study.yaml").read_bytes() == before


def test_what_a_study_reports_is_kept_and_tells_no_studies_apart(tmp_path):
    for text, names in (("paper", ("paper",)), ("[paper, mine]", ("paper", "mine")), ("", ())):
        study = read_study(written(tmp_path, f"report: {text}\nblocks: {{b: {{algo: a, dataset: x, rho: 0.5}}}}"))
        assert study.report == names
        assert study.overlaid({"rounds": 2}).report == names
        assert read_study(written(tmp_path, study.to_yaml(), "again.yaml")) == study
    keep_study(study_of(ONE), tmp_path / "out")  # as 0.1.0 kept it
    keep_study(dataclasses.replace(study_of(ONE), report=("paper",)), tmp_path / "out")
    with pytest.raises(UsageError, match=r"'report' in .* must name studies, got 7"):
        read_study(written(tmp_path, "report: 7\nblocks: {b: {algo: a, dataset: x, rho: 0.5}}"))


def test_a_kept_study_that_is_damaged_is_refused(tmp_path):
    (tmp_path / "study.yaml").write_text("title: [")
    with pytest.raises(UsageError, match="is not YAML"):
        keep_study(study_of(ONE), tmp_path)


def test_the_study_in_the_docs_is_one(monkeypatch, tmp_path):
    monkeypatch.setenv("UR_FALL_DIR", "/data")
    page = (Path(__file__).parent.parent.parent / "docs" / "sweeps.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    specs = read_study(written(tmp_path, example)).specs()
    assert len(specs) == 2 * 2 * 2 * 2 + 2 + 2 * 2 * 2
    assert {len(spec.seeds) for spec in specs} == {5, 2}


def test_trackers_are_named_beside_the_blocks_and_change_no_run(tmp_path):
    path = tmp_path / "study.yaml"
    for text, names in (("[tensorboard, mlflow]", ("tensorboard", "mlflow")), ("wandb", ("wandb",)), ("none", ())):
        path.write_text(f"track: {text}\nblocks: {{b: {{algo: a, dataset: d, rho: 0.5}}}}\n")
        study = read_study(path)
        assert study.track == names
        keep_study(study, tmp_path / "kept")  # one after the other: which trackers are told makes no other study
    path.write_text("track: 3\nblocks: {b: {algo: a, dataset: d, rho: 0.5}}\n")
    with pytest.raises(UsageError, match="track must name trackers with commas, such as tensorboard,mlflow, got 3"):
        read_study(path)
