"""A model's tokens as people read them: text instead of the letters that stand for bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CUT = "\N{HORIZONTAL ELLIPSIS}"
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def shown_tokens(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """Return the tokens of one input as text, one for each id.

    Byte-level tokenizers (GPT-2, RoBERTa, Llama 3, Qwen) write each byte of the text as a letter of its own, so that
    anything beyond ASCII is unreadable, and those that fall back to bytes (Llama 2) write them as numbers. A character
    whose bytes are in several tokens is shown in each of them, with an ellipsis where it goes on; bytes that are no
    text are shown as numbers, <0xF0>.
    """
    tokens = [str(token) for token in tokenizer.convert_ids_to_tokens(list(ids))]
    kinds = _decoders(tokenizer)
    if not kinds:
        return tokens
    added = getattr(tokenizer, "added_tokens_decoder", {})
    letters = _letters() if "ByteLevel" in kinds else None
    parts = [None if i in added else _bytes_of(token, letters) for i, token in zip(ids, tokens, strict=True)]
    shown, start = list(tokens), 0
    while start < len(parts):
        end = start + 1
        if parts[start] is not None:
            while end < len(parts) and parts[end] is not None:
                end += 1
            shown[start:end] = _texts([part for part in parts[start:end] if part is not None])
        start = end
    return shown


def _decoders(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Return which of the decoders ByteLevel and ByteFallback the tokenizer has."""
    decoder: Any = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    if decoder is None:  # a tokenizer in pure Python
        return {"ByteLevel"} if hasattr(tokenizer, "byte_decoder") else set()
    state = json.loads(decoder.__getstate__())
    return {part.get("type") for part in (state, *state.get("decoders", ()))} & {"ByteLevel", "ByteFallback"}


@lru_cache(maxsize=1)
def _letters() -> dict[str, int]:
    """Return the byte that each letter stands for: printable ones for themselves, the others from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(others)}


def _bytes_of(token: str, letters: dict[str, int] | None) -> bytes | None:
    """Return the bytes that a token stands for; None if it is not written in such letters."""
    if letters is None:
        byte = _BYTE.fullmatch(token)
        return bytes([int(byte[1], 16)]) if byte else token.encode(errors="replace")
    return bytes(letters[letter] for letter in token) if letters.keys() >= set(token) else None


def _texts(parts: Sequence[bytes]) -> list[str]:
    """Return what each of neighbouring tokens shows of the text that their bytes are together."""
    whole = b"".join(parts)
    # (start, text) of each character, and of each byte that belongs to none.
    pieces: list[tuple[int, str]] = []
    at = 0
    for char in whole.decode("utf-8", "surrogateescape"):
        stray = "\udc80" <= char <= "\udcff"
        pieces.append((at, f"<0x{ord(char) - 0xDC00:02X}>" if stray else char))
        at += 1 if stray else len(char.encode())
    ends = [start for start, _ in pieces[1:]] + [len(whole)]
    shown, begin, first = [], 0, 0
    for part in parts:
        end, words = begin + len(part), ""
        while first < len(pieces) and ends[first] <= begin:
            first += 1
        piece = first
        while piece < len(pieces) and pieces[piece][0] < end:
            start, text = pieces[piece]
            words += (_CUT if start < begin else "") + text + (_CUT if ends[piece] > end else "")
            piece += 1
        shown.append(words)
        begin = end
    return shown
