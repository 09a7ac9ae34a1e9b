"""What a model answers while some of its heads are closed: their outputs are zero, their mean, or another input's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from models.anatomy import anatomy_of
from models.common.errors import InputError
from models.common.placement import home_of
from models.evaluation import Examples
from models.gating import Instead, gated, head_outputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Bools = npt.NDArray[np.bool_]

Outputs = dict[int, torch.Tensor]
"""By layer, what stands for the outputs of its heads: ``[H * d_head]``, or ``[B, n, H * d_head]``."""
Prepared = Callable[[Sequence[int], torch.Tensor], Outputs | None]
"""Called with a batch's positions in the examples and its attention mask ``[B, n]``; None stands for zeros."""


@dataclass(frozen=True)
class Way:
    """What the output of a closed head is."""

    prepare: Callable[[PreTrainedModel, Examples, int, int], Prepared]
    """From a model, its examples, a batch size and a seed."""
    words: str


def _zero(model: PreTrainedModel, examples: Examples, batch_size: int, seed: int) -> Prepared:
    return lambda positions, attention: None


def _mean(model: PreTrainedModel, examples: Examples, batch_size: int, seed: int) -> Prepared:
    """The mean of a head's output over all tokens, padding left out, of all inputs, nothing being closed."""
    means: dict[int, torch.Tensor] = {}
    tokens = 0
    for _, batch in examples.batches(batch_size, device=home_of(model)):
        real = batch["attention_mask"].bool()
        tokens += int(real.sum())
        for layer, outputs in _outputs(model, batch).items():
            sums = outputs[real].cpu().double().sum(dim=0)  # some devices have no double precision
            means[layer] = means[layer] + sums if layer in means else sums
    found = {layer: total / tokens for layer, total in means.items()}
    return lambda positions, attention: found


def _resample(model: PreTrainedModel, examples: Examples, batch_size: int, seed: int) -> Prepared:
    """Each input has another one, drawn at random, whose outputs take the place of its own, token by token."""
    if len(examples) < 2:
        raise InputError(
            "--how resample takes outputs from another input, but there is one; give more examples."
        )
    donors = _derangement(len(examples), np.random.default_rng([seed, len(examples)]))

    def prepared(positions: Sequence[int], attention: torch.Tensor) -> Outputs:
        others = [int(donors[position]) for position in positions]
        given = replace(
            examples, encoded=[examples.encoded[i] for i in others], targets=examples.targets[others]
        )
        ((_, batch),) = given.batches(len(others), device=home_of(model), in_order=True)
        places = _aligned(attention.sum(dim=1), batch["attention_mask"].sum(dim=1), attention.shape[1])
        rows = torch.arange(len(others), device=attention.device)[:, None]
        return {layer: outputs[rows, places] for layer, outputs in _outputs(model, batch).items()}

    return prepared


WAYS: Mapping[str, Way] = {
    "zero": Way(_zero, "zero, as a pruned head's (Michel et al. 2019)"),
    "mean": Way(
        _mean,
        "its mean over all tokens of all inputs that are scored, one vector a head, whatever the position (mean "
        "ablation, as Wang et al. 2022 have it)",
    ),
    "resample": Way(
        _resample,
        "its output on another input, drawn at random, the same for all sets of heads (Chan et al. 2022): the first "
        "token's stands for the first, the last one's for the last, those between in proportion",
    ),
}
"""By the name of ``--how``; one more is an entry here."""


def _derangement(number: int, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """Return an order of so many in which none is at its own place: a circle through all, at random."""
    order = rng.permutation(number)
    found = np.empty(number, dtype=np.intp)
    found[order] = np.roll(order, 1)
    return found


def _aligned(lengths: torch.Tensor, others: torch.Tensor, n: int) -> torch.Tensor:
    """Return for each of n tokens ``[B, n]`` the place in the other input that stands for it."""
    spread = (others - 1) / (lengths - 1).clamp(min=1)
    places = (torch.arange(n, device=lengths.device) * spread[:, None]).round().long()
    return places.minimum((others - 1)[:, None])


def _outputs(model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> Outputs:
    """Return the outputs of all heads on a batch."""
    found: Outputs = {}
    given = {name: tensor for name, tensor in batch.items() if name != "labels"}
    with torch.inference_mode(), head_outputs(model, lambda layer, outputs: found.update({layer: outputs})):
        model(**given)
    return found


class Closing:
    """Closes heads of one model on some examples.

    Args:
        model: with its classification head, in evaluation mode; of a compacted one, heads have their old numbers.
        examples: to answer.
        how: one of :data:`WAYS`.
        batch_size: rows per forward pass.
        seed: of the inputs that others' outputs are taken from.

    Raises:
        InputError: unknown way, a batch without rows, or too few examples.
        UnsupportedModelError: the model's family is not supported.
    """

    def __init__(
        self, model: PreTrainedModel, examples: Examples, how: str, batch_size: int = 32, seed: int = 0
    ) -> None:
        check_way(how)
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size}: give at least 1.")
        self._model, self._examples, self._batch_size = model, examples, batch_size
        anatomy = anatomy_of(model)
        self._shape = (anatomy.n_layers, anatomy.n_heads)
        self._instead = WAYS[how].prepare(model, examples, batch_size, seed)

    def answers(
        self, sets: Bools, done: Callable[[int], object] = lambda number: None
    ) -> npt.NDArray[np.float32]:
        """Return the model's outputs ``[K, N, C]`` while each of K sets of heads is closed.

        A forward pass has rows of several sets, each with gates of its own.

        Args:
            sets: ``[K, L, H]``, true where the head is closed.
            done: called with how many rows were answered, after each pass.

        Raises:
            InputError: sets of another model.
        """
        if sets.shape[1:] != self._shape:
            raise InputError(f"The sets have {sets.shape[1:]} heads, but the model has {self._shape}.")
        home, examples = home_of(self._model), self._examples
        gates = torch.as_tensor(~sets, dtype=self._model.dtype, device=home)
        touched: Bools = np.asarray(sets.any(axis=(0, 2)))
        found = np.empty((len(sets), len(examples), len(examples.classes)), dtype=np.float32)
        for positions, batch in examples.batches(max(1, self._batch_size // len(sets)), device=home):
            inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
            outputs = self._instead(positions, batch["attention_mask"])
            for start in range(0, len(sets), self._batch_size):
                some = gates[start : start + self._batch_size]
                logits = self._pass(inputs, some, outputs, touched)  # [B * K, C]
                found[start : start + len(some), positions] = logits.reshape(
                    len(positions), len(some), -1
                ).transpose(1, 0, 2)
                done(len(positions) * len(some))
        return found

    def _pass(
        self, inputs: Mapping[str, torch.Tensor], gates: torch.Tensor, outputs: Outputs | None, touched: Bools
    ) -> npt.NDArray[np.float32]:
        """Answer each row of inputs ``[B, n]`` once for each of the gates ``[K, L, H]``."""
        number, rows = len(gates), len(next(iter(inputs.values())))

        def instead(layer: int) -> torch.Tensor | None:
            if outputs is None or not touched[layer]:
                return None
            given = outputs[layer]
            return given if given.ndim == 1 else given.repeat_interleave(number, dim=0)

        other: Instead | None = None if outputs is None else instead
        with (
            torch.inference_mode(),
            gated(self._model, heads=gates.repeat(rows, 1, 1), instead=other),
        ):
            repeated = {name: tensor.repeat_interleave(number, dim=0) for name, tensor in inputs.items()}
            return np.asarray(self._model(**repeated).logits.float().cpu().numpy())


def check_way(how: str) -> None:
    """Refuse what is none of :data:`WAYS`.

    Raises:
        InputError: saying which there are.
    """
    if how not in WAYS:
        raise InputError(f"--how {how}: give one of {', '.join(WAYS)}.")
