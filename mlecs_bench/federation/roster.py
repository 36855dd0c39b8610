"""Rosters: the devices of a host, kept while it lives, or put together for a turn and let go after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from mlecs_bench.federation.build import Builder
    from mlecs_bench.federation.device import Device


class Roster(Protocol):
    """Where a host gets its devices from."""

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the devices."""
        ...

    @property
    def come_and_go(self) -> bool:
        """Does a device start afresh whenever it comes, so that its state has to be put back?"""
        ...

    def come(self, id_: str) -> Device:
        """Return a device."""
        ...

    def leave(self, id_: str) -> None:
        """Let a device go, whose state is kept elsewhere."""
        ...

    def begin_again(self, id_: str) -> None:
        """Bring a device to the state that it starts with."""
        ...


class KeptDevices:
    """Devices that stay. `remember`: keep the states that they start with."""

    come_and_go = False

    def __init__(self, devices: Sequence[Device], *, remember: bool = True) -> None:
        self._devices = {device.id: device for device in devices}
        self._initial = {device.id: device.state() for device in devices} if remember else {}

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the devices."""
        return tuple(self._devices)

    def come(self, id_: str) -> Device:
        """Return a device."""
        return self._devices[id_]

    def leave(self, id_: str) -> None:
        """Do nothing: it stays."""

    def begin_again(self, id_: str) -> None:
        """Bring a device to the state that it started with, where that is remembered."""
        if id_ in self._initial:
            self._devices[id_].load_state(self._initial[id_])


class BuiltDevices:
    """Devices that are built when they come and leave nothing behind when they go: one at a time is in memory.

    A device's initial weights depend on seed and plan alone, so it is the same one whenever it is built.
    """

    come_and_go = True

    def __init__(self, builder: Builder, ids: Sequence[str]) -> None:
        self.ids = tuple(ids)
        self._builder = builder
        self._here: dict[str, Device] = {}

    def come(self, id_: str) -> Device:
        """Return a device, built unless it is here."""
        if id_ not in self._here:
            for other in list(self._here):
                self.leave(other)
            self._here[id_] = self._builder.device(id_)
        return self._here[id_]

    def leave(self, id_: str) -> None:
        """Take a device apart."""
        if id_ in self._here:
            self._builder.dismiss(self._here.pop(id_))

    def begin_again(self, id_: str) -> None:
        """Let a device go: it starts afresh when it comes."""
        self.leave(id_)
