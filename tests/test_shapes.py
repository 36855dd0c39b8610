"""Shapes in signatures are held against every call while tests run, and cost nothing outside of them."""

from __future__ import annotations

import subprocess
import sys

import jaxtyping
import pytest
import torch

from mlecs_bench.blocks.gram import contrastive_loss
from mlecs_bench.blocks.transfer import pooled_kl
from mlecs_bench.models.connector import Connector, ConnectorSizes
from mlecs_bench.models.unified import Representation
from mlecs_bench.seeds import torch_stream


def test_a_call_with_another_shape_or_type_than_its_signature_is_refused():
    connector = Connector(["a"], ConnectorSizes(4, 5, 6, 2, 7, 0.0), lambda part: torch_stream(0, part))
    assert connector.soft_prompt(torch.zeros(3, 6)).shape == (3, 2, 7)
    ones = torch.ones
    for call in (
        lambda: pooled_kl(ones(2, 9), ones(3, 9), "topk", 2, None),
        lambda: pooled_kl(ones(2, 9), ones(2, 9), "topk", 2, torch.ones(9)),
        lambda: contrastive_loss(ones(2, 4), ones(2, 1, 5), 1.0),
        lambda: connector.soft_prompt(torch.zeros(3, 6, 1)),
        lambda: connector.fuse({"a": torch.zeros(3, dtype=torch.int64)}),
        lambda: Representation({"a": ones(3, 5)}, {"a": ones(4, dtype=torch.bool)}, None),
    ):
        with pytest.raises(jaxtyping.TypeCheckError):
            call()


def test_outside_of_tests_no_function_is_wrapped_and_no_checker_is_imported():
    code = """
import sys
from mlecs_bench.blocks import alignment, gram, mutual, supervised, transfer
from mlecs_bench.models import unified
functions = [gram.contrastive_loss, transfer.transfer_loss, unified.UnifiedModel.supervise]
assert not any(hasattr(function, "__wrapped__") for function in functions)
assert "beartype" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
