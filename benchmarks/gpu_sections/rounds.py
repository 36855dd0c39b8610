"""One round of ML-ECS with the paper's language models: seconds of every stage, tokens per second, memory.

The weights are random, the data is the synthetic vast with answers as long as the memory estimate takes them for. Every
device holds every modality, so no round is cheaper. The steps of one party are also held against a bare loop: the same
language model and adapter under PEFT, on sequences as long, with nothing around them.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from gpu_sections.clock import allocated, forget, peak, synchronised, timed
from gpu_sections.random_models import random_weights, tiny_configurations
from gpu_sections.runner import Options, Report, one_line
from harness_tax import NoEvaluation
from mlecs_bench.blocks.supervised import ALL_PARTS, Stage, supervised_loss, train_stage
from mlecs_bench.data.samples import DataRequest, Samples
from mlecs_bench.doors.registry import Registry
from mlecs_bench.federation.build import Federation, build_federation
from mlecs_bench.federation.checkpoint import server_file
from mlecs_bench.federation.device import Device
from mlecs_bench.federation.engine import Cell, CellRun
from mlecs_bench.federation.fleet import InProcessFleet
from mlecs_bench.federation.host import DeviceHost
from mlecs_bench.federation.messages import Message
from mlecs_bench.federation.party import Party
from mlecs_bench.federation.server import Server
from mlecs_bench.federation.turns import FileTurns
from mlecs_bench.models.backbone import Backbone
from mlecs_bench.models.memory import ANSWER_TOKENS, estimate_memory
from mlecs_bench.plan.plan import Plan
from mlecs_bench.plan.resolve import resolve
from mlecs_bench.plan.spec import RunSpec
from mlecs_plugins.ml_ecs.algorithm import MlEcs
from mlecs_plugins.ml_ecs.options import MlEcsOptions

SEED = 27
BARE = "bare"
"""The adapter of the bare loop."""
LOOPS = 3
"""How often steps of the harness and of the bare loop take turns, after one time to warm up."""
VARIANTS: tuple[dict[str, Any], ...] = (
    {"gradient_checkpointing": True},
    {"base_bits": 8},
    {"base_bits": 8, "gradient_checkpointing": True},
    {"base_bits": 4},
    {"base_bits": 4, "gradient_checkpointing": True},
)
"""What needs less memory than 16 bits; 16 bits without anything is in the section before."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured: rounds by number of devices, with their steps of a stage, and how long answers are."""

    devices: Mapping[int, int]
    variants: tuple[dict[str, Any], ...]
    variant_devices: int
    variant_steps: int
    loop_steps: int
    new_tokens: int
    words: int


TRUE = Sizes(
    devices={3: 5, 20: 2},
    variants=VARIANTS,
    variant_devices=3,
    variant_steps=2,
    loop_steps=5,
    new_tokens=64,
    words=ANSWER_TOKENS - 1,
)
TINY = Sizes(
    devices={2: 1},
    variants=(VARIANTS[0], VARIANTS[4]),
    variant_devices=1,
    variant_steps=1,
    loop_steps=1,
    new_tokens=4,
    words=6,
)


def measure(options: Options, report: Report) -> None:
    """Report a round at every number of devices, and at the first one bare loops and the writing of answers."""
    sizes = TINY if options.tiny else TRUE
    with bench(options, sizes) as make:
        with_loops(make(*next(iter(sizes.devices.items()))), sizes, report)
        for n, steps in list(sizes.devices.items())[1:]:
            report(f"N={n}", make(n, steps).round())


def with_loops(federation: PaperFederation, sizes: Sizes, report: Report) -> None:
    """Report a round, and of a party with either language model its bare loop and its answers."""
    report(f"N={federation.plan.n_devices}", federation.round())
    for name, party in federation.parties().items():
        report(f"loop/{name}", against_bare_loop(party, federation.plan, sizes.loop_steps))
        report(f"answers/{name}", answering(party, federation.plan, sizes.new_tokens))


def measure_memory(options: Options, report: Report) -> None:
    """Report a round with every variant that needs less memory; one that fails costs itself alone."""
    sizes = TINY if options.tiny else TRUE
    with bench(options, sizes) as make:
        for changes in sizes.variants:
            name = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in changes.items())
            try:
                report(name, make(sizes.variant_devices, sizes.variant_steps, **changes).round())
            except Exception as error:  # noqa: BLE001  # a library that is not installed, or cannot do it here
                report(name, {"error": one_line(error)})


@contextmanager
def bench(options: Options, sizes: Sizes) -> Iterator[Callable[..., PaperFederation]]:
    """Give what makes federations: `make(n_devices, steps, **fields of the spec)`."""
    registry = Registry.installed()
    info = registry.dataset("vast").info
    samples = Samples.open(info.prepare(DataRequest(None, options.folder, info.options())))
    samples.targets = [lengthened(text, sizes.words) for text in samples.targets]
    slm, llm = tiny_configurations(options.folder) if options.tiny else (None, None)
    fixed = {"profile": "paper", "split": "frame", "rounds": 1, "device": options.device, "slm": slm, "llm": llm}

    def make(n_devices: int, steps: int, **changes: Any) -> PaperFederation:
        spec = RunSpec("ml-ecs", "vast", 1.0, n_devices=n_devices, steps=steps, **fixed, **changes)
        return PaperFederation(resolve(spec, registry), samples, registry, options.folder)

    with random_weights(samples.targets):
        yield make


def lengthened(text: str, words: int) -> str:
    """Return a text over and over until it has so many words; nearly every word is one token."""
    return " ".join(itertools.islice(itertools.cycle(text.split()), words))


class Positions:
    """Counts the positions that language models read; `last` is b, S, and of how many positions logits were asked."""

    def __init__(self) -> None:
        self.read = 0
        self.last = (0, 0, 0)

    def watch(self, backbone: Backbone) -> None:
        """Count what this backbone reads from now on."""

        def count(_module: Any, _args: Any, keywords: Mapping[str, Any]) -> None:
            if keywords.get("use_cache") is not False:  # answers are written with a cache, and are not counted
                return
            b, length, _ = keywords["inputs_embeds"].shape
            self.last = (b, length, keywords.get("logits_to_keep") or length)
            self.read += b * length

        backbone._base.register_forward_pre_hook(count, with_kwargs=True)


class Staged(MlEcs):
    """ML-ECS, whose stages are timed and whose positions are counted."""

    def __init__(self, positions: Positions) -> None:
        super().__init__(MlEcsOptions())
        self.seconds: dict[str, float] = {}
        self.positions: dict[str, int] = {}
        self._counter = positions

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        before = self._counter.read
        with timed(self.seconds, name):
            yield
        self.positions[name] = self.positions.get(name, 0) + self._counter.read - before

    def anchors(self, server: Server, t: int) -> Message:
        """Time the fused representations."""
        with self._stage("anchors"):
            return super().anchors(server, t)

    def align(self, device: Device, t: int) -> None:
        """Time CCL."""
        with self._stage("ccl"):
            super().align(device, t)

    def tune(self, device: Device, t: int) -> None:
        """Time AMT."""
        with self._stage("amt"):
            super().tune(device, t)

    def aggregate(self, server: Server, uploads: Mapping[str, Message], t: int) -> None:
        """Time MMA: what aggregation takes beside SE-CCL."""
        with self._stage("mma"):
            super().aggregate(server, uploads, t)
        for counted in (self.seconds, self.positions):
            counted["mma"] -= counted["se-ccl"]

    def transfer(self, server: Server, t: int) -> None:
        """Time SE-CCL."""
        with self._stage("se-ccl"):
            super().transfer(server, t)


@dataclass(eq=False)
class PaperFederation:
    """A federation that is built and warmed up, and plays one round. The one before must be gone: it needs the room."""

    plan: Plan
    samples: Samples
    registry: Registry
    folder: Path
    built: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        forget()
        with timed(self.built, "seconds"):
            self.federation: Federation = build_federation(self.plan, SEED, self.samples, self.registry)
            self.small: Backbone = self.federation.server.slm.backbone
        self.large: Backbone = self.federation.server.model.backbone
        self._positions = Positions()
        for backbone in (self.small, self.large):
            self._positions.watch(backbone)
        forget()  # quantising needs more than the weights, for a moment; loading a file does not
        self._at_rest = allocated()

    def parties(self) -> dict[str, Party]:
        """Return one party with each of the two language models."""
        return {"slm": self.federation.devices[0], "llm": self.federation.server}

    def round(self) -> dict[str, Any]:
        """Play the round and return what it took."""
        self._warm_up()
        algorithm = Staged(self._positions)
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            host = DeviceHost(self.federation.devices, algorithm, NoEvaluation(), FileTurns(Path(name), "gpu"))
            cell = Cell(
                algorithm=algorithm,
                server=self.federation.server,
                fleet=InProcessFleet(host),
                evaluator=NoEvaluation(),
                key="gpu",
                rounds=1,
                evaluate_all=False,
                server_score=False,
                checkpoint=server_file(Path(name)),
            )
            started = synchronised()
            CellRun(cell).run()
            seconds = synchronised() - started
        return self._found(algorithm, seconds)

    def _warm_up(self) -> None:
        """Let libraries load their kernels, and the two tokenizers be compared, which is done once in a process."""
        steps(self.federation.devices[0], 1)
        MlEcs(MlEcsOptions()).transfer(self.federation.server, 1)
        self.federation.server.start_round(1)
        forget()

    def _found(self, algorithm: Staged, seconds: float) -> dict[str, Any]:
        budget, n = self.plan.training.budget, self.plan.n_devices
        taken = {"ccl": n * budget.public, "amt": n * budget.private, "se-ccl": budget.server}
        stages = {
            name: {"seconds": took, "steps": taken.get(name, 0), "positions": algorithm.positions[name]}
            for name, took in algorithm.seconds.items()
        }
        estimate = estimate_memory(self.plan.profile, n, len(self.samples.manifest.modalities))
        memory = {"at_rest": self._at_rest, "peak": peak(), "estimate": asdict(estimate) | {"total": estimate.total}}
        return {
            "n_devices": n,
            "batch_size": self.plan.training.batch_size,
            "build_seconds": self.built["seconds"],
            "round_seconds": seconds,
            "stages": stages,
            "memory": memory,
        }


def steps(party: Party, count: int) -> None:
    """Take steps of the harness on a party's own data, over all its parts."""
    stage = Stage("benchmark", "private" if party.id != "server" else "server", 1, count, [(party.model, ALL_PARTS)])
    train_stage(party, party.train, stage, supervised_loss(party.model, party.train, party.prompt))
    party.start_round(1)


def against_bare_loop(party: Party, plan: Plan, count: int) -> dict[str, Any]:
    """Return the seconds of a step of the harness and of the bare loop, which alternate, and what the latter reads."""
    positions = Positions()
    positions.watch(party.model.backbone)
    steps(party, 1)
    loop = BareLoop(party, plan, positions.last)
    ours, theirs = [], []
    for _ in range(LOOPS + 1):
        for found, work in ((ours, lambda: steps(party, count)), (theirs, lambda: loop.steps(count))):
            started = synchronised()
            work()
            found.append((synchronised() - started) / count)
    here, there = statistics.median(ours[1:]), statistics.median(theirs[1:])  # the first of each warms up
    return {
        "parameters": party.model.backbone.n_parameters,
        "positions": loop.positions,
        "harness_seconds": here,
        "bare_seconds": there,
        "harness_tokens_s": loop.positions / here,
        "bare_tokens_s": loop.positions / there,
        "share": statistics.median(b / a for a, b in zip(ours[1:], theirs[1:], strict=True)),
    }


class BareLoop:
    """A language model and an adapter under PEFT, trained on inputs like a party's: b, S, and positions with logits."""

    def __init__(self, party: Party, plan: Plan, inputs: tuple[int, int, int]) -> None:
        backbone, (b, length, keep) = party.model.backbone, inputs
        backbone.add_adapter(BARE, plan.profile.lora, SEED, BARE)
        self._backbone, self._parameters = backbone, list(backbone.adapter(BARE).values())
        self._training = party.training
        self.positions = b * length
        device = backbone.torch_device
        self._inputs = torch.randn(b, length, backbone.hidden_size, device=device).to(backbone.settings.dtype)
        self._keep = keep
        self._labels = torch.zeros(b * self._keep, dtype=torch.long, device=device)

    def steps(self, count: int) -> None:
        """Take steps of AdamW on the mean cross-entropy of the answers."""
        self._backbone.activate((BARE,), training=True)
        for parameter in self._parameters:
            parameter.requires_grad_(True)
        optimiser = torch.optim.AdamW(self._parameters, lr=self._training.learning_rates.lora, fused=True)
        dtype = self._backbone.settings.dtype
        for _ in range(count):
            with torch.autocast(self._backbone.torch_device.type, dtype=dtype, enabled=dtype != torch.float32):
                output = self._backbone._peft(inputs_embeds=self._inputs, logits_to_keep=self._keep, use_cache=False)
            loss = torch.nn.functional.cross_entropy(output.logits.float().flatten(0, 1), self._labels)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._parameters, self._training.clip_norm)
            optimiser.step()
        for parameter in self._parameters:
            parameter.requires_grad_(False)
            parameter.grad = None


def answering(party: Party, plan: Plan, new_tokens: int) -> dict[str, Any]:
    """Return the seconds in which a party writes a batch of answers, and the tokens per second of all of them."""
    rows = party.test.rows[: plan.profile.generation_batch]
    batch = party.test.batch(rows)
    party.model.generate(batch, party.prompt, 2)
    started = synchronised()
    party.model.generate(batch, party.prompt, new_tokens)
    seconds = synchronised() - started
    written = len(rows) * new_tokens
    return {"answers": len(rows), "new_tokens": new_tokens, "seconds": seconds, "tokens_s": written / seconds}
