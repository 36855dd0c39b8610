"""Checks of an encoder plugin: shapes, gradients, and that it can be drawn, saved, averaged and outlined."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from mlecs_bench.data.samples import Modality
from mlecs_bench.doors.hookspecs import EncoderInfo
from mlecs_bench.seeds import torch_generator, torch_stream
from mlecs_bench.testing.bits import differing
from mlecs_bench.testing.card_checks import check_texts
from mlecs_bench.testing.global_state import global_state, global_streams
from mlecs_bench.testing.verdict import fail

if TYPE_CHECKING:
    from torch import Tensor, nn

SHAPES = {1: (7,), 2: (12, 6), 3: (10, 9, 3), 4: (4, 10, 9, 3), 5: (2, 4, 10, 9, 3)}
"""The shape of a sample with so many axes."""
DTYPES = ("int64", "uint8", "float32")
"""From the most special to the most general: what takes integers may need them, and most take numbers."""
SAMPLES, DIM = 5, 8
SAME = 1e-5
"""How far features may be apart that a kernel computes for another number of samples."""


@dataclass(frozen=True)
class Encoding:
    """The encoder under test, and a modality that it reads."""

    name: str
    info: EncoderInfo

    def build(self, dim: int = DIM, seed: int = 1) -> nn.Module:
        """Return a fresh encoder; its weights come from torch's stream."""
        with torch_stream(seed, "testing", "encoder"):
            return self.info.build(self.modality, dim)

    @cached_property
    def modality(self) -> Modality:
        """A modality of the first type of values with which the encoder runs; raises what the last one raised."""
        for dtype in DTYPES[:-1]:
            try:
                self._runs(self._modality(dtype))
            except Exception:  # noqa: BLE001, S112  # it wants another type of values
                continue
            return self._modality(dtype)
        self._runs(self._modality(DTYPES[-1]))
        return self._modality(DTYPES[-1])

    def _modality(self, dtype: str) -> Modality:
        name: Any = self.name
        kind: Any = dtype
        return Modality("signal", SHAPES[self.info.axes], kind, name, "made on the spot")

    def _runs(self, modality: Modality) -> None:
        with torch_stream(1, "testing", "encoder"), torch.no_grad():
            self.info.build(modality, DIM)(self.inputs(1, modality))

    def inputs(self, n: int = SAMPLES, modality: Modality | None = None) -> Tensor:
        """Return n samples, (n, *shape)."""
        found = modality or self.modality
        generator = torch_generator(3, "testing", "inputs")
        if found.dtype == "float32":
            return torch.randn(n, *found.shape, generator=generator)
        return torch.randint(1, 9, (n, *found.shape), generator=generator, dtype=getattr(torch, found.dtype))


def card(encoding: Encoding) -> None:
    """The card has title and summary, and says how many axes a sample has."""
    check_texts({"title": encoding.info.title, "summary": encoding.info.summary})
    if encoding.info.axes not in SHAPES:
        fail(
            f"axes is a whole number from 1 to {max(SHAPES)}",
            f"it is {encoding.info.axes!r}",
            "count those of a sample",
        )


def shape(encoding: Encoding) -> None:
    """A batch (b, *shape) becomes finite float32 features (b, dim), for any b and dim."""
    for n, dim in ((1, DIM), (SAMPLES, DIM), (SAMPLES, 3 * DIM)):
        features = encoding.build(dim)(encoding.inputs(n))
        if tuple(features.shape) != (n, dim) or features.dtype != torch.float32:
            happened = f"{n} samples became {tuple(features.shape)} of {features.dtype}"
            fail(f"features are float32 ({n}, {dim})", happened, "end in a layer with `dim` outputs, on float32")
        if not bool(torch.isfinite(features).all()):
            fail("features are finite", "they hold NaN or infinity", "look for a division by what can be 0")


def gradients(encoding: Encoding) -> None:
    """Every weight gets a gradient."""
    encoder = encoding.build()
    features = encoder(encoding.inputs())
    weights = torch.randn(features.shape, generator=torch_generator(4, "testing", "weights"))
    (features * weights).sum().backward()
    for name, parameter in encoder.named_parameters():
        gradient = parameter.grad
        if gradient is None or not bool(torch.isfinite(gradient).all()) or not bool(gradient.any()):
            happened = f"'{name}' has {'none' if gradient is None else 'zeros or what is not finite'}"
            fail("every weight gets a gradient", happened, "leave out what is not used; nothing may cut the graph")


def float32_weights(encoding: Encoding) -> None:
    """Weights are float32 and trainable; there are some."""
    parameters = dict(encoding.build().named_parameters())
    if not parameters:
        fail("an encoder has weights to train", "it has none", "add a layer")
    for name, parameter in parameters.items():
        if parameter.dtype != torch.float32 or not parameter.requires_grad:
            fail("all that is trained is float32", f"'{name}' is {parameter.dtype}, or frozen", "leave both to torch")


def drawn_from_the_stream(encoding: Encoding) -> None:
    """Initial weights come from torch's current stream alone, and other global streams stay as they are."""
    with global_streams(1):
        first = encoding.build().state_dict()
    with global_streams(2):
        before = global_state()
        second = encoding.build().state_dict()
        moved = [name for name, value in global_state().items() if value != before[name]]
    wanted, advice = "weights are drawn from torch's current stream", "let torch's layers draw them"
    if differing(first, second):
        fail(wanted, "two encoders from one stream differ", advice)
    if not differing(first, encoding.build(seed=2).state_dict()):
        fail(wanted, "another stream gives the same weights", advice)
    if moved:
        fail("an encoder leaves what others share as it was", f"building it moved {moved[0]}", advice)


def no_running_statistics(encoding: Encoding) -> None:
    """Nothing in the encoder follows the data but by gradients."""
    encoder = encoding.build()
    encoder.train()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    encoder(encoding.inputs())
    changed = sorted(differing(before, encoder.state_dict()))
    if changed:
        advice = "use GroupNorm or LayerNorm: a buffer that follows one device's data survives no average"
        fail("an encoder keeps no running statistics", f"'{changed[0]}' changed without a step", advice)


def samples_apart(encoding: Encoding) -> None:
    """The features of a sample do not depend on the others of its batch."""
    encoder, inputs = encoding.build().eval(), encoding.inputs()
    with torch.no_grad():
        together, alone = encoder(inputs), torch.cat([encoder(inputs[i : i + 1]) for i in range(SAMPLES)])
    apart = float((together - alone).abs().max())
    if apart > SAME:
        happened = f"features differ by {apart:.2g} when a sample is encoded alone"
        fail("samples of a batch do not see each other", happened, "normalise within a sample")


def saved_and_loaded(encoding: Encoding) -> None:
    """Another encoder that loads its state gives the same features."""
    one, other, inputs = encoding.build().eval(), encoding.build(seed=2).eval(), encoding.inputs()
    other.load_state_dict(one.state_dict())
    with torch.no_grad():
        if not torch.equal(one(inputs), other(inputs)):
            fail("the state is all there is", "features differ after load_state_dict", "keep tensors as parameters")


def outlined(encoding: Encoding) -> None:
    """It can be built on torch's meta device, with the same shapes: so `mlecs-bench comm` counts without weights."""
    modality = encoding.modality
    with torch.device("meta"):
        outline = encoding.info.build(modality, DIM).state_dict()
    one, other = _shapes(outline.items()), _shapes(encoding.build().state_dict().items())
    if one != other:
        happened = f"the outline has {sorted(set(one) ^ set(other))[:1] or 'other shapes'}"
        fail("an outline has the shapes of the encoder", happened, "let shapes depend on modality and dim alone")


def frozen_tower(encoding: Encoding) -> None:
    """The network of its tower, if it makes one, embeds pictures of its size, each alone, and names tensors by text."""
    tower = encoding.info.tower
    if tower is None:
        return
    with torch_stream(1, "testing", "tower"):
        network = tower.build().eval()
    pictures = torch.randn(2, 3, tower.size, tower.size, generator=torch_generator(3, "testing", "pictures"))
    with torch.no_grad():
        together, alone = network(pictures), torch.cat([network(picture[None]) for picture in pictures])
    if together.dim() != 2 or len(together) != 2 or not bool(torch.isfinite(together).all()):
        happened = f"two pictures became {tuple(together.shape)}"
        fail("embeddings of a tower are finite (b, d)", happened, "pool over the last map, and end before a classifier")
    if float((together - alone).abs().max()) > SAME * max(1.0, float(together.abs().max())):
        fail("pictures of a batch do not see each other", "embeddings differ", "normalise by fixed statistics")
    unnamed = [name for name in network.state_dict() if not isinstance(tower.key(name), str | None)]
    if unnamed:
        fail("`key` gives a name or None", f"'{unnamed[0]}' gave something else", "return the network's own name")


def _shapes(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors}


ENCODER_CHECKS = (
    card,
    shape,
    gradients,
    float32_weights,
    drawn_from_the_stream,
    no_running_statistics,
    samples_apart,
    saved_and_loaded,
    outlined,
    frozen_tower,
)
