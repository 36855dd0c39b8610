"""Annotations as long as VAST's run on the default profile; longer ones are refused with the option that helps."""

from __future__ import annotations

import numpy as np
import pytest

from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import UsageError
from mlecs_bench.federation.build import Builder
from mlecs_bench.plan.resolve import resolve
from mlecs_bench.plan.spec import RunSpec
from vast_files import open_samples, record, write_records

N_RECORDS = 60
WORDS, CHARACTERS = (10, 53), 279
"""The shortest and the longest summary of 60 genuine records, in words, and the longest in characters."""
LETTERS = "etaoinshrdlcumwfgypbvk"


def made_up(n_words: int, generator: np.random.Generator) -> str:
    """Return words that no tokenizer knows, on average as long as the longest summary's."""
    sizes = 1 + generator.poisson(CHARACTERS / WORDS[1] - 2, n_words)
    return " ".join("".join(generator.choice(list(LETTERS), size)) for size in sizes)


def check(folder, cache, **options):
    """Raise UsageError unless the language models of a run without further flags have room for the samples."""
    spec = RunSpec("standalone", "vast", 0.5, n_devices=2, seeds=(27,), data_dir=str(folder), data_options=options)
    registry = Registry.installed()
    builder = Builder(resolve(spec, registry), 27, open_samples(folder, cache, **options), registry)
    builder.server()
    builder.check_lengths()


@pytest.mark.slow
def test_records_as_long_as_vasts_fit_mini_and_longer_ones_name_the_option_that_cuts(tmp_path):
    generator = np.random.default_rng(60)
    texts = [made_up(n, generator) for n in np.linspace(*WORDS, N_RECORDS).astype(int)]
    records = [record(f"clip{i}", vast_cap=text) for i, text in enumerate(texts)]
    folder = write_records(tmp_path / "own/vast.json", records).parent
    check(folder, tmp_path / "cache")
    write_records(folder / "vast.json", [*records, record("long", vast_cap=made_up(150, generator))])
    with pytest.raises(UsageError, match=r"--data-option target_words=N") as caught:
        check(folder, tmp_path / "cache")
    assert "/" not in str(caught.value).replace(str(folder), "")
    check(folder, tmp_path / "cache", target_words=40)
