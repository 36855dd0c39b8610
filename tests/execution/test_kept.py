"""What a cell leaves beside its record: answers that are its own, and models that answer as they did in it."""

from __future__ import annotations

import dataclasses
import json
from statistics import fmean

import pytest
import torch

from mlecs_bench.errors import DataError, RecordError, UsageError
from mlecs_bench.execution import cell as cell_module
from mlecs_bench.execution.cell import run_job
from mlecs_bench.federation.fleet import InProcessFleet, open_samples
from mlecs_bench.federation.saved import load_model
from mlecs_bench.federation.turns import Ask, Reply
from mlecs_bench.models.sources import pretrained
from mlecs_bench.records.names import models_path
from mlecs_bench.records.predictions import SCORE, has_predictions, predictions_path, read_predictions
from mlecs_bench.records.results import canonical_json, read_record
from mlecs_bench.testing.cells import toy_jobs
from mlecs_bench.testing.installed import installed

REPRODUCIBLE = ("identity", "realised", "metrics", "comm")


def done(job):
    """Run a job and return its record and the record's file."""
    told = []
    run_job(job, told.append)
    result = told[-1].values
    assert result["error"] is None, result["error"]
    return result["record"], result["path"]


def job_of(out, **execution):
    (job,) = toy_jobs(out, algo="ml-ecs", n_devices=2)
    return dataclasses.replace(job, execution=dataclasses.replace(job.execution, **execution))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A cell that keeps everything: its job, its record and the record's file."""
    with installed():
        job = job_of(tmp_path_factory.mktemp("kept"), save_models=True)
        return job, *done(job)


def scores_in(record):
    """Yield point, device, metric and value of every final score."""
    for point, by_metric in record["metrics"]["client"].items():
        for metric, by_device in by_metric.items():
            yield from ((point, device, metric, one["value"]) for device, one in by_device.items())
    for metric, one in (record["metrics"]["server"] or {}).items():
        yield "server", "server", metric, one["value"]


def test_every_answer_of_the_final_points_is_kept_with_scores_whose_mean_is_the_records(kept):
    job, record, path = kept
    frame = read_predictions(path, record)
    samples = open_samples(job.data)
    target_of = dict(zip(samples.ids, samples.targets, strict=True))
    checked = 0
    for point, device, metric, value in scores_in(record):
        own = frame[(frame["eval_point"] == point) & (frame["device"] == device)]
        assert len(own) == record["realised"]["samples"][device]["test"]
        assert list(own["target"]) == [target_of[id_] for id_ in own["sample"]]
        if SCORE + metric in frame:
            assert fmean(own[SCORE + metric]) == value
            checked += 1
    assert checked >= 4
    assert set(frame["prompt"]) == {samples.manifest.prompt}
    for device, held in record["realised"]["modalities"].items():
        assert {name for read in frame[frame["device"] == device]["held"] for name in read} <= set(held)


@pytest.mark.slow
def test_keeping_answers_changes_no_score_and_a_run_that_keeps_nothing_leaves_a_record_alone(kept, tmp_path):
    _, record, _ = kept
    with installed():
        without, other = done(job_of(tmp_path, save_predictions=False))
    assert list(other.parent.iterdir()) == [other]
    assert not has_predictions(other)
    for part in REPRODUCIBLE:
        assert canonical_json(without[part]) == canonical_json(record[part])


def files_of(path):
    """Return what lies beside a record, by name."""
    return {p.relative_to(path.parent): p.read_bytes() for p in path.parent.rglob("*.*") if p.is_file() and p != path}


@pytest.mark.slow
def test_answers_and_models_of_devices_elsewhere_come_home_in_their_replies(kept, tmp_path, monkeypatch):
    def exchange(fleet, asks):
        for id_, ask in asks.items():
            reply = fleet._host.turn(id_, Ask.from_bytes(ask.to_bytes()))
            yield id_, Reply.from_bytes(reply.to_bytes())

    monkeypatch.setattr(InProcessFleet, "exchange", exchange)
    with installed():
        _, other = done(job_of(tmp_path, save_models=True))
    assert files_of(other) == files_of(kept[2])
    assert len(files_of(other)) >= 1 + 3 * 6


def test_answers_of_another_run_are_never_taken_for_those_of_a_record(kept, tmp_path):
    _, record, path = kept
    moved = tmp_path / path.name
    moved.write_text(path.read_text())
    with pytest.raises(RecordError, match="has no answers beside it; run the same with --save-predictions"):
        read_predictions(moved, record)
    predictions_path(moved).write_bytes(predictions_path(path).read_bytes())
    assert len(read_predictions(moved, record)) > 0
    other = {**record, "metrics": {**record["metrics"], "server": None}}
    with pytest.raises(RecordError, match="holds the answers of another run"):
        read_predictions(moved, other)
    predictions_path(moved).write_bytes(b"PAR1")
    with pytest.raises(RecordError, match="cannot be read"):
        read_predictions(moved, record)


def test_a_cell_killed_before_its_record_goes_on_to_the_same_answers_and_models(kept, tmp_path, monkeypatch):
    _, record, path = kept

    def killed(*_args):
        raise KeyboardInterrupt

    with installed():
        job = job_of(tmp_path, save_models=True)
        with monkeypatch.context() as patch:
            patch.setattr(cell_module, "write_record", killed)
            with pytest.raises(KeyboardInterrupt):
                run_job(job, lambda _event: None)
        assert not list((tmp_path / "records").glob("*.json"))
        again, other = done(job)
    assert again["provenance"]["resumed_from_round"] == job.plan.rounds
    assert read_predictions(other, again).equals(read_predictions(path, record))
    assert files_of(other) == files_of(path)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft reads what transformers renamed
def test_transformers_and_peft_alone_load_an_adapter_that_computes_the_same_bits(kept):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    _, _, path = kept
    for party in ("d00", "server"):
        folder = models_path(path) / party
        ours = load_model(folder).model
        ours.switch(training=False)
        settings = json.loads((folder / "adapter_config.json").read_text())
        assert settings["base_model_name_or_path"] == pretrained(ours.backbone.source)[0]
        base = AutoModelForCausalLM.from_pretrained(settings["base_model_name_or_path"])
        theirs = PeftModel.from_pretrained(base, folder).eval()
        ids = torch.tensor([[5, 17, 3, 42, 8]])
        with torch.no_grad():
            expected = theirs(inputs_embeds=base.get_input_embeddings()(ids), use_cache=False).logits
            assert torch.equal(ours.backbone.logits(ours.backbone.embed(ids), keep=5), expected)
            with theirs.disable_adapter():
                assert not torch.equal(theirs(input_ids=ids, use_cache=False).logits, expected)


def test_a_saved_model_answers_raw_samples_as_it_did_in_the_run(kept):
    job, record, path = kept
    frame = read_predictions(path, record)
    samples = open_samples(job.data)
    for device in record["realised"]["modalities"]:
        model = load_model(models_path(path) / device)
        own = frame[(frame["eval_point"] == "received") & (frame["device"] == device)]
        rows = [samples.ids.index(id_) for id_ in own["sample"]]
        raw = [{m: samples.array(m)[row] for m in model.modalities if samples.presence[m][row]} for row in rows]
        assert model.answer(raw) == list(own["answer"])
        assert model.answer(raw[0]) == model.answer(raw[:1])[0]
        assert isinstance(model.answer({}), str)
        with pytest.raises(UsageError, match=f"{device} has no modality 'smell'"):
            model.answer({"smell": [1.0]})
        if model.modalities:
            with pytest.raises(UsageError, match="has shape"):
                model.answer({model.modalities[0]: [1.0]})


def test_a_folder_that_holds_no_whole_model_is_refused_in_one_line(kept, tmp_path):
    import shutil

    _, _, path = kept
    with pytest.raises(DataError, match="is no saved model"):
        load_model(tmp_path)
    folder = shutil.copytree(models_path(path) / "d00", tmp_path / "d00")
    with pytest.raises(UsageError, match="is not the language model that d00 was trained on"):
        load_model(folder, base=pretrained(load_model(models_path(path) / "server").description.base)[0])
    (folder / "connector.safetensors").unlink()
    with pytest.raises(DataError, match="holds no whole model"):
        load_model(folder)
    description = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**description, "format": "mlecs-bench/model/9"}))
    with pytest.raises(DataError, match="this version reads mlecs-bench/model/1"):
        load_model(folder)
    assert not list(models_path(path).rglob("*.pkl")) + list(models_path(path).rglob("*.bin"))
    assert read_record(path)
