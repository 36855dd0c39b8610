"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path[:0] = [str(Path(__file__).parent / name) for name in ("", "cli", "elsewhere", "session")]
sys.path.append(str(Path(__file__).parents[1]))  # `tools` and `benchmarks`; last, so that an installed wheel is tested
CHECKED = ("mlecs_bench.blocks", "mlecs_bench.models", "mlecs_plugins.ml_ecs", "mlecs_baselines")
"""Packages whose calls are held against the types and shapes of their signatures, in tests alone."""
jaxtyping.install_import_hook(CHECKED, "shapes.checked")


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Let arguments through that do not fit a signature, as in production: for what a function itself refuses."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Bit-exact results need one thread."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def profile(tmp_path_factory: pytest.TempPathFactory):
    """A profile of random tiny models."""
    import toy

    return toy.make_profile(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory):
    """The toy dataset, prepared."""
    import toy

    return toy.make_prepared(tmp_path_factory.mktemp("data") / "toy")


@pytest.fixture(scope="session")
def samples(prepared):
    """The toy dataset, opened."""
    from mlecs_bench.data.samples import Samples

    return Samples.open(prepared)


@pytest.fixture(scope="session")
def checkpoints(profile, tmp_path_factory: pytest.TempPathFactory):
    """Folders of random tiny models by architecture: gpt2, gptj, llama."""
    import toy

    return {
        "gpt2": profile.slm,
        "gptj": profile.llm,
        "llama": str(toy.make_llama(tmp_path_factory.mktemp("llama") / "llama")),
    }


@pytest.fixture(scope="session")
def warm() -> Iterator[Path]:
    """The socket of a warm interpreter, for tests that start many programs which all import torch; see warm.py."""
    from mlecs_bench.session.environment import QUIET_LIBRARIES

    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1", **QUIET_LIBRARIES}
    with tempfile.TemporaryDirectory(prefix="warm-") as folder:  # the path of a socket has to be short
        path = Path(folder) / "socket"
        command = [sys.executable, Path(__file__).with_name("warm.py"), path]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as interpreter:
            interpreter.stdout.readline()
            yield path
            interpreter.terminate()


@pytest.fixture(scope="session")
def study_folder(tmp_path_factory: pytest.TempPathFactory):
    """A folder with the records of a study and the report that `mlecs-bench report` has made of them; only read it."""
    from click.testing import CliRunner

    from mlecs_bench.cli.report import report
    from study_records import study_records, write_records

    out = write_records(tmp_path_factory.mktemp("reported") / "study", study_records())
    result = CliRunner().invoke(report, [str(out)])
    assert result.exit_code == 0, result.output
    (out / "printed.txt").write_text(result.stdout, encoding="utf-8")
    return out
