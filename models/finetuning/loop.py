"""The training loop of a fine-tuning: the library's Trainer, interruptible, on rows that are tokenised once."""

from __future__ import annotations

import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..common.errors import InputError
from ..common.files import atomic_file, read_json, reason, write_json
from ..common.internals import changed, one_gpu, ordering_trainer, printer_callback, reporting_callbacks
from ..common.memory import memory_ran_out
from ..common.progress import progress_bar, timed
from ..common.reading import (
    CHECKSUM,
    UNSET,
    check_fields,
    file_digest,
    json_digest,
    reading,
    regular_file,
    seal_safetensors,
    verify_safetensors,
)
from ..common.session import SESSION
from ..compaction import kept_of
from ..evaluation import Examples, losses
from ..weights import WeightMasks
from .batches import Collator, LengthGroups, training_rows
from .result import Epoch
from .settings import FineTuning

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerCallback, TrainingArguments

_STATE = "headscope.json"
"""Written last into a checkpoint, with the checksums of its other files: without it, the checkpoint is not whole."""
_OF_STATE = {
    **{"history": "list", "seconds": "number", "loss": "number", "steps": "count", "best": "score"},
    "resumed": "list",
}
_BEST = "best.safetensors"
_CHECKPOINT = "checkpoint-"
"""What the library's names of checkpoints begin with; then comes the step."""


@dataclass
class Course:
    """How a training went, or how far it is."""

    history: list[Epoch] = field(default_factory=list)
    """One of each epoch."""
    seconds: float = 0.0
    """Spent on steps; not on scores, nor on what was lost when it was stopped."""
    loss: float = 0.0
    """Sum over the steps of the epoch so far."""
    steps: int = 0
    """Steps of the epoch so far."""
    best: float | None = None
    """The best score so far, if the best epoch's model is to be kept."""
    resumed: list[int] = field(default_factory=list)
    """The steps at which it went on after having been stopped."""


def n_processes() -> int:
    """Return how many processes ``accelerate launch`` or ``torchrun`` has started for this training."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Return whether this process is the one that writes and prints."""
    return int(os.environ.get("RANK", "0")) == 0


@timed(lambda course: f"fine-tuned for {len(course.history)} epochs")
def train(
    model: PreTrainedModel,
    examples: Examples,
    settings: FineTuning,
    device: torch.device,
    *,
    masks: WeightMasks | None = None,
    score: Callable[[], dict[str, float]] | None = None,
    metric: str = "",
    folder: Path | None = None,
    progress: bool = False,
) -> Course:
    """Train a model in place and leave it in evaluation mode.

    Under ``accelerate launch`` or ``torchrun`` each process takes its share of every batch.

    Args:
        model: with a classification head.
        examples: as this model reads them.
        settings: see :class:`FineTuning`.
        device: where; the first of its kind.
        masks: weights pruned by these are 0 from the beginning to the end.
        score: scores the model as it is; called after every epoch.
        metric: the one of these scores that ``keep="best"`` goes by.
        folder: where checkpoints are kept until the caller deletes them. If there is one already, the training
            goes on from it. On the CPU, with as many threads and processes as before, the result is the same bit
            for bit; on a GPU, as far as its kernels are deterministic.
        progress: show a progress bar and a line an epoch on stderr.

    Raises:
        InputError: the loss is not finite, memory runs out, a setting does not work on the device, or the masks are
            of another model.
    """
    processes = n_processes()
    if settings.batch_size % processes:
        raise InputError(
            f"--batch-size {settings.batch_size} cannot be shared evenly by {processes} processes; "
            f"give a multiple of {processes}."
        )
    with ExitStack() as stack:
        place = folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        arguments = _arguments(settings, model, device, place)
        _check_reporting(settings)
        one_gpu(arguments)
        course, checkpoint, damaged = _newest(folder)
        sampler = LengthGroups(
            [len(one) for one in examples.encoded],
            settings.batch_size,
            settings.seed,
            sort=settings.group_by_length,
        )
        trainer: Any
        trainer = ordering_trainer(sampler)(
            model=model,
            args=arguments,
            train_dataset=training_rows(examples),
            data_collator=Collator(examples.pad_token_id),
            compute_loss_func=lambda *args, **kwargs: _loss(
                trainer, settings, course, folder, *args, **kwargs
            ),
        )
        trainer.add_callback(_conductor(trainer, sampler, settings, course, score, metric, folder, progress))
        trainer.remove_callback(printer_callback())
        if masks is not None:
            stack.enter_context(_held_at_zero(masks, model))
        if folder and is_main_process():
            for left in _checkpoints(folder):
                if left != checkpoint:
                    shutil.rmtree(left)
            goes_on = f"goes on from step {course.resumed[-1]}" if checkpoint else "begins anew"
            for what in damaged:
                print(f"warning: {what} The training {goes_on}.", file=sys.stderr)
        _wait()
        with _explained(trainer, settings, device, folder):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if settings.keep == "best" and folder and (folder / _BEST).is_file():
            _load_best(model, folder / _BEST)
    model.eval()
    return course


def _load_best(model: PreTrainedModel, file: Path) -> None:
    from safetensors.torch import load_file

    _wait()
    verify_safetensors(file, "the best epoch's weights")
    model.load_state_dict(load_file(file), strict=False)  # tied weights stand once


def _arguments(
    settings: FineTuning, model: PreTrainedModel, device: torch.device, place: Path
) -> TrainingArguments:
    """Return the settings as the Trainer takes them.

    Raises:
        InputError: one of them does not work on this device.
    """
    from transformers import TrainingArguments

    try:
        return TrainingArguments(
            output_dir=str(place),
            num_train_epochs=settings.epochs,
            learning_rate=settings.learning_rate,
            lr_scheduler_type="linear",
            warmup_steps=settings.warmup,  # below 1, a share
            adam_epsilon=settings.adam_epsilon,
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.max_grad_norm,
            per_device_train_batch_size=settings.batch_size // n_processes(),
            bf16=settings.precision == "bf16",
            use_cpu=device.type == "cpu",
            # What is left of an MLP that was cut out has weights of size 0, which no pass uses.
            ddp_find_unused_parameters=kept_of(model) is not None,
            dataloader_pin_memory=device.type == "cuda",
            seed=settings.seed,
            logging_strategy="epoch",
            save_strategy="no",  # the callback says when
            report_to=list(settings.report_to) or "none",
            disable_tqdm=True,  # its bar prints to stdout; ours follows
        )
    except (ValueError, ImportError) as error:  # bf16 where there is none
        raise InputError(f"These settings do not work on {device}: {reason(error)}.") from error


@contextmanager
def _explained(
    trainer: Any, settings: FineTuning, device: torch.device, folder: Path | None
) -> Iterator[None]:
    """Turn errors of a training that a user can do something about into a sentence."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if "without overflow" in str(error):  # PyTorch before 2.9: a step that is too large for float32
            step = trainer.state.global_step + 1
            _diverged("A weight is not finite", step, trainer, settings, folder)
        if not memory_ran_out(error):
            raise
        raise InputError(
            f"Memory ran out on {device}; give a --batch-size below {settings.batch_size} or a smaller "
            "--max-length."
        ) from error


def _check_reporting(settings: FineTuning) -> None:
    try:
        for integration in reporting_callbacks(settings.report_to):
            integration()
    except (ValueError, ImportError, RuntimeError) as error:
        raise InputError(f"--report-to {', '.join(settings.report_to)}: {reason(error)}.") from error


def _wait() -> None:
    """Until all processes are here."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def _checkpoints(folder: Path) -> list[Path]:
    found = (
        path for path in folder.glob(f"{_CHECKPOINT}*") if path.name.removeprefix(_CHECKPOINT).isdecimal()
    )
    return sorted(found, key=_step_of)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(_CHECKPOINT))


def _newest(folder: Path | None) -> tuple[Course, Path | None, list[str]]:
    """Return how far a training is, the checkpoint from which it goes on, and which later ones are damaged.

    It goes on from the last one that is whole. One in which nothing says that it is was being written.
    """
    damaged: list[str] = []
    for checkpoint in reversed(_checkpoints(folder) if folder else []):
        if not (checkpoint / _STATE).is_file():
            continue
        try:
            course = _state_of(checkpoint)
        except InputError as error:
            damaged.append(str(error))
            continue
        course.resumed.append(_step_of(checkpoint))
        if not is_main_process():  # the first process has the losses of all
            course.loss = 0.0
        return course, checkpoint, damaged
    return Course(), None, damaged


def _state_of(checkpoint: Path) -> Course:
    """Read how far a training was at a checkpoint.

    Raises:
        InputError: the checkpoint's files are not those that were written.
    """
    file = checkpoint / _STATE
    state = check_fields(file, read_json(file, "the state of a training"), _OF_STATE)
    known = state.pop("checksum", None)
    if known not in (None, json_digest(state)):
        raise InputError(f"{file} is not what was written there.")
    # Headscope 0.1 knew the files by their sizes.
    there: Mapping[str, object] = _sizes(checkpoint) if "sizes" in state else _digests(checkpoint)
    files = state.pop("sizes" if "sizes" in state else "files", None)
    if files != there:
        names = sorted({*there, *files} if isinstance(files, dict) else there)
        odd = [name for name in names if not isinstance(files, dict) or files.get(name) != there.get(name)]
        raise InputError(f"{checkpoint / odd[0] if odd else file} is not what was written there.")
    with reading(file, "the state of a training"):
        return Course(**state)


def _sizes(checkpoint: Path) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in checkpoint.iterdir() if file.name != _STATE}


def _digests(checkpoint: Path) -> dict[str, str]:
    files = (file for file in checkpoint.iterdir() if file.name != _STATE)
    return {file.name: file_digest(regular_file(file)) for file in sorted(files)}


@contextmanager
def _held_at_zero(masks: WeightMasks, model: PreTrainedModel) -> Iterator[None]:
    """Set pruned weights to 0 and let no gradient reach them, so that the optimiser never moves them.

    Neither gradient clipping nor a moment of Adam knows of them, and weight decay of 0 is 0: the same as training
    with ``torch.nn.utils.prune`` (tested).
    """
    pruned = {
        name: (parameter, masks.pruned(name, parameter)) for name, parameter in masks.check(model).items()
    }
    for parameter, where in pruned.values():
        parameter.data.masked_fill_(where, 0)

    def without(where: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda gradient: gradient.masked_fill(where, 0)

    hooks = [parameter.register_hook(without(where)) for parameter, where in pruned.values()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    moved = [name for name, (parameter, where) in pruned.items() if parameter.detach()[where].any()]
    if moved:
        raise AssertionError(f"pruned weights of {moved[0]} are not 0 after training")


def _loss(
    trainer: Any,
    settings: FineTuning,
    course: Course,
    folder: Path | None,
    outputs: Any,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
) -> torch.Tensor:
    """Return the mean loss of a step, in float32: of several processes, this one's part of it."""
    each = losses(outputs.logits, labels)
    loss = each.sum() / (len(each) if num_items_in_batch is None else num_items_in_batch)
    value = loss.item()
    if not math.isfinite(value):
        _diverged(f"The loss is {value}", trainer.state.global_step + 1, trainer, settings, folder)
    course.loss += value
    course.steps += 1
    return loss


def _diverged(what: str, step: int, trainer: Any, settings: FineTuning, folder: Path | None) -> None:
    last = _newest(folder)[1]
    kept = f"the checkpoint of step {_step_of(last)} is kept in {folder}; " if last else ""
    raise InputError(
        f"{what} at step {step} of {trainer.state.max_steps}; {kept}give a lower --learning-rate than "
        f"{settings.learning_rate:g}, or check the weights of --model."
    )


def _conductor(*told: Any) -> TrainerCallback:
    """Return a :class:`_Conductor` as the library wants it: its own class takes long to import."""
    from transformers import TrainerCallback

    class Callback(_Conductor, TrainerCallback):
        pass

    return Callback(*told)


class _Conductor:
    """Counts, scores, says when a checkpoint is due, and shows how far it is; a callback of the Trainer.

    Args:
        trainer: which.
        sampler: of its rows.
        settings: see :class:`FineTuning`.
        course: how far it is; kept up.
        score: scores the model as it is.
        metric: the one of these scores that decides.
        folder: where checkpoints are kept.
        progress: show a bar, and a line an epoch.
    """

    def __init__(
        self,
        trainer: Any,
        sampler: LengthGroups,
        settings: FineTuning,
        course: Course,
        score: Callable[[], dict[str, float]] | None,
        metric: str,
        folder: Path | None,
        progress: bool,
    ) -> None:
        self.trainer, self.sampler, self.settings, self.course = trainer, sampler, settings, course
        self.score, self.metric, self.folder = score, metric, folder
        self.shown = progress and is_main_process() and not SESSION.quiet

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Show a bar."""
        self.bar = progress_bar(
            total=state.max_steps,
            initial=state.global_step,
            unit="step",
            what="fine-tuning",
            shown=self.shown,
        )
        self.since = time.perf_counter()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell the sampler."""
        self.sampler.set_epoch(int((state.epoch or 0) + 1e-9))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Have a checkpoint written when it is due."""
        self.bar.update(state.global_step - self.bar.n)
        if self.course.steps:
            self.bar.set_postfix(loss=f"{self.course.loss / self.course.steps:.4f}", refresh=False)
        ends = state.global_step >= state.max_steps or state.epoch == int(state.epoch)
        if self.folder and not ends and state.global_step % self.settings.checkpoint_steps == 0:
            self.check(state)
            control.should_save = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Score the model, write down how it went, and keep it if it is the best and asked for."""
        course = self.course
        if not self.sampler.drawn:
            changed("its Trainer orders the rows by itself")
        course.seconds += time.perf_counter() - self.since
        self.check(state)
        loss = self.of_all(course.loss) / course.steps
        course.loss, course.steps = 0.0, 0
        found = self.score() if self.score else {}
        course.history.append(
            {
                "epoch": state.epoch,
                "step": state.global_step,
                "loss": loss,
                "learning_rate": kwargs["lr_scheduler"].get_last_lr()[0],
                "scores": found,
            }
        )
        if self.settings.report_to:
            self.trainer.log({f"eval_{name}": value for name, value in found.items()})
        if self.shown:
            told = "".join(f", {name} {value:.3f}" for name, value in found.items())
            self.bar.write(
                f"epoch {state.epoch:g} of {self.settings.epochs:g}: loss {loss:.4f}{told} "
                f"({course.seconds:.0f} s of training)",
                file=sys.stderr,
            )
        if self.folder and self.settings.keep == "best":
            self.keep_best(found[self.metric], self.folder)
        self.since = time.perf_counter()
        control.should_save = self.folder is not None

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Mark a checkpoint as whole, and delete those before it."""
        assert self.folder is not None
        self.course.seconds += time.perf_counter() - self.since
        self.since = time.perf_counter()
        loss = self.of_all(self.course.loss)
        _wait()  # until each process has written its part
        if not is_main_process():
            return
        checkpoint = self.folder / f"{_CHECKPOINT}{state.global_step}"
        told = {**asdict(self.course), "loss": loss, "files": _digests(checkpoint)}
        write_json(checkpoint / _STATE, {**told, "checksum": json_digest(told)})
        for earlier in _checkpoints(self.folder):
            if earlier != checkpoint:
                shutil.rmtree(earlier)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave the bar as it is."""
        self.bar.close()

    def of_all(self, value: float) -> float:
        """Return the sum over all processes."""
        if n_processes() == 1:
            return value
        part = torch.tensor(value, dtype=torch.float64, device=self.trainer.args.device)
        return float(self.trainer.accelerator.reduce(part, "sum"))

    def check(self, state: Any) -> None:
        """Stop a training whose weights are not finite."""
        if not all(bool(weight.isfinite().all()) for weight in self.trainer.model.parameters()):
            _diverged("A weight is not finite", state.global_step, self.trainer, self.settings, self.folder)

    def keep_best(self, score: float, folder: Path) -> None:
        """Keep the weights if none before had such a score."""
        from safetensors.torch import save_model

        if self.course.best is not None and not score > self.course.best:
            return
        self.course.best = score
        if is_main_process():
            with atomic_file(folder / _BEST) as temporary:
                save_model(self.trainer.model, str(temporary), metadata={CHECKSUM: UNSET})
                seal_safetensors(temporary)
