"""Writes the project of a new plugin: a distribution of one module with its test and a README, ready to install.

The templates are files of `templates/KIND`, and of `templates/common` where kinds differ in words alone; `$name` and
its relatives are replaced. `plugins/example` and `plugins/example_dataset` of the repository are what two of them give.
"""

from __future__ import annotations

import importlib.util
import keyword
import re
import secrets
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from string import Template

from mlecs_bench.doors.registry import Kind, group_of
from mlecs_bench.errors import UsageError

_TEMPLATES = Path(__file__).parent / "templates"
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_FILES = {
    "pyproject.toml": "common/pyproject.toml.tmpl",
    "README.md": "common/README.md.tmpl",
    "{module}.py": "{kind}/module.py.tmpl",
    "tests/test_{stem}.py": "{kind}/test_module.py.tmpl",
}
"""A file of the project → the template it is made from."""
_PACKAGE_FILES = {
    "{module}.py": {"{module}/__init__.py": "study/module.py.tmpl", "{module}/{stem}.yaml": "study/preset.yaml.tmpl"}
}
"""What stands in the place of the module where it has a file of data beside it: a package."""
_AS_MODULE = 'py-modules = ["{module}"]'
_AS_PACKAGE = 'packages = ["{module}"]\npackage-data = {{ {module} = ["*.yaml"] }}'


def check_name(name: str, taken: Collection[str]) -> None:
    """Raise UsageError unless a new plugin can be called `name`; `taken` are the names of the installed plugins.

    The plugin's module is the name behind "mlecs_", so a name whose module can be imported already is refused too.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} cannot name a plugin; use lower-case letters, digits and single hyphens inside")
    if keyword.iskeyword(name):
        raise UsageError(f"'{name}' is a keyword of Python; choose another name")
    if name in taken:
        raise UsageError(f"a plugin '{name}' is installed already; choose another name, or uninstall that one")
    if importlib.util.find_spec(_module(name)) is not None:
        raise UsageError(f"a module {_module(name)} is installed already; choose another name than '{name}'")


def project_files(kind: Kind, name: str) -> dict[str, str]:
    """Return the project of a plugin called `name`: relative path → text."""
    words = _words(kind, name)
    files = {path: template for given in _FILES for path, template in _files_of(kind, given).items()}
    return {path.format(**words): _filled(template.format(**words), words) for path, template in files.items()}


def _files_of(kind: Kind, path: str) -> Mapping[str, str]:
    own = {path: _FILES[path]}
    return _PACKAGE_FILES.get(path, own) if kind == "study" else own


def _filled(template: str, words: Mapping[str, str]) -> str:
    return Template((_TEMPLATES / template).read_text(encoding="utf-8")).substitute(words)


def _words(kind: Kind, name: str) -> dict[str, str]:
    """Return what stands in the place of each variable of a template."""
    module = _module(name)
    stem = module.removeprefix("mlecs_")
    article = {"algorithm": "an ", "encoder": "an ", "observer": "an ", "workers": ""}.get(kind, "a ")
    layout, source = (_AS_PACKAGE, f"{module}/__init__.py") if kind == "study" else (_AS_MODULE, f"{module}.py")
    words = {
        "name": name,
        "kind": kind,
        "a_kind": article + kind,
        "group": group_of(kind),
        "module": module,
        "stem": stem,
        "source": source,
        "target": f"{module}:score" if kind == "metric" else module,
        "contents": layout.format(module=module),
        "distribution": f"mlecs-{name}",
        "title": name.replace("-", " ").capitalize(),
        "variable": f"MLECS_{stem.upper()}_LOG",
    }
    return words | {"usage": _filled(f"{kind}/usage.md.tmpl", words)}


def write_project(kind: Kind, name: str, folder: Path) -> list[Path]:
    """Write the project of a plugin called `name` to `folder` and return the files: all of them, or none.

    `name` has passed `check_name`. Raises UsageError when `folder` is there and not an empty folder, or cannot be
    written.
    """
    part = folder.parent / f".{folder.name}-{secrets.token_hex(8)}"
    files = project_files(kind, name)
    try:
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise UsageError(f"{folder} exists and is not an empty folder; choose another place with --folder")
        for path, text in files.items():
            (part / path).parent.mkdir(parents=True, exist_ok=True)
            (part / path).write_text(text, encoding="utf-8", newline="\n")
        part.rename(folder)  # fails where another process has put files there since
    except OSError as error:
        raise UsageError(f"cannot write {folder} ({error.strerror}); choose another place with --folder") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return [folder / path for path in files]


def _module(name: str) -> str:
    return f"mlecs_{name.replace('-', '_')}"
