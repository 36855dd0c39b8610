"""The network of a federation, and how fast its devices are: what simulated time is made of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlecs_bench.doors.hookspecs import Change
from mlecs_bench.doors.options import option
from mlecs_bench.errors import UsageError, did_you_mean
from mlecs_bench.plan.conditions_rounds import other_fields
from mlecs_bench.plan.conditions_text import headed
from mlecs_bench.plan.structure import canonical_devices, usual_id

PRESETS: Mapping[str, Mapping[str, float]] = {
    "4g": {"down": 35.96, "up": 11.22, "latency": 0.02},
    "fixed": {"down": 85.73, "up": 45.74, "latency": 0.0105},
    "flash": {"down": 42.4, "down_sigma": 0.48, "up": 25.4, "up_sigma": 0.70},
}
"""Published measurements. 4g and fixed: Speedtest Global Index of September 2020, means of all countries, mobile
(mostly before 5G) and fixed lines; a message takes half of the ping. flash: our lognormal fit to the mean speeds of the
19 users in `speed_distri.json` of FLASH (Yang et al. 2021, Characterizing Impacts of Heterogeneity in Federated
Learning)."""
LINKS = ("down", "up", "latency", "speed")
"""What can be given for single devices."""


@dataclass(frozen=True)
class Network:
    """How long messages and steps take, in simulated seconds; no number of a run depends on it without a deadline.

    `down` and `up` are bandwidths in Mbit/s, `latency` the seconds of a message's way, `speed` a device's GFLOP/s; what
    is None takes no time. A sigma makes the value of every device its median times exp(sigma z), z normal. `devices`
    has values of single devices by id. An upload that arrives after the `deadline`, in seconds from the start of an
    attempt, is dropped. `server` are the seconds of a round that the server takes itself.
    """

    down: float | None = option(None, help="Mbit/s to a device, or their median", source="presets: see docs")
    up: float | None = option(None, help="Mbit/s from a device, or their median", source="presets: see docs")
    latency: float = option(0.0, help="seconds that a message takes however small it is", source="presets: see docs")
    speed: float | None = option(None, help="GFLOP/s of a device, or their median", source="ours")
    down_sigma: float = option(0.0, help="sigma of the lognormal law of down", source="presets: see docs")
    up_sigma: float = option(0.0, help="sigma of the lognormal law of up", source="presets: see docs")
    speed_sigma: float = option(0.0, help="sigma of the lognormal law of speed", source="ours")
    devices: Mapping[str, Mapping[str, float]] = option(
        {}, help="down, up, latency and speed of single devices", source="ours"
    )
    deadline: float | None = option(None, help="seconds after which an upload is dropped", source="ours")
    server: float = option(0.0, help="seconds that the server takes in a round", source="ours")

    def __post_init__(self) -> None:
        for name in ("down", "up", "speed", "deadline"):
            _check_above_zero(name, getattr(self, name))
        for name in ("latency", "down_sigma", "up_sigma", "speed_sigma", "server"):
            _check_not_negative(name, getattr(self, name))
        for name in ("down", "up", "speed"):
            if getattr(self, f"{name}_sigma") and getattr(self, name) is None:
                raise ValueError(f"{name}_sigma spreads {name}, which is not given; give both")
        own = {usual_id(id_): dict(values) for id_, values in self.devices.items()}
        for id_, values in own.items():
            for name, value in values.items():
                if name not in LINKS:
                    raise ValueError(f"{id_} has no '{name}'; give {', '.join(LINKS)}")
                (_check_not_negative if name == "latency" else _check_above_zero)(f"{name} of {id_}", value)
        object.__setattr__(self, "devices", dict(sorted(own.items())))

    @property
    def demands(self) -> tuple[Change, ...]:
        """With a deadline uploads may be late, and devices are then as good as absent."""
        return () if self.deadline is None else ("absence",)

    @classmethod
    def fields_of(cls, written: Any) -> Mapping[str, Any]:
        """Read the name of a preset, or the fields, among them one that is called preset."""
        if isinstance(written, Mapping):
            fields = dict(written)
        else:
            preset, pairs = headed(str(written), "network")
            fields = {**pairs, **({"preset": preset} if preset else {})}
        if "preset" not in fields:
            return fields
        preset = str(fields.pop("preset"))
        if preset not in PRESETS:
            raise UsageError(f"network '{preset}' is unknown. {did_you_mean(preset, PRESETS)}")
        return {**PRESETS[preset], **fields}

    def words(self) -> str:
        """Return what is not as usual in words; a preset goes by its name."""
        for preset, fields in PRESETS.items():
            if all(getattr(self, name) == value for name, value in fields.items()):
                others = other_fields(self, tuple(fields))
                return " ".join(["network", preset, *others])
        return " ".join(["network", *other_fields(self, ())])

    def check(self, n_devices: int, modalities: Sequence[str]) -> None:
        """Raise UsageError for devices that there are not, and a deadline before which nothing can arrive."""
        canonical_devices(self.devices, n_devices, "network.devices")
        latencies = [float(self.devices.get(f"d{j:02d}", {}).get("latency", self.latency)) for j in range(n_devices)]
        if self.deadline is not None and self.deadline <= 2 * min(latencies):
            raise UsageError(
                f"network: no upload arrives before the deadline of {self.deadline:g} s, as both ways take "
                f"{2 * min(latencies):g} s; give more"
            )


def _check_above_zero(name: str, value: float | None) -> None:
    if value is not None and not 0 < value < math.inf:
        raise ValueError(f"{name} must be above 0, got {value:g}")


def _check_not_negative(name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be at least 0, got {value:g}")


def is_given(network: Network) -> bool:
    """Is there anything that takes time?"""
    return network != Network()
