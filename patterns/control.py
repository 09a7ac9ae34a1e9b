"""The control beside a model: its architecture, with nothing learned."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

from models.anatomy import STRUCTURE, as_configured
from models.common.errors import InputError, UnsupportedModelError
from models.common.files import reason
from models.common.placement import refuse_placed
from models.compaction import compact, kept_of

from .distribution import check_seed

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def redrawn(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """Return a model of the same architecture with its weights drawn anew, as its configuration initialises them.

    An untrained model has patterns too, heterogeneous ones above all: what its heads show comes from architecture,
    tokens and positions, and a ratio says something of what was learned only as far as it differs from this one's.

    Args:
        model: of a supported family; of a compacted one, the same heads and MLPs are left. It is not changed.
        seed: of the draw; PyTorch's own generator stays as it is.

    Returns:
        The base model (no task head), in the model's precision, in evaluation mode, on the same device.

    Raises:
        InputError: the seed is out of range, or the model's weights are offloaded or quantised.
        UnsupportedModelError: the library cannot build such a model from its configuration alone.
    """
    from transformers import AutoModel

    check_seed(seed)
    refuse_placed(model, "A control (the same architecture with its weights redrawn)")
    if getattr(model.config, "quantization_config", None):
        raise InputError(
            "There is no control for a quantised model: its redrawn weights would not be quantised."
        )
    config = copy.deepcopy(model.config)
    kept = kept_of(config)
    if kept is not None:
        delattr(config, STRUCTURE)  # the whole model is built first
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            new = AutoModel.from_config(config, dtype=torch.float32)
        except Exception as error:  # whatever a value of the configuration makes the library stumble on
            raise UnsupportedModelError(
                f"There is no control for this model: one with new weights cannot be built ({reason(error)})."
            ) from error
    if kept is not None:
        new = compact(new, kept, unshare=True)
    as_configured(new)
    if any(not torch.isfinite(parameter).all() for parameter in new.parameters()):
        raise InputError("The configuration's own initialisation gives weights that are not finite.")
    return new.to(device=model.device, dtype=model.dtype).eval()  # pyright: ignore[reportArgumentType, reportCallIssue]
