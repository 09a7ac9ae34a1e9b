"""The cross-attention of every head of a model on some inputs: measured, and averaged to a map each to look at."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from models.anatomy import Anatomy, anatomy_of
from models.common.errors import InputError
from models.common.placement import home_of
from models.common.progress import progress_bar
from models.common.results import Tabular
from models.tap import Block, observe
from models.tasks.inputs import TextPair, as_texts, batches, feed, padding_of
from models.tasks.rows import Row, row_ids
from models.tasks.task import Task, task_named

from ..heads import check_finite, check_sizes, length_warnings, model_warnings
from ..maps.attention import ValueNorms, check_kinds
from ..maps.images import resampling_matrices
from ..taxonomy import KINDS
from .measures import MEASURES, Source, sums

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FEWEST = 2
"""Source tokens: among fewer there is no choice."""

SIDE = 16
"""Cells along a side of a mean map."""

FEEDING = (
    "The decoder reads the same text as the encoder, after a start token, as the library feeds it for classification: "
    "of a model that translates or summarises, these are not the maps of a translation or a summary."
)


@dataclass(frozen=True, eq=False, repr=False)
class CrossAttention(Tabular):
    """What :func:`cross_attention` found: some numbers for every example and head, and a mean map of every head."""

    measured: Mapping[str, npt.NDArray[np.float32]]
    """By kind, ``[E, L, H, measures]`` in the order of :data:`~patterns.cross.measures.MEASURES`; NaN for a map that is
    zero in every cell."""
    mean_maps: Mapping[str, npt.NDArray[np.float32]]
    """By kind, ``[L, H, SIDE, SIDE]``: each head's maps, each averaged to so many cells and scaled to a sum of 1, mean
    over examples. Rows are the decoder's tokens."""
    examples: npt.NDArray[np.int64]
    """``[E]``: each example's ``idx``, or its position in the rows."""
    n_tokens: npt.NDArray[np.int64]
    """``[E]``: tokens of the source, special tokens included."""
    warnings: tuple[str, ...] = ()
    inputs: Mapping[str, object] = dataclasses.field(default_factory=dict)
    """What the model was fed; see :class:`models.tasks.inputs.Fed`."""

    def __repr__(self) -> str:
        shape = " x ".join(map(str, next(iter(self.measured.values())).shape[:3]))
        return f"CrossAttention({', '.join(self.kinds)}: {shape} maps, measured and not classified)"

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of maps, raw first."""
        return tuple(self.measured)

    @property
    def shape(self) -> tuple[int, int]:
        """Layers, and heads of each."""
        return next(iter(self.mean_maps.values())).shape[:2]

    def empty_maps(self, kind: str) -> int:
        """Return how many maps are zero in every cell; they are left out of everything else."""
        return int(np.isnan(self.measured[kind][..., 0]).sum())

    def means(self, kind: str) -> dict[str, float]:
        """Return each measure's mean over all examples and heads; NaN if all maps are zero in every cell."""
        found = self.measured[kind].astype(np.float64).reshape(-1, len(MEASURES))
        found = found[~np.isnan(found[:, 0])]
        return dict(
            zip(
                MEASURES,
                map(float, found.mean(axis=0) if len(found) else found.sum(axis=0) * np.nan),
                strict=True,
            )
        )

    def to_frame(self) -> pd.DataFrame:
        """Return one row per kind and head.

        Columns: ``kind, layer, head, n``, each measure's mean over the ``n`` maps that are not zero in every cell (NaN
        if there is none), and ``count_empty``, how many are.
        """
        import pandas as pd

        frames = []
        layer, head = (places.ravel() for places in np.indices(self.shape))
        for kind, found in self.measured.items():
            there = ~np.isnan(found[..., 0])  # [E, L, H]
            n = there.sum(axis=0)
            with np.errstate(invalid="ignore"):
                means = np.where(there[..., None], found, 0).sum(axis=0, dtype=np.float64) / n[..., None]
            columns: dict[str, Any] = {"kind": kind, "layer": layer, "head": head, "n": n.ravel()}
            columns |= {name: means[..., i].ravel() for i, name in enumerate(MEASURES)}
            frames.append(pd.DataFrame(columns | {"count_empty": (~there).sum(axis=0).ravel()}))
        return pd.concat(frames, ignore_index=True)

    def maps_frame(self) -> pd.DataFrame:
        """Return one row per kind, example and head: ``kind, example, layer, head, n_tokens`` and each measure."""
        import pandas as pd

        frames = []
        example, layer, head = (places.ravel() for places in np.indices((len(self.examples), *self.shape)))
        for kind, found in self.measured.items():
            columns: dict[str, Any] = {
                "kind": kind,
                "example": self.examples[example],
                "layer": layer,
                "head": head,
            }
            columns["n_tokens"] = self.n_tokens[example]
            columns |= {name: found[..., i].ravel() for i, name in enumerate(MEASURES)}
            frames.append(pd.DataFrame(columns))
        return pd.concat(frames, ignore_index=True)

    def cells_frame(self, kind: str) -> pd.DataFrame:
        """Return one row per head and cell of its mean map: ``layer, head, row, column, share``."""
        import pandas as pd

        maps = self.mean_maps[kind]
        places = zip(("layer", "head", "row", "column"), np.indices(maps.shape), strict=True)
        return pd.DataFrame({name: place.ravel() for name, place in places} | {"share": maps.ravel()})

    def plot(self, kind: str | None = None) -> Figure:
        """Draw the mean map of every head.

        Args:
            kind: of the maps; the first that was measured if None.

        Raises:
            InputError: there are no maps of this kind.
        """
        from .figures import mean_maps

        kind = self.kinds[0] if kind is None else kind
        if kind not in self.mean_maps:
            raise InputError(f"No {kind!r} maps were measured, only {' and '.join(self.kinds)}.")
        return mean_maps(self.mean_maps[kind], kind)


def cross_attention(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row | TextPair],
    *,
    task: str | Task | None = None,
    kinds: Sequence[str] = KINDS,
    batch_size: int = 16,
    max_length: int = 128,
    progress: bool = False,
) -> CrossAttention:
    """Measure the map of every head of a model's cross-attention on every row.

    The decoder reads each text after a start token (:meth:`models.Anatomy.fed`). Arguments are those of
    :func:`patterns.classify_heads`.

    Raises:
        InputError: no usable row, an unknown kind, or a model in training mode.
        UnsupportedModelError: the model has no cross-attention, or its family is not supported.
    """
    kinds = check_kinds(kinds)
    check_sizes(batch_size, max_length)
    rows = list(rows)
    anatomy = anatomy_of(model, "cross")
    fed = feed(model, tokenizer, as_texts(rows, None if task is None else task_named(task)), max_length)
    usable = [i for i, encoded in enumerate(fed.inputs) if len(encoded) >= FEWEST]
    if not usable:
        raise InputError(
            f"None of the {len(rows)} rows has the {FEWEST} tokens that a choice among them needs."
        )
    inputs = [fed.inputs[i] for i in usable]
    ids = np.array(row_ids(rows), dtype=np.int64)[usable]
    special = [i for i in tokenizer.all_special_ids if i != tokenizer.unk_token_id]
    seen = _Measuring(anatomy, kinds, len(inputs))
    with (
        torch.inference_mode(),
        observe(model, seen, stack="cross"),
        progress_bar(total=len(inputs), unit="example", what="measuring heads", shown=progress) as bar,
    ):
        for positions, tensors in batches(inputs, batch_size, padding_of(tokenizer), home_of(model)):
            tensors = anatomy.fed(tensors)
            seen.start(positions, tensors, special)
            model(**tensors)
            bar.update(len(positions))
    check_finite(seen.images, ids)
    return CrossAttention(
        measured=seen.measured,
        mean_maps={kind: _mean(images) for kind, images in seen.images.items()},
        examples=ids,
        n_tokens=np.array([len(encoded) for encoded in inputs]),
        warnings=(
            *fed.warnings,
            *length_warnings(fed.inputs, fed.limit, FEWEST),
            *model_warnings(model, anatomy, kinds),
            FEEDING,
            *_empty_warnings(seen.measured),
        ),
        inputs=fed.record,
    )


class _Measuring:
    """The observer: from one layer's P and V to numbers and images; a :class:`models.tap.BlockObserver`."""

    in_blocks = True

    def __init__(self, anatomy: Anatomy, kinds: Sequence[str], n_inputs: int) -> None:
        self._value_norms = ValueNorms(anatomy)
        self._kinds = kinds
        layers, heads = anatomy.n_layers, anatomy.n_heads
        self.measured = {
            kind: np.full((n_inputs, layers, heads, len(MEASURES)), np.nan, np.float32) for kind in kinds
        }
        self.images = {kind: np.zeros((n_inputs, layers, heads, SIDE, SIDE), np.float32) for kind in kinds}

    def start(
        self, positions: list[int], tensors: Mapping[str, torch.Tensor], special: Sequence[int]
    ) -> None:
        """Prepare for a batch: its places in the result, and what it is fed."""
        ids, keys, queries = (
            tensors[name] for name in ("input_ids", "attention_mask", "decoder_attention_mask")
        )
        self._positions = positions
        self._rows = queries.bool()
        self._keys = keys.bool()
        numbers = torch.tensor(list(special), dtype=ids.dtype, device=ids.device)
        self._source = Source(keys.sum(dim=1), torch.isin(ids, numbers) & self._keys)
        self._cells = [resampling_matrices(mask.sum(dim=1), mask.shape[1], SIDE) for mask in (queries, keys)]

    def __call__(self, layer: int, probabilities: torch.Tensor, values: torch.Tensor) -> None:
        """Look at a whole layer; see :data:`models.tap.Observer`."""
        n, m = probabilities.shape[2:]
        self.block(layer, Block(probabilities, slice(0, n), slice(0, m), last=True), values)

    def block(self, layer: int, block: Block, values: torch.Tensor) -> None:
        """Add some rows of a layer; see :class:`models.tap.BlockObserver`."""
        device = values.device
        if block.rows.start == 0:
            shape = (len(self._kinds), *values.shape[:2])
            self._sums = torch.zeros(*shape, len(MEASURES), device=device)
            self._shown = torch.zeros(*shape, SIDE, SIDE, device=device)
            self._norms = self._value_norms(layer, values) if "norm" in self._kinds else None
        rows, source = self._rows[:, block.rows].to(device), self._source.to(device)
        there = self._keys.to(device)[:, None, None]
        maps = block.probabilities.float()
        if maps.shape[-1] != there.shape[-1]:  # keys that none of these rows sees
            maps = torch.nn.functional.pad(maps, (block.keys.start, there.shape[-1] - block.keys.stop))
        maps = maps * there
        cells, columns = (matrices.to(device) for matrices in self._cells)
        for place, kind in enumerate(self._kinds):
            found = maps if kind == "raw" or self._norms is None else maps * self._norms[:, :, None]
            self._sums[place] += sums(found, rows, source)
            some = torch.matmul(cells[:, None, :, block.rows], found)  # [B, H, SIDE, m]
            self._shown[place] += torch.matmul(some, columns[:, None].transpose(2, 3))
        if block.last:
            self._keep(layer)

    def _keep(self, layer: int) -> None:
        n_rows = self._rows.sum(dim=1).to(self._sums.device)[:, None, None]
        for place, kind in enumerate(self._kinds):
            whole = self._shown[place].sum(dim=(-2, -1), keepdim=True)
            means = self._sums[place] / n_rows
            means[whole[..., 0, 0] == 0] = np.nan
            self.measured[kind][self._positions, layer] = means.cpu().numpy()
            scaled = self._shown[place] / whole.clamp_min(torch.finfo(whole.dtype).tiny)
            self.images[kind][self._positions, layer] = scaled.cpu().numpy()
        del self._sums, self._shown


def _mean(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the mean ``[L, H, SIDE, SIDE]`` of the maps that are not zero in every cell, 0 where there is none."""
    there = (images.sum(axis=(-2, -1)) > 0).sum(axis=0)
    return (images.sum(axis=0, dtype=np.float64) / np.maximum(there, 1)[..., None, None]).astype(np.float32)


def _empty_warnings(measured: Mapping[str, npt.NDArray[np.float32]]) -> list[str]:
    return [
        f"{number} {kind} maps are zero in every cell, as those of a head whose weights are all zero, and are left out."
        for kind, found in measured.items()
        if (number := int(np.isnan(found[..., 0]).sum()))
    ]
