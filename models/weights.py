"""Single weights that are kept or pruned: which weights may be pruned, masks over them, and what survives of heads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .anatomy import anatomy_of
from .common.errors import InputError, UnsupportedModelError
from .common.files import atomic_file
from .common.internals import conv1d, is_linear
from .common.placement import refuse_placed
from .common.reading import booleans, open_safetensors, parse_json, plain_metadata, save_safetensors
from .subnetwork import SUBNETWORK_FILE as SUBNETWORK_FILE
from .subnetwork import WEIGHT_MASKS_FILE as WEIGHT_MASKS_FILE
from .subnetwork import Subnetwork

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

Bools = npt.NDArray[np.bool_]
_SHAPES = "shapes"  # the key of the file's own metadata


class Survival(NamedTuple):
    """The result of :func:`survival`."""

    heads: npt.NDArray[np.float64]
    """``[L, H]``: share of each head's prunable weights that are kept."""
    mlps: npt.NDArray[np.float64]
    """``[L]``: likewise of each MLP."""


class _Layer(NamedTuple):
    """The linear modules of one layer."""

    projections: tuple[nn.Module, ...]
    """Queries, keys, values: three modules, or one that computes them all."""
    output: nn.Module
    mlp_inputs: tuple[nn.Module, ...]
    mlp: nn.Module
    """The MLP's last projection."""

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        return *self.projections, self.output, *self.mlp_inputs, self.mlp


def prunable_weights(model: PreTrainedModel, last_bias: bool = False) -> dict[str, nn.Parameter]:
    """Return the parameters that weight pruning may prune, in the order in which a forward pass first uses them.

    These are weight and bias of the query, key, value and attention output projections and of the MLP's first
    layer (or two, where it is gated), and the weight of the MLP's last layer (Prasanna et al. 2020, as released).
    Embeddings, norms, pooler and task head are never pruned. A parameter that layers share stands once.

    Args:
        model: a model of a supported family, with or without a task head, nothing removed.
        last_bias: whether the bias of the MLP's last layer is prunable too; the published masks may have
            contained it, the released code leaves it out.

    Returns:
        Parameters by their name in the model without its task head, so that one model's masks are also those of
        the pretrained model that it was fine-tuned from.

    Raises:
        UnsupportedModelError: the family is not supported, or a projection is not a plain linear layer.
        InputError: heads or MLPs were removed from the model.
    """
    refuse_placed(model, "Pruning weights")
    names = {parameter: name for name, parameter in anatomy_of(model).base.named_parameters()}
    found: dict[str, nn.Parameter] = {}
    for layer in _layers(model):
        for module in layer.modules:
            parameters = [module.weight]
            if module.bias is not None and (last_bias or module is not layer.mlp):
                parameters.append(module.bias)
            found.update((names[parameter], parameter) for parameter in parameters)  # type: ignore[index,misc]
    return found


@dataclass(frozen=True, eq=False)
class WeightMasks:
    """Which of a model's prunable weights are kept (True) and which are pruned (False).

    Raises:
        InputError: there is no mask, one is not boolean or empty, or the metadata is not text.
    """

    masks: Mapping[str, Bools]
    """Masks by the names of :func:`prunable_weights`, each of its parameter's shape."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """How they were found: score, threshold, seed, model, task. Free text, saved with them."""

    def __post_init__(self) -> None:
        checked: dict[str, Bools] = {}
        for name, mask in self.masks.items():
            if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or not mask.size:
                kind = (
                    f"{mask.dtype}{list(mask.shape)}" if isinstance(mask, np.ndarray) else type(mask).__name__
                )
                raise InputError(f"The mask {name!r} must be a non-empty boolean array, got {kind}.")
            if not booleans(mask):
                raise InputError(f"Some bytes of the mask {name!r} are neither 0 nor 1.")
            checked[name] = mask.copy(order="C")
            checked[name].flags.writeable = False
        if not checked:
            raise InputError("Weight masks need at least one mask.")
        for key, value in self.metadata.items():
            if not (isinstance(key, str) and isinstance(value, str)) or key == _SHAPES:
                raise InputError(
                    f"metadata must be text under names other than {_SHAPES!r}, got {key!r}: {value!r}."
                )
        object.__setattr__(self, "masks", checked)

    @property
    def kept(self) -> int:
        """Number of weights kept."""
        return sum(int(np.count_nonzero(mask)) for mask in self.masks.values())

    @property
    def total(self) -> int:
        """Number of prunable weights."""
        return sum(mask.size for mask in self.masks.values())

    @property
    def share(self) -> float:
        """Share of the prunable weights that is kept."""
        return self.kept / self.total

    def __eq__(self, other: object) -> bool:
        """Same weights kept of the same tensors; how they were found does not matter."""
        if not isinstance(other, WeightMasks):
            return NotImplemented
        return self.masks.keys() == other.masks.keys() and all(
            np.array_equal(mask, other.masks[name]) for name, mask in self.masks.items()
        )

    __hash__ = None  # type: ignore[assignment]

    def digest(self) -> str:
        """Return a SHA-256 of what is kept."""
        digest = hashlib.sha256()
        for name in sorted(self.masks):
            digest.update(name.encode() + np.packbits(self.masks[name].reshape(-1)).tobytes())
        return digest.hexdigest()

    def check(self, model: PreTrainedModel) -> dict[str, nn.Parameter]:
        """Return the parameters that the masks are for, by name.

        Raises:
            InputError: the masks are of a model with other tensors.
            UnsupportedModelError: as :func:`prunable_weights`.
        """
        wanted = prunable_weights(model, last_bias=True)
        least = prunable_weights(model)
        missing = [name for name in least if name not in self.masks]
        foreign = [name for name in self.masks if name not in wanted]
        what = f"These weight masks are not for this {type(model).__name__}"
        if missing or foreign:
            fault = (
                f"they lack {missing[0]!r}"
                if missing
                else f"{foreign[0]!r} is not one of its prunable weights"
            )
            raise InputError(f"{what}: {fault}.")
        if 0 < len(self.masks) - len(least) < len(wanted) - len(least):
            raise InputError(f"{what}: they hold the biases of some MLPs' last layers but not of all.")
        found = {name: parameter for name, parameter in wanted.items() if name in self.masks}
        for name, parameter in found.items():
            if self.masks[name].shape != parameter.shape:
                shapes = f"{list(self.masks[name].shape)}, the model's weight {list(parameter.shape)}"
                raise InputError(f"{what}: the mask {name!r} has shape {shapes}.")
        return found

    @contextmanager
    def applied(self, model: PreTrainedModel) -> Iterator[None]:
        """Set every pruned weight of `model` to zero inside the block.

        The weights themselves are put aside and put back afterwards, whatever happens inside; what the block
        writes into prunable weights is lost. Blocks can be nested (a weight is kept if all keep it).

        Raises:
            InputError: as :meth:`check`.
        """
        parameters = self.check(model)
        originals = {name: parameter.data for name, parameter in parameters.items()}
        try:
            for name, parameter in parameters.items():
                parameter.data = parameter.data.masked_fill(self.pruned(name, parameter), 0)
            yield
        finally:
            for name, parameter in parameters.items():
                parameter.data = originals[name]

    def apply_(self, model: PreTrainedModel) -> None:
        """Set every pruned weight of `model` to zero, for good.

        Raises:
            InputError: as :meth:`check`.
        """
        for name, parameter in self.check(model).items():
            parameter.data.masked_fill_(self.pruned(name, parameter), 0)

    def pruned(self, name: str, parameter: nn.Parameter) -> torch.Tensor:
        """Return where the parameter of this name is pruned: booleans of its shape, on its device."""
        import torch

        return torch.from_numpy(~self.masks[name]).to(parameter.device)

    def save(self, path: Path | str) -> None:
        """Write one ``.safetensors`` file, one bit a weight, atomically.

        It holds a uint8 tensor a mask (``numpy.packbits`` of the flat mask, padded with zeros), and the masks'
        shapes as JSON in its metadata under ``shapes``, beside a checksum.
        """
        from safetensors.numpy import save_file

        packed = {name: np.packbits(mask.reshape(-1)) for name, mask in self.masks.items()}
        shapes = json.dumps({name: mask.shape for name, mask in self.masks.items()})
        with atomic_file(Path(path)) as temporary:
            save_safetensors(save_file, packed, temporary, {**self.metadata, _SHAPES: shapes})

    @classmethod
    def load(cls, path: Path | str, model: PreTrainedModel | None = None) -> WeightMasks:
        """Read what :meth:`save` wrote and, with `model`, check that it is for that model.

        Raises:
            InputError: the path is missing, corrupt, holds something else, or the masks of another model.
        """
        path = Path(path)
        with open_safetensors(path, "a .safetensors file of weight masks") as file:
            metadata = plain_metadata(file)
            shapes = _shapes(path, metadata.pop(_SHAPES, None), set(file.keys()))
            packed = {name: file.get_tensor(name) for name in shapes}
        try:
            loaded = cls({name: _unpacked(name, packed.pop(name), shapes[name]) for name in shapes}, metadata)
            if model is not None:
                loaded.check(model)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        return loaded


def survival(masks: WeightMasks, model: PreTrainedModel) -> Survival:
    """Return how much of each head and of each MLP is kept.

    To a head belong its rows of the query, key and value projections, biases included, and its columns of the
    attention output projection; the output projection's bias belongs to no head. Where several query heads share
    a key and value head, its weights count for each of them. To an MLP belong all prunable weights of its layers.

    Raises:
        InputError: the masks are of another model.
    """

    masks.check(model)
    anatomy = anatomy_of(model)
    names = {parameter: name for name, parameter in anatomy.base.named_parameters()}
    H = anatomy.n_heads

    def weight(module: nn.Module) -> Bools:  # [out, in]
        mask = masks.masks[names[module.weight]]  # type: ignore[index]
        return mask.T if isinstance(module, conv1d()) else mask

    def bias(module: nn.Module) -> Bools | None:  # [out]
        return None if module.bias is None else masks.masks.get(names[module.bias])  # type: ignore[index]

    heads, mlps = [], []
    for number, layer in enumerate(_layers(model)):
        out = weight(layer.output)  # [hidden, H * d_head]
        d_head = out.shape[1] // H
        kept = np.count_nonzero(out, axis=0).reshape(H, d_head).sum(axis=1)
        size = out.shape[0] * d_head
        for module in layer.projections:
            rows, shift = weight(module), bias(module)
            of_rows = np.count_nonzero(rows, axis=1) + (0 if shift is None else shift)
            of_heads = anatomy.head_rows(number, module).numpy()  # [parts, H, d_head]
            kept = kept + of_rows[of_heads].sum(axis=(0, 2))
            size += len(of_heads) * d_head * (rows.shape[1] + (shift is not None))
        heads.append(kept / size)
        parts_of_mlp = [
            mask
            for module in (*layer.mlp_inputs, layer.mlp)
            for mask in (weight(module), bias(module))
            if mask is not None
        ]
        mlps.append(sum(map(np.count_nonzero, parts_of_mlp)) / sum(mask.size for mask in parts_of_mlp))
    return Survival(np.array(heads), np.array(mlps))


def _layers(model: PreTrainedModel) -> list[_Layer]:
    """Return the linear modules of every layer, in the order of a forward pass.

    Raises:
        UnsupportedModelError: as :func:`prunable_weights`.
    """
    anatomy = anatomy_of(model)
    if anatomy.family.experts:
        raise UnsupportedModelError(
            f"The MLPs of a {anatomy.family.name} model are mixtures of experts, whose weights are not pruned one by "
            "one."
        )
    if not all(anatomy.kept_mlps) or any(len(heads) < anatomy.n_heads for heads in anatomy.kept):
        raise InputError("Heads or MLPs were removed from this model; weights are pruned in a whole model.")
    layers = [
        _Layer(*parts)
        for parts in zip(anatomy.projections, anatomy.outputs, anatomy.mlp_inputs, anatomy.mlps, strict=True)
    ]
    for number, layer in enumerate(layers):
        for module in layer.modules:
            # A weight that is computed from other parameters cannot be set to zero.
            own = module._parameters
            if (
                is_linear(module)
                and own.get("weight") is not None
                and (module.bias is None or own.get("bias") is not None)
            ):
                continue
            raise UnsupportedModelError(
                f"Layer {number} of this {type(model).__name__} has a {type(module).__name__} that is not a plain "
                "linear layer, so its weights cannot be pruned; merge adapters, load the model without "
                "quantisation, and make earlier pruning permanent."
            )
    return layers


def _shapes(path: Path, text: str | None, names: set[str]) -> dict[str, tuple[int, ...]]:
    """Return the shapes that the file's metadata tells.

    Raises:
        InputError: there are none, or they do not belong to the tensors in the file.
    """
    try:
        shapes = parse_json(text or "null")
    except (ValueError, RecursionError):
        shapes = None
    if not isinstance(shapes, dict) or not all(
        isinstance(shape, list) and all(type(n) is int and n > 0 for n in shape) for shape in shapes.values()
    ):
        raise InputError(f"{path} is not a file of weight masks: its metadata tells no shapes.")
    if shapes.keys() != names or not names:
        odd = sorted(shapes.keys() ^ names)
        about = f"a shape without a mask or a mask without a shape: {odd[0]!r}" if odd else "no mask"
        raise InputError(f"{path} is not a file of weight masks: it holds {about}.")
    return {name: tuple(shape) for name, shape in shapes.items()}


def _unpacked(name: str, packed: npt.NDArray[Any], shape: tuple[int, ...]) -> Bools:
    n = prod(shape)
    if packed.dtype != np.uint8 or packed.shape != (-(-n // 8),):
        found = f"{packed.dtype}{list(packed.shape)}"
        raise InputError(
            f"the mask {name!r} of shape {list(shape)} should be {-(-n // 8)} bytes, got {found}."
        )
    if n % 8 and packed[-1] & (0xFF >> n % 8):
        raise InputError(f"the mask {name!r} is damaged: bits beyond its {n} weights are set.")
    return np.unpackbits(packed, count=n).view(np.bool_).reshape(shape)


def load_masks(path: Path | str) -> Subnetwork | WeightMasks:
    """Read a subnetwork or weight masks: a file, the folder of a search, or a folder in the published layout.

    Raises:
        InputError: there is neither, or what is there is damaged.
    """
    path = Path(path)
    if path.is_dir():
        found = [path / name for name in (SUBNETWORK_FILE, WEIGHT_MASKS_FILE) if (path / name).is_file()]
        if not found:
            return Subnetwork.load(path)
        path = found[0]
    with open_safetensors(path, "a .safetensors file or a folder of masks") as file:
        of_weights = _SHAPES in (file.metadata() or {})
    return WeightMasks.load(path) if of_weights else Subnetwork.load(path)
