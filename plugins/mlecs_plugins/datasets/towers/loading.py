"""Checkpoints of transformers, loaded whole, quietly and frozen."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mlecs_plugins.datasets.problems import one_line
from mlecs_plugins.datasets.towers.checkpoints import TowerCheckpoint

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

LOAD_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError)
"""What transformers raises for folders that are not what they say."""
LOCAL: Mapping[str, Any] = MappingProxyType({"local_files_only": True, "trust_remote_code": False})
"""How everything is loaded: nothing is fetched, and code that comes with a checkpoint is never run, nor asked about."""
NO_SETTINGS: Mapping[str, Any] = MappingProxyType({})


class quiet_transformers:  # noqa: N801  # it is used like a function
    """Keep transformers from reporting weights of the other half of a checkpoint, which are not needed."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        self._verbosity, self._bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        from transformers.utils import logging

        logging.set_verbosity(self._verbosity)
        if self._bar:
            logging.enable_progress_bar()


def loaded_model(
    checkpoint: TowerCheckpoint,
    model_class: Any,
    device: torch.device,
    unused: str = "pooler.",
    settings: Mapping[str, Any] = NO_SETTINGS,
) -> tuple[Any, bool]:
    """Return a frozen model, and whether it is whole: it may lack weights whose names begin with `unused`.

    Raises UsageError for a checkpoint that lacks any other weight, or that cannot be loaded.
    """
    from safetensors import SafetensorError

    try:
        model, report = model_class.from_pretrained(
            checkpoint.folder, **LOCAL, dtype=torch.float32, output_loading_info=True, **settings
        )
    except (*LOAD_ERRORS, SafetensorError) as error:
        raise checkpoint.unusable(reason(error)) from error
    missing = sorted(key for key in report["missing_keys"] if not key.startswith(unused))
    if missing:
        raise checkpoint.unusable(f"it lacks {len(missing)} weights, such as {missing[0]}")
    return model.requires_grad_(False).eval().to(device), not report["missing_keys"]


def loaded_processor(checkpoint: TowerCheckpoint, read: Callable[..., Any], instead: str = "") -> Any:
    """Return what prepares the inputs of a model; `read` is a from_pretrained, `instead` what to do where it fails."""
    try:
        with warnings.catch_warnings():
            # Without torchvision pictures go through Pillow, which gives what the checkpoints were published with.
            warnings.filterwarnings("ignore", message=".*torchvision.*")
            return read(checkpoint.folder, **LOCAL)
    except LOAD_ERRORS as error:
        raise checkpoint.unusable((not _needs_code(error) and instead) or reason(error)) from error


def reason(error: BaseException) -> str:
    """Return why a checkpoint cannot be loaded."""
    if _needs_code(error):
        return "it needs code of its own (auto_map), which is never run"
    return f"it cannot be loaded ({first_line(error)})"


def _needs_code(error: BaseException) -> bool:
    return "trust_remote_code" in str(error)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text."""
    return one_line((str(error).strip().splitlines() or [type(error).__name__])[0])


def array(embeddings: torch.Tensor) -> Array:
    """Return embeddings (n, d) as float32 on the CPU; maps of one cell, (n, d, 1, 1), lose their last axes."""
    values: Array = embeddings.flatten(1).float().cpu().numpy().astype(np.float32)
    return values
