"""Mistakes that users make and what they read: one line, the right exit code, nothing written."""

from __future__ import annotations

import pytest
import torch

from mlecs_bench.cli.main import main
from mlecs_bench.data.partition import draw_masks
from mlecs_bench.errors import PluginError, UsageError
from mlecs_bench.federation.host import checked
from mlecs_bench.federation.messages import Message
from mlecs_bench.models.sources import content_id

RUN = ["run", "--algo", "standalone", "--dataset", "vast", "--rho", "0.5"]


def test_a_file_where_a_folder_belongs_is_named_with_its_flag(tmp_path, capsys):
    (tmp_path / "file").touch()
    for flag, other in (("--out", "--cache-dir"), ("--cache-dir", "--out")):
        assert main([*RUN, flag, str(tmp_path / "file"), other, str(tmp_path / "other")]) == 2
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert last.startswith(f"error: cannot write to {tmp_path / 'file'}")
        assert flag in last


def test_a_model_folder_that_is_not_there_is_no_hub_id():
    for source in ("/no/such/model", "./model", "a/b/c"):
        with pytest.raises(UsageError, match="is no folder"):
            content_id(source)


def test_a_hub_id_that_is_not_cached_is_refused_offline_in_one_line(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="'nobody/nothing' is not in the hub's cache, and --offline") as caught:
        content_id("nobody/nothing")
    assert "\n" not in str(caught.value)
    assert "models import" in str(caught.value)


def test_a_step_that_gives_no_message_is_named():
    for wrong in (None, {}, 3):
        with pytest.raises(PluginError, match=f"local_update gave a {type(wrong).__name__}"):
            checked(wrong, "local_update")


def test_a_message_passes_the_check():
    message = Message()
    assert checked(message, "broadcast") is message


def test_a_rate_that_never_draws_a_modality_is_refused():
    with pytest.raises(UsageError, match="use a larger rate"):
        draw_masks({"a": 1e-12}, 1, 27)


def test_report_of_a_file_asks_for_its_folder(tmp_path, capsys):
    (tmp_path / "record.json").write_text("{}")
    assert main(["report", str(tmp_path / "record.json")]) == 2
    assert "give the folder" in capsys.readouterr().err


def test_a_gpu_that_is_not_there_is_one_line_before_anything_is_prepared(capsys, tmp_path):
    flag = f"cuda:{torch.cuda.device_count()}" if torch.cuda.is_available() else "cuda"
    places = ("--out", str(tmp_path / "o"), "--cache-dir", str(tmp_path / "c"), "--quiet")
    for more in (("--dry-run",), places):
        assert main([*RUN, "--device", flag, *more]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith(f"error: device '{flag}' was asked for but torch sees ")
        assert err.endswith("GPUs; use cpu\n")
    assert list(tmp_path.iterdir()) == []
