"""Numbers that a study sweeps: cells that differ in one number alone, and the one that most of these axes go through.

Which numbers are swept, and around which base, is found in the records; nobody has to say it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from mlecs_bench.records.results import canonical_json
from mlecs_bench.report.arrange import Arm, Data, Place, Setting, setting_name, setting_parts
from mlecs_bench.report.frame import Row

FEWEST_VALUES = 3
"""Values from which on a swept number is an axis."""
RATE, DEVICES = "rho", "n_devices"
COMPANIONS = (RATE,)
"""Numbers that are axes beside others alone: each table of scores has all rates already."""
SWEPT = ("training", "min_modalities")
"""Parts of an identity whose numbers may be swept, beside the rate and the number of devices."""
NAMES: Mapping[str, str] = MappingProxyType({RATE: "rho", DEVICES: "devices"})
WORDS: Mapping[str, str] = MappingProxyType(
    {
        "training.private_limit": "private training samples of a device",
        "training.public_limit": "public training samples",
        "training.steps": "steps of a stage",
        "training.rounds": "rounds of a run",
        DEVICES: "number of devices",
        RATE: "rate",
    }
)
"""What swept numbers are, by their paths; others are called by their names alone."""


@dataclass(frozen=True)
class Spot:
    """One setting at one rate and number of devices: where rows stand that may be paired.

    `numbers` may be swept, by their paths; `rest` is what else tells it from others. A rate that is not the same for
    all modalities is no number.
    """

    setting: Setting
    rho: str
    n_devices: int
    numbers: Mapping[str, float]
    rest: str

    def place(self, arm: Arm, data: Data) -> Place:
        """Return the place of an algorithm and a dataset."""
        return Place(arm, data, self.rho, self.n_devices)

    def row(self, arm: Arm, data: Data) -> Row | None:
        """Return the row at that place, None without one."""
        return self.setting.rows.get(self.place(arm, data))


@dataclass(frozen=True)
class Axis:
    """Spots that differ in one number alone, by its value, ascending. `name` is its setting, `words` what it is."""

    path: str
    spots: Mapping[float, Spot]

    @property
    def name(self) -> str:
        """What the setting is called."""
        return NAMES.get(self.path) or setting_name(self.path)

    @property
    def words(self) -> str:
        """What the number is."""
        return WORDS.get(self.path, self.name)


@dataclass(frozen=True)
class Swept:
    """The axes of one dataset through one base, and the control that all is held against."""

    data: Data
    floor: Arm
    base: Spot
    axes: tuple[Axis, ...]

    @property
    def spots(self) -> list[Spot]:
        """Every spot once, the base first."""
        others = [spot for axis in self.axes for spot in axis.spots.values() if spot is not self.base]
        return [self.base, *others]

    def rivals(self) -> list[Arm]:
        """Return the algorithms that are held against the control: those that one of the axes was swept with.

        The control itself and ablations are none of them, nor are those that stand at some values by chance.
        """
        found = dict.fromkeys(arm for spot in self.spots for arm in spot.setting.arms)
        others = [arm for arm in found if arm != self.floor and not arm.is_ablation]
        return [arm for arm in others if any(self._has(arm, axis) for axis in leading(self.axes))]

    def _has(self, arm: Arm, axis: Axis) -> bool:
        rows = [row for spot in axis.spots.values() if (row := spot.row(arm, self.data))]
        return len(rows) >= FEWEST_VALUES

    def base_words(self) -> str:
        """Return the swept numbers of the base, and its rate and number of devices in any case."""
        swept = [f"{axis.name} {self.base.numbers[axis.path]:g}" for axis in self.axes]
        paths = {axis.path for axis in self.axes}
        always = {RATE: self.base.rho, DEVICES: str(self.base.n_devices)}
        return ", ".join([*swept, *(f"{NAMES[path]} {text}" for path, text in always.items() if path not in paths)])


def swept_numbers(settings: Sequence[Setting]) -> list[list[Swept]]:
    """Return the axes of every dataset, for each group of settings that differ in numbers alone.

    Axes are made of spots where the control stands and an algorithm to hold against it. Groups and datasets without an
    axis are left out.
    """
    groups: dict[str, list[Spot]] = {}
    for setting in settings:
        for spot in _spots(setting):
            groups.setdefault(spot.rest, []).append(spot)
    found = [list(_swept(spots)) for spots in groups.values()]
    return [of_group for of_group in found if of_group]


def _spots(setting: Setting) -> Iterator[Spot]:
    parts = setting_parts(setting)
    numbers, rest = _numbers({name: parts.pop(name) for name in SWEPT if name in parts})
    for rho, n in dict.fromkeys((place.rho, place.n_devices) for place in setting.rows):
        rate, text = _rate(rho)
        yield Spot(setting, rho, n, {DEVICES: n, RATE: rate, **numbers}, canonical_json([parts, rest, text]))


def _rate(label: str) -> tuple[float, str]:
    """Return a rate as a number and as a text, which is empty where the number says all."""
    try:
        return float(label), ""
    except ValueError:
        return 0.0, label


def _numbers(parts: Mapping[str, Any], prefix: str = "") -> tuple[dict[str, float], dict[str, Any]]:
    """Return the numbers among nested values by their dotted paths, and all that is no number."""
    numbers: dict[str, float] = {}
    rest: dict[str, Any] = {}
    for name, part in parts.items():
        path = f"{prefix}{name}"
        if isinstance(part, Mapping):
            inner, rest[path] = _numbers(part, f"{path}.")
            numbers |= inner
        elif isinstance(part, int | float) and not isinstance(part, bool):
            numbers[path] = part
        else:
            rest[path] = part
    return numbers, rest


def _swept(spots: Sequence[Spot]) -> Iterator[Swept]:
    settings = list({id(spot.setting): spot.setting for spot in spots}.values())
    for data in dict.fromkeys(data for setting in settings for data in setting.data if data.metrics):
        floor = _floor(spots, data)
        if floor is None:
            continue
        own = [spot for spot in spots if _can_pair(spot, floor, data)]
        axes = _axes_by_spot(own)
        if not any(axes):
            continue
        sizes = [(*_size(of), _weight(spot, data)) for spot, of in zip(own, axes, strict=True)]
        chosen = max(range(len(own)), key=lambda i: sizes[i])
        found = Swept(data, floor, own[chosen], tuple(axes[chosen]))
        if found.rivals():
            yield found


def _size(axes: Sequence[Axis]) -> tuple[int, int, int]:
    """Return how much goes through a spot: axes, those of them that need no others, and spots on them."""
    return len(axes), len(leading(axes)), sum(len(axis.spots) for axis in axes)


def leading(axes: Iterable[Axis]) -> list[Axis]:
    """Return the axes that need no others beside them."""
    return [axis for axis in axes if axis.path not in COMPANIONS]


def _floor(spots: Iterable[Spot], data: Data) -> Arm | None:
    """Return the control that stands at most spots."""
    counts: dict[Arm, int] = {}
    for spot in spots:
        for arm in spot.setting.arms:
            if arm.is_floor and spot.row(arm, data):
                counts[arm] = counts.get(arm, 0) + 1
    return max(counts, key=lambda arm: counts[arm], default=None)


def _can_pair(spot: Spot, floor: Arm, data: Data) -> bool:
    """Does the control stand here and an algorithm with a seed of the control's?"""
    control = spot.row(floor, data)
    rivals = [arm for arm in spot.setting.arms if arm != floor and not arm.is_ablation]
    rows = [row for arm in rivals if (row := spot.row(arm, data))]
    return control is not None and any({*row.seeds} & {*control.seeds} for row in rows)


def _weight(spot: Spot, data: Data) -> int:
    """Return how many records there are of a dataset."""
    rows = (spot.row(arm, data) for arm in spot.setting.arms)
    return sum(len(row.records) for row in rows if row)


def _axes_by_spot(spots: Sequence[Spot]) -> list[list[Axis]]:
    """Return for every spot the axes that go through it, in the order of `WORDS`, then by name."""
    paths = {path for spot in spots for path in spot.numbers}
    varying = [path for path in paths if len({spot.numbers.get(path) for spot in spots}) > 1]
    order = [*(path for path in WORDS if path in varying), *sorted({*varying} - {*WORDS})]
    lines: dict[tuple[Any, ...], dict[float, Spot]] = {}
    for spot in spots:
        for path in order:
            if path in spot.numbers:
                lines.setdefault(_line(spot, path, order), {})[spot.numbers[path]] = spot
    return [
        [
            Axis(path, dict(sorted(on.items())))
            for path in order
            if len(on := lines.get(_line(spot, path, order), {})) >= FEWEST_VALUES
        ]
        for spot in spots
    ]


def _line(spot: Spot, path: str, varying: Sequence[str]) -> tuple[Any, ...]:
    """Return what spots have in common that differ in one number alone."""
    return (path, *(spot.numbers.get(other) for other in varying if other != path))
