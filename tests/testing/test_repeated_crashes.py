"""An error that several checks run into is one error: shown once, and every check that met it is named."""

from __future__ import annotations

from functools import partial

import pytest

from cli_fakes import call_main, install
from contract_plugins import ENTRIES
from mlecs_bench.testing.verdict import Check, fail, run_checks


def crash(text):
    raise RuntimeError(text)


def checks(*runs):
    return [Check(f"c{i}", "s", "x", run, origin=checks) for i, run in enumerate(runs)]


def test_the_same_error_at_the_same_place_is_repeated():
    same, other = partial(crash, "a"), partial(crash, "b")
    broken = partial(fail, "a thing holds", "it does not", "mend it")
    found = list(run_checks(checks(same, other, same, broken, broken, lambda: None, same, other)))
    assert [verdict.repeats for verdict in found] == ["", "", "c0", "", "", "", "c0", "c1"]
    assert [verdict.passed for verdict in found] == [i == 5 for i in range(8)]
    assert all(verdict.reason for verdict in found if not verdict.passed)


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_shows_it_once(monkeypatch, capsys, as_json):
    install(monkeypatch, ENTRIES)
    only = ("card", "no-modality", "one-round", "one-device")
    flags = [part for name in only for part in ("--only", name)] + ["--json"] * as_json
    code, out, err = call_main(capsys, "check", "falling", *flags)
    assert (code, err) == (1, "")
    if as_json:
        assert out.count('"repeats": "one-round"') == 2
    else:
        assert out.count("RuntimeError: at once") == 1
        assert "FAIL  the error of one-round again: one-device, no-modality\n" in out
        assert "falling: 3 of 4 checks failed in" in out
