"""How a model is fine-tuned."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from ..common.errors import InputError

PRECISIONS = ("fp32", "bf16")
KEPT = ("last", "best")
_MOST_EPOCHS, _MOST_ROWS, _MOST_STEPS = 10**5, 10**6, 10**9


@dataclass(frozen=True)
class FineTuning:
    """How to fine-tune; the defaults are those of Prasanna et al. (2020) for every task.

    Dropout is as the model's config says, and the model of the last step is kept.

    Raises:
        InputError: a value is out of range.
    """

    epochs: float = 3
    """Passes over the training rows."""
    learning_rate: float = 2e-5
    """At the beginning; it falls linearly to 0."""
    warmup: float = 0.0
    """Share of the steps in which the learning rate rises from 0."""
    adam_epsilon: float = 1e-8
    """AdamW's."""
    weight_decay: float = 0.0
    """AdamW's, on all but biases and norms."""
    batch_size: int = 32
    """Rows per step, of all processes together."""
    max_length: int = 128
    max_grad_norm: float = 1.0
    """A longer gradient is cut to this length."""
    group_by_length: bool = True
    """Whether a batch's rows are of like length, which is faster."""
    precision: str = "fp32"
    """fp32, or bf16 for autocast to bfloat16.

    Weights stay float32.
    """
    max_examples: int | None = None
    """Train on so many rows, the same for every seed. Default: all."""
    seed: int = 0
    """Of the head's first weights, of the order of the rows and of dropout."""
    holdout: float = 0.0
    """Share of the dev rows that nothing is selected on; scores are of these. A search with the same --holdout leaves
    the same ones alone."""
    keep: str = "last"
    """The model of the last epoch, or of the best on the dev rows.

    The earlier of equals; of those dev rows that are selected on.
    """
    checkpoint_steps: int = 500
    """Write a checkpoint after so many steps and every epoch."""
    report_to: tuple[str, ...] = ()
    """The Trainer's reporting integrations: tensorboard, wandb, ..."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "adam_epsilon", "max_grad_norm"):
            self._check(name, 0 < getattr(self, name) < math.inf, "a number above 0")
        self._check("epochs", 0 < self.epochs <= _MOST_EPOCHS, f"a number above 0, {_MOST_EPOCHS} at most")
        self._check("holdout", 0 <= self.holdout < 1, "a share from 0 (none) to below 1")
        self._check("keep", self.keep in KEPT, " or ".join(KEPT))
        self._check(
            "checkpoint_steps",
            1 <= self.checkpoint_steps <= _MOST_STEPS,
            f"a whole number from 1 to {_MOST_STEPS}",
        )
        self._check("weight_decay", 0 <= self.weight_decay < math.inf, "a number from 0 up")
        self._check("warmup", 0 <= self.warmup < 1, "a share from 0 to below 1")
        self._check(
            "batch_size", 1 <= self.batch_size <= _MOST_ROWS, f"a whole number from 1 to {_MOST_ROWS}"
        )
        self._check(
            "max_length", 4 <= self.max_length <= _MOST_ROWS, f"a whole number from 4 to {_MOST_ROWS}"
        )
        self._check("precision", self.precision in PRECISIONS, " or ".join(PRECISIONS))
        self._check("max_examples", self.max_examples is None or self.max_examples >= 1, "at least 1")
        self._check("seed", 0 <= self.seed < 2**32, f"a whole number from 0 to {2**32 - 1}")

    def record(self) -> dict[str, object]:
        """Return what decides the result, ready for JSON."""
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in ("checkpoint_steps", "report_to")
        }

    def _check(self, name: str, right: bool, wanted: str) -> None:
        if not right:
            raise InputError(f"{name}={getattr(self, name)}: give {wanted}.")
