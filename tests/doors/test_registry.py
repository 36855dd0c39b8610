"""Discovery and loading of plugins, with distributions made of real dist-info folders on the import path."""

from __future__ import annotations

import importlib
import sys
import textwrap
from pathlib import Path

import pluggy
import pytest

from mlecs_bench.doors.events import KINDS as EVENTS
from mlecs_bench.doors.events import CellRef, Event
from mlecs_bench.doors.registry import DOORS, KINDS, PLUGINS_VARIABLE, REPLACED_HOOKS, PluginEntry, Registry, group_of
from mlecs_bench.errors import DataError, PluginError, UsageError

ALGORITHM = """
    from mlecs_bench.doors.hookspecs import AlgorithmInfo, hookimpl

    @hookimpl
    def mlecs_algorithm():
        return AlgorithmInfo(title="Nothing", summary="does nothing", paper="none", build=lambda options: None)
"""
CARDS = {
    "algorithm": "AlgorithmInfo('T', 's', build=lambda options: None)",
    "dataset": "DatasetInfo('T', 's', 'generation', ('a',), prepare=lambda request: None, metrics=('m',))",
    "metric": "MetricInfo('T', 's', make=lambda request: None)",
    "encoder": "EncoderInfo('T', 's', axes=1, build=lambda modality, dim: None)",
    "profile": "Profile('thing', 's', 'slm', 'llm', None, 3, 8, 8, 8, LearningRates(1, 1, 1), 2, 2, 4, True)",
    "workers": "WorkersInfo('T', 's', make=lambda request: None)",
    "fleet": "FleetInfo('T', 's', make=lambda request: None)",
    "study": "StudyInfo('T', 's')",
}
"""What the hook of each kind may return, as a plugin writes it."""
OBSERVER = """
    from mlecs_bench.doors.hookspecs import hookimpl

    SEEN = []

    @hookimpl
    def mlecs_event(event):
        SEEN.append((event.kind, event.cell.seed, event.round))
"""
LIST_OF_ALGORITHMS = "mlecs_bench.algorithms"


class Site:
    """A folder of the import path per distribution."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._root = root
        self._monkeypatch = monkeypatch

    def install(self, name: str, points: dict[str, dict[str, str]], version: str = "1.0", **modules: str) -> Path:
        """Add a distribution with entry points (group → name → target) and modules (name → source)."""
        folder = self._root / f"{name}-{version}-{len(list(self._root.iterdir()))}"
        info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = [f"[{group}]\n" + "".join(f"{n} = {t}\n" for n, t in each.items()) for group, each in points.items()]
        (info / "entry_points.txt").write_text("\n".join(lines))
        for module, source in modules.items():
            (folder / f"{module}.py").write_text(textwrap.dedent(source))
        self._monkeypatch.syspath_prepend(str(folder))
        return info

    def algorithm(self, source: str, name: str = "noop", dist: str = "acme-fl", module: str = "acme_noop") -> Registry:
        """Install a distribution of one algorithm and return what is installed now."""
        self.install(dist, {LIST_OF_ALGORITHMS: {name: module}}, **{module: source})
        return Registry.installed()


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.delenv(PLUGINS_VARIABLE, raising=False)
    before = set(sys.modules)
    yield Site(tmp_path, monkeypatch)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
    importlib.invalidate_caches()


def strangers(manager: pluggy.PluginManager) -> list[str]:
    """Return the observers of a manager that do not come with mlecs-bench."""
    return [name for name, _ in manager.list_name_plugin() if name != "csv"]


def refusal(error: type[Exception], registry: Registry, name: str = "noop") -> str:
    with pytest.raises(error) as caught:
        registry.algorithm(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_listing_imports_nothing(site):
    registry = site.algorithm("raise RuntimeError('imported')")
    assert PluginEntry("noop", "algorithm", "acme-fl", "1.0", "acme_noop") in registry.entries("algorithm")
    assert "acme_noop" not in sys.modules


def test_first_party_plugins_enter_by_the_same_door(site):
    registry = Registry.installed()
    own = {kind: {e.name for e in registry.entries(kind) if e.distribution == "mlecs-bench"} for kind in KINDS}
    for kind, names in {
        "algorithm": {"ml-ecs", "standalone", "multi-fedavg"},
        "dataset": {"vast", "ur-fall"},
        "profile": {"mini", "small", "paper", "pocket"},
        "workers": {"in-process", "processes"},
        "fleet": {"in-process", "processes"},
        "metric": {"rouge_lsum", "rouge_lsum_sentences", "bertscore", "f1_macro", "f1_weighted"},
        "encoder": {"frames", "image", "spectrogram", "tokens", "series", "vector"},
        "study": {"paper"},
    }.items():
        assert names <= own[kind]
        for name in own[kind]:
            assert isinstance(registry.load(kind, name).info, DOORS[kind][1])


def test_a_name_of_another_kind_is_said_to_be_one(site):
    registry = Registry.installed()
    assert registry.kinds_of("processes") == ["workers", "fleet"]
    with pytest.raises(UsageError, match=r"no algorithm 'vast', which is the name of: dataset\. Known: "):
        registry.algorithm("vast")
    with pytest.raises(UsageError, match=r"no dataset 'processes', which is the name of: fleet and workers\."):
        registry.dataset("processes")
    with pytest.raises(UsageError, match=r"no plugin 'minni'\. Did you mean 'mini'\?"):
        registry.kinds_of("minni")


def test_kinds_do_not_mix(site):
    site.install("d", {"mlecs_bench.datasets": {"same": "m_data"}, LIST_OF_ALGORITHMS: {"same": "m_algo"}})
    registry = Registry.installed()
    targets = [[e.target for e in registry.entries(kind) if e.name == "same"] for kind in ("algorithm", "dataset")]
    assert targets == [["m_algo"], ["m_data"]]


IMPORTS = "from mlecs_bench.api import *\nfrom mlecs_bench.api import LearningRates, hookimpl\n"


@pytest.fixture
def house(site):
    """A distribution with a thing of every kind: from a hook, straight from an object, and as a hook of an object."""
    points, modules, straight = {}, {}, IMPORTS
    for kind, card in CARDS.items():
        modules[f"acme_{kind}"] = f"{IMPORTS}@hookimpl\ndef mlecs_{kind}():\n    return {card}\n"
        straight += f"class Of_{kind}:\n    @hookimpl\n    def mlecs_{kind}(self):\n        return {card}\n"
        straight += f"{kind}, of_{kind} = {card}, Of_{kind}()\n"
        targets = {"thing": f"acme_{kind}", "straight": f"acme_all:{kind}", "object": f"acme_all:of_{kind}"}
        points[group_of(kind)] = targets
    site.install("acme-house", points, version="2.1", acme_all=straight, **modules)
    return Registry.installed()


def test_a_plugin_of_every_kind_is_loaded_with_its_origin_from_a_hook_or_straight(house):
    assert CARDS.keys() | {"observer"} == set(KINDS) == DOORS.keys()
    for kind in CARDS:
        for name in ("thing", "straight", "object"):
            loaded = getattr(house, kind)(name)
            assert isinstance(loaded.info, DOORS[kind][1])
            assert (loaded.name, loaded.distribution, loaded.version) == (name, "acme-house", "2.1")
            assert (loaded.ref.name, loaded.ref.version, loaded.ref.code) == (name, "2.1", loaded.code)
            assert loaded.code
            assert getattr(loaded.info, "title", "T") == "T"


def test_a_name_that_no_plugin_of_its_kind_has_is_refused_with_the_nearest_one(house):
    for kind in CARDS:
        with pytest.raises(UsageError) as caught:
            house.load(kind, "strait")
        assert str(caught.value).startswith(f"no {kind} 'strait'. Did you mean 'straight'? Known: ")
        assert "\n" not in str(caught.value)
    for kind, wrong, right in (("profile", "mni", "mini"), ("workers", "proceses", "processes"),
                               ("fleet", "in-proces", "in-process"), ("dataset", "vats", "vast")):  # fmt: skip  # pairs
        with pytest.raises(UsageError, match=f"no {kind} '{wrong}'. Did you mean '{right}'?"):
            Registry.installed().load(kind, wrong)


def test_what_another_kind_of_hook_returns_is_refused(site):
    site.install("acme-mix", {group_of("fleet"): {"mixed": "acme_mixed:card"}},
                 acme_mixed=f"{IMPORTS}card = {CARDS['workers']}")  # fmt: skip  # one distribution
    with pytest.raises(PluginError, match="does not implement mlecs_fleet; define it with @hookimpl"):
        Registry.installed().fleet("mixed")


def test_an_observer_is_loaded_as_it_is_and_one_that_would_hear_nothing_is_refused(site):
    group = group_of("observer")
    site.install("acme-watch", {group: {"watch": "acme_watch", "deaf": "acme_deaf"}}, acme_watch=OBSERVER,
                 acme_deaf=ALGORITHM)  # fmt: skip  # one distribution
    registry = Registry.installed()
    loaded = registry.load("observer", "watch")
    assert (loaded.info, loaded.distribution) == (sys.modules["acme_watch"], "acme-watch")
    with pytest.raises(PluginError, match="does not implement mlecs_event; define it with @hookimpl"):
        registry.load("observer", "deaf")
    manager, warnings = registry.observers()
    assert strangers(manager) == ["watch"]
    assert len(warnings) == 1


def test_only_the_plugin_that_was_asked_for_is_imported(site):
    site.install("other", {LIST_OF_ALGORITHMS: {"broken": "acme_broken"}}, acme_broken="raise RuntimeError('imported')")
    site.algorithm(ALGORITHM).algorithm("noop")
    assert "acme_noop" in sys.modules
    assert "acme_broken" not in sys.modules


def test_two_plugins_of_one_module_get_their_own_managers(site):
    registry = site.algorithm(ALGORITHM)
    assert registry.algorithm("noop").info.title == registry.algorithm("noop").info.title == "Nothing"


def test_two_distributions_with_one_name_are_an_error_with_a_cure(site):
    site.algorithm(ALGORITHM)
    registry = site.algorithm(ALGORITHM, dist="zeta", module="zeta_noop")
    message = refusal(PluginError, registry)
    assert message.startswith("algorithm 'noop' is declared by 2 distributions: acme-fl 1.0, zeta 1.0;")
    assert "pip uninstall acme-fl" in message
    assert not {"acme_noop", "zeta_noop"} & set(sys.modules)


def test_the_cure_never_uninstalls_the_harness(site):
    registry = site.algorithm(ALGORITHM, name="standalone", dist="zeta")
    assert refusal(PluginError, registry, "standalone").endswith("pip uninstall zeta")


def test_one_distribution_found_twice_is_no_conflict(site):
    site.install("acme-fl", {LIST_OF_ALGORITHMS: {"noop": "acme_old"}}, version="0.9", acme_old="raise RuntimeError")
    site.install("Acme_FL", {LIST_OF_ALGORITHMS: {"noop": "acme_new"}}, version="1.1", acme_new=ALGORITHM)
    loaded = Registry.installed().algorithm("noop")
    assert (loaded.distribution, loaded.version) == ("Acme_FL", "1.1")  # the first on the path, which Python imports


def test_a_name_that_one_distribution_declares_twice_counts_once(site):
    info = site.install("acme-fl", {LIST_OF_ALGORITHMS: {"noop": "acme_noop"}}, acme_noop=ALGORITHM)
    with (info / "entry_points.txt").open("a") as file:
        file.write("noop = acme_noop_again\n")
    assert Registry.installed().algorithm("noop").distribution == "acme-fl"


def test_a_distribution_with_damaged_metadata_does_not_stop_the_listing(site):
    (site.install("acme-fl", {LIST_OF_ALGORITHMS: {"noop": "acme_noop"}}, acme_noop=ALGORITHM) / "METADATA").unlink()
    assert Registry.installed().algorithm("noop").version == "unknown"


FAILURES = (
    ("import no_such_package_at_all", "ModuleNotFoundError: No module named 'no_such_package_at_all'"),
    ("from json import no_such_name", "ImportError: cannot import name 'no_such_name'"),
    ("raise ValueError('first\\n  second')", "ValueError: first second"),
    ("def broken(:", "SyntaxError: invalid syntax"),
    ("import sys; sys.exit(3)", "SystemExit: 3"),
    ("raise KeyError", "KeyError"),
)


def test_a_plugin_that_fails_to_import_is_named_in_one_line(site):
    for number, (source, reason) in enumerate(FAILURES):
        registry = site.algorithm(source, f"noop-{number}", f"acme-{number}", f"acme_{number}")
        message = refusal(PluginError, registry, f"noop-{number}")
        assert message.startswith(
            f"plugin 'noop-{number}' of distribution 'acme-{number}' 1.0 failed to import: {reason}"
        )


def test_the_cause_of_a_failed_import_is_kept(site):
    with pytest.raises(PluginError) as caught:
        site.algorithm("1 / 0").algorithm("noop")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_missing_module_or_object_is_named(site):
    site.install("a", {LIST_OF_ALGORITHMS: {"noop": "no_module_here", "gone": "json:no_object"}})
    registry = Registry.installed()
    assert "No module named 'no_module_here'" in refusal(PluginError, registry)
    assert "AttributeError: module 'json' has no attribute 'no_object'" in refusal(PluginError, registry, "gone")


def test_a_plugin_without_the_hook_is_refused(site):
    message = refusal(PluginError, site.algorithm(OBSERVER))
    assert message.startswith("plugin 'noop' of distribution 'acme-fl' 1.0 does not implement mlecs_algorithm")
    assert "hookimpl" in message


def test_a_misspelt_hook_is_refused_with_the_known_ones(site):
    message = refusal(PluginError, site.algorithm(ALGORITHM.replace("def mlecs_algorithm", "def mlecs_algoritm")))
    assert "unknown hook 'mlecs_algoritm'" in message
    assert message.endswith(f"Hooks are: {', '.join(sorted(f'mlecs_{k}' for k in (*CARDS, 'event')))}")


def test_a_misspelt_hook_beside_a_right_one_is_refused(site):
    extra = ALGORITHM + "\n    @hookimpl\n    def mlecs_round_ended(cell):\n        pass\n"
    assert "unknown hook 'mlecs_round_ended'" in refusal(PluginError, site.algorithm(extra))


def test_a_hook_with_an_unknown_argument_is_refused(site):
    message = refusal(PluginError, site.algorithm(ALGORITHM.replace("mlecs_algorithm()", "mlecs_algorithm(config)")))
    assert "{'config'} are declared in the hookimpl but can not be found" in message


def test_a_class_is_refused_as_plugin(site):
    site.install("a", {LIST_OF_ALGORITHMS: {"noop": "acme_class:P"}}, acme_class="class P:\n    pass")
    assert "points to the class 'acme_class:P'; point to a module or an instance" in refusal(
        PluginError, Registry.installed()
    )


def test_a_hook_that_returns_something_else_is_refused(site):
    for name, returned, kind in (("none", "None", "NoneType"), ("mapping", "{'title': 'x'}", "dict")):
        source = ALGORITHM.partition("return ")[0] + f"return {returned}\n"
        registry = site.algorithm(source, name, name, f"acme_{name}")
        assert f"returned {kind} from mlecs_algorithm, not AlgorithmInfo" in refusal(PluginError, registry, name)


def test_options_that_are_no_dataclass_are_refused(site):
    source = ALGORITHM.replace("paper=", "options=dict, paper=")
    assert "has options <class 'dict'>; give a dataclass" in refusal(PluginError, site.algorithm(source))


def test_a_hook_that_raises_is_named(site):
    source = ALGORITHM.replace("return AlgorithmInfo(", "raise OSError('disk')\n        AlgorithmInfo(")
    assert "acme-fl' 1.0 failed in mlecs_algorithm: OSError: disk" in refusal(PluginError, site.algorithm(source))


def test_an_expected_error_of_a_hook_passes_unchanged(site):
    source = """
        from mlecs_bench.errors import DataError
        from mlecs_bench.doors.hookspecs import hookimpl

        @hookimpl
        def mlecs_algorithm():
            raise DataError("table.csv is missing; download it")
    """
    assert refusal(DataError, site.algorithm(source)) == "table.csv is missing; download it"


def test_observers_are_called_and_broken_ones_are_warnings(site):
    group = "mlecs_bench.observers"
    site.install("acme-watch", {group: {"watch": "acme_watch"}}, acme_watch=OBSERVER)
    site.install("acme-bad", {group: {"bad": "acme_bad", "odd": "acme_odd"}}, acme_bad="1 / 0",
                 acme_odd=OBSERVER.replace("mlecs_event", "mlecs_evnt"))  # fmt: skip  # one line per distribution
    manager, warnings = Registry.installed().observers()
    event = Event("round_end", CellRef("a", "d", "0.5", 27, 5, 3, 7), round=2)
    manager.hook.mlecs_event(event=event, plan=None)
    assert sys.modules["acme_watch"].SEEN == [("round_end", 27, 2)]
    assert strangers(manager) == ["watch"]
    assert len(warnings) == 2
    assert "plugin 'bad' of distribution 'acme-bad' 1.0 failed to import: ZeroDivisionError" in warnings[0]
    assert "unknown hook 'mlecs_evnt'" in warnings[1]


def test_an_observer_with_a_hook_that_was_replaced_is_told_by_which(site):
    """Every hook of 0.1.0 is refused by its name, and every one of them has become a kind of event."""
    for number, hook in enumerate(REPLACED_HOOKS):
        name = f"old-{number}"
        source = OBSERVER.replace("mlecs_event(event)", f"{hook}(cell)")
        site.install(name, {group_of("observer"): {name: f"acme_old_{number}"}}, **{f"acme_old_{number}": source})
    manager, warnings = Registry.installed().observers()
    for number, hook in enumerate(REPLACED_HOOKS):
        assert warnings[number] == (
            f"plugin 'old-{number}' of distribution 'old-{number}' 1.0 implements {hook}, "
            "which mlecs_event(event, plan) has replaced: look at event.kind"
        )
    assert {hook.removeprefix("mlecs_").removesuffix("_progress") for hook in REPLACED_HOOKS} <= EVENTS.keys()
    assert strangers(manager) == []


def test_observers_that_share_a_name_or_an_object_are_warnings(site):
    group = "mlecs_bench.observers"
    site.install("one", {group: {"watch": "acme_watch", "twin-a": "acme_twin", "twin-b": "acme_twin"}},
                 acme_watch=OBSERVER, acme_twin=OBSERVER)  # fmt: skip  # one line per distribution
    site.install("two", {group: {"watch": "acme_watch"}})
    manager, warnings = Registry.installed().observers()
    assert strangers(manager) == ["twin-a"]
    assert any("'watch' is declared by 2 distributions: one 1.0, two 1.0" in line for line in warnings)
    assert any("plugin 'twin-b'" in line and "which another observer already is" in line for line in warnings)


def test_the_environment_limits_which_distributions_count(site, monkeypatch):
    site.algorithm(ALGORITHM)
    for value, seen in ((None, True), ("", False), ("other", False), ("Acme_FL", True), ("other, acme-fl", True)):
        if value is not None:
            monkeypatch.setenv(PLUGINS_VARIABLE, value)
        names = {entry.name for entry in Registry.installed().entries("algorithm")}
        assert ("noop" in names) is seen
        assert "standalone" in names


def test_disabling_strangers_resolves_a_conflict(site, monkeypatch):
    site.algorithm(ALGORITHM, name="standalone", dist="zeta")
    monkeypatch.setenv(PLUGINS_VARIABLE, "")
    assert [e.distribution for e in Registry.installed().entries("algorithm") if e.name == "standalone"] == [
        "mlecs-bench"
    ]


def test_code_of_a_strangers_plugin_is_told_apart_by_what_it_does_and_ours_goes_by_version(site, tmp_path):
    one = site.algorithm(ALGORITHM, "first", "one", "acme_one").algorithm("first").code
    same = site.algorithm(ALGORITHM, "second", "two", "acme_two").algorithm("second").code
    other = site.algorithm(ALGORITHM + "    MU = 1\n", "third", "three", "acme_three").algorithm("third").code
    source = next(tmp_path.rglob("acme_one.py"))
    codes = [one]
    for more in ("\n\n# said\n", "\nMU = 1  # half of it\n"):
        source.write_text(source.read_text() + more)
        codes.append(Registry.installed().algorithm("first").code)
    said, edited = codes[1:]
    assert said == one
    assert len({one, other, edited}) == 3
    assert None not in (one, same, other, edited)
    assert Registry.installed().algorithm("standalone").code is None
