"""`mlecs-bench new-plugin`: which names it takes, what it writes, and that a failure leaves nothing behind."""

from __future__ import annotations

import ast
import tomllib
from functools import partial
from pathlib import Path

import pytest

import fabricated
from cli_fakes import call_main, install
from mlecs_bench.doors.registry import KINDS, PluginEntry, group_of
from mlecs_bench.errors import UsageError
from mlecs_bench.scaffold import check_name, project_files, write_project


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    return partial(call_main, capsys, "new-plugin")


def files_under(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", ["a", "newprox", "four-sensors", "3d", "fed-avg-2"])
def test_a_name_of_letters_digits_and_single_hyphens_is_taken(name):
    check_name(name, {"other"})


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "cannot name a plugin"),
        ("FedProx", "lower-case letters, digits and single hyphens"),
        ("fed_prox", "cannot name a plugin"),
        ("fed--prox", "cannot name a plugin"),
        ("-fed", "cannot name a plugin"),
        ("fed-", "cannot name a plugin"),
        ("fed prox", "cannot name a plugin"),
        ("newprox\n", "cannot name a plugin"),
        ("../fed", "cannot name a plugin"),
        ("fédprox", "cannot name a plugin"),
        ("٣d", "cannot name a plugin"),
        ("lambda", "is a keyword of Python"),
        ("standalone", "a plugin 'standalone' is installed already"),
        ("bench", "a module mlecs_bench is installed already"),
        ("plugins", "a module mlecs_plugins is installed already"),
    ],
)
def test_any_other_name_is_refused_in_one_line(name, reason):
    with pytest.raises(UsageError) as caught:
        check_name(name, {"standalone"})
    assert reason in str(caught.value)
    assert repr(name)[1:-1] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["newprox", "four-sensors", "3d"])
def test_a_project_declares_its_plugin_and_nothing_is_left_of_the_template(kind, name):
    files = project_files(kind, name)
    module = f"mlecs_{name.replace('-', '_')}"
    declared = tomllib.loads(files["pyproject.toml"])
    assert declared["project"]["entry-points"] == {group_of(kind): {name: module}}
    assert declared["project"]["name"] == f"mlecs-{name}"
    assert declared["project"]["dependencies"] == ["mlecs-bench"]
    contents, own = declared["tool"]["setuptools"], {f"{module}.py"}
    if kind == "study":
        own = {f"{module}/__init__.py", f"{module}/{module[6:]}.yaml"}
        assert contents == {"packages": [module], "package-data": {module: ["*.yaml"]}}
    else:
        assert contents == {"py-modules": [module]}
    assert set(files) == {"pyproject.toml", "README.md", f"tests/test_{module[6:]}.py", *own}
    assert all("$" not in text and text.endswith("\n") and "\n\n\n\n" not in text for text in files.values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_readme_is_short_and_lines_fit_a_long_name(kind):
    files = project_files(kind, "a-rather-long-name-of-30-signs")
    assert len(files["README.md"].splitlines()) <= 30
    code = [text for path, text in files.items() if path.endswith(".py")]
    assert len(code) == 2
    assert all(ast.get_docstring(ast.parse(text)) for text in code)
    assert max(len(line) for text in code for line in text.splitlines()) <= 120


def test_an_algorithm_is_about_forty_lines():
    """Counts the lines of the class's statements: no blank line, docstring or signature's documentation."""
    source = project_files("algorithm", "newprox")["mlecs_newprox.py"]
    cls = next(n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == "FedProx")
    bodies = [s for f in cls.body if isinstance(f, ast.FunctionDef) for s in f.body]
    lines = {n for s in bodies if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))
             for n in range(s.lineno, (s.end_lineno or 0) + 1)}  # fmt: skip  # one set
    assert len(lines) <= 40


def test_the_command_names_the_files_and_the_next_three_commands(call, tmp_path):
    code, out, err = call("newprox")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "Wrote",
        "  newprox/pyproject.toml",
        "  newprox/README.md",
        "  newprox/mlecs_newprox.py",
        "  newprox/tests/test_newprox.py",
        "Next:",
        "  cd newprox",
        '  pip install -e ".[test]"',
        "  mlecs-bench check newprox",
    ]
    assert files_under(tmp_path / "newprox") == project_files("algorithm", "newprox")


def test_a_project_of_any_kind_is_written_and_two_kinds_at_once_are_refused(call, tmp_path):
    for kind in KINDS:
        assert call(f"new-{kind}", "--kind", kind)[0] == 0
        assert files_under(tmp_path / f"new-{kind}") == project_files(kind, f"new-{kind}")
    code, _, err = call("another", "--kind", "metric", "--dataset")
    assert (code, err.count("\n")) == (2, 1)
    assert "--dataset asks for a dataset and --kind for another kind, metric" in err
    assert not (tmp_path / "another").exists()


def test_a_dataset_goes_into_the_folder_that_was_asked_for(call, tmp_path):
    code, out, _ = call("--dataset", "four-sensors", "--folder", "my plugins")
    assert code == 0
    assert "  cd 'my plugins/four-sensors'\n" in out
    assert files_under(tmp_path / "my plugins" / "four-sensors") == project_files("dataset", "four-sensors")


@pytest.mark.parametrize("arguments", [["alpha"], ["toy"], ["toy", "--dataset"], ["Toy"], ["class"]])
def test_a_refused_name_writes_nothing(call, tmp_path, arguments):
    code, out, err = call(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    assert list(tmp_path.iterdir()) == []


def test_the_name_of_an_observer_is_taken_too(call, monkeypatch):
    install(monkeypatch, [PluginEntry("watch", "observer", "acme", "1", "acme_watch")])
    assert call("watch")[0] == 2


@pytest.mark.parametrize("there", ["file", "folder", "link"])
def test_what_is_there_is_never_overwritten(call, tmp_path, there):
    target, elsewhere = tmp_path / "newprox", tmp_path / "notes.md"
    elsewhere.write_text("mine")
    if there == "file":
        target.write_text("mine")
    elif there == "link":
        target.symlink_to(elsewhere)
    else:
        target.mkdir()
        (target / "notes.md").write_text("mine")
    before = files_under(tmp_path)
    code, _, err = call("newprox")
    assert (code, err) == (2, "error: newprox exists and is not an empty folder; choose another place with --folder\n")
    assert files_under(tmp_path) == before


def test_an_empty_folder_is_filled(call, tmp_path):
    (tmp_path / "newprox").mkdir()
    assert call("newprox")[0] == 0
    assert files_under(tmp_path / "newprox") == project_files("algorithm", "newprox")


@pytest.mark.parametrize("step", ["write_text", "rename"])
def test_a_failure_leaves_nothing_behind(monkeypatch, tmp_path, step):
    def fail(self, *args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, step, fail)
    with pytest.raises(UsageError, match=r"cannot write .*newprox \(No space left on device\); choose another place"):
        write_project("algorithm", "newprox", tmp_path / "newprox")
    assert list(tmp_path.iterdir()) == []


def test_files_that_another_process_put_there_meanwhile_stay(monkeypatch, tmp_path):
    target, rename = tmp_path / "newprox", Path.rename

    def late(self, to):
        target.mkdir()
        (target / "theirs").write_text("theirs")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", late)
    with pytest.raises(UsageError, match="cannot write"):
        write_project("algorithm", "newprox", target)
    assert files_under(tmp_path) == {"newprox/theirs": "theirs"}


@pytest.mark.slow
def test_new_projects_pass_the_tests_that_they_come_with(tmp_path):
    """But for the contract's checks, which the plugin guide runs for every kind (test_plugin_guide.py)."""
    shell = fabricated.Shell(tmp_path)
    made = "\n".join(
        f'mlecs-bench new-plugin my-{kind} --kind {kind}\ncd my-{kind}\npip install -e ".[test]"\ncd ..'
        for kind in KINDS
    )
    done = shell.run(f"{made}\npytest -q -W error --import-mode=importlib -k 'not contract' my-*/tests")
    assert done.returncode == 0, done.stdout
    assert f"{len(KINDS)} passed" in done.stdout
