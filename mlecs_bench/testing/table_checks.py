"""Checks of prepared data: the manifest against the card and the table, and the samples themselves."""

from __future__ import annotations

import json
import re
from collections import Counter

import numpy as np

from mlecs_bench.data.partition import partition
from mlecs_bench.data.samples import Manifest, features_of
from mlecs_bench.errors import MlecsError
from mlecs_bench.testing.card_checks import check_texts
from mlecs_bench.testing.material import Material
from mlecs_bench.testing.verdict import fail, failure

N_DEVICES = 3
SEED = 27


def manifest(material: Material) -> None:
    """The manifest fits the card and the table, and survives JSON."""
    made, info = material.prepared.manifest, material.info
    check_texts({name: getattr(made, name) for name in ("name", "version", "view", "prompt", "licence")})
    pairs = {
        "name": (made.name, material.name),
        "task": (made.task, info.task),
        "modalities": (made.modality_names, tuple(info.modalities)),
        "n_samples": (made.n_samples, len(material.samples)),
    }
    for name, (given, expected) in pairs.items():
        if given != expected:
            happened = f"'{name}' is {given!r} there and {expected!r} in the card or table"
            fail("the manifest fits the card and the table", happened, "derive one from the other")
    if not re.fullmatch(r"[0-9a-f]{64}", made.digest):
        fail("the digest is a sha256", f"it is '{made.digest}'", "hash everything the samples are made from")
    if made.max_new_tokens < 1:
        fail("answers have at least one token", f"max_new_tokens is {made.max_new_tokens}", "allow the longest answer")
    if bool(made.labels) != (made.task == "classification"):
        fail("a classification has labels and nothing else has", f"they are {made.labels}", "correct task or labels")
    if Manifest.from_json(json.loads(json.dumps(made.to_json()))) != made:
        fail("the manifest survives JSON", "it came back changed", "use the annotated types of Manifest")


def columns(material: Material) -> None:
    """The table has the columns of features_of(modalities), of the same types, and the diagnostic columns."""
    samples = material.samples
    wanted = features_of(samples.manifest.modalities).arrow_schema
    given = material.schema
    for field in wanted:
        index = given.get_field_index(field.name)
        if index < 0:
            fail("the table has the columns of features_of", f"'{field.name}' is missing", "build it with features_of")
        if given.field(index).type != field.type:
            happened = f"'{field.name}' is {given.field(index).type} and not {field.type}"
            fail("columns have the types of features_of", happened, "cast the table to features_of(…)")
    lacking = sorted(set(material.info.diagnostic_columns) - set(samples.column_names))
    if lacking:
        fail("the table has the diagnostic columns", f"'{lacking[0]}' is missing", "pass it as extra to features_of")


def samples(material: Material) -> None:
    """Ids are unique, targets and groups are not empty, and targets of a classification are its labels."""
    data, labels = material.samples, material.prepared.manifest.labels
    for name in ("id", "target", "group"):
        empty = [row for row, text in enumerate(data.column(name)) if not str(text or "").strip()]
        if empty:
            fail(f"every sample has its {name}", f"that of row {empty[0]} is empty", "leave the sample out or fill it")
    id_, times = Counter(data.ids).most_common(1)[0]
    if times > 1:
        fail("ids are unique", f"'{id_}' stands for {times} samples", "number the samples")
    strange = sorted(set(data.targets) - set(labels)) if labels else []
    if strange:
        fail("targets are labels of the manifest", f"'{strange[0]}' is none of {labels}", "correct labels or targets")
    unused = sorted(set(labels) - set(data.targets))
    if unused:
        fail("every label has samples", f"'{unused[0]}' has none", "correct the labels of the manifest")


def values(material: Material) -> None:
    """Where a modality is present its values are finite and, for tokens, not negative; each is present somewhere."""
    data = material.samples
    for modality in data.manifest.modalities:
        present = data.presence[modality.name]
        if not present.any():
            fail("every modality is there in some sample", f"'{modality.name}' is in none", "leave it out of the card")
        array = data.array(modality.name)[present]
        if modality.dtype == "float32" and not np.isfinite(array).all():
            advice = f"say has_{modality.name} = False where there is no value"
            fail("values that are present are finite", f"'{modality.name}' holds NaN or infinity", advice)
        if modality.dtype == "int64" and (array < 0).any():
            fail("token ids start at 0", f"'{modality.name}' holds {int(array.min())}", "use 0 for padding")


def splits(material: Material) -> None:
    """Every declared split gives three devices and the public part samples to train and to test on."""
    data = material.samples
    groups, strata = data.column("group"), data.column("stratum")
    for split in material.info.splits:
        wanted = f"the split '{split}' serves {N_DEVICES} devices"
        try:
            cut = partition(groups, strata, split, N_DEVICES, SEED)
        except MlecsError as error:
            raise failure(wanted, str(error), "correct `splits` of the card or the group column") from error
        if not all(part.train and part.test for part in (cut.public, *cut.devices)):
            fail(wanted, "a party has nothing to train or to test on", "give more samples or groups")
