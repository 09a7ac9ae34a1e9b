"""How much the loss depends on each head and each MLP."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
import torch

from models.common.errors import InputError
from models.common.placement import home_of
from models.common.progress import progress_bar, timed
from models.common.results import Tabular
from models.evaluation import losses
from models.gating import gated
from models.subnetwork import Subnetwork

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from transformers import PreTrainedModel

Floats = npt.NDArray[np.float64]


class _MeanAbsolute:
    """The mean over examples of ``|d loss(x) / d gate|`` (Michel et al. 2019, eq. 3)."""

    def __init__(self, gate: torch.Tensor) -> None:
        self._total = torch.zeros(gate.shape, dtype=torch.float64, device=gate.device)

    def add(self, gradients: torch.Tensor) -> None:
        self._total += gradients.abs().sum(dim=0, dtype=torch.float64)

    def value(self, examples: int) -> torch.Tensor:
        return self._total / examples


class _AsReleased:
    """What the published code computes.

    It takes the gradient of each batch's mean loss, never zeroes it, and sums the absolute running sums, so that signs
    cancel and order matters.
    """

    def __init__(self, gate: torch.Tensor) -> None:
        self._total = torch.zeros(gate.shape, dtype=torch.float64, device=gate.device)
        self._running = torch.zeros_like(self._total)

    def add(self, gradients: torch.Tensor) -> None:
        self._running += gradients.mean(dim=0, dtype=torch.float64)
        self._total += self._running.abs()

    def value(self, examples: int) -> torch.Tensor:
        return self._total


class GateGradients(Protocol):
    """What is made of the gradients of a gate."""

    def __init__(self, gate: torch.Tensor) -> None:
        """Begin, with a gate ``[L, H]`` or ``[L]``."""

    def add(self, gradients: torch.Tensor) -> None:
        """Take those of a batch, ``[B, L, H]`` or ``[B, L]``, one of each example's own loss."""

    def value(self, examples: int) -> torch.Tensor:
        """Return the importance, like the gate in shape, after so many examples."""
        ...


@dataclass(frozen=True)
class Criterion:
    """What decides which heads and MLPs go first."""

    gradients: type[GateGradients]
    in_order: bool = False
    """Whether the order of the examples and the size of a batch matter."""
    gated: bool = False
    """Whether what is pruned is gated to zero, and measured on, instead of taken out."""
    of_kept: bool = True
    """Whether what goes next is decided by the subnetwork that it goes from, and compared with what is left alone."""


CRITERIA: Mapping[str, Criterion] = {
    "corrected": Criterion(_MeanAbsolute),
    "as-released": Criterion(_AsReleased, in_order=True, gated=True, of_kept=False),
}
"""By the name of the protocol; one more is an entry here."""


@dataclass(frozen=True, eq=False)
class Importance(Tabular):
    """Importance of each head and MLP of a model, NaN for what is not there."""

    heads: Floats
    """``[L, H]``."""
    mlps: Floats
    """``[L]``."""
    examples: int
    """Number of examples it was measured on."""
    loss: float
    """Mean loss over these examples."""
    logits: npt.NDArray[np.float32]
    """``[N, C]``: what the model answered in the same pass, in the order of the batches."""

    def to_frame(self) -> pd.DataFrame:
        """Return a row a head and MLP that is there: ``component, layer, head`` (-1 for an MLP)``, importance``."""
        import pandas as pd

        rows = [("head", layer, head, value) for (layer, head), value in np.ndenumerate(self.heads)]
        rows += [("mlp", layer, -1, value) for (layer,), value in np.ndenumerate(self.mlps)]
        frame = pd.DataFrame(rows, columns=["component", "layer", "head", "importance"])
        return frame[frame["importance"].notna()].reset_index(drop=True)

    def plot(self) -> Figure:
        """Draw a layer x head grid, and the MLPs beside it, each from 0 to its own largest."""
        from .figures import importance_grid

        return importance_grid(self.heads, self.mlps)

    def normalized(self) -> Importance:
        """Make heads comparable over layers, as Michel et al. (2019) and Prasanna et al. (2020) do.

        Each layer's heads are divided by their L2 norm, then all heads are scaled to [0, 1]; MLPs are scaled to
        [0, 1] without the former. Where all are alike they become 0. What is not there counts for nothing.
        """
        norms = np.sqrt(np.nansum(self.heads**2, axis=1, keepdims=True))
        return replace(self, heads=_scaled(self.heads / (norms + 1e-20)), mlps=_scaled(self.mlps))

    def of(self, subnetwork: Subnetwork) -> Importance:
        """Return the same with NaN for what `subnetwork` does not keep."""
        return replace(
            self,
            heads=np.where(subnetwork.heads, self.heads, np.nan),
            mlps=np.where(subnetwork.mlps, self.mlps, np.nan),
        )


def _scaled(values: Floats) -> Floats:
    known = values[np.isfinite(values)]
    if not len(known):
        return values
    low, high = known.min(), known.max()
    return (values - low) / (high - low if high > low else 1.0)


@timed(lambda found: f"importance measured on {found.examples:,} examples")
def head_importance(
    model: PreTrainedModel,
    batches: Iterable[Mapping[str, torch.Tensor]],
    *,
    subnetwork: Subnetwork | None = None,
    protocol: str = "corrected",
    progress: bool = False,
) -> Importance:
    """Return the mean over examples of ``|d loss(x) / d gate|`` for every head and MLP (Michel et al. 2019, eq. 3).

    Each example has its own gates, so that one backward pass of the summed loss gives every example's own gradient,
    and the result does not depend on the batch size. The weights are frozen meanwhile: no gradients of theirs are
    computed.

    Args:
        model: with a classification head (or one output: squared error), in evaluation mode; it may be compacted,
            then what was removed is NaN.
        batches: inputs padded on the right, with ``labels [B]``: class ids, or scores.
        subnetwork: gate everything else to zero; its gradient is measured all the same (use :meth:`Importance.of`).
        protocol: one of :data:`CRITERIA`: ``corrected``; or ``as-released``, with what the published code makes of
            gradients.
        progress: show a progress bar on stderr.

    Raises:
        InputError: no batch, no labels, a model in training mode or without a classification head, an unknown
            protocol, a subnetwork of another model, or a loss that is not finite.
        UnsupportedModelError: the model's family is not supported.
    """
    if protocol not in CRITERIA:
        raise InputError(f"protocol={protocol!r}: give {' or '.join(CRITERIA)}.")
    if model.training:
        raise InputError(
            "The model is in training mode, so its loss is after dropout; call model.eval() first."
        )
    full = Subnetwork.full(model)
    shape = full.heads.shape
    if subnetwork is not None and subnetwork.heads.shape != shape:
        raise InputError(f"The subnetwork has {subnetwork.heads.shape} heads, but the model has {shape}.")
    left = subnetwork or full
    home = home_of(model)
    open_gates = [
        torch.as_tensor(mask.copy(), dtype=model.dtype, device=home) for mask in (left.heads, left.mlps)
    ]
    totals = [CRITERIA[protocol].gradients(gate) for gate in open_gates]
    answers: list[torch.Tensor] = []
    loss_sum, examples = 0.0, 0
    with _frozen(model):
        for batch in progress_bar(batches, what="importance", unit="batch", shown=progress):
            inputs = dict(batch)
            if (labels := inputs.pop("labels", None)) is None:
                raise InputError("Importance is a gradient of the loss: each batch needs 'labels'.")
            gates = [gate.expand(len(labels), *gate.shape).clone().requires_grad_() for gate in open_gates]
            logits, each, gradients = _gradients(model, inputs, labels, gates)
            for total, gradient in zip(totals, gradients, strict=True):
                if gradient is not None:  # else nothing of that sort is left
                    total.add(gradient)
            answers.append(logits.detach().float().cpu())
            loss_sum += float(each.detach().double().sum())
            examples += len(labels)
    if not examples:
        raise InputError("Importance needs at least one example; there is none.")
    heads, mlps = (total.value(examples).cpu().numpy() for total in totals)
    found = Importance(heads, mlps, examples, loss_sum / examples, torch.cat(answers).numpy())
    return found.of(full)


def _gradients(
    model: PreTrainedModel,
    inputs: Mapping[str, torch.Tensor],
    labels: torch.Tensor,
    gates: Sequence[torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor | None, ...]]:
    """Return the logits ``[B, C]`` and losses ``[B]`` of a batch, and their sum's gradients by the gates.

    A gradient is None where nothing of that sort is left.
    """
    with gated(model, *gates):
        output = model(**inputs)
    logits = getattr(output, "logits", None)
    if logits is None or logits.ndim != 2:
        raise InputError(
            f"{type(model).__name__} has no classification head; load a fine-tuned model with its head."
        )
    each = losses(logits, labels)
    if not bool(each.isfinite().all()):
        raise InputError("The loss is not finite: the model's weights are broken or overflow.")
    if not each.requires_grad:  # nothing is left to have an importance
        return logits, each, (None, None)
    return logits, each, torch.autograd.grad(each.sum(), gates, allow_unused=True)


@contextmanager
def _frozen(model: PreTrainedModel) -> Iterator[None]:
    """Ask for no gradients of the weights, and afterwards for those that were asked for before."""
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
