"""Two machines on this one: network namespaces of their own, joined by a cable, where the system lets us make them.

Whatever a program binds there, even "all addresses", is reachable from nowhere else. Where namespaces are not allowed
both machines are this one, and talk over the loopback.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CLONE_NEWNET = 0x40000000


@dataclass(frozen=True)
class Machines:
    """The addresses of this machine and of the other one, whose namespaces are those of the process `keeper`."""

    here: str = "127.0.0.1"
    there: str = "127.0.0.1"
    keeper: int | None = None

    @property
    def apart(self) -> bool:
        """Are they two networks, and not one loopback?"""
        return self.keeper is not None

    def command_there(self, *command: str, hidden: Sequence[Path] = ()) -> list[str]:
        """Return what runs a command on the other machine, where the folders in `hidden` are empty."""
        if self.keeper is None:
            return list(command)
        mounts = "".join(f"mount -t tmpfs hidden {folder} && " for folder in hidden)
        script = ["unshare", "--mount", "sh", "-c", f'{mounts}exec "$@"', "sh"]
        return ["nsenter", "--target", str(self.keeper), "--net", *script, *command]

    def cut(self) -> None:
        """Pull the cable out."""
        ip("link", "set", "cable0", "down")

    def mend(self) -> None:
        """Put the cable in again."""
        ip("link", "set", "cable0", "up")


def ip(*arguments: str) -> None:
    """Set up the network."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextmanager
def two_machines() -> Iterator[Machines]:
    """Put this thread, and all that it starts, on a machine beside another one; without the rights, give one."""
    libc = ctypes.CDLL(None, use_errno=True)
    old = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    tools = all(map(shutil.which, ("ip", "unshare", "nsenter")))
    if not tools or libc.unshare(CLONE_NEWNET) != 0:
        os.close(old)
        yield Machines()
        return
    keeper = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo ready; exec cat"],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # fmt: skip  # one call
    try:
        assert keeper.stdout.readline() == "ready\n"
        ip("link", "set", "lo", "up")
        ip("link", "add", "cable0", "type", "veth", "peer", "name", "cable1", "netns", str(keeper.pid))
        ip("addr", "add", "10.77.0.1/24", "dev", "cable0")
        ip("link", "set", "cable0", "up")
        machines = Machines("10.77.0.1", "10.77.0.2", keeper.pid)
        for rest in ("link set lo up", "addr add 10.77.0.2/24 dev cable1", "link set cable1 up"):
            subprocess.run(machines.command_there("ip", *rest.split()), check=True)
        yield machines
    finally:
        keeper.communicate()  # the end of its input ends it
        libc.setns(old, CLONE_NEWNET)
        os.close(old)
