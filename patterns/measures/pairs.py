"""Which pairs of tokens a measurement is about, in a batch; and what even and permuted attention would give there.

A share of attention is the same sum for every head, ``sum_ij A_ij G_ij``, of the head's map A and a set G of pairs of a
query i and a key j that depends on the input alone. So all sets of a batch are made once, as columns of one matrix, and
a layer is measured by one product of its maps with it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from models.tasks.inputs import Encoded
from models.tasks.token_text import shown_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CELLS = 2**22  # pairs of a batch that are looked at in one go


@dataclass(frozen=True)
class Measure:
    """A share of a head's attention: what it is a share of, and of which pairs of tokens."""

    pairs: Callable[[Pairs], torch.Tensor]
    """Which pairs ``[B, m, k]`` of queries and keys."""
    title: str
    words: str
    """Where the attention goes: "puts 71% of its attention on ..."."""
    candidates: Callable[[Pairs], torch.Tensor] | None = None
    """Of a share that depends on content: the pairs that might have been of the set, had other tokens stood there."""


def _self(of: Pairs) -> torch.Tensor:
    return of.i == of.j


def _previous(of: Pairs) -> torch.Tensor:
    return of.i == of.j + 1


def _next(of: Pairs) -> torch.Tensor:
    return of.i == of.j - 1


def _first(of: Pairs) -> torch.Tensor:
    return (of.j == 0) & (of.i != 0)


def _cls(of: Pairs) -> torch.Tensor:
    return of.key("cls")


def _separator(of: Pairs) -> torch.Tensor:
    return of.key("separator")


def _punctuation(of: Pairs) -> torch.Tensor:
    return of.key("punctuation")


def _two_contents(of: Pairs) -> torch.Tensor:
    """Two tokens of the text, of an input of two segments."""
    return of.query("paired") & of.query("content") & of.key("content") & (of.i != of.j)


def _own_segment(of: Pairs) -> torch.Tensor:
    return _two_contents(of) & (of.query("segment") == of.key("segment"))


def _other_segment(of: Pairs) -> torch.Tensor:
    return _two_contents(of) & (of.query("segment") != of.key("segment"))


def _earlier(of: Pairs) -> torch.Tensor:
    return of.query("content") & of.key("content") & (of.j < of.i)


def _duplicate(of: Pairs) -> torch.Tensor:
    return _earlier(of) & (of.query("ids") == of.key("ids"))


def _after_earlier(of: Pairs) -> torch.Tensor:
    return of.query("content") & of.key("content_before") & (of.j < of.i)


def _induction(of: Pairs) -> torch.Tensor:
    return _after_earlier(of) & (of.query("ids") == of.key("ids_before"))


MEASURES: Mapping[str, Measure] = {
    "self": Measure(_self, "itself", "the token itself"),
    "previous": Measure(_previous, "previous token", "the previous token"),
    "next": Measure(_next, "next token", "the next token"),
    "first": Measure(_first, "first token", "the first token"),
    "cls": Measure(_cls, "[CLS]", "the token of the whole input ([CLS])"),
    "separator": Measure(_separator, "separators", "separators ([SEP])"),
    "punctuation": Measure(_punctuation, "punctuation", "punctuation"),
    "own_segment": Measure(
        _own_segment, "own segment", "other tokens of the same segment", candidates=_two_contents
    ),
    "other_segment": Measure(
        _other_segment, "other segment", "tokens of another segment", candidates=_two_contents
    ),
    "duplicate": Measure(_duplicate, "earlier copies", "earlier copies of the same token", _earlier),
    "induction": Measure(
        _induction, "after a copy", "the token after an earlier copy of the same token", _after_earlier
    ),
}
"""By name, every share that is measured. With A a head's map (row = query i, column = key j), each is

    share(G) = sum over (i, j) in G of A_ij  /  number of queries i that have a choice,

over the real tokens of all inputs; a query has a choice if it may attend to some key of G and to some other key.

- ``self``, ``previous``, ``next``: j = i, i - 1, i + 1 (Clark et al. 2019, section 3.1; Vig & Belinkov 2019).
- ``first``: j = 0, of queries i > 0, the place of attention sinks (Xiao et al. 2023).
- ``cls``, ``separator``, ``punctuation``: j is such a token (Kovaleva et al. 2019; Clark et al. 2019, section 3.2).
  Separators are the tokenizer's sep_token and, but at the first place, eos_token; punctuation is a token of nothing but
  characters of Unicode's categories P.
- ``own_segment``, ``other_segment``: i and j are different tokens of the text (no special ones) of the same segment, or
  of different ones, in inputs of two (Kovaleva et al. 2019, the block pattern).
- ``duplicate``: j < i, and both are the same token of the text.
- ``induction``: j < i, and the token before j is the same as i (Olsson et al. 2022, prefix matching).
"""

CONTENT = tuple(name for name, measure in MEASURES.items() if measure.candidates)
"""Those that depend on which tokens there are, in the order in which their permuted shares are kept."""


class TokenKinds:
    """What a tokenizer's tokens are: special ones, separators, punctuation."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        of: Any = tokenizer  # a number or None each, and typed as anything
        self.special: frozenset[int] = frozenset(of.all_special_ids) - {of.unk_token_id}
        self.cls: int | None = of.cls_token_id
        self.separators: set[int] = {of.sep_token_id, of.eos_token_id} - {None}
        self._punctuation: dict[int, bool] = {}

    def is_punctuation(self, ids: Sequence[int]) -> list[bool]:
        """Return which tokens consist of characters of Unicode's categories P alone."""
        new = sorted(set(ids) - self._punctuation.keys())
        for token in new:  # one by one: neighbours would share the bytes of a character
            text = shown_tokens(self._tokenizer, [token])[0].strip()
            text = text.removeprefix("##") if len(text) > 2 else text
            text = text.strip("\N{LOWER ONE EIGHTH BLOCK}\N{LATIN CAPITAL LETTER G WITH DOT ABOVE} ")
            plain = bool(text) and all(unicodedata.category(char).startswith("P") for char in text)
            self._punctuation[token] = plain and token not in self.special
        return [self._punctuation[token] for token in ids]


def _facts(encoded: Encoded, kinds: TokenKinds, n: int) -> dict[str, list[int]]:
    """Return what is known of each token of an input, padded to `n`."""
    ids = encoded.input_ids
    special = [token in kinds.special for token in ids]
    starts = set(encoded.borders)
    segments, segment = [], 0
    for place in range(len(ids)):
        segments.append(segment)
        segment += place in starts
    content = [not one for one in special]
    of_content = {one for one, text in zip(segments, content, strict=True) if text}
    columns: dict[str, list[int]] = {
        "real": [1] * len(ids),
        "ids": ids,
        "content": [int(one) for one in content],
        "segment": segments,
        "paired": [int(len(of_content) > 1)] * len(ids),
        "cls": [int(token == kinds.cls) for token in ids],
        "separator": [int(place > 0 and token in kinds.separators) for place, token in enumerate(ids)],
        "punctuation": [int(one) for one in kinds.is_punctuation(ids)],
        "ids_before": [-1, *ids[:-1]],
        "content_before": [0, *(int(one) for one in content[:-1])],
    }
    return {name: values + [0] * (n - len(ids)) for name, values in columns.items()}


_NUMBERS = ("ids", "segment", "ids_before")


@dataclass(frozen=True)
class Pairs:
    """Some queries and some keys of a batch."""

    facts: Mapping[str, torch.Tensor]
    rows: slice
    keys: slice
    causal: bool
    window: int | None

    def query(self, name: str) -> torch.Tensor:
        """Return what is known of the queries, ``[B, m, 1]``."""
        return self.facts[name][:, self.rows, None]

    def key(self, name: str) -> torch.Tensor:
        """Return what is known of the keys, ``[B, 1, k]``."""
        return self.facts[name][:, None, self.keys]

    @cached_property
    def i(self) -> torch.Tensor:
        """Places of the queries, ``[m, 1]``."""
        device = self.facts["real"].device
        return torch.arange(self.rows.start, self.rows.stop, device=device)[:, None]

    @cached_property
    def j(self) -> torch.Tensor:
        """Places of the keys, ``[1, k]``."""
        device = self.facts["real"].device
        return torch.arange(self.keys.start, self.keys.stop, device=device)[None]

    @cached_property
    def allowed(self) -> torch.Tensor:
        """Which keys a query may attend to, ``[B, m, k]``."""
        found = self.query("real") & self.key("real")
        if self.causal:
            found = found & (self.j <= self.i)
        if self.window is not None:
            found = found & ((self.i - self.j).abs() <= self.window)
        return found

    @cached_property
    def number(self) -> torch.Tensor:
        """How many keys a query may attend to, ``[B, m]``."""
        return self.allowed.sum(dim=-1)

    def of(self, measure: Measure) -> torch.Tensor:
        """Return the pairs of a measurement, of queries that have a choice, ``[B, m, k]``."""
        if measure.title not in self._sets:
            found = measure.pairs(self) & self.allowed
            hits = found.sum(dim=-1)
            self._sets[measure.title] = found & ((hits > 0) & (hits < self.number))[..., None]
        return self._sets[measure.title]

    @cached_property
    def _sets(self) -> dict[str, torch.Tensor]:
        """What :meth:`of` has found."""
        return {}

    def might_be(self, measure: Measure) -> torch.Tensor:
        """Return the pairs that might be of a measurement that depends on content, ``[B, m, k]``."""
        assert measure.candidates is not None
        return measure.candidates(self) & self.allowed


def distance_bands(n: int) -> torch.Tensor:
    """Return the band of each distance ``j - i`` from ``1 - n`` to ``n - 1``: from one power of two to the next.

    Distances 1, 2 to 3, 4 to 7 and so on are a band each, to either side, and 0 is one.
    """
    distances = torch.arange(1 - n, n)
    octave = 1 + distances.abs().clamp_min(1).log2().floor().long()  # 1, 2, 2, 3, 3, 3, 3, 4, ...
    found = torch.where(distances == 0, 0, octave * distances.sign())
    return found - found.min()


class BatchPairs:
    """The pairs of a batch for layers that see all tokens, or a window: sums, chance, and weights for products.

    Args:
        members: the batch's inputs, as the tokens stand along their maps.
        kinds: of the tokenizer.
        n: padded length.
        causal: whether no token sees a later one.
        window: tokens to a side that a token sees beside itself; None for all.
        device: where maps are.
    """

    counts: torch.Tensor
    """``[B, K]``: queries that have a choice."""
    chance: torch.Tensor
    """``[B, K]``: summed over them, the share under even attention, ``|G_i| / |keys that i may attend to|``."""
    queries: torch.Tensor
    """``[B]``: queries that may attend to two keys at least, of which there is an entropy."""

    def __init__(
        self,
        members: Sequence[Encoded],
        kinds: TokenKinds,
        n: int,
        causal: bool,
        window: int | None,
        device: torch.device,
    ) -> None:
        facts = [_facts(member, kinds, n) for member in members]
        self._facts = {
            name: torch.tensor([one[name] for one in facts], device=device).to(
                torch.long if name in _NUMBERS else torch.bool
            )
            for name in facts[0]
        }
        self._n, self._causal, self._window = n, causal, window
        self._prepared: Pairs | None = None
        self._whole: torch.Tensor | None = None
        self._prepare()

    @property
    def real(self) -> torch.Tensor:
        """``[B, n]``: which tokens are not padding."""
        return self._facts["real"]

    def pairs(self, rows: slice, keys: slice) -> Pairs:
        """Return some of them."""
        return Pairs(self._facts, rows, keys, self._causal, self._window)

    def _prepare(self) -> None:
        b, n = self.real.shape
        zeros = self.real.new_zeros
        exact = torch.float32 if self.real.device.type == "mps" else torch.float64  # MPS has no other
        self.counts = zeros((b, len(MEASURES)), dtype=exact)
        self.chance = torch.zeros_like(self.counts)
        self.queries = zeros((b,), dtype=exact)
        # Of each content-dependent measurement: pairs that are, and that might be, of its set; by key, by distance.
        keys, distances = (zeros((len(CONTENT), 2, b, size), dtype=torch.float32) for size in (n, 2 * n - 1))
        step = max(1, _CELLS // (b * n))
        for first in range(0, n, step):
            some = self.pairs(slice(first, min(first + step, n)), slice(0, n))
            self.queries += (some.number > 1).sum(dim=1)
            places = (some.j - some.i + n - 1).flatten().expand(b, -1)
            for k, (name, measure) in enumerate(MEASURES.items()):
                found = some.of(measure)
                hits = found.sum(dim=-1)
                self.counts[:, k] += (hits > 0).sum(dim=-1)
                self.chance[:, k] += (hits / some.number.clamp_min(1)).sum(dim=-1, dtype=exact)
                if measure.candidates is None:
                    continue
                at = CONTENT.index(name)
                for of, which in enumerate((found, some.might_be(measure))):
                    keys[at, of] += which.sum(dim=1)
                    distances[at, of].scatter_add_(1, places, which.flatten(1).float())
        self._prepared = some if step >= n else None
        # [R, B, n] and [R, B, 2 n - 1]: how often a pair is of the set, given its key, and given about how far it is.
        bands = distance_bands(n).to(keys.device)
        of_bands = keys.new_zeros(*distances.shape[:-1], int(bands.max()) + 1).index_add_(
            -1, bands, distances
        )
        self._by_key, by_band = (sums[:, 0] / sums[:, 1].clamp_min(1) for sums in (keys, of_bands))
        self._by_distance = by_band[..., bands]

    def weights(self, rows: slice, keys: slice) -> torch.Tensor:
        """Return ``[B, K + 2 R + 1, m * k]``, whose rows say what sums to make of a layer's maps ``[B, H, m * k]``.

        The rows are the sets of :data:`MEASURES`; then, for each of :data:`CONTENT`, how often a pair is of its set
        given its key, and given about how far it is; then all pairs.
        """
        whole = rows == slice(0, self._n) and keys == slice(0, self._n)
        if whole and self._whole is not None:
            return self._whole
        some = self._prepared if whole and self._prepared else self.pairs(rows, keys)
        shape = (len(self.real), len(MEASURES) + 2 * len(CONTENT) + 1, *some.allowed.shape[1:])
        found = torch.empty(shape, device=self.real.device)
        for at, measure in enumerate(MEASURES.values()):
            found[:, at] = some.of(measure)
        # Row i of a map has of the distances those from keys.start - i on.
        starts = (self._n - 1 + keys.start - some.i).flatten()
        distances = self._by_distance.unfold(2, some.j.shape[1], 1)
        for r, name in enumerate(CONTENT):
            might, at = some.might_be(MEASURES[name]), len(MEASURES) + 2 * r
            torch.mul(might, self._by_key[r][:, None, keys], out=found[:, at])
            torch.mul(might, distances[r][:, starts], out=found[:, at + 1])
        found[:, -1] = some.query("real").expand_as(some.allowed)
        found = found.flatten(2)
        if whole:
            self._whole, self._prepared = found, None
        return found

    def entropy_weights(self, rows: slice, keys: slice) -> torch.Tensor:
        """Return ``[B, m]``: 1 over the largest entropy that a query's row can have; 0 for those without a choice."""
        number = self.pairs(rows, keys).number
        return torch.where(number > 1, 1 / number.clamp_min(2).float().log(), 0.0)
