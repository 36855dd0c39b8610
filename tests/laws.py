"""A law that holds for many values is one test: a loop over them that says at which one it failed."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Test = Callable[..., None]


def for_all(names: str | Sequence[str], values: Iterable[Any]) -> Callable[[Test], Test]:
    """Run a test for every one of `values`, in one test; stacked, for every combination.

    It is written as `pytest.mark.parametrize` is. Fixtures are the same for all values, so what a test does to them it
    has to undo; where each value needs fixtures of its own, parametrize.
    """
    given = (names,) if isinstance(names, str) else tuple(names)
    cases = [value if len(given) > 1 else (value,) for value in values]
    assert cases, "a law about nothing holds for no reason"

    def decorate(test: Test) -> Test:
        @functools.wraps(test)
        def law(**fixtures: Any) -> None:
            for case in cases:
                chosen = dict(zip(given, case, strict=True))
                try:
                    test(**chosen, **fixtures)
                except Exception as error:
                    error.add_note(f"for {', '.join(f'{name} = {value!r}' for name, value in chosen.items())}")
                    raise

        signature = inspect.signature(test)
        others = [parameter for name, parameter in signature.parameters.items() if name not in given]
        law.__signature__ = signature.replace(parameters=others)  # type: ignore[attr-defined]  # what pytest reads
        return law

    return decorate
