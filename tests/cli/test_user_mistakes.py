"""Mistakes that users make and what they read: one line, the right exit code, nothing written."""

from __future__ import annotations

import pytest

from mlecs_bench.cli.main import main
from mlecs_bench.data.partition import draw_masks
from mlecs_bench.errors import PluginError, UsageError
from mlecs_bench.federation.engine import checked
from mlecs_bench.federation.messages import Message
from mlecs_bench.models.sources import content_id

RUN = ["run", "--algo", "standalone", "--dataset", "vast", "--rho", "0.5"]


@pytest.mark.parametrize("flag", ["--out", "--cache-dir"])
def test_a_file_where_a_folder_belongs_is_named_with_its_flag(flag, tmp_path, capsys):
    (tmp_path / "file").touch()
    other = "--cache-dir" if flag == "--out" else "--out"
    assert main([*RUN, flag, str(tmp_path / "file"), other, str(tmp_path / "other")]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith(f"error: cannot write to {tmp_path / 'file'}")
    assert flag in last


@pytest.mark.parametrize("source", ["/no/such/model", "./model", "a/b/c"])
def test_a_model_folder_that_is_not_there_is_no_hub_id(source):
    with pytest.raises(UsageError, match="is no folder"):
        content_id(source)


def test_a_hub_id_that_is_not_cached_is_refused_offline_in_one_line():
    with pytest.raises(UsageError, match="cannot get 'nobody/nothing' from the hub") as caught:
        content_id("nobody/nothing")
    assert "\n" not in str(caught.value)
    assert "--slm" in str(caught.value)


@pytest.mark.parametrize("wrong", [None, {}, 3])
def test_a_step_that_gives_no_message_is_named(wrong):
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


def test_a_missing_gpu_is_one_line(capsys):
    import torch

    flag = f"cuda:{torch.cuda.device_count()}" if torch.cuda.is_available() else "cuda"
    assert main([*RUN, "--device", flag, "--dry-run"]) == 2
    assert "GPUs; use cpu" in capsys.readouterr().err
