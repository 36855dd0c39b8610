"""Conditions: one spelling however written, part of the identity only where not the usual, refused early."""

from __future__ import annotations

import dataclasses

import pytest

from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import UsageError
from mlecs_bench.plan.conditions import TYPES, Conditions, Holding, condition, departing
from mlecs_bench.plan.plan import Plan, plan_from_json
from mlecs_bench.plan.resolve import resolve
from mlecs_bench.plan.settings import spec_of
from mlecs_bench.plan.spec import RunSpec

REGISTRY = Registry.installed()
SPELLINGS = {
    "modalities": [
        ("exact", {"law": "exact"}, {"law": "exact", "devices": {}}),
        (
            "d1=acce,d0=rgb+depth",
            {"d0": ["depth", "rgb"], "d1": "acce"},
            {"d1": ["acce"], "d0": ["rgb", "depth", "rgb"]},
        ),
    ]
}


def spec(**changes: object) -> RunSpec:
    return spec_of({"algo": "multi-fedavg", "dataset": "ur-fall", "rho": 0.5, **changes})


def plan(**changes: object) -> Plan:
    return resolve(spec(**changes), REGISTRY)


def refusal(**changes: object) -> str:
    with pytest.raises(UsageError) as caught:
        plan(**changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_condition_is_equal_however_it_is_written_and_survives_json():
    assert SPELLINGS.keys() == TYPES.keys()
    for name, groups in SPELLINGS.items():
        for spellings in groups:
            found = [spec(**{name: written}) for written in spellings]
            assert all(one == found[0] for one in found)
            assert RunSpec.from_json(found[0].to_json()) == found[0] != spec()
            made = resolve(found[0], REGISTRY)
            assert plan_from_json(made.to_json(), REGISTRY) == made


def test_the_usual_conditions_stand_in_no_identity_no_name_and_no_table():
    usual = plan(**dict.fromkeys(TYPES))
    assert usual == plan()
    assert usual.conditions == Conditions()
    assert usual.conditions.departures() == {} == usual.departures
    assert (usual.variant, plan(modalities="bernoulli")) == ("", usual)
    assert plan(modalities="exact").variant == "exact rates"
    assert plan(modalities="exact").departures == {"modalities": "exact-rates"}


def test_what_departs_from_the_usual_reads_back_to_an_equal_condition():
    for given in (Holding(), Holding("exact"), Holding("given", {"d0": ("rgb",), "d1": ()})):
        assert condition("modalities", departing(given)) == given


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("fixed", "option 'law' of modalities must be one of bernoulli, exact, given, got 'fixed'"),
        ({"d0": ["rbg"]}, "modalities gives d00 'rbg', which the dataset lacks; it has acce, depth, rgb"),
        ("d7=rgb", "modalities names device 'd07'; devices of this run are d0 to d2"),
        ({"d0": "rgb", "d00": "acce"}, "modalities names device 'd00' twice"),
        ("d0=rgb,d0=acce", "modalities must be written name=value,name=value with each name once"),
        ({"d0": 3}, "modalities of d0 must be names with +, such as rgb+depth, got 3"),
        ({"law": "given"}, "modalities: modalities of single devices are given by the law given and by no other"),
        (True, "modalities must be a text, a number or a mapping, got True"),
    ],
)
def test_an_impossible_condition_is_refused_in_one_line(written, words):
    assert words in refusal(modalities=written)


def test_an_algorithm_that_does_not_cope_with_what_a_condition_brings_is_refused(monkeypatch):
    monkeypatch.setattr(Holding, "demands", ("drift",))
    words = refusal(modalities="exact")
    assert words.startswith("algorithm 'multi-fedavg' does not say that it copes with modalities that come and go")
    assert "copes=('drift',)" in words
    Conditions(Holding("exact")).check(3, ["rgb"], ("drift",), "mine")


def test_all_fields_of_conditions_are_settings_and_have_usual_values():
    settings = {field.name for field in dataclasses.fields(RunSpec)}
    assert TYPES.keys() <= settings
    for type_ in TYPES.values():
        assert departing(type_()) == {}
