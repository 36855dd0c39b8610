"""What the documentation says is what the program does."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from mlecs_bench.cli.main import cli
from mlecs_bench.doors.options import option_rows
from mlecs_bench.doors.registry import Registry

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("results/*.md")])


def commands_in(text: str) -> list[str]:
    """Return every mlecs-bench command in the fenced shell blocks of a page."""
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    parts = [part.strip() for block in blocks for line in block.splitlines() for part in line.split("&&")]
    return [part for part in parts if part.startswith("mlecs-bench ")]


ALL_COMMANDS = [(page.name, command) for page in PAGES for command in commands_in(page.read_text())]


def test_readme_shows_commands():
    assert len([c for name, c in ALL_COMMANDS if name == "README.md"]) >= 3


@pytest.mark.parametrize(("page", "command"), ALL_COMMANDS)
def test_every_command_in_the_docs_parses(page, command):
    context = click.Context(cli)
    _, arguments, _ = cli.make_parser(context).parse_args(shlex.split(command)[1:])
    name, subcommand, args = cli.resolve_command(context, arguments)
    assert subcommand is not None, f"{page}: no command {name}"
    subcommand.make_context(name, args, resilient_parsing=False)


def test_readme_lists_every_command_with_its_help():
    rows = dict(re.findall(r"^\| `mlecs-bench (\S+)[^`]*` \| (.+?) \|$", README, flags=re.MULTILINE))
    context = click.Context(cli)
    helps = {name: cli.get_command(context, name).get_short_help_str(limit=200) for name in cli.list_commands(context)}
    assert rows == helps


def test_readme_is_short_and_speaks_of_the_projects_own_files():
    assert len(README.splitlines()) <= 150
    for name in re.findall(r"`((?:docs|baselines|plugins|benchmarks|results)/[\w/.]+)`", README):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_relative_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


CARDS = ROOT / "docs" / "cards"
OWN_PLUGINS = sorted(
    (e.name, e.kind)
    for kind in ("algorithm", "dataset")
    for e in Registry.installed().entries(kind)
    if e.distribution == "mlecs-bench"
)


def card_file(name: str) -> Path:
    return CARDS / f"{name.replace('/', '-')}.md"


@pytest.mark.parametrize(("name", "kind"), OWN_PLUGINS)
def test_card_in_the_docs_is_what_show_prints(name, kind):
    """To renew one: mlecs-bench show NAME --markdown > docs/cards/NAME.md, with "-" for "/"."""
    shown = CliRunner().invoke(cli, ["show", name, "--markdown"])
    assert shown.exit_code == 0
    assert card_file(name).read_text() == shown.output


def test_every_page_of_cards_is_of_a_plugin():
    assert {p.name for p in CARDS.iterdir()} == {card_file(name).name for name, _ in OWN_PLUGINS}


@pytest.mark.parametrize("name", [name for name, kind in OWN_PLUGINS if kind == "algorithm"])
def test_card_of_an_algorithm_says_what_is_reproduced_and_what_is_a_reading(name):
    info = Registry.installed().algorithm(name).info
    assert info.paper
    assert bool(info.reproduced) == (info.paper != "none"), "a control row reproduces no paper"
    assert info.readings
    for exchange in info.exchanges:
        assert exchange.size
    for row in option_rows(info.options):
        assert row["help"]
        assert row["source"]


def test_changelog_has_the_version_of_the_package():
    from mlecs_bench import __version__

    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_all_packages_come_from_one_place():
    import mlecs_baselines
    import mlecs_bench
    import mlecs_plugins

    roots = {Path(m.__file__).parent.parent for m in (mlecs_bench, mlecs_baselines, mlecs_plugins)}
    site = {root for root in roots if root.name == "site-packages"}
    # Installed as a wheel they share site-packages; in a checkout they share the repository.
    assert len(roots) == 1 if site else all(ROOT in (root, root.parent) for root in roots)
