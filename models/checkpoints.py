"""Load the model under study: any Hub id or folder of a supported family, with or without a task head."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypedDict

import torch

from .anatomy import STRUCTURE, as_configured, family_of
from .common.errors import HeadError, HeadscopeError, InputError
from .common.files import reason
from .common.hub import hub_answers, stored_file
from .common.internals import loading_report, raw_config
from .common.placement import is_quantised
from .common.progress import timed
from .common.reading import file_digest
from .saving import check_weights, read_model
from .stored import (
    ADAPTER,
    check_adapter,
    check_config,
    check_counts,
    check_files,
    check_left_over,
    check_versions,
    read_weights,
    settle,
    unwrapped,
)
from .tasks.rows import check_problem, class_ids, class_names
from .tasks.task import Task, task_named
from .tasks.tokens import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

DTYPES = ("float32", "bfloat16", "float16", "auto")
"""Precisions in which a model can be loaded to be looked at; ``auto`` is that of its files."""
DEVICE_MAPS = ("auto",)
"""Ways in which accelerate can spread a model over devices."""
_SETTINGS = (".json", ".txt", ".model", ".jinja")
_LARGEST_SETTINGS = 2**28  # bytes: no tokenizer is larger


@dataclass(frozen=True)
class Checkpoint:
    """A model and what is needed to feed and to name it."""

    model: PreTrainedModel
    """In the precision asked for, in evaluation mode; with its classification head if it was loaded for a task, else
    without any."""
    tokenizer: PreTrainedTokenizerBase
    name: str
    """Hub id or folder, as given."""
    revision: str | None
    """Commit of a Hub model; None for a folder."""
    sha256: str | None
    """Digest of a folder's weight files; None for a Hub model, whose commit says as much."""
    warnings: tuple[str, ...] = ()
    """What a reader of any result about it has to know."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Digests of a folder's other files, such as its configuration and its tokenizer, by name."""


def _told(loaded: Checkpoint) -> str:
    """Say what was loaded, from where."""
    model = loaded.model
    commit = f", revision {loaded.revision}" if loaded.revision else ""
    return (
        f"{type(model).__name__} loaded from the {'folder' if loaded.sha256 else 'Hub'}: {loaded.name}{commit}, "
        f"{sum(one.numel() for one in model.parameters()):,} parameters, {model.dtype}, on {model.device}"
    )


@timed(_told)
def load_checkpoint(
    name: str,
    revision: str | None = None,
    device: str | torch.device = "cpu",
    *,
    task: str | Task | None = None,
    dtype: str = "float32",
    device_map: str | None = None,
    quantised: bool = False,
) -> Checkpoint:
    """Load a model, compacted or not, and its tokenizer: the base model, or with `task` the one with its head.

    The model is what its files say, or refused: see :mod:`models.stored`. The precision is float32 unless another of
    :data:`DTYPES` is asked for: bfloat16 moves attention probabilities by up to 0.09. With a `device_map`, one of
    :data:`DEVICE_MAPS`, accelerate spreads the model over what devices and memory there are; `device` is not used.
    A `quantised` model is read only if that is allowed, and without a head: it can be looked at, and no more.

    Raises:
        UnsupportedModelError: the model's family is not supported (found out before any weights are read).
        InputError: there is no such model, it is incomplete or corrupt, holds weights or settings that the library's
            class has no place for, or has no tokenizer.
        HeadError: it has no classification head, or one for other labels than the task's.
    """
    from transformers import AutoConfig

    task = None if task is None else task_named(task)
    check_loading(dtype, device_map)
    where = f"--model {name}"
    folder = Path(name) if Path(name).is_dir() else None
    if folder is None and Path(name).exists():
        raise InputError(f"--model {name} is a file; give the model's folder or its Hub id.")
    # A folder asks nobody; nobody is asked on the terminal whether to run a repository's own code.
    source: dict[str, Any] = {
        "revision": revision,
        "trust_remote_code": False,
        "local_files_only": folder is not None or not hub_answers(name, "model", "--model", revision),
    }
    model: Any
    try:
        check_adapter(stored_file(name, ADAPTER, **source), where)
        raw = raw_config(name, **source)
        # Asked here too, as it may be one that the library has never heard of.
        if isinstance(raw, dict) and raw.get("model_type"):
            family_of(SimpleNamespace(model_type=raw["model_type"]))  # type: ignore[arg-type]
            check_counts(raw, where)
        config = AutoConfig.from_pretrained(name, **source)
        family_of(config)
        in_bits = bool(getattr(config, "quantization_config", None))
        if in_bits and (task is not None or not quantised):
            raise InputError(
                f"--model {name} is quantized; give the model in full precision: what is quantized is only looked at "
                "(classify-heads, annotate-maps sample, compare-survivors), and neither pruned nor trained."
            )
        check_config(raw, where, task is not None)
        settle(config, raw, where)
        if task is not None:
            _settle_head(config, raw, task, name)
        placing: str | dict[str, Any] | None = device_map
        if in_bits and not device_map:  # such a model is made where it stays
            placing = {"": device}
        model, report = _read(name, folder, config, raw, task is not None, source, dtype, placing)
    except HeadscopeError:
        raise
    except Exception as error:  # a corrupt file shows as almost any type: the library passes all of them on
        raise InputError(_no_model(name, folder, source["local_files_only"], error)) from error
    _check_report(name, model, report, task)
    if in_bits and not any(map(is_quantised, model.modules())):
        raise InputError(
            f"--model {name} says in its config that it is quantized, but the installed libraries have read it as if "
            "it were not; give the model in full precision."
        )
    tokenizer = load_tokenizer(name, raw, **source)
    if task is not None:
        try:
            class_ids(task, config)
        except InputError as error:
            raise HeadError(f"--model {name}: {error}", missing=False) from error
        set_padding(model.config, tokenizer)
    if not as_configured(model).segments:
        kept = [kind for kind in tokenizer.model_input_names if kind != "token_type_ids"]
        tokenizer.model_input_names = kept
    model.eval()
    return Checkpoint(
        model=model if placing else model.to(device),
        tokenizer=tokenizer,
        name=name,
        revision=getattr(model.config, "_commit_hash", None) or revision,
        sha256=_digest(folder) if folder else None,
        files=_digests(folder) if folder else {},
        warnings=_foreign_class(name, raw, type(model).__name__),
    )


def _read(
    name: str,
    folder: Path | None,
    config: PreTrainedConfig,
    raw: Mapping[str, Any],
    headed: bool,
    source: dict[str, Any],
    dtype: str,
    device_map: str | dict[str, Any] | None,
) -> tuple[Any, dict[str, Any]]:
    """Return a model and the library's report of what its files lack, or hold besides.

    Args:
        name: Hub id or folder.
        folder: the folder, if it is one.
        config: of the model.
        raw: what its file says.
        headed: whether it is loaded with its classification head.
        source: from where the library may read.
        dtype: one of :data:`DTYPES`.
        device_map: one of :data:`DEVICE_MAPS`, or the library's own kind, or None.
    """
    from transformers import AutoModel, AutoModelForSequenceClassification, AutoModelForTextEncoding

    auto: Any = AutoModelForSequenceClassification if headed else AutoModel
    if not headed and any(kind.endswith("EncoderModel") for kind in config.architectures or ()):
        auto = AutoModelForTextEncoding  # T5's encoder alone, as sentence models have it
    if hasattr(config, STRUCTURE):
        if folder is None:
            raise InputError(f"--model {name} is a compacted model; download it and give its folder.")
        if device_map:
            raise InputError(
                f"--model {name} is a compacted model, read onto one device: give --device, no --device-map."
            )
        # This reader of ours refuses itself what would be reported, but for the weights of a head.
        read: tuple[Any, list[str]] = read_model(folder, auto)
        smaller, new = read
        precision = _precision(raw if dtype == "auto" else {"dtype": dtype})
        return smaller.to(precision), {"missing_keys": new, "mismatched_keys": [], "unexpected_keys": []}
    if folder is not None:
        check_files(folder, f"--model {name}")
        try:
            check_weights(folder, config, plain=not getattr(config, "quantization_config", None))
        except InputError as error:
            raise InputError(f"--model {name}: {error}") from error
    settings: dict[str, Any] = {
        "config": config,
        "dtype": "auto" if dtype == "auto" else getattr(torch, dtype),
        "ignore_mismatched_sizes": True,  # they are reported, and refused later
        "output_loading_info": True,
    }
    placing = {"device_map": device_map} if device_map else {}
    found: Any = auto.from_pretrained(name, **settings, **placing, **source)
    model, report = found[0], loading_report(found[1])
    place = folder or stored_file(name, "config.json", **source)
    if report["unexpected_keys"] and any("pooler" not in key for key in report["missing_keys"]) and place:
        stored = read_weights(place if place.is_dir() else place.parent)
        plain = unwrapped(stored, model)
        if plain.keys() != stored.keys():
            if device_map:
                raise InputError(
                    f"--model {name} names its weights otherwise than the library does, and is read onto one "
                    "device: give --device, no --device-map."
                )
            model, said = type(model).from_pretrained(None, state_dict=plain, **settings)
            report = loading_report(said)
    return model, report


def _check_report(name: str, model: Any, report: Mapping[str, Any], task: Task | None) -> None:
    """Refuse a model whose files lack weights, hold others, or hold them in other shapes.

    Raises:
        InputError: that is so.
        HeadError: it has no classification head.
    """
    where = f"--model {name}"
    layer = re.compile(re.escape(family_of(model.config).layers) + r"\.(\d+)\.")
    indices = [int(found[1]) for key in report["unexpected_keys"] if (found := layer.search(key))]
    if indices and max(indices) >= model.config.num_hidden_layers:
        raise InputError(
            f"--model {name} has weights of layer {max(indices)}, but its config has "
            f"{model.config.num_hidden_layers} layers."
        )
    check_left_over(where, model, report["unexpected_keys"], task is not None)
    # A wrong prefix would leave weights at random without a word; a missing pooler matters only to a head.
    prefix = "" if task is None else f"{model.base_model_prefix}."
    head = [key for key in report["missing_keys"] if not key.startswith(prefix)]
    poolers = task is not None and not head
    missing = sorted(
        key for key in report["missing_keys"] if key.startswith(prefix) and (poolers or "pooler" not in key)
    )
    if missing:
        raise InputError(
            f"--model {name} lacks {len(missing)} of the weights that its config asks for, e.g. {missing[0]}."
        )
    check_versions(where, model, report["unexpected_keys"])
    if task is not None and head:
        raise HeadError(
            f"--model {name} has no classification head; fine-tune it on {task.name} first (finetune-glue).",
            missing=True,
        )
    for key, stored_shape, wanted in sorted(report["mismatched_keys"]):
        raise InputError(
            f"--model {name}: {key} has the shape {list(stored_shape)}, but its config asks for {list(wanted)}."
        )


def check_loading(dtype: str, device_map: str | None, device: str = "auto") -> None:
    """Refuse a precision or a device map that there is not, and a device map beside a device.

    Raises:
        InputError: saying which there are.
    """
    if dtype not in DTYPES:
        raise InputError(f"--dtype {dtype}: give one of {', '.join(DTYPES)}.")
    if device_map is not None and device_map not in DEVICE_MAPS:
        raise InputError(f"--device-map {device_map}: give {' or '.join(DEVICE_MAPS)}, or leave it out.")
    if device_map is not None and device != "auto":
        raise InputError(
            f"--device {device} --device-map {device_map}: the map chooses devices itself; give one of the two."
        )


def _precision(said: Mapping[str, Any]) -> torch.dtype:
    """Return the precision that a configuration's file names; float32 if it names none that there is."""
    name = str(said.get("dtype") or said.get("torch_dtype") or "float32").removeprefix("torch.")
    found = getattr(torch, name, None)
    return found if isinstance(found, torch.dtype) and found.is_floating_point else torch.float32


def _settle_head(config: PreTrainedConfig, raw: dict[str, Any], task: Task, name: str) -> None:
    """Give a configuration the class names of its file, by whichever of the two tables names them.

    Raises:
        HeadError: they contradict each other, or the head is for another kind of problem than the task.
    """
    try:
        check_problem(task, config)
        names = class_names(raw.get("id2label"), raw.get("label2id"))
    except InputError as error:
        raise HeadError(f"--model {name}: {error}", missing=False) from error
    if names:
        config.id2label = dict(enumerate(names))
        config.label2id = {label: i for i, label in enumerate(names)}


def _foreign_class(name: str, raw: dict[str, Any], used: str) -> tuple[str, ...]:
    """Return a warning if the model was saved from a class that is not the library's own."""
    import transformers

    said = (raw.get("architectures") or [None])[0]
    if not isinstance(said, str) or hasattr(transformers, said):
        return ()
    return (
        f"{name} was saved from a class of its own, {said}; it is computed as the library's {used}, which is the same "
        "only if that class changes nothing but the head.",
    )


def set_padding(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Name a padding token that has an embedding: the head of a decoder looks for the last other token."""
    choices: tuple[Any, ...]
    choices = (config.pad_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    config.pad_token_id = next(i for i in choices if i is not None and 0 <= i < config.vocab_size)


def pick_device(name: str = "auto") -> torch.device:
    """Return the device called `name`; ``auto`` takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        InputError: no such device here.
    """
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if name == "auto":
        name = next(device for device in ("cuda", "mps", "cpu") if available[device])
    try:
        device = torch.device(name)
        there = available.get(device.type, False) and (device.index or 0) < max(1, torch.cuda.device_count())
    except RuntimeError:  # not the name of any device
        there = False
    if not there:
        here = ", ".join(device for device, is_there in available.items() if is_there)
        raise InputError(f"--device {name} is not available on this machine; available: auto, {here}.")
    return device


def _no_model(name: str, folder: Path | None, offline: bool, error: Exception) -> str:
    from safetensors import SafetensorError

    if folder is not None:
        if not (folder / "config.json").exists():
            return f"--model {name} is not a model folder: it has no config.json."
        if isinstance(error, UnpicklingError | EOFError):
            return f"--model {name}: its weights file is truncated or corrupt, or holds more than weights."
        if isinstance(error, SafetensorError):
            return f"--model {name}: its safetensors file is truncated or corrupt ({reason(error)})."
        return f"--model {name} cannot be loaded: {reason(error)}."
    if offline:
        return (
            f"--model {name} is neither a folder on this machine nor in the cache, and the Hub cannot be reached; "
            "check the name and the network."
        )
    return f"--model {name} cannot be loaded from the Hub ({type(error).__name__}: {reason(error)})."


def _digest(folder: Path) -> str | None:
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest() if files else None


def _digests(folder: Path) -> dict[str, str]:
    """Digests of what decides how weights are used, the configuration, and what is fed, the tokenizer."""
    files = (path for path in sorted(folder.iterdir()) if path.suffix in _SETTINGS and path.is_file())
    return {path.name: file_digest(path) for path in files if path.stat().st_size <= _LARGEST_SETTINGS}


def precision_of(model: PreTrainedModel) -> str:
    """Return the name of the precision in which a model computes, such as ``float32``."""
    return str(model.dtype).removeprefix("torch.")


def count_parameters(model: PreTrainedModel) -> int:
    """Return the number of parameters, embeddings included."""
    return int(model.num_parameters())  # the library knows how many there are in a byte


class ModelRecord(TypedDict):
    """What a result says of a model."""

    name: str
    revision: str | None
    sha256: str | None
    files: dict[str, str]
    """Digests of its settings and its tokenizer."""
    type: str
    parameters: int


def model_record(checkpoint: Checkpoint) -> ModelRecord:
    """Return what a result must say about the model that it is about."""
    return {
        "name": checkpoint.name,
        "revision": checkpoint.revision,
        "sha256": checkpoint.sha256,
        "files": dict(checkpoint.files),
        "type": checkpoint.model.config.model_type,
        "parameters": count_parameters(checkpoint.model),
    }
