"""The files around the code say the same: versions, Pythons, pins, pages."""

from __future__ import annotations

import configparser
import json
import re
import runpy
import tomllib
from itertools import chain
from pathlib import Path

import yaml

import mlecs_bench
from mlecs_bench import api

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE))


def tox_ini() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "tox.ini")
    return parser


def workflow() -> dict[str, object]:
    return yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())


def canonical(name: str) -> str:
    """Return a distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def distribution(requirement: str) -> str:
    return canonical(re.match(r"[\w.-]+", requirement).group())


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == mlecs_bench.__version__
    assert citation["license"] == PROJECT["license"]
    assert {"cff-version", "message", "title", "authors"} <= set(citation)


def test_tox_the_workflow_and_the_classifiers_name_the_same_pythons():
    prefix = "Programming Language :: Python :: "
    versions = [c.removeprefix(prefix) for c in PROJECT["classifiers"] if re.fullmatch(prefix + r"3\.\d+", c)]
    envs = [e.strip() for e in tox_ini()["tox"]["env_list"].split(",")]
    assert PROJECT["requires-python"] == f">={versions[0]}"
    assert [e for e in envs if e.startswith("py")] == [f"py{v.replace('.', '')}" for v in versions]
    assert workflow()["jobs"]["tests"]["strategy"]["matrix"]["python"] == versions
    assert f"[testenv:py{{{','.join(v.replace('.', '') for v in versions)}}}]" in (ROOT / "tox.ini").read_text()


def test_the_workflow_runs_every_environment_of_tox():
    envs = {e.strip() for e in tox_ini()["tox"]["env_list"].split(",")}
    commands = [step.get("run", "") for step in workflow()["jobs"]["checks"]["steps"]]
    ran = {env for command in commands for envs_ in re.findall(r"^tox .*-e (\S+)", command) for env in envs_.split(",")}
    assert ran == {env for env in envs if not env.startswith("py")}


def test_every_requirement_is_pinned():
    requirements = [*PROJECT["dependencies"], *chain.from_iterable(PROJECT["optional-dependencies"].values())]
    for section in tox_ini().values():
        requirements += [line for line in section.get("deps", "").split("\n") if line and line[0].isalpha()]
    assert len(requirements) > len(PROJECT["dependencies"])
    elsewhere = {distribution(r) for r in requirements if "==" not in r}  # others are pinned where they stand
    assert elsewhere <= set(map(canonical, PINS))


def test_pins_stand_once_in_order_and_bring_no_cuda():
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line[0] != "#"]
    assert len({distribution(pin) for pin in pins}) == len(pins)
    assert pins == sorted(pins, key=str.upper)
    assert not [pin for pin in pins if re.match("nvidia|cuda|triton", pin)]


def test_the_docs_environment_has_what_the_docs_extra_has():
    deps = set(tox_ini()["testenv:docs"]["deps"].split()) - {"{[testenv]deps}"}
    assert deps - {"pluggy"} == {distribution(r) for r in PROJECT["optional-dependencies"]["docs"]}


def test_pre_commit_has_the_pinned_ruff():
    repos = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repo["rev"] for repo in repos if repo["repo"].endswith("/ruff-pre-commit")] == [f"v{PINS['ruff']}"]


def test_the_index_lists_and_links_every_page_once():
    index = (DOCS / "index.md").read_text()
    trees = re.findall(r"```\{toctree\}\n(.*?)```", index, flags=re.DOTALL)
    entries = [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]
    listed = [page for entry in entries for page in DOCS.glob(f"{entry}.md")]
    linked = [DOCS / link for link in re.findall(r"\]\(([\w./-]+\.md)\)", index)]
    pages = sorted(page for page in DOCS.rglob("*.md") if page != DOCS / "index.md")
    assert sorted(listed) == pages
    assert sorted(linked) == pages


def test_the_api_page_knows_the_home_of_every_public_name():
    names = list(chain.from_iterable(api._HOMES.values()))
    assert sorted(names) == sorted(api.__all__)


RECORD_PAGE = runpy.run_path(str(ROOT / "tools" / "record_page.py"))
SCHEMA = json.loads(RECORD_PAGE["SCHEMA"].read_text())


def test_the_page_on_records_is_what_the_schema_says():
    """To renew it: python -m tools.record_page."""
    text = RECORD_PAGE["PAGE"].read_text()
    assert RECORD_PAGE["page"](text) == text


def all_fields() -> dict[str, str]:
    """Return the meaning of every field by its path, those of shared objects below a * of their own."""
    schema = RECORD_PAGE["Schema"](SCHEMA)
    shared = {f"{name}*": node for name, node in schema.shared.items()}
    roots = {"": SCHEMA} | {f"{name}.": node for name, node in shared.items()}
    return {f.path: f.meaning for prefix, node in roots.items() for f in schema.fields(node, prefix)}


def test_every_field_of_a_record_is_explained():
    fields = all_fields()
    assert len(fields) > 100
    assert [path for path, meaning in fields.items() if not meaning] == []
    assert not [meaning for meaning in fields.values() if "|" in meaning or "\n" in meaning]


def unexplained(value: object, node: dict[str, object], path: str = "") -> list[str]:
    """Return the paths of a value that its schema node has no words for. Options and logs belong to plugins."""
    node = RECORD_PAGE["Schema"](SCHEMA).node(node)
    if isinstance(value, list):
        return [bad for item in value for bad in unexplained(item, node["items"], f"{path}[]")]
    if not isinstance(value, dict) or ("properties" not in node and "additionalProperties" not in node):
        return []
    bad = []
    for name, item in value.items():
        child = node.get("properties", {}).get(name) or node.get("additionalProperties")
        bad += unexplained(item, child, f"{path}.{name}") if child else [f"{path}.{name}"]
    return bad


def test_committed_records_hold_nothing_that_the_schema_does_not_explain():
    paths = sorted((ROOT / "results").rglob("*--seed27--*.json"))[::7]
    assert paths
    assert {bad for path in paths for bad in unexplained(json.loads(path.read_text()), SCHEMA)} == set()
