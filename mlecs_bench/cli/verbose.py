"""`-v`: let the libraries that a command uses say what they warn of."""

from __future__ import annotations

import os

import click

VARIABLE, QUIET, SPEAKING = "TRANSFORMERS_VERBOSITY", "error", "warning"
"""What main() sets unless the user did, and what `-v` makes of it; `models/loading.py` looks at it for bitsandbytes."""


def _let_libraries_speak(_context: click.Context, _flag: click.Parameter, wanted: bool) -> None:
    if wanted and os.environ.get(VARIABLE, QUIET) == QUIET:
        os.environ[VARIABLE] = SPEAKING


verbose_flag = click.option(
    "-v",
    "--verbose",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_let_libraries_speak,
    help="Show what libraries warn of.",
)
"""Before or behind the command; workers inherit it, as it is set before the libraries are imported."""
