"""The machinery of checks: what they are called, what becomes of errors, and how tests get them."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path

import pytest
import torch

import contract_toys
from contract_plugins import BUILT_WITH, ENTRIES
from mlecs_bench.doors.events import CellRef
from mlecs_bench.doors.registry import Loaded, PluginEntry, Registry
from mlecs_bench.errors import PluginError, UsageError
from mlecs_bench.testing import CheckFailed, checks_of, checks_of_info, parametrize_with_checks, run_checks
from mlecs_bench.testing import toy as kit
from mlecs_bench.testing.bits import differing
from mlecs_bench.testing.toy import make_columns, make_gpt2
from mlecs_bench.testing.verdict import Check, reason_of


@pytest.fixture
def registry():
    return Registry(
        [
            *ENTRIES,
            PluginEntry("both", "dataset", "acme", "1.2", "contract_plugins:toy"),
            PluginEntry("both", "algorithm", "acme", "1.2", "contract_plugins:average"),
            PluginEntry("twice", "algorithm", "acme", "1.2", "contract_plugins:average"),
            PluginEntry("twice", "algorithm", "evil", "1.2", "contract_plugins:average"),
        ]
    )


def names(checks) -> list[str]:
    return [check.name for check in checks]


def test_checks_have_different_names_and_a_sentence_each(registry):
    for plugin, least in (("average", 30), ("toy", 13)):
        checks = checks_of(plugin, registry=registry)
        assert len(set(names(checks))) == len(checks) >= least
        for check in checks:
            assert re.fullmatch(r"[a-z-]+", check.name)
            assert re.fullmatch(r"[A-Z\"-].+\.", check.summary), check.name
            assert len(check.summary) <= 120
            assert str(check) == f"{plugin}-{check.name}"


def test_a_name_of_two_kinds_gets_the_checks_of_both_unless_one_is_asked_for(registry):
    both, data = checks_of("both", registry=registry), checks_of("both", "dataset", registry=registry)
    assert names(both) == names(checks_of("average", registry=registry)) + names(data)
    assert names(data) == names(checks_of("toy", registry=registry))


def test_an_unknown_name_is_a_usage_error_with_the_nearest(registry):
    with pytest.raises(UsageError, match=r"no plugin 'averag'\. Did you mean 'average'\?"):
        checks_of("averag", registry=registry)
    with pytest.raises(UsageError, match="no dataset 'average'"):
        checks_of("average", "dataset", registry=registry)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gone", "plugin 'gone' of distribution 'acme' 1.2 failed to import: ModuleNotFoundError: No module named"),
        (
            "crashing",
            "plugin 'crashing' of distribution 'acme' 1.2 failed in mlecs_algorithm: ZeroDivisionError: two l",
        ),
        ("refusing", "plugin 'refusing' of distribution 'acme' 1.2 cannot be loaded: a file is missing"),
        ("twice", "algorithm 'twice' is declared by 2 distributions: acme 1.2, evil 1.2"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_one_failed_verdict(name, reason, registry):
    (verdict,) = run_checks(checks_of(name, registry=registry))
    assert verdict.check.name == "loads"
    assert not verdict.passed
    assert str(verdict.reason).startswith(reason)
    assert "\n" not in str(verdict.reason)


def test_options_reach_the_algorithm_and_unknown_ones_are_refused(registry):
    BUILT_WITH.clear()
    checks = checks_of("average", options={"pull": "0.25"}, registry=registry)
    checks[names(checks).index("four-steps")]()
    assert [options.pull for options in BUILT_WITH] == [0.25]
    for given, message in (({"push": "1"}, "no option 'push'"), ({"pull": "much"}, "must be a number")):
        with pytest.raises(UsageError, match=message):
            checks_of("average", options=given, registry=registry)


def test_something_else_than_a_card_is_refused():
    with pytest.raises(UsageError, match="'cell' is a CellRef; give one of AlgorithmInfo, DatasetInfo, MetricInfo"):
        checks_of_info(Loaded("cell", CellRef("a", "d", "1", 1, 1, 1, 1), "acme", "1"))  # type: ignore[type-var]


def check_that(error: BaseException | None, origin=None) -> Check:
    def run() -> None:
        if error is not None:
            raise error

    return Check("x", "X.", "plugin", run, origin)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (CheckFailed("a, but b; c"), "a, but b; c"),
        (PluginError("d00 took 3 private steps"), "d00 took 3 private steps"),
        (ValueError("two\n  lines"), "ValueError: two lines"),
        (AssertionError(), "AssertionError"),
        (SystemExit(3), "SystemExit: 3"),
    ],
)
def test_every_error_in_a_check_becomes_a_reason_in_one_line(error, reason):
    with pytest.raises(CheckFailed, match=f"^{re.escape(reason)}$"):
        check_that(error)()
    (verdict,) = run_checks([check_that(error)])
    assert (verdict.passed, verdict.reason) == (False, reason)
    assert verdict.seconds >= 0


def test_a_check_that_returns_has_passed_and_ctrl_c_is_passed_on():
    (verdict,) = run_checks([check_that(None)])
    assert (verdict.passed, verdict.reason) == (True, None)
    with pytest.raises(KeyboardInterrupt):
        list(run_checks([check_that(KeyboardInterrupt())]))


def test_checks_run_one_by_one():
    verdicts = run_checks([check_that(None), check_that(KeyboardInterrupt())])
    assert next(verdicts).passed


def test_a_reason_names_the_deepest_line_in_the_plugins_own_files():
    info = contract_toys.card(contract_toys.NeedsAModality)
    checks = {check.name: check for check in checks_of_info(Loaded("broken", info, "toys", "1"))}
    with pytest.raises(CheckFailed) as caught:
        checks["no-modality"]()
    place = re.search(r" \(contract_toys\.py:(\d+)\)$", str(caught.value))
    assert place is not None
    line = Path(contract_toys.__file__).read_text().splitlines()[int(place[1]) - 1]
    assert "device.modalities[0]" in line


def test_a_file_of_a_package_is_named_with_its_folders(tmp_path, monkeypatch):
    package = tmp_path / "acme_method"
    (package / "parts").mkdir(parents=True)
    (package / "__init__.py").write_text("from acme_method.parts.core import build\n")
    (package / "parts" / "__init__.py").write_text("def deeper():\n    raise ValueError('x')\n")
    (package / "parts" / "core.py").write_text(
        "from acme_method.parts import deeper\n\n\ndef build(options):\n    deeper()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import acme_method

    with pytest.raises(ValueError, match="x") as caught:
        acme_method.build(None)
    assert reason_of(caught.value, acme_method.build) == "ValueError: x (acme_method/parts/__init__.py:2)"
    assert reason_of(caught.value, None) == "ValueError: x"
    assert reason_of(caught.value, contract_toys.Average) == "ValueError: x"
    for name in [name for name in sys.modules if name.startswith("acme_method")]:
        del sys.modules[name]


def test_checks_use_one_thread_and_give_the_others_back():
    seen = []
    info = contract_toys.card(lambda options: seen.append(torch.get_num_threads()) or contract_toys.Average(options))
    checks = {check.name: check for check in checks_of_info(Loaded("average", info, "toys", "1"))}
    torch.set_num_threads(2)
    try:
        checks["four-steps"]()
        assert (seen, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(1)


def test_parametrize_with_checks_gives_one_test_per_check(monkeypatch, registry):
    monkeypatch.setattr(Registry, "installed", classmethod(lambda cls: registry))
    mark = parametrize_with_checks("average", "toy", options={}).mark
    argument, checks = mark.args
    assert (mark.name, argument) == ("parametrize", "check")
    ids = [mark.kwargs["ids"](check) for check in checks]
    assert ids[:3] == ["average-loads", "average-card", "average-options"]
    assert ids[-1] == "toy-federated-round"
    assert len(set(ids)) == len(ids)


# The toys


def test_toys_are_the_same_each_time_whatever_the_global_generator(tmp_path):
    from safetensors.torch import load_file

    one = load_file(make_gpt2(tmp_path / "one") / "model.safetensors")
    torch.rand(3)
    again = load_file(make_gpt2(tmp_path / "again") / "model.safetensors")
    assert not differing(one, again)
    other = load_file(make_gpt2(tmp_path / "other", seed=5) / "model.safetensors")
    assert differing(one, other)
    assert (tmp_path / "one" / "tokenizer.json").read_bytes() == (tmp_path / "again" / "tokenizer.json").read_bytes()


def test_making_toys_leaves_the_global_generator_alone(tmp_path):
    before = torch.get_rng_state()
    make_gpt2(tmp_path)
    assert torch.equal(before, torch.get_rng_state())


def test_toy_samples_are_a_prefix_of_more_and_only_one_modality_has_gaps():
    columns = make_columns(160)
    absent = {name: int((~columns[f"has_{name}"]).sum()) for name in kit.NAMES}
    assert absent == {"audio": 16, "text": 0, "video": 0}
    assert all(make_columns(40, gaps=False)["has_audio"])
    assert dataclasses.asdict(kit.make_manifest(40))["n_samples"] == 40


def test_the_folder_of_the_toys_is_one_per_process_and_goes_with_it(monkeypatch):
    at_exit = []
    monkeypatch.setattr(kit.atexit, "register", lambda *call, **keywords: at_exit.append((call, keywords)))
    assert kit.process_folder() == kit.process_folder()
    folder = kit.process_folder.__wrapped__()
    (folder / "file").touch()
    ((function, *arguments), keywords) = at_exit[-1]
    function(*arguments, **keywords)
    assert not folder.exists()
