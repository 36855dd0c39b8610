"""The contract of mlecs-bench, and what fedprox promises beyond it."""

from types import SimpleNamespace

import torch
from mlecs_bench.api import Message
from mlecs_bench.testing import parametrize_with_checks

from mlecs_fedprox import mlecs_algorithm


@parametrize_with_checks("fedprox")
def test_contract(check):
    check()


def test_a_device_weighs_as_much_as_its_samples():
    info, received = mlecs_algorithm(), {}
    server = SimpleNamespace(slm=SimpleNamespace(load_part=lambda part, tensors: received.update({part: tensors})))
    uploads = {
        "d00": Message({"lora/w": torch.tensor([0.0])}, {"n_j": 1}),
        "d01": Message({"lora/w": torch.tensor([4.0])}, {"n_j": 3}),
    }
    info.build(info.options()).aggregate(server, uploads, t=1)
    assert received["lora"]["w"].item() == (1 * 0.0 + 3 * 4.0) / 4
