"""Fine-tune a pre-trained model, whole or cut down to a subnetwork, on one task with the library's Trainer."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from ..anatomy import STRUCTURE, as_configured
from ..checkpoints import (
    Checkpoint,
    ModelRecord,
    count_parameters,
    load_checkpoint,
    model_record,
    pick_device,
    set_padding,
)
from ..common.errors import HeadError, InputError
from ..common.files import differences, read_json, write_json
from ..common.outputs import Output
from ..common.papers import Figures, write_latex
from ..common.provenance import provenance
from ..common.reading import check_fields, json_digest
from ..compaction import compact, kept_of
from ..evaluation import Examples, examples_of, predict
from ..saving import save
from ..subnetwork import Subnetwork
from ..tasks.metrics import baselines, threshold_metric
from ..tasks.rows import Row, Rows, RowsRecord, class_ids, hold_out, select_rows, targets_of
from ..tasks.task import MISMATCHED, Task, task_named
from ..weights import WeightMasks
from .learning_curve import curve_frame, learning_curve
from .loop import Course, is_main_process, n_processes, train
from .outcome import Tuned
from .result import METRICS, FineTuneResult, Selection, SeveralSeeds
from .settings import FineTuning

if TYPE_CHECKING:
    from transformers import PreTrainedModel

COMMAND = "finetune-glue"
CURVE = "learning_curve"
"""The stem of its files."""
_CHECKSUM = "checksum"
_CONFIG = "config.json"


def finetune(
    model_name: str,
    task: str | Task,
    train_rows: Rows | Sequence[Row],
    dev_rows: Rows | Sequence[Row],
    settings: FineTuning,
    output: Path | str,
    revision: str | None = None,
    device: str = "auto",
    subnetwork: Subnetwork | WeightMasks | None = None,
    progress: bool = False,
    overwrite: bool = False,
    mismatched_rows: Rows | Sequence[Row] | None = None,
    tokenised: dict[str, Examples] | None = None,
    search: Mapping[str, object] | None = None,
    figures: Figures | None = None,
) -> Tuned:
    """Fine-tune a model, write it, its tokenizer, ``metrics.json`` and a learning curve, and return what these say.

    The folder is whole or absent. While it is in the making, checkpoints lie beside it in ``<output>.partial``, and
    a second call with the same arguments goes on from the last of them, or returns what is there if all is done.
    The same seed gives the same weights bit for bit on the same machine, device, number of threads and of
    processes, stopped in between or not. The global generators of Python, NumPy and PyTorch are seeded.

    Args:
        model_name: Hub id or folder. A head that fits the task is trained on; else there is a new one.
        task: which task, or its name.
        train_rows: with labels.
        dev_rows: with labels; the model is scored on them after every epoch, in float32.
        settings: see :class:`FineTuning`.
        output: a new or empty folder, or one of the same fine-tuning.
        revision: branch, tag or commit of a Hub model.
        device: auto, cpu, cuda or mps.
        subnetwork: what to keep of the pre-trained model. Heads and MLPs that are not kept are cut out before
            training; single weights that are not kept are 0 and stay so.
        progress: show progress bars and a line an epoch on stderr.
        overwrite: replace an earlier output, finished or not.
        mismatched_rows: MNLI's dev rows of other genres; scored at the end.
        tokenised: give the same dict for several seeds on the same rows, and they are tokenised once.
        search: how the subnetwork was found, see :func:`search_of`; the result says whether that saw the rows that
            are reported on.
        figures: how the learning curve is written.

    Raises:
        InputError: the model, a row, the subnetwork or the output folder is not what it should be, memory runs
            out, or the loss is not finite.
    """
    from transformers import set_seed

    task, output = task_named(task), Path(output)
    written = Output(output, COMMAND, overwrite, (model_name,))
    if overwrite or not (output / METRICS).is_file():
        written.check()  # before anything is loaded
    place = _training_device(device)
    set_seed(settings.seed)
    checkpoint, warnings = with_head(model_name, revision, task)
    parts, record = _Parts.of(task, train_rows, dev_rows, mismatched_rows), model_record(checkpoint)
    asked = _Asked(model_name, task, settings, subnetwork, parts, record)
    partial = output.with_name(f"{output.name}.partial")
    if done := _earlier(output, partial, asked.config, overwrite):
        return Tuned(done)
    rows, doubts = asked.rows(checkpoint, search, {} if tokenised is None else tokenised)
    model, notes = _cut(checkpoint.model, subnetwork)
    warnings += [*doubts, *notes]
    with _in_the_making(partial, asked.config, overwrite) as checkpoints:
        course = train(
            model,
            rows.training,
            settings,
            place,
            masks=subnetwork if isinstance(subnetwork, WeightMasks) else None,
            score=lambda: rows.dev.scores(predict(model, rows.dev, batch_size=2 * settings.batch_size)),
            metric=threshold_metric(task),
            folder=checkpoints,
            progress=progress,
        )
        result = asked.result(model, rows, course, warnings, place)
        if is_main_process():
            with written.making() as folder:
                save(model, folder, tokenizer=checkpoint.tokenizer)
                _write(folder, result, checkpoints, figures or Figures())
    return Tuned(result)


def _write(folder: Path, result: FineTuneResult, checkpoints: Path, figures: Figures) -> None:
    """Write the learning curve, TensorBoard's logs if there are some, and last ``metrics.json``."""
    figures.write(figures.drawn(lambda: learning_curve(result)), folder, CURVE)
    table = curve_frame(result)
    table.to_csv(folder / f"{CURVE}.csv", index=False)
    write_latex(table, folder / f"{CURVE}.tex")
    if (logs := checkpoints / "runs").is_dir():
        shutil.copytree(logs, folder / "runs")
    write_json(folder / METRICS, {**result, _CHECKSUM: json_digest(result)})


def _cut(
    model: PreTrainedModel, subnetwork: Subnetwork | WeightMasks | None
) -> tuple[PreTrainedModel, list[str]]:
    """Return a model without the heads and MLPs that are not kept, and what to say about that."""
    if not isinstance(subnetwork, Subnetwork):
        return model, []
    smaller = compact(model, subnetwork, unshare=True)
    if count_parameters(smaller) <= count_parameters(model):
        return smaller, []
    return smaller, [
        "The layers of this model shared their modules; each has its own copy now, so that they can differ."
    ]


@dataclass(frozen=True)
class _Part:
    """Rows, where they come from, and what identifies them."""

    rows: Sequence[Row]
    source: RowsRecord
    digest: str

    @classmethod
    def of(cls, rows: Rows | Sequence[Row], task: Task, name: str) -> _Part:
        digest = hashlib.sha256()
        listed = rows.rows if isinstance(rows, Rows) else rows
        for row in listed:
            told = [row.get(column) for column in (*task.columns, task.label)]
            digest.update(json.dumps(told, default=str).encode())
        source = rows.record() if isinstance(rows, Rows) else Rows([], name).record()
        return cls(listed, source, digest.hexdigest())


@dataclass(frozen=True)
class _Parts:
    """The rows that a fine-tuning is given."""

    train: _Part
    dev: _Part
    mismatched: _Part | None

    @classmethod
    def of(
        cls,
        task: Task,
        train: Rows | Sequence[Row],
        dev: Rows | Sequence[Row],
        mismatched: Rows | Sequence[Row] | None,
    ) -> _Parts:
        return cls(
            _Part.of(train, task, "train rows"),
            _Part.of(dev, task, "dev rows"),
            _Part.of(mismatched, task, "mismatched rows") if mismatched else None,
        )


@dataclass(frozen=True)
class _Used:
    """The rows of one fine-tuning as its model reads them."""

    training: Examples
    dev: Examples
    """Selected on."""
    held_out: Examples | None
    mismatched: Examples | None
    seen: _Seen | None
    """What the search of a subnetwork saw of the rows reported on."""

    @property
    def final(self) -> Examples:
        """Reported on."""
        return self.held_out or self.dev


@dataclass(frozen=True)
class _Asked:
    """What a fine-tuning is asked to do, and with which model and rows."""

    model_name: str
    task: Task
    settings: FineTuning
    subnetwork: Subnetwork | WeightMasks | None
    parts: _Parts
    record: ModelRecord

    @cached_property
    def config(self) -> dict[str, object]:
        """All that decides the result."""
        task, mismatched = self.task, self.parts.mismatched
        return {
            "model": self.model_name,
            "revision": self.record["revision"],
            "model_sha256": self.record["sha256"],
            "task": task.name,
            **({"task_definition": task.meaning()} if task.own else {}),
            "train": self.parts.train.digest,
            "dev": self.parts.dev.digest,
            "mismatched": mismatched and mismatched.digest,
            "subnetwork": None if self.subnetwork is None else self.subnetwork.digest(),
            "processes": n_processes(),
            **self.settings.record(),
        }

    def rows(
        self, checkpoint: Checkpoint, search: Mapping[str, object] | None, memo: dict[str, Examples]
    ) -> tuple[_Used, list[str]]:
        """Choose rows and tokenise them, unless that is done in `memo`; return with them what to warn of."""
        task, settings, parts = self.task, self.settings, self.parts

        def examples(name: str, part: _Part, rows: Sequence[Row]) -> Examples:
            if name not in memo:
                memo[name] = examples_of(checkpoint, task, rows, settings.max_length, part.source["source"])
            return memo[name]

        # Before rows lose their places, so that an error names the right one.
        targets_of(parts.train.rows, task, checkpoint.model.config, parts.train.source["source"])
        chosen = parts.train.rows
        if settings.max_examples:
            chosen = select_rows(chosen, task, settings.max_examples, seed=0)
        selected, reported = hold_out(parts.dev.rows, task, settings.holdout)
        seen = None
        if self.subnetwork is not None:
            seen = _seen_by(search, task, parts.dev, reported or parts.dev.rows)
        warnings = []
        if seen and settings.holdout:
            warnings.append(
                f"--holdout {settings.holdout:g}: {seen.words}, so that the subnetwork was selected on them; search "
                f"again with prune-heads (or prune-weights) --holdout {settings.holdout:g} on the same rows."
            )
        return _Used(
            training=examples("train", parts.train, chosen),
            dev=examples("dev", parts.dev, selected),
            held_out=examples("held out", parts.dev, reported) if reported else None,
            mismatched=examples("mismatched", parts.mismatched, parts.mismatched.rows)
            if parts.mismatched
            else None,
            seen=seen,
        ), warnings

    def result(
        self,
        model: PreTrainedModel,
        rows: _Used,
        course: Course,
        warnings: Sequence[str],
        device: torch.device,
    ) -> FineTuneResult:
        """Score the trained model, and return what ``metrics.json`` holds, as it will be read again."""
        task, settings, subnetwork = self.task, self.settings, self.subnetwork
        metric, final, others = threshold_metric(task), rows.final, rows.mismatched
        size = 2 * settings.batch_size
        outputs = predict(model, final, batch_size=size)
        scores = final.scores(outputs)
        warnings = [*warnings, *final.warnings]
        if task.labels:  # scores that it has learned too little to reach are no other scale
            warnings += final.doubts(outputs)

        def always(of: Examples) -> dict[str, dict[str, float]]:
            training = rows.training
            return baselines(task, training.targets, of.targets, classes=training.classes, seed=settings.seed)

        levels = always(final)
        if others:
            scores |= _prefixed(others.scores(predict(model, others, batch_size=size)))
            levels = {name: levels[name] | _prefixed(of) for name, of in always(others).items()}
        parts = {"train": self.parts.train, "dev": self.parts.dev}
        if self.parts.mismatched:
            parts["mismatched"] = self.parts.mismatched
        result: FineTuneResult = {
            "model": self.model_name,
            "task": task.name,
            "task_definition": task.record() or {},
            "seed": settings.seed,
            "metric": metric,
            "score": scores[metric],
            "scores": scores,
            "selection": _selection(settings, len(rows.dev), len(final), rows.seen),
            "baselines": levels,
            "examples": {"train": len(rows.training), "dev": len(final)}
            | ({"mismatched": len(others)} if others else {}),
            "parameters": count_parameters(model),
            "subnetwork": None
            if subnetwork is None
            else _size(subnetwork) | {"metadata": dict(subnetwork.metadata)},
            "settings": asdict(settings),
            "training": {
                "seconds": course.seconds,
                "examples_per_second": len(rows.training) * settings.epochs / max(course.seconds, 1e-9),
                "resumed_at_steps": course.resumed,
                "history": course.history,
            },
            "inputs": final.inputs,
            "warnings": list(dict.fromkeys(warnings)),
            "config": self.config,
            "provenance": {
                **provenance(),
                "model": self.record,
                "data": {name: part.source for name, part in parts.items()},
                "device": str(device),
                "processes": n_processes(),
            },
        }
        if not task.own:
            del result["task_definition"]
        read_again: FineTuneResult = json.loads(json.dumps(result))
        return read_again


def _earlier(
    output: Path, partial: Path, config: dict[str, object], overwrite: bool
) -> FineTuneResult | None:
    """Return the result of an earlier call if it has come to its end; None if there is something to do.

    Raises:
        InputError: something else is there.
    """
    if overwrite:
        return None
    if (output / METRICS).is_file():
        found = check_fields(output / METRICS, read_json(output / METRICS, "the result of a fine-tuning"), {})
        known = found.pop(_CHECKSUM, None)  # version 0.1 wrote none
        _check_same(output, found.get("config"), config)
        if known is not None and known != json_digest(found):
            raise InputError(
                f"{output / METRICS} is damaged: it is not what was written (its checksum differs); --overwrite trains "
                "anew."
            )
        return cast("FineTuneResult", check_fields(output / METRICS, found, _RESULT))
    if (partial / _CONFIG).is_file():
        _check_same(partial, read_json(partial / _CONFIG, "the config of a fine-tuning"), config)
    else:
        Output(partial, COMMAND).check()
    return None


@contextmanager
def _in_the_making(partial: Path, config: dict[str, object], overwrite: bool) -> Iterator[Path]:
    """Yield a folder for checkpoints; it is left behind if there is one to go on from."""
    output, checkpoints = Output(partial, COMMAND, overwrite), partial / "checkpoints"
    if checkpoints.is_symlink():
        raise InputError(f"{checkpoints} is a link, which headscope does not follow; remove it.")
    if not is_main_process():
        yield checkpoints
        return
    going_on = (partial / _CONFIG).is_file() and not overwrite
    lock = output.begin((_CONFIG, "checkpoints/"), going_on)
    try:
        if not going_on:
            write_json(partial / _CONFIG, config)
        yield checkpoints
    except BaseException:
        if any(checkpoints.glob("checkpoint-*")):
            lock.release()
        else:
            output.discard(lock)
        raise
    output.discard(lock)


_RESULT: dict[str, Any] = {
    **{"model": "text", "task": "text", "metric": "text", "seed": "count", "score": "score"},
    **{"scores": "numbers", "baselines": {"majority": "numbers", "random": "numbers"}},
    **{"examples": "counts", "selection": {"note": "text"}, "warnings": "texts"},
}
"""What is read of an earlier result."""


def _check_same(folder: Path, found: object, config: dict[str, object]) -> None:
    told = differences(found, config) if isinstance(found, dict) else "its config cannot be read"
    if told:
        raise InputError(
            f"{folder} holds another fine-tuning ({told}); give another --output, or --overwrite to replace it."
        )


def _prefixed(scores: dict[str, float]) -> dict[str, float]:
    return {f"{MISMATCHED}{name}": value for name, value in scores.items()}


def _size(subnetwork: Subnetwork | WeightMasks) -> dict[str, object]:
    if isinstance(subnetwork, WeightMasks):
        return {"weights": subnetwork.kept, "share": subnetwork.share}
    return {"n_heads": subnetwork.n_heads, "n_mlps": subnetwork.n_mlps}


def search_of(masks: Path | str) -> Mapping[str, object] | None:
    """Return the config of the search that a folder, or a file in it, comes from; None if none lies there."""
    place = Path(masks)
    file = (place if place.is_dir() else place.parent) / _CONFIG
    if not file.is_file():
        return None
    found = read_json(file, "a search's config")
    return found if isinstance(found, dict) and "command" in found else None


@dataclass(frozen=True)
class _Seen:
    """How many of the rows reported on the search of a subnetwork has seen."""

    number: int | None
    """None: not known."""
    words: str

    def __bool__(self) -> bool:
        return bool(self.number)


def _seen_by(search: Mapping[str, object] | None, task: Task, dev: _Part, reported: Sequence[Row]) -> _Seen:
    """Find out what a search saw by drawing its rows again, as :func:`hold_out` does for whoever holds out a share."""
    unknown = "whether the subnetwork's search saw them is not known"
    if search is None:
        return _Seen(None, f"{unknown}: no search's config lies beside the masks")
    split, share, used = (search.get(key) for key in ("split", "holdout", "examples"))
    here = dev.source["sha256"] or dev.source["revision"]
    if here is None or search.get("data_sha256") != here or split != "validation":
        return _Seen(
            None,
            f"{unknown}: it used other data ({search.get('data')}, split {split})",
        )
    # It is a number from 0 to below 1 in whatever headscope wrote.
    share = float(share) if isinstance(share, int | float) and 0 <= share < 1 else 0.0
    rows = hold_out(dev.rows, task, share)[0]
    if used != len(rows):
        return _Seen(
            None,
            f"{unknown}: it used {used} of the {len(dev.rows)} dev rows, drawn at random (--examples)",
        )
    identities = {id(row) for row in rows}
    number = sum(id(row) in identities for row in reported)
    return _Seen(
        number,
        f"the subnetwork's search (--holdout {share:g}) saw {number} of the {len(reported)} rows reported on",
    )


def _selection(settings: FineTuning, on: int, reported: int, seen: _Seen | None) -> Selection:
    """Return which model is kept, and what a reader has to know of the rows it is scored on.

    Args:
        settings: of the fine-tuning.
        on: number of rows that the model is selected on.
        reported: number of rows that it is scored on.
        seen: what the search of its subnetwork saw of these; None without a subnetwork.
    """
    if settings.holdout:
        what = "nothing" if seen is None else "no epoch"
        note = f"scored on {reported} dev rows that {what} was selected on; selected on the other {on}"
    elif settings.keep == "best":
        note = f"selected and scored on the same {reported} dev rows: an upper bound"
    else:
        note = f"scored on all {reported} dev rows; no epoch was selected on them"
    if seen:
        note += f", but {seen.words}: an upper bound"
    elif seen is not None:
        note += f"; {seen.words}"
    kept = "the best epoch's" if settings.keep == "best" else "the last epoch's"
    return {
        "model": kept,
        "holdout": settings.holdout,
        "selected_on": on if settings.holdout or settings.keep == "best" else 0,
        "reported_on": reported,
        "seen_by_search": None if seen is None else seen.number,
        "note": f"{kept} model, {note}",
    }


def _training_device(name: str) -> torch.device:
    """Return the device, which for the Trainer is the first of its kind."""
    device = pick_device(name)
    if device.index:
        raise InputError(
            f"--device {name}: training uses the first GPU that it sees; set CUDA_VISIBLE_DEVICES={device.index} "
            "and give --device cuda."
        )
    return device


def with_head(name: str, revision: str | None, task: str | Task) -> tuple[Checkpoint, list[str]]:
    """Load a model with a head for the task, its own or a new one, and what to say about that."""
    from transformers import AutoModelForSequenceClassification

    task = task_named(task)
    try:
        checkpoint = load_checkpoint(name, revision, task=task)
        warnings = [f"--model {name} has a classification head for {task.name}; training goes on from it."]
    except HeadError as error:
        warnings = [] if error.missing else [f"{error} It gets a new classification head."]
        base = load_checkpoint(name, revision)
        config = copy.deepcopy(base.model.config)
        config.id2label = dict(enumerate(task.labels or ("similarity",)))
        set_padding(config, base.tokenizer)
        kept = kept_of(config)
        if kept is not None:
            delattr(config, STRUCTURE)  # the whole model is built first
        model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
        if kept is not None:
            model = compact(model, kept, unshare=True)
        # Some heads need no pooler, so not all is taken.
        model.base_model.load_state_dict(base.model.state_dict(), strict=False)
        as_configured(model)
        checkpoint = replace(base, model=model)
    config = checkpoint.model.config
    config.id2label = dict(sorted(zip(class_ids(task, config), task.labels or ("similarity",), strict=True)))
    config.label2id = {label: i for i, label in config.id2label.items()}
    config.problem_type = "single_label_classification" if task.labels else "regression"
    return checkpoint, warnings


def summarise(results: Sequence[FineTuneResult]) -> SeveralSeeds:
    """Return the runs of several seeds with the mean and the standard deviation (ddof 1) of each score."""
    values = {name: [result["scores"][name] for result in results] for name in results[0]["scores"]}
    return {
        "task": results[0]["task"],
        "metric": results[0]["metric"],
        "seeds": [result["seed"] for result in results],
        "mean": {name: float(np.mean(of_seeds)) for name, of_seeds in values.items()},
        "std": {
            name: float(np.std(of_seeds, ddof=1)) if len(results) > 1 else None
            for name, of_seeds in values.items()
        },
        "runs": list(results),
    }


def score_table(results: Sequence[FineTuneResult]) -> str:
    """Return the scores of one or several seeds beside the baselines, as lines of text."""
    lines: list[tuple[str, Mapping[str, float | None]]]
    lines = [(f"seed {result['seed']}", result["scores"]) for result in results]
    if len(results) > 1:
        summary = summarise(results)
        lines += [("mean", summary["mean"]), ("standard deviation", summary["std"])]
    lines += [(name, results[0]["baselines"][name]) for name in ("majority", "random")]
    names = list(results[0]["scores"])
    width = max(len(label) for label, _ in lines)
    columns = [max(8, len(name)) for name in names]
    rows = [("", names), *((label, [f"{scores[name]:.3f}" for name in names]) for label, scores in lines)]
    return "\n".join(
        label.ljust(width)
        + "".join(f"  {cell:>{column}}" for cell, column in zip(cells, columns, strict=True))
        for label, cells in rows
    )
