"""The two example plugins: they are what the scaffold writes, and they do what their cards say."""

from __future__ import annotations

import importlib
import shlex
import shutil
import sys
import tomllib
from pathlib import Path

import click
import numpy as np
import pytest
import torch

import fabricated
import toy
from mlecs_bench.blocks.supervised import train_on_private
from mlecs_bench.cli.main import cli
from mlecs_bench.data.samples import DataRequest, Samples
from mlecs_bench.doors.options import build_options
from mlecs_bench.doors.registry import PLUGINS_VARIABLE, Registry
from mlecs_bench.errors import DataError, UsageError
from mlecs_bench.federation.messages import Message
from mlecs_bench.scaffold import project_files
from study_records import table_rows

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = [
    ("algorithm", "fedprox", ROOT / "plugins/example"),
    ("dataset", "two-sensors", ROOT / "plugins/example_dataset"),
]
MADE_BY_TOOLS = {"__pycache__", "build", ".pytest_cache", ".ruff_cache", ".mypy_cache"}


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """What is installed when the examples are."""
    site = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(PLUGINS_VARIABLE, raising=False)
        patch.setattr(sys, "dont_write_bytecode", True)
        for _, _, folder in EXAMPLES:
            fabricated.install(folder, site)
        patch.syspath_prepend(site)
        yield Registry.installed()
    for module in ("mlecs_fedprox", "mlecs_two_sensors"):
        sys.modules.pop(module, None)


@pytest.mark.parametrize(("kind", "name", "folder"), EXAMPLES, ids=lambda value: str(value).rsplit("/", 1)[-1])
def test_an_example_is_what_the_scaffold_writes(kind, name, folder):
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
        and not any(p in MADE_BY_TOOLS or p.endswith(".egg-info") for p in path.relative_to(folder).parts)
    }
    assert found == {path: text.encode() for path, text in project_files(kind, name).items()}


def test_the_examples_are_no_part_of_the_distribution():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "py-modules" not in setuptools
    assert setuptools["packages"]["find"]["namespaces"] is False
    assert [path for _, _, folder in EXAMPLES for path in folder.rglob("__init__.py")] == []


@pytest.mark.parametrize("folder", [folder for _, _, folder in EXAMPLES], ids=lambda folder: folder.name)
def test_every_command_of_an_examples_readme_parses(folder):
    lines = (folder / "README.md").read_text().splitlines()
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("mlecs-bench ")]
    assert [name for name, *_ in commands if name in ("check", "report")] == ["check", "report"]
    for name, *arguments in commands:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        command.make_context(name, arguments)


# FedProx


def fedprox(registry, **options):
    info = registry.algorithm("fedprox").info
    return info.build(build_options(info.options, options, "fedprox"))


def federation(registry, profile, samples, **changes):
    info = registry.algorithm("fedprox").info
    return toy.toy_federation(profile, samples, needs=info.needs(info.options()), **changes)


def trained(registry, profile, samples, t=1, **options):
    """Return a device that has trained one round, its adapter before, and what it sent."""
    device = federation(registry, profile, samples, steps=6).devices[0]
    before = {name: tensor.detach().clone() for name, tensor in device.model.part("lora").items()}
    sent = fedprox(registry, **options).local_update(device, t)
    return device, before, sent


def distance(device, before):
    after = device.model.part("lora")
    return sum(float((after[name].detach() - tensor).square().sum()) for name, tensor in before.items()) ** 0.5


def test_the_examples_come_from_their_own_distributions(registry):
    algorithm, dataset = registry.algorithm("fedprox"), registry.dataset("two-sensors")
    assert (algorithm.distribution, dataset.distribution) == ("mlecs-fedprox", "mlecs-two-sensors")
    assert algorithm.info.needs(algorithm.info.options()).same == ("lora",)


@pytest.mark.parametrize("value", ["-0.1", "nan", "much"])
def test_a_strength_that_is_no_distance_is_refused(registry, value):
    with pytest.raises(UsageError, match="'mu'"):
        fedprox(registry, mu=value)


def test_without_the_proximal_term_a_device_trains_as_on_its_own(registry, profile, samples):
    device, _, sent = trained(registry, profile, samples, mu="0")
    alone = federation(registry, profile, samples, steps=6).devices[0]
    train_on_private(alone, 1)
    assert toy.differing(device.state(), alone.state()) == set()
    assert sent.scalars == {"n_j": len(device.train)}


def test_a_stronger_proximal_term_holds_the_adapter_nearer(registry, profile, samples):
    distances = [distance(*trained(registry, profile, samples, mu=mu)[:2]) for mu in ("0", "100", "10000")]
    assert distances[0] > distances[1] > distances[2] > 0


def test_devices_start_the_next_round_from_the_weighted_mean(registry, profile, samples):
    parties, algorithm = federation(registry, profile, samples), fedprox(registry)
    server, devices = parties.server, parties.devices
    assert algorithm.broadcast(server, 1) == {}
    like = devices[0].model.part("lora")
    uploads = {
        device.id: Message({f"lora/{name}": torch.full_like(t, j) for name, t in like.items()}, {"n_j": 1 + j})
        for j, device in enumerate(devices)
    }
    algorithm.aggregate(server, uploads, 1)
    down = algorithm.broadcast(server, 2)
    assert set(down) == {device.id for device in devices}
    algorithm.receive(devices[0], down[devices[0].id].copied(), 2)
    mean = np.average(range(len(devices)), weights=[1 + j for j in range(len(devices))])
    for tensor in devices[0].model.part("lora").values():
        torch.testing.assert_close(tensor.detach(), torch.full_like(tensor, float(mean)))


# Two sensors


@pytest.fixture(scope="module")
def sensors(registry):
    registry.dataset("two-sensors")
    return importlib.import_module("mlecs_two_sensors")


def test_the_generated_samples_have_both_modalities_and_all_labels(sensors, tmp_path):
    samples = Samples.open(sensors.prepare(DataRequest(None, tmp_path)))
    assert len(samples) == samples.manifest.n_samples == 400
    assert set(samples.targets) == set(samples.manifest.labels)
    assert samples.array("engine").shape == (400, 4)
    assert samples.array("motion").shape == (400, 16, 2)
    assert all(present.all() for present in samples.presence.values())


def test_the_engine_tells_resting_and_the_motion_tells_racing(sensors, tmp_path):
    from sklearn.metrics import roc_auc_score

    samples = Samples.open(sensors.prepare(DataRequest(None, tmp_path)))
    label = np.array(samples.targets)
    warmth, unrest = samples.array("engine").mean(axis=1), samples.array("motion").reshape(400, -1).var(axis=1)
    on = label != "resting"
    assert roc_auc_score(on, warmth) > 0.9
    assert roc_auc_score(label == "racing", unrest) > 0.9
    assert abs(roc_auc_score(label[on] == "racing", warmth[on]) - 0.5) < 0.1
    assert abs(roc_auc_score((label == "waiting")[label != "racing"], unrest[label != "racing"]) - 0.5) < 0.1


def write_csv(sensors, folder, change=lambda lines: lines, n=20):
    """Write the first n generated samples to samples.csv, after `change` of its lines."""
    made = sensors.generate()
    rows = [
        ",".join([label, *map(str, values)]) for label, values in zip(made.labels, made.values.tolist(), strict=True)
    ]
    folder.mkdir(exist_ok=True)
    (folder / "samples.csv").write_text("\n".join(change([",".join(sensors.COLUMNS), *rows[:n]])))
    return DataRequest(folder, folder.parent / "cache")


def test_own_samples_are_another_dataset_than_the_stand_in(sensors, tmp_path):
    own = sensors.prepare(write_csv(sensors, tmp_path / "own", n=400))
    generated = sensors.prepare(DataRequest(None, tmp_path / "cache"))
    assert (own.manifest.synthetic, generated.manifest.synthetic) == (False, True)
    assert own.folder != generated.folder
    assert (Samples.open(own).array("motion") == Samples.open(generated).array("motion")).all()


def test_a_prepared_folder_is_used_again_until_anything_changes(sensors, tmp_path, monkeypatch):
    first = sensors.prepare(write_csv(sensors, tmp_path / "own"))
    assert sensors.prepare(write_csv(sensors, tmp_path / "own")).folder == first.folder
    changed = sensors.prepare(write_csv(sensors, tmp_path / "own", lambda lines: lines[:-1]))
    assert changed.folder != first.folder
    monkeypatch.setattr(sensors, "LABELS", (*sensors.LABELS, "parked"))
    assert sensors.prepare(write_csv(sensors, tmp_path / "own")).folder != first.folder


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda lines: [], "cannot read"),
        (lambda lines: lines[:1], "must have samples with the columns state, engine_0, ..., motion_31"),
        (lambda lines: lines[1:], "must have samples with the columns"),
        (lambda lines: [line.rpartition(",")[0] for line in lines], "must have samples with the columns"),
        (lambda lines: [lines[0], *(line.rpartition(",")[0] for line in lines[1:])], "must have samples with"),
        (lambda lines: [*lines, "resting,1,2"], "cannot read"),
        (lambda lines: [*lines[:2], "", *lines[2:]], "cannot read"),
        (lambda lines: [*lines, lines[-1].replace(lines[-1].split(",")[1], "warm")], "could not convert string"),
        (lambda lines: [*lines, lines[-1].replace(lines[-1].split(",")[1], "nan")], "a finite number in every cell"),
        (lambda lines: [*lines, "flying," + lines[-1].partition(",")[2]], "a state of resting, waiting, racing"),
        (lambda lines: [*lines, "\0" * 200000], "cannot read"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_line_that_names_it(sensors, tmp_path, change, reason):
    with pytest.raises(DataError) as caught:
        sensors.prepare(write_csv(sensors, tmp_path / "own", change))
    assert reason in str(caught.value)
    assert "samples.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_the_file_is_refused_and_doctor_can_say_so(sensors, tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*samples\.csv"):
        sensors.prepare(DataRequest(tmp_path, tmp_path / "cache"))
    check = sensors.mlecs_dataset().check
    assert check(tmp_path) == ["samples.csv is missing"]
    write_csv(sensors, tmp_path)
    assert check(tmp_path) == []


# Together


@pytest.mark.slow
def test_the_examples_run_together_and_are_reported(tmp_path, warm):
    shell = fabricated.Shell(tmp_path, warm)
    for _, _, folder in EXAMPLES:
        shutil.copytree(folder, shell.cwd / folder.name, ignore=shutil.ignore_patterns(*MADE_BY_TOOLS, "*.egg-info"))
    done = shell.run(
        "cd example; pip install -e .; cd ../example_dataset; pip install -e .; cd ..\n"
        "mlecs-bench run --algo fedprox --dataset two-sensors --profile mini --rho 0.5 --rounds 1 --steps 1 --seeds 27 "
        "--n-devices 2 --quiet\nmlecs-bench report"
    )
    assert done.returncode == 0, done.stdout
    rows = [row for row in table_rows(done.stdout) if row["algorithm"] == "fedprox"]
    assert len(rows) == 2
    assert rows[0] == rows[1]
