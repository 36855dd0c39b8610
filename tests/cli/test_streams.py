"""Every command speaks to any terminal: what it lacks the characters for is shown as their codes."""

from __future__ import annotations

import io
import json
import os
import pwd
import stat
import sys

import click
import pytest

from hand_made import make_record
from mlecs_bench.cli.main import COMMANDS, cli, main
from mlecs_bench.errors import UsageError
from mlecs_bench.records.results import write_record
from mlecs_bench.session.environment import ensure_home


def said(monkeypatch, encoding, *arguments):
    """Run a command whose streams know `encoding`; return its code and the bytes of both."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict") for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    code = main(list(arguments))
    for stream in streams:
        stream.flush()
    return code, *(stream.buffer.getvalue() for stream in streams)


@pytest.fixture
def records(tmp_path):
    write_record(tmp_path / "records of ρ", make_record(seed=27))
    return tmp_path / "records of ρ"


def test_help_of_every_command_fits_any_stream(monkeypatch):
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        below = list(command.commands) if isinstance(command, click.Group) else []
        for arguments in ([name], *([name, other] for other in below)):
            code, out, _ = said(monkeypatch, "cp1252", *arguments, "--help")
            assert (code, bool(out)) == (0, True), arguments


@pytest.mark.slow
def test_commands_and_their_errors_fit_any_stream(monkeypatch, records, tmp_path):
    for arguments in (
        ["list"], ["list", "--json"], ["show", "ml-ecs"], ["show", "paper"], ["show", "зета"], ["report", str(records)],
        ["samples", str(records)], ["status", str(records)], ["report", str(tmp_path / "見つからない")],
        ["run", "--algo", "ml-ecs", "--dataset", "ψ"], ["sweep", "--config", str(tmp_path / "ä.yaml")],
    ):  # fmt: skip
        code, out, err = said(monkeypatch, "cp1252", *arguments)
        assert code in (0, 1, 2), arguments
        assert (out if code == 0 else err).decode("cp1252").strip(), arguments
        if "--json" in arguments:
            json.loads(out.decode("cp1252"))
    for arguments in (["show", "зета"], ["show", "paper"]):
        code, out, err = said(monkeypatch, "ascii", *arguments)
        assert (out or err).decode()  # click takes ASCII for a mistake of the system, and writes UTF-8


def test_a_user_of_no_name_and_no_home_gets_a_private_one(monkeypatch, tmp_path):
    def nobody(*_):
        raise KeyError("uid not found")

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    for _ in range(2):
        monkeypatch.delenv("HOME", raising=False)
        ensure_home()
        (home,) = tmp_path.iterdir()
        assert os.environ["HOME"] == str(home)
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
    home.chmod(0o777)
    monkeypatch.delenv("HOME")
    with pytest.raises(UsageError, match="is not yours alone; set HOME to a folder"):
        ensure_home()
    home.rmdir()
    home.symlink_to(tmp_path.parent)
    with pytest.raises(UsageError, match="is not yours alone"):
        ensure_home()


def test_a_users_own_home_is_left_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    ensure_home()
    assert (os.environ["HOME"], list(tmp_path.iterdir())) == (str(tmp_path), [])
