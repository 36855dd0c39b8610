"""Ctrl-C and the processes that a command starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import spawn

import pytest
import torch

from mlecs_bench.federation.processes import apart_from_script, interrupts_wait, use_exact_kernels

MASK = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"


def blocked() -> str:
    return subprocess.run([sys.executable, "-c", MASK], capture_output=True, text=True, check=True).stdout.strip()


def test_a_process_started_while_interrupts_wait_gets_none_and_another_does():
    assert blocked() == "False"
    with interrupts_wait():
        assert blocked() == "True"
    assert blocked() == "False"


@pytest.mark.parametrize("threads", [0, 1])
def test_an_interrupt_is_not_lost_but_comes_at_the_end_of_the_block(threads: int):
    """With another thread the system gives the signal to that one, whose mask does not hold it back."""
    reached, done, before = [], threading.Event(), signal.getsignal(signal.SIGINT)
    others = [threading.Thread(target=done.wait, daemon=True) for _ in range(threads)]

    def interrupted() -> None:
        with interrupts_wait():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
            reached.append("the end of the block")

    for other in others:
        other.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupted()
    finally:
        done.set()
    assert reached == ["the end of the block"]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_process_that_is_started_apart_is_told_of_no_script(monkeypatch):
    def told() -> set[str]:
        return {name for name in spawn.get_preparation_data("worker") if name.startswith("init_main")}

    script = sys.modules["__main__"]
    monkeypatch.setattr(script, "__spec__", None)
    monkeypatch.setattr(script, "__file__", "script.py", raising=False)
    assert told() == {"init_main_from_path"}
    with apart_from_script():
        assert told() == set()
    assert sys.modules["__main__"] is script
    assert told() == {"init_main_from_path"}


def test_exact_kernels_round_no_float32_and_are_the_same_every_time(monkeypatch):
    for switch, wanted in (("allow_tf32", False), ("deterministic", True)):
        monkeypatch.setattr(torch.backends.cudnn, switch, not wanted)
    use_exact_kernels()
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic) == (False, True)
