"""Builds the parties of one cell: the same partition, masks and initial weights for every algorithm of a seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypedDict

import torch
from safetensors.torch import load_file
from torch import nn

from mlecs_bench.data.partition import Masks, Part, Partition, draw_masks, partition, rates_of
from mlecs_bench.data.samples import PartyData, Samples
from mlecs_bench.doors.hookspecs import Needs
from mlecs_bench.doors.profile import LoraSettings, Profile
from mlecs_bench.errors import UsageError
from mlecs_bench.federation.parties import Budget, Device, Server, Training
from mlecs_bench.models.backbone import AnyBackbone, Backbone
from mlecs_bench.models.connector import Connector, ConnectorSizes
from mlecs_bench.models.encoders import build_encoder
from mlecs_bench.models.loading import BaseSettings
from mlecs_bench.models.outline import BackboneOutline
from mlecs_bench.models.texts import Texts
from mlecs_bench.models.unified import DOMAIN, UnifiedModel, check_length
from mlecs_bench.plan.spec import RunSpec
from mlecs_bench.plan.structure import Structure, check_structures, structures
from mlecs_bench.seeds import torch_stream


@dataclass(frozen=True)
class Federation:
    """One cell's parties and how they came about.

    `structures` are the devices'; `random_encoders` names the modalities, by party, whose encoders start at random
    although the profile has pretrained ones for the dataset: their shapes do not fit.
    """

    server: Server
    devices: tuple[Device, ...]
    partition: Partition
    masks: Masks
    structures: Mapping[str, Structure]
    random_encoders: Mapping[str, Sequence[str]]


def build_federation(
    spec: RunSpec, seed: int, samples: Samples, profile: Profile, *, needs: Needs, outline: bool = False
) -> Federation:
    """Return server and devices of one seed. `spec` is resolved; `needs` are the algorithm's.

    With `outline` the models have shapes but no values (torch's meta device), and no stage has a step: such a
    federation exchanges messages of the true shapes without any weights. Raises UsageError when the devices'
    structures do not suit the algorithm.
    """
    manifest = samples.manifest
    groups, strata = samples.column("group"), samples.column("stratum")
    cut = partition(groups, strata, str(spec.split), spec.n_devices, seed)
    rates = rates_of(spec.rho, manifest.modality_names)
    masks = draw_masks(rates, spec.n_devices, seed, spec.min_modalities)
    devices_structure = structures(spec, profile, needs)
    check_structures(devices_structure, needs, profile)
    device = torch.device("meta") if outline else torch_device(spec.device or profile.device)
    factory = ModelFactory(samples, profile, seed, device, spec.proxy)
    training = training_settings(spec, profile, needs)
    if outline:
        training = dataclasses.replace(training, budget=Budget(private=0, public=0, server=0))
    builder = _Builder(factory, needs, training, cut)
    devices = tuple(
        builder.device(id_, structure, part, held)
        for (id_, structure), part, held in zip(devices_structure.items(), cut.devices, masks.devices, strict=True)
    )
    server = builder.server(devices, {id_: structure.rank for id_, structure in devices_structure.items()})
    if not outline:
        factory.check_lengths(devices[0].prompt)
    return Federation(server, devices, cut, masks, devices_structure, factory.random_encoders)


@dataclass(frozen=True)
class _Builder:
    """Puts parties together from models and data."""

    factory: ModelFactory
    needs: Needs
    training: Training
    cut: Partition

    def _own(self, name: str, part: Part, held: Sequence[str]) -> _OwnWithoutModel:
        samples = self.factory.samples
        suffix = self.needs.prompt_suffix
        return {
            "train": PartyData(samples, part.train, held, name),
            "test": PartyData(samples, part.test, held, name),
            "prompt": f"{samples.manifest.prompt} {suffix}" if suffix else samples.manifest.prompt,
            "proxy": self.factory.proxy(name) if self.needs.proxy else None,
        }

    def device(self, name: str, structure: Structure, part: Part, held: Sequence[str]) -> Device:
        return Device(
            name,
            self.factory.seed,
            self.training,
            model=self.factory.device_model(name, structure, held),
            public=PartyData(self.factory.samples, self.cut.public.train, held, name),
            **self._own(name, part, held),
        )

    def server(self, devices: Sequence[Device], ranks: Mapping[str, int]) -> Server:
        everything = self.factory.samples.manifest.modality_names
        return Server(
            self.factory.seed,
            self.training,
            model=self.factory.server_model(),
            make_slm=lambda: self.factory.server_slm(max(ranks.values())),
            devices={d.id: d.modalities for d in devices},
            ranks=ranks,
            **self._own("server", self.cut.public, everything),
        )


class _OwnWithoutModel(TypedDict):
    train: PartyData
    test: PartyData
    prompt: str
    proxy: UnifiedModel | None


class ModelFactory:
    """Makes unified models whose initial weights depend on the seed and the part alone, never on the party.

    Each language model is loaded once: one for all devices that name it and for the server's SLM, one for the
    server's model, and one for all proxies, since a proxy is trained together with its party's model. On the meta
    device models are outlines: shapes without weights, and without texts.
    """

    def __init__(
        self, samples: Samples, profile: Profile, seed: int, device: torch.device, proxy: str | None = None
    ) -> None:
        self.samples = samples
        self.seed = seed
        self.random_encoders: dict[str, list[str]] = {}
        self._profile = profile
        self._proxy_source = proxy or profile.slm
        self._device = device
        self._backbones: dict[tuple[str, str], tuple[AnyBackbone, Texts]] = {}
        self._pretrained = load_file(profile.encoders) if profile.encoders else {}

    def _backbone(self, use: str, source: str) -> tuple[AnyBackbone, Texts]:
        """Return the backbone at `source` for a use ("device", "server", "proxy"), loaded once."""
        if (use, source) not in self._backbones:
            if self._device.type == "meta":
                outline = BackboneOutline(source)
                self._backbones[use, source] = outline, Texts(outline.tokenizer, 0, self._device)
            else:
                backbone = Backbone(source, self._base_settings())
                self._backbones[use, source] = backbone, Texts(backbone.tokenizer, backbone.eos_id, self._device)
        return self._backbones[use, source]

    def _base_settings(self) -> BaseSettings:
        profile = self._profile
        dtype = getattr(torch, profile.dtype)
        return BaseSettings(self._device, dtype, profile.base_bits, profile.gradient_checkpointing)

    def device_model(self, name: str, structure: Structure, modalities: Sequence[str]) -> UnifiedModel:
        """Return the unified model of a device that holds `modalities`."""
        return self._model(name, "device", structure, modalities)

    def server_slm(self, rank: int) -> UnifiedModel:
        """Return the server's omni-modal model of the devices' kind, with an adapter of `rank`."""
        structure = Structure(self._profile.slm, rank, self._profile.encoder_width)
        return self._model("server-slm", "device", structure, self.samples.manifest.modality_names)

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
        backbone.add_adapter(name, at_rank(self._profile.lora, structure.rank), self.seed, use)
        return UnifiedModel({"lora": name}, backbone, texts, encoders, connector)

    def _placed(self) -> AbstractContextManager[object]:
        """Give the context in which weights are drawn: on the CPU, so that they do not depend on the device."""
        return torch.device("meta" if self._device.type == "meta" else "cpu")

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
            encoder = build_encoder(manifest.modality(modality), width)
        prefix = f"{manifest.name}/{modality}/"
        pretrained = {k.removeprefix(prefix): t for k, t in self._pretrained.items() if k.startswith(prefix)}
        own = {k: t.shape for k, t in encoder.state_dict().items()}
        if own == {k: t.shape for k, t in pretrained.items()}:
            if self._device.type != "meta":
                encoder.load_state_dict(pretrained)
        elif pretrained:
            self.random_encoders.setdefault(owner, []).append(modality)
        return encoder

    def check_lengths(self, prompt: str) -> None:
        """Raise UsageError when texts do not fit the positions of a backbone that is in use."""
        for backbone, texts in self._backbones.values():
            longest = max(texts.longest_answer(self.samples.targets), self.samples.manifest.max_new_tokens)
            check_length(backbone, texts, (prompt, longest), self._profile.soft_tokens)


def at_rank(settings: LoraSettings, rank: int) -> LoraSettings:
    """Return the settings at another rank; alpha / r stays, so that an update weighs the same at every rank."""
    return dataclasses.replace(settings, rank=rank, alpha=settings.alpha * rank / settings.rank)


def training_settings(spec: RunSpec, profile: Profile, needs: Needs) -> Training:
    """Return the training settings; q = steps of one stage.

    Budget "paper": every algorithm takes q private steps per round, those with a public stage q more on the public
    data. Budget "equal": those without take 2q private steps, so the total is the same.
    """
    q = spec.steps or profile.steps
    public = q if needs.public_stage else 0
    private = q if needs.public_stage or spec.budget == "paper" else 2 * q
    if not needs.private_stage:
        private = 0
    return Training(
        learning_rates=profile.learning_rates,
        batch_size=profile.batch_size,
        clip_norm=profile.clip_norm,
        weight_decay=profile.weight_decay,
        budget=Budget(private=private, public=public, server=q, setup=needs.setup_steps),
        rounds=spec.rounds or profile.rounds,
        server_trains_encoders=profile.server_trains_encoders,
    )


def torch_device(name: str) -> torch.device:
    """Return the torch device called `name`; raises UsageError when it is unknown or not there."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"unknown device '{name}'; use cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise UsageError(f"device '{name}' was asked for but torch sees {torch.cuda.device_count()} GPUs; use cpu")
    return device
