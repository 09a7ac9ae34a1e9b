"""The observer that measures heads: from a layer's maps to sums per input and head, and nothing else is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from models.anatomy import Anatomy
from models.tap import Block, observe
from models.tasks.inputs import Encoded

from ..maps.attention import ValueNorms
from .measured import OFFSETS, HeadMeasurements
from .pairs import CONTENT, MEASURES, BatchPairs, TokenKinds

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_CELLS = 2**20  # of maps that are summed at a time on a CPU: what its caches can about hold


class Measuring:
    """A :class:`models.tap.BlockObserver` that fills :class:`HeadMeasurements`.

    Args:
        anatomy: of the model.
        tokenizer: the model's.
        kinds: of maps.
        inputs: how many there will be.
        value_norms: of the model, where others need them too.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        tokenizer: PreTrainedTokenizerBase,
        kinds: Sequence[str],
        inputs: int,
        value_norms: ValueNorms | None = None,
    ) -> None:
        self._anatomy = anatomy
        self._value_norms = value_norms or ValueNorms(anatomy)
        self._tokens = TokenKinds(tokenizer)
        self._layer = -1
        local = set(anatomy.local_layers)
        views = np.array([int(layer in local) for layer in range(anatomy.n_layers)])
        heads = (anatomy.n_layers, anatomy.n_heads)
        self.found = HeadMeasurements.empty(kinds, inputs, heads, views)

    @contextmanager
    def watching(self, model: PreTrainedModel) -> Iterator[None]:
        """Observe a model, and what its heads write and what they write to, within the block."""
        layers = {id(module): module for module in self._anatomy.layers}.values()
        outputs = {id(module): module for module in self._anatomy.outputs}.values()
        hooks = [
            self._anatomy.runs.register_forward_pre_hook(self._begin),
            *(module.register_forward_pre_hook(self._enter, with_kwargs=True) for module in layers),
            *(module.register_forward_pre_hook(self._written) for module in outputs),
        ]
        try:
            with observe(model, self, stack=self._anatomy.family.stack):
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def start(self, positions: list[int], members: Sequence[Encoded]) -> None:
        """Prepare for a batch: its positions in the result, and its inputs as they stand along their maps."""
        self._positions, self._members = positions, members
        self.found.tokens[positions] = [len(member) for member in members]
        # By view and device: a model may be spread over several.
        self._pairs: dict[tuple[int, torch.device], BatchPairs] = {}
        self._fixed: dict[tuple[int, ...], tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}

    @property
    def in_blocks(self) -> bool:
        """Whether blocks of queries will do: always."""
        return True

    def block(self, layer: int, block: Block, values: torch.Tensor) -> None:
        """Add some rows of one layer of the batch."""
        self._add(layer, block.probabilities, values, block.rows, block.keys)

    def __call__(self, layer: int, probabilities: torch.Tensor, values: torch.Tensor) -> None:
        """Add one layer of the batch."""
        everything = slice(0, probabilities.shape[-1])
        self._add(layer, probabilities, values, everything, everything)

    def _view(self, layer: int, n: int, device: torch.device) -> BatchPairs:
        """Return the batch's pairs as a layer sees them."""
        view = int(self.found.views[layer])
        if (view, device) not in self._pairs:
            window = self._anatomy.window if view else None
            pairs = BatchPairs(self._members, self._tokens, n, self._anatomy.causal, window, device)
            self._pairs[view, device] = pairs
            self.found.counts[self._positions, view] = pairs.counts.cpu().numpy()
            self.found.chance[self._positions, view] = pairs.chance.cpu().numpy()
            self.found.queries[self._positions, view] = pairs.queries.cpu().numpy()
        return self._pairs[view, device]

    def _add(
        self, layer: int, probabilities: torch.Tensor, values: torch.Tensor, rows: slice, keys: slice
    ) -> None:
        pairs = self._view(layer, values.shape[2], values.device)
        weights = pairs.weights(rows, keys)
        # The same for every layer that has these pairs: small, and slow to make.
        at = (id(pairs), rows.start, rows.stop, keys.start, keys.stop)
        if at not in self._fixed:
            self._fixed[at] = (pairs.entropy_weights(rows, keys), *_diagonals(rows, keys, pairs.real))
        most, places, lines = self._fixed[at]
        norms = self._value_norms(layer, values)[:, :, keys] if "norm" in self.found.kinds else None
        b, h, m, k = probabilities.shape
        step = b if probabilities.device.type != "cpu" else max(1, _CELLS // (h * m * k))
        sums: dict[str, list[torch.Tensor]] = {kind: [] for kind in self.found.kinds}
        for first in range(0, b, step):
            part = slice(first, first + step)
            some = probabilities[part].float()
            logs = _logs(some)
            for kind in self.found.kinds:
                if norms is None or kind == "raw":
                    maps, entropy = _raw(some, logs)
                else:
                    maps, entropy = _norm(some, logs, norms[part])
                cells = maps.flatten(2)
                near = cells.index_select(2, places) * lines[part, None]
                sums[kind].append(
                    torch.cat(
                        (
                            torch.bmm(cells, weights[part].transpose(1, 2)),
                            near.unflatten(2, (m, len(OFFSETS))).sum(dim=2),
                            (entropy * most[part, None]).sum(dim=-1, keepdim=True),
                        ),
                        dim=-1,
                    )
                )
        for kind, found in sums.items():
            self._keep(kind, layer, torch.cat(found))

    def _keep(self, kind: str, layer: int, sums: torch.Tensor) -> None:
        found = self.found
        at = np.ix_(self._positions, [layer], self._anatomy.kept[layer])
        numbers = sums.cpu().numpy()[:, None]  # [B, 1, H, ...]
        shares, permuted, mass, offsets, entropy = np.split(
            numbers, np.cumsum((len(MEASURES), 2 * len(CONTENT), 1, len(OFFSETS))).tolist(), axis=-1
        )
        found.sums[kind][at] += shares
        found.permuted[kind][at] += permuted.reshape(*permuted.shape[:-1], len(CONTENT), 2)
        found.mass[kind][at] += mass[..., 0]
        found.entropy[kind][at] += entropy[..., 0]
        found.offsets[kind][layer, self._anatomy.kept[layer]] += offsets[:, 0].sum(axis=0, dtype=np.float64)

    # ---- what is written

    def _begin(self, *_: Any) -> None:
        self._layer = -1

    def _enter(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._layer += 1
        stream = args[0] if args else kwargs["hidden_states"]
        self._stream = stream.float().norm(dim=-1)  # [B, n]

    def _written(self, module: Any, args: tuple[Any, ...]) -> None:
        layer = self._layer
        kept = self._anatomy.kept[layer]
        if not kept:
            return
        b, n = self._stream.shape
        heads = args[0].reshape(b, n, len(kept), -1).transpose(1, 2)  # [B, H, n, d_head]
        written = self._value_norms(layer, heads)  # [B, H, n]
        real = self._view(layer, n, written.device).real
        ratio = torch.where(real, 1 / self._stream.clamp_min(torch.finfo(torch.float32).tiny), 0.0)
        mean = torch.matmul(written, ratio[:, :, None])[..., 0] / real.sum(dim=1)[:, None]
        self.found.writes[np.ix_(self._positions, [layer], kept)] = mean.cpu().numpy()[:, None]


def _logs(maps: torch.Tensor) -> torch.Tensor:
    """Return ``P log P`` of probabilities, 0 where P is 0; three times as fast as ``torch.special.entr``."""
    return maps.clamp_min(torch.finfo(maps.dtype).tiny).log_().mul_(maps)


def _raw(maps: torch.Tensor, logs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return probabilities as they are, and the entropy ``[B, H, m]`` of their rows, taken to sum to 1.

    Rows of a model with attention sinks sum to less.
    """
    total = maps.sum(dim=-1)
    safe = total.clamp_min(torch.finfo(total.dtype).tiny)
    return maps, torch.where(total > 0, safe.log() - logs.sum(dim=-1) / safe, 0.0)


def _norm(maps: torch.Tensor, logs: torch.Tensor, norms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return norm-weighted maps whose rows sum to 1 (or are 0), and the entropy ``[B, H, m]`` of the rows.

    With ``q = P f / s``, ``s`` the sum of ``P f`` over keys, it is ``log s - sum q log f - sum f P log P / s``.
    So P's logarithms, which are what takes time, serve both kinds of maps; `logs` are not the same afterwards.
    """
    norms = norms[:, :, None]
    weighted = maps * norms
    total = weighted.sum(dim=-1)
    safe = total.clamp_min(torch.finfo(total.dtype).tiny)
    scale = torch.where(total > 0, 1 / safe, 0.0)
    weighted *= scale[..., None]
    of_norms = (weighted * norms.clamp_min(torch.finfo(norms.dtype).tiny).log()).sum(dim=-1)
    of_maps = logs.mul_(norms).sum(dim=-1) * scale
    return weighted, torch.where(total > 0, safe.log() - of_norms - of_maps, 0.0)


def _diagonals(rows: slice, keys: slice, real: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where in a map's cells ``[m * k]`` the keys at each of :data:`OFFSETS` are, ``[m * 17]``, and weights.

    The weights ``[B, m * 17]`` are 1 for real queries whose key at that distance is there.
    """
    query = torch.arange(rows.start, rows.stop, device=real.device)[:, None]
    key = query + torch.tensor(OFFSETS, device=real.device)
    there = (key >= keys.start) & (key < keys.stop)
    places = (query - rows.start) * (keys.stop - keys.start) + (key - keys.start)
    weights = there & real[:, rows, None]
    return torch.where(there, places, 0).flatten(), weights.float().flatten(1)
