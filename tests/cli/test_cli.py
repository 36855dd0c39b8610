"""The group of commands, `list` and `show`: what they print, what they refuse, and how they end."""

from __future__ import annotations

import json
import os
from functools import partial

import click
import pytest

from cli_fakes import call_main, install
from mlecs_bench.cli.main import COMMANDS, cli, main
from mlecs_bench.doors.registry import PluginEntry
from mlecs_bench.errors import DataError, MlecsError, UsageError
from mlecs_bench.execution import sweep


@pytest.fixture
def call(monkeypatch, capsys):
    install(monkeypatch)
    return partial(call_main, capsys)


# The group


def test_help_lists_every_command_with_the_first_words_of_its_own_help(call):
    _, out, _ = call("--help")
    context = click.Context(cli)
    for name, command in COMMANDS.items():
        assert f"{name} " in out
        assert command.summary in out
        assert (cli.get_command(context, name).help or "").startswith(command.summary.removesuffix("."))


def test_no_command_prints_the_help_and_is_a_usage_error(call):
    code, out, err = call()
    assert (code, out) == (2, "")
    assert err.startswith("Usage: mlecs-bench [OPTIONS] COMMAND")


MALFORMED = (
    (["lst"], "No such command 'lst'. Did you mean 'list'?"),
    (["run", "--alg", "x"], "No such option '--alg'"),
    (["run", "--rounds", "0"], "'--rounds': 0 is not in the range x>=1"),
    (["run", "--rounds", "many"], "'--rounds': 'many' is not a valid integer"),
    (["run", "--budget", "half"], "'--budget': 'half' is not one of"),
    (["run", "--evaluate", "some"], "'--evaluate': 'some' is not one of"),
    (["run", "--min-modalities", "2"], "'--min-modalities': 2 is not in the range"),
    (["run", "stray"], "unexpected extra argument"),
    (["show"], "Missing argument 'NAME'"),
)


def test_a_malformed_command_line_is_refused_in_one_line(call):
    for arguments, expected in MALFORMED:
        code, out, err = call(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), arguments
        assert err.startswith("error: ")
        assert expected in err
        assert "--help'" in err


def failing(error: BaseException):
    def command():
        raise error

    return click.Command("list", callback=command)


def test_an_expected_error_is_one_line_and_its_exit_code(call, monkeypatch):
    for error, code, line in (
        (DataError("the table\nis gone"), 1, "error: the table is gone\n"),
        (UsageError("rho must be in (0, 1]"), 2, "error: rho must be in (0, 1]\n"),
        (MlecsError("no"), 1, "error: no\n"),
        (sweep.Interrupted(1, 5, "Run it again."), 130, "interrupted: 1 of 5 cells are done. Run it again.\n"),
    ):
        monkeypatch.setattr(cli, "get_command", lambda context, name, error=error: failing(error))
        assert call("list") == (code, "", line)


def test_ctrl_c_ends_with_130(call, monkeypatch):
    monkeypatch.setattr(cli, "get_command", lambda context, name: failing(KeyboardInterrupt()))
    code, _, err = call("list")
    assert (code, err.strip()) == (130, "interrupted")


def test_a_defect_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(cli, "get_command", lambda context, name: failing(ZeroDivisionError("defect")))
    with pytest.raises(ZeroDivisionError, match="defect"):
        main(["list"])


def test_a_command_keeps_libraries_quiet_unless_the_user_says_otherwise(call, monkeypatch):
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "debug")
    call("--version")
    assert (os.environ["TOKENIZERS_PARALLELISM"], os.environ["TRANSFORMERS_VERBOSITY"]) == ("false", "debug")


# list and show


def test_list_shows_names_with_their_distribution(call):
    code, out, err = call("list")
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert ["alpha", "acme", "1.2"] in lines
    assert ["toy", "acme", "1.2"] in lines
    assert ["mini", "mlecs-bench"] in [line[:2] for line in lines]


def test_list_as_json(call):
    _, out, _ = call("list", "--json")
    listed = json.loads(out)
    assert [row["name"] for row in listed["algorithms"]] == ["alpha", "gone"]
    assert listed["datasets"] == [
        {"name": "toy", "distribution": "acme", "version": "1.2", "target": "acme_plugins:toy"}
    ]
    assert listed["profiles"][0]["name"] == "mini"
    assert listed["observers"] == []


def test_list_warns_of_a_name_that_is_declared_twice(call, monkeypatch):
    install(
        monkeypatch, [PluginEntry("alpha", "algorithm", name, "1", "acme_plugins:alpha") for name in ("acme", "evil")]
    )
    code, out, err = call("list")
    assert code == 0
    assert out.count("alpha") == 2
    assert err == "warning: algorithm 'alpha' is declared more than once; uninstall one of them\n"


def test_show_prints_the_card_of_an_algorithm(call):
    code, out, _ = call("show", "alpha")
    assert code == 0
    for text in (
        "alpha: Alpha method (algorithm, acme 1.2)",
        "Averages everything.",
        "Paper: arXiv 0000.00000",
        "Needs (by default): nothing in particular",
        "Deviations from the sources:",
        "lora  both       r (d_in + d_out)  the adapters",
        "rank  int       8        Rank of the adapters.  [paper, section 4.3]",
        "mode  mean|max  mean     How to merge.",
        "  - Departs from Eq. 3.",
    ):
        assert text in out


def test_show_prints_the_card_of_a_dataset(call):
    _, out, _ = call("show", "toy")
    for text in ("Modalities: audio, vision", "Splits, default first: frame, sequence", "Where to get it: made on the"):
        assert text in out
    assert "Options" not in out


def test_show_as_json_holds_the_options_and_exchanges(call):
    card = json.loads(call("show", "alpha", "--json")[1])
    assert card["options"][0] == {
        "name": "rank", "type": "int", "default": "8", "help": "Rank of the adapters.", "source": "paper, section 4.3",
    }  # fmt: skip  # one row
    assert card["exchanges"][0]["kind"] == "lora"
    assert (card["kind"], card["distribution"], card["version"]) == ("algorithm", "acme", "1.2")


def test_show_refuses_an_unknown_name_and_reports_a_broken_plugin(call):
    code, out, err = call("show", "tou")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: no plugin 'tou'. Did you mean 'toy'? Known: accuracy, alpha, ")
    code, _, err = call("show", "gone")
    assert code == 1
    assert err.startswith("error: plugin 'gone' of distribution 'acme' 1.2 failed to import: ModuleNotFoundError")
