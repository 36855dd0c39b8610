"""ML-ECS: the round of Algorithm 1, each step a method of its own that an ablation can override."""

from __future__ import annotations

from collections.abc import Mapping

from mlecs_bench.api import Device, Message, Server, minimise, with_kind
from mlecs_plugins.ml_ecs import amt, ccl, mma, se_ccl
from mlecs_plugins.ml_ecs.anchors import anchor_message, keep_anchors
from mlecs_plugins.ml_ecs.options import MlEcsOptions


class MlEcs:
    """One exchange per round: the SLM's LoRA that Algorithm 1 sends at the end of round t (l. 15) rides with the
    fused representations of round t + 1 (l. 3). Round 1 sends no LoRA, since every party starts from the same; the
    last broadcast sends nothing else.
    """

    def __init__(self, options: MlEcsOptions) -> None:
        self.options = options

    def broadcast(self, server: Server, t: int) -> Mapping[str, Message]:
        """Send s'(t) of the public samples and φ^slm to every device."""
        tensors = {} if server.is_last_broadcast(t) else dict(self.anchors(server, t).tensors)
        if t > 1:
            tensors |= with_kind("lora", server.slm.part("lora"))
        return {id_: Message(tensors) for id_ in server.devices}

    def receive(self, device: Device, message: Message, t: int) -> None:
        """Overwrite φ_j with φ^slm (l. 18) and keep the anchors."""
        lora = message.of_kind("lora")
        if lora:
            device.model.load_part("lora", lora)
        keep_anchors(device, message)

    def local_update(self, device: Device, t: int) -> Message:
        """CCL on D'_j, then AMT on D_j (l. 6-7); send φ_j and |M_j| (l. 8)."""
        self.align(device, t)
        self.tune(device, t)
        device.memory.pop("fused/public", None)
        return Message(with_kind("lora", device.model.part("lora")), {"num_modalities": len(device.modalities)})

    def aggregate(self, server: Server, uploads: Mapping[str, Message], t: int) -> None:
        """MMA into φ^slm (l. 11-13), then SE-CCL (l. 14)."""
        merged = mma.merge(uploads, self.weights(uploads))
        if merged:
            server.slm.load_part("lora", merged)
        self.transfer(server, t)

    def anchors(self, server: Server, t: int) -> Message:
        """Return what carries the fused representations s'(t)."""
        return anchor_message(server, t)

    def align(self, device: Device, t: int) -> None:
        """CCL (section 3.1)."""
        minimise(device, ccl.objective(device, t, self.options))

    def tune(self, device: Device, t: int) -> None:
        """AMT (section 3.2)."""
        minimise(device, amt.objective(device, t, self.options))

    def weights(self, uploads: Mapping[str, Message]) -> dict[str, float]:
        """Weights of MMA before normalisation (Eq. 13)."""
        return mma.modality_weights(uploads)

    def transfer(self, server: Server, t: int) -> None:
        """SE-CCL (section 3.4)."""
        minimise(server, se_ccl.objective(server, t, self.options))
