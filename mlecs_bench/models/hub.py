"""Models of the Hugging Face hub: what is fetched, when, and what a user is told of it.

A run fetches before its first cell, after saying what and how large it is, and reads only folders of the hub's cache
from then on. What the cache has whole is used as it is, without asking the hub whether there is a newer commit;
``id@revision`` names another one. HF_HUB_OFFLINE=1 (and `--offline`, which sets it)
forbids fetching; HF_HOME, HF_ENDPOINT and HF_TOKEN hold as everywhere.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Flag, auto
from pathlib import Path

from mlecs_bench.doors.events import SILENT, Telling
from mlecs_bench.errors import UsageError
from mlecs_bench.files import read_json

OFFLINE_VARIABLE = "HF_HUB_OFFLINE"
TIMEOUT_SECONDS = 10.0
"""How long the hub may take for a first answer; it is asked once."""
POLL_SECONDS = 0.5
"""How often the bytes that have come are counted."""
CONFIG_FILES = ("config.json",)
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "spm.model", "spiece.model", "tokenizer.model"),
    *("sentencepiece.bpe.model",),
)
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", *(name for name in TOKENIZER_FILES if ".model" in name))
"""One of these is there if a model has any tokenizer."""
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Where the weights are, in the order in which transformers looks for them: the first that is there is all of them."""


class Part(Flag):
    """How much of a model is needed: its configuration, that and its tokenizer, all of it, or all but a tokenizer."""

    CONFIG = auto()
    VOCABULARY = auto()
    WEIGHTS = auto()
    TOKENIZER = CONFIG | VOCABULARY
    ENCODER = CONFIG | WEIGHTS
    WHOLE = CONFIG | VOCABULARY | WEIGHTS


@dataclass(frozen=True)
class Listing:
    """What the hub has of a model at one commit: its files with their sizes in bytes."""

    commit: str
    files: Mapping[str, int]


def go_offline() -> None:
    """Forbid this process, and those that it starts, to fetch anything from a hub."""
    os.environ[OFFLINE_VARIABLE] = "1"
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None:  # it has read the environment already
        constants.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]  # a variable of the module


def is_offline() -> bool:
    """Say whether fetching is forbidden."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def split(source: str) -> tuple[str, str | None]:
    """Return a hub id and its revision, None for none."""
    repository, _, revision = source.partition("@")
    return repository, revision or None


def cached(source: str) -> Path | None:
    """Return the folder of a hub id in the hub's cache, whose name is the commit; None where there is none."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    repository, revision = split(source)
    try:
        path = try_to_load_from_cache(repository, CONFIG_FILES[0], revision=revision)
    except HFValidationError as error:
        raise UsageError(
            f"'{source}' is no id of a model ({_first_line(error)}); give owner/name, or a folder"
        ) from error
    return Path(path).parent if isinstance(path, str) else None


def lacking(folder: Path, part: Part) -> str | None:
    """Return the first file that a folder lacks of a part of its model, in words; None for a whole one."""
    if not (folder / CONFIG_FILES[0]).is_file():
        return CONFIG_FILES[0]
    if Part.VOCABULARY in part and not any((folder / name).is_file() for name in VOCABULARIES):
        return "a tokenizer"
    if Part.WEIGHTS not in part:
        return None
    first = next((name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if first is None:
        return "its weights"
    return next((name for name in _with_shards(folder / first) if not (folder / name).is_file()), None)


def _with_shards(path: Path) -> list[str]:
    """Return the names of all files of the weights that a file is, or is the index of."""
    if path.suffix != ".json":
        return [path.name]
    try:
        return sorted(set(read_json(path)["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return [f"a readable {path.name}"]


def fetched(source: str, part: Part = Part.WHOLE, telling: Telling = SILENT, extra: Sequence[str] = ()) -> Path:
    """Return the folder of a hub id that has `part` of it, after fetching what the cache lacks.

    `extra` names small files that are taken along where there are any. Raises UsageError in one line where a model
    cannot be had.
    """
    there = cached(source)
    if there is not None and lacking(there, part) is None:
        return there
    refuse_offline(source, there, part)
    listing = _listing(source)
    # Small files first: where there are weights, all the rest is there, too, even if a download breaks off.
    small = [*_small_files(listing, part), *(name for name in extra if name in listing.files)]
    folder = _download(source, listing, small, telling)
    if Part.WEIGHTS in part:
        folder = _download(source, listing, _weights(source, listing), telling)
    missing = lacking(folder, part)
    if missing is not None:
        raise UsageError(
            f"'{source}' has no {missing.removeprefix('a ').removeprefix('its ')} at the hub; name another model"
        )
    return folder


def fetched_encoder(source: str, extra: Sequence[str], progress: Callable[[int, int, str], None]) -> Path:
    """Return the folder of an encoder of a hub, with the small files of `extra` that it has; `progress` is told of it.

    Fetched as language models are; a tokenizer need not be there. Raises UsageError where it cannot be had.
    """
    return fetched(source, Part.ENCODER, Telling(lambda text: progress(0, 1, text), progress), extra)


def refuse_offline(source: str, folder: Path | None, part: Part) -> None:
    """Raise UsageError where `source` would have to be fetched and nothing may be; `folder` is what the cache has."""
    if not is_offline():
        return
    there = "is not in the hub's cache" if folder is None else f"lacks {lacking(folder, part)} in the hub's cache"
    raise UsageError(
        f"'{source}' {there}, and --offline or {OFFLINE_VARIABLE}=1 forbids fetching it; leave that out once, "
        "or give a folder (mlecs-bench models import makes one)"
    )


def size_of(source: str) -> int:
    """Return the bytes that a run would fetch of a hub id; raises UsageError where the hub does not tell."""
    listing = _listing(source)
    weights = [name for name in listing.files if _is_weight(name, listing)]
    return sum(listing.files[name] for name in {*_small_files(listing, Part.WHOLE), *weights})


def size_text(n_bytes: int) -> str:
    """Return a size as the hub states it, in powers of ten."""
    unit, name = next(((u, n) for u, n in ((10**9, "GB"), (10**6, "MB")) if n_bytes >= u), (1000, "kB"))
    return f"{n_bytes / unit:.1f} {name}" if n_bytes < 10 * unit else f"{n_bytes / unit:.0f} {name}"


def _small_files(listing: Listing, part: Part) -> list[str]:
    wanted = CONFIG_FILES + (TOKENIZER_FILES if part != Part.CONFIG else ())
    if Part.WEIGHTS in part:
        wanted += tuple(name for name in WEIGHT_FILES if name.endswith(".json") and name == _first_weights(listing))
    return [name for name in wanted if name in listing.files]


def _first_weights(listing: Listing) -> str | None:
    return next((name for name in WEIGHT_FILES if name in listing.files), None)


def _is_weight(name: str, listing: Listing) -> bool:
    """Say whether a file is one of those that hold the weights: no second format, no other library's."""
    first = _first_weights(listing)
    if first is None or not first.endswith(".json"):
        return name == first
    stem, suffix = first.removesuffix(".index.json").rsplit(".", 1)
    return "/" not in name and name.startswith(f"{stem}-") and name.endswith(f".{suffix}")


def _weights(source: str, listing: Listing) -> list[str]:
    names = [name for name in listing.files if _is_weight(name, listing)]
    if not names:
        raise UsageError(f"'{source}' has no weights at the hub (safetensors or pytorch_model.bin); name another model")
    return names


def _listing(source: str) -> Listing:
    """Ask the hub, once, which files a model has."""
    from huggingface_hub import HfApi

    repository, revision = split(source)
    with _explained(source):
        info = HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=TIMEOUT_SECONDS)
    return Listing(str(info.sha), {one.rfilename: one.size or 0 for one in info.siblings or ()})


def _download(source: str, listing: Listing, names: Iterable[str], telling: Telling) -> Path:
    """Fetch files of a model that the cache lacks, after saying so; return the folder."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.file_download import repo_folder_name

    repository, revision = split(source)
    cache = Path(constants.HF_HUB_CACHE).expanduser()
    home = cache / repo_folder_name(repo_id=repository, repo_type="model")
    folder = home / "snapshots" / listing.commit
    wanted = [name for name in names if not (folder / name).is_file()]
    size = sum(listing.files[name] for name in wanted)
    if wanted:
        files = wanted[0] if len(wanted) == 1 else f"{len(wanted)} files"
        telling.say(f"fetching {source} from {constants.ENDPOINT}: {files}, {size_text(size)}, into {cache}")
        _check_room(source, cache, size)
    elif cached(source) == folder:
        return folder
    with _explained(source), _counted(home, source, size, telling):
        # A branch is looked up once more, which is what notes its commit in the cache.
        return Path(snapshot_download(repository, revision=revision, allow_patterns=wanted or [CONFIG_FILES[0]]))


def _check_room(source: str, cache: Path, size: int) -> None:
    place = next(path for path in (cache, *cache.parents) if path.exists())
    free = shutil.disk_usage(place).free
    if size > free:
        raise UsageError(
            f"'{source}' takes {size_text(size)} and {cache} has room for {size_text(free)}; set HF_HOME to another "
            "disk"
        )


@contextmanager
def _counted(home: Path, source: str, size: int, telling: Telling) -> Iterator[None]:
    """Tell, within the block, how many bytes of a download have come, by what lies in the model's folder."""
    before, over = _bytes_in(home), threading.Event()

    def count() -> None:
        while not over.wait(POLL_SECONDS):
            telling.progress(min((_bytes_in(home) - before) // 10**6, size // 10**6), size // 10**6, what)

    what = f"MB of {source} fetched"
    thread = threading.Thread(target=count, daemon=True)
    if size >= 10**7:  # less is here before a line could be read
        thread.start()
    try:
        yield
    finally:
        over.set()
        if thread.ident is not None:
            thread.join()
            telling.progress(size // 10**6, size // 10**6, what)


def _bytes_in(home: Path) -> int:
    try:
        return sum(path.stat().st_size for path in (home / "blobs").iterdir())
    except OSError:  # nothing has come yet, or a file has just got its final name
        return 0


@contextmanager
def _explained(source: str) -> Iterator[None]:
    """Turn what goes wrong with the hub into one line that says what to do."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository, revision = split(source)
    page = f"{constants.ENDPOINT}/{repository}"
    unreachable: tuple[type[Exception], ...] = (OSError, ValueError, RuntimeError, *_network_errors())
    try:
        yield
    except GatedRepoError as error:
        raise UsageError(
            f"'{source}' is gated: accept its terms at {page}, then run hf auth login (or set HF_TOKEN) and try again"
        ) from error
    except RevisionNotFoundError as error:
        raise UsageError(
            f"'{source}': the hub has no revision '{revision or 'main'}' of it; see {page}/commits"
        ) from error
    except RepositoryNotFoundError as error:
        raise UsageError(
            f"'{source}' is neither a folder nor a public model of {constants.ENDPOINT}; check the spelling, or run "
            "hf auth login if it is private"
        ) from error
    except HFValidationError as error:
        raise UsageError(
            f"'{source}' is no id of a model ({_first_line(error)}); give owner/name, or a folder"
        ) from error
    except HfHubHTTPError as error:
        raise UsageError(
            f"the hub does not give '{source}' ({_first_line(error)}); try again later, or give a folder"
        ) from error
    except unreachable as error:
        raise UsageError(
            f"cannot fetch '{source}': {constants.ENDPOINT} cannot be reached or broke off ({_first_line(error)}); "
            "with network the same command goes on where it stopped; without, give a folder (mlecs-bench models import "
            "makes one), or --offline for what the cache has"
        ) from error


def _network_errors() -> tuple[type[Exception], ...]:
    """Return the base errors of the hub's HTTP library, whichever it is in the installed version."""
    import importlib

    from huggingface_hub.utils import _http

    for name in ("httpx2", "httpx"):
        if hasattr(_http, name):
            return (importlib.import_module(name).HTTPError,)
    return ()


def _first_line(error: BaseException) -> str:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line.partition(". ")[0].rstrip(".:") or type(error).__name__
