"""Cells on machines that share no files: what travels, what runs there, what comes home."""

from __future__ import annotations

import dataclasses
import io
import json
import tarfile
import threading

import pytest

from mlecs_bench.data.cache import CACHE_VARIABLE
from mlecs_bench.doors.events import Event
from mlecs_bench.errors import PluginError, RecordError
from mlecs_bench.execution import archives, elsewhere
from mlecs_bench.execution.cell import run_job
from mlecs_bench.execution.elsewhere import Arrivals, Sender, data_folder, manifest_digest, run_parcel
from mlecs_bench.execution.event_lines import event_line, event_of
from mlecs_bench.federation.checkpoint import FOLDER
from mlecs_bench.records.results import REPRODUCIBLE, read_record
from mlecs_bench.testing.cells import recorded_cell, toy_jobs
from mlecs_bench.testing.installed import installed


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Another machine: a cache of its own."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "there"))
    return tmp_path / "there"


def sent(job, sender, fetched, *, shares_data=True):
    """Run a job's parcel as another machine would; return its events, and the records in words that came."""
    parcel = json.loads(sender.parcel(job))
    if not shares_data:
        parcel["data"][0] = "/nowhere/" + job.data.name
    arrivals, events, parts = Arrivals(job), [], []

    def say(word):
        parts.extend([word] if isinstance(word, bytes) else [])
        event = arrivals.event(word)
        events.extend([event] if event is not None else [])

    def fetch():
        fetched.append(job.key)
        return sender.data(job)

    run_parcel(json.dumps(parcel), fetch, say)
    return events, parts


def differing(one, other):
    return [part for part in REPRODUCIBLE if one[part] != other[part]]


@pytest.mark.parametrize(
    "shared", [pytest.param(False, marks=pytest.mark.nightly), pytest.param(True, marks=pytest.mark.slow)]
)
def test_a_cell_elsewhere_has_the_numbers_of_one_here_and_its_files_come_home(tmp_path, machine, shared):
    with installed():
        (job,) = toy_jobs(tmp_path / "out")
        job = dataclasses.replace(job, lost=("its node died",))
        job = dataclasses.replace(job, execution=dataclasses.replace(job.execution, save_models=True))
        sender, fetched = Sender(job.execution.out), []
        if not shared:
            sender.shared.unlink()
        events, parts = sent(job, sender, fetched, shares_data=shared)
        sender.close()
    end = events[-1].values
    assert end["error"] is None
    assert end["path"].parent == job.execution.out / "records"
    assert differing(end["record"], recorded_cell().record) == []
    assert end["record"]["provenance"]["lost_attempts"] == ["its node died"]
    assert read_record(end["path"]) == end["record"]
    models = sorted(path.name for path in (job.execution.out / "records").glob("*.models/*"))
    assert models == ["d00", "d01"]
    story = [(event.kind, event.round, event.device) for event in events]
    assert story == [(event.kind, event.round, event.device) for event in recorded_cell().events]
    assert {event.cell for event in events} == {job.ref}
    assert bool(parts) is not shared
    assert fetched == ([] if shared else [job.key]), "data are fetched by a machine that lacks them"
    assert {path.name for path in job.execution.out.iterdir()} <= {"records", FOLDER}
    assert not list(machine.glob("elsewhere/cells/*")), "a cell that is done leaves nothing there"


@pytest.mark.slow
def test_a_machine_that_would_compute_another_cell_refuses_it_in_one_line(tmp_path, machine, monkeypatch):
    with installed():
        (job,) = toy_jobs(tmp_path / "out")
        sender = Sender(job.execution.out)
        for changes, expected in (
            ({"versions": {"torch": "0.1"}}, "torch is .* there and 0.1 here; install the same"),
            ({"seed": 28}, "data, models or scorers differ there"),
            ({"plan": {**job.plan.to_values(), "variant": "package:gone/x"}}, "the package 'gone' is not installed"),
            ({"data": ["/nowhere", "0" * 64]}, "it has no data"),
        ):
            parcel, words = {**json.loads(sender.parcel(job)), **changes}, []

            def none():
                raise PluginError("it has no data")

            run_parcel(json.dumps(parcel), none, words.append)
            (event,) = map(event_of, words)
            assert event.kind == "cell_end"
            assert event.values["error"].count("\n") == 0
            with pytest.raises(AssertionError, match=expected):
                raise AssertionError(event.values["error"])


@pytest.mark.slow
def test_a_record_that_is_at_home_already_stays_and_another_one_is_refused(tmp_path, machine):
    with installed():
        (job,) = toy_jobs(tmp_path / "out")
        run_job(job, lambda event: None)
        (there,) = (tmp_path / "out" / "records").glob("*.json")
        before = there.read_bytes()
        assert elsewhere.bring_home(list(archives.parts_of(job.execution.out)), job) == there
        assert there.read_bytes() == before
        record = json.loads(before)
        record["metrics"]["server"] = None
        record["comm"]["total_parameters"] = record["comm"].get("total_parameters", 0) + 1
        (tmp_path / "away" / "records").mkdir(parents=True)
        del record["provenance"]["sha256"]
        (tmp_path / "away" / "records" / there.name).write_text(json.dumps(record))
        with pytest.raises(RecordError):
            elsewhere.bring_home(list(archives.parts_of(tmp_path / "away")), job)
    assert there.read_bytes() == before
    assert [path.name for path in job.execution.out.glob(".arrived*")] == []


def test_paths_of_installed_packages_are_told_by_package(monkeypatch):
    here = {"acme": "/opt/one/acme", "acme_more": "/opt/one/acme_more"}
    monkeypatch.setattr(elsewhere, "_packages", lambda: here)
    values = {"slm": "/opt/one/acme/slm", "more": ["/opt/one/acme_more", "/opt/one/acmeX", 1], "hub": "org/acme"}
    packed = elsewhere._packed(values)
    assert packed == {
        "slm": "package:acme/slm", "more": ["package:acme_more", "/opt/one/acmeX", 1], "hub": "org/acme"
    }  # fmt: skip
    monkeypatch.setattr(elsewhere, "_packages", lambda: {"acme": "/usr/acme", "acme_more": "/usr/acme_more"})
    assert elsewhere._unpacked(packed)["slm"] == "/usr/acme/slm"
    with pytest.raises(PluginError, match="the package 'gone' is not installed there"):
        elsewhere._unpacked(["package:gone/x"])


def test_of_many_processes_of_a_machine_one_fetches_the_data(tmp_path, machine):
    source = tmp_path / "words"
    source.mkdir()
    (source / "manifest.json").write_text("{}")
    (source / "table").write_bytes(bytes(range(256)) * 1000)
    fetched, found = [], []

    def get():
        def parts():
            fetched.append(1)
            yield from archives.parts_of(source)

        found.append(data_folder("/nowhere/words", manifest_digest(source), parts))

    threads = [threading.Thread(target=get) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fetched) == 1
    assert len(set(found)) == 1
    assert (found[0] / "table").read_bytes() == (source / "table").read_bytes()
    assert data_folder(str(source), manifest_digest(source), fetch=list) == source


@pytest.mark.parametrize("part", [1, 511, 1 << 20])
def test_a_folder_comes_out_of_its_archive_as_it_went_in_whatever_the_parts(tmp_path, monkeypatch, part):
    monkeypatch.setattr(archives, "PART", part)
    source = tmp_path / "a"
    files = {"one": b"", "deep/" + "n" * 120 + "/two": b"x" * 512, "deep/three": bytes(range(256)) * 5}
    for name, content in {**files, ".hidden/four": b"no"}.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(content)
    parts = list(archives.parts_of(source))
    archives.unpack(iter(parts), tmp_path / "b")
    found = {path.relative_to(tmp_path / "b").as_posix(): path.read_bytes() for path in (tmp_path / "b").rglob("*")
             if path.is_file()}  # fmt: skip
    assert found == files
    with tarfile.open(fileobj=io.BytesIO(b"".join(parts))) as archive:
        assert sorted(archive.getnames()) == sorted(files)


def test_an_archive_that_leads_out_of_its_folder_or_is_cut_leaves_nothing(tmp_path):
    evil = tarfile.TarInfo("../evil")
    for parts in ([evil.tobuf() + bytes(1024)], [tarfile.TarInfo("a").tobuf()[:200]], [b""]):
        with pytest.raises((tarfile.TarError, OSError)):
            archives.unpack(parts, tmp_path / "in" / "folder")
    assert list(tmp_path.rglob("*")) == [tmp_path / "in"]


def test_events_pass_through_a_line_of_json_unchanged():
    for event in recorded_cell().events:
        line = event_line(event)
        assert "\n" not in line
        assert event_of(line) == event
    note = Event("note", values={"text": "ü\n"})
    assert event_of(event_line(note)) == note
