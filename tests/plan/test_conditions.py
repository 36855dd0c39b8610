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
    ],
    "partition": [
        ("dirichlet:0.3", {"law": "dirichlet", "number": 0.3}, "law=dirichlet,number=0.30", "number=.3,dirichlet"),
        ("shards:2", {"law": "shards", "number": 2}, {"law": "shards", "number": "2", "min_samples": 2, "by": "group"}),
        (
            "group:stratum,min-samples=9",
            {"law": "group", "by": "stratum", "min-samples": 9},
            "group,by=stratum,min_samples=9",
        ),
        ("public-share=0.5,test-share=0.2", {"public_share": 0.5, "test_share": "0.2", "clusters": 10}),
    ],
    "sample_rho": [
        (0.5, "0.5", {"rate": 0.5}, {"rate": "0.5", "rates": {}}),
        (
            "acce=0.5,rgb=1,depth=0.7",
            {"rgb": 1, "acce": 0.5, "depth": "0.7"},
            {"rates": {"acce": 0.5, "depth": 0.7, "rgb": 1}},
        ),
    ],
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


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"partition": "dirichlet"}, "partition: the law dirichlet needs a number, such as dirichlet:0.5"),
        ({"partition": "dirichlet:0"}, "partition: alpha of dirichlet must be above 0 and at most 1,000,000, got 0"),
        (
            {"partition": "shards:2.5"},
            "partition: shards of a device must be a whole number of at least 1, got 2.5; 2 would do",
        ),
        ({"partition": "iid:3"}, "partition: the law iid takes no number, got 3; leave it out"),
        ({"partition": "diri:3"}, "option 'law' of partition must be one of iid, dirichlet, shards, group, quantity"),
        ({"partition": "iid,group"}, "partition names one law, such as dirichlet:0.3, got 'iid,group'"),
        ({"partition": "group,law=iid"}, "partition names one law"),
        ({"partition": "quantity:many"}, "option 'number' of partition must be a number, got 'many'"),
        ({"partition": "min-samples=1"}, "partition: min_samples must be at least 2, got 1"),
        ({"partition": "public-share=1"}, "partition: public_share must be from 0.01 to 0.99, got 1"),
        ({"partition": "test-share=0"}, "partition: test_share must be from 0.01 to 0.99, got 0"),
        ({"partition": "by=stratum"}, "partition: by=stratum names the groups of the law group, got the law iid"),
        ({"partition": {"clusters": 1}}, "partition: clusters must be at least 2, got 1"),
        ({"partition": {"alpha": 1}}, "partition has no option 'alpha'"),
        ({"partition": "group", "split": "sequence"}, "use --split frame, or group:COLUMN"),
        ({"n_devices": "all"}, "n-devices all needs --partition group, which says how many there are; got iid"),
        ({"n_devices": "all", "partition": "group"}, "n-devices all is a number once the data are there"),
        ({"n_devices": "some"}, "n-devices must be a whole number of at least 1, got some"),
        ({"sample_rho": 0}, "sample-rho: the rate must be in (0, 1], got 0"),
        ({"sample_rho": "acce=2"}, "sample-rho: the rate of acce must be in (0, 1], got 2"),
        ({"sample_rho": "acce=0.5,rgb=0.5"}, "sample-rho has no rate for modality 'depth'"),
        ({"sample_rho": {"smell": 0.5}}, "sample-rho has unknown modality 'smell'"),
        ({"sample_rho": {"rate": 0.5, "rates": {"rgb": 1}}}, "give one rate, or a rate for each modality"),
    ],
)
def test_an_impossible_dealing_is_refused_before_any_data_are_there(settings, words):
    assert words in refusal(**settings)


def test_a_dealing_is_named_by_its_law_and_what_is_not_as_usual_in_it():
    for written, words in (
        ("dirichlet:0.3", "partition dirichlet 0.3"),
        ("shards:2,min-samples=9", "partition shards 2, min samples 9"),
        ("group:stratum", "partition group by stratum"),
        ("test-share=0.2,public-share=0.5", "test share 0.2, public share 0.5"),
    ):
        assert plan(partition=written).variant == words
    assert plan(sample_rho="0.5").variant == "sample rho 0.5"
    assert plan(sample_rho="acce=0.5,rgb=1,depth=1").variant == "sample rho acce=0.5,depth=1,rgb=1"


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
