"""The contract of mlecs-bench, and what two-sensors promises beyond it."""

import csv

from mlecs_bench.testing import parametrize_with_checks

from mlecs_two_sensors import COLUMNS, generate, read


@parametrize_with_checks("two-sensors")
def test_contract(check):
    check()


def test_a_file_of_the_generated_samples_is_read_as_they_were(tmp_path):
    samples = generate()
    rows = [[label, *values] for label, values in zip(samples.labels, samples.values.tolist(), strict=True)]
    with (tmp_path / "samples.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    again = read(tmp_path / "samples.csv")
    assert (again.labels, again.values.tolist()) == (samples.labels, samples.values.tolist())
