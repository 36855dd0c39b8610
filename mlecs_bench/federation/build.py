"""Builds the parties of one cell: the same partition, masks and initial weights for every algorithm of a seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypedDict

import torch
from safetensors.torch import load_file
from torch import nn

from mlecs_bench.data.exported import ExportedSamples
from mlecs_bench.data.kinds import sample_kinds, sequence_kinds
from mlecs_bench.data.partition import (
    Columns,
    Masks,
    Part,
    Partition,
    deal,
    draw_exact_masks,
    draw_masks,
    given_masks,
    limit_tests,
    limited,
    rates_of,
)
from mlecs_bench.data.parts import Sequences
from mlecs_bench.data.presence import thinning
from mlecs_bench.data.samples import PartyData, PooledData, Samples, Sight
from mlecs_bench.data.schedules import Rounds, Schedule, as_told, duty, in_round, markov, static
from mlecs_bench.doors.profile import Profile
from mlecs_bench.errors import UsageError, did_you_mean
from mlecs_bench.federation.device import Device
from mlecs_bench.federation.server import Server
from mlecs_bench.models.backbone import AnyBackbone, Backbone
from mlecs_bench.models.connector import Connector, ConnectorSizes
from mlecs_bench.models.encoders import build_encoder, encoders_of
from mlecs_bench.models.loading import BaseSettings
from mlecs_bench.models.outline import BackboneOutline
from mlecs_bench.models.placement import torch_device
from mlecs_bench.models.texts import Texts
from mlecs_bench.models.unified import DOMAIN, UnifiedModel, check_length
from mlecs_bench.plan.conditions import departing
from mlecs_bench.plan.plan import Plan
from mlecs_bench.plan.structure import Structure, canonical_devices
from mlecs_bench.plan.training import Budget, Training
from mlecs_bench.seeds import torch_stream

if TYPE_CHECKING:
    from mlecs_bench.doors.hookspecs import EncoderInfo
    from mlecs_bench.doors.registry import Registry

SERVER_SLM = "server-slm"
"""The adapter of the server's model of the devices' kind."""


@dataclass(frozen=True)
class Layout:
    """Who holds what in one seed: the cut of the samples, the modalities that devices are dealt, and those by round."""

    partition: Partition
    masks: Masks
    schedule: Schedule


def lay_out(plan: Plan, seed: int, samples: Samples) -> Layout:
    """Return the layout of a seed: of the samples their groups and strata decide it, and the columns a law looks at."""
    cut = samples.export.cut if isinstance(samples, ExportedSamples) else cut_samples(plan, seed, samples)
    masks = deal_modalities(plan, seed, samples.manifest.modality_names)
    return Layout(cut, masks, schedule_modalities(plan, seed, masks))


def cut_samples(plan: Plan, seed: int, samples: Samples) -> Partition:
    """Return the rows of all parties, with no more than the plan's most of each."""
    cut = deal(columns_of(plan, samples), plan.split, plan.n_devices, seed, plan.conditions.partition.dealing)
    cut = limited(cut, plan.profile.private_limit, plan.profile.public_limit, seed)
    return limit_tests(cut, plan.profile.test_limit, seed)


def columns_of(plan: Plan, samples: Samples) -> Columns:
    """Return what the partition of a plan depends on; raises UsageError for groups by a column that there is not."""
    asked = plan.conditions.partition
    groups, strata = samples.column("group"), samples.column("stratum")
    kinds: Sequence[str] = ()
    owners: Sequence[str] = ()
    if asked.looks_at_kinds:
        labels = samples.manifest.task == "classification"
        kinds = (
            sample_kinds(samples.targets, labels=labels, n_clusters=asked.clusters)
            if plan.split == "frame"
            else sequence_kinds(samples.targets, Sequences.of(groups, strata), labels=labels, n_clusters=asked.clusters)
        )
    if asked.law == "group":
        known = [name for name in samples.column_names if name not in samples.manifest.modality_names]
        if asked.by not in known:
            raise UsageError(f"partition group:{asked.by} names no column of the data. {did_you_mean(asked.by, known)}")
        owners = ["" if owner is None else str(owner) for owner in samples.column(asked.by)]
    return Columns(groups, strata, kinds, owners)


def deal_modalities(plan: Plan, seed: int, modalities: Sequence[str]) -> Masks:
    """Return which modalities the devices of a seed hold, by the law of the plan."""
    holding = plan.conditions.modalities
    if holding.law == "given":
        told = canonical_devices(holding.devices, plan.n_devices, "modalities")
        return given_masks([told.get(id_, modalities) for id_ in plan.device_ids], modalities)
    draw = draw_exact_masks if holding.law == "exact" else draw_masks
    return draw(rates_of(plan.rho, modalities), plan.n_devices, seed, plan.min_modalities)


def schedule_modalities(plan: Plan, seed: int, masks: Masks) -> Schedule:
    """Return which modalities the devices of a seed hold in which round, by the law of the plan."""
    scheduled, dealt = plan.conditions.schedule, masks.devices
    drawn = {"rounds": plan.rounds, "seed": seed, "least": plan.min_modalities}
    if scheduled.law == "markov":
        return markov(dealt, scheduled.fail, scheduled.repair, **drawn)
    if scheduled.law == "duty":
        return duty(dealt, scheduled.on, scheduled.off, **drawn)
    if scheduled.law == "given":
        told = canonical_devices(scheduled.devices, plan.n_devices, "schedule")
        by_number = {plan.device_ids.index(id_): {int(t): held for t, held in of.items()} for id_, of in told.items()}
        return as_told(dealt, by_number, plan.rounds)
    return static(dealt)


@dataclass(frozen=True)
class Federation:
    """All parties of one cell in one process, and how they came about."""

    plan: Plan
    server: Server
    devices: tuple[Device, ...]
    layout: Layout
    random_encoders: Mapping[str, Sequence[str]]


def build_federation(
    plan: Plan, seed: int, samples: Samples, registry: Registry, *, outline: bool = False
) -> Federation:
    """Return server and devices of one seed, as `Builder` makes them."""
    builder = Builder(plan, seed, samples, registry, outline=outline)
    devices = tuple(map(builder.device, plan.device_ids))
    server = builder.server()
    builder.check_lengths()
    return Federation(plan, server, devices, builder.layout, builder.random_encoders)


class Builder:
    """Puts the parties of one seed together, each when it is asked for, on backbones that they share.

    With `outline` the models have shapes but no values (torch's meta device), and no stage has a step: such parties
    exchange messages of the true shapes without any weights.
    """

    def __init__(self, plan: Plan, seed: int, samples: Samples, registry: Registry, *, outline: bool = False) -> None:
        self.plan = plan
        self.seed = seed
        self.layout = lay_out(plan, seed, samples)
        # Every party may see the public part, so all of them can scale alike, and no test sample has a say in it.
        self.samples = samples.standardised(self.layout.partition.public.train)
        self.sample_rates: Mapping[str, float] = {}
        if plan.conditions.sample_rho.departs:
            self._thin()
        self._outline = outline
        place = torch.device("meta") if outline else torch_device(plan.torch_device)
        encoders = encoders_of(samples.manifest.modalities, registry)
        self._factory = ModelFactory(samples, plan.profile, seed, place, encoders, plan.proxy)

    def _thin(self) -> None:
        """Let the samples of devices lack modalities, at the rates of the plan; public samples stay whole."""
        rates = self.plan.conditions.sample_rho.by_modality(self.samples.manifest.modality_names)
        cut, masks = self.layout.partition, self.layout.masks
        fill = self.plan.min_modalities > 0
        drawn = thinning(self.samples, cut.devices, masks.devices, rates, self.seed, fill=fill)
        self.samples, self.sample_rates = self.samples.thinned(drawn.absent), drawn.shares

    @property
    def random_encoders(self) -> Mapping[str, Sequence[str]]:
        """By party, the modalities whose encoders start at random although the profile has pretrained ones.

        Their shapes do not fit.
        """
        return self._factory.random_encoders

    def _training(self, private: int, pool: PartyData | None) -> Training:
        """Return the training of a party with so many private samples, which only the layout knows."""
        training = self.plan.training
        if self._outline:
            return dataclasses.replace(training, budget=Budget(0, 0, 0), counts="steps")
        return training.in_steps(private, len(self.layout.partition.public.train), 0 if pool is None else len(pool))

    def _own(self, name: str, part: Part, sight: Sight, private: int, rounds: Rounds) -> _OwnWithoutModel:
        """Return what any party has; one with a pool gets another in every round where modalities come and go."""
        pool, pools = None, None
        if self.plan.needs.pool:
            pool = self._pool(name, sight, in_round(rounds, 1), 1)
            pools = partial(self._pool_of_round, name, sight, private, rounds) if self._drifts else None
        return {
            "train": PartyData(self.samples, part.train, sight, name),
            "test": PartyData(self.samples, part.test, sight, name),
            "prompt": self.prompt,
            "proxy": self._factory.proxy(name) if self.plan.needs.proxy else None,
            "pool": pool,
            "pools": pools,
        }

    @property
    def _drifts(self) -> bool:
        """Do modalities come and go in this run, whatever its seed makes of it?"""
        return bool(departing(self.plan.conditions.schedule))

    @property
    def prompt(self) -> str:
        """The prompt that is put to every party: the data's, with what the algorithm puts behind it."""
        prompt, suffix = self.samples.manifest.prompt, self.plan.needs.prompt_suffix
        return f"{prompt} {suffix}" if suffix else prompt

    def device(self, id_: str) -> Device:
        """Return one device."""
        j = self.plan.device_ids.index(id_)
        cut, rounds = self.layout.partition, self.layout.schedule.devices[j]
        sight, private = Sight(self.layout.schedule.ever(j), in_round(rounds, 1)), len(cut.devices[j].train)
        own = self._own(id_, cut.devices[j], sight, private, rounds)
        return Device(
            id_,
            self.seed,
            self._training(private, own["pool"]),
            model=self._factory.device_model(id_, self.plan.structures[id_], sight.ever),
            public=PartyData(self.samples, cut.public.train, sight, id_),
            rounds=rounds if self._drifts else (),
            **own,
        )

    def dismiss(self, device: Device) -> None:
        """Take a device off the backbones that it shares with others; it cannot be used any more."""
        models = [device.model, device.proxy] if self.plan.needs.proxy else [device.model]
        for model in models:
            for adapter in model.adapters.values():
                model.backbone.remove_adapter(adapter)

    def server(self) -> Server:
        """Return the server."""
        everything = self.samples.manifest.modality_names
        ranks = {id_: structure.rank for id_, structure in self.plan.structures.items()}
        rounds = dict(zip(self.plan.device_ids, self.layout.schedule.devices, strict=True))
        own = self._own("server", self.layout.partition.public, Sight(everything), 0, (everything,))
        return Server(
            self.seed,
            self._training(0, own["pool"]),
            model=self._factory.server_model(),
            make_slm=partial(self._factory.server_slm, max(ranks.values())),
            devices={id_: in_round(of, 1) for id_, of in rounds.items()},
            ranks=ranks,
            rounds=rounds if self._drifts else {},
            **own,
        )

    def _pool_of_round(
        self, name: str, sight: Sight, private: int, rounds: Rounds, t: int
    ) -> tuple[PooledData, Training]:
        """Return the pool of a party in round t, and its training, which may count passes over that pool."""
        pool = self._pool(name, sight, in_round(rounds, t), t)
        return pool, self._training(private, pool)

    def _pool(self, name: str, sight: Sight, held: Sequence[str], t: int) -> PooledData:
        """Return the training samples of all parties through the modalities in `held`, as they are in round t.

        What the party that a sample comes from lacks is missing; a sample of which nothing is left is left out. Raises
        UsageError where the data are those of one party.
        """
        if isinstance(self.samples, ExportedSamples):
            owner = self.samples.export.party
            raise UsageError(
                f"{name} needs the data of all parties, and here are those of {owner} alone; use the whole"
            )
        cut, everything, schedule = self.layout.partition, self.samples.manifest.modality_names, self.layout.schedule
        owners = [(cut.public, everything), *((part, schedule.held(j, t)) for j, part in enumerate(cut.devices))]
        shares = []
        for part, owned in owners:
            common = [m for m in held if m in owned]
            if common or not held:
                shares.append(PartyData(self.samples, part.train, common, name))
        return PooledData(self.samples, shares, name, sight.ever)

    def check_lengths(self) -> None:
        """Raise UsageError when texts do not fit the positions of a backbone that is in use."""
        if not self._outline:
            ranked = self.samples.manifest.labels if self.plan.ranks else ()
            self._factory.check_lengths(self.prompt, ranked)


class _OwnWithoutModel(TypedDict):
    train: PartyData
    test: PartyData
    prompt: str
    proxy: UnifiedModel | None
    pool: PartyData | None
    pools: Callable[[int], tuple[PartyData, Training]] | None


class ModelFactory:
    """Makes unified models whose initial weights depend on the seed and the part alone, never on the party.

    Each language model is loaded once: one for all devices that name it and for the server's SLM, one for the
    server's model, and one for all proxies, since a proxy is trained together with its party's model. On the meta
    device models are outlines: shapes without weights, and without texts.
    """

    def __init__(
        self,
        samples: Samples,
        profile: Profile,
        seed: int,
        torch_device: torch.device,
        encoders: Mapping[str, EncoderInfo],
        proxy: str | None = None,
    ) -> None:
        self.samples = samples
        self.seed = seed
        self.random_encoders: dict[str, list[str]] = {}
        self._profile = profile
        self._proxy_source = proxy or profile.slm
        self._torch_device = torch_device
        self._encoders = encoders
        self._backbones: dict[tuple[str, str], tuple[AnyBackbone, Texts]] = {}
        self._pretrained = load_file(profile.encoders) if profile.encoders else {}

    def _backbone(self, use: str, source: str) -> tuple[AnyBackbone, Texts]:
        """Return the backbone at `source` for a use ("device", "server", "proxy"), loaded once."""
        if (use, source) not in self._backbones:
            if self._torch_device.type == "meta":
                outline = BackboneOutline(source)
                self._backbones[use, source] = outline, Texts(outline.tokenizer, 0, self._torch_device)
            else:
                backbone = Backbone(source, self._base_settings())
                self._backbones[use, source] = backbone, Texts(backbone.tokenizer, backbone.eos_id, self._torch_device)
        return self._backbones[use, source]

    def _base_settings(self) -> BaseSettings:
        profile = self._profile
        dtype = getattr(torch, profile.dtype)
        return BaseSettings(self._torch_device, dtype, profile.base_bits, profile.gradient_checkpointing)

    def device_model(self, name: str, structure: Structure, modalities: Sequence[str]) -> UnifiedModel:
        """Return the unified model of a device that holds `modalities`."""
        return self._model(name, "device", structure, modalities)

    def server_slm(self, rank: int) -> UnifiedModel:
        """Return the server's omni-modal model of the devices' kind, with an adapter of `rank`."""
        structure = Structure(self._profile.slm, rank, self._profile.encoder_width)
        return self._model(SERVER_SLM, "device", structure, self.samples.manifest.modality_names)

    def server_model(self) -> UnifiedModel:
        """Return the server's omni-modal model with the LLM."""
        structure = Structure(self._profile.llm, self._profile.lora.rank, self._profile.encoder_width)
        return self._model("server", "server", structure, self.samples.manifest.modality_names)

    def proxy(self, name: str) -> UnifiedModel:
        """Return a party's proxy: no encoders, two adapters of the profile's rank on the one proxy backbone."""
        backbone, texts = self._backbone("proxy", self._proxy_source)
        with self._placed():
            connector = Connector((), self._sizes(backbone, self._profile.encoder_width), self._streams("proxy"))
        adapters = {"lora": f"{name}-proxy", DOMAIN: f"{name}-{DOMAIN}"}
        for part, adapter in adapters.items():
            backbone.add_adapter(adapter, self._profile.lora, self.seed, f"proxy-{part}")
        return UnifiedModel(adapters, backbone, texts, nn.ModuleDict(), connector)

    def _model(self, name: str, use: str, structure: Structure, modalities: Sequence[str]) -> UnifiedModel:
        backbone, texts = self._backbone(use, structure.slm)
        held = [m for m in self.samples.manifest.modality_names if m in modalities]
        with self._placed():
            encoders = nn.ModuleDict({m: self._encoder(m, structure.encoder_width, name) for m in held})
            connector = Connector(held, self._sizes(backbone, structure.encoder_width), self._streams(use))
        backbone.add_adapter(name, self._profile.lora.at_rank(structure.rank), self.seed, use)
        return UnifiedModel({"lora": name}, backbone, texts, encoders, connector)

    def _placed(self) -> AbstractContextManager[object]:
        """Give the context in which weights are drawn: on the CPU, so that they do not depend on the device."""
        return torch.device("meta" if self._torch_device.type == "meta" else "cpu")

    def _sizes(self, backbone: AnyBackbone, encoder_width: int) -> ConnectorSizes:
        profile = self._profile
        return ConnectorSizes(
            encoder=encoder_width,
            hidden=profile.hidden_width,
            fused=profile.fused_width,
            soft_tokens=profile.soft_tokens,
            backbone=backbone.hidden_size,
            dropout=profile.connector_dropout,
        )

    def _streams(self, use: str) -> Callable[[str], AbstractContextManager[None]]:
        return lambda part: torch_stream(self.seed, "init", use, part)

    def _encoder(self, modality: str, width: int, owner: str) -> nn.Module:
        """Return an encoder: pretrained where the profile has weights that fit, else drawn from the seed."""
        manifest = self.samples.manifest
        with torch_stream(self.seed, "init", "encoder", modality):
            own_modality = manifest.modality(modality)
            encoder = build_encoder(own_modality, width, self._encoders[own_modality.encoding])
        prefix = f"{manifest.name}/{modality}/"
        pretrained = {k.removeprefix(prefix): t for k, t in self._pretrained.items() if k.startswith(prefix)}
        own = {k: t.shape for k, t in encoder.state_dict().items()}
        if own == {k: t.shape for k, t in pretrained.items()}:
            if self._torch_device.type != "meta":
                encoder.load_state_dict(pretrained)
        elif pretrained:
            self.random_encoders.setdefault(owner, []).append(modality)
        return encoder

    def check_lengths(self, prompt: str, ranked: Sequence[str] = ()) -> None:
        """Raise UsageError when texts do not fit the positions of a backbone that is in use.

        `ranked` are labels that models are asked for the probability of.
        """
        answers = [*self.samples.targets, *ranked]
        for backbone, texts in self._backbones.values():
            longest = max(texts.longest_answer(answers), self.samples.manifest.max_new_tokens)
            check_length(backbone, texts, (prompt, longest), self._profile.soft_tokens)
