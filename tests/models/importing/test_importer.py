"""Laws of importing: the folder computes what the file's model did, comes whole or not at all, and says its source."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import toy
from laws import for_all
from mlecs_bench.errors import UsageError
from mlecs_bench.models.backbone import Backbone
from mlecs_bench.models.importing import gguf_file
from mlecs_bench.models.importing.archives import find_model
from mlecs_bench.models.importing.importer import Stated, card_text, import_model
from mlecs_bench.models.loading import BaseSettings
from mlecs_bench.models.sources import is_given_bos
from model_files import write_ctranslate2, write_gguf, write_wheel

gguf = pytest.importorskip("gguf", reason="the extra gguf is not installed")
TEXTS = ("a red blue thing", "Instruction: Say it. Output: a", "Zoë 123\n")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """The folder of a random Llama."""
    return toy.make_llama(tmp_path_factory.mktemp("made") / "llama", width=32)


@pytest.fixture(scope="module")
def file(llama, tmp_path_factory):
    """It, as GGUF."""
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", llama)


@pytest.fixture(scope="module")
def imported(file, tmp_path_factory):
    """Folder and card of what was imported from it."""
    out = tmp_path_factory.mktemp("imported") / "tiny"
    return out, imported_to(out, file)


def imported_to(out: Path, *files: Path, seen: list | None = None, **stated: str) -> dict:
    told = [] if seen is None else seen
    return import_model(files, out, Stated(**stated), lambda *progress: told.append(progress))


def refusal(out: Path, *files: Path, **stated: str) -> str:
    """Return the line with which an import is refused; nothing may be left of it."""
    with pytest.raises(UsageError) as caught:
        imported_to(out, *files, **stated)
    assert "\n" not in str(caught.value)
    assert not [path for path in out.parent.iterdir() if path.name.startswith(f".{out.name}-")]
    return str(caught.value)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def logits(folder: Path, text: str) -> torch.Tensor:
    ids = AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
    with torch.no_grad():
        found: torch.Tensor = AutoModelForCausalLM.from_pretrained(folder).eval()(torch.tensor([ids])).logits
    return found


def test_the_imported_model_has_the_logits_of_the_one_that_was_written(llama, imported):
    for text in TEXTS:
        assert torch.equal(logits(imported[0], text), logits(llama, text))


def test_the_imported_folder_is_a_backbone_that_generates(imported):
    backbone = Backbone(str(imported[0]), BaseSettings(torch.device("cpu")))
    assert backbone.model_type == "llama"
    assert backbone.tokenizer.decode(backbone.tokenizer(TEXTS[0])["input_ids"]) == TEXTS[0]


def test_a_quantised_weight_is_the_dequantised_one(llama, tmp_path):
    out = tmp_path / "out"
    card = imported_to(out, write_gguf(tmp_path / "q8.gguf", llama, quantise=True))
    before, after = (AutoModelForCausalLM.from_pretrained(f).get_input_embeddings().weight for f in (llama, out))
    packed = gguf.quants.quantize(before.detach().numpy(), gguf.GGMLQuantizationType.Q8_0)
    oracle = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q8_0)
    np.testing.assert_array_equal(after.detach().numpy(), oracle)
    assert not torch.equal(before, after)
    assert card["quantisation"] == "F32 (20 tensors), Q8_0 (1 tensors)"


def test_the_card_says_where_the_model_comes_from(file, imported):
    out, card = imported
    assert json.loads((out / "CARD.json").read_text()) == card
    assert (out / "CARD.md").read_text() == card_text(card)
    assert card["source"] == {
        "file": "tiny.gguf", "sha256": sha256(file), "bytes": file.stat().st_size, "packages": [],
    }  # fmt: skip  # one object
    assert (card["name"], card["architecture"], card["licence"], card["bos"]) == ("Tiny", "llama", "mit", False)
    n_parameters = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(out).parameters())
    assert card["parameters"] == n_parameters
    assert card["versions"]["gguf"] == importlib.metadata.version("gguf")
    for said in (sha256(file), "tiny.gguf", "mit (model file)", f"{n_parameters:,} parameters"):
        assert said in card_text(card)


def test_the_licence_is_the_given_one_then_the_files_then_the_packages(llama, file, tmp_path):
    silent = write_gguf(tmp_path / "silent.gguf", llama, licence="")
    wheel = {"License-Expression": "Apache-2.0"}
    for number, (source, fields, given, expected) in enumerate(
        (
            (file, wheel, "BSD-3-Clause", "BSD-3-Clause"),
            (file, wheel, "", "mit"),
            (silent, wheel, "", "Apache-2.0"),
            (silent, {"Classifier": "License :: OSI Approved :: MIT License"}, "", "MIT License"),
            (silent, {}, "", "unstated"),
        )
    ):
        packed = write_wheel(tmp_path / f"{number}.whl", {"a.gguf": source.read_bytes()}, **fields)
        assert imported_to(tmp_path / str(number), packed, licence=given)["licence"] == expected


@for_all("add_bos", (True, False))
def test_whether_bos_is_prepended_is_taken_from_the_file(add_bos, llama, tmp_path):
    out = tmp_path / f"bos-{add_bos}"
    card = imported_to(out, write_gguf(tmp_path / f"{add_bos}.gguf", llama, add_bos=add_bos))
    assert card["bos"] is add_bos
    assert is_given_bos(str(out)) is add_bos


def test_a_wheel_its_parts_in_any_order_and_the_plain_file_give_the_same_model(file, imported, tmp_path):
    data = file.read_bytes()
    cuts = [data[:1000], data[1000:1001], data[1001:]]
    whole = write_wheel(tmp_path / "whole.whl", {"tiny.gguf": data})
    parts = [
        write_wheel(tmp_path / f"{k}.whl", {f"data/tiny.gguf.part0{k}": cut}, name=f"part-{k}")
        for k, cut in enumerate(cuts)
    ]
    loose = [tmp_path / f"tiny.gguf.part{k + 1}" for k in range(3)]
    for path, cut in zip(loose, cuts, strict=True):
        path.write_bytes(cut)
    wanted = (imported[0] / "model.safetensors").read_bytes()
    for name, files in {"whole": [whole], "parts": [parts[2], parts[0], parts[1]], "loose": loose[::-1]}.items():
        card = imported_to(tmp_path / name, *files)
        assert (tmp_path / name / "model.safetensors").read_bytes() == wanted
        assert card["source"]["sha256"] == sha256(file)
    assert not {"tiny_model", "part_0"} & set(sys.modules)


def test_packages_are_named_in_the_card(file, tmp_path):
    wheel = write_wheel(tmp_path / "a.whl", {"tiny.gguf": file.read_bytes()}, name="some-model")
    assert imported_to(tmp_path / "out", wheel)["source"]["packages"] == ["some-model 1.0"]


def test_a_file_that_is_not_the_expected_one_is_refused(file, tmp_path):
    out = tmp_path / "out"
    right, wrong = sha256(file), "0" * 64
    assert f"has sha256 {right}, not {wrong} (--sha256)" in refusal(out, file, sha256=wrong)
    listed = write_wheel(
        tmp_path / "a.whl", {"tiny.gguf": file.read_bytes(), "SHA256SUMS": f"{wrong}  tiny.gguf\n".encode()}
    )
    assert "the list in its package" in refusal(out, listed)
    listed = write_wheel(
        tmp_path / "b.whl", {"tiny.gguf": file.read_bytes(), "SHA256SUMS": f"{right}  tiny.gguf\n".encode()}
    )
    imported_to(out, listed, sha256=right.upper())


def test_a_folder_that_exists_is_not_touched(file, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    assert "exists; choose another folder" in refusal(out, file)
    assert not list(out.iterdir())


def test_files_that_hold_no_single_whole_model_are_refused_in_one_line(file, tmp_path):
    data, out = file.read_bytes(), tmp_path / "out"
    (tmp_path / "notes.txt").write_text("hello there")
    (tmp_path / "short.gguf").write_bytes(data[: len(data) // 2])
    (tmp_path / "garbage.gguf").write_bytes(b"GGUF" + bytes(range(256)))
    empty = write_wheel(tmp_path / "empty.whl", {})
    two = write_wheel(tmp_path / "two.whl", {"a.gguf": data, "b.gguf": data})
    part = [write_wheel(tmp_path / f"p{k}.whl", {f"a.gguf.part{k}": data}) for k in (0, 2)]
    damaged = bytearray(write_wheel(tmp_path / "damaged.whl", {"a.gguf": data}).read_bytes())
    damaged[len(damaged) // 2] ^= 255
    (tmp_path / "damaged.whl").write_bytes(damaged)
    cases = {
        (tmp_path / "nothing.gguf",): "there is no file",
        (tmp_path / "notes.txt",): "is no GGUF file (it starts with b'hell')",
        (tmp_path / "short.gguf",): "cannot be read as a language model in GGUF",
        (tmp_path / "garbage.gguf",): "cannot be read as a language model in GGUF",
        (empty,): "empty.whl holds no model",
        (two,): "there are 2 models in these files (a.gguf, b.gguf)",
        (file, file): "tiny.gguf is there 2 times",
        tuple(part): "of a.gguf, part 1 lacks",
        (part[0], part[0]): "of a.gguf, part 0 is there twice",
        (tmp_path / "damaged.whl",): "cannot be unpacked",
    }
    for files, line in cases.items():
        assert line in refusal(out, *files)
    assert not out.exists()


def test_an_architecture_that_is_unknown_is_refused_in_one_line(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "odd.gguf", "nonsense")
    writer.add_tensor("token_embd.weight", np.zeros((2, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert "odd.gguf cannot be read as a language model in GGUF" in refusal(tmp_path / "out", tmp_path / "odd.gguf")


def test_without_the_package_that_reads_gguf_the_extra_is_named(file, tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_file.importlib.util, "find_spec", lambda name: None)
    assert "pip install 'mlecs-bench[gguf]'" in refusal(tmp_path / "out", file)


def test_a_whole_model_that_is_no_whisper_is_refused_in_one_line(tmp_path):
    path = write_ctranslate2(tmp_path / "model.bin", {}, specification="TransformerSpec")
    assert "it holds a TransformerSpec" in refusal(tmp_path / "out", path)


def test_progress_is_told_up_to_the_end(file, tmp_path):
    seen: list[tuple[int, int, str]] = []
    wheel = write_wheel(tmp_path / "a.whl", {"tiny.gguf": file.read_bytes()})
    imported_to(tmp_path / "out", wheel, seen=seen)
    assert [what for *_, what in seen] == ["MiB unpacked", "checking tiny.gguf", "converting tiny.gguf", "written"]
    assert seen[-1][0] == seen[-1][1]


def test_members_that_climb_are_unpacked_under_their_last_name(file, tmp_path):
    for number, folder in enumerate(("../../", "/", "..\\..\\", "C:\\", "C:")):
        archive = tmp_path / f"{number}.zip"
        with zipfile.ZipFile(archive, "w") as opened:
            opened.writestr(f"{folder}tiny.gguf", file.read_bytes())
        home = tmp_path / str(number)
        home.mkdir()
        found = find_model([archive], home, lambda *_: None)
        assert found.path == home / "tiny.gguf"
        assert [path.name for path in home.iterdir()] == ["tiny.gguf"]


def test_a_part_of_an_endless_number_is_no_part(file, tmp_path):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr(f"tiny.gguf.part{'7' * 5000}", file.read_bytes())
    assert "hold" in refusal(tmp_path / "out", archive)
