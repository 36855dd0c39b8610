"""The page of what reproduces: no score on it but what a folder's records give."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from hand_made import make_record, score, with_identity
from mlecs_bench.report.statistics import paired_difference
from study_records import BASE, NOISE
from tools import reproduction_page as tool

GAIN = 0.05
MEAN, SUM = {"kt_reduction": "mean"}, {"kt_reduction": "sum"}


def record(algo: str, seed: int, gain: float, noise: float = 1.0, **options: Any) -> dict[str, Any]:
    """Return a record whose devices score the seed's level + gain, after the last broadcast 0.01 more."""
    level = BASE[seed] + gain + noise * NOISE[seed]
    made = make_record(algo=algo, seed=seed, local=[level - 0.1, level, level + 0.1], server=level)
    metrics = made["metrics"]["client"]
    metrics["received"] = {"rouge_lsum": {d: score(level + 0.01) for d in ("d00", "d01", "d02")}}
    made["provenance"]["git"] = {"commit": "0123456789abcdef", "dirty": False}
    return with_identity(made, algo={"options": options}) if options else made


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder of a study in which ML-ECS gains GAIN over Standalone."""
    for seed in BASE:
        for one in (
            record("standalone", seed, 0.0, 0.0),
            record("ml-ecs", seed, GAIN, **MEAN),
            record("ml-ecs", seed, 0, **SUM),
        ):
            path = tmp_path / "study" / "records" / f"{one['key']}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(one))
    blocks = (
        "{usual: {algo: [standalone, ml-ecs], rho: 0.5}, sum: {algo: ml-ecs, options: {kt_reduction: sum}, rho: 0.5}}"
    )
    settings = "{dataset: vast, data_dir: $MLECS_TEST_NOWHERE, slm: $MLECS_TEST_NOWHERE/slm}"
    (tmp_path / "study" / "study.yaml").write_text(f"settings: {settings}\nblocks: {blocks}\n")
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    tool._records.cache_clear()
    yield tmp_path / "study"
    tool._records.cache_clear()


def block(text: str) -> str:
    made = tool.filled(f"Before.\n\n<!-- {text} -->\nOLD\n<!-- end -->\n\nAfter.\n")
    assert made.startswith(f"Before.\n\n<!-- {text} -->\n")
    assert made.endswith("\n<!-- end -->\n\nAfter.\n")
    assert "OLD" not in made
    assert tool.filled(made) == made
    return made


def test_the_committed_page_is_what_the_records_give():
    """To renew it: python -m tools.reproduction_page."""
    tool._records.cache_clear()
    page = tool.PAGE.read_text(encoding="utf-8")
    assert tool.BLOCK.search(page), "the page shows nothing of the records"
    assert tool.filled(page) == page


def test_scores_and_differences_are_those_of_the_records(folder):
    values = [BASE[seed] + GAIN + NOISE[seed] for seed in BASE]
    mean, sd = sum(values) / 5, stats.tstd(values)
    assert (
        f"| 0.5 | 3 | ml-ecs | {mean:.3f} ± {sd:.3f} | {mean + 0.01:.3f} ± {sd:.3f} | {mean:.3f} ± {sd:.3f} | 5 |"
        in block("scores study")
    )
    test = stats.ttest_rel(values, [BASE[seed] for seed in BASE])
    low, high = test.confidence_interval()
    line = next(line for line in block("against study").splitlines() if "| devices |" in line)
    assert f"{GAIN:+.3f}" in line
    assert f"({low:+.3f} to {high:+.3f})" in line
    assert "**better**" in line
    assert "ml-ecs (kt_reduction=sum) | devices" in block("ablations study")
    assert "devices: 1 better of 1; server: 1 better of 1" in block("verdicts study")
    assert "15 of 15 cells have records, made at commit `0123456789`." in block("cells study")


def test_a_page_takes_no_record_of_a_changed_checkout_and_no_order_it_does_not_know(folder):
    path = next((folder / "records").iterdir())
    one = json.loads(path.read_text())
    one["provenance"]["git"]["dirty"] = True
    path.write_text(json.dumps(one))
    tool._records.cache_clear()
    with pytest.raises(ValueError, match="1 records were made from a checkout with changes"):
        block("cells study")
    with pytest.raises(ValueError, match="'wishes' is no block"):
        block("wishes study")
    with pytest.raises(ValueError, match="no record with"):
        block("scores study n_devices=7")


def test_so_many_seeds_as_would_tell_are_the_first_with_the_power():
    for mean, sd in ((0.05, 0.01), (0.02, 0.02), (0.01, 0.04), (-0.03, 0.05)):
        scores = {i: mean + sd * z for i, z in enumerate((-1.2, -0.4, 0.1, 0.5, 1.0))}
        found = paired_difference(scores, dict.fromkeys(scores, 0.0))
        needed = next(n for n in range(2, 2000) if _power(abs(found.mean), found.sd, n) >= 0.8)
        assert tool.seeds_needed(found) == (needed if needed <= tool.MANY_SEEDS else None)
    nothing = paired_difference({1: 0.1, 2: 0.3}, {1: 0.2, 2: 0.2})
    assert tool.seeds_needed(nothing) is None


def _power(mean: float, sd: float, n: int) -> float:
    """Return the probability that a two-sided t-test on n differences is significant with the right sign."""
    return float(stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, mean / sd * math.sqrt(n)))


def test_no_number_of_a_score_stands_outside_of_blocks():
    prose = tool.BLOCK.sub("", tool.PAGE.read_text(encoding="utf-8"))
    scored = re.findall(r"\b0\.\d{3}\b", prose.partition("## What is sent")[0])
    assert scored == []
