"""A check, how it is run, and what it says: one line, whatever goes wrong in it."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from mlecs_bench.errors import PluginError


class CheckFailed(AssertionError):  # noqa: N818  # pytest and users read it as the verdict, not as an error
    """A plugin breaks its contract; the message is one line: what is wanted, what happened, what to do."""


def failure(wanted: str, happened: str, advice: str) -> CheckFailed:
    """Return CheckFailed with the three parts of a reason."""
    return CheckFailed(one_line(f"{wanted}, but {happened}; {advice}"))


def fail(wanted: str, happened: str, advice: str) -> NoReturn:
    """Raise CheckFailed with the three parts of a reason."""
    raise failure(wanted, happened, advice)


@dataclass(frozen=True)
class Check:
    """One named part of the contract for one plugin.

    Calling it returns if the plugin keeps it, else raises CheckFailed in one line, whatever went wrong.
    `origin` is an object of the plugin's own (its `build` or `prepare`), by which errors are located in its files.
    """

    name: str
    summary: str
    subject: str
    run: Callable[[], None]
    origin: Any = None

    def __call__(self) -> None:
        """Run the check."""
        try:
            self.run()
        except (Exception, SystemExit) as error:  # a stranger's plugin may raise anything
            raise CheckFailed(reason_of(error, self.origin)) from error

    def __str__(self) -> str:
        return f"{self.subject}-{self.name}"


@dataclass(frozen=True)
class Verdict:
    """How a check ended: `reason` is None if the plugin kept the contract, else one line.

    `repeats` names the check that broke with the same error at the same place before, "" for none.
    """

    check: Check
    reason: str | None
    seconds: float
    repeats: str = ""

    @property
    def passed(self) -> bool:
        """Did the plugin keep this part of the contract?"""
        return self.reason is None


def run_checks(checks: Iterable[Check]) -> Iterator[Verdict]:
    """Run checks one by one and yield each verdict as soon as it is there."""
    crashes: dict[tuple[str, str], str] = {}
    for check in checks:
        started = time.perf_counter()
        reason, repeats = None, ""
        try:
            check()
        except CheckFailed as failure:
            reason = str(failure)
            if (crash := _crash(failure, check.origin)) is not None:
                first = crashes.setdefault(crash, check.name)
                repeats = "" if first == check.name else first
        yield Verdict(check, reason, time.perf_counter() - started, repeats)


def _crash(failure: CheckFailed, origin: Any) -> tuple[str, str] | None:
    """Return what the plugin's own code raised and where, None where it raised nothing and broke the contract."""
    cause: BaseException = failure
    while cause.__cause__ is not None:
        cause = cause.__cause__
    place = place_in_plugin(failure, origin)
    return None if isinstance(cause, CheckFailed) or place is None else (f"{type(cause).__name__}: {cause}", place)


def one_line(text: str) -> str:
    """Return text without line breaks and runs of spaces."""
    return " ".join(text.split())


def reason_of(error: BaseException, origin: Any) -> str:
    """Return what went wrong in one line, with the place in the plugin's own files if it passed through one."""
    named = isinstance(error, CheckFailed | PluginError)
    text = one_line(str(error) if named else f"{type(error).__name__}: {error}").removesuffix(":")
    place = place_in_plugin(error, origin)
    return f"{text} ({place})" if place else text


def place_in_plugin(error: BaseException, origin: Any) -> str | None:
    """Return the deepest frame, as file:line, of an error or its cause that lies in a file of the plugin."""
    files = plugin_files(origin)
    place, cause = None, error
    while cause is not None:
        for frame in traceback.extract_tb(cause.__traceback__):
            if frame.filename in files:
                place = f"{files[frame.filename]}:{frame.lineno}"
        cause = cause.__cause__  # type: ignore[assignment]  # None ends the loop
    return place


def plugin_files(origin: Any) -> dict[str, str]:
    """Return the source files of the package that `origin` comes from, with the name by which to show each."""
    module = str(
        getattr(origin, "__module__", None) or getattr(origin, "__name__", "")
    )  # the latter of a module itself
    root = module.partition(".")[0]
    files = {}
    for name, loaded in list(sys.modules.items()):
        file = getattr(loaded, "__file__", None)
        if root and name.partition(".")[0] == root and file:
            depth = name.count(".") + (1 if Path(file).stem != "__init__" else 2)
            files[str(file)] = "/".join(Path(file).parts[-depth:])
    return files
