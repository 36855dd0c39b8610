"""Conditions: one spelling however written, part of the identity only where not the usual, refused early."""

from __future__ import annotations

import dataclasses
import re

import pytest

from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import UsageError
from mlecs_bench.plan.conditions import TYPES, Conditions, Holding, condition, departing
from mlecs_bench.plan.conditions_compression import Compression
from mlecs_bench.plan.conditions_rounds import Participation
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
    "compression": [
        ("topk", "topk:0.01", {"law": "topk"}, "law=topk,direction=both"),
        ("law=topk,keep=0.2,direction=up", {"law": "topk", "direction": "up", "keep": 0.2}),
        ("law=int8,direction=down", {"law": "int8", "keep": 0.01, "direction": "down"}),
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
    "participation": [
        (0.5, "0.5", {"fraction": 0.5}),
        (2, "2", {"devices": "2"}, "devices=2,attempts=3"),
        ({"away": {"d2": "4,1-2"}}, {"away": {"2": "1-2,4"}}, {"away": {"d02": "1-2,4-4"}}),
        ({"away": {"d1": 3}}, {"away": {"d01": "3"}}),
    ],
    "dropout": [(0.2, "0.2", {"during": 0.2}, "during=0.2,after=0"), ({"before": 0.1}, {"before": "0.1", "during": 0})],
    "network": [
        ("4g", {"preset": "4g"}, "preset=4g,server=0", {"down": 35.96, "up": "11.22", "latency": 0.02}),
        (
            {"preset": "fixed", "deadline": 5, "devices": {"d1": {"up": 1}}},
            {"down": 85.73, "up": 45.74, "latency": 0.0105, "deadline": 5.0, "devices": {"d01": {"up": 1.0}}},
        ),
    ],
    "faults": [({"byzantine": "nan", "devices": ["d1", "0"]}, {"byzantine": "nan", "devices": "d00,d01"})],
    "schedule": [
        ("markov:fail=0.2,repair=0.5", {"law": "markov", "fail": 0.2, "repair": "0.5"}, "markov: repair=.5, fail=.2"),
        ("duty:on=3,off=1", {"law": "duty", "on": 3, "off": "1"}, {"law": "duty", "off": 1, "on": 3, "fail": 0}),
        (
            {"d01": {3: ["rgb"], 5: ["rgb", "depth"]}},
            {"1": {"5": "depth+rgb", "3": "rgb"}},
            {"law": "given", "devices": {"d1": {"3": ["rgb"], "5": ["depth", "rgb", "rgb"]}}},
        ),
    ],
}
IMPOSSIBLE = {
    "schedule": [
        ("weekly", "option 'law' of schedule must be one of static, markov, duty, given, got 'weekly'"),
        ("markov", "schedule: fail must be in (0, 1], got 0.0; such as fail=0.2,repair=0.5"),
        ("markov:fail=0.2,repair=1.5", "schedule: repair must be in (0, 1], got 1.5"),
        ("markov:fail=0.2,on=3", "schedule: on is no parameter of the law markov; leave it out"),
        ("duty:on=3,off=0", "schedule: off must be at least 1 round, got 0; such as on=3,off=1"),
        ("duty:on=3,on=3", "schedule must be written name=value,name=value with each name once"),
        ({"law": "given"}, "schedule: devices and rounds are given by the law given and by no other"),
        ({"d7": {1: ["rgb"]}}, "schedule names device 'd07'; devices of this run are d0 to d2"),
        ({"d1": {2: ["rbg"]}}, "schedule gives d01 in round 2 'rbg', which the dataset lacks; it has acce, depth, rgb"),
        ({"d1": {11: ["rgb"]}}, "schedule names round 11 for d01, and the run has 10; see rounds"),
        ({"d1": {0: ["rgb"]}}, "schedule of d01 must name rounds 1, 2, ... each once, got '0'"),
        ({"d1": {3: ["rgb"], "03": ["rgb"]}}, "schedule of d01 must name rounds 1, 2, ... each once, got '03'"),
        ({"d1": ["rgb"]}, "schedule of d01 must map rounds to modalities, such as {3: [rgb]}, got ['rgb']"),
        ({"d1": {3: []}}, "schedule leaves d01 without modalities in round 3; leave it one, or give min-modalities 0"),
        (
            {"d0": {2: "none"}, "d1": {1: "none"}, "d2": {2: "none", 3: "rgb"}},
            "schedule leaves all devices without modalities in round 2; leave one somewhere",
        ),
        (True, "schedule must be a text, a number or a mapping, got True"),
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


def test_what_stands_before_pairs_is_the_short_form_and_dashes_are_underscores():
    for name, mixed, fields in (
        ("compression", "topk:0.05,direction=up", {"law": "topk", "keep": 0.05, "direction": "up"}),
        ("participation", "0.5,min-devices=2,too-few=repeat", {"fraction": 0.5, "min_devices": 2, "too_few": "repeat"}),
        ("participation", "2, min-devices=1", {"devices": 2, "min_devices": 1}),
        ("dropout", "0.1,after=0.05", {"during": 0.1, "after": 0.05}),
        ("network", "4g,deadline=30", {"preset": "4g", "deadline": 30}),
        ("partition", "dirichlet:0.3,min-samples=5", {"law": "dirichlet", "number": 0.3, "min-samples": 5}),
    ):
        assert condition(name, mixed) == condition(name, fields) != condition(name, None)


@pytest.mark.parametrize(
    ("name", "written", "words"),
    [
        ("participation", "0", "participation 0 asks nobody; give a share such as 0.5, or at least 1 device"),
        ("participation", -2, "participation -2 asks nobody"),
        ("compression", "int8:2", "compression int8 takes no number, got 'int8:2'; a share is for topk"),
        ("schedule", "weekly:3", "option 'law' of schedule must be one of static, markov, duty, given, got 'weekly'"),
        ("schedule", "duty:3,1", "schedule is written markov:fail=0.2,repair=0.5 or duty:on=3,off=1, got 'duty:3,1'"),
    ],
)
def test_a_slip_in_the_short_form_is_met_with_how_it_is_written(name, written, words):
    with pytest.raises(UsageError, match=re.escape(words)):
        condition(name, written)


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
    for given in (Compression(), Compression("fp16"), Compression("topk", 0.5, "down")):
        assert condition("compression", departing(given)) == given


def test_compression_is_named_by_its_law_its_share_and_its_direction():
    words = {written: plan(compression=written).variant for written in ("fp16", "topk", "law=int8,direction=up")}
    assert words == {"fp16": "fp16 messages", "topk": "topk 0.01 messages", "law=int8,direction=up": "int8 messages up"}
    assert plan(compression="none") == plan()


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("zip", "option 'law' of compression must be one of none, fp16, int8, topk, got 'zip'"),
        ("topk:1", "compression: the share that topk keeps must be above 0 and below 1, such as 0.01, got 1.0"),
        ("topk:0", "above 0 and below 1, such as 0.01, got 0.0"),
        ("topk:few", "option 'keep' of compression must be a number, got 'few'"),
        ("int8:0.5", "compression int8 takes no number, got 'int8:0.5'; a share is for topk, as in topk:0.01"),
        ("direction=up", "compression: a direction needs a law, such as law=int8,direction=up"),
        ("law=int8,direction=out", "option 'direction' of compression must be one of both, up, down, got 'out'"),
        ({"kind": "int8"}, "compression has no option 'kind'. Known: direction, keep, law"),
    ],
)
def test_an_impossible_compression_is_refused_in_one_line(written, words):
    assert words in refusal(compression=written)


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


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"participation": 0.1}, "participation 0.1 of 3 devices is none; give at least 0.17, or more devices"),
        ({"participation": 4}, "participation asks 4 devices a round of 3; give at most 3"),
        ({"participation": -1}, "participation -1 asks nobody"),
        ({"participation": 1.5}, "fraction must be above 0 and at most 1, got 1.5"),
        ({"participation": "half"}, "option 'fraction' of participation must be a number, got 'half'"),
        ({"participation": {"fraction": 0.5, "devices": 2}}, "fraction and devices exclude each other"),
        ({"participation": {"min_devices": 4}}, "min_devices is 4, and at most 3 of 3 devices can report in a round"),
        (
            {"participation": {"devices": 1, "min_devices": 3, "too_few": "repeat", "attempts": 2}},
            "min_devices is 3, and at most 2 of 3 devices can report in a round; give at most 2",
        ),
        ({"participation": {"attempts": 5}}, "attempts are for rounds that are repeated; add too_few: repeat"),
        ({"participation": {"sampling": "weighted"}}, "sampling weighted needs fraction or devices"),
        (
            {"participation": {"sampling": "best"}},
            "option 'sampling' of participation must be one of uniform, weighted",
        ),
        ({"participation": {"away": {"d7": "1"}}}, "participation.away names device 'd07'; devices of this run are d0"),
        ({"participation": {"away": {"d1": "3-1"}}}, "rounds are written 3, 4-6 or 9-, with commas between them"),
        ({"dropout": 1}, "with 1 in all no device ever reports; give less than 1"),
        ({"dropout": {"before": 0.5, "after": 0.6}}, "with 1.1 in all no device ever reports"),
        ({"dropout": -0.1}, "during is a probability and must be from 0 to 1, got -0.1"),
        ({"faults": "nan"}, "faults must be written name=value,name=value with each name once, got 'nan'"),
        ({"faults": {"byzantine": "nan"}}, "byzantine needs one of devices, count and share"),
        ({"faults": {"count": 2}}, "byzantine needs one of devices, count and share"),
        ({"faults": {"byzantine": "nan", "count": 4}}, "faults makes 4 of 3 devices faulty; give a count from 1 to 3"),
        ({"faults": {"byzantine": "lie", "count": 1}}, "must be one of none, sign-flip, noise, nan, stale, repeated"),
        ({"faults": {"byzantine": "nan", "devices": ["d9"]}}, "faults.devices names device 'd09'"),
        ({"network": "5g"}, "network '5g' is unknown. Did you mean '4g'? Known: 4g, fixed, flash"),
        ({"network": {"down": -3}}, "down must be above 0, got -3"),
        ({"network": {"latency": -1}}, "latency must be at least 0, got -1"),
        ({"network": {"up_sigma": 1}}, "up_sigma spreads up, which is not given; give both"),
        ({"network": {"devices": {"d1": {"ping": 3}}}}, "d01 has no 'ping'; give down, up, latency, speed"),
        ({"network": {"devices": {"d1": {"up": 0}}}}, "up of d01 must be above 0, got 0"),
        ({"network": {"devices": {"d9": {"up": 1}}}}, "network.devices names device 'd09'"),
        (
            {"network": {"preset": "4g", "deadline": 0.04}},
            "no upload arrives before the deadline of 0.04 s, as both ways take 0.04 s; give more",
        ),
        ({"faults": {"server_restart": 1}}, "with server_restart 1 no upload is ever merged; give less"),
    ],
)
def test_impossible_rounds_are_refused_in_one_line_with_what_would_work(given, words):
    assert words in refusal(**given)


def test_the_usual_in_other_words_is_the_usual():
    for written in (1.0, "1.0", {"fraction": 1}, {"sampling": "uniform"}, {"attempts": 3}):
        assert spec(participation=written) == spec()
    assert spec(dropout=0) == spec(dropout={"before": 0.0}) == spec(faults={"byzantine": "none"}) == spec()
    halves = [Participation(fraction=0.5).per_round(n) for n in (1, 2, 3, 4, 5, 10)]
    assert halves == [1, 1, 2, 2, 3, 5]


def test_every_departure_has_words_that_tell_it_from_another():
    written = [
        *(0.5, 0.25, 2, {"min_devices": 2}, {"min_devices": 2, "too_few": "repeat"}, {"away": {"d1": "2-"}}),
        *({"devices": 2, "sampling": "weighted"}, {"away": {"d1": "2"}}),
    ]
    words = [condition("participation", one).words() for one in written]
    words += [condition("dropout", one).words() for one in (0.1, 0.2, {"before": 0.1}, {"before": 0.1, "after": 0.1})]
    words += [
        condition("faults", one).words()
        for one in ({"byzantine": "nan", "count": 1}, {"byzantine": "nan", "share": 0.5}, {"server_restart": 0.1})
    ]
    given = ("4g", "flash", {"preset": "4g", "deadline": 9}, {"down": 3}, {"devices": {"d1": {"up": 1}}})
    words += [condition("network", one).words() for one in given]
    assert len(set(words)) == len(words)
    assert (words[0], words[2], words[8]) == ("participation 0.5", "participation 2 a round", "dropout 0.1")
    assert plan(participation=0.5).departures == {"participation": "participation-0.5"}


CASES = [(name, *case) for name, cases in IMPOSSIBLE.items() for case in cases]


@pytest.mark.parametrize(("name", "written", "words"), CASES)
def test_another_impossible_condition_is_refused_in_one_line(name, written, words):
    assert words in refusal(**{name: written})


def test_an_algorithm_that_does_not_cope_with_what_a_condition_brings_is_refused():
    for name, written, change, words in (
        ("dropout", 0.1, "absence", "devices that stay away, which dropout brings"),
        ("schedule", "duty:on=3,off=1", "drift", "modalities that come and go, which schedule brings"),
    ):
        given = Conditions(**{name: condition(name, written)})
        given.check(3, [], (change,), "mine")
        with pytest.raises(UsageError, match=f"algorithm 'mine' does not say that it copes with {words}; .*'{change}'"):
            given.check(3, [], (), "mine")


def test_every_schedule_has_words_that_tell_it_from_another():
    written = ["markov:fail=0.2,repair=0.5", "markov:fail=0.5,repair=0.2", "duty:on=3,off=1", "duty:on=1,off=3"]
    given = [{"d1": {3: "rgb"}}, {"d1": {2: "rgb"}}, {"d2": {3: "rgb"}}, {"d1": {3: "depth+rgb"}}]
    words = [plan(schedule=one).variant for one in (*written, *given)]
    assert len(set(words)) == len(words)
    assert (words[0], words[4]) == ("modalities fail 0.2 repair 0.5", "modalities d01@3=rgb")
    assert (plan(robustness=True).variant, plan(robustness=False)) == ("robustness", plan())


def test_all_fields_of_conditions_are_settings_and_have_usual_values():
    settings = {field.name for field in dataclasses.fields(RunSpec)}
    assert TYPES.keys() <= settings
    for type_ in TYPES.values():
        assert departing(type_()) == {}
