"""Sections for tests: one that is done, one that fails, one that dies, one that never ends, one that cannot be run."""

from __future__ import annotations

import os
import time

from gpu_sections.runner import NotRunError, Options, Report


def done(options: Options, report: Report) -> None:
    report("device", options.device)
    report("values", {"third": 1 / 3, "nan": float("nan"), "list": (1, 2.0)})


def fails(options: Options, report: Report) -> None:
    report("before", 1)
    raise RuntimeError("CUDA error: no kernel\nand a second line")


def dies(options: Options, report: Report) -> None:
    report("before", 1)
    os._exit(3)


def never_ends(options: Options, report: Report) -> None:
    report("before", 1)
    time.sleep(600)


def cannot(options: Options, report: Report) -> None:
    raise NotRunError("no folder of a model was given")
