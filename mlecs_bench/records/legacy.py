"""Records of 0.1.0 in today's words: what was renamed since, and nothing else.

They are known by the name they give a share of what is sent; a stranger's "prompt" of today stays what it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

PARTS = {"prompt": "soft_prompt"}
"""Parts of a model, and the kinds they are sent as, by their names in 0.1.0."""
RATIOS = {"paper": "one_way"}
"""Shares of what is sent, by their names in 0.1.0."""

Identity = Mapping[str, Any]


def updated(record: Any, key_of: Callable[[Identity], str]) -> Any:
    """Return a record of 0.1.0 in today's words; any other, or one whose key does not fit, comes back as it is."""
    try:
        if not RATIOS.keys() & record["comm"]["ratios"].keys() or record["key"] != key_of(record["identity"]):
            return record
        identity = _with_options(record["identity"], PARTS)
        comm = _comm(record["comm"])
    except (TypeError, KeyError, AttributeError):
        return record
    key = record["key"] if identity == record["identity"] else key_of(identity)
    return {**record, "key": key, "identity": identity, "comm": comm}


def former(identity: Identity) -> Identity:
    """Return an identity as 0.1.0 wrote it: the key of that names the files of its records."""
    return _with_options(identity, {new: old for old, new in PARTS.items()})


def _with_options(identity: Identity, names: Mapping[str, str]) -> Identity:
    """Return an identity whose options call parts by other names; they do so inside lists only."""
    options = {
        name: [names.get(part, part) if isinstance(part, str) else part for part in value]
        if isinstance(value, list | tuple)
        else value
        for name, value in identity["algo"]["options"].items()
    }
    return {**identity, "algo": {**identity["algo"], "options": options}}


def _comm(comm: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was sent, ordered as a ledger's sums are: by kind, down before up."""
    entries = [{**entry, "kind": PARTS.get(entry["kind"], entry["kind"])} for entry in comm["entries"]]
    if entries != comm["entries"]:
        entries.sort(key=lambda entry: (entry["kind"], entry["direction"]))
    ratios = {RATIOS.get(name, name): ratio for name, ratio in comm["ratios"].items()}
    return {**comm, "entries": entries, "ratios": ratios}
