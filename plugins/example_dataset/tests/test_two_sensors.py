"""The contract of mlecs-bench, and what two-sensors promises beyond it."""

import pytest
from mlecs_bench.api import DataError, DataRequest
from mlecs_bench.testing import parametrize_with_checks

from mlecs_two_sensors import mlecs_dataset


@parametrize_with_checks("two-sensors")
def test_contract(check):
    check()


def test_a_folder_that_lacks_everything_is_refused_and_verified_in_words(tmp_path):
    info, request = mlecs_dataset(), DataRequest(tmp_path, tmp_path / "cache")
    with pytest.raises(DataError) as refused:
        info.prepare(request)
    found = info.verify(request)
    assert (found.n_samples, found.digest) == (0, None)
    assert list(found.problems) == [str(refused.value)]
