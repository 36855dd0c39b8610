"""Devices that cannot serve are refused before anything starts."""

from __future__ import annotations

import pytest
import torch

from mlecs_bench.errors import UsageError
from mlecs_bench.models.placement import check_dtype, torch_device


def test_devices_that_cannot_serve_are_refused_with_what_to_use():
    assert torch_device("cpu").type == "cpu"
    for name, expected in (
        ("mps", "device 'mps' knows no float64, in which volumes and averages are computed; use cpu"),
        ("meta", "device 'meta' is not supported; use cpu, cuda or cuda:N"),
        ("xpu", "device 'xpu' is not supported; use cpu, cuda or cuda:N"),
        ("gpu", "unknown device 'gpu'; use cpu, cuda or cuda:N"),
    ):
        with pytest.raises(UsageError) as caught:
            torch_device(name)
        assert str(caught.value) == expected


def test_bfloat16_is_refused_on_a_gpu_that_only_emulates_it(monkeypatch):
    asked = []

    def supported(including_emulation: bool = True) -> bool:
        asked.append(including_emulation)
        return including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla V100")
    monkeypatch.setattr(torch.cuda, "device", lambda _: pytest.MonkeyPatch.context())
    with pytest.raises(UsageError) as caught:
        check_dtype(torch.device("cuda", 0), "bfloat16")
    assert str(caught.value) == "Tesla V100 does not compute bfloat16; give --dtype float16 or --dtype float32"
    assert asked == [False]
    check_dtype(torch.device("cuda", 0), "float16")
    check_dtype(torch.device("cpu"), "bfloat16")  # every CPU computes it
    assert asked == [False]
