"""A fleet of a fresh interpreter: nothing but bytes passes, out of order, doubled, lost and late."""

from __future__ import annotations

import collections
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from elsewhere_host import give, take

from mlecs_bench.errors import MlecsError
from mlecs_bench.federation.fleet import Recipe, greetings_from_json
from mlecs_bench.federation.host import Greeting
from mlecs_bench.federation.turns import Ask, Refusal, Reply


class Elsewhere:
    """A fresh interpreter, which gets the folder of the plugins and what is written to its standard input."""

    def __init__(self, site: Path) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self._child = subprocess.Popen(
            [sys.executable, "-m", "elsewhere_host"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=site,
            env=environment | {"PYTHONPATH": str(site)},
        )

    def asked(self, word: str, body: bytes) -> tuple[str, bytes]:
        """Return the word and the rest of the answer to a packet."""
        give(self._child.stdin, word.ljust(8).encode() + body)
        data = take(self._child.stdout)
        if data is None:
            raise MlecsError(f"the interpreter of the devices ended with {self._child.wait()}")
        return data[:8].decode().strip(), data[8:]

    def close(self) -> None:
        """Let it end, as it does when nothing comes any more."""
        self._child.stdin.close()
        self._child.wait(timeout=60)
        self._child.stdout.close()


class SerialisedFleet:
    """Devices elsewhere, built from a recipe's JSON alone.

    Every exchange shuffles its asks. Some are asked twice, some replies are lost and asked for again, and when a round
    is over a device is asked again for that round and the one before, and too early for the next but one: it must
    answer the former with the same bytes, and refuse the latter. `happened` counts what was done to whom.
    """

    def __init__(self, elsewhere: Elsewhere, recipe: Recipe, *, loss: bool = False, seed: int = 0) -> None:
        self.happened: collections.Counter[str] = collections.Counter()
        self._generator = np.random.default_rng(seed)
        self._elsewhere = elsewhere
        self._asks: dict[tuple[str, int], Ask] = {}
        self._replies: dict[tuple[str, int], bytes] = {}
        word, body = elsewhere.asked("build", json.dumps({"recipe": recipe.to_json(), "loss": loss}).encode())
        if word == "refusal":
            raise Refusal.from_bytes(body).error()

    def hello(self, after: int) -> Mapping[str, Greeting]:
        """Return the greetings of all devices."""
        word, body = self._elsewhere.asked("hello", str(after).encode())
        if word == "refusal":
            raise Refusal.from_bytes(body).error()
        return greetings_from_json(body.decode())

    def exchange(self, asks: Mapping[str, Ask]) -> Iterator[tuple[str, Reply | Refusal]]:
        """Yield the replies in any order."""
        for id_ in self._generator.permutation(list(asks)):
            ask = asks[str(id_)]
            self._asks[str(id_), ask.round] = ask
            yield str(id_), self._reply(str(id_), ask)
        for id_, ask in asks.items():
            for t in (ask.round, ask.round - 1):
                if (id_, t) in self._replies:
                    self._repeat(id_, self._asks[id_, t], "late")
            word, body = self._turn(id_, Ask(ask.round + 2))
            assert (word, Refusal.from_bytes(body).kind) == ("refusal", "stale")
            self.happened["early"] += 1

    def close(self) -> None:
        """Nothing is open but the interpreter, which others use, too."""

    def _reply(self, id_: str, ask: Ask) -> Reply | Refusal:
        word, body = self._turn(id_, ask)
        if word == "refusal":
            return Refusal.from_bytes(body)
        self._replies[id_, ask.round] = body
        for what in ("doubled", "lost"):
            if self._generator.random() < 0.5:
                body = self._repeat(id_, ask, what)  # what came first is thrown away
        return Reply.from_bytes(body)

    def _repeat(self, id_: str, ask: Ask, what: str) -> bytes:
        """Ask again for a round that is done, and see that the bytes are the same."""
        word, body = self._turn(id_, ask)
        assert (word, body) == ("reply", self._replies[id_, ask.round]), f"{what}: {id_} in round {ask.round}"
        self.happened[what] += 1
        return body

    def _turn(self, id_: str, ask: Ask) -> tuple[str, bytes]:
        return self._elsewhere.asked("turn", id_.encode() + b"\n" + ask.to_bytes())
