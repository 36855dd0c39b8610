"""The contract of plugins as named checks that anybody can run: `mlecs-bench check NAME`, or one test in pytest.

from mlecs_bench.testing import parametrize_with_checks

@parametrize_with_checks("my-algorithm")
def test_contract(check):
    check()
"""

from mlecs_bench.testing.checks import checks_of, checks_of_info, parametrize_with_checks
from mlecs_bench.testing.verdict import Check, CheckFailed, Verdict, run_checks

__all__ = [
    "Check",
    "CheckFailed",
    "Verdict",
    "checks_of",
    "checks_of_info",
    "parametrize_with_checks",
    "run_checks",
]
