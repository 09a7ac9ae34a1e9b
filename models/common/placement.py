"""Where a model's weights are, and what they are, if they are not all on one device as plain numbers.

accelerate places a model's parts on several devices, or leaves them in memory or on the disk until they are needed
(``device_map``): hooks on its modules fetch them for a forward pass, and outside of it there is nothing to read.
Libraries that quantise weights replace linear layers by classes of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .errors import InputError, UnsupportedModelError

if TYPE_CHECKING:
    import torch
    from torch import nn

_QUANTISERS = (
    "bitsandbytes",
    "torch.ao",
    "torchao",
    "transformers.integrations",  # its own fp8, BitNet ...
    "gptqmodel",
    "auto_gptq",
    "awq",
    "hqq",
    "optimum",
    "compressed_tensors",
)
"""Packages whose linear layers hold weights in few bits."""

_UNITS = 256  # unit vectors that a layer is given at a time
_ROUNDING = 0.2  # of the norm: inputs are rounded to few bits too by some


def _hook(module: nn.Module) -> Any:
    """What accelerate has attached to a module; None where it left it alone."""
    return getattr(module, "_hf_hook", None)


def is_placed(model: nn.Module) -> bool:
    """Return whether accelerate fetches weights or inputs during a forward pass."""
    return any(_hook(module) is not None for module in model.modules())


def placed_parts(model: nn.Module) -> dict[str, str] | None:
    """Return where accelerate has put the parts of a model; None where it was not asked to."""
    placed = getattr(model, "hf_device_map", None)
    return {part: str(where) for part, where in placed.items()} if placed else None


def refuse_placed(model: nn.Module, what: str) -> None:
    """Refuse a model whose weights accelerate has placed on several devices, in memory or on the disk.

    Raises:
        InputError: saying that it is not done to such a model.
    """
    if is_placed(model):
        raise InputError(
            f"{what} needs all weights on one device, but accelerate has placed those of this {type(model).__name__} "
            "on several, or offloaded them; load it without device_map."
        )


def home_of(model: Any) -> torch.device:
    """Return the device on which a model takes its inputs.

    Raises:
        InputError: its weights are nowhere.
    """
    import torch

    device: torch.device = model.device
    if device.type != "meta":
        return device
    for module in model.modules():
        if (found := getattr(_hook(module), "execution_device", None)) is not None:
            return torch.device(found)
    raise InputError(f"This {type(model).__name__} is on the meta device: it has no weights.")


@contextmanager
def weights_at_hand(module: nn.Module) -> Iterator[None]:
    """Fetch the weights of one module inside the block, wherever accelerate has left them.

    Raises:
        InputError: they are nowhere.
    """
    if _hook(module) is None:
        yield
    else:
        from accelerate.utils import align_module_device

        with align_module_device(module):
            yield


def is_quantised(module: nn.Module) -> bool:
    """Return whether a linear layer holds its weight in few bits, as far as is known here."""
    import torch

    package = type(module).__module__
    weight = getattr(module, "weight", None)
    return package.startswith(tuple(f"{name}." for name in _QUANTISERS)) or (
        isinstance(weight, torch.Tensor) and type(weight).__module__.startswith(_QUANTISERS)
    )


def numbers_of(module: nn.Module, dtype: torch.dtype) -> torch.Tensor:
    """Return the weight ``[outputs, inputs]``, float32, that a quantised linear layer computes with.

    Libraries keep the bits in orders of their own, which change at the first forward pass on some machines. So the
    layer itself is asked: a column of its weight is what it makes of a unit vector. What it makes of a vector at random
    must follow from these columns.

    Args:
        module: a quantised linear layer.
        dtype: of the model's hidden states; layers may take for good the precision of what they are given first.

    Raises:
        UnsupportedModelError: it does not compute like a linear layer.
    """
    import torch

    layer: Any = module
    device = next((part.device for part in (*layer.parameters(), *layer.buffers())), torch.device("cpu"))
    try:
        with torch.no_grad():
            width = int(layer.in_features)

            def made_of(inputs: torch.Tensor) -> torch.Tensor:
                return layer.forward(inputs.to(device, dtype)).float()

            nothing = made_of(torch.zeros(1, width))
            columns = [made_of(units) - nothing for units in torch.eye(width).split(_UNITS)]
            weight = torch.cat(columns).T  # [outputs, inputs]
            tried = torch.randn(8, width, generator=torch.Generator().manual_seed(0))
            found, expected = made_of(tried) - nothing, tried.to(weight) @ weight.T
            if bool((found - expected).norm() <= _ROUNDING * expected.norm()):
                return weight
    except (RuntimeError, AttributeError, TypeError, ValueError, AssertionError, NotImplementedError):
        pass
    raise UnsupportedModelError(
        f"Norm maps are made of the weights of the output projection, and those of a {type(module).__name__} "
        f"({type(module).__module__}) cannot be found out; look at raw maps only, or load the model without "
        "quantisation."
    )
