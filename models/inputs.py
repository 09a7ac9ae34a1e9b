"""From rows to batches: tokenised, segment ids included, right-padded, sorted by length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from .errors import InputError
from .glue import Row, Task, check_rows, texts_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TextPair = tuple[str, str | None]


@dataclass(frozen=True)
class Encoded:
    """One tokenised input."""

    input_ids: list[int]
    token_type_ids: list[int] | None
    """Segment ids, if this model's tokenizer makes them."""
    borders: tuple[int, ...]
    """Positions of the separator tokens, the last one included."""
    truncated: bool
    """Whether tokens had to go because the input was too long."""

    def __len__(self) -> int:
        return len(self.input_ids)


def as_texts(rows: Sequence[Row | TextPair], task: Task | None) -> list[TextPair]:
    """Return each row's one or two texts; a row is a GLUE dict (with `task`) or ``(text, text | None)``.

    Raises:
        InputError: a row is neither.
    """
    if task is not None and rows and isinstance(rows[0], dict):
        check_rows(rows, task, "rows")  # type: ignore[arg-type]
        return [texts_of(row, task) for row in rows]  # type: ignore[arg-type]
    pairs: list[TextPair] = []
    for number, row in enumerate(rows, start=1):
        match row:
            case (str() as first, (str() | None) as second):
                pairs.append((first, second))
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
) -> list[Encoded]:
    """Tokenise each input on its own; too long ones lose tokens of the longer text first.

    Args:
        tokenizer: the model's; it is not changed.
        pairs: one or two texts each.
        max_length: tokens, special tokens included.
        vocabulary: number of token embeddings of the model.

    Raises:
        InputError: the tokenizer knows more tokens than the model has embeddings for.
    """
    encoded = []
    for first, second in pairs:
        whole = tokenizer(first, second, truncation=False, verbose=False)
        truncated = len(whole["input_ids"]) > max_length
        if truncated:
            whole = tokenizer(first, second, truncation="longest_first", max_length=max_length)
        ids = list(whole["input_ids"])
        if vocabulary is not None and ids and max(ids) >= vocabulary:
            raise InputError(
                f"The tokenizer's token {max(ids)} has no embedding: the model has {vocabulary}; "
                "is this the tokenizer of another model?"
            )
        segments = whole.get("token_type_ids")
        encoded.append(Encoded(ids, list(segments) if segments else None, _borders(whole), truncated))
    return encoded


def _borders(encoding: Any) -> tuple[int, ...]:
    """Positions of separators: special tokens after a text, or a text's last token where there is none."""
    try:
        sequence = encoding.sequence_ids(0)
    except (ValueError, AttributeError):  # a tokenizer in pure Python does not tell
        return ()
    n = len(sequence)
    after = [i for i in range(1, n) if sequence[i] is None and any(s is not None for s in sequence[:i])]
    joints = [i for i in range(n - 1) if (sequence[i], sequence[i + 1]) == (0, 1)]
    return tuple(sorted(after + joints))


def batches(
    encoded: Sequence[Encoded], batch_size: int, pad_token_id: int | None, device: torch.device | str = "cpu"
) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
    """Yield ``(positions in `encoded`, model inputs [B, n])``, longest first, right-padded within each batch.

    Longest first, so that the batch that needs most memory comes first. Padding is always on the right:
    a left-padded model with absolute positions is another model.
    """
    order = sorted(range(len(encoded)), key=lambda i: (-len(encoded[i]), encoded[i].input_ids))
    for start in range(0, len(order), batch_size):
        positions = order[start : start + batch_size]
        members = [encoded[i] for i in positions]
        n = max(len(member) for member in members)
        inputs = {
            "input_ids": [m.input_ids + [pad_token_id or 0] * (n - len(m)) for m in members],
            "attention_mask": [[1] * len(m) + [0] * (n - len(m)) for m in members],
        }
        if members[0].token_type_ids is not None:
            inputs["token_type_ids"] = [(m.token_type_ids or []) + [0] * (n - len(m)) for m in members]
        yield positions, {name: torch.tensor(ids, device=device) for name, ids in inputs.items()}
