"""The second tap: for families that compute attention on their own and not through the library's interface.

Hooks on three modules of a layer take what the layer itself computes: the probabilities that its attention module
returns, the values that its projection gives, and, as the proof that these two are all there is to it, what it hands to
its output projection.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..common.errors import InputError
from ..common.internals import changed, count_tokens

Show = Callable[[nn.Module, torch.Tensor, torch.Tensor], None]
"""Called with the attention module, P ``[B, H, n, n]`` float32 and V ``[B, H, n, d_head]``."""

_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
"""How far what a layer computes may be from P times V, as a share of its largest number; other types: a tenth."""


class WithoutHeads(nn.Module):
    """Stands for an attention module that has no heads left, where that could not run.

    Its projections, which have nothing to give any more, stay where they are, so that weights keep their names. A
    key/value cache counts the tokens all the same.
    """

    def __init__(self, attention: nn.Module, output: nn.Module) -> None:
        super().__init__()
        for name, part in attention.named_children():
            self.add_module(name, part)
        self._inner = next((name for name, part in attention.named_children() if part is output), None)
        self.layer_idx = getattr(attention, "layer_idx", getattr(attention, "layer_id", None))
        self.register_forward_pre_hook(count_tokens, with_kwargs=True)
        self.train(attention.training)

    def forward(self, hidden: torch.Tensor | None = None, *_: Any, **named: Any) -> tuple[torch.Tensor, None]:
        """Return the sums of no heads ``[B, n, 0]``, or what the output projection makes of them, if it is in here."""
        sums = (named["hidden_states"] if hidden is None else hidden)[..., :0]
        return (sums if self._inner is None else self.get_submodule(self._inner)(sums)), None


class Watched:
    """A layer whose attention is seen by hooks."""

    def __init__(
        self, attention: nn.Module, values: nn.Module, rows: torch.Tensor, output: nn.Module, show: Show
    ) -> None:
        """Watch one layer.

        Args:
            attention: the module that computes attention; asked for ``output_attentions``, it returns them.
            values: the projection that gives the values, alone or with queries and keys.
            rows: ``[H, d_head]``, which outputs of `values` are the values of which head.
            output: the output projection.
            show: what is called after each forward pass of the layer.
        """
        self._attention, self._show, self._rows = attention, show, rows
        self._seen: dict[str, torch.Tensor] = {}
        self._takes = inspect.signature(attention.forward)
        self._hooks = [
            attention.register_forward_pre_hook(self._ask, with_kwargs=True),
            attention.register_forward_hook(self._returned),
            values.register_forward_hook(self._projected),
            output.register_forward_pre_hook(self._handed_on, prepend=True),  # before gates change it
        ]

    def remove(self) -> None:
        """Leave the layer as it was."""
        for hook in self._hooks:
            hook.remove()

    def _ask(self, _: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        self._seen.clear()
        if "output_attentions" not in self._takes.parameters:
            return None
        call = self._takes.bind_partial(*inputs, **named)
        call.arguments["output_attentions"] = True
        return call.args, call.kwargs

    def _projected(self, _: nn.Module, __: Any, output: torch.Tensor) -> None:
        rows = self._rows.to(output.device)
        self._have("values", output[..., rows].transpose(1, 2))  # [B, H, n, d_head]

    def _handed_on(self, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._have("sums", inputs[0])  # [B, n, H * d_head]

    def _returned(self, _: nn.Module, __: Any, output: Any) -> None:
        found = [part for part in output if isinstance(part, torch.Tensor) and part.ndim == 4]
        if len(found) != 1:
            changed(f"{type(self._attention).__name__} does not return its attention")
        self._have("probabilities", found[0])

    def _have(self, name: str, tensor: torch.Tensor) -> None:
        """Keep one of the three, and show them once all are there; in which order they come is the library's affair."""
        self._seen[name] = tensor
        if len(self._seen) == 3:
            P, V, sums = (self._seen.pop(part) for part in ("probabilities", "values", "sums"))
            if P.shape[-1] != V.shape[-2]:
                raise InputError(
                    f"The keys and values of earlier tokens are in a cache, where a {type(self._attention).__name__} "
                    "cannot be observed; give it all tokens at once."
                )
            self._check(P, V, sums)
            self._show(self._attention, P.float(), V)

    def _check(self, P: torch.Tensor, V: torch.Tensor, sums: torch.Tensor) -> None:
        """Refuse a layer that does more to its values than to sum them by P, such as clipping them."""
        with torch.no_grad():
            expected = torch.matmul(P.to(V.dtype), V).transpose(1, 2).flatten(2)
            off = torch.nan_to_num(expected - sums).abs().max()
            limit = _TOLERANCE.get(V.dtype, 0.1) * torch.nan_to_num(sums).abs().max()
        if bool(off > limit):
            changed(
                f"what {type(self._attention).__name__} hands on is not its values summed by its attention, with this "
                "model's settings"
            )
