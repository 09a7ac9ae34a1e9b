"""From rows to batches: tokenised, segment ids included, right-padded, sorted by length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import torch

from ..anatomy import anatomy_of
from ..common.errors import InputError, is_unicode
from .rows import Row, check_rows, texts_of
from .task import Task, task_named
from .token_text import shown_tokens
from .tokens import other_reading

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TextPair = tuple[str, str | None]


@dataclass(frozen=True)
class Encoded:
    """One tokenised input."""

    input_ids: list[int]
    token_type_ids: list[int] | None
    """Segment ids, if the model has embeddings for them and its tokenizer makes them."""
    borders: tuple[int, ...]
    """Positions of the separator tokens, the last one included; without any, of the first text's last token."""
    truncated: bool
    """Whether tokens had to go because the input was too long."""

    def __len__(self) -> int:
        return len(self.input_ids)


class ExampleRecord(TypedDict):
    """The first row as the model reads it."""

    tokens: list[str]
    segments: list[int] | None
    text: str


class InputsRecord(TypedDict):
    """What a result says of how rows were fed; the last two if there was any."""

    tokenizer: str
    max_length: int
    segments: list[int] | None
    special_tokens: NotRequired[list[str]]
    example: NotRequired[ExampleRecord]


@dataclass(frozen=True)
class Fed:
    """What a model is fed."""

    inputs: list[Encoded]
    limit: int
    """Tokens of an input at most."""
    warnings: tuple[str, ...]
    """What a reader has to know of these inputs' tokens."""
    record: InputsRecord
    """What a result says of them, ready for JSON: special tokens, segments, and the first row as the model reads it."""


def padding_of(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the number of the padding token, if there is one."""
    number: Any = tokenizer.pad_token_id
    return None if number is None else int(number)


def feed(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[TextPair],
    max_length: int,
) -> Fed:
    """Tokenise texts as a model wants them: of its length, with the segment ids that it has embeddings for.

    Raises:
        InputError: as :func:`encode`.
    """
    anatomy = anatomy_of(model)
    limit = min(max_length, anatomy.max_tokens)
    vocabulary = len(model.get_input_embeddings().weight)  # type: ignore[arg-type]
    inputs = encode(tokenizer, pairs, limit, vocabulary, anatomy.segments)
    segments = {number for one in inputs for number in one.token_type_ids or ()}
    record: InputsRecord = {
        "tokenizer": type(tokenizer).__name__,
        "max_length": limit,
        "segments": sorted(segments) if segments else None,
    }
    if first := next((one for one in inputs if len(one)), None):
        tokens = shown_tokens(tokenizer, first.input_ids)
        special = [i for i in tokenizer.all_special_ids if i != tokenizer.unk_token_id]
        record["special_tokens"] = [t for t, i in zip(tokens, first.input_ids, strict=True) if i in special]
        record["example"] = {
            "tokens": tokens,
            "segments": first.token_type_ids,
            "text": str(tokenizer.decode(first.input_ids)),
        }
    return Fed(inputs, limit, tuple(_token_warnings(tokenizer, pairs, limit)), record)


def as_texts(rows: Sequence[Row | TextPair], task: str | Task | None) -> list[TextPair]:
    """Return each row's one or two texts; a row is a GLUE dict (with `task`) or ``(text, text | None)``.

    Raises:
        InputError: a row is neither, or its text is not Unicode.
    """
    task = None if task is None else task_named(task)
    pairs: list[TextPair] = []
    for number, row in enumerate(rows, start=1):
        match row:
            case (str() as first, (str() | None) as second):
                if not is_unicode(first + (second or "")):
                    raise InputError(f"Row {number} is not Unicode text: it holds half a surrogate pair.")
                pairs.append((first, second))
            case Mapping() if task is not None:
                check_rows([row], task, "rows", number)
                pairs.append(texts_of(row, task))
            case _:
                raise InputError(
                    f"Row {number} is a {type(row).__name__}; give (text, text or None), or GLUE dicts with task=."
                )
    return pairs


def encode(
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[TextPair],
    max_length: int,
    vocabulary: int | None = None,
    segments: int | None = None,
) -> list[Encoded]:
    """Tokenise each input on its own; too long ones lose tokens of the longer text first.

    Args:
        tokenizer: the model's; it is not changed.
        pairs: one or two texts each; an empty second text is one, as in a batch.
        max_length: tokens, special tokens included.
        vocabulary: number of token embeddings of the model.
        segments: number of its segment embeddings; without any, segment ids are left out (GPT-2 would look them up
            among its words), with one they are all 0. None leaves them as the tokenizer makes them.

    Raises:
        InputError: the tokenizer knows more tokens or segments than the model has embeddings for, or the special
            tokens alone are longer than `max_length`.
    """
    encoded = []
    with _unchanged(tokenizer):
        for first, second in pairs:
            # As batches of one: the library takes an empty text that stands alone for no text.
            texts: tuple[Any, ...] = ([first],) if second is None else ([first], [second])
            whole = tokenizer(*texts, truncation=False, padding=False, verbose=False)
            truncated = len(whole["input_ids"][0]) > max_length
            if truncated and max_length > 0:
                whole = tokenizer(*texts, truncation="longest_first", padding=False, max_length=max_length)
            ids = list(whole["input_ids"][0])
            if len(ids) > max_length:
                raise InputError(
                    f"max_length={max_length} leaves no room for the tokenizer's special tokens."
                )
            if vocabulary is not None and ids and max(ids) >= vocabulary:
                raise InputError(
                    f"The tokenizer's token {max(ids)} has no embedding: the model has {vocabulary}; "
                    "is this the tokenizer of another model?"
                )
            of_tokens = whole.get("token_type_ids")
            kinds = _segments(list(of_tokens[0]), segments) if of_tokens else None
            encoded.append(Encoded(ids, kinds, _borders(whole), truncated))
    return encoded


def _token_warnings(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[TextPair], max_length: int
) -> list[str]:
    """Return a warning if ``tokenizer.json`` and the library's own class read some of these texts otherwise."""
    if (known := other_reading(tokenizer)) is None:
        return []
    other, words = known
    both = zip(*(encode(one, pairs, max_length) for one in (tokenizer, other)), strict=True)
    apart = [(a.input_ids, b.input_ids) for a, b in both if a.input_ids != b.input_ids]
    if not apart:
        return []
    ours, theirs = apart[0]
    at = next(i for i in range(max_length) if ours[i : i + 1] != theirs[i : i + 1])
    read, unread = (
        " ".join(token.replace(" ", "␣") for token in shown_tokens(one, ids[at : at + 6])) or "nothing"
        for one, ids in ((tokenizer, ours), (other, theirs))
    )
    words = words.format(used=type(tokenizer).__name__, other=type(other).__name__)
    return [
        f"{len(apart)} of {len(pairs)} inputs have other tokens {words}, e.g. {read!r} instead of {unread!r}."
    ]


def _segments(ids: list[int], known: int | None) -> list[int] | None:
    """Return segment ids as a model with so many segment embeddings takes them."""
    if known == 0:
        return None
    if known == 1:
        return [0] * len(ids)
    if known and max(ids, default=0) >= known:
        raise InputError(
            f"The tokenizer gives segment id {max(ids)}, but the model knows {known} kinds of segments; "
            "is this the tokenizer of another model?"
        )
    return ids or None


@contextmanager
def _unchanged(tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Every call sets truncation and padding of the tokenizer anew and leaves them so; set them back."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # a tokenizer in pure Python keeps no such state
        yield
        return
    truncation, padding = backend.truncation, backend.padding
    try:
        yield
    finally:
        backend.no_truncation() if truncation is None else backend.enable_truncation(**truncation)
        backend.no_padding() if padding is None else backend.enable_padding(**padding)


def _borders(encoding: Any) -> tuple[int, ...]:
    """Positions of separators: special tokens behind the first token, or the joint where there are none."""
    try:
        sequence = encoding.sequence_ids(0)
    except (ValueError, AttributeError):  # a tokenizer in pure Python does not tell
        return ()
    n = len(sequence)
    separators = [i for i in range(1, n) if sequence[i] is None]
    joints = [i for i in range(n - 1) if (sequence[i], sequence[i + 1]) == (0, 1)]
    return tuple(sorted(separators + joints))


def batches(
    encoded: Sequence[Encoded],
    batch_size: int,
    pad_token_id: int | None,
    device: torch.device | str = "cpu",
    in_order: bool = False,
) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
    """Yield ``(positions in `encoded`, model inputs [B, n])``, longest first, right-padded within each batch.

    Longest first, so that the batch that needs most memory comes first. Padding is always on the right:
    a left-padded model with absolute positions is another model. With `in_order`, inputs stay in the order in
    which they are given.

    Raises:
        InputError: `batch_size` is less than 1.
    """
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size}: give at least 1.")
    order = list(range(len(encoded)))
    if not in_order:
        order.sort(key=lambda i: (-len(encoded[i]), encoded[i].input_ids))
    for start in range(0, len(order), batch_size):
        positions = order[start : start + batch_size]
        members = [encoded[i] for i in positions]
        inputs = padded(members, pad_token_id)
        yield positions, {name: ids.to(device) for name, ids in inputs.items()}


def padded(members: Sequence[Encoded], pad_token_id: int | None) -> dict[str, torch.Tensor]:
    """Return model inputs ``[B, n]``, padded on the right to the longest.

    The padding is masked, so its token matters to nobody; one with a high id may have no embedding, and a token of
    the batch then stands in for it.
    """
    n = max(len(member) for member in members)
    pad = min(pad_token_id or 0, max(members[0].input_ids, default=0))
    inputs = {
        "input_ids": [m.input_ids + [pad] * (n - len(m)) for m in members],
        "attention_mask": [[1] * len(m) + [0] * (n - len(m)) for m in members],
    }
    if members[0].token_type_ids is not None:
        inputs["token_type_ids"] = [(m.token_type_ids or []) + [0] * (n - len(m)) for m in members]
    return {name: torch.tensor(ids) for name, ids in inputs.items()}
