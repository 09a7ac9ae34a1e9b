"""What a model's files say beyond what the library's own class reads: it is loaded so, or refused by name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from .anatomy import STRUCTURE, family_of
from .common.errors import InputError, one_line
from .common.files import read_json, reason
from .common.internals import computes_plainly
from .common.reading import tensors_in

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

ADAPTER = "adapter_config.json"
"""The file that PEFT and AdapterHub describe an adapter in."""
_WHOLE = ("model.safetensors", "pytorch_model.bin")
"""The weights in one file; those in shards have an index of that name and .index.json."""
_MOST = 10_000
"""Layers, and classes, of a model."""
_TYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
"""Of weights that are the numbers that they say, as safetensors calls them."""
_LEFTOVERS: dict[str, Any] = {
    "output_attentions": False,
    "output_hidden_states": False,
    "return_dict": True,
    "chunk_size_feed_forward": 0,
    "gradient_checkpointing": False,
    "torchscript": False,
    "reference_compile": False,
}
"""Settings of the session in which a model was saved, which have nothing to do with its weights, as they have to be."""

_MERGE = "merge them into the model's weights (PEFT: merge_and_unload()) and save it again"
_KINDS: tuple[tuple[str, str, str], ...] = (
    (r"lora_|\.lora\b", "LoRA weights that were never merged", _MERGE),
    (r"\b(ia3|b?oft|hada|lokr|vera)_", "PEFT's weights that were never merged", _MERGE),
    (r"base_layer\.|modules_to_save|original_module", "a layer as PEFT wraps it", _MERGE),
    (
        r"adapter",
        "adapter weights",
        "merge them if they can be (AdapterHub: merge_adapter()); without them it is another model",
    ),
    (
        r"prefix_encoder|prefix_tuning|prompt_",
        "prefix or prompt weights",
        "give a model that was trained without",
    ),
    (
        r"mask_score|_score_mask",
        "scores of movement pruning",
        "apply them to the weights and save it again without them",
    ),
    (
        r"\w_(orig|mask)$",
        "masks of torch.nn.utils.prune",
        "make them plain with torch.nn.utils.prune.remove() and save it again",
    ),
    (
        r"parametrizations?\.|weight_[gv]$",
        "parametrised weights",
        "make them plain with torch.nn.utils.parametrize.remove_parametrizations() and save it again",
    ),
    (
        r"qweight|qzeros|absmax|quant_|SCB$|weight_scale|\.scales$",
        "quantised weights",
        "give the model in full precision",
    ),
    (
        r"distance_embedding|relative|rel_embed|rel_pos|position_bias",
        "relative positions",
        "headscope computes absolute ones only, so give another model",
    ),
)
"""In the name of a weight, what it is, and what to do about it."""
HARMLESS = re.compile(
    r"(^|\.)(position_ids|token_type_ids|inv_freq|(attn|attention)\.(masked_)?bias|num_batches_tracked)$|(^|\.)pooler\."
)
"""Buffers that older versions saved, which follow from the config, and poolers, of which no map depends."""


def check_adapter(found: Path | None, name: str) -> None:
    """Refuse an adapter, alone or beside a full model.

    Args:
        found: its ``adapter_config.json``, if there is one.
        name: what to call the model in the message.

    Raises:
        InputError: there is one.
    """
    if found is None:
        return
    said = read_json(found, "the config of an adapter")
    said = said if isinstance(said, dict) else {}
    kind = said.get("peft_type") or "an adapter"
    base = said.get("base_model_name_or_path") or said.get("model_name") or "its base model"
    raise InputError(
        f"{name} holds an adapter ({ADAPTER}: {kind}, for {base}), which is not part of the weights: merge it "
        "into its base model and save that (PEFT: merge_and_unload()), and give that folder; if it is merged here "
        f"already, remove {ADAPTER}."
    )


def check_config(raw: Mapping[str, Any], name: str, headed: bool) -> None:
    """Refuse a model that the library's own class would compute otherwise than its config says.

    Args:
        raw: the content of ``config.json``.
        name: what to call the model in the message.
        headed: whether the model is wanted with its classification head.

    Raises:
        InputError: other positions than absolute ones, or code of its own.
    """
    position = raw.get("position_embedding_type") or ("relative" if raw.get("relative_attention") else None)
    computed = family_of(SimpleNamespace(model_type=raw.get("model_type"))).positions  # type: ignore[arg-type]
    if position is not None and position not in computed:
        raise InputError(
            f"{name} has position_embedding_type {position!r}, which the library no longer computes: its maps "
            f"would be those of another model; headscope computes {' and '.join(map(repr, computed))} only."
        )
    named = raw.get("auto_map")
    if not isinstance(named, dict):
        return
    entries = ("AutoModel", "AutoModelForSequenceClassification")[: 1 + headed]
    classes = raw.get("architectures") or []
    for entry, references in named.items():
        for reference in references if isinstance(references, list) else [references]:
            own = isinstance(reference, str) and not reference.startswith("transformers.")
            used = entry in entries or (
                entry.startswith("AutoModel") and str(reference).rsplit(".")[-1] in classes
            )
            if own and used:
                raise InputError(
                    f"{name} computes with code of its own (auto_map: {entry} is {reference}), which headscope "
                    f"does not run, and the library's own {raw.get('model_type')} class may compute something else; if "
                    "it is known to compute the same, remove auto_map from a copy of its config.json."
                )


def settle(config: PreTrainedConfig, raw: Mapping[str, Any], name: str) -> None:
    """Give a configuration what follows from its file, in place.

    Heads that version 4 of the library pruned become the structure of a compacted model; what is left over from the
    session in which it was saved is as it has to be; attention is computed by the library's usual function.

    Raises:
        InputError: ``pruned_heads`` names heads that the model does not have; an encoder says that it is causal.
    """
    for setting, value in _LEFTOVERS.items():
        if hasattr(config, setting):
            setattr(config, setting, value)
    computes_plainly(config)
    family = family_of(config)
    encodes = not family.decodes(config)
    if encodes and getattr(config, "is_causal", None):
        raise InputError(
            f"{name} says is_causal in its config, but the library's {family.name} attends both ways in some batches "
            "and not in others then; a copy without is_causal attends both ways."
        )
    pruned = raw.get("pruned_heads")
    if hasattr(config, "pruned_heads"):
        del config.pruned_heads  # pyright: ignore[reportAttributeAccessIssue]
    if not pruned or getattr(config, STRUCTURE, None):
        return
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    try:
        gone = {int(layer): {int(head) for head in numbers} for layer, numbers in pruned.items()}
        sound = all(0 <= layer < layers and numbers <= set(range(heads)) for layer, numbers in gone.items())
    except (AttributeError, TypeError, ValueError):
        sound = False
    if not sound:
        raise InputError(
            f"{name}: pruned_heads in its config must name heads 0 to {heads - 1} of layers 0 to {layers - 1}, as in "
            f'{{"0": [1, 2]}}, not {json.dumps(pruned)[:80]}.'
        )
    if any(gone.values()):
        if family.unshare is not None:
            raise InputError(
                f"{name} is a {family.name} of which the library pruned heads (pruned_heads in its config) in modules "
                "that several layers share; headscope reads none such, so give the whole model."
            )
        kept = [[head for head in range(heads) if head not in gone.get(layer, ())] for layer in range(layers)]
        setattr(config, STRUCTURE, {"heads": kept, "mlps": [True] * layers})


def check_left_over(name: str, model: PreTrainedModel, unexpected: Iterable[str], headed: bool) -> None:
    """Refuse weights that the library's class leaves out although they belong to what it computes.

    Weights of other heads are left out rightly: those outside of the base model, and of the head if it is wanted.

    Args:
        name: what to call the model in the message.
        model: as loaded.
        unexpected: names of weights that it has no place for.
        headed: whether it was loaded with its classification head.

    Raises:
        InputError: naming the weight, its kind and the cure.
    """
    prefix = f"{model.base_model_prefix}."
    base = getattr(model, model.base_model_prefix, model)
    parts = {part for part, _ in base.named_children()}
    if headed:
        parts |= {part for part, _ in model.named_children()}
    unexpected = sorted(key for key in unexpected if not HARMLESS.search(key))
    check_kinds(name, unexpected)
    for key in unexpected:
        if key.startswith(prefix) or key.split(".")[0] in parts:
            raise InputError(
                f"{name} holds a weight that {type(model).__name__} has no place for ({key}); give a model of exactly "
                "the family that its config names."
            )


def check_kinds(name: str, unexpected: Iterable[str]) -> None:
    """Refuse weights whose names say that they change what others compute; see :func:`check_left_over`."""
    for pattern, kind, cure in _KINDS:
        for key in unexpected:
            if re.search(pattern, key):
                raise InputError(f"{name} holds {kind} ({key}); {cure}.")


def check_versions(name: str, model: PreTrainedModel, unexpected: Iterable[str]) -> None:
    """Refuse second versions of a model's own weights: averages (EMA), differences, a teacher, or another model.

    Raises:
        InputError: naming the weight.
    """
    own = set(getattr(model, model.base_model_prefix, model).state_dict())
    layers = re.compile(rf"\.({re.escape(family_of(model.config).layers)}\.\d.*)")
    for key in unexpected:
        if (found := layers.search(key)) and found[1] in own:
            raise InputError(
                f"{name} holds another version of a weight ({key} beside {found[1]}), such as an average kept in "
                "training; give a copy that holds the one model to be looked at."
            )


def check_counts(raw: Mapping[str, Any], name: str) -> None:
    """Refuse a ``config.json`` with absurd counts, of which the library makes as many things before it looks at them.

    Raises:
        InputError: naming the setting.
    """
    for setting in ("num_hidden_layers", "n_layer", "n_layers", "num_labels"):
        if isinstance(count := raw.get(setting), int | float) and count > _MOST:
            raise InputError(
                f"{name} has {setting} {one_line(repr(count), 40)} in its config; {_MOST} are the most."
            )


def tensors_of(folder: Path) -> list[tuple[str, str, tuple[int, ...]]]:
    """Return name, type and shape of each weight in a folder's files, none of which is read; empty if none can be.

    Raises:
        InputError: a safetensors file is none.
    """
    found = [
        (name, *one)
        for file in sorted(folder.glob("*.safetensors"))
        for name, one in tensors_in(file, "the weights of a model").items()
    ]
    for file in () if found else sorted(folder.glob("pytorch_model*.bin")):
        try:
            # Nothing but tensors is unpickled, and none of them is given a place.
            content = torch.load(file, map_location="meta", weights_only=True)
        except Exception:  # whoever reads it says what is wrong
            return []
        found += [(name, _TYPES.get(t.dtype, str(t.dtype)), tuple(t.shape)) for name, t in _tensors(content)]
    return found


def check_types(name: str, tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> None:
    """Refuse weights that are no plain numbers: read as such, they would be those of another model.

    Raises:
        InputError: naming the weight and its type.
    """
    for key, kind, _ in tensors:
        if (
            kind not in _TYPES.values()
            and re.search(r"(^|[._])(weight|bias)$", key)
            and not HARMLESS.search(key)
        ):
            raise InputError(
                f"{name} holds weights of the type {kind} ({key}), as quantised models do; give the model in full "
                "precision."
            )


def check_files(folder: Path, name: str) -> None:
    """Refuse a folder that holds two models' weights, of which the library would take one without a word, or half one.

    Raises:
        InputError: it does.
    """
    for whole in _WHOLE:
        index = f"{whole}.index.json"
        if (folder / whole).is_file() and (folder / index).is_file():
            raise InputError(
                f"{name} holds both {whole} and the shards of {index}, which may be two models; remove one."
            )
    if not (folder / _WHOLE[0]).is_file():
        for shard in _shards(folder):
            if not shard.is_file():
                raise InputError(f"{name} lacks {shard.name}, which the index of its shards names.")


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Read a folder's weights as they are named there: one safetensors file, its shards, or a ``.bin`` of tensors.

    Raises:
        InputError: there are none, or a file is missing, truncated, corrupt, or holds more than weights.
    """
    files = [folder / _WHOLE[0]]
    if not files[0].is_file():
        files = _shards(folder) or [folder / _WHOLE[1]]
    if len(files) == 1 and not files[0].is_file():
        raise InputError(f"{folder} has no weights: there is no model.safetensors or {files[0].name}.")
    weights: dict[str, torch.Tensor] = {}
    for file in files:
        weights |= read_file(file)
    return weights


def _shards(folder: Path) -> list[Path]:
    """Return the files that the index of a folder's shards names; none without an index.

    Raises:
        InputError: it is no index.
    """
    for index in (f"{whole}.index.json" for whole in _WHOLE):
        if (folder / index).is_file():
            said = read_json(folder / index, "the index of a model's shards")
            named = said.get("weight_map") if isinstance(said, dict) else None
            if not isinstance(named, dict) or not all(isinstance(one, str) for one in named.values()):
                raise InputError(f"{folder / index} does not say which shard holds which weight.")
            return [folder / Path(shard).name for shard in sorted(set(named.values()))]
    return []


def read_file(file: Path) -> dict[str, torch.Tensor]:
    """Read the weights of one file; see :func:`read_weights`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not file.is_file():
        raise InputError(f"{file.parent} has no weights: there is no {file.name}.")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        found = torch.load(file, map_location="cpu", weights_only=True)  # nothing but tensors is unpickled
    except (SafetensorError, OSError, UnpicklingError, EOFError, RuntimeError, ValueError) as error:
        raise InputError(
            f"{file} is truncated or corrupt, or holds more than weights: {reason(error)}."
        ) from error
    return dict(_tensors(found))


def _tensors(content: Any) -> list[tuple[str, torch.Tensor]]:
    """Return the weights in what ``torch.load`` gave."""
    for key in ("state_dict", "model_state_dict", "model", "module"):  # as training loops save them
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    named = content.items() if isinstance(content, dict) else ()
    return [(str(name), tensor) for name, tensor in named if isinstance(tensor, torch.Tensor)]


def unwrapped(weights: Mapping[str, torch.Tensor], model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return weights without what wrappers put before their names, and under today's names of norms.

    ``_orig_mod.`` (torch.compile) and ``module.`` (DataParallel) belong to no model. ``model.`` (Lightning) does to
    some, so as many are taken off as leave most names that are wanted.

    Args:
        weights: as stored.
        model: that they are for, with a head or without; they may be of another head or of none.

    Raises:
        InputError: two weights have the same name then.
    """
    prefix, wanted = f"{model.base_model_prefix}.", set(model.state_dict())
    if hasattr(model, model.base_model_prefix):
        wanted |= {name.removeprefix(prefix) for name in wanted}
    else:
        wanted |= {prefix + name for name in wanted}
    plain: dict[str, torch.Tensor] = {}
    for name, weight in weights.items():
        bare = _norm(re.sub(r"(^|(?<=\.))((_orig_mod|module)\.)+", "", name))
        if bare in plain:
            raise InputError(
                f"There are two versions of the weight {bare}, one of them called {name}; keep one."
            )
        plain[bare] = weight
    tries = [plain]
    while any(name.startswith("model.") for name in tries[-1]):
        tries.append({name.removeprefix("model."): w for name, w in tries[-1].items()})
    return max(tries, key=lambda found: len(wanted & set(found)))


def _norm(name: str) -> str:
    return re.sub(r"gamma$", "weight", re.sub(r"beta$", "bias", name)) if "LayerNorm." in name else name
