"""Models as folders, compacted ones too: the library's own format knows only whole models."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from .anatomy import STRUCTURE, anatomy_of, as_configured, family_of
from .common.errors import InputError
from .common.files import read_json, reason
from .common.hub import stored_file
from .common.outputs import Output
from .common.placement import refuse_placed
from .common.reading import save_safetensors, verify_safetensors
from .compaction import compact, kept_of, whole_weights
from .stored import (
    ADAPTER,
    HARMLESS,
    check_adapter,
    check_config,
    check_counts,
    check_kinds,
    check_types,
    check_versions,
    read_file,
    read_weights,
    settle,
    tensors_of,
    unwrapped,
)

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_LAYERS = 200  # so many may share their weights
_WHOLE, _COMPACTED, _SPARE = 2, 100, 25_000_000  # times the weights that there are, and so many numbers more
_PACKED = 8  # numbers of 4 bits in one of 32
WHOLE = "model.safetensors"
COMPACTED = "headscope.safetensors"
"""The weights of a compacted model have a name that the library does not look for. From weights of other shapes
than it expects, it may start some anew without a word; without any, it stops."""


def save(
    model: PreTrainedModel,
    path: Path | str,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    plain: bool = False,
    overwrite: bool = False,
) -> None:
    """Write a model, compacted or not, with or without a task head, into a folder, at once or not at all.

    The folder holds ``config.json`` and the weights in one safetensors file: ``model.safetensors``, which
    ``from_pretrained`` reads too, or, of a compacted model, ``headscope.safetensors``, which only headscope reads.

    Args:
        model: of a supported family; its precision is kept.
        path: a new or empty folder.
        tokenizer: saved with it, so that the folder can be a ``--model``.
        plain: whether to write a compacted model a second time, as ``model.safetensors``, in the shapes of the whole
            one with zeros for what was removed: ``from_pretrained`` reads that and gives the same outputs, but is no
            smaller. Not done where there is no such model, see :func:`models.compaction.whole_weights`; then, as
            without it, ``from_pretrained`` stops.
        overwrite: whether an earlier model there may be replaced.

    Raises:
        UnsupportedModelError: the model's family is not supported.
        InputError: the folder is not empty, or cannot be written to; the model's weights are parametrised, or
            offloaded.
    """
    from safetensors.torch import save_file
    from torch.nn.utils.parametrize import is_parametrized

    anatomy_of(model)
    refuse_placed(model, "save()")
    if any(is_parametrized(module) for module in model.modules()):
        raise InputError(
            "The model computes some of its weights from others; make them plain first "
            "(torch.nn.utils.parametrize.remove_parametrizations)."
        )
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.dtype = str(model.dtype).removeprefix("torch.")
    compacted = kept_of(config) is not None
    files = {COMPACTED if compacted else WHOLE: _untied(model.state_dict())}
    if compacted and plain and (whole := whole_weights(model)) is not None:
        files[WHOLE] = _untied(whole)
    with Output(Path(path), "models.save", overwrite, option="path").making() as folder:
        config.save_pretrained(folder)
        for file, weights in files.items():
            save_safetensors(save_file, weights, folder / file, {"format": "pt"})
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)


def _untied(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights without those that are tied to one under another name."""
    seen: set[tuple[int, torch.Size]] = set()
    found = {}
    for name, tensor in weights.items():
        place = (tensor.data_ptr(), tensor.shape)
        if tensor.numel() and place in seen:
            continue
        seen.add(place)
        found[name] = tensor.detach().cpu().contiguous()
    return found


def load(path: Path | str) -> PreTrainedModel:
    """Read what :func:`save` wrote: a model of the same class with the same weights, in evaluation mode and float32.

    Raises:
        UnsupportedModelError: the model's family is not supported.
        InputError: the folder is missing, damaged, or holds something else; the message says what is wrong.
    """
    return read_model(path)[0]


def read_model(
    path: Path | str, auto_class: Any = None, **settings: Any
) -> tuple[PreTrainedModel, list[str]]:
    """Read a folder that :func:`save` wrote as a model of the class saved, or with another task head or none.

    Args:
        path: the folder.
        auto_class: ``AutoModel`` for the model without a head, ``AutoModelForSequenceClassification`` and so on
            for a certain head.
        settings: changes to the configuration, e.g. ``num_labels=3``.

    Returns:
        The model, and the names of the weights of its head that the folder does not have; they are newly
        initialised.

    Raises:
        UnsupportedModelError, InputError: as :func:`load`.
    """
    path = Path(path)
    config = _config(path, settings)
    check_weights(path, config)
    build = auto_class.from_config if auto_class else _class_of(path, config)
    try:
        kept = kept_of(config)
        if kept is not None:
            delattr(config, STRUCTURE)  # the whole model is built first
        config.dtype = torch.float32
        model = build(config).float()
        if kept is not None:
            model = compact(model, kept)
    except InputError as error:
        raise InputError(f"{path / 'config.json'} describes no compacted model: {error}") from error
    except Exception as error:  # whatever a value of the configuration makes the library stumble on
        raise InputError(f"{path} holds no model that can be built: {reason(error)}.") from error
    new = _fill(path, model, _weights(path, kept is not None), other_head=auto_class is not None)
    return model.eval(), new


def check_weights(folder: Path, config: PreTrainedConfig, plain: bool = True) -> None:
    """Compare a model's weights with their checksums, if headscope wrote them, and its config with them.

    A config may ask for more than memory: it is compared with what there is before anything is made of it.

    Args:
        folder: the model's.
        config: the model's.
        plain: whether its weights have to be plain numbers, and not some packed into one, as a quantised model's are.

    Raises:
        InputError: a file is damaged or no file, holds weights that are no plain numbers, another program has written
            weights beside a compacted model, or the config asks for far more layers or numbers than there are.
    """
    files = sorted(folder.glob("*.safetensors"))
    compacted = folder / COMPACTED in files and getattr(config, STRUCTURE, None) is not None
    for file in files:
        ours = verify_safetensors(file, "the weights of a model") or file.name == COMPACTED
        if compacted and not ours:
            raise InputError(
                f"{folder} holds two models: {COMPACTED} is headscope's, {file.name} was written by another "
                "program, perhaps after training; move one of them to another folder."
            )
    tensors = tensors_of(folder)
    if plain:
        check_types(str(folder), tensors)
    if not tensors:
        return
    for setting in ("num_hidden_layers", "num_hidden_groups", "inner_group_num"):
        number = getattr(config, setting, 0)
        if isinstance(number, int) and number > max(len(tensors), _LAYERS):
            raise InputError(
                f"{folder / 'config.json'} asks for {number} layers ({setting}), but there are {len(tensors)} tensors "
                "of weights."
            )
    there = sum(math.prod(shape) for _, _, shape in tensors) * (1 if plain else _PACKED)
    asked = _numbers_in(folder, config)
    # What was cut out of a compacted model is made first.
    if asked > (_COMPACTED if hasattr(config, STRUCTURE) else _WHOLE) * there + _SPARE:
        raise InputError(
            f"{folder / 'config.json'} asks for {asked} numbers, but the weights beside it are {there}; it is another "
            "model's, or one of its sizes is wrong."
        )


def _numbers_in(folder: Path, config: PreTrainedConfig) -> int:
    """Return how many numbers the base model of a configuration has; none of them is given a place in memory."""
    from transformers import AutoModel

    whole = copy.deepcopy(config)
    if hasattr(whole, STRUCTURE):
        delattr(whole, STRUCTURE)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            model = AutoModel.from_config(whole, dtype=torch.float32)
    except Exception as error:  # whatever a value of the configuration makes the library stumble on
        raise InputError(f"{folder} holds no model that can be built: {reason(error)}.") from error
    return sum(parameter.numel() for parameter in model.parameters())


def _config(path: Path, settings: dict[str, Any]) -> PreTrainedConfig:
    from transformers import AutoConfig

    if not path.is_dir():
        raise InputError(f"{path} is not a folder; give one that models.save wrote.")
    raw = read_json(path / "config.json", "the configuration of a model")
    if not isinstance(raw, dict) or not raw.get("model_type"):
        raise InputError(f"{path / 'config.json'} is not the configuration of a model: it has no model_type.")
    family_of(SimpleNamespace(model_type=raw["model_type"]))  # type: ignore[arg-type]
    check_counts(raw, str(path))
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            path, local_files_only=True, trust_remote_code=False, **settings
        )
    except Exception as error:
        raise InputError(
            f"{path / 'config.json'} is not the configuration of a model: {reason(error)}."
        ) from error
    check_adapter(stored_file(str(path), ADAPTER), str(path))
    check_config(raw, str(path), headed=False)
    settle(config, raw, str(path))
    return config


def _weights(path: Path, compacted: bool) -> dict[str, torch.Tensor]:
    # save_pretrained and the Trainer write a compacted model's weights too, under the usual name.
    ours = path / COMPACTED
    return read_file(ours) if compacted and ours.is_file() else read_weights(path)


def _class_of(path: Path, config: PreTrainedConfig) -> Any:
    """Return the class that the configuration names; only one of the library's own is looked for."""
    import transformers

    names = config.architectures or ["nothing"]
    found = getattr(transformers, str(names[0]), None)
    if (
        not isinstance(found, type)
        or not issubclass(found, transformers.PreTrainedModel)
        or found.config_class is not type(config)
    ):
        raise InputError(
            f"{path / 'config.json'}: 'architectures' names {names[0]}, not a {config.model_type} model's class."
        )
    return found


def _fill(
    path: Path, model: PreTrainedModel, weights: dict[str, torch.Tensor], other_head: bool
) -> list[str]:
    """Give `model` its weights, or say which are missing, of another shape, or too many; return those left as new."""
    base = as_configured(model).base
    prefix = "" if base is model else f"{model.base_model_prefix}."
    weights = unwrapped(weights, model)
    stored, known = f"{model.base_model_prefix}.", model.state_dict()
    unexpected = [
        name for name in weights if name not in known and prefix + name.removeprefix(stored) not in known
    ]
    check_kinds(str(path), sorted(unexpected))
    if other_head:
        inside = {name.removeprefix(stored): w for name, w in weights.items() if name.startswith(stored)}
        outside = (
            {} if not inside else {name: w for name, w in weights.items() if not name.startswith(stored)}
        )
        weights = {prefix + name: tensor for name, tensor in (inside or weights).items()}
        if prefix:
            weights |= {
                name: w for name, w in outside.items() if name in known and w.shape == known[name].shape
            }
    if base is model and getattr(base, "pooler", None) and not any("pooler" in name for name in weights):
        base.pooler = None  # type: ignore[assignment]  # a model built without one

    wanted = model.state_dict()
    weights = {name: w for name, w in weights.items() if name in wanted or not HARMLESS.search(name)}
    filled = {wanted[name].data_ptr() for name in weights if name in wanted}
    missing = [
        n for n, t in wanted.items() if n not in weights and (not t.numel() or t.data_ptr() not in filled)
    ]
    foreign = [name for name in weights if name not in wanted]
    lacking = [
        name for name in missing if not other_head or (name.startswith(prefix) and "pooler" not in name)
    ]
    if lacking:
        raise InputError(f"{path} lacks {len(lacking)} of the model's weights, e.g. {lacking[0]}.")
    check_versions(str(path), model, sorted(unexpected))
    if foreign:
        raise InputError(
            f"{path} holds {len(foreign)} weights that are none of the model's, e.g. {foreign[0]}."
        )
    for name, tensor in weights.items():
        if name in wanted and tensor.shape != wanted[name].shape:
            raise InputError(
                f"{path}: {name} has the shape {list(tensor.shape)}, "
                f"but the config asks for {list(wanted[name].shape)}."
            )
    model.load_state_dict(weights, strict=False)
    return missing
