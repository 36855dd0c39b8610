"""Conditions: one spelling however written, part of the identity only where not the usual, refused early."""

from __future__ import annotations

import dataclasses

import pytest

from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import UsageError
from mlecs_bench.plan.conditions import TYPES, Conditions, Holding, condition, departing
from mlecs_bench.plan.conditions_compression import Compression
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
        ("int8:0.5", "compression: a share is kept by topk and by no other, such as topk:0.5"),
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
