"""The command `mlecs-bench`: its commands are imported only when they are used."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import click

from mlecs_bench import __version__
from mlecs_bench.cli.key_value import KeyValueGroup
from mlecs_bench.cli.verbose import verbose_flag
from mlecs_bench.errors import MlecsError, did_you_mean
from mlecs_bench.files import disk_failure
from mlecs_bench.session.environment import ensure_home, quiet_libraries

LONGEST_LINE = 4000
"""Characters of an error: of a value of thousands, which it shows, the middle is left out."""
INTERRUPTED = 130
"""The exit code of a command that Ctrl-C ended, as shells count it (128 + SIGINT)."""


@dataclass(frozen=True)
class LazyCommand:
    """Where a command is defined and the line that `--help` shows for it."""

    target: str
    summary: str


COMMANDS = {
    "list": LazyCommand("mlecs_bench.cli.listing:list_command", "List the installed plugins of every kind."),
    "show": LazyCommand("mlecs_bench.cli.show:show", "Show the card of a plugin."),
    "doctor": LazyCommand("mlecs_bench.cli.doctor:doctor", "Check that this machine has what a run needs."),
    "data": LazyCommand("mlecs_bench.cli.data:data", "List, verify and prepare data."),
    "models": LazyCommand(
        "mlecs_bench.cli.models:models", "Fetch models ahead of a run; make folders of packages' models."
    ),
    "run": LazyCommand("mlecs_bench.cli.run:run", "Run one algorithm on one dataset at one rate."),
    "sweep": LazyCommand("mlecs_bench.cli.sweep:sweep", "Run many cells: a preset, a study file or lists."),
    "device": LazyCommand("mlecs_bench.cli.device:device", "Be a device of a federation whose server is elsewhere."),
    "status": LazyCommand("mlecs_bench.cli.status:status", "Show how far the sweeps of FOLDER are."),
    "comm": LazyCommand("mlecs_bench.cli.comm:comm", "Count what algorithms transmit, without weights."),
    "check": LazyCommand("mlecs_bench.cli.check:check", "Check a plugin against the contract."),
    "new-plugin": LazyCommand("mlecs_bench.cli.new_plugin:new_plugin", "Write the project of a new plugin."),
    "report": LazyCommand(
        "mlecs_bench.cli.report:report", "Build tables, figures and statistics from the records in FOLDER."
    ),
    "samples": LazyCommand("mlecs_bench.cli.samples:samples", "Show the worst answers in FOLDER."),
    "eval": LazyCommand("mlecs_bench.cli.eval:evaluate", "Score the saved models in FOLDER without training."),
    "compare": LazyCommand("mlecs_bench.cli.compare:compare", "Compare two algorithms, or two folders of records."),
}


ALIASES = {"ls": "list"}
"""Other names of commands, which `--help` leaves out."""


class LazyGroup(KeyValueGroup):
    """A group whose commands are named in `COMMANDS` and imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command, or None when there is none of that name."""
        name = ALIASES.get(cmd_name, cmd_name)
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name].target.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that `args` start with; raises click's UsageError with the nearest name."""
        if args and args[0] not in (*COMMANDS, *ALIASES) and not ctx.resilient_parsing:
            raise click.UsageError(f"No such command '{args[0]}'. {did_you_mean(args[0], COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.summary) for name, command in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="mlecs-bench")
@verbose_flag
def cli() -> None:
    """Benchmark collaborative multimodal learning between edge devices and a cloud server."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0: done. 1: it failed, for the reason on stderr. 2: the request was wrong. 130: interrupted. Anything that is not
    an expected failure keeps its traceback.
    """
    quiet_libraries()
    _print_anything()
    try:
        ensure_home()
        code = cli.main(args=arguments, prog_name="mlecs-bench", standalone_mode=False)
    except MlecsError as error:
        return _fail(str(error), error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        return _fail(_click_message(error), error.exit_code)
    except OSError as error:
        trouble = disk_failure(error)
        if trouble is None:
            raise
        return _fail(str(trouble), trouble.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", INTERRUPTED)
    return code if isinstance(code, int) else 0


def _print_anything() -> None:
    """Let streams that know few characters (ASCII, cp1252) show others as their codes instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _fail(message: str, code: int) -> int:
    line = " ".join(message.split())
    line = line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE // 2]} ... {line[-LONGEST_LINE // 2 :]}"
    print(line if code == INTERRUPTED else f"error: {line}", file=sys.stderr)
    return code


def _click_message(error: click.ClickException) -> str:
    """Return click's message in one line, ending in the command whose help has the answer."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    message = error.format_message().rstrip(".")
    return (
        f"{message}{'' if message.endswith('?') else '.'} Try '{context.command_path} --help'." if context else message
    )


if __name__ == "__main__":
    sys.exit(main())
