"""How strongly every loss term of every stage pulls: norms of its gradients, and how far it agrees with L_lb.

    python benchmarks/gradient_norms.py [ml-ecs co-plms fedmllm] [--dataset vast] [--profile mini] [--rho 0.5]
        [--seed 27] [--rounds 1 3] [-o kt_reduction=sum]

Rounds are played without scores. In the rounds named, the gradients of each stage's terms are taken before and after
its steps, on a few batches of its own data and over the parameters that it trains, without dropout and before clipping.
Knowledge transfer is taken under both reductions at the same weights, whichever one was trained with. One Markdown
table per algorithm; on the synthetic data and the embedded models it takes a minute.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch

from mlecs_baselines.co_plms import CoPlms
from mlecs_baselines.fedmllm import FedMllm
from mlecs_bench.blocks.supervised import Objective, batches
from mlecs_bench.blocks.transfer import Reduction
from mlecs_bench.data.samples import DataRequest, Samples
from mlecs_bench.doors.registry import Registry
from mlecs_bench.errors import MlecsError
from mlecs_bench.federation.build import Federation, build_federation
from mlecs_bench.federation.device import Device
from mlecs_bench.federation.messages import Message
from mlecs_bench.federation.party import Party
from mlecs_bench.federation.server import Server
from mlecs_bench.models.unified import UnifiedModel
from mlecs_bench.plan.resolve import resolve
from mlecs_bench.plan.settings import parse_pairs
from mlecs_bench.plan.spec import RunSpec
from mlecs_bench.seeds import rng
from mlecs_plugins.ml_ecs import amt, ccl, se_ccl
from mlecs_plugins.ml_ecs.algorithm import MlEcs

BATCHES = 4
TRANSFERRED = "into_"
"""What the names of terms of knowledge transfer begin with."""

Make = Callable[[Any], Objective]
Line = tuple[str, str, str]


@dataclasses.dataclass(frozen=True)
class Pull:
    """The gradient of one term in one model: its norm, and its cosine with that of the model's first term, L_lb."""

    norm: float
    cosine: float


def pulls(objective: Objective, rows: Any) -> dict[tuple[UnifiedModel, str], Pull]:
    """Return the pull of every term on every model that a stage trains, on one batch, where there is any."""
    found: dict[tuple[UnifiedModel, str], Pull] = {}
    with ExitStack() as stack:
        for model, parts in objective.stage.models:
            stack.enter_context(model.only_trainable(parts))
        for model, _ in objective.stage.models:
            model.switch(training=False)
        terms = {name: term for name, term in objective.terms(rows).minimised.items() if term.requires_grad}
        for model, parts in objective.stage.models:
            gradients = {name: gradient(term, model.parameters(parts)) for name, term in terms.items()}
            present = {name: g for name, g in gradients.items() if g is not None}
            for name, g in present.items():
                first = next(iter(present.values()))
                cosine = torch.nn.functional.cosine_similarity(g, first, dim=0)
                found[model, name] = Pull(float(g.norm()), float(cosine))
    return found


def gradient(term: torch.Tensor, parameters: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """Return the gradient of a term as one vector, None where it does not depend on any of the parameters."""
    parts = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
    if all(part is None for part in parts):
        return None
    whole = [torch.zeros_like(p) if part is None else part for p, part in zip(parameters, parts, strict=True)]
    return torch.cat([part.flatten() for part in whole]).double()


class Meter:
    """Takes the pulls of stages before and after their steps, in some rounds."""

    def __init__(self, rounds: Sequence[int], n_batches: int = BATCHES) -> None:
        self.rounds = rounds
        self.n_batches = n_batches
        self.seen: dict[Line, dict[str, list[Pull]]] = {}

    @contextmanager
    def around(self, party: Party, t: int, options: Any, make: Make) -> Iterator[None]:
        """Measure what `make(options)` minimises on both sides of the block, with either reduction of the transfer."""
        objectives = {reduction: make(given) for reduction, given in variants(options).items()}
        self._note(party, t, f"round {t}, before", objectives)
        yield
        self._note(party, t, f"round {t}, after", objectives)

    def _note(self, party: Party, t: int, moment: str, objectives: Mapping[str, Objective]) -> None:
        if t not in self.rounds:
            return
        for number, (reduction, objective) in enumerate(objectives.items()):
            data = objective.data
            stream = rng(party.seed, "gradient-norms", party.id, t)
            side = "server" if isinstance(party, Server) else "device"
            for positions in batches(len(data), party.training.batch_size, self.n_batches, stream):
                for (model, term), pull in pulls(objective, data.rows[positions]).items():
                    transferred = term.startswith(TRANSFERRED)
                    if number and not transferred:  # the same under either reduction
                        continue
                    label = f"{term} ({reduction})" if transferred else term
                    line = (f"{objective.stage.name}, {side}", role(party, model), label)
                    self.seen.setdefault(line, {}).setdefault(moment, []).append(pull)


def variants(options: Any) -> dict[str, Any]:
    """Return options with either reduction of knowledge transfer; one set where there is none."""
    if not hasattr(options, "kt_reduction"):
        return {"": options}
    return {reduction: dataclasses.replace(options, kt_reduction=reduction) for reduction in get_args(Reduction)}


def role(party: Party, model: UnifiedModel) -> str:
    """Return which of a party's models one is."""
    if model is party.model:
        return "LLM" if isinstance(party, Server) else "SLM"
    return "proxy" if model.name.endswith("-proxy") else "SLM"


class MeteredMlEcs(MlEcs):
    """ML-ECS whose three stages are measured."""

    def __init__(self, options: Any, meter: Meter) -> None:
        super().__init__(options)
        self.meter = meter

    def align(self, device: Device, t: int) -> None:
        """CCL."""
        with self.meter.around(device, t, self.options, partial(ccl.objective, device, t)):
            super().align(device, t)

    def tune(self, device: Device, t: int) -> None:
        """AMT."""
        with self.meter.around(device, t, self.options, partial(amt.objective, device, t)):
            super().tune(device, t)

    def transfer(self, server: Server, t: int) -> None:
        """SE-CCL."""
        with self.meter.around(server, t, self.options, partial(se_ccl.objective, server, t)):
            super().transfer(server, t)


class MeteredCoPlms(CoPlms):
    """Co-PLMs whose four stages are measured."""

    def __init__(self, options: Any, meter: Meter) -> None:
        super().__init__(options)
        self.meter = meter

    def distil(self, server: Server) -> None:
        """Distillation."""
        with self.meter.around(server, 1, self.options, lambda given: CoPlms(given).distillation(server)):
            super().distil(server)

    def tune(self, device: Device, t: int) -> None:
        """DST."""
        with self.meter.around(device, t, self.options, lambda given: CoPlms(given).tuning(device, t)):
            super().tune(device, t)

    def learn_mutually(self, device: Device, t: int) -> None:
        """SAML on a device."""
        with self.meter.around(device, t, self.options, lambda given: CoPlms(given).mutual_learning(device, t)):
            super().learn_mutually(device, t)

    def learn_at_server(self, server: Server, t: int) -> None:
        """SAML at the server."""
        with self.meter.around(server, t, self.options, lambda given: CoPlms(given).servers_objective(server, t)):
            super().learn_at_server(server, t)


class MeteredFedMllm(FedMllm):
    """FedMLLM whose stage is measured; its pull is towards the adapter from before the stage."""

    def __init__(self, options: Any, meter: Meter) -> None:
        super().__init__(options)
        self.meter = meter

    def local_update(self, device: Device, t: int) -> Message:
        """Train on the private data."""
        with self.meter.around(device, t, self.options, lambda given: FedMllm(given).objective(device, t)):
            return super().local_update(device, t)


METERED: Mapping[str, Callable[[Any, Meter], Any]] = {
    "ml-ecs": MeteredMlEcs,
    "co-plms": MeteredCoPlms,
    "fedmllm": MeteredFedMllm,
}


def play(algorithm: Any, federation: Federation, rounds: int) -> None:
    """Play rounds without scores."""
    server = federation.server
    for t in range(1, rounds + 1):
        server.start_round(t)
        messages = algorithm.broadcast(server, t)
        uploads = {}
        for device in federation.devices:
            device.start_round(t)
            algorithm.receive(device, messages.get(device.id, Message()).copied(), t)
            uploads[device.id] = algorithm.local_update(device, t).copied()
        algorithm.aggregate(server, uploads, t)


def table(seen: Mapping[Line, Mapping[str, Sequence[Pull]]]) -> str:
    """Return what a meter has seen as Markdown, a line per term: mean norm and, behind L_lb, mean cosine with it."""
    moments = list(dict.fromkeys(moment for by_moment in seen.values() for moment in by_moment))
    rows = [["stage", "model", "term", *moments], [*["---"] * 3, *["---:"] * len(moments)]]
    groups: dict[tuple[str, str], list[str]] = {}
    for stage, model, term in seen:
        groups.setdefault((stage, model), []).append(term)
    for (stage, model), terms in groups.items():
        for term in terms:
            by_moment = seen[stage, model, term]
            cells = [cell(by_moment.get(moment, ()), with_cosine=term != terms[0]) for moment in moments]
            rows.append([stage, model, term, *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def cell(found: Sequence[Pull], *, with_cosine: bool) -> str:
    """Return the mean of some pulls in characters, "-" for none."""
    if not found:
        return "-"
    norm = f"{statistics.fmean(pull.norm for pull in found):.3g}"
    return f"{norm} ({statistics.fmean(pull.cosine for pull in found):+.2f})" if with_cosine else norm


def _spec(args: argparse.Namespace, algorithm: str) -> RunSpec:
    options = parse_pairs(args.option, "option")
    return RunSpec(algorithm, args.dataset, args.rho, profile=args.profile, options=options, device="cpu")


def main() -> None:
    """Print one table per algorithm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("algorithms", nargs="*", metavar="ALGORITHM", default=list(METERED))
    parser.add_argument("--dataset", default="vast")
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--rho", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=27)
    parser.add_argument("--rounds", type=int, nargs="+", default=[1, 3])
    parser.add_argument("-o", "--option", action="append", default=[], help="name=value, for every algorithm named")
    args = parser.parse_args()
    unknown = sorted(set(args.algorithms) - set(METERED))
    if unknown:
        parser.error(f"'{unknown[0]}' is not measured; choose from {', '.join(METERED)}")
    torch.set_num_threads(1)
    registry = Registry.installed()
    try:
        plans = [resolve(_spec(args, algorithm), registry) for algorithm in args.algorithms]
    except MlecsError as error:
        parser.error(str(error))
    with tempfile.TemporaryDirectory() as folder:
        info = registry.dataset(args.dataset).info
        samples = Samples.open(info.prepare(DataRequest(None, Path(folder), info.options())))
        for algorithm, plan in zip(args.algorithms, plans, strict=True):
            meter = Meter(args.rounds)
            federation = build_federation(plan, args.seed, samples, registry)
            play(METERED[algorithm](plan.options, meter), federation, max(args.rounds))
            settings = f"{args.dataset}, profile {args.profile}, rho {args.rho:g}, seed {args.seed}"
            print(f"{' '.join([algorithm, *args.option])}: {settings}; gradient norm (cosine with L_lb of the model)\n")
            print(f"{table(meter.seen)}\n")


if __name__ == "__main__":
    main()
