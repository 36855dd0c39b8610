"""How devices differ in structure (language model, LoRA rank, encoder width), and whether an algorithm allows it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlecs_bench.errors import UsageError

if TYPE_CHECKING:
    from mlecs_bench.doors.hookspecs import Needs
    from mlecs_bench.doors.profile import Profile

PART_OF = {"slm": "language model", "rank": "LoRA rank", "encoder_width": "encoder width"}


@dataclass(frozen=True)
class Structure:
    """The structure of one device: where its language model is, r_j, and the width d_z of its encoders."""

    slm: str
    rank: int
    encoder_width: int


@dataclass(frozen=True)
class Deviations:
    """In what single devices were told to differ from the profile, by device id."""

    slm: Mapping[str, str]
    rank: Mapping[str, int]
    encoder_width: Mapping[str, int]


def device_id(j: int) -> str:
    """Return the id of device j; ids sort in the order of j."""
    return f"d{j:02d}"


def usual_id(id_: str) -> str:
    """Return d03 for "3" and "d3"; what is no device stays, for `canonical_devices` to refuse."""
    match = re.fullmatch(r"d?(\d{1,9})", id_)
    return device_id(int(match[1])) if match else id_


def canonical_devices(values: Mapping[str, Any], n_devices: int, what: str) -> dict[str, Any]:
    """Return `values` by canonical device id: "d0", "d00" and "0" are device 0. Raises UsageError for any other."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        match = re.fullmatch(r"d?(\d+)", str(name))
        if match is None or int(match[1]) >= n_devices:
            raise UsageError(
                f"{what} names device '{name}'; devices of this run are d0 to d{n_devices - 1} (see n-devices)"
            )
        id_ = device_id(int(match[1]))
        if id_ in found:
            raise UsageError(f"{what} names device '{id_}' twice")
        found[id_] = value
    return {id_: found[id_] for id_ in sorted(found)}


def structures(n_devices: int, deviations: Deviations, profile: Profile, needs: Needs) -> dict[str, Structure]:
    """Return the structure of every device: what it was told, else what the algorithm asks for or the profile has."""
    ranks = needs.ranks or (profile.lora.rank,)
    return {
        id_: Structure(
            slm=deviations.slm.get(id_, profile.slm),
            rank=deviations.rank.get(id_, ranks[j % len(ranks)]),
            encoder_width=deviations.encoder_width.get(id_, profile.encoder_width),
        )
        for j, id_ in enumerate(map(device_id, range(n_devices)))
    }


def check_structures(devices: Mapping[str, Structure], needs: Needs, profile: Profile) -> None:
    """Raise UsageError when a part that the algorithm averages cannot have one shape on the server and all devices,
    or when widths differ that the algorithm needs to be one.

    The server holds averages in its model of the devices' kind (`server.slm`): the profile's SLM and encoder width,
    and the largest of the devices' ranks. Which modalities a seed gives to a device does not matter here, so all
    seeds of a run are refused alike.
    """
    if needs.one_width and profile.hidden_width != profile.fused_width:
        raise UsageError(
            "the algorithm holds fused representations against hidden ones, so hidden_width and fused_width must be "
            f"equal, got {profile.hidden_width} and {profile.fused_width}; set both"
        )
    server = Structure(profile.slm, max(s.rank for s in devices.values()), profile.encoder_width)
    for part in needs.same:
        for id_, structure in devices.items():
            if not _same_shapes(part, structure, server, needs, profile):
                raise UsageError(
                    f"the algorithm averages the devices' '{part}', but that of {id_} has another shape than the "
                    f"server's average: {' and '.join(_differences(server, structure))}; give all devices the same, or "
                    "choose an algorithm that does not average it (mlecs-bench show NAME says)"
                )


def _same_shapes(part: str, one: Structure, other: Structure, needs: Needs, profile: Profile) -> bool:
    """Do the tensors of a part have equal shapes in two structures?"""
    if part in ("encoder", "projector"):
        return one.encoder_width == other.encoder_width
    if part == "fusion":  # its widths are the profile's and the number of modalities
        return True
    if part == "lora" and not needs.any_rank and one.rank != other.rank:
        return False
    if one.slm == other.slm:
        return True
    from mlecs_bench.models.outline import backbone_shape

    shapes = [backbone_shape(structure.slm, profile.lora.targets) for structure in (one, other)]
    if part == "soft_prompt":
        return shapes[0].hidden_size == shapes[1].hidden_size
    return shapes[0].adapted == shapes[1].adapted


def _differences(one: Structure, other: Structure) -> list[str]:
    return [
        f"{meaning} {getattr(other, name)} instead of {getattr(one, name)}"
        for name, meaning in PART_OF.items()
        if getattr(one, name) != getattr(other, name)
    ]
