"""`key=value` on the command line, as Hydra's users write it, wherever `--key value` is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click

from mlecs_bench.doors.profile_settings import settable
from mlecs_bench.errors import UsageError, did_you_mean


class KeyValueGroup(click.Group):
    """A group whose commands take `key=value` for `--key value`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that `args` start with; its arguments are spelled out."""
        name, command, rest = super().resolve_command(ctx, args)
        if command is None or isinstance(command, click.Group) or ctx.resilient_parsing:
            return name, command, rest
        return name, command, list(spelled_out(rest, command))


def spelled_out(args: Sequence[str], command: click.Command) -> Iterator[str]:
    """Yield `args` with every `key=value` as `--key value`; underscores are as good as dashes.

    The values of flags stay as they are. A switch takes `true` or `false`. Raises UsageError for a key that is no flag
    of a command that takes flags alone.
    """
    flags = {name: option for option in command.params for name in option.opts if isinstance(option, click.Option)}
    rest = iter(args)
    for arg in rest:
        if arg == "--":
            yield from (arg, *rest)
        elif arg.startswith("-") or "=" not in arg:
            yield arg
            if _takes_value(arg, flags):
                yield from (value for value in (next(rest, None),) if value is not None)
        else:
            yield from _flag(arg, flags, command)


def _takes_value(arg: str, flags: dict[str, click.Option]) -> bool:
    """Is the next argument the value of this one? Not in `--key=value` and `-okey=value`."""
    return arg in flags and not flags[arg].is_flag


def _flag(arg: str, flags: dict[str, click.Option], command: click.Command) -> Iterator[str]:
    key, _, value = arg.partition("=")
    name = f"--{key.replace('_', '-')}"
    if name not in flags:
        if all(isinstance(param, click.Option) for param in command.params):
            raise UsageError(_unknown(key, arg, flags))
        yield arg  # a name or a folder may hold an equals sign
    elif not flags[name].is_flag:
        yield from (name, value)
    elif value.lower() in ("true", "false"):
        yield from (name,) if value.lower() == "true" else ()
    else:
        raise UsageError(f"{key} is true or false, got '{value}'")


def _unknown(key: str, arg: str, flags: dict[str, click.Option]) -> str:
    if "--set" in flags and key in settable():
        return f"'{key}' is a setting of the profile: write --set {arg}"
    return f"there is no setting '{key}'. {did_you_mean(key, [name[2:] for name in flags if name.startswith('--')])}"
