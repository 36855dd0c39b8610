"""The server's fused representations s'(t): the anchors of the devices' contrastive loss (Algorithm 1, l. 3)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mlecs_bench.api import AccessError, Device, Message, Server, UsageError, with_kind

CHUNK = 256


@torch.no_grad()
def fuse_public(server: Server) -> Float[Tensor, "n d_s"]:
    """Return s'(t) = f_u({h(m)}) (Eq. 9) of all n public training samples, in evaluation mode."""
    server.model.switch(training=False)
    rows = server.train.rows
    chunks = [server.train.batch(rows[i : i + CHUNK]) for i in range(0, len(rows), CHUNK)]
    fused = [server.model.represent(batch).fused for batch in chunks]
    return torch.cat([f for f in fused if f is not None])


def anchor_message(server: Server, t: int) -> Message:
    """Return what carries the anchors: `fused/public` (n, d_s), and in round 1 the sample ids (n,) as integers."""
    tensors = {"fused/public": fuse_public(server)}
    if t == 1:
        tensors |= with_kind("ids", {"public": torch.from_numpy(server.train.rows.copy())})
    return Message(tensors)


def keep_anchors(device: Device, message: Message) -> None:
    """Remember the anchors and, when they come, the ids they belong to."""
    for name in ("fused/public", "ids/public"):
        if name in message.tensors:
            device.memory[name] = message.tensors[name].clone()


def anchors_for(device: Device, rows: Int64[np.ndarray, " b"]) -> Float[Tensor, "b d_s"]:
    """Return the anchors of public samples `rows`, paired by sample id.

    Raises AccessError when the server sent none for one of them, UsageError when d_s differs from d_h.
    """
    ids, fused = device.memory["ids/public"].numpy(), device.memory["fused/public"]
    order = np.argsort(ids)
    found = order[np.clip(np.searchsorted(ids, rows, sorter=order), 0, len(ids) - 1)]
    if not np.array_equal(ids[found], rows):
        missing = int(rows[ids[found] != rows][0])
        raise AccessError(f"{device.id} has no anchor for public sample {missing}; the server must send one for each")
    hidden = device.model.connector.sizes.hidden
    if fused.shape[1] != hidden:
        raise UsageError(f"a volume needs vectors of one width, got d_s = {fused.shape[1]} and d_h = {hidden}")
    return fused[torch.from_numpy(found)].to(device.model.backbone.torch_device, non_blocking=True)
