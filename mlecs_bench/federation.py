"""Builds the parties of one cell: the same partition, masks and initial weights for every algorithm of a seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from safetensors.torch import load_file
from torch import nn

from mlecs_bench.data import PartyData, Samples
from mlecs_bench.errors import UsageError
from mlecs_bench.models.backbone import Backbone
from mlecs_bench.models.connector import Connector, ConnectorSizes
from mlecs_bench.models.encoders import build_encoder
from mlecs_bench.models.texts import Texts
from mlecs_bench.models.unified import UnifiedModel
from mlecs_bench.parties import Budget, Device, Server, Training
from mlecs_bench.partition import Masks, Part, Partition, draw_masks, partition, rates_of
from mlecs_bench.profiles import Profile
from mlecs_bench.seeds import torch_stream
from mlecs_bench.spec import RunSpec


@dataclass(frozen=True)
class Federation:
    """One cell's parties and how they came about."""

    server: Server
    devices: tuple[Device, ...]
    partition: Partition
    masks: Masks


def device_id(j: int) -> str:
    """Return the id of device j; ids sort in the order of j."""
    return f"d{j:02d}"


def build_federation(spec: RunSpec, seed: int, samples: Samples, profile: Profile, *, public_stage: bool) -> Federation:
    """Return server and devices of one seed. `spec` is resolved; `public_stage` says what the algorithm trains on."""
    manifest = samples.manifest
    groups, strata = samples.column("group"), samples.column("stratum")
    cut = partition(groups, strata, str(spec.split), spec.n_devices, seed)
    rates = rates_of(spec.rho, manifest.modality_names)
    masks = draw_masks(rates, spec.n_devices, seed, spec.min_modalities)
    factory = ModelFactory(samples, profile, seed, torch_device(spec.device or profile.device))
    training = training_settings(spec, profile, public_stage)
    devices = tuple(
        _device(device_id(j), (part, cut.public), held, factory, training)
        for j, (part, held) in enumerate(zip(cut.devices, masks.devices, strict=True))
    )
    everything = manifest.modality_names
    server = Server(
        seed,
        training,
        model=factory.server_model(),
        make_twin=factory.twin,
        train=PartyData(samples, cut.public.train, everything, "server"),
        test=PartyData(samples, cut.public.test, everything, "server"),
        devices={d.id: d.modalities for d in devices},
    )
    factory.check_lengths([d.model for d in devices] + [server.model])
    return Federation(server, devices, cut, masks)


def _device(
    name: str, parts: tuple[Part, Part], held: Sequence[str], factory: ModelFactory, training: Training
) -> Device:
    private, public = parts
    return Device(
        name,
        factory.seed,
        training,
        model=factory.device_model(name, held),
        train=PartyData(factory.samples, private.train, held, name),
        test=PartyData(factory.samples, private.test, held, name),
        public=PartyData(factory.samples, public.train, held, name),
    )


class ModelFactory:
    """Makes unified models whose initial weights depend on the seed and the part alone, never on the party.

    One SLM backbone serves all devices and the server's twin, one LLM backbone the server's model.
    """

    def __init__(self, samples: Samples, profile: Profile, seed: int, device: torch.device) -> None:
        self.samples = samples
        self.seed = seed
        self._profile = profile
        dtype = getattr(torch, profile.dtype)
        self._slm = Backbone(profile.slm, device, dtype)
        self._llm = Backbone(profile.llm, device, dtype)
        self._slm_texts = Texts(self._slm.tokenizer, self._slm.eos_id, device)
        self._llm_texts = Texts(self._llm.tokenizer, self._llm.eos_id, device)
        self._pretrained = load_file(profile.encoders) if profile.encoders else {}

    def device_model(self, name: str, modalities: Sequence[str]) -> UnifiedModel:
        """Return the unified model of a device that holds `modalities`."""
        return self._model(name, self._slm, self._slm_texts, modalities, "device")

    def twin(self) -> UnifiedModel:
        """Return the server's omni-modal model of the devices' kind."""
        return self._model("server-slm", self._slm, self._slm_texts, self.samples.manifest.modality_names, "device")

    def server_model(self) -> UnifiedModel:
        """Return the server's omni-modal model with the LLM."""
        return self._model("server", self._llm, self._llm_texts, self.samples.manifest.modality_names, "server")

    def _model(self, name: str, backbone: Backbone, texts: Texts, modalities: Sequence[str], side: str) -> UnifiedModel:
        profile = self._profile
        sizes = ConnectorSizes(
            encoder=profile.encoder_width,
            hidden=profile.hidden_width,
            fused=profile.fused_width,
            soft_tokens=profile.soft_tokens,
            backbone=backbone.hidden_size,
            dropout=profile.connector_dropout,
        )
        held = [m for m in self.samples.manifest.modality_names if m in modalities]
        encoders = nn.ModuleDict({m: self._encoder(m) for m in held})
        connector = Connector(held, sizes, self._streams(side))
        backbone.add_adapter(name, profile.lora, self.seed)
        return UnifiedModel(name, backbone, texts, encoders, connector)

    def _streams(self, side: str) -> Callable[[str], AbstractContextManager[None]]:
        return lambda part: torch_stream(self.seed, "init", side, part)

    def _encoder(self, modality: str) -> nn.Module:
        """Return an encoder: pretrained where the profile has weights for it, else drawn from the seed."""
        manifest = self.samples.manifest
        spec = manifest.modality(modality)
        with torch_stream(self.seed, "init", "encoder", modality):
            encoder = build_encoder(spec, self._profile.encoder_width)
        prefix = f"{manifest.name}/{modality}/"
        pretrained = {k.removeprefix(prefix): t for k, t in self._pretrained.items() if k.startswith(prefix)}
        own = {k: t.shape for k, t in encoder.state_dict().items()}
        if own == {k: t.shape for k, t in pretrained.items()}:
            encoder.load_state_dict(pretrained)
        return encoder

    def check_lengths(self, models: Sequence[UnifiedModel]) -> None:
        """Raise UsageError when texts do not fit a backbone's positions."""
        manifest = self.samples.manifest
        for texts in (self._slm_texts, self._llm_texts):
            longest = max(texts.longest_answer(self.samples.targets), manifest.max_new_tokens)
            for model in models:
                if model.texts is texts:
                    model.check_length(manifest.prompt, longest)


def training_settings(spec: RunSpec, profile: Profile, public_stage: bool) -> Training:
    """Return the training settings; q = steps of one stage.

    Budget "paper": every algorithm takes q private steps per round, those with a public stage q more on the public
    data. Budget "equal": those without take 2q private steps, so the total is the same.
    """
    q = spec.steps or profile.steps
    public = q if public_stage else 0
    private = q if public_stage or spec.budget == "paper" else 2 * q
    return Training(
        learning_rates=profile.learning_rates,
        batch_size=profile.batch_size,
        clip_norm=profile.clip_norm,
        weight_decay=profile.weight_decay,
        budget=Budget(private=private, public=public, server=q),
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
