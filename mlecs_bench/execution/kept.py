"""What a cell leaves beside its record where it is asked to: the answers behind its scores, and trained models."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlecs_bench.doors.options import plain
from mlecs_bench.federation.engine import LOCAL, RECEIVED
from mlecs_bench.federation.saved import FORMAT, Description, base_source, save_model
from mlecs_bench.models.connector import ConnectorSizes
from mlecs_bench.models.outline import backbone_shape
from mlecs_bench.models.sources import content_id
from mlecs_bench.plan.structure import Structure
from mlecs_bench.records.names import models_path
from mlecs_bench.records.predictions import HELD, SCORE, metrics_digest, predictions_path, write_predictions

if TYPE_CHECKING:
    from mlecs_bench.data.partition import Part
    from mlecs_bench.federation.build import Builder
    from mlecs_bench.federation.engine import Outcome
    from mlecs_bench.plan.plan import Plan

SERVER = "server"
CARD = "README.md"

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Kept:
    """What a finished cell can leave beside its record."""

    builder: Builder
    outcome: Outcome

    @property
    def _plan(self) -> Plan:
        return self.builder.plan

    def _parts(self) -> dict[str, Part]:
        """Return the rows of every party."""
        cut = self.builder.layout.partition
        return {SERVER: cut.public, **dict(zip(self._plan.device_ids, cut.devices, strict=True))}

    def _held(self) -> dict[str, Sequence[str]]:
        """Return what every party held when it was scored, in the last round, in the fixed order."""
        return self._modalities(lambda j: self.builder.layout.schedule.held(j, self._plan.rounds))

    def _built_for(self) -> dict[str, Sequence[str]]:
        """Return the modalities that every party's model is built for, in the fixed order."""
        return self._modalities(self.builder.layout.schedule.ever)

    def _modalities(self, of: Callable[[int], Sequence[str]]) -> dict[str, Sequence[str]]:
        own = {id_: of(j) for j, id_ in enumerate(self._plan.device_ids)}
        return {SERVER: self.builder.samples.manifest.modality_names, **own}

    def lacking(self) -> list[str]:
        """Return the points at which a party gave no answers: it was scored before they were asked for."""
        expected = {LOCAL: self._plan.device_ids, RECEIVED: self._plan.device_ids}
        server = {SERVER: (SERVER,)} if self._plan.server_score else {}
        wanted = {**expected, **server}
        return [point for point, ids in wanted.items() if set(ids) - self.outcome.answers.get(point, {}).keys()]

    def write(self, path: Path, record: Record) -> None:
        """Write answers and models beside the record that will be at `path`."""
        if self.outcome.answers and not self.lacking():
            write_predictions(predictions_path(path), self.rows(record))
        if self.outcome.models:
            self._write_models(models_path(path), record)

    def rows(self, record: Record) -> dict[str, list[Any]]:
        """Return the answers of all parties by column."""
        samples, parts, held = self.builder.samples, self._parts(), self._held()
        names = [name for by_party in self.outcome.answers.values() for a in by_party.values() for name in a["scores"]]
        metrics = list(dict.fromkeys(names))
        rows: list[dict[str, Any]] = []
        bound = {"key": record["key"], "metrics": metrics_digest(record), "prompt": self.builder.prompt}
        for point in (LOCAL, RECEIVED, SERVER):
            for party, answers in sorted(self.outcome.answers.get(point, {}).items()):
                for i, (row, text) in enumerate(zip(parts[party].test, answers["texts"], strict=True)):
                    scores = {SCORE + m: answers["scores"][m][i] if m in answers["scores"] else None for m in metrics}
                    own = {"eval_point": point, "device": party, "sample": samples.ids[row], "answer": text}
                    read = [m for m in held[party] if samples.presence[m][row]]
                    rows.append({**bound, **own, "target": samples.targets[row], HELD: read, **scores})
        return {name: [row[name] for row in rows] for name in rows[0]}

    def _write_models(self, folder: Path, record: Record) -> None:
        """Write all models into `folder`, which appears whole; an earlier one of the same cell is replaced."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = folder.with_name(f".{folder.name[:40]}-{secrets.token_hex(8)}.part")
        scalings = self.builder.samples.scalings()
        try:
            for party, model in self.outcome.models.items():
                own = part / party
                own.mkdir(parents=True)
                description = self._description(party, record)
                save_model(own, model, description, scalings)
                (own / CARD).write_text(card(description, record), encoding="utf-8")
            if folder.exists():
                shutil.rmtree(folder)
            part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _description(self, party: str, record: Record) -> Description:
        plan, profile, manifest = self._plan, self._plan.profile, self.builder.samples.manifest
        usual = Structure(profile.llm, profile.lora.rank, profile.encoder_width)
        structure = usual if party == SERVER else plan.structures[party]
        shape = backbone_shape(structure.slm, profile.lora.targets)
        sizes = ConnectorSizes(
            encoder=structure.encoder_width,
            hidden=profile.hidden_width,
            fused=profile.fused_width,
            soft_tokens=profile.soft_tokens,
            backbone=shape.hidden_size,
            dropout=profile.connector_dropout,
        )
        return Description(
            format=FORMAT,
            party=party,
            eval_point=SERVER if party == SERVER else RECEIVED,
            key=record["key"],
            metrics=metrics_digest(record),
            algo=plan.algorithm.name,
            seed=self.builder.seed,
            dataset=plan.dataset.name,
            data_options=plain(plan.data_options),
            data=manifest.digest,
            test=tuple(self._parts()[party].test),
            base=base_source(structure.slm),
            base_id=content_id(structure.slm),
            dtype=profile.dtype,
            base_bits=profile.base_bits,
            torch_device=plan.torch_device,
            threads=plan.threads,
            lora=profile.lora.at_rank(structure.rank),
            encoder_width=structure.encoder_width,
            sizes=sizes,
            modalities=tuple(manifest.modality(name) for name in self._built_for()[party]),
            held=tuple(self._held()[party]),
            prompt=self.builder.prompt,
            prompt_suffix=plan.needs.prompt_suffix,
            max_new_tokens=manifest.max_new_tokens,
            generation_batch=profile.generation_batch,
            bertscore=profile.bertscore,
            bertscore_samples=profile.bertscore_samples,
        )


def card(description: Description, record: Record) -> str:
    """Return the card of a saved model as Markdown, with the front matter that hubs of models read."""
    scores = scores_of(record, description.party)
    reads = ", ".join(description.modality_names) or "no modality"
    data = record["identity"]["dataset"]
    base = description.base_id if "@" in description.base_id else Path(description.base).name
    lines = [
        *("---", f"base_model: {base.partition('@')[0]}", "library_name: peft", "tags: [lora, mlecs-bench]", "---", ""),
        f"# {description.party} of {description.algo} on {description.dataset}",
        "",
        f"A LoRA adapter of rank {description.lora.rank} for `{base}`, with encoders and a connector that turn "
        f"{reads} into {description.sizes.soft_tokens} soft tokens before the prompt. Trained by mlecs-bench: seed "
        f"{description.seed}, data {data['view']} (split {data['split']}), record `{description.key[:8]}`.",
        "",
        "| metric | value | test samples |",
        "| --- | --- | --- |",
        *(f"| {name} ({description.eval_point}) | {one['value']:.4f} | {one['n']} |" for name, one in scores.items()),
        "",
        "`mlecs_bench.load_model(FOLDER)` gives the whole model. The adapter alone loads with PEFT:",
        "",
        "```python",
        "from peft import AutoPeftModelForCausalLM",
        "",
        "model = AutoPeftModelForCausalLM.from_pretrained(FOLDER)",
        "```",
        "",
        *(["Data or models are stand-ins: the scores say nothing of real ones.", ""] if _is_stand_in(record) else []),
    ]
    return "\n".join(lines)


def _is_stand_in(record: Record) -> bool:
    return bool(record["identity"]["dataset"]["synthetic"] or record["identity"]["profile"].get("tiny"))


def scores_of(record: Record, party: str) -> dict[str, Any]:
    """Return the scores that a record has of a party's saved model: after the last broadcast, or the server's."""
    if party == SERVER:
        return dict(record["metrics"]["server"] or {})
    received = record["metrics"]["client"][RECEIVED]
    return {metric: by_device[party] for metric, by_device in received.items() if party in by_device}
