"""Which part of prepared data a party of a federation may see, and the folder of that part alone."""

from __future__ import annotations

from pathlib import Path

from mlecs_bench.data.exported import Export, ExportedSamples, save_export
from mlecs_bench.data.samples import Prepared, Samples
from mlecs_bench.errors import UsageError
from mlecs_bench.federation.build import lay_out
from mlecs_bench.plan.plan import Plan

SERVER = "server"


def export(samples: Samples, plan: Plan, seed: int, party: str, folder: Path) -> Prepared:
    """Write what a party of one seed may see: a device its samples and the public training samples, through its
    modalities; "server" the public samples.

    Raises UsageError for a party that is none, an algorithm that pools all data, and data that are exported already.
    """
    parties = (SERVER, *plan.device_ids)
    if party not in parties:
        raise UsageError(f"'{party}' is no party of this run; those are {', '.join(parties)}")
    if plan.needs.pool:
        raise UsageError(
            f"'{plan.algorithm.name}' trains on the data of all parties in one place; none can be exported"
        )
    if isinstance(samples, ExportedSamples):
        raise UsageError(f"these are the data of {samples.export.party} alone; export from the whole")
    layout = lay_out(plan, seed, samples)
    public = layout.partition.public
    if party == SERVER:
        rows, held = [*public.train, *public.test], samples.manifest.modality_names
    else:
        number = plan.device_ids.index(party)
        own = layout.partition.devices[number]
        rows, held = [*own.train, *own.test, *public.train], tuple(layout.schedule.ever(number))
    several = samples.references is not None
    said = Export(party, seed, layout.partition, samples.writing, several)
    return save_export(samples, said, sorted(rows), held, folder)
