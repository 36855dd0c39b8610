"""Models of a hub: what is fetched, what is said before, what is refused in one line, and what needs no network."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from hub_server import CLUTTER, Repository, reached, served
from mlecs_bench.doors.events import Telling
from mlecs_bench.errors import UsageError
from mlecs_bench.models import hub as hub_module
from mlecs_bench.models import sources
from mlecs_bench.models.hub import Part, fetched, go_offline, is_offline, size_of, size_text
from mlecs_bench.models.loading import BaseSettings, load_base
from mlecs_bench.models.outline import _whole_shape, backbone_shape

TINY = "somebody/tiny"


@pytest.fixture
def hub(checkpoints, tmp_path, monkeypatch):
    """A hub with one tiny model, and an empty cache."""
    with served(somebody__tiny=Repository.of(checkpoints["gpt2"])) as hub:
        reached(monkeypatch, hub, tmp_path / "cache")
        _whole_shape.cache_clear()
        yield hub
        _whole_shape.cache_clear()


@pytest.fixture
def said():
    """What was said, with what the hub had given by then."""
    return []


@pytest.fixture
def telling(said, hub):
    return Telling(lambda text: said.append((text, len(hub.given))), lambda *_: None)


def refused(source: str, part: Part = Part.WHOLE) -> str:
    """Return the one line with which a source is refused."""
    with pytest.raises(UsageError) as caught:
        fetched(source, part)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_needed_is_fetched_after_it_was_named_with_its_size_and_nothing_else(hub, telling, said, checkpoints):
    folder = fetched(TINY, telling=telling)
    own = {path.name for path in Path(checkpoints["gpt2"]).iterdir()}
    assert {path.name for path in folder.iterdir()} == own & {
        *hub_module.TOKENIZER_FILES,
        "config.json",
        "model.safetensors",
    }
    assert not set(hub.given) & CLUTTER.keys()
    weights = Path(checkpoints["gpt2"], "model.safetensors").stat().st_size
    (small, before), (large, between) = said
    assert small.startswith(f"fetching {TINY} from {hub.endpoint}: ")
    assert (before, between) == (0, len(hub.given) - 1)
    assert f": model.safetensors, {size_text(weights)}, into " in large
    for name in own & {path.name for path in folder.iterdir()}:
        assert (folder / name).read_bytes() == Path(checkpoints["gpt2"], name).read_bytes()
    assert size_of(TINY) == sum(path.stat().st_size for path in folder.iterdir())


def test_what_the_cache_has_whole_is_used_without_asking_and_offline(hub, telling, said, monkeypatch):
    folder = fetched(TINY)
    hub.asked.clear()
    hub.repositories[TINY].commit = "f" * 40
    assert fetched(TINY, telling=telling) == fetched(f"{TINY}@{folder.name}") == folder
    reached(monkeypatch, hub, folder.parents[2], offline=True)
    assert fetched(TINY) == folder
    assert sources.content_id(TINY) == f"{TINY}@{folder.name}"
    load_base(TINY, BaseSettings(__import__("torch").device("cpu")))
    assert hub.asked == said == []


def test_a_revision_is_asked_for_by_its_name_or_commit(hub, monkeypatch):
    commit = hub.repositories[TINY].commit
    assert fetched(f"{TINY}@{commit}").name == fetched(f"{TINY}@main").name == commit
    line = refused(f"{TINY}@v9")
    assert line.startswith(f"'{TINY}@v9': the hub has no revision 'v9' of it; see {hub.endpoint}/{TINY}")


def test_a_configuration_alone_fetches_one_file(hub, telling, said):
    fetched(TINY, Part.CONFIG, telling)
    assert backbone_shape(TINY, None).model_type == "gpt2"
    assert hub.given == ["config.json"]
    assert "config.json, " in said[0][0]
    with pytest.raises(UsageError, match="'somebody/tiny' has not been fetched"):
        sources.check_files(TINY)
    fetched(TINY, Part.TOKENIZER)
    assert not sources.is_given_bos(TINY)
    assert "model.safetensors" not in hub.given


def test_weights_in_shards_are_fetched_by_their_index_and_old_ones_where_there_are_no_others(hub, tmp_path):
    files = hub.repositories[TINY].files
    weights = files.pop("model.safetensors")
    assert "pytorch_model.bin" in {path.name for path in fetched(TINY).iterdir()}
    shards = {f"model-0000{n}-of-00002.safetensors": weights for n in (1, 2)}
    index = b'{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}'
    sharded = Repository({**files, **shards, "model.safetensors.index.json": index})
    hub.repositories["somebody/large"] = sharded
    folder = fetched("somebody/large")
    assert {path.name for path in folder.glob("*model*")} == {*shards, "model.safetensors.index.json"}
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert hub_module.lacking(folder, Part.WHOLE) == "model-00002-of-00002.safetensors"


def test_a_download_that_broke_off_is_refused_offline_and_goes_on_online(hub, monkeypatch, tmp_path, said, telling):
    hub.repositories[TINY].cut = {"model.safetensors"}
    line = refused(TINY)
    assert line.startswith(f"cannot fetch '{TINY}': {hub.endpoint} cannot be reached or broke off (")
    assert "the same command goes on where it stopped" in line
    reached(monkeypatch, hub, tmp_path / "cache", offline=True)
    assert refused(TINY).startswith(f"'{TINY}' lacks its weights in the hub's cache, and --offline or HF_HUB_OFFLINE=1")
    reached(monkeypatch, hub, tmp_path / "cache")
    hub.repositories[TINY].cut = set()
    hub.given.clear()
    fetched(TINY, telling=telling)
    assert hub.given == ["model.safetensors"]
    assert len(said) == 1


def test_what_cannot_be_had_is_one_line_that_says_what_to_do(hub, monkeypatch, tmp_path):
    hub.repositories["meta/gated"] = Repository(hub.repositories[TINY].files, gated=True)
    assert refused("meta/gated") == (
        f"'meta/gated' is gated: accept its terms at {hub.endpoint}/meta/gated, then run hf auth login (or set "
        "HF_TOKEN) and try again"
    )
    assert "'no/such' is neither a folder nor a public model" in refused("no/such")
    assert "is no id of a model" in refused("a b")
    hub.repositories["somebody/mute"] = Repository({"config.json": b"{}", "model.safetensors": b""})
    assert refused("somebody/mute") == "'somebody/mute' has no tokenizer at the hub; name another model"
    hub.repositories["somebody/empty"] = Repository({"config.json": b"{}", "README.md": b""})
    assert "has no weights at the hub" in refused("somebody/empty")
    monkeypatch.setattr(hub_module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    assert f"'{TINY}' takes " in (line := refused(TINY))
    assert "set HF_HOME to another disk" in line
    reached(monkeypatch, hub, tmp_path / "cache", offline=True)
    assert refused("some/other") == (
        "'some/other' is not in the hub's cache, and --offline or HF_HUB_OFFLINE=1 forbids fetching it; leave that out "
        "once, or give a folder (mlecs-bench models import makes one)"
    )


def test_without_network_the_line_comes_at_once(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    started = time.monotonic()
    line = refused(TINY)
    assert time.monotonic() - started < 5
    for cure in ("--offline", "models import", "a folder"):
        assert cure in line


def test_going_offline_holds_for_this_process_and_those_it_starts(hub):
    assert not is_offline()
    go_offline()
    assert is_offline()
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_sizes_are_in_the_hubs_units():
    assert [size_text(n) for n in (665, 353_000_000, 1_520_000_000, 24_207_819_307)] == [
        "0.7 kB",
        "353 MB",
        "1.5 GB",
        "24 GB",
    ]
