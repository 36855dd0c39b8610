"""Arranges rows for tables: which rows may stand in one table, and what each is called there.

Rows of one setting differ in nothing but algorithm, data, rates, number of devices and how many rounds were scored.
Whatever else differs, a budget or a size, makes another setting and so another table. Within a setting, data that
differ in anything (view, split, scorers) are columns apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mlecs_bench.doors.hookspecs import Control
from mlecs_bench.plan.spec import RunSpec
from mlecs_bench.records.names import rho_label
from mlecs_bench.records.results import canonical_json
from mlecs_bench.report.conditions import condition_words, conditions_label
from mlecs_bench.report.frame import Row, flatten, is_tiny

ARM_PARTS = ("algo",)
DATA_PARTS = ("dataset", "scorers")
POSITION_PARTS = ("rho", "n_devices")
CONDITIONS = "conditions"
"""The part of an identity that says what is not as usual in a federation."""
SCORED = ("evaluate", "robustness")
"""Parts of an identity that say what is scored beside the last round, and change no number of that."""


@dataclass(frozen=True)
class Arm:
    """One algorithm with its options, as a table names it, and what it is a control of, if it is one."""

    key: str
    label: str
    algo: str
    control: Control | None = None

    @property
    def base(self) -> str:
        """The algorithm that this one is an ablation of: what stands before the slash of its name."""
        return self.algo.partition("/")[0]

    @property
    def is_ablation(self) -> bool:
        """Is it an algorithm without one of its parts?"""
        return "/" in self.algo

    @property
    def is_floor(self) -> bool:
        """Is it what collaboration has to beat?"""
        return self.control is not None and self.control.role == "floor"

    @property
    def is_ceiling(self) -> bool:
        """Is it a bound from above, which is no rival?"""
        return self.control is not None and self.control.role == "ceiling"


@dataclass(frozen=True)
class Data:
    """One dataset with its view, split and scorers, as a table names it, and its metrics, the headline first.

    `unscored` are the metrics whose scorers were not installed, `readings` say how metrics read texts. Metrics that say
    nothing of synthetic data are none of its metrics where it is synthetic.
    """

    key: str
    label: str
    name: str
    metrics: tuple[str, ...]
    unscored: tuple[str, ...] = ()
    readings: tuple[tuple[str, str], ...] = ()

    @property
    def headline(self) -> str:
        """The metric that claims are decided by."""
        return self.metrics[0]


@dataclass(frozen=True)
class Place:
    """Where a row stands in a setting."""

    arm: Arm
    data: Data
    rho: str
    n_devices: int


@dataclass(frozen=True)
class Order:
    """What comes first in tables: algorithms and datasets by name. Others follow, the candidate after all of them."""

    algorithms: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Setting:
    """Rows that may stand in one table, by their place. `label` tells it from the study's other settings."""

    label: str
    about: str
    tiny: bool
    rows: Mapping[Place, Row]
    curves: Mapping[Place, Row]
    order: Order = Order()

    @property
    def arms(self) -> list[Arm]:
        """Every algorithm once, in the order of tables: baselines, floors, the candidate, ceilings, ablations."""
        return list(dict.fromkeys(place.arm for place in self.rows))

    @property
    def data(self) -> list[Data]:
        """Every dataset once, those that the order names first, variants of one by their labels."""
        first = self.order.datasets
        names = [*first, *sorted({place.data.name for place in self.rows} - set(first))]
        return sorted({place.data for place in self.rows}, key=lambda data: (names.index(data.name), data.label))

    def rates(self) -> list[str]:
        """Every rate once, ascending."""
        return sorted({place.rho for place in self.rows}, key=_rate_order)

    def usual_devices(self) -> int:
        """The number of devices at which most algorithms have rows."""
        counts = Counter(n for _, n in {(p.arm.key, p.n_devices) for p in self.rows})
        return min(counts, key=lambda n: (-counts[n], n))


def _rate_order(label: str) -> tuple[int, float, str]:
    try:
        return (0, float(label), label)
    except ValueError:
        return (1, 0.0, label)


@dataclass(frozen=True)
class Cards:
    """What installed plugins say of what records hold; a report knows no algorithm and no metric itself.

    `defaults` are the default options of algorithms, as JSON values, by name; `controls` are the controls among them by
    `control_key`; `real_texts` are the metrics that say something of real texts alone; `readings` say how metrics read
    texts, by name; `kept_private` are the datasets whose own texts may not be passed on.
    """

    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    controls: Mapping[str, Control] = field(default_factory=dict)
    real_texts: frozenset[str] = frozenset()
    readings: Mapping[str, str] = field(default_factory=dict)
    kept_private: frozenset[str] = frozenset()


NO_CARDS = Cards()


def control_key(identity: Mapping[str, Any]) -> str:
    """Return what a record's control is known by: its algorithm's name and options."""
    return canonical_json([identity["algo"]["name"], identity["algo"]["options"]])


def arrange(rows: Sequence[Row], candidate: str, cards: Cards = NO_CARDS, order: Order = Order()) -> list[Setting]:
    """Return the settings of a study: the usual budget first, then those with most records.

    `candidate` is the last algorithm of a table, but for a ceiling and for ablations. Where the cards have the default
    options of an algorithm, its usual options are these, else those of most records.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(canonical_json(_setting_of(row.identity)), []).append(row)
    ordered = sorted(groups.values(), key=_setting_order)
    arms, data = _arms(rows, cards), _data(rows, cards)
    labels = _labels([_setting_of(members[0].identity) for members in ordered])
    settings = [_setting(members, label, arms, data) for members, label in zip(ordered, labels, strict=True)]
    return [_ordered(setting, candidate, order) for setting in settings]


def _setting_order(members: Sequence[Row]) -> tuple[bool, int, int, str]:
    """Order settings: the usual budget first, then those of fewest conditions, of most records, and by name."""
    identity = members[0].identity
    unusual = identity["training"]["budget"] != RunSpec.budget, len(identity.get(CONDITIONS, {}))
    return (*unusual, -sum(len(row.records) for row in members), conditions_label(identity))


def _ordered(setting: Setting, candidate: str, order: Order) -> Setting:
    """Return a setting whose rows and curves stand in the order of tables."""

    def arm_order(place: Place) -> tuple[Any, ...]:
        arm, first = place.arm, order.algorithms
        known = first.index(arm.algo) if arm.algo in first else len(first)
        late = (arm.is_ablation, arm.is_ceiling, arm.base == candidate and not arm.is_floor, arm.is_floor)
        return (*late, known, arm.algo, arm.label != arm.algo, arm.label)

    rows, curves = ({p: of[p] for p in sorted(of, key=arm_order)} for of in (setting.rows, setting.curves))
    return replace(setting, rows=rows, curves=curves, order=order)


def _setting_of(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return what all rows of a setting share; a proxy model belongs to the algorithms that use one."""
    parts = {k: v for k, v in identity.items() if k not in (*ARM_PARTS, *DATA_PARTS, *POSITION_PARTS, *SCORED)}
    return parts | {"structure": {k: v for k, v in identity["structure"].items() if k != "proxy"}}


def setting_parts(setting: Setting) -> dict[str, Any]:
    """Return the parts of an identity that all rows of a setting share."""
    return _setting_of(next(iter(setting.rows.values())).identity)


def differs_in_conditions_alone(setting: Setting) -> str:
    """Return what is the same for settings that differ in nothing but the conditions of the federation."""
    return canonical_json({name: part for name, part in setting_parts(setting).items() if name != CONDITIONS})


def _setting(members: Sequence[Row], label: str, arms: Mapping[str, Arm], data: Mapping[str, Data]) -> Setting:
    rows: dict[Place, Row] = {}
    curves: dict[Place, Row] = {}
    for row in members:
        i = row.identity
        place = Place(arms[_arm_key(i)], data[_data_key(i)], rho_label(i["rho"]), i["n_devices"])
        if i["evaluate"] == "all":
            curves[place] = row
        # Scoring every round changes no number of the last one: such a row stands in only where there is no other,
        # or where it has more seeds. Nor does scoring without each modality, and a row that has these scores has all.
        before = rows.get(place)
        if before is None or _preference(row) > _preference(before):
            rows[place] = row
    training = members[0].identity["training"]
    profile = members[0].identity["profile"]
    stage = f"{training['steps']} steps" if "steps" in training else f"{training['local_epochs']} local epochs"
    plan = f"{training['rounds']} rounds x {stage}"
    scored = f", at most {training['test_limit']} test samples of a party" if training.get("test_limit") else ""
    limited = "".join(f", {text}" for text in _limits(members[0]))
    words = "".join(f", {text}" for text in condition_words(members[0].identity))
    about = f"profile {profile['name']}, budget {training['budget']}, {plan}{scored}{limited}{words}"
    return Setting(label, about, is_tiny(members[0]), rows, curves)


def _preference(row: Row) -> tuple[int, bool, bool]:
    return len(row.seeds), row.identity["evaluate"] == "last", "robustness" in row.identity


LIMITED = {"private_limit": "training samples of a device", "public_limit": "public training samples"}
"""What limits are on, by their names in records; that on test samples is always said."""


def _limits(row: Row) -> list[str]:
    """Return what limits the training samples of a row, where it is not the profile that does."""
    limits = row.records[0]["realised"].get("limits", {})
    return [
        f"{'all' if limits[name] is None else f'at most {limits[name]}'} {what}"
        for name, what in LIMITED.items()
        if name in limits
    ]


def _arm_key(identity: Mapping[str, Any]) -> str:
    return canonical_json([identity["algo"], identity["structure"].get("proxy")])


def _arms(rows: Sequence[Row], cards: Cards) -> dict[str, Arm]:
    """Return every arm by its key; one that departs from the usual of its algorithm says so in its label.

    A control has its own label, as long as no other arm has that, too.
    """
    flat: dict[str, dict[str, dict[str, str]]] = {}
    weight: Counter[str] = Counter()
    for row in rows:
        own = {k: v for k, v in flatten(row.identity["algo"]).items() if k != "name"}
        flat.setdefault(row.identity["algo"]["name"], {})[_arm_key(row.identity)] = own
        weight[_arm_key(row.identity)] += len(row.records)
    arms = {}
    for algo, variants in flat.items():
        most = variants[max(sorted(variants), key=lambda key: weight[key])]
        usual = most | _known(flatten({"options": cards.defaults.get(algo, {})}), most)
        for key, own in variants.items():
            # An option that a record lacks is one that it was made before: it must not pass for the default.
            paths = [path for path in {**own, **usual} if own.get(path) != usual.get(path)]
            parts = [f"{_short(path)}={_bare(own.get(path, 'absent'))}" for path in paths]
            label = f"{algo} ({', '.join(parts)})" if parts else algo
            arms[key] = Arm(key, label, algo)
    controls = {_arm_key(row.identity): cards.controls.get(control_key(row.identity)) for row in rows}
    labels = Counter(control.label for control in controls.values() if control)
    labels.update(arm.label for key, arm in arms.items() if controls[key] is None)
    return {key: _as_control(arm, controls[key], labels) for key, arm in arms.items()}


def _as_control(arm: Arm, control: Control | None, labels: Mapping[str, int]) -> Arm:
    if control is None:
        return arm
    return replace(arm, control=control, label=control.label if labels[control.label] == 1 else arm.label)


def _known(defaults: dict[str, str], variant: Mapping[str, str]) -> dict[str, str]:
    """Return the defaults if they are of the same options as a variant's, none if they are another version's."""
    options = {path for path in variant if path.startswith("options.")}
    return defaults if options == defaults.keys() else {}


def _short(path: str) -> str:
    return path.removeprefix("options.")


def _bare(text: str) -> str:
    """Return a value without the marks of JSON."""
    return text.replace('"', "").replace("[", "").replace("]", "").replace(", ", ",")


def _data_key(identity: Mapping[str, Any]) -> str:
    return canonical_json([identity["dataset"], identity["scorers"]])


def _data(rows: Sequence[Row], cards: Cards) -> dict[str, Data]:
    identities = {_data_key(row.identity): row.identity for row in rows}
    by_name: dict[str, dict[str, dict[str, str]]] = {}
    for key, i in identities.items():
        own = flatten({**i["dataset"], "scorers": i["scorers"]})
        by_name.setdefault(i["dataset"]["name"], {})[key] = own
    found = {}
    for name, variants in by_name.items():
        paths = sorted({path for own in variants.values() for path in own})
        differing = [path for path in paths if len({own.get(path) for own in variants.values()}) > 1]
        for key, own in variants.items():
            parts = [part for path in differing if (part := _data_part(path, own, variants.values()))]
            label = f"{name} ({', '.join(parts)})" if parts else name
            hidden = cards.real_texts if identities[key]["dataset"]["synthetic"] else ()
            scorers = {name: one for name, one in identities[key]["scorers"].items() if name not in hidden}
            metrics, unscored = (tuple(m for m in scorers if (scorers[m] is None) is lacks) for lacks in (False, True))
            readings = tuple((m, cards.readings[m]) for m in metrics if cards.readings.get(m))
            found[key] = Data(key, label, name, metrics, unscored, readings)
    return found


def _data_part(path: str, own: Mapping[str, str], variants: Iterable[Mapping[str, str]]) -> str:
    """Return what one setting makes of data that others have otherwise; of an added metric its name, "" without it."""
    if path.startswith("scorers.") and any(path not in other for other in variants):
        return f"with {path.removeprefix('scorers.')}" if path in own else ""
    return f"{_short(path)} {_bare(own.get(path, 'absent'))}"


def _labels(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return for each setting in what it differs from the others, "" for the only one."""
    shared = _shared([setting.get(CONDITIONS, {}) for setting in settings])
    flat = [_named_conditions(setting, shared) for setting in settings]
    paths = sorted({path for values in flat for path in values})
    differing = [path for path in paths if len({values.get(path) for values in flat}) > 1]
    return [
        ", ".join(f"{setting_name(path)} {_bare(v.get(path, 'absent'))}".lstrip() for path in differing) for v in flat
    ]


def _shared(conditions: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the conditions that are everywhere the same."""
    return {name for name, own in conditions[0].items() if all(one.get(name) == own for one in conditions)}


def _named_conditions(setting: Mapping[str, Any], shared: Collection[str]) -> dict[str, str]:
    """Return the leaves of a setting by their paths, with its conditions, but for those that all share, as words."""
    flat = flatten({name: part for name, part in setting.items() if name != CONDITIONS})
    own = {name: part for name, part in setting.get(CONDITIONS, {}).items() if name not in shared}
    return {CONDITIONS: conditions_label({CONDITIONS: own}), **flat}


def setting_name(path: str) -> str:
    """Return what users call a part of an identity: a number of the profile as `--set` does, else the last name.

    The words of conditions need no name.
    """
    if path == CONDITIONS:
        return ""
    return path.removeprefix("training.") if path.startswith("training.") else path.rsplit(".", maxsplit=1)[-1]
