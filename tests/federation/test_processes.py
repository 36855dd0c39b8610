"""Ctrl-C and the processes that a command starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from mlecs_bench.federation.processes import interrupts_wait

MASK = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"


def blocked() -> str:
    return subprocess.run([sys.executable, "-c", MASK], capture_output=True, text=True, check=True).stdout.strip()


def test_a_process_started_while_interrupts_wait_gets_none_and_another_does():
    assert blocked() == "False"
    with interrupts_wait():
        assert blocked() == "True"
    assert blocked() == "False"


def test_an_interrupt_is_not_lost_but_comes_at_the_end_of_the_block():
    reached = []

    def interrupted() -> None:
        with interrupts_wait():
            os.kill(os.getpid(), signal.SIGINT)
            reached.append("the end of the block")

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert reached == ["the end of the block"]
