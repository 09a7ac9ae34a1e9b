"""Tokens as people read them, whatever letters a tokenizer writes bytes with."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from models.tasks.inputs import feed
from models.tasks.token_text import shown_tokens


def byte_level(merges: tuple[tuple[str, str], ...] = ()) -> PreTrainedTokenizerFast:
    """A tokenizer as GPT-2's or RoBERTa's: every byte a token, and what is merged of them."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<s>", "</s>", *letters, *("".join(pair) for pair in merges)]
    backend = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0), trim_offsets=False)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def shown(tokenizer: Any, text: str) -> list[str]:
    return shown_tokens(tokenizer, tokenizer(text)["input_ids"])


TOKENIZER = byte_level((("Ã", "©"), ("Ġ", "c"), ("Ġc", "a")))


def test_byte_level_tokens_are_text() -> None:
    assert TOKENIZER.convert_ids_to_tokens(TOKENIZER("a café")["input_ids"])[2:5] == ["Ġca", "f", "Ã©"]
    assert shown(TOKENIZER, "a café") == ["<s>", "a", " ca", "f", "é", "</s>"]


def test_a_character_in_several_tokens_is_shown_in_each() -> None:
    assert shown(TOKENIZER, "海") == ["<s>", "海…", "…海…", "…海", "</s>"]
    joined = byte_level((("æ", "µ"), ("·", "a")))
    assert shown(joined, "海a") == ["<s>", "海…", "…海a", "</s>"]


def test_bytes_that_are_no_text_are_numbers() -> None:
    ids = TOKENIZER("海a")["input_ids"]
    assert shown_tokens(TOKENIZER, [ids[1], ids[2], ids[4]]) == ["<0xE6>", "<0xB5>", "a"]


@settings(deadline=None, max_examples=60)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="…"), max_size=12))
def test_nothing_of_a_text_is_lost(text: str) -> None:
    tokens = shown(TOKENIZER, text)[1:-1]
    assert len(tokens) == len(TOKENIZER(text)["input_ids"]) - 2
    assert "".join(token for token in tokens if not token.startswith("…")).replace("…", "") == text


def test_tokens_that_fall_back_to_bytes_are_text() -> None:
    words = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "▁a"]
    model = models.BPE(
        {w: i for i, w in enumerate(words)}, [("▁", "a")], unk_token="<unk>", byte_fallback=True
    )
    backend = Tokenizer(model)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    assert shown(tokenizer, "▁aé") == ["▁a", "é…", "…é"]


@pytest.mark.parametrize("decoder", [None, decoders.WordPiece(), decoders.Metaspace()])
def test_tokens_of_other_tokenizers_stay_as_they_are(decoder: Any) -> None:
    words = ["[UNK]", "Ã©", "##Ġx", "<0xE6>"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    if decoder is not None:
        backend.decoder = decoder
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    assert shown_tokens(tokenizer, [1, 2, 3]) == ["Ã©", "##Ġx", "<0xE6>"]


def test_what_a_result_says_of_its_first_row_is_text() -> None:
    from transformers import GPT2Config, GPT2Model

    model = GPT2Model(GPT2Config(vocab_size=len(TOKENIZER), n_positions=32, n_embd=8, n_layer=1, n_head=2))
    fed = feed(model, TOKENIZER, [("a 海", None)], 32)
    assert fed.record["example"]["tokens"] == ["<s>", "a", " ", "海…", "…海…", "…海", "</s>"]
    assert fed.record["special_tokens"] == ["<s>", "</s>"]
