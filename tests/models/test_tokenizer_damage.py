"""What campaigns of generated damage found in tokenizers: each is refused in one line, before anything is trained."""

from __future__ import annotations

import json
import shutil

import pytest

import tower_checkpoints
import toy
from mlecs_bench.errors import UsageError
from mlecs_bench.models.loading import check_stored_tokenizer
from mlecs_bench.models.sources import content_id, first_line, is_given_bos, whole_tokenizer
from mlecs_plugins.datasets.towers.checkpoints import TowerCheckpoint
from mlecs_plugins.datasets.towers.encoders import open_tower

DEEP = "[" * 50_000
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"Sequence": {"id": "B", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
    "special_tokens": {},
}
"""A template that asks for a second text where there is one: the library's Rust panics."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return toy.make_gpt2(tmp_path_factory.mktemp("whole") / "gpt2")


@pytest.fixture
def changed(whole, tmp_path):
    """Copy the model and change entries of one of its files, or put a text in its place."""

    def change(name, entries):
        folder = tmp_path / "changed"
        shutil.copytree(whole, folder)
        values = json.loads((folder / name).read_text())
        (folder / name).write_text(entries if isinstance(entries, str) else json.dumps({**values, **entries}))
        return str(folder)

    return change


DAMAGE = {
    "deep settings": ("tokenizer_config.json", DEEP, "recursion"),
    "deep tokenizer": ("tokenizer.json", DEEP, "recursion"),
    "a length that is none": ("tokenizer_config.json", {"model_max_length": {"": 1}}, "not supported between"),
    "a panic": ("tokenizer.json", {"post_processor": TEMPLATE}, "index out of bounds|cannot load the tokenizer"),
    "a long quote": ("tokenizer.json", {"version": "x" * 5000}, "cannot load"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_tokenizer_is_refused_in_one_line(name, changed):
    file, entries, told = DAMAGE[name]
    source = changed(file, entries)
    assert len(content_id(source)) == 64
    for look in (lambda: check_stored_tokenizer(source, 400), lambda: is_given_bos(source)):
        try:
            look()
        except UsageError as error:
            line = str(error)
        else:
            continue
        assert line.startswith(f"cannot load the tokenizer of '{source}': ")
        assert "\n" not in line
        assert len(line) < 300 + len(source) + 40
    with pytest.raises(UsageError, match=told):
        check_stored_tokenizer(source, 400)


def test_a_panic_is_told_and_what_ends_the_program_is_not_caught():
    panic = type("PanicException", (BaseException,), {})
    with pytest.raises(UsageError, match="cannot load the tokenizer of 'm': out of bounds"), whole_tokenizer("m"):
        raise panic("out of bounds")
    for other in (KeyboardInterrupt, SystemExit, type("Ending", (BaseException,), {})):
        with pytest.raises(other), whole_tokenizer("m"):
            raise other


def test_a_quoted_message_is_short_and_can_be_printed():
    line = first_line(ValueError("x\ud800" * 5000))
    assert len(line) < 2000
    assert line.encode()


def test_a_tower_whose_settings_are_none_is_refused_in_one_line(tmp_path):
    folder = tower_checkpoints.bert(tmp_path / "bert")
    for name, content in (
        ("1_Pooling/config.json", "[]"),
        ("1_Pooling/config.json", DEEP),
        ("config.json", "[]"),
        ("config.json", DEEP),
    ):
        (tmp_path / "bert" / "1_Pooling").mkdir(exist_ok=True)
        kept = (tmp_path / "bert" / name).read_bytes() if (tmp_path / "bert" / name).exists() else None
        (tmp_path / "bert" / name).write_text(content)
        checkpoint = TowerCheckpoint("text", folder, "text_tower")
        with pytest.raises(UsageError, match=r"config\.json (holds no settings|cannot be read)") as caught:
            open_tower(checkpoint, "cpu" if checkpoint.digest else "")
        assert "\n" not in str(caught.value)
        if kept is not None:
            (tmp_path / "bert" / name).write_bytes(kept)
