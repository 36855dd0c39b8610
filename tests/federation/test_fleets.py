"""Wherever devices live, a cell gives the same bits: in process, over bytes, in processes that are killed."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from elsewhere_plugins import DEATH, DEFECT, MEMORY

import toy
from fleet_cells import Cells, Result, assert_same, check_a_silent_host, gone, request_fleet
from mlecs_bench.doors.events import Event, Tell
from mlecs_bench.errors import MlecsError, PluginError
from mlecs_bench.federation import process_fleet
from mlecs_bench.federation.fleet import Fleet, FleetRequest, recipe_from_json
from mlecs_bench.federation.messages import Message
from mlecs_bench.federation.process_fleet import ProcessFleet
from mlecs_bench.federation.turns import KINDS, Ask, DefectError, DeviceMissing, Refusal, StaleTurn
from mlecs_bench.testing import checks_of_info
from mlecs_bench.testing.fleets import ReversedFleet
from serialised import Elsewhere, SerialisedFleet


def pids(fleet: ProcessFleet) -> list[int]:
    return [member.process.pid for member in fleet._members]


# -------------------------------------------------------------------------------------------------------- over bytes


@pytest.fixture(scope="module")
def elsewhere(site) -> Iterator[Elsewhere]:
    interpreter = Elsewhere(site)
    yield interpreter
    interpreter.close()


def check_over_bytes(cells: Cells, elsewhere: Elsewhere, algo: str, folder: Path, expected: Result) -> None:
    made: list[SerialisedFleet] = []

    def make(request: FleetRequest) -> Fleet:
        made.append(SerialisedFleet(elsewhere, request.recipe, seed=len(algo)))
        return made[0]

    assert_same(cells.run(cells.plan(algo), make, folder), expected)
    assert set(made[0].happened) == {"doubled", "lost", "late", "early"}


@pytest.mark.slow
def test_devices_of_a_fresh_interpreter_give_the_record_of_every_algorithm(cells, elsewhere, in_process, tmp_path):
    for algo in toy.ALGORITHMS:
        check_over_bytes(cells, elsewhere, algo, tmp_path / algo, in_process(algo))


@pytest.mark.nightly
def test_devices_of_a_fresh_interpreter_know_the_modalities_of_every_round(cells, elsewhere, tmp_path):
    plan = cells.plan("ml-ecs", rounds=3, rho=1, schedule="markov:fail=0.6,repair=0.4", robustness=True)
    here = cells.run(plan, lambda request: request_fleet(cells.registry, "in-process", request))
    there = cells.run(plan, lambda request: SerialisedFleet(elsewhere, request.recipe), tmp_path)
    assert_same(here, there)
    assert set(here.outcome.metrics["without"]) == set(toy.NAMES)


OVER_BYTES = (
    "deterministic", "stateless", "device-order", "over-bytes", "resumable", "finite-messages", "counted-messages",
    "received-messages", "budget-paper", "budget-equal", "one-device", "no-modality", "drift-resumable",
)  # fmt: skip  # the checks that a fleet can break


@pytest.mark.nightly
@pytest.mark.parametrize("algo", ["ml-ecs", "multi-fedavg"])
def test_contract_is_kept_by_devices_of_a_fresh_interpreter(algo, registry, elsewhere):
    data = registry.dataset("toy").ref

    def make(request: FleetRequest) -> Fleet:
        plan = dataclasses.replace(request.recipe.plan, dataset=data)
        return SerialisedFleet(elsewhere, dataclasses.replace(request.recipe, plan=plan), loss=True)

    checks = {check.name: check for check in checks_of_info(registry.algorithm(algo), fleet=make)}
    for name in OVER_BYTES:
        checks[name]()


def test_a_recipe_is_all_in_its_json_and_is_refused_where_another_plugin_is_installed(cells, registry, tmp_path):
    for turns in (None, tmp_path):
        recipe = cells.recipe(cells.plan("ml-ecs"), turns)
        assert recipe_from_json(recipe.to_json(), registry) == recipe
    ref = dataclasses.replace(recipe.plan.dataset, code="0" * 64)
    changed = dataclasses.replace(recipe, plan=dataclasses.replace(recipe.plan, dataset=ref))
    with pytest.raises(PluginError, match=r"dataset 'toy' is elsewhere 1.0 here, and the plan was made with"):
        recipe_from_json(changed.to_json(), registry)


# --------------------------------------------------------------------------------------------------------- processes


def killing(fleets: list[ProcessFleet], at: Event, killed: list[int]) -> Tell:
    """Return what kills the first process of a fleet by SIGKILL when it is told of an event."""

    def tell(event: Event) -> None:
        if (event.kind, event.round, event.device) == (at.kind, at.round, at.device) and not killed:
            killed.append(pids(fleets[0])[0])
            os.kill(killed[0], signal.SIGKILL)

    return tell


@pytest.mark.slow
def test_a_process_killed_in_mid_round_is_replaced_with_equal_bits_and_none_is_left(cells, in_process, tmp_path, capfd):
    fleets: list[ProcessFleet] = []
    killed: list[int] = []
    seen: set[int] = set()

    def make(request: FleetRequest) -> Fleet:
        fleets.append(ProcessFleet(request.recipe, 2))
        return fleets[0]

    kill = killing(fleets, Event("device_end", round=2, device="d00"), killed)

    def tell(event: Event) -> None:
        seen.update(pids(fleets[0]))
        kill(event)

    # The first process has d00 and d02: d00 has replied in round 2, and d02 is at work.
    assert_same(cells.run(cells.plan(), make, tmp_path, tell), in_process("multi-fedavg"))
    assert len(killed) == 1
    assert len(seen) == 3
    assert all(map(gone, seen))
    fleets[0].close()
    assert "Traceback" not in capfd.readouterr().err


@pytest.fixture
def faulty(cells, tmp_path) -> Iterator[ProcessFleet]:
    """A process with one device whose turns fail as they are told."""
    fleet = ProcessFleet(cells.recipe(cells.plan("faulty", n_devices=1), tmp_path), 1)
    fleet.hello(0)
    yield fleet
    fleet.close()


def ask_one(fleet: ProcessFleet, t: int, **scalars: int):
    ((id_, answer),) = fleet.exchange({"d00": Ask(t, Message({}, scalars))})
    assert id_ == "d00"
    return answer


@pytest.mark.slow
def test_errors_of_the_other_side_arrive_as_they_are_and_too_many_deaths_in_one_line(faulty, monkeypatch):
    started = [*pids(faulty)]
    start = ProcessFleet._started
    monkeypatch.setattr(ProcessFleet, "_started", lambda *given: started.append(given) or start(*given))
    for number, type_ in enumerate(KINDS.values()):
        answer = ask_one(faulty, 1, fault=number)
        assert isinstance(answer, Refusal)
        assert type(answer.error()) is type_
        assert str(answer.error()) == f"fault {number}"
    defect = ask_one(faulty, 1, fault=DEFECT).error()
    assert type(defect) is DefectError
    assert "Traceback" in str(defect)
    assert str(defect).rstrip().endswith("ZeroDivisionError: a defect of the plugin")
    assert 'elsewhere_plugins.py", line' in str(defect)
    memory = ask_one(faulty, 1, fault=MEMORY).error()
    assert type(memory) is MlecsError
    assert str(memory).startswith(
        "the GPU's memory ran out (CUDA out of memory. Tried to allocate 2.00 GiB); --gradient"
    )
    assert type(ask_one(faulty, 3).error()) is StaleTurn
    reply = ask_one(faulty, 1)
    assert reply.upload.tensors["x/turns"].item() == 1, "what failed has left nothing"
    assert ask_one(faulty, 1).to_bytes() == reply.to_bytes()
    monkeypatch.setattr(process_fleet, "MOST_DEATHS", 2)
    missing = ask_one(faulty, 2, fault=DEATH).error()
    assert type(missing) is DeviceMissing
    assert str(missing).startswith("the process of d00 was killed by SIGKILL")
    assert str(missing).endswith(", 2 times in one round; every finished round is kept")
    assert "\n" not in str(missing)
    assert len(started) == 2, "a process that dies again and again is replaced only so often"
    assert ask_one(faulty, 2).upload.tensors["x/turns"].item() == 2, "in the next round there is a new one"
    monkeypatch.setattr(faulty, "_timeout", 0.5)
    os.kill(pids(faulty)[0], signal.SIGSTOP)
    late = ask_one(faulty, 3).error()
    assert (type(late), str(late)) == (DeviceMissing, "d00 gave no reply in round 3 within 0.5 s")
    os.kill(pids(faulty)[0], signal.SIGCONT)
    monkeypatch.setattr(faulty, "_timeout", None)
    assert ask_one(faulty, 3).upload.tensors["x/turns"].item() == 3, "the late turn is taken once"


@pytest.mark.nightly
def test_a_round_goes_on_without_a_process_that_is_silent_and_its_device_comes_back(cells, tmp_path):
    fleets: list[ProcessFleet] = []

    def make(request: FleetRequest) -> Fleet:
        fleets.append(ProcessFleet(request.recipe, 3, timeout=5.0))
        return fleets[0]

    def act(number: signal.Signals) -> None:
        os.kill(pids(fleets[0])[1], number)

    acts = functools.partial(act, signal.SIGSTOP), functools.partial(act, signal.SIGCONT)
    check_a_silent_host(cells, make, tmp_path, *acts, 5.0)


@pytest.mark.slow
def test_a_cell_gives_the_same_bits_with_a_process_for_each_device_in_any_order(cells, in_process, tmp_path):
    """Of one process and two the tests below and above say so."""
    make = functools.partial(request_fleet, cells.registry, "processes:3")
    run = cells.run(cells.plan("ml-ecs"), lambda request: ReversedFleet(make(request)), tmp_path)
    assert_same(run, in_process("ml-ecs"))


@pytest.mark.nightly
def test_a_device_elsewhere_has_the_pool_of_all_data(cells, in_process, tmp_path):
    make = functools.partial(request_fleet, cells.registry, "processes:2")
    assert_same(cells.run(cells.plan("centralised"), make, tmp_path), in_process("centralised"))


class StopError(Exception):
    """Stands for the end of the run."""


@pytest.mark.slow
def test_a_cell_that_stops_goes_on_in_another_number_of_processes_with_equal_bits(cells, in_process, tmp_path):
    for name, at in (("processes:2", ("device_end", 1, "d01")), ("in-process", ("device_end", 2, "d00"))):

        def tell(event: Event, at=at) -> None:
            if (event.kind, event.round, event.device) == at:
                raise StopError

        with pytest.raises(StopError):
            cells.run(cells.plan("ml-ecs"), functools.partial(request_fleet, cells.registry, name), tmp_path, tell)
    make = functools.partial(request_fleet, cells.registry, "processes:1")
    last = cells.run(cells.plan("ml-ecs"), make, tmp_path)
    assert [greeting.finished for greeting in last.greetings.values()] == [2, 1, 1]
    assert_same(last, in_process("ml-ecs"))


PARENT = """
import sys
from pathlib import Path
from mlecs_bench.doors.registry import Registry
from mlecs_bench.federation.fleet import recipe_from_json
from mlecs_bench.federation.process_fleet import ProcessFleet

if __name__ == "__main__":
    fleet = ProcessFleet(recipe_from_json(Path(sys.argv[1]).read_text(), Registry.installed()), 1)
    fleet.hello(0)
    print(*(member.process.pid for member in fleet._members), flush=True)
    sys.stdin.read()
"""


@pytest.mark.nightly
def test_processes_end_with_their_parent_however_it_ends(cells, site, tmp_path):
    script, recipe = tmp_path / "parent.py", tmp_path / "recipe.json"
    script.write_text(PARENT)
    recipe.write_text(cells.recipe(cells.plan(), tmp_path).to_json())
    environment = os.environ | {"PYTHONPATH": str(site)}
    for end in (signal.SIGKILL, None):
        with subprocess.Popen(
            [sys.executable, str(script), str(recipe)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        ) as parent:  # fmt: skip  # what passes
            children = [int(pid) for pid in parent.stdout.readline().split()]
            assert len(children) == 1
            if end is not None:
                parent.send_signal(end)
            parent.stdin.close()
            parent.wait(timeout=60)
        assert all(map(gone, children))


def test_devices_are_divided_evenly_and_no_process_is_without_one(cells, monkeypatch):
    started: list[tuple[str, ...]] = []
    monkeypatch.setattr(ProcessFleet, "_started", lambda _self, devices, number: started.append((number, devices)))
    for size in (1, 2, 3, 5):
        started.clear()
        ProcessFleet(cells.recipe(cells.plan(n_devices=3)), size)
        assert [number for number, _ in started] == list(range(min(size, 3)))
        assert sorted(itertools.chain(*(devices for _, devices in started))) == ["d00", "d01", "d02"]
        sizes = [len(devices) for _, devices in started]
        assert max(sizes) - min(sizes) <= 1
