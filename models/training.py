"""The training loop of a fine-tuning: the library's Trainer on rows that are tokenised once."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Sampler

from .errors import InputError
from .evaluation import Examples, losses
from .files import reason

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer, TrainerCallback

PRECISIONS = ("fp32", "bf16")


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
    """Share of the steps in which the learning rate rises linearly from 0."""
    adam_epsilon: float = 1e-8
    """AdamW's epsilon."""
    weight_decay: float = 0.0
    """AdamW's, on all but biases and norms."""
    batch_size: int = 32
    """Rows per step."""
    max_length: int = 128
    """Tokens; longer inputs are cut."""
    max_grad_norm: float = 1.0
    """A longer gradient is cut to this length."""
    group_by_length: bool = True
    """Batches of inputs of like length, so that there is little padding; else batches are random."""
    precision: str = "fp32"
    """``bf16`` computes in bfloat16 where that is safe (autocast); weights stay float32."""
    max_examples: int | None = None
    """Train on so many rows only, the same ones for every seed; None for all."""
    seed: int = 0
    """Of the head's first weights, of the order of the rows and of dropout."""
    report_to: tuple[str, ...] = ()
    """The Trainer's reporting integrations, e.g. ``tensorboard``."""

    def __post_init__(self) -> None:
        for name in ("epochs", "learning_rate", "adam_epsilon", "max_grad_norm"):
            self._check(name, 0 < getattr(self, name) < math.inf, "a number above 0")
        self._check("weight_decay", 0 <= self.weight_decay < math.inf, "a number from 0 up")
        self._check("warmup", 0 <= self.warmup < 1, "a share from 0 to below 1")
        self._check("batch_size", self.batch_size >= 1, "at least 1")
        self._check("max_length", self.max_length >= 4, "at least 4")
        self._check("precision", self.precision in PRECISIONS, " or ".join(PRECISIONS))
        self._check("max_examples", self.max_examples is None or self.max_examples >= 1, "at least 1")
        self._check("seed", 0 <= self.seed < 2**32, f"a whole number from 0 to {2**32 - 1}")

    def _check(self, name: str, right: bool, wanted: str) -> None:
        if not right:
            raise InputError(f"{name}={getattr(self, name)}: give {wanted}.")


def train(
    model: PreTrainedModel, examples: Examples, settings: FineTuning, device: torch.device, progress: bool
) -> list[dict[str, float]]:
    """Train a model in place and leave it in evaluation mode.

    Args:
        model: with a classification head.
        examples: as this model reads them.
        settings: see :class:`FineTuning`.
        device: where; the first of its kind.
        progress: show a progress bar on stderr.

    Returns:
        ``epoch``, ``loss`` (mean over its steps) and ``learning_rate`` at the end of each epoch.

    Raises:
        InputError: the loss is not finite, memory runs out, or a setting does not work on the device.
    """
    from transformers import Trainer, TrainingArguments
    from transformers.trainer_callback import PrinterCallback

    with tempfile.TemporaryDirectory() as scratch:
        try:
            arguments = TrainingArguments(
                output_dir=scratch,
                num_train_epochs=settings.epochs,
                learning_rate=settings.learning_rate,
                lr_scheduler_type="linear",
                warmup_steps=settings.warmup,  # below 1, a share
                adam_epsilon=settings.adam_epsilon,
                weight_decay=settings.weight_decay,
                max_grad_norm=settings.max_grad_norm,
                per_device_train_batch_size=settings.batch_size,
                bf16=settings.precision == "bf16",
                use_cpu=device.type == "cpu",
                dataloader_pin_memory=device.type == "cuda",
                seed=settings.seed,
                logging_strategy="epoch",
                save_strategy="no",
                report_to=list(settings.report_to) or "none",
                disable_tqdm=True,  # its bar prints to stdout; ours follows
            )
        except (ValueError, ImportError) as error:  # bf16 where there is none, an integration not installed
            raise InputError(f"These settings do not work on {device}: {reason(error)}.") from error
        # Several GPUs would run the model in threads and multiply the batch.
        arguments._n_gpu = min(arguments.n_gpu, 1)
        trainer: Trainer
        kind: Any = _grouping_trainer() if settings.group_by_length else Trainer
        trainer = kind(
            model=model,
            args=arguments,
            train_dataset=_features(examples),
            data_collator=collator(examples.pad_token_id),
            compute_loss_func=lambda *args, **kwargs: _loss(trainer, settings, *args, **kwargs),
            callbacks=[_progress_bar()] if progress else [],
        )
        trainer.remove_callback(PrinterCallback)
        try:
            trainer.train()
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"Memory ran out on {device}; give a --batch-size below {settings.batch_size} or a smaller "
                "--max-length."
            ) from error
        logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    model.eval()
    return [{name: entry[name] for name in ("epoch", "loss", "learning_rate")} for entry in logs]


class LengthGroups(Sampler[int]):
    """Row numbers, so that each ``batch_size`` of them in turn are inputs of like length, in random order.

    Rows are shuffled, sorted by length within pools of up to 50 batches, and the batches shuffled. The library's
    own sampler leaves the batches of a pool in order of length, from which a model learns less. The order of an
    epoch depends on the seed and the epoch only, not on what was drawn before.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next; the Trainer does."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng((self.seed, self.epoch))
        order, size = generator.permutation(len(self.lengths)), self.batch_size
        pool = size * max(1, min(50, len(order) // (4 * size)))  # at least four, or batches would not change
        batches = []
        for start in range(0, len(order), pool):
            rows = sorted(order[start : start + pool].tolist(), key=lambda row: -self.lengths[row])
            batches += [rows[i : i + size] for i in range(0, len(rows), size)]
        last = [batches.pop()] if len(batches[-1]) < size else []  # elsewhere it would shift all that follow
        generator.shuffle(batches)
        return (row for batch in batches + last for row in batch)


def _grouping_trainer() -> type[Trainer]:
    from transformers import Trainer

    class GroupingTrainer(Trainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
            rows: Any = self.train_dataset if train_dataset is None else train_dataset
            lengths = [len(row["input_ids"]) for row in rows]
            return LengthGroups(lengths, self.args.train_batch_size, self.args.seed)

    return GroupingTrainer


def _features(examples: Examples) -> list[dict[str, Any]]:
    """Return what the Trainer takes: a list of inputs, tokenised once."""
    features = []
    for encoded, target in zip(examples.encoded, examples.targets.tolist(), strict=True):
        feature = {"input_ids": encoded.input_ids, "labels": target}
        if encoded.token_type_ids is not None:
            feature["token_type_ids"] = encoded.token_type_ids
        features.append(feature)
    return features


def collator(pad_token_id: int) -> Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]:
    """Return a function that makes a batch ``[B, n]``, padded on the right to its longest input."""

    def collate(features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        lengths = [len(feature["input_ids"]) for feature in features]
        n = max(lengths)
        batch = {
            "attention_mask": torch.tensor([[1] * length + [0] * (n - length) for length in lengths]),
            "labels": torch.tensor([feature["labels"] for feature in features]),
        }
        for name, filler in (("input_ids", pad_token_id), ("token_type_ids", 0)):
            if name in features[0]:
                batch[name] = torch.tensor(
                    [feature[name] + [filler] * (n - len(feature[name])) for feature in features]
                )
        return batch

    return collate


def _loss(
    trainer: Trainer,
    settings: FineTuning,
    outputs: Any,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
) -> torch.Tensor:
    """Return the mean loss of a step, in float32."""
    each = losses(outputs.logits, labels)
    loss = each.sum() / (len(each) if num_items_in_batch is None else num_items_in_batch)
    if not torch.isfinite(loss):
        state = trainer.state
        raise InputError(
            f"The loss is {loss.item()} at step {state.global_step + 1} of {state.max_steps}; give a lower "
            f"--learning-rate than {settings.learning_rate:g}, or check the weights of --model."
        )
    return loss


def _progress_bar() -> TrainerCallback:
    from tqdm import tqdm
    from transformers import TrainerCallback

    class Bar(TrainerCallback):
        """One bar over all steps, on stderr, with the mean loss of the last epoch."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar = tqdm(total=state.max_steps, unit="step", desc="fine-tuning", disable=None)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar.update(state.global_step - self.bar.n)

        def on_log(
            self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any
        ) -> None:
            if logs and "loss" in logs:
                self.bar.set_postfix(epoch=f"{logs['epoch']:g}", loss=f"{float(logs['loss']):.4f}")

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar.close()

    return Bar()
