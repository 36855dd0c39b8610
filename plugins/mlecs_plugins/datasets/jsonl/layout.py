"""The manifest of a user's table: which columns are modalities, which is the target, and how it is asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlecs_bench.api import DataError, Task
from mlecs_plugins.datasets.jsonl.card import KINDS, MANIFEST, NAME, Kind
from mlecs_plugins.datasets.problems import one_line, shown
from mlecs_plugins.datasets.user_files import inside, is_file

FIELDS = (
    "title", "samples", "id", "group", "stratum", "target", "labels", "prompt", "max_new_tokens", "licence", "windows",
    "modalities",
)  # fmt: skip
SETTINGS: Mapping[Kind, tuple[str, ...]] = {
    "text": ("words",),
    "image": ("size",),
    "audio": (),
    "video": (),
    "array": ("ticks", "encoding", "standardise"),
}
"""What may stand beside the column of a modality, by kind."""
MODALITY_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
OTHER_COLUMNS = ("id", "target", "group", "stratum", "label", "texts", "references")
"""Names of the prepared table's other columns, which no modality can have."""
OF_TORCH = frozenset((
    "add_module", "apply", "bfloat16", "buffers", "call_super_init", "children", "clear", "compile", "copy",
    "cpu", "cuda", "double", "dump_patches", "eval", "extra_repr", "float", "forward", "fromkeys", "get",
    "get_buffer", "get_extra_state", "get_parameter", "get_submodule", "half", "ipu", "items", "keys",
    "load_state_dict", "modules", "mtia", "named_buffers", "named_children", "named_modules", "named_parameters",
    "parameters", "pop", "popitem", "register_backward_hook", "register_buffer", "register_forward_hook",
    "register_forward_pre_hook", "register_full_backward_hook", "register_full_backward_pre_hook",
    "register_load_state_dict_post_hook", "register_load_state_dict_pre_hook", "register_module",
    "register_parameter", "register_state_dict_post_hook", "register_state_dict_pre_hook", "requires_grad_",
    "set_extra_state", "set_submodule", "setdefault", "share_memory",
    "smart_apply",  # of transformers, which adds it to every module
    "state_dict", "to", "to_empty", "train",
    "training", "type", "update", "values", "xpu", "zero_grad",
))  # fmt: skip  # a list of words
"""Names that torch's dictionaries of modules and parameters have themselves, under which no encoder can be kept."""
ENCODINGS = ("vector", "series", "spectrogram")
LABELS_OF_TARGETS = "all"
PROMPTS: Mapping[Task, str] = {"classification": "Which is it?", "generation": "Describe it."}
MAX_WORDS, MAX_SIZE, MAX_TICKS = 1024, 256, 4096


@dataclass(frozen=True)
class Source:
    """A modality as the manifest describes it: its kind, and the columns that hold it (several for an array only)."""

    name: str
    kind: Kind
    columns: tuple[str, ...]
    words: int = 64
    size: int = 32
    ticks: int | None = None
    encoding: str | None = None
    standardise: bool = True


@dataclass(frozen=True)
class Windows:
    """Windows of `rows` rows that follow each other, with one target and group; the next begins `step` rows later."""

    rows: int
    step: int


@dataclass(frozen=True)
class Layout:
    """A manifest. `labels` maps what the target column holds to a label; it is empty where all values are labels.

    Of a free text `task` is generation.
    """

    title: str
    samples: str
    target: str
    modalities: tuple[Source, ...]
    task: Task
    labels: Mapping[str, str]
    prompt: str
    max_new_tokens: int
    licence: str
    id: str | None = None
    group: str | None = None
    stratum: str | None = None
    windows: Windows | None = None

    @property
    def columns(self) -> dict[str, str]:
        """Column → what the manifest wants of it."""
        named = {"id": self.id, "group": self.group, "stratum": self.stratum, "target": self.target}
        found = {column: name for name, column in named.items() if column is not None}
        return found | {column: f"modality '{source.name}'" for source in self.modalities for column in source.columns}

    @property
    def media(self) -> set[str]:
        """The columns whose cells are files: names of them, or in Parquet the files themselves."""
        kinds = ("image", "audio", "video")
        return {column for source in self.modalities if source.kind in kinds for column in source.columns}


def read_layout(folder: Path, name: str) -> Layout:
    """Return the manifest called `name` in a user's folder; raises DataError that names the file and the entry."""
    import yaml

    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise DataError(f"{NAME}: {folder} {what}; give the folder with {MANIFEST} and the table that it describes")
    path = inside(folder, name)
    if path is None or not is_file(path):
        raise DataError(
            f"{NAME}: {folder} has no manifest '{name}'; it says which columns are what (docs/own-data.md), or name "
            "another with --data-option manifest=NAME"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{NAME}: {name} cannot be read as UTF-8 text ({error})") from error
    try:
        values = yaml.safe_load(text)
        twice = _key_twice(yaml.compose(text, Loader=yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        # The latter are what PyYAML lets through of dates, numbers and keys that are none.
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        deep = isinstance(error, RecursionError)
        what = "nested too deeply" if deep else str(getattr(error, "problem", None) or error)
        raise DataError(one_line(f"{NAME}: {name} is not YAML{line} ({what})")) from error
    if twice is not None:
        raise DataError(one_line(f"{NAME}: {name}: '{twice}' is there twice; keep one"))
    return layout_of(values, name)


def _key_twice(node: Any) -> str | None:
    """Return a key that stands twice in one mapping of a YAML document, of which PyYAML takes the last value."""
    waiting, seen = [node], set()
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen or not isinstance(one.value, list):
            continue
        seen.add(id(one))
        pairs = [pair for pair in one.value if isinstance(pair, tuple)]
        keys = [(key.tag, key.value) for key, _ in pairs if isinstance(key.value, str)]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            return str(twice[1])
        waiting += [part for pair in pairs for part in pair] if pairs else one.value
    return None


def layout_of(values: Any, name: str) -> Layout:
    """Return the manifest with these entries; raises DataError with the file's `name` and the entry."""
    entries = _Entries(values, name, "")
    entries.only(FIELDS)
    modalities = entries.child("modalities")
    sources = sorted((_source(modalities, key) for key in modalities.names), key=lambda source: source.name)
    if not sources:
        raise entries.error("modalities", "names no modality")
    labels = entries.values.get("labels")
    task: Task = "generation" if labels is None else "classification"
    return Layout(
        title=entries.text("title", "a table of your own"),
        samples=entries.text("samples"),
        target=entries.text("target"),
        modalities=tuple(sources),
        task=task,
        labels=_labels(entries, labels),
        prompt=entries.text("prompt", PROMPTS[task]),
        max_new_tokens=entries.number("max_new_tokens", 32, 4096),
        licence=entries.text("licence", "the user's own data"),
        id=entries.column("id"),
        group=entries.column("group"),
        stratum=entries.column("stratum"),
        windows=_windows(entries),
    )


def _labels(entries: _Entries, given: Any) -> dict[str, str]:
    if given is None or given == LABELS_OF_TARGETS:
        return {}
    pairs = list(given.items()) if isinstance(given, dict) else [(x, x) for x in given] if _is_list(given) else []
    if not pairs or any(isinstance(x, dict | list) or x is None or not str(x).strip() for pair in pairs for x in pair):
        raise entries.error("labels", "is neither a list of labels, nor value: label pairs, nor all")
    labels = {plain_text(value): plain_text(label) for value, label in pairs}
    if len(labels) != len(pairs) or len(set(labels.values())) < 2:  # one class is no task
        raise entries.error("labels", "needs at least two labels, each value once")
    return labels


def plain_text(value: Any) -> str:
    """Return a value of a cell as one line of text; 1.0 is 1, as tables of numbers write whole numbers."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return " ".join(str(value).encode("utf-8", "replace").decode().split())


def _windows(entries: _Entries) -> Windows | None:
    if "windows" not in entries.values:
        return None
    own = entries.child("windows")
    own.only(("rows", "step"))
    rows = own.number("rows", None, MAX_TICKS)
    return Windows(rows, own.number("step", rows, MAX_TICKS))


def _source(modalities: _Entries, name: str) -> Source:
    if not MODALITY_NAME.fullmatch(name) or name in OTHER_COLUMNS or name.startswith("has_"):
        raise modalities.error(name, "is no name of a modality: a-z, 0-9 and _, and no name of another column")
    if name in OF_TORCH:
        raise modalities.error(name, "is a word of torch's own, which a modality cannot be called; call it otherwise")
    own = modalities.child(name)
    kinds = [kind for kind in KINDS if kind in own.names]
    if len(kinds) != 1:
        raise modalities.error(name, f"must name its column as one of {', '.join(KINDS)}, such as 'text: caption'")
    kind = kinds[0]
    own.only((kind, *SETTINGS[kind]))
    encoding = own.values.get("encoding")
    if encoding is not None and encoding not in ENCODINGS:
        raise own.error("encoding", f"must be one of {', '.join(ENCODINGS)}")
    standardise = own.values.get("standardise", True)
    if not isinstance(standardise, bool):
        raise own.error("standardise", "must be true or false")
    return Source(
        name=name,
        kind=kind,
        columns=own.columns(kind, several=kind == "array"),
        words=own.number("words", 64, MAX_WORDS),
        size=own.number("size", 32, MAX_SIZE),
        ticks=own.number("ticks", None, MAX_TICKS) if "ticks" in own.names else None,
        encoding=encoding,
        standardise=standardise,
    )


def _is_list(given: Any) -> bool:
    return isinstance(given, list)


class _Entries:
    """Entries of a manifest below `place`; errors name the file and the entry."""

    def __init__(self, values: Any, file: str, place: str) -> None:
        self._file = file
        self._place = place
        if not isinstance(values, dict):
            what = f"'{place}'" if place else "the manifest"
            raise DataError(one_line(f"{NAME}: {file}: {what} must be name: value pairs, as in docs/own-data.md"))
        self.values: Mapping[str, Any] = {str(name): value for name, value in values.items()}

    @property
    def names(self) -> list[str]:
        """The names of the entries."""
        return list(self.values)

    def error(self, name: str, what: str) -> DataError:
        """Return the error of an entry."""
        given = self.values.get(name)
        got = "" if given is None or isinstance(given, dict) else f", got {shown(given)}"
        return DataError(one_line(f"{NAME}: {self._file}: '{self._at(name)}' {what}{got}"))

    def only(self, known: tuple[str, ...]) -> None:
        """Raise DataError for an entry that is none of `known`."""
        strange = [name for name in self.names if name not in known]
        if strange:
            raise self.error(strange[0], f"is unknown here; known are {', '.join(known)}")

    def child(self, name: str) -> _Entries:
        """Return the entries below one."""
        return _Entries(self.values.get(name), self._file, self._at(name))

    def text(self, name: str, usual: str | None = None) -> str:
        """Return a text that is not blank."""
        given = self.values.get(name, usual)
        if isinstance(given, bool | list | dict) or given is None or not plain_text(given):
            raise self.error(name, "must be a text" if name in self.values else "is missing")
        return plain_text(given)

    def column(self, name: str) -> str | None:
        """Return the name of a column, or None where there is no such entry."""
        return self.text(name) if self.values.get(name) is not None else None

    def columns(self, name: str, *, several: bool) -> tuple[str, ...]:
        """Return the name of a column, or of several where an entry may have them."""
        given = self.values[name]
        if several and isinstance(given, list) and given:
            if all(isinstance(one, str | int) for one in given) and len({*map(str, given)}) == len(given):
                return tuple(map(str, given))
            raise self.error(name, "must name columns, each once")
        return (self.text(name),)

    def number(self, name: str, usual: int | None, most: int) -> int:
        """Return a whole number from 1 to `most`."""
        given = self.values.get(name, usual)
        if not isinstance(given, int) or isinstance(given, bool) or not 1 <= given <= most:
            raise self.error(name, f"must be a whole number from 1 to {most}")
        return given

    def _at(self, name: str) -> str:
        return f"{self._place}.{name}" if self._place else name
