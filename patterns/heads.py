"""The patterns of every head of a model on some inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from models.anatomy import Anatomy, anatomy_of
from models.checkpoints import precision_of
from models.common.errors import InputError
from models.common.placement import home_of, is_quantised
from models.common.progress import part, progress_bar
from models.subnetwork import Subnetwork
from models.tap import Block, observe
from models.tasks.inputs import Encoded, TextPair, as_texts, batches, feed, padding_of
from models.tasks.rows import Row, row_ids
from models.tasks.task import Task, task_named

from .classifier.network import PatternClassifier, load_classifier
from .distribution import COVERS, EMPTY, FEW_EXAMPLES, check_seed
from .maps.attention import SharedValueNorms, ValueNorms, check_kinds
from .maps.examples import ExampleMaps, small_maps
from .maps.images import Resampling, SummedImages, evened, image_pair, largest_cells, on_scale
from .measures.observing import Measuring
from .result import HeadPatterns
from .taxonomy import KINDS, PATTERNS

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MIN_TOKENS = 4
"""Fewer tokens cannot show a pattern: two of them are special tokens."""

NOT_CLASSIFIED = (
    "--stack cross: a map of how a decoder's tokens read an encoder's has no diagonal to speak of, so it is not "
    "classified; patterns.measure_cross_attention measures these maps, as the command classify-heads does, and "
    "patterns.attention_maps(model, batch, stack='cross') gives them."
)
"""Why there are no patterns of cross-attention."""

MapSink = Callable[[int, int, Encoded, str, npt.NDArray[np.float32]], None]
"""Called as ``sink(example, layer, encoded, kind, maps [H, n, n])`` for every input and layer; see
:data:`models.tap.Observer` for a compacted model."""


def classify_heads(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row | TextPair],
    *,
    task: str | Task | None = None,
    kinds: Sequence[str] = KINDS,
    classifiers: Mapping[str, PatternClassifier] | None = None,
    batch_size: int = 16,
    max_length: int = 128,
    seed: int = 0,
    progress: bool = False,
    sink: MapSink | None = None,
    examples: ExampleMaps | None = None,
    stack: str | None = None,
    measure: bool = False,
) -> HeadPatterns:
    """Classify the attention map of every head on every row.

    Args:
        model: of a supported family, in evaluation mode, with or without a task head. Of a compacted model, the
            heads that are left are classified and counted, under the numbers that they had.
        tokenizer: the model's.
        rows: GLUE dicts (then `task` is needed) or ``(text, text | None)``.
        task: whose columns the rows have.
        kinds: ``raw``, ``norm`` or both.
        classifiers: by kind; the shipped ones where none is given.
        batch_size: inputs per forward pass; does not change the result.
        max_length: tokens, special tokens included; longer inputs are cut, and the result says how many.
        seed: of the bootstrap.
        progress: show a progress bar on stderr.
        sink: receives every map before it is forgotten; see :data:`MapSink`.
        examples: keeps a few maps of every head to look at.
        stack: of an encoder-decoder, whose heads: ``encoder`` (also if None) or ``decoder``, which reads the same text
            after a start token (:meth:`models.Anatomy.fed`).
        measure: measure on the way what each head does, without any label: see
            :meth:`patterns.HeadPatterns.measurements`.

    Raises:
        InputError: no usable row, an unknown kind, a classifier of the wrong kind, or a model in training mode or
            without any head left.
        UnsupportedModelError: the model's family is not supported.
    """
    kinds = check_kinds(kinds)
    check_sizes(batch_size, max_length)
    check_seed(seed)
    rows = list(rows)
    anatomy = anatomy_of(model, stack)
    if anatomy.family.stack == "cross":
        raise InputError(NOT_CLASSIFIED)
    there = Subnetwork.of_structure((anatomy.kept, anatomy.kept_mlps), anatomy.n_heads).heads
    if not there.any():
        raise InputError("The model has no attention head left, so there is no pattern to see.")
    chosen = _classifiers(kinds, classifiers, home_of(model))
    task = None if task is None else task_named(task)
    fed = feed(model, tokenizer, as_texts(rows, task), max_length)
    usable = _usable(fed.inputs)
    inputs = [fed.inputs[i] for i in usable]
    ids = np.array(row_ids(rows), dtype=np.int64)[usable]
    if examples is not None:
        examples.begin(tokenizer)

    shape = (len(inputs), *there.shape, len(PATTERNS))
    probabilities = {kind: np.zeros(shape, dtype=np.float32) for kind in kinds}
    norms = SharedValueNorms(anatomy)
    seen = Classification(anatomy, chosen, probabilities, examples, norms)
    measuring = Measuring(anatomy, tokenizer, kinds, len(inputs), norms) if measure else None
    with part(f"heads classified on {len(inputs):,} examples"):
        _look(model, tokenizer, anatomy, inputs, ids, seen, batch_size, sink, progress, measuring)
    check_finite(probabilities, ids)
    return HeadPatterns(
        labels=_labels(probabilities, seen.empty),
        probabilities=probabilities,
        examples=ids,
        n_tokens=np.array([len(encoded) for encoded in inputs]),
        heads=there,
        seed=seed,
        inputs=fed.record,
        warnings=(
            *fed.warnings,
            *_input_warnings(fed.inputs, fed.limit, chosen),
            *model_warnings(model, anatomy, kinds),
            *_empty_warnings(seen.empty, len(inputs)),
        ),
        causal=anatomy.causal,
        classifiers={kind: chosen[kind].version for kind in kinds},
        measured=None if measuring is None else measuring.found,
    )


def _look(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    anatomy: Anatomy,
    inputs: Sequence[Encoded],
    ids: npt.NDArray[np.int64],
    seen: Classification,
    batch_size: int,
    sink: MapSink | None,
    progress: bool,
    measuring: Measuring | None,
) -> None:
    """Run the model on inputs, whose rows are `ids`, while `seen`, and `measuring` if it is there, watch."""
    with (
        torch.inference_mode(),
        observe(model, seen, stack=anatomy.family.stack),
        nullcontext() if measuring is None else measuring.watching(model),
        progress_bar(total=len(inputs), unit="example", what="classifying heads", shown=progress) as bar,
    ):
        for positions, tensors in batches(inputs, batch_size, padding_of(tokenizer), home_of(model)):
            seen.start(positions, tensors["attention_mask"].sum(dim=1))
            members = [_read(inputs[i], anatomy) for i in positions]
            seen.sink = sink and _cropped(sink, ids[positions], members)
            if seen.examples is not None:
                seen.examples.start(ids[positions], members)
            if measuring is not None:
                measuring.start(positions, members)
            model(**anatomy.fed(tensors))
            bar.update(len(positions))


def _usable(inputs: Sequence[Encoded]) -> list[int]:
    """Return the places of the inputs that are long enough for a pattern."""
    usable = [i for i, encoded in enumerate(inputs) if len(encoded) >= MIN_TOKENS]
    if not usable:
        raise InputError(f"None of the {len(inputs)} rows has the {MIN_TOKENS} tokens that a pattern needs.")
    return usable


def _labels(
    probabilities: Mapping[str, npt.NDArray[np.float32]], empty: Mapping[str, npt.NDArray[np.bool_]]
) -> dict[str, npt.NDArray[np.int8]]:
    """Return by kind the most probable pattern of each map; probabilities of empty maps become NaN."""
    labels = {kind: of_kind.argmax(axis=-1).astype(np.int8) for kind, of_kind in probabilities.items()}
    for kind, places in empty.items():
        labels[kind][places], probabilities[kind][places] = EMPTY, np.nan
    return labels


def check_sizes(batch_size: int, max_length: int) -> None:
    """Refuse a batch without inputs and a length without a pattern.

    Raises:
        InputError: one of them is too small.
    """
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size}: give at least 1.")
    if max_length < MIN_TOKENS:
        raise InputError(
            f"max_length={max_length}: give at least {MIN_TOKENS}, fewer tokens have no pattern."
        )


def _read(encoded: Encoded, anatomy: Anatomy) -> Encoded:
    """Return an input as the tokens stand along its maps: a decoder's begin with a start token."""
    if anatomy.family.stack != "decoder" or anatomy.start_token is None:
        return encoded
    last = len(encoded) - 1
    return replace(
        encoded,
        input_ids=[anatomy.start_token, *encoded.input_ids[:-1]],
        borders=tuple(sorted({min(border + 1, last) for border in encoded.borders})),
    )


class Classification:
    """The observer: from one layer's P and V to probabilities, which are kept, and nothing else is.

    It is a :class:`models.tap.BlockObserver`: unless a sink wants whole maps, long inputs are seen in blocks.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        classifiers: Mapping[str, PatternClassifier],
        probabilities: Mapping[str, npt.NDArray[np.float32]],
        examples: ExampleMaps | None = None,
        value_norms: ValueNorms | None = None,
    ) -> None:
        self._kept = anatomy.kept
        self._causal = anatomy.causal
        self._value_norms = value_norms or ValueNorms(anatomy)
        self._classifiers = classifiers
        self._probabilities = probabilities
        self.examples = examples
        self.sink: Callable[[int, str, torch.Tensor], None] | None = None
        self.empty = {kind: np.zeros(found.shape[:-1], dtype=bool) for kind, found in probabilities.items()}
        """By kind, ``[E, L, H]``: which maps are zero in every cell."""

    def start(self, positions: list[int], lengths: torch.Tensor) -> None:
        """Prepare for a batch: its positions in the result and its lengths ``[B]``."""
        n = int(lengths.max())
        self._positions, self._lengths = positions, lengths.tolist()
        self._small = None if self.examples is None else small_maps(lengths, n)
        self._resampling = {
            size: Resampling.of(lengths, n, size)
            for size in {classifier.size for classifier in self._classifiers.values()}
        }

    @property
    def in_blocks(self) -> bool:
        """Whether nobody wants a map whole."""
        return self.sink is None

    def block(self, layer: int, block: Block, values: torch.Tensor) -> None:
        """Add some rows of one layer of the batch to its images, and classify them after the last."""
        if block.rows.start == 0:
            norms = self._norms_of(layer, values)
            self._largest = values.new_zeros(values.shape[:3], dtype=torch.float32)
            self._factors = norms
            self._sums = {size: SummedImages(one, norms, values) for size, one in self._resampling.items()}
            self._shown = self._small and SummedImages(self._small, norms, values)
        for images in [*self._sums.values(), *([self._shown] if self._shown else [])]:
            images.add(block.probabilities, block.rows, block.keys)
        left = [min(max(n - block.rows.start, 0), block.probabilities.shape[2]) for n in self._lengths]
        largest = self._largest[:, :, block.keys]
        torch.maximum(largest, largest_cells(block.probabilities, left), out=largest)
        if block.last:
            pairs = {size: (images.raw, images.norm) for size, images in self._sums.items()}
            for kind, found, empty in self._classified(layer, pairs, self._largest, self._factors):
                if self.examples is not None and self._shown:
                    raw, norm = self._shown.raw, self._shown.norm
                    shown = raw if kind == "raw" or norm is None else norm
                    gather = partial(_gather, shown, None)
                    self.examples.see(kind, layer, self._kept[layer], found, gather, empty)
            del self._sums, self._shown, self._largest, self._factors

    def __call__(self, layer: int, probabilities: torch.Tensor, values: torch.Tensor) -> None:
        """Classify one layer of the batch; see :data:`models.tap.Observer`."""
        norms = self._norms_of(layer, values)
        pairs = {
            size: image_pair(probabilities, norms, resampling.matrices.to(probabilities.device))
            for size, resampling in self._resampling.items()
        }
        largest = largest_cells(probabilities, self._lengths)
        for kind, found, empty in self._classified(layer, pairs, largest, norms):
            if self.examples is not None:
                factors = None if kind == "raw" else norms
                gather = partial(_gather, probabilities, factors)
                self.examples.see(kind, layer, self._kept[layer], found, gather, empty)
            if self.sink:
                maps = probabilities if kind == "raw" or norms is None else probabilities * norms[:, :, None]
                self.sink(layer, kind, maps)

    def _norms_of(self, layer: int, values: torch.Tensor) -> torch.Tensor | None:
        return self._value_norms(layer, values) if "norm" in self._classifiers else None

    def _classified(
        self,
        layer: int,
        pairs: Mapping[int, tuple[torch.Tensor, torch.Tensor | None]],
        largest: torch.Tensor,
        norms: torch.Tensor | None,
    ) -> Iterator[tuple[str, npt.NDArray[np.float32], npt.NDArray[np.bool_]]]:
        """Keep what one layer's images are classified as; yield by kind that and which maps are empty.

        Args:
            layer: which.
            pairs: its images, by size.
            largest: the largest cell of every column of its raw maps, ``[B, H, n]``.
            norms: what the columns of norm maps are weighted by.
        """
        places = np.ix_(self._positions, [layer], self._kept[layer])
        for kind, classifier in self._classifiers.items():
            raw, norm = pairs[classifier.size]
            if kind == "raw" or norm is None or norms is None:
                images = on_scale(raw, largest.amax(dim=-1))
            else:
                images = on_scale(norm, (largest * norms).amax(dim=-1))
            empty = (images.amax(dim=(-2, -1)) == 0).cpu().numpy()
            if self._causal:
                images = evened(images)
            found = classifier.classify_images(images.to(classifier.device)).cpu().numpy()
            self._probabilities[kind][places] = found[:, None]
            self.empty[kind][places] = empty[:, None]
            yield kind, found, empty


def _gather(
    probabilities: torch.Tensor,
    norms: torch.Tensor | None,
    inputs: npt.NDArray[np.intp],
    heads: npt.NDArray[np.intp],
) -> torch.Tensor:
    """Return some maps of a layer, ``[K, n, n]``."""
    maps = probabilities[inputs, heads]
    return maps if norms is None else maps * norms[inputs, heads][:, None]


def _cropped(
    sink: MapSink, ids: npt.NDArray[np.int64], members: list[Encoded]
) -> Callable[[int, str, torch.Tensor], None]:
    """Pass each input's maps on without their padding."""

    def pass_on(layer: int, kind: str, maps: torch.Tensor) -> None:
        for example, encoded, padded in zip(ids, members, maps, strict=True):
            n = len(encoded)
            sink(int(example), layer, encoded, kind, padded[:, :n, :n].cpu().numpy())

    return pass_on


def _classifiers(
    kinds: Sequence[str], given: Mapping[str, PatternClassifier] | None, device: torch.device
) -> dict[str, PatternClassifier]:
    chosen = {}
    if unknown := set(given or {}) - set(KINDS):
        raise InputError(f"classifiers has the keys {sorted(unknown)}; its keys are {', '.join(KINDS)}.")
    for kind in kinds:
        classifier = (given or {}).get(kind) or load_classifier(kind)
        if classifier.kind != kind:
            raise InputError(f"classifiers[{kind!r}] is a classifier for {classifier.kind} maps.")
        chosen[kind] = classifier.to(device)
    return chosen


def check_finite(seen: Mapping[str, npt.NDArray[np.float32]], ids: npt.NDArray[np.int64]) -> None:
    """Refuse NaN, which would otherwise be counted as the first pattern, or as a map that is zero in every cell.

    Args:
        seen: by kind, what was made of each map, ``[E, L, H, ...]``.
        ids: of the inputs.

    Raises:
        InputError: some are not finite.
    """
    for kind, found in seen.items():
        broken = np.argwhere(~np.isfinite(found).all(axis=tuple(range(3, found.ndim))))
        if len(broken):
            example, layer, head = broken[0]
            raise InputError(
                f"{len(broken)} {kind} maps are not finite, first layer {layer}, head {head} on example "
                f"{ids[example]}: the model's weights are broken or overflow; load it in float32."
            )


def _empty_warnings(empty: Mapping[str, npt.NDArray[np.bool_]], examples: int) -> list[str]:
    messages = []
    for kind, found in empty.items():
        if number := int(found.sum()):
            whole = int((found.sum(axis=0) == examples).sum())
            messages.append(
                f"{number} {kind} maps, all maps of {whole} heads among them, are zero in every cell, as those of a "
                "head whose weights are all zero: they have no pattern, and are left out of every count, share and "
                "interval."
            )
            if kind == "norm" and "raw" in empty and not empty["raw"].any():
                messages.append(
                    "The raw maps of heads that put nothing out are counted all the same: they say where a head looks, "
                    "not whether anything comes of it."
                )
    return messages


def length_warnings(inputs: Sequence[Encoded], limit: int, fewest: int, why: str = ",") -> list[str]:
    """Say how many inputs were cut to `limit` tokens, and how many had fewer than `fewest` and were left out."""
    messages = []
    if cut := sum(encoded.truncated for encoded in inputs):
        messages.append(
            f"{cut} of {len(inputs)} examples had more than {limit} tokens and were cut to {limit}."
        )
    if short := sum(len(encoded) < fewest for encoded in inputs):
        messages.append(
            f"{short} of {len(inputs)} examples had fewer than {fewest} tokens{why} and were left out."
        )
    return messages


def _input_warnings(
    inputs: Sequence[Encoded], limit: int, classifiers: Mapping[str, PatternClassifier]
) -> list[str]:
    messages = length_warnings(inputs, limit, MIN_TOKENS, ", too few for a pattern,")
    short = sum(len(encoded) < MIN_TOKENS for encoded in inputs)
    if (left := len(inputs) - short) < FEW_EXAMPLES:
        messages.append(
            f"{left} {'example is' if left == 1 else 'examples are'} few: the interval of the interpretable ratio, "
            f"which covers {COVERS}, is narrower than it should be below {FEW_EXAMPLES}."
        )
    shortest = max(classifier.shortest for classifier in classifiers.values())
    if below := sum(MIN_TOKENS <= len(encoded) < shortest for encoded in inputs):
        messages.append(
            f"{below} of {len(inputs)} examples have fewer than {shortest} tokens, "
            "the shortest map that the classifier was trained on."
        )
    return messages


def model_warnings(model: PreTrainedModel, anatomy: Anatomy, kinds: Sequence[str]) -> list[str]:
    """Return what a reader has to know of a model, whatever was fed."""
    return [*_precision_warnings(model, anatomy), *_anatomy_warnings(anatomy, kinds)]


_WHOSE = {
    "encoder": "the encoder's self-attention",
    "decoder": "the decoder's self-attention, which reads the same text after a start token",
    "cross": "the cross-attention, with which the decoder reads the encoder",
}


def _precision_warnings(model: PreTrainedModel, anatomy: Anatomy) -> list[str]:
    messages = []
    if model.dtype not in (torch.float32, torch.float64):
        messages.append(
            f"The model computes in {precision_of(model)}, which moves the scores that attention probabilities are "
            "made of: single probabilities, and now and then a pattern, are not those of the same model in float32."
        )
    if odd := {type(module).__name__ for module in anatomy.outputs if is_quantised(module)}:
        messages.append(
            f"The model's weights are quantised ({', '.join(sorted(odd))}): its maps are its own, and not those of the "
            "model in full precision."
        )
    return messages


def _anatomy_warnings(anatomy: Anatomy, kinds: Sequence[str]) -> list[str]:
    messages = []
    family = anatomy.family
    if family.stack:
        messages.append(
            f"These are the heads of {_WHOSE[family.stack]}; a {family.name} model has other ones (--stack)."
        )
    if family.after_output and "norm" in kinds:
        messages.append(
            f"In a {family.name} model, {family.after_output} stands between a head's output and the residual stream: "
            "norm maps are of what is before it."
        )
    if family.sinks:
        messages.append(
            f"Heads of a {family.name} model attend to a sink beside all tokens: rows of its raw maps sum to less "
            "than 1."
        )
    if anatomy.causal and family.stack != "cross":
        messages.append(
            f"This {anatomy.family.name} model is causal: its maps are lower triangular, while the patterns were "
            "defined on two-sided ones; what is called a column, a line or neither lies inside the triangle."
        )
    if anatomy.local_layers:
        messages.append(
            f"{len(anatomy.local_layers)} of {anatomy.n_layers} layers are local: a token sees at most "
            f"{anatomy.window} tokens to a side, so maps longer than that show a band whatever the head does."
        )
    return messages
