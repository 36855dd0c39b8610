"""`mlecs-bench models import`: what it prints, and that mistakes are one line."""

from __future__ import annotations

import json

import pytest

from cli_fakes import call_main
from model_files import tiny_whisper, whisper_variables, write_ctranslate2, write_wheel


@pytest.fixture
def wheel(tmp_path):
    """A wheel that holds a tiny Whisper."""
    path = write_ctranslate2(tmp_path / "model.bin", whisper_variables(tiny_whisper()))
    return write_wheel(tmp_path / "tiny.whl", {"model.bin": path.read_bytes()}, **{"License-Expression": "MIT"})


def test_it_says_what_was_made_and_how_to_use_it(capsys, wheel, tmp_path):
    out = tmp_path / "out"
    code, said, err = call_main(capsys, "models", "import", str(wheel), "--out", str(out))
    assert code == 0
    assert said.startswith(f"{out}: Whisper, whisper, ")
    assert "licence MIT; sha256 " in said
    assert f"--data-option audio_tower={out}" in said
    assert err.splitlines()[0] == "reading: 0/1"
    assert (out / "CARD.md").is_file()


def test_json_is_the_card_and_quiet_shows_no_progress(capsys, wheel, tmp_path):
    out = tmp_path / "out"
    code, said, err = call_main(
        capsys, "models", "import", str(wheel), "--out", str(out), "--json", "--quiet", "--licence", "mine"
    )
    assert (code, err) == (0, "")
    values = json.loads(said)
    assert values.pop("folder") == str(out)
    assert values == json.loads((out / "CARD.json").read_text())
    assert values["licence"] == "mine"


def test_mistakes_are_one_line_and_code_two(capsys, wheel, tmp_path):
    out = str(tmp_path / "out")
    for arguments, line in (
        (["models", "import", str(wheel)], "Missing option '--out'"),
        (["models", "import", "--out", out], "Missing argument 'FILE...'"),
        (["models", "import", str(wheel), "--out", out, "--sha256", "abc"], "a sha256 has 64 hexadecimal digits"),
        (["models", "import", str(tmp_path / "no.gguf"), "--out", out, "--quiet"], "there is no file"),
        (["models", "import", str(wheel), "--out", str(tmp_path), "--quiet"], "exists; choose another folder"),
    ):
        code, said, err = call_main(capsys, *arguments)
        assert (code, said) == (2, "")
        assert line in err
        assert len(err.splitlines()) == 1
