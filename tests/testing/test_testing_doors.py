"""The checks of all kinds but algorithms and datasets: a correct plugin passes, and for each check one breaks it."""

from __future__ import annotations

import pytest

import contract_parts
import contract_places
from mlecs_bench.doors.registry import KINDS, Loaded, Registry
from mlecs_bench.errors import UsageError
from mlecs_bench.testing import CheckFailed, checks_of, checks_of_info, workers_checks
from mlecs_bench.testing.checks import CONTRACTS
from mlecs_bench.testing.installed import ALGORITHM, DATASET, installed


def checks(kind, info, name="plugin"):
    return {check.name: check for check in checks_of_info(Loaded(name, info, "acme", "1"), kind=kind)}


def broken(kind, cases, name="plugin"):
    """Try broken plugins; every check of the kind but `loads` has to be among the broken ones."""
    assert {check for check, _, _ in cases} == {f.__name__.replace("_", "-") for f in CONTRACTS[kind].checks}
    for check, info, reason in cases:
        message = why(checks(kind, info, name)[check])
        assert reason in message, f"{check}: {message or 'passed'}"
        assert "\n" not in message


def why(check):
    """Return why a check fails, "" where it does not."""
    try:
        check()
    except CheckFailed as failure:
        return str(failure)
    return ""


def passes(kind, info, name="plugin"):
    for check in checks(kind, info, name).values():
        check()


def test_there_are_checks_for_every_kind_each_with_a_name_and_a_sentence():
    assert set(CONTRACTS) == set(KINDS)
    for contract in CONTRACTS.values():
        summaries = [(f.__doc__ or "").partition("\n")[0] for f in contract.checks]
        assert len(set(summaries)) == len(summaries)
        assert all(summary.endswith(".") and len(summary) <= 120 for summary in summaries)


def test_metrics():
    passes("metric", contract_parts.METRIC, "exact")
    broken("metric", contract_parts.BROKEN_METRICS, "exact")


def test_encoders():
    passes("encoder", contract_parts.ENCODER)
    passes("encoder", contract_parts.WITH_TOWER)
    broken("encoder", contract_parts.BROKEN_ENCODERS)


def test_profiles():
    passes("profile", contract_parts.profile(), "toy")
    cases = [(check, contract_parts.profile(**changes), r) for check, changes, r in contract_parts.BROKEN_PROFILES]
    broken("profile", cases, "toy")


def test_observers():
    passes("observer", contract_places.OBSERVER)
    broken("observer", contract_places.BROKEN_OBSERVERS)


@pytest.mark.slow
@pytest.mark.nightly
def test_workers(monkeypatch):
    passes("workers", contract_places.WORKERS)
    monkeypatch.setattr(workers_checks, "PATIENCE", 20.0)
    broken("workers", contract_places.BROKEN_WORKERS)


@pytest.mark.slow
@pytest.mark.nightly
def test_fleets():
    passes("fleet", contract_places.FLEET)
    broken("fleet", contract_places.BROKEN_FLEETS)


def test_an_engine_that_has_to_be_told_where_is_checked_with_what_users_write_behind_its_name():
    registry = Registry([*Registry.installed().entries("algorithm"), *contract_places.ENTRIES])
    asked = contract_places.SOMEWHERE.asked
    asked.clear()
    found = checks_of("somewhere:there:6379", registry=registry)
    assert [check.name for check in found] == [
        check.name for kind in ("workers", "fleet") for check in checks_of("somewhere:there:1", kind, registry=registry)
    ]
    for check in found:
        if check.name in ("loads", "card", "room"):
            check()
    assert asked == [("there:6379", 2)]
    for name, reason in (
        ("somewhere", "^the address must be there:PORT, got ''$"),
        ("somewhere:6379", "^the address must be there:PORT, got '6379'$"),
        ("somewhere:", r"^check takes NAME or NAME:ARGUMENT, such as processes:2, got 'somewhere:'$"),
        ("ml-ecs:there", r"^'ml-ecs' \(algorithm\) takes nothing behind its name, got ':there'; leave it out$"),
        ("elsewhere:there", "^no plugin 'elsewhere'. Did you mean 'somewhere'"),
    ):
        with pytest.raises(UsageError, match=reason):
            checks_of(name, registry=registry)
    with pytest.raises(UsageError, match=r"^check processes takes a number from 1 on, such as processes:2, got 'x'$"):
        checks_of("processes:x", "fleet")


@pytest.mark.slow
@pytest.mark.nightly
def test_the_contract_holds_for_an_engine_with_an_argument():
    registry = Registry(contract_places.ENTRIES)
    contract_places.SOMEWHERE.asked.clear()
    for check in checks_of("somewhere:there:6379", registry=registry):
        check()
    assert set(contract_places.SOMEWHERE.asked) == {("there:6379", 2), ("there:6379", None)}


@pytest.mark.slow
def test_studies():
    import contract_studies

    passes("study", contract_studies.STUDY)
    broken("study", contract_studies.BROKEN_STUDIES)


def test_the_toys_are_installed_inside_the_block_only_whatever_plugins_are_allowed(monkeypatch):
    for allowed in (None, "", "other"):
        if allowed is not None:
            monkeypatch.setenv("MLECS_BENCH_PLUGINS", allowed)
        with installed():
            registry = Registry.installed()
            assert registry.algorithm(ALGORITHM).info.title
            assert registry.dataset(DATASET).info.title
        assert ALGORITHM not in {entry.name for entry in Registry.installed().entries("algorithm")}


def test_options_are_refused_where_a_kind_has_none():
    with pytest.raises(UsageError, match="'mini' has no option 'x'"):
        checks_of("mini", options={"x": "1"})


def own(*kinds):
    """Return the plugins of some kinds that come with mlecs-bench."""
    entries = [entry for kind in kinds for entry in Registry.installed().entries(kind)]
    return [(entry.name, entry.kind) for entry in entries if entry.distribution == "mlecs-bench"]


@pytest.mark.usefixtures("unchecked")  # what checks shapes draws from Python's global random stream
def test_small_plugins_that_come_with_mlecs_bench_pass():
    optional = ("bertscore", "tensorboard", "mlflow", "wandb")  # these have tests of their own where they can be had
    found = [(name, kind) for name, kind in own("metric", "encoder", "profile", "observer") if name not in optional]
    assert len(found) >= 13
    for name, kind in found:
        for check in checks_of(name, kind):
            check()


@pytest.mark.slow
@pytest.mark.nightly
def test_places_studies_and_bertscore_pass():
    """In this process: workers and fleets of other processes have tests of their own, with processes that die."""
    for name, kind in (("in-process", "workers"), ("in-process", "fleet"), *own("study"), ("bertscore", "metric")):
        for check in checks_of(name, kind):
            check()
