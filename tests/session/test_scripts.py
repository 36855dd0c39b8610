"""Scripts that start workers: they need no guard, since no worker runs them again."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import mlecs_bench
print("the script runs")
small = {"rounds": 1, "steps": 1, "private_limit": 8, "public_limit": 8, "test_limit": 2, "bertscore_model": "none"}
small |= {"n_devices": 1, "quiet": True}
res = mlecs_bench.run(algo="standalone", dataset="vast", rho=1, seeds=[1, 2], workers=2, **small)
print([record["identity"]["seed"] for record in res.records])
"""


@pytest.mark.slow
@pytest.mark.nightly
def test_a_script_without_a_guard_starts_two_workers_that_do_not_run_it_again(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["the script runs", "[1, 2]"]
    assert len(list(tmp_path.glob("results/scratch/records/*.json"))) == 2
