"""A fine-tuned model's outputs and losses on rows of a task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from .checkpoints import Checkpoint
from .common.errors import InputError
from .common.progress import progress_bar
from .tasks import metrics
from .tasks.inputs import Encoded, as_texts, batches, feed
from .tasks.rows import Row, class_ids, row_number, targets_of
from .tasks.task import Task, task_named

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, eq=False)
class Examples:
    """Rows of a task as one model reads them, with their targets."""

    task: Task
    encoded: list[Encoded]
    targets: npt.NDArray[Any]
    """``[N]`` int64 class ids of the model, or float32 numbers."""
    classes: tuple[int, ...]
    """For each of the task's labels in its order, the model's class id."""
    pad_token_id: int
    """The model's own."""
    inputs: Mapping[str, object] = field(default_factory=dict)
    """What a result says of how the rows were fed; see :class:`models.tasks.inputs.Fed`."""
    warnings: tuple[str, ...] = ()
    """What a reader has to know of the model and of these inputs' tokens."""

    def __len__(self) -> int:
        return len(self.encoded)

    def batches(
        self,
        batch_size: int,
        pad_token_id: int | None = None,
        device: torch.device | str = "cpu",
        in_order: bool = False,
    ) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
        """Yield ``(positions in the rows, model inputs [B, n] with labels [B])``, longest first.

        Args:
            batch_size: inputs per batch.
            pad_token_id: the model's own if None; a decoder finds the last token by it.
            device: where the tensors are made.
            in_order: keep the rows' order, as the experiments of Prasanna et al. (2020) do.

        Raises:
            InputError: `batch_size` is less than 1.
        """
        pad = self.pad_token_id if pad_token_id is None else pad_token_id
        targets = torch.as_tensor(self.targets, device=device)
        for positions, batch in batches(self.encoded, batch_size, pad, device, in_order):
            # Where the padding's id is high, another token stands in its place; a decoder's head would miss it.
            batch["input_ids"].masked_fill_(batch["attention_mask"] == 0, pad)
            yield positions, {**batch, "labels": targets[positions]}

    def scores(self, logits: npt.ArrayLike) -> dict[str, float]:
        """Score the model's outputs ``[N, C]``, in the order of the rows: see :func:`models.tasks.metrics.scores`."""
        return metrics.scores(self.task, logits, self.targets, classes=self.classes)

    def doubts(self, logits: npt.ArrayLike) -> list[str]:
        """Return what makes it doubtful that the outputs mean what they are taken for: see :func:`metrics.doubts`."""
        return metrics.doubts(self.task, logits, self.targets, self.classes)


def examples_of(
    checkpoint: Checkpoint,
    task: str | Task,
    rows: Sequence[Row],
    max_length: int = 128,
    source: str = "rows",
) -> Examples:
    """Tokenise rows and look up their labels.

    Args:
        checkpoint: loaded for the task.
        task: whose rows they are, or its name.
        rows: with labels.
        max_length: tokens, special tokens included; longer inputs are cut.
        source: what to call the rows in an error.

    Raises:
        InputError: no rows, a row without a usable text or label, or a tokenizer of another model.
    """
    task = task_named(task)
    model = checkpoint.model
    if not rows:
        raise InputError(f"{source}: there are no rows.")
    targets = targets_of(rows, task, model.config, source)
    fed = feed(model, checkpoint.tokenizer, as_texts(rows, task), max_length)
    for number, (row, one) in enumerate(zip(rows, fed.inputs, strict=True), start=1):
        if not len(one):
            raise InputError(f"{source}, row {row_number(row, number)} has no tokens: its text is empty.")
    return Examples(
        task,
        fed.inputs,
        targets,
        class_ids(task, model.config),
        int(model.config.pad_token_id),
        fed.record,
        (*checkpoint.warnings, *fed.warnings),
    )


def predict(
    model: PreTrainedModel, examples: Examples, batch_size: int = 32, progress: bool = False
) -> npt.NDArray[np.float32]:
    """Return the model's outputs ``[N, C]`` in the order of the rows.

    The model runs in evaluation mode and is left in the mode in which it was.

    Raises:
        InputError: `batch_size` is less than 1.
    """
    logits = np.empty((len(examples), len(examples.classes)), dtype=np.float32)
    was_training = model.training
    model.eval()
    try:
        with (
            torch.inference_mode(),
            progress_bar(total=len(examples), unit="example", what="evaluating", shown=progress) as bar,
        ):
            for positions, batch in examples.batches(batch_size, device=model.device):
                del batch["labels"]
                logits[positions] = model(**batch).logits.float().cpu().numpy()
                bar.update(len(positions))
    finally:
        model.train(was_training)
    return logits


def losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return each example's loss ``[B]``: cross-entropy, or the squared error where there is one output.

    Args:
        logits: ``[B, C]``.
        labels: ``[B]`` class ids, or scores.
    """
    if logits.shape[-1] == 1:
        return (logits[:, 0].float() - labels.float()).square()
    return functional.cross_entropy(logits.float(), labels, reduction="none")
