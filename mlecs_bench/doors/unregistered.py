"""Plugins that are passed as objects: a class of a notebook, say, that no installed distribution declares.

They last as long as the process that made them, so cells that use them run in this process only. Records name them
with the mark `MARK`, and their identity holds a digest of their code: an edited class makes new cells.
"""

from __future__ import annotations

import dataclasses
import dis
import enum
import hashlib
import inspect
import sys
import sysconfig
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlecs_bench.doors.hookspecs import AlgorithmInfo, DatasetInfo
from mlecs_bench.doors.options import NoOptions
from mlecs_bench.doors.profile import Profile
from mlecs_bench.doors.registry import Kind, Loaded
from mlecs_bench.errors import UsageError

MARK = "(unregistered)"
DISTRIBUTION = "unregistered"
"""What stands in the place of the distribution and of its version."""
FUNCTIONS = ("broadcast", "receive", "local_update", "aggregate")
TAKEN: Mapping[str, tuple[Kind, type[Any]]] = {
    "algo": ("algorithm", AlgorithmInfo),
    "dataset": ("dataset", DatasetInfo),
    "profile": ("profile", Profile),
}
"""Settings that take an object in the place of a name: its kind, and what it is."""


def unregistered(setting: str, given: object) -> Loaded[Any]:
    """Return an object that was given for a setting of `TAKEN` as a plugin.

    An algorithm may be its class alone: what its `__init__` is annotated to take are its options. Raises UsageError for
    anything else.
    """
    _, wanted = TAKEN[setting]
    if isinstance(given, wanted):
        name, info = getattr(given, "name", None) or getattr(given, "title", ""), given
    elif setting == "algo" and inspect.isclass(given):
        name, info = given.__name__, _info_of(given)
    else:
        also = ", a class with the four functions" if setting == "algo" else ""
        kind = type(given).__name__
        raise UsageError(f"{setting} must be the name of a plugin{also} or its {wanted.__name__}, got an object {kind}")
    code = code_digest((given, getattr(info, "options", None)))  # a class names its options in an annotation alone
    return Loaded(f"{name} {MARK}", info, DISTRIBUTION, "0", code)


def _info_of(algorithm: type[Any]) -> AlgorithmInfo:
    """Return the card of an algorithm that is its class alone."""
    lacking = [name for name in FUNCTIONS if not callable(getattr(algorithm, name, None))]
    if lacking:
        raise UsageError(
            f"class {algorithm.__name__} has no {lacking[0]}; an algorithm has the functions {', '.join(FUNCTIONS)}"
        )
    options = _options_of(algorithm)
    summary = (inspect.getdoc(algorithm) or "").partition("\n")[0]
    build = algorithm if options is not None else (lambda _: algorithm())
    return AlgorithmInfo(title=algorithm.__name__, summary=summary, build=build, options=options or NoOptions)


def _options_of(algorithm: type[Any]) -> type[Any] | None:
    """Return the dataclass of the options that a class takes, None for a class that takes nothing."""
    if not inspect.signature(algorithm).parameters:
        return None
    hints = typing.get_type_hints(algorithm.__init__)
    found = next((hint for name, hint in hints.items() if name != "return"), None)
    if not (inspect.isclass(found) and dataclasses.is_dataclass(found)):
        raise UsageError(
            f"__init__ of class {algorithm.__name__} must take nothing, or one argument that is annotated with the "
            "dataclass of its options"
        )
    return found


def code_digest(root: object) -> str:
    """Return the sha256 of what an object is programmed to do, whatever its comments and the lines it stands on.

    It covers the object's functions and all that they name: other functions and classes of the same script, notebook
    or folder, and plain values such as numbers, texts and lists. What is installed goes by its name. It is of compiled
    code, which notebooks and consoles have, too, so another version of Python gives another digest.
    """
    digest = hashlib.sha256()
    for part in _parts(root, {}):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()


PLAIN = (str, bytes, int, float, complex, types.NoneType, types.EllipsisType, enum.Enum, Path)
Seen = dict[int, object]
"""Objects that have been taken in, by their ids; they are kept, so that no id is given away again."""


def _parts(value: Any, seen: Seen) -> Iterator[str]:
    """Yield what makes up a value, depth first, everything once."""
    if isinstance(value, PLAIN):
        yield f"{type(value).__name__} {value!r}"
    elif isinstance(value, tuple):
        yield f"tuple {len(value)}"
        for item in value:
            yield from _parts(item, seen)
    elif isinstance(value, frozenset | set):
        yield from ["set", *sorted(repr(item) for item in value)]  # whose order depends on the process
    elif id(value) not in seen:
        seen[id(value)] = value
        yield from _of_object(value, seen)


def _of_object(value: Any, seen: Seen) -> Iterator[str]:
    if isinstance(value, types.CodeType):
        yield value.co_code.hex()
        yield " ".join([*value.co_names, "/", *value.co_varnames, "/", *value.co_freevars])
        yield from _parts(value.co_consts, seen)
    elif isinstance(value, types.ModuleType):
        yield _of_module(value)
    elif isinstance(value, type | types.FunctionType):
        yield f"{value.__module__}.{value.__qualname__}"
        if not _is_installed(value):
            yield from _of_class(value, seen) if isinstance(value, type) else _of_function(value, seen)
    elif isinstance(value, Mapping):
        yield from _of_named(value, seen)
    elif isinstance(value, list):
        yield from _parts(tuple(value), seen)
    elif isinstance(value, property):
        yield from _parts((value.fget, value.fset), seen)
    elif isinstance(value, staticmethod | classmethod | types.MethodType):
        yield from _parts(value.__func__, seen)
    else:
        yield type(value).__qualname__
        if dataclasses.is_dataclass(value):
            yield from _of_named({f.name: getattr(value, f.name) for f in dataclasses.fields(value)}, seen)


def _of_named(values: Mapping[Any, Any], seen: Seen) -> Iterator[str]:
    for name, value in values.items():
        yield str(name)
        yield from _parts(value, seen)


NOT_CODE = frozenset({
    "__doc__", "__module__", "__dict__", "__weakref__", "__firstlineno__", "__static_attributes__", "__annotations__",
    "__annotate__", "__annotate_func__", "__annotations_cache__", "__abstractmethods__", "_abc_impl",
    "__dataclass_fields__", "__dataclass_params__", "__parameters__",
})  # fmt: skip  # names
"""What a class holds besides what was written; of a dataclass the functions that were made of its fields remain."""


def _of_class(value: type, seen: Seen) -> Iterator[str]:
    yield from _parts(tuple(base for base in value.__bases__ if base is not object), seen)
    yield from _of_named({name: held for name, held in vars(value).items() if name not in NOT_CODE}, seen)


def _of_function(value: types.FunctionType, seen: Seen) -> Iterator[str]:
    closed = tuple(cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell))
    yield from _parts((value.__code__, value.__defaults__, value.__kwdefaults__, closed), seen)
    names = sorted(_global_names(value.__code__) & value.__globals__.keys())
    yield from _of_named({name: value.__globals__[name] for name in names}, seen)


def _is_filled(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:  # a name that has no value yet
        return False
    return True


def _global_names(code: types.CodeType) -> set[str]:
    """Return the global names that a function and those inside it look up."""
    inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    own = {str(step.argval) for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return own.union(*map(_global_names, inner))


def _of_module(module: types.ModuleType) -> str:
    """Return the name of an installed module, with a digest of the file of any other."""
    origin = getattr(module, "__file__", None)
    if origin is None or _is_installed_file(origin) or not Path(origin).is_file():
        return module.__name__
    return f"{module.__name__} {hashlib.sha256(Path(origin).read_bytes()).hexdigest()}"


def _is_installed(value: type | types.FunctionType) -> bool:
    """Does it come from a distribution, from Python or from mlecs-bench, which go by their names?"""
    if value.__module__ in sys.builtin_module_names:
        return True
    origin = getattr(sys.modules.get(value.__module__), "__file__", None)
    return origin is not None and _is_installed_file(origin)


def _is_installed_file(origin: str) -> bool:
    path = Path(origin).resolve()
    places = (sysconfig.get_path("stdlib"), Path(__file__).parents[1])
    return bool({"site-packages", "dist-packages"} & set(path.parts)) or any(
        path.is_relative_to(Path(place).resolve()) for place in places
    )
