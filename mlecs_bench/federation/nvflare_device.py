"""A device on its owner's machine: it connects to a server, builds what the server orders, and takes its turns.

Data are read here and nowhere else. States and last replies are kept here, too: a device that is restarted goes on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlecs_bench import __version__
from mlecs_bench.data.samples import DataRequest, open_prepared
from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import MlecsError
from mlecs_bench.federation.fleet import Recipe, build_host, open_samples
from mlecs_bench.federation.host import DeviceHost
from mlecs_bench.federation.nvflare_cells import DeviceCell, Kit
from mlecs_bench.federation.nvflare_fleet import ANSWER, BYE, NEXT, ORDER, STOP, WORK, framed, unframed
from mlecs_bench.federation.packets import Service
from mlecs_bench.federation.portable import Order, order_from_json
from mlecs_bench.federation.processes import use_exact_kernels, use_threads
from mlecs_bench.plan.plan import Plan

PATIENCE = 20.0
"""Seconds that a request stays open before it is made anew; a cut connection shows at the latest then."""
PAUSE = 0.5
"""Seconds before a server that cannot be reached is tried again."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class DeviceSite:
    """A device's own machine: its kit, its data, and its folders for turns and for what is costly.

    `data` is a prepared or exported folder, or one of the user's files, which are prepared here; None for the stand-in.
    """

    kit: Kit
    data: Path | None
    turns: Path
    cache_dir: Path

    def host(self, order: str, registry: Registry) -> DeviceHost:
        """Build the device that a server orders; raises MlecsError where that cannot be."""
        asked = order_from_json(order, registry)
        use_threads(asked.plan.threads)
        use_exact_kernels()
        recipe = self._recipe(asked, registry)
        asked.check(open_samples(recipe.data))
        return build_host(recipe, [self.kit.name], registry)

    def _recipe(self, order: Order, registry: Registry) -> Recipe:
        data = self._prepared(order.plan, registry)
        return Recipe(order.plan, order.seed, order.key, data, self.cache_dir, self.turns)

    def _prepared(self, plan: Plan, registry: Registry) -> Path:
        if self.data is not None and open_prepared(self.data) is not None:
            return self.data
        info = registry.dataset(plan.dataset.name).info
        return info.prepare(DataRequest(self.data, self.cache_dir, plan.data_options)).folder


def serve(site: DeviceSite, say: Say, *, once: bool = False) -> None:
    """Take part in one run after the other until interrupted; `once` ends with the first.

    Raises MlecsError when the server lets this device take no part.
    """
    registry = Registry.installed()
    cell = DeviceCell(site.kit)
    try:
        _Device(site, cell, registry, say).work(once=once)
    finally:
        cell.close()


class _Device:
    """A device at work for a server."""

    def __init__(self, site: DeviceSite, cell: DeviceCell, registry: Registry, say: Say) -> None:
        self._site = site
        self._cell = cell
        self._registry = registry
        self._say = say
        self._key = ""
        self._service: Service | None = None

    def work(self, *, once: bool) -> None:
        """Ask for work and do it, for ever, or until the first run is over."""
        alone = False
        while True:
            state = json.dumps({"version": __version__, "key": self._key}).encode()
            reply = self._cell.ask(NEXT + state, PATIENCE)
            if reply is None:
                if not alone and not self._key:
                    self._say(f"waiting for the server at {self._site.kit.host}:{self._site.kit.port}")
                alone = True
                time.sleep(PAUSE)
                continue
            alone = False
            word, number, body = unframed(reply)
            if word == STOP:
                raise MlecsError(body.decode(errors="replace"))
            if word == BYE and self._leave() and once:
                return
            if word == ORDER:
                self._prepare(body.decode())
            if word == WORK and self._service is not None:
                self._deliver(number, self._service, body)

    def _prepare(self, order: str) -> None:
        self._key = str(json.loads(order)["key"])
        self._service = Service(lambda: self._site.host(order, self._registry))
        self._say(f"{self._site.kit.name} takes part in cell {self._key[:8]}")

    def _leave(self) -> bool:
        """Forget the run that is over; return whether there was one."""
        was_there = bool(self._key)
        if was_there:
            self._say("the run is over")
        self._key, self._service = "", None
        time.sleep(PAUSE)
        return was_there

    def _deliver(self, number: int, service: Service, packet: bytes) -> None:
        """Do what was asked, and bring the answer until it has arrived or the run is over."""
        word, _, body = unframed(packet)
        answer, content = service.answer(word, body)
        message = ANSWER + framed("", number, framed(answer, 0, content))
        while self._cell.ask(message, PATIENCE) is None:
            time.sleep(PAUSE)
