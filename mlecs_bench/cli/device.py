"""`mlecs-bench device`: be a device of a federation whose server is elsewhere."""

from __future__ import annotations

from pathlib import Path

import click

from mlecs_bench.data.cache import CACHE_VARIABLE, default_cache_dir
from mlecs_bench.errors import UsageError


@click.command()
@click.option("--startup-kit", type=click.Path(path_type=Path), required=True, metavar="KIT", help="The folder that"
              " NVFlare's provisioning wrote for this device.")  # fmt: skip
@click.option("--device", metavar="ID", help="Its id, such as d01.  [default: the name in the kit]")
@click.option("--data-dir", type=click.Path(path_type=Path), metavar="DIR", help="This device's data: your files, or a"
              " folder of 'mlecs-bench data export'.  [default: none, the synthetic stand-in]")  # fmt: skip
@click.option("--state-dir", type=click.Path(path_type=Path), metavar="DIR", help="Where the device keeps its state, to"
              " go on from.  [default: devices/ID in the cache]")  # fmt: skip
@click.option("--once", is_flag=True, help="End with the first run.  [default: wait for the next, until Ctrl-C]")
@click.option("--cache-dir", type=click.Path(path_type=Path), metavar="DIR", help=f"Prepared data.  [default:"
              f" ${CACHE_VARIABLE}, or the user's cache folder]")  # fmt: skip
def device(
    startup_kit: Path,
    device: str | None,
    data_dir: Path | None,
    state_dir: Path | None,
    once: bool,
    cache_dir: Path | None,
) -> None:
    """Be a device of a federation whose server is elsewhere.

    The server is `mlecs-bench run --fleet nvflare:KIT`. The device connects to it, as often as it takes, and trains on
    data that never leave this machine; what leaves it are the messages of the algorithm and scores.
    """
    from mlecs_bench.federation.nvflare_cells import read_kit
    from mlecs_bench.federation.nvflare_fleet import check_installed

    check_installed("mlecs-bench device")
    kit = read_kit(startup_kit.expanduser(), server=False)
    if device not in (None, kit.name):
        raise UsageError(
            f"the kit in {startup_kit} is of '{kit.name}', not of '{device}'; a device is called as its kit"
        )
    from mlecs_bench.federation.nvflare_device import DeviceSite, serve

    cache = cache_dir.expanduser() if cache_dir else default_cache_dir()
    turns = state_dir.expanduser() if state_dir else cache / "devices" / kit.name
    serve(DeviceSite(kit, data_dir.expanduser() if data_dir else None, turns, cache), _say, once=once)


def _say(text: str) -> None:
    click.echo(text, err=True)
