"""What headscope relies on inside transformers, beyond its documented interface: all of it, each with its check.

A change there that nobody notices gives a wrong number, so each thing is looked at where it is used, and one that
is not as it should be raises :class:`LibraryError`, which names the installed version. What is documented
(``from_pretrained``, ``Trainer``, ``TrainerCallback``, ``AttentionInterface`` ...) is imported where it is needed;
no other module imports from below ``transformers`` (tested).

========================================  ====================================================================
relied on                                 noticed by
========================================  ====================================================================
where a family keeps its modules          :func:`models.anatomy.anatomy_of`: "is not laid out like"
the attention function's arguments        :func:`check_call`: shapes, kind of mask, names of all others
the mask that eager attention adds        :func:`eager_mask`, :func:`check_call`
that mask, a few queries at a time        :func:`rows_of_mask`, which tries it
one call per layer and forward pass       :class:`models.tap._Tap`, which counts
the cache among an attention's arguments  :func:`count_tokens` (by its type), :func:`check_counts` (its lengths)
an attention module's own ``config``      :func:`without_heads`, :class:`OwnConfig` (by its outputs' shapes)
``Conv1D`` holds its weight transposed    :func:`conv1d`
Falcon's own linear layer is one          :func:`is_linear`
what is reported of loaded weights        :func:`loading_report`
a config's choice of attention function   :func:`computes_plainly`
a module's own ``is_causal``              :func:`sees_both_ways`
the Trainer's hook for a sampler          :func:`ordering_trainer`
========================================  ====================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import copy
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

from .errors import LibraryError, UnsupportedModelError

if TYPE_CHECKING:
    import torch
    from torch import nn

IMMATERIAL = frozenset(
    {
        "sliding_window",  # the mask says it already
        "is_causal",  # likewise
        "position_ids",  # in the queries and keys by now; flash kernels find packed inputs by them
        "deterministic",  # for flash kernels
        "token_type_ids",  # embedded by now, or passed on by a model that has no use for them
        "use_cache",
        "output_attentions",
        "output_hidden_states",
        "return_dict",
        "num_items_in_batch",  # for the loss
    }
)
"""Arguments of an attention function that do not change what it computes from its queries, keys, values and mask."""


def library() -> str:
    """Return the name and version of the installed library."""
    import transformers

    return f"transformers {transformers.__version__}"


def changed(what: str) -> NoReturn:
    """Raise :class:`LibraryError` for a part of the library that is not as headscope knows it."""
    raise LibraryError(
        f"headscope does not know {library()}: {what}. Nothing that it computes with this version could be trusted; "
        "install a version that headscope was tested with (pip install headscope says which), and please report it."
    )


def eager_mask() -> Callable[..., Any]:
    """Return the function that makes the mask which eager attention adds to the scores."""
    from transformers import AttentionMaskInterface

    try:
        found: Callable[..., Any] = AttentionMaskInterface()["eager"]
    except (KeyError, TypeError):
        changed("it has no mask for eager attention")
    return found


@cache
def rows_of_mask() -> Callable[[Mapping[str, Any], slice, slice], torch.Tensor]:
    """Return a function that makes the part of eager attention's mask that some queries and keys have.

    It is given what the library gives the function that makes the whole one, queries and keys.
    """
    import torch

    whole = eager_mask()

    def part(given: Mapping[str, Any], rows: slice, keys: slice) -> torch.Tensor:
        shifted = {
            "q_length": rows.stop - rows.start,
            "q_offset": given.get("q_offset", 0) + rows.start,
            "kv_length": keys.stop - keys.start,
            "kv_offset": given.get("kv_offset", 0) + keys.start,
            "allow_is_bidirectional_skip": False,
        }
        made: torch.Tensor = whole(**{**given, **shifted})
        return made

    real = torch.tensor([[True, True, True, True, False], [True, True, False, False, False]])
    tried: dict[str, Any] = {"batch_size": 2, "q_length": 5, "kv_length": 5, "attention_mask": real}
    try:
        same = torch.equal(part(tried, slice(2, 4), slice(1, 5)), whole(**tried)[:, :, 2:4, 1:5])
    except (TypeError, ValueError, RuntimeError, IndexError):
        same = False
    if not same:
        changed("the mask of some queries and keys is not what it is for all")
    return part


def check_call(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    others: Mapping[str, Any],
) -> None:
    """Check what a model hands to an attention function.

    Args:
        module: the attention module that calls.
        query: ``[B, H, n, d]``.
        key: ``[B, H_kv, m, d]``, H a multiple of H_kv; `value` likewise.
        value: see `key`.
        mask: ``[1 or B, 1 or H, n, m]``, added to the scores; None where every token sees all.
        others: arguments by name. One that is neither None nor immaterial would change the probabilities.

    Raises:
        UnsupportedModelError: the model's attention is computed with something that headscope does not know, such
            as a position bias, sinks or a cap on the scores.
        LibraryError: an argument is not what it was in the versions tested.
    """
    unknown = [name for name, given in others.items() if given is not None and name not in IMMATERIAL]
    if unknown:
        raise UnsupportedModelError(
            f"{type(module).__name__} computes its attention with {unknown[0]!r}, which headscope does not know "
            f"({library()}): its maps would be wrong."
        )
    b, h, n, m = (*query.shape[:3], key.shape[-2]) if query.ndim == key.ndim == 4 else (0,) * 4
    if not (
        b
        and value.shape[:3] == key.shape[:3]
        and key.shape[0] == b
        and key.shape[1]
        and h % key.shape[1] == 0
    ):
        shapes = ", ".join(str(list(part.shape)) for part in (query, key, value))
        changed(
            f"{type(module).__name__} hands queries, keys and values of the shapes {shapes} to its attention"
        )
    if mask is None:
        said = others.get("is_causal")  # counts before the module's own
        if n > 1 and (getattr(module, "is_causal", False) if said is None else said):
            changed(f"{type(module).__name__} is causal and has no mask")
    elif not (
        mask.is_floating_point()
        and mask.ndim == 4
        and mask.shape[0] in (1, b)
        and mask.shape[1] in (1, h)
        and mask.shape[2:] == (n, m)
    ):
        changed(
            f"the mask of {type(module).__name__} is {mask.dtype}{list(mask.shape)}, where numbers to add to scores "
            f"of the shape {[b, h, n, m]} are needed"
        )


def biased(
    module: nn.Module,
    mask: torch.Tensor | None,
    bias: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
) -> torch.Tensor:
    """Return the mask of an attention function with a position bias added to it: both are added to the scores.

    Raises:
        LibraryError: the bias is not ``[1 or B, H, n, m]``.
    """
    b, h, n, m = (*query.shape[:3], key.shape[-2])
    if bias.ndim != 4 or bias.shape[0] not in (1, b) or tuple(bias.shape[1:]) != (h, n, m):
        changed(
            f"the position bias of {type(module).__name__} is {list(bias.shape)}, where scores are {[b, h, n, m]}"
        )
    return bias if mask is None else bias + mask


class OwnConfig:
    """A model's config as one of its modules sees it: with some settings of the module's own."""

    def __init__(self, config: Any, **own: Any) -> None:
        self.__dict__.update(own, _config=config)

    def __getattr__(self, name: str) -> Any:
        if name == "_config" or name.startswith(
            "__"
        ):  # while it is being copied or unpickled, and for protocols
            raise AttributeError(name)
        return getattr(self._config, name)


_NO_HEADS = "headscope_no_heads"


def without_heads(attention: Any) -> None:
    """Let an attention module that has no heads left compute nothing, whatever the model computes attention with.

    Fused kernels are not made for it: on CUDA the process dies of a division by zero. If there is a key/value cache,
    it counts the tokens all the same.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(_NO_HEADS, _no_heads)

    if not hasattr(getattr(attention, "config", None), "_attn_implementation"):
        changed(f"{type(attention).__name__} does not say in a config of its own how it computes attention")
    attention.config = copy(attention.config)  # the model's other layers keep theirs
    attention.config._attn_implementation = _NO_HEADS
    attention.register_forward_pre_hook(count_tokens, with_kwargs=True)


def _no_heads(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, *_: Any, **__: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the output ``[B, n, 0, d]`` and the probabilities ``[B, 0, n, m]`` of attention without heads."""
    return query.transpose(1, 2), query.new_zeros((query.shape[0], 0, query.shape[2], key.shape[2]))


def count_tokens(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """Before an attention without heads: let a key/value cache count the tokens, which it does by looking at keys.

    A forward pre-hook. The attention itself then sees neither cache nor mask.

    Raises:
        LibraryError: there are arguments of which it is not known what they are.
    """
    import torch
    from transformers import AttentionInterface, Cache

    AttentionInterface.register(_NO_HEADS, _no_heads)  # not yet done where the model was unpickled

    def known(value: Any) -> bool:
        if isinstance(value, tuple | list):
            return all(map(known, value))
        return value is None or isinstance(value, torch.Tensor | bool | int | float | str | Cache)

    given = [*enumerate(inputs), *named.items()]
    odd = [f"{where!r} ({type(value).__name__})" for where, value in given if not known(value)]
    if odd:
        changed(f"{type(module).__name__} is called with {odd[0]}, which may be a key/value cache")
    caches = [value for _, value in given if isinstance(value, Cache)]
    if not caches:
        return inputs, named
    hidden = next((v for _, v in given if isinstance(v, torch.Tensor) and v.ndim == 3), None)
    place = getattr(module, "layer_idx", None)
    if hidden is None or not isinstance(place, int) or len(caches) > 1:
        changed(
            f"the arguments of {type(module).__name__} do not tell its hidden states, its cache and its place"
        )
    mark = hidden.new_zeros(hidden.shape[0], 1, hidden.shape[1], 1)  # hidden: [B, n, hidden]
    # A decoder that reads an encoder has a cache of two parts.
    getattr(caches[0], "self_attention_cache", caches[0]).update(mark, mark, place)

    def left(where: int | str, value: Any) -> Any:
        return None if isinstance(value, Cache) or where == "attention_mask" else value

    return tuple(left(i, v) for i, v in enumerate(inputs)), {name: left(name, v) for name, v in named.items()}


def check_counts(base: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
    """After a forward pass of a decoder some of whose layers have no heads: all layers counted the same tokens.

    A forward hook. Positions of later tokens follow from these counts.

    Raises:
        LibraryError: they did not.
    """
    from transformers import Cache

    parts: Iterable[Any] = output.values() if isinstance(output, Mapping) else output
    for found in {id(part): part for part in (*inputs, *named.values(), *parts)}.values():
        if isinstance(found, Cache):
            whole = getattr(found, "self_attention_cache", found)
            config: Any = base.config
            lengths = [int(whole.get_seq_length(i)) for i in range(config.num_hidden_layers)]
            if len(set(lengths)) > 1:
                changed(f"the layers of {type(base).__name__} have cached {lengths} tokens")


@cache
def conv1d() -> Any:
    """Return the linear layer of GPT-2, whose weight is ``[inputs, outputs]``."""
    import torch

    try:
        from transformers.pytorch_utils import Conv1D
    except ImportError:
        changed("it has no Conv1D")
    with torch.random.fork_rng(devices=[]):  # its first weights are drawn, and a seed must not notice
        tried = Conv1D(2, 3)
    given = torch.arange(3.0)[None]
    same = tuple(tried.weight.shape) == (3, 2) and torch.equal(
        tried(given), given @ tried.weight + tried.bias
    )
    if not (same and (tried.nx, tried.nf) == (3, 2)):
        changed("its Conv1D computes something else")
    return Conv1D


def is_linear(module: nn.Module) -> bool:
    """Return whether a module computes its input times its ``weight``, plus ``bias``, and no more."""
    import torch

    kind: Any = type(module)
    return kind in (torch.nn.Linear, conv1d()) or (
        kind.__name__ == "FalconLinear" and kind.__module__.startswith("transformers.") and _is_linear(kind)
    )


@cache
def _is_linear(kind: Any) -> bool:
    import torch

    with torch.random.fork_rng(devices=[]):
        tried = kind(2, 3)
    given = torch.arange(2.0)[None]
    if not torch.allclose(tried(given), given @ tried.weight.T + tried.bias):
        changed(f"its {kind.__name__} computes something else")
    return True


def loading_report(report: Any) -> dict[str, Any]:
    """Return what ``from_pretrained(output_loading_info=True)`` says, as lists under three names.

    These are ``missing_keys``, ``unexpected_keys`` (names), ``mismatched_keys`` ((name, stored shape, wanted shape)).
    """
    names = ("missing_keys", "unexpected_keys", "mismatched_keys")
    if not isinstance(report, Mapping) or not set(names) <= set(report):
        changed("it does not say which weights were missing, left over or of another shape")
    return {name: sorted(report[name]) for name in names}


def computes_plainly(config: Any) -> None:
    """Let a model that is built from `config` compute attention with the library's usual function for its class.

    A config may name a kernel that is not installed here, or one of a repository on the Hub, which would be run.
    """
    if not hasattr(config, "_attn_implementation"):
        changed("a configuration does not say how attention is computed")
    config._attn_implementation = None


def attend_by(model: Any, how: str) -> None:
    """Let a model that does not go through the attention interface compute attention in another of its own ways."""
    if not hasattr(model.config, "_attn_implementation"):
        changed("a configuration does not say how attention is computed")
    model.config._attn_implementation = how


def masks_later(config: Any) -> bool:
    """Return whether the library masks later tokens in a decoder with this config, as most say nothing about it."""
    both_ways = getattr(config, "use_bidirectional_attention", False)  # Gemma's embedding models
    return bool(getattr(config, "is_causal", True)) and not both_ways


def sees_both_ways(attentions: Iterable[Any]) -> None:
    """Let a decoder's attention modules see both ways in every batch, padded or not.

    The library leaves out the mask of a batch without padding, and PyTorch's function then goes by the module's own
    ``is_causal`` if nobody says otherwise.
    """
    for attention in attentions:
        if hasattr(attention, "is_causal"):
            attention.is_causal = False


def raw_config(name: str, **source: Any) -> Any:
    """Return the content of a model's ``config.json`` before the library makes anything of it."""
    from transformers import PreTrainedConfig

    if not hasattr(PreTrainedConfig, "get_config_dict"):
        changed("a configuration cannot be read as it is")
    return PreTrainedConfig.get_config_dict(name, **source)[0]


def ordering_trainer(sampler: Any) -> Any:
    """Return a subclass of the Trainer that takes training rows in the order of `sampler`."""
    from transformers import Trainer

    if not hasattr(Trainer, "_get_train_sampler"):
        changed("its Trainer takes no sampler")

    class OrderingTrainer(Trainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return sampler

    return OrderingTrainer


def one_gpu(arguments: Any) -> None:
    """Let the Trainer use one GPU of a process; several would run the model in threads and multiply the batch."""
    if not hasattr(arguments, "_n_gpu"):
        changed("its TrainingArguments count GPUs otherwise")
    arguments._n_gpu = min(arguments.n_gpu, 1)


def printer_callback() -> Any:
    """Return the Trainer's callback that prints its logs to stdout."""
    try:
        from transformers.trainer_callback import PrinterCallback
    except ImportError:
        changed("its Trainer has no PrinterCallback")
    return PrinterCallback


def reporting_callbacks(names: Iterable[str]) -> list[Any]:
    """Return the callbacks of the Trainer's reporting integrations.

    Raises:
        ValueError, ImportError, RuntimeError: there is none of this name, or it is not installed.
    """
    import transformers

    integrations: Any = transformers.integrations
    if not hasattr(integrations, "get_reporting_integration_callbacks"):
        changed("its reporting integrations are found otherwise")
    return list(integrations.get_reporting_integration_callbacks(list(names)))
