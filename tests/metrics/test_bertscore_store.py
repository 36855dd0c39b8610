"""The store of embeddings: whatever was read before is not read again, every bit is kept, and nothing depends on it."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from bertscore_checkpoints import save_encoder
from mlecs_bench.metrics.bertscore import baseline, open_bertscore
from mlecs_bench.metrics.bertscore import score as score_module
from mlecs_bench.metrics.bertscore import store as store_module
from mlecs_bench.metrics.bertscore.store import EmbeddingStore, store_path

pytest.importorskip("bert_score", reason="the extra 'bertscore' is not installed")

ANSWERS, TARGETS = ["rain on the forest", "snow", "rain"], ["the forest", "rain", "the price of wheat"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("bert") / "tiny")


@pytest.fixture
def fresh(tiny, tmp_path, monkeypatch):
    """Return a function that opens BERTScore as a new process would: nothing in memory, the cache as it is."""
    monkeypatch.setattr(baseline, "N_BASELINE_PAIRS", 20)  # 120 take time

    def opened(**settings):
        score_module._load.cache_clear()
        return open_bertscore(tmp_path, str(tiny), **settings)

    yield opened
    score_module._load.cache_clear()


def vectors(seed: int, length: int) -> torch.Tensor:
    return torch.randn((length, 4), generator=torch.Generator().manual_seed(seed))


def test_a_second_process_reads_no_text_again_and_gets_every_bit(fresh, tmp_path, monkeypatch):
    first = fresh().f1(ANSWERS, TARGETS)
    with monkeypatch.context() as without:
        without.setattr(EmbeddingStore, "load", lambda *_: {})
        assert fresh().f1(ANSWERS, TARGETS) == first, "read again"
    scorer = fresh()
    assert scorer.f1(ANSWERS, TARGETS) == first
    assert not scorer._encoder._model._loaded, "the model was not even loaded"
    scorer.f1(["old"], ["rain"])
    assert scorer._encoder._model._done == 1, "a new text alone is read"
    assert len(list((tmp_path / "bertscore").iterdir())) == 1


def test_embeddings_come_back_bit_for_bit_and_damaged_ones_not_at_all(tmp_path):
    store = EmbeddingStore(tmp_path / "store.sqlite")
    wanted = {tuple(range(n + 1)): vectors(n, n + 1) for n in range(20)}
    wanted[0,] = torch.tensor([[0.0, -0.0, torch.inf, 1e-42]])
    store.save(wanted)
    found = store.load([*wanted, (99,)])
    assert found.keys() == wanted.keys()
    for ids, tensor in wanted.items():
        assert torch.equal(found[ids].view(torch.int32), tensor.view(torch.int32))
    with sqlite3.connect(tmp_path / "store.sqlite") as database:
        database.execute("UPDATE embeddings SET vectors = zeroblob(size) WHERE size > 16")
    database.close()
    assert list(store.load(wanted)) == [(0,)]
    store.save(wanted)
    assert store.load(wanted).keys() == wanted.keys(), "a damaged row is replaced"


def test_a_file_that_is_no_store_costs_time_alone(fresh, tmp_path):
    expected = fresh().f1(ANSWERS, TARGETS)
    (path,) = (tmp_path / "bertscore").iterdir()
    path.write_bytes(b"no database" * 500)
    assert fresh().f1(ANSWERS, TARGETS) == expected
    EmbeddingStore(path / "below a file").save({(1,): vectors(0, 1)})


def test_workers_that_write_at_once_lose_nothing(tmp_path):
    path = tmp_path / "store.sqlite"
    texts = [{(worker, n): vectors(n, 2) for n in range(10)} for worker in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda mine: EmbeddingStore(path).save(mine), texts))
    assert len(EmbeddingStore(path).load([ids for mine in texts for ids in mine])) == 80


def test_the_store_is_bounded_and_forgets_the_oldest(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "MOST_BYTES", 10 * 16)
    store = EmbeddingStore(tmp_path / "store.sqlite")
    for n in range(25):
        store.save({(n,): vectors(n, 1)})
    left = sorted(ids[0] for ids in store.load([(n,) for n in range(25)]))
    assert left == list(range(left[0], 25))
    assert 1 <= len(left) <= 10


def test_scorers_processors_and_versions_share_no_file(tmp_path, monkeypatch):
    paths = {store_path(tmp_path, "a", "cpu"), store_path(tmp_path, "b", "cpu")}
    for name, value in (("_processor", lambda: "another"),):
        monkeypatch.setattr(store_module, name, value)
        paths.add(store_path(tmp_path, "a", "cpu"))
    monkeypatch.setattr(torch, "__version__", "0")
    paths.add(store_path(tmp_path, "a", "cpu"))
    assert len(paths) == 4


def test_reading_many_texts_shows_how_far_it_is(fresh):
    told = []
    scorer = fresh(progress=lambda *what: told.append(what))
    scorer.f1(["rain"], ["snow"])
    whole = told[-1][1]
    assert whole == 40, "the baseline's sentences"
    assert [done for done, *_ in told] == list(range(whole + 1))
    assert {what for *_, what in told} == {"texts embedded for BERTScore"}
    told.clear()
    fresh(progress=lambda *what: told.append(what)).f1(["rain", "snow"], ["wheat", "snow"])
    assert told == [], "a few texts take no time"
