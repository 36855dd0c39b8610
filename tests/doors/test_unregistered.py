"""Plugins that are objects: what is taken for one, and the digest that tells an edited one from what it was."""

from __future__ import annotations

import os
import subprocess
import sys
import types

import pytest

from mlecs_bench.doors.hookspecs import AlgorithmInfo
from mlecs_bench.doors.options import NoOptions
from mlecs_bench.doors.registry import Registry
from mlecs_bench.doors.unregistered import code_digest, unregistered
from mlecs_bench.errors import UsageError

SOURCE = """
from dataclasses import dataclass
from mlecs_bench.api import Needs, option

MU = 0.5
NAMES = {"lora", "fusion", "prompt", "encoder"}

@dataclass(frozen=True)
class Options:
    tau: float = option(0.1, help="a", source="b")

def helper(x):
    return [x * MU for _ in range(3)] if x in ("a", 2.0) else x in {"lora", "fusion", "prompt", "encoder"}

class Base:
    def broadcast(self, server, t):
        return {}

class Mine(Base):
    RATE = 3
    def __init__(self, options: Options) -> None:
        self.options = options
    def receive(self, device, message, t):
        inner = lambda: helper(t)
        return inner()
    def local_update(self, device, t=1, *, flag=True):
        return sorted(NAMES)
    @staticmethod
    def aggregate(server, uploads, t):
        return None
"""
EDITS = (
    ("MU = 0.5", "MU = 0.6"),
    ('"prompt", "encoder"}\n', '"prompt"}\n'),
    ("option(0.1", "option(0.2"),
    ("x * MU", "x + MU"),
    ("2.0)", "3.0)"),
    ("RATE = 3", "RATE = 4"),
    ("return {}", "return {1: 2}"),
    ("flag=True", "flag=False"),
    ("t=1", "t=2"),
    ("helper(t)", "helper(-t)"),
    ("return None", "return uploads"),
)


def mine(source: str):
    """Return the class that a notebook with this source has."""
    module = sys.modules["notebook"] = types.ModuleType("notebook")
    exec(source, module.__dict__)  # noqa: S102  # the source is ours
    return module.Mine


def digest_of(source: str) -> str:
    return unregistered("algo", mine(source)).code


def test_the_digest_changes_with_whatever_the_code_does_and_with_nothing_else():
    first = digest_of(SOURCE)
    commented = "# a comment\n\n" + SOURCE.replace("return {}", "return {}  # nothing\n")
    assert digest_of(commented) == digest_of(SOURCE) == first
    edited = [SOURCE.replace(*edit) for edit in EDITS]
    assert all(source != SOURCE for source in edited)
    digests = [digest_of(source) for source in edited]
    assert first not in digests
    assert len(set(digests)) == len(digests)


def test_the_digest_is_the_same_in_another_process_whatever_the_order_of_its_sets():
    code = f"""
import sys, types
from mlecs_bench.doors.unregistered import code_digest, unregistered
module = sys.modules["notebook"] = types.ModuleType("notebook")
exec("from __future__ import annotations\\n" + {SOURCE!r}, module.__dict__)
print(unregistered("algo", module.Mine).code, end="")
"""
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert printed == digest_of(SOURCE)


def test_a_module_beside_the_script_counts_by_its_file(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    source = "import beside\nclass Mine:\n    def broadcast(self, server, t):\n        return beside.x()\n"
    digests = []
    for body in ("1", "2"):
        (tmp_path / "beside.py").write_text(f"def x():\n    return {body}\n")
        sys.modules.pop("beside", None)
        digests.append(code_digest(mine(source)))
    assert digests[0] != digests[1]


def test_a_class_is_an_algorithm_whose_options_are_what_it_is_built_of():
    loaded = unregistered("algo", mine(SOURCE))
    assert (loaded.name, loaded.distribution, loaded.code) == (
        "Mine (unregistered)", "unregistered", digest_of(SOURCE),
    )  # fmt: skip  # one plugin
    options = loaded.info.options(tau=0.3)
    assert loaded.info.build(options).options.tau == 0.3
    own = "def __init__(self, options: Options) -> None:\n        self.options = options"
    plain = mine(SOURCE.replace(own, "pass"))
    assert unregistered("algo", plain).info.options is NoOptions
    assert isinstance(unregistered("algo", plain).info.build(NoOptions()), plain)


def test_a_registry_has_objects_beside_what_is_installed_and_names_those_that_no_process_shares():
    loaded = unregistered("algo", AlgorithmInfo("My way", "", build=lambda _: None))
    registry = Registry.installed().with_unregistered({("algorithm", loaded.name): loaded})
    assert registry.algorithm("My way (unregistered)") is loaded
    assert registry.unregistered == ["My way (unregistered)"]
    assert registry.entries("algorithm") == Registry.installed().entries("algorithm")
    assert Registry.installed().unregistered == []


def test_what_is_no_algorithm_is_refused_in_one_line():
    unannotated = mine(SOURCE.replace("options: Options", "options"))
    short = mine(SOURCE.replace("def receive", "def received"))
    for setting, given, expected in (
        (
            "algo",
            short,
            "class Mine has no receive; an algorithm has the",
        ),
        ("algo", unannotated, "__init__ of class Mine must take nothing, or one argument that is annotated with the"),
        ("algo", 3, "algo must be the name of a plugin, a class with the four functions or its AlgorithmInfo, got an"),
        ("dataset", dict, "dataset must be the name of a plugin or its DatasetInfo, got an object type"),
    ):
        with pytest.raises(UsageError) as caught:
            unregistered(setting, given)
        assert str(caught.value).startswith(expected)
        assert "\n" not in str(caught.value)
