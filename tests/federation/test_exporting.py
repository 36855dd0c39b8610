"""Parties on folders that hold their own data alone: the same bits, and nothing of anybody else."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import datasets
import numpy as np
import pytest

import toy
from fleet_cells import PARTIES, SEED, assert_same
from mlecs_bench.data.exported import FILE, export_from_json
from mlecs_bench.data.samples import Samples, open_prepared
from mlecs_bench.errors import AccessError, DataError, UsageError
from mlecs_bench.federation.build import Builder, lay_out
from mlecs_bench.federation.exporting import export
from mlecs_bench.federation.fleet import FleetRequest, build_host, open_samples
from mlecs_bench.federation.portable import Order, order_from_json


class Apart:
    """Devices that each have a host on their own folder."""

    def __init__(self, request: FleetRequest, exports: Mapping[str, Path], registry) -> None:
        recipe = request.recipe
        self._hosts = {
            id_: build_host(dataclasses.replace(recipe, data=exports[id_], turns=None), [id_], registry)
            for id_ in recipe.plan.device_ids
        }

    def hello(self, after):
        return {id_: greeting for host in self._hosts.values() for id_, greeting in host.hello(after).items()}

    def exchange(self, asks) -> Iterator:
        for id_, ask in asks.items():
            yield id_, self._hosts[id_].turn(id_, ask)

    def close(self) -> None:
        return


def test_a_folder_holds_the_partys_rows_through_its_modalities_and_no_others(cells, exports):
    plan, whole = cells.plan(), cells.samples
    layout = lay_out(plan, SEED, whole)
    public, devices = layout.partition.public, dict(zip(plan.device_ids, layout.partition.devices, strict=True))
    for number, party in enumerate(PARTIES[1:]):
        mine = {*devices[party].train, *devices[party].test, *public.train}
        table = datasets.load_from_disk(str(exports[party] / "table"))
        assert set(table["row"]) == mine
        assert set(table["id"]) == {whole.ids[row] for row in mine}
        held = set(layout.schedule.ever(number))
        assert {name for name in table.column_names if name in toy.NAMES} == held
        stored = b"".join(path.read_bytes() for path in exports[party].rglob("*") if path.is_file())
        others = {id_ for row, id_ in enumerate(whole.ids) if row not in mine}
        assert not [id_ for id_ in others if f'"{id_}"'.encode() in stored]
    server = datasets.load_from_disk(str(exports["server"] / "table"))
    assert set(server["row"]) == {*public.train, *public.test}


def test_samples_of_a_folder_are_those_of_the_whole_where_they_are_its_own_and_blank_elsewhere(cells, exports):
    whole = cells.samples
    for party in PARTIES:
        own = open_samples(exports[party])
        rows = np.array(sorted(own.table["row"]))
        others = np.setdiff1d(np.arange(len(whole)), rows)
        assert len(own) == len(whole)
        assert own.manifest == whole.manifest
        assert (own.writing, own.references is None) == (whole.writing, whole.references is None)
        for name in ("id", "target", "group", "stratum"):
            values, expected = own.column(name), whole.column(name)
            assert [values[r] for r in rows] == [expected[r] for r in rows]
            assert {values[r] for r in others} <= {""}
        for m in toy.NAMES:
            if m in own.column_names:
                assert np.array_equal(own.array(m)[rows], whole.array(m)[rows])
                assert not own.array(m)[others].any()
                assert np.array_equal(own.presence[m][rows], whole.presence[m][rows])
            else:
                assert not own.presence[m].any()
                with pytest.raises(AccessError, match=f"the data of {party} have no '{m}'; they were exported without"):
                    own.array(m)


@pytest.mark.slow
def test_a_federation_whose_parties_each_see_their_own_folder_gives_the_same_bits(cells, exports, in_process, tmp_path):
    apart = dataclasses.replace(cells, samples=open_samples(exports["server"]))
    for algo in sorted(set(toy.ALGORITHMS) - {"centralised"}):
        run = apart.run(cells.plan(algo), lambda request: Apart(request, exports, cells.registry), tmp_path / algo)
        assert_same(run, in_process(algo))
    with pytest.raises(UsageError, match=r"needs the data of all parties, and here are those of .* alone; use"):
        apart.run(cells.plan("centralised"), lambda request: Apart(request, exports, cells.registry))


def test_a_folder_of_another_seed_or_of_no_use_is_refused_in_one_line(cells, exports, tmp_path):
    plan = cells.plan()
    order = order_from_json(Order.of(cells.recipe(plan)).to_json(), cells.registry)
    order.check(open_samples(exports["d01"]))
    order.check(cells.samples)
    other = export(cells.samples, plan, SEED + 1, "d01", tmp_path / "other")
    with pytest.raises(
        DataError, match=r"^the data were exported for a run with the cut \w{12}, the server's is \w{12};"
    ):
        order.check(Samples.open(other))
    with pytest.raises(UsageError, match=r"^'d09' is no party of this run; those are server, d00, d01, d02$"):
        export(cells.samples, plan, SEED, "d09", tmp_path / "none")
    with pytest.raises(UsageError, match=r"^these are the data of d01 alone; export from the whole$"):
        export(open_samples(exports["d01"]), plan, SEED, "d01", tmp_path / "none")
    with pytest.raises(UsageError, match=r"^'centralised' trains on the data of all parties in one place;"):
        export(cells.samples, cells.plan("centralised"), SEED, "d01", tmp_path / "none")
    with pytest.raises(DataError, match="is there already; name a new folder"):
        export(cells.samples, plan, SEED, "d01", tmp_path / "other")
    (tmp_path / "other" / FILE).write_text("{}")
    with pytest.raises(DataError, match=r"export.json cannot be read \('cut'\); export the data again"):
        Samples.open(open_prepared(tmp_path / "other"))


def test_an_export_and_an_order_are_all_in_their_json_and_an_order_names_no_path_of_the_server(cells, exports):
    text = (exports["d00"] / FILE).read_text()
    assert export_from_json(text).to_json() == text
    order = Order.of(cells.recipe(cells.plan("ml-ecs")))
    again = order_from_json(order.to_json(), cells.registry)
    assert again == order
    inside = Path(toy.__file__).parent  # no package: its paths stay; those of packages travel by their names
    package = Path(datasets.__file__).parent / "some" / "model"
    plan = dataclasses.replace(order.plan, proxy=str(package))
    travelling = dataclasses.replace(order, plan=plan).to_json()
    assert json.loads(travelling)["plan"]["proxy"] == "package:datasets/some/model"
    assert order_from_json(travelling, cells.registry).plan.proxy == str(package)
    assert str(inside) not in travelling
    assert Builder(again.plan, SEED, cells.samples, cells.registry).layout == lay_out(order.plan, SEED, cells.samples)
