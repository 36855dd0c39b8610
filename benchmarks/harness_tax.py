"""What the harness costs: the rounds of a run against the same steps in a bare PyTorch loop.

    python benchmarks/harness_tax.py [--rounds 3] [--steps 20] [--repeats 3]

Both sides train the Standalone algorithm on the synthetic vast data with the embedded models, one thread, the same
initial weights, batches and dropout; the losses must be equal. The bare loop knows no party, stage, message, ledger,
guard or checkpoint. Evaluation is left out on both sides, the harness's checkpoints are not. The two alternate.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from mlecs_bench.blocks.supervised import ALL_PARTS, batches
from mlecs_bench.data.samples import DataRequest, Samples
from mlecs_bench.doors.registry import Registry
from mlecs_bench.doors.scoring import Metric
from mlecs_bench.federation.build import Federation, build_federation
from mlecs_bench.federation.checkpoint import server_file
from mlecs_bench.federation.engine import Cell, CellRun
from mlecs_bench.federation.fleet import InProcessFleet
from mlecs_bench.federation.host import DeviceHost
from mlecs_bench.federation.party import Party
from mlecs_bench.federation.turns import FileTurns
from mlecs_bench.plan.resolve import resolve
from mlecs_bench.plan.spec import RunSpec
from mlecs_bench.seeds import rng, torch_stream
from mlecs_plugins.profiles.mini import MINI

SEED = 27


class NoEvaluation:
    """Scores nothing."""

    def score(self, *_: Any) -> dict[str, Metric]:
        """Return a placeholder that costs nothing."""
        return {"none": Metric(0.0, 1)}


def federation_of(samples: Samples, rounds: int, steps: int) -> Federation:
    """Return a fresh federation; every call gives the same weights and data."""
    registry = Registry.installed()
    spec = RunSpec("standalone", "vast", 0.8, rounds=rounds, steps=steps, split="frame", device="cpu")
    return build_federation(resolve(spec, registry), SEED, samples, registry)


def harness(federation: Federation, rounds: int, folder: Path) -> tuple[float, list[float]]:
    """Return the seconds of all rounds in the harness, and the mean loss of every stage."""
    info = Registry.installed().algorithm("standalone").info
    algorithm = info.build(info.options())
    host = DeviceHost(federation.devices, algorithm, NoEvaluation(), FileTurns(folder, "tax"))
    cell = Cell(
        algorithm=algorithm,
        server=federation.server,
        fleet=InProcessFleet(host),
        evaluator=NoEvaluation(),
        key="tax",
        rounds=rounds,
        evaluate_all=False,
        server_score=True,
        checkpoint=server_file(folder),
    )
    run = CellRun(cell)
    started = time.perf_counter()
    outcome = run.run()
    seconds = time.perf_counter() - started
    order = [d.id for d in federation.devices] + ["server"]
    losses = [next(iter(row["losses"][id_].values())) for row in outcome.metrics["rounds"] for id_ in order]
    return seconds, losses


class BareParty:
    """One party's modules and data as plain tensors."""

    def __init__(self, party: Party) -> None:
        model = party.model
        self.id = party.id
        self.encoders, self.connector, self.backbone = model.encoders, model.connector, model.backbone
        self.lm, self.adapter = model.backbone._peft, model.name
        self.modalities = model.modalities
        rows = party.train.rows
        self.n = len(rows)
        self.inputs = {m: torch.from_numpy(party.train.modality(m, rows)) for m in self.modalities}
        answers = model.texts.answers(party.train.targets(rows))
        self.ids, self.mask = answers.ids, answers.mask
        self.prompt = model.texts.prompt(party.prompt)
        rates = MINI.learning_rates
        by_part = {"encoder": rates.encoder, "lora": rates.lora}
        self.groups = [
            {"params": model.parameters([part]), "lr": by_part.get(part, rates.connector)} for part in ALL_PARTS
        ]
        self.parameters = model.parameters(ALL_PARTS)
        self.dropout = model.backbone._dropouts[model.name]

    def train(self, t: int, steps: int, stage: str) -> float:
        """Take the steps of one stage; return the mean loss."""
        self.lm.set_adapter(self.adapter)
        for module in (self.encoders, self.connector, *self.dropout):
            module.train()
        for p in self.parameters:
            p.requires_grad_(True)
        optimiser = torch.optim.AdamW(self.groups, weight_decay=0.0, fused=True)
        losses = []
        with torch_stream(SEED, "dropout", self.id, t, stage):
            for index in batches(self.n, MINI.batch_size, steps, rng(SEED, "batches", self.id, t, stage)):
                loss = self.loss(torch.from_numpy(index))
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(self.parameters, MINI.clip_norm)
                optimiser.step()
                losses.append(loss.detach())
        return float(torch.stack(losses).mean())

    def loss(self, index: torch.Tensor) -> torch.Tensor:
        """Return the supervised loss of a batch."""
        b, connector = len(index), self.connector
        hidden = [connector.projector[m](self.encoders[m](self.inputs[m][index])) for m in self.modalities]
        fused = connector.fusion(torch.cat(hidden, dim=-1))
        soft = connector.prompt(fused).view(b, MINI.soft_tokens, -1)
        mask = self.mask[index]
        length = int(mask.sum(dim=1).max())
        ids, mask = self.ids[index][:, :length], mask[:, :length]
        text = torch.cat([self.prompt.expand(b, -1), ids[:, :-1]], dim=1)
        embeds = torch.cat([soft, self.lm.get_input_embeddings()(text)], dim=1)
        logits = self.lm(inputs_embeds=embeds, logits_to_keep=length, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits[mask], ids[mask])


def bare(federation: Federation, rounds: int, steps: int) -> tuple[float, list[float]]:
    """Return the seconds of the same steps in the bare loop, and the mean loss of every stage."""
    devices = [BareParty(d) for d in federation.devices]
    server = BareParty(federation.server)
    started = time.perf_counter()
    losses = []
    for t in range(1, rounds + 1):
        losses += [device.train(t, steps, "private") for device in devices]
        losses.append(server.train(t, steps, "server"))
    return time.perf_counter() - started, losses


def main() -> None:
    """Print the seconds of both sides and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        info = Registry.installed().dataset("vast").info
        samples = Samples.open(info.prepare(DataRequest(None, Path(folder), info.options())))
        ours, theirs = [], []
        for i in range(args.repeats):
            kept = Path(folder) / f"cell-{i}"
            seconds, losses = harness(federation_of(samples, args.rounds, args.steps), args.rounds, kept)
            ours.append(seconds)
            seconds, plain = bare(federation_of(samples, args.rounds, args.steps), args.rounds, args.steps)
            theirs.append(seconds)
            gap = max(abs(a - b) for a, b in zip(losses, plain, strict=True))
            assert gap < 1e-5, f"the two sides trained differently: losses differ by {gap}"
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    print(
        f"{4 * args.rounds} stages of {args.steps} steps, batch {MINI.batch_size}, 1 thread; losses equal to {gap:.1e}"
    )
    print(f"harness   {statistics.median(ours):8.2f} s   (median of {args.repeats})")
    print(f"bare loop {statistics.median(theirs):8.2f} s")
    print(f"ratio     {statistics.median(ratios):8.3f}     (each pair: {', '.join(f'{r:.3f}' for r in ratios)})")


if __name__ == "__main__":
    main()
