"""From rows to batches: nothing is lost, padding is on the right, and the tokenizer stays as it was."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import WORDS as SAID
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

from models import InputError
from models.tasks.inputs import Encoded, as_texts, batches, encode, feed
from models.tasks.task import task_named

quick = settings(deadline=None, max_examples=40)

WORDS = tuple("abcdefghij")
VOCABULARY = {word: i for i, word in enumerate(("<pad>", "<cls>", "<sep>", "<unk>", *WORDS))}
PAD, CLS, SEP = 0, 1, 2
STYLES = {
    "bert": ("<cls> $A <sep>", "<cls> $A:0 <sep>:0 $B:1 <sep>:1"),
    "roberta": ("<cls> $A <sep>", "<cls> $A <sep> <sep> $B <sep>"),
    "gpt2": None,
}
MRPC = task_named("mrpc")
TEXT = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join)
PAIRS = st.lists(st.tuples(TEXT, st.none() | TEXT), min_size=1, max_size=9)


def tokenizer_like(style: str, **options: Any) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(WordLevel(VOCABULARY, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    template = STYLES[style]
    if template:
        tokenizer.post_processor = TemplateProcessing(
            single=template[0], pair=template[1], special_tokens=[("<cls>", CLS), ("<sep>", SEP)]
        )
    special = {"cls_token": "<cls>", "sep_token": "<sep>", "pad_token": "<pad>", "unk_token": "<unk>"}
    names = ["input_ids", "attention_mask"] + (["token_type_ids"] if style == "bert" else [])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **({"model_input_names": names} | special | options)
    )


TOKENIZERS = {style: tokenizer_like(style) for style in STYLES}


class PythonTokenizer(PreTrainedTokenizer):
    """A tokenizer without the Rust library behind it."""

    def __init__(self) -> None:
        super().__init__(pad_token="<pad>", unk_token="<unk>")

    @property
    def vocab_size(self) -> int:
        return len(VOCABULARY)

    def get_vocab(self) -> dict[str, int]:
        return dict(VOCABULARY)

    def _tokenize(self, text: str, **options: Any) -> list[str]:
        return text.split()

    def _convert_token_to_id(self, token: str) -> int:
        return VOCABULARY.get(token, VOCABULARY["<unk>"])

    def _convert_id_to_token(self, index: int) -> str:
        return list(VOCABULARY)[index]


def words(ids: Sequence[int]) -> str:
    return " ".join(WORDS[i - 4] for i in ids if i >= 4)


def encode_one(style: str, first: str, second: str | None = None, max_length: int = 99) -> Encoded:
    return encode(TOKENIZERS[style], [(first, second)], max_length)[0]


class TestAsTexts:
    @quick
    @given(PAIRS)
    def test_pairs_and_glue_rows_give_the_same_texts(self, pairs: list[tuple[str, str | None]]) -> None:
        both = [(first, second or "x") for first, second in pairs]
        rows = [{"sentence1": first, "sentence2": second, "label": 1} for first, second in both]
        assert as_texts(pairs, None) == pairs
        assert as_texts(both, MRPC) == both
        assert as_texts(rows, MRPC) == both

    def test_any_mapping_is_a_row_and_any_sequence_a_pair(self) -> None:
        row = MappingProxyType({"sentence1": "a", "sentence2": "b"})
        pair: Any = ["c", None]
        assert as_texts([row, pair], MRPC) == [("a", "b"), ("c", None)]

    def test_a_task_of_one_text_has_no_second(self) -> None:
        assert as_texts([{"sentence": "a", "idx": 1}], task_named("cola")) == [("a", None)]

    @pytest.mark.parametrize(
        "row", ["ab", ("a",), ("a", "b", "c"), ("a", 1), (None, "b"), None, 7, {"sentence1": "a"}], ids=repr
    )
    def test_anything_else_is_refused_with_its_number_and_what_to_give(self, row: Any) -> None:
        with pytest.raises(InputError, match=r"^Row 2 is a \w+; give \(text, text or None\), or GLUE dicts"):
            as_texts([("a", "b"), row], None)

    def test_a_row_without_the_columns_of_the_task_is_refused_with_its_number(self) -> None:
        rows: list[Any] = [("a", "b"), {"sentence1": "a", "text": "b"}]
        with pytest.raises(InputError, match="row 2 has no column 'sentence2': mrpc needs the text columns"):
            as_texts(rows, MRPC)

    @pytest.mark.parametrize(
        "row", [("\ud800", None), ("a", "\udfff"), {"sentence1": "a", "sentence2": "\ud800"}]
    )
    def test_half_a_surrogate_pair_is_refused(self, row: Any) -> None:
        with pytest.raises(InputError, match="not Unicode text"):
            as_texts([row], MRPC)


class TestEncode:
    @pytest.mark.parametrize("style", STYLES)
    @quick
    @given(pairs=PAIRS)
    def test_every_token_of_every_text_comes_back(
        self, style: str, pairs: list[tuple[str, str | None]]
    ) -> None:
        encoded = encode(TOKENIZERS[style], pairs, max_length=99)
        assert [words(e.input_ids) for e in encoded] == [f"{a} {b}" if b else a for a, b in pairs]
        assert not any(e.truncated for e in encoded)

    @pytest.mark.parametrize(
        ("style", "second", "ids", "borders"),
        [
            ("bert", None, [CLS, 4, 5, SEP], (3,)),
            ("bert", "c", [CLS, 4, 5, SEP, 6, SEP], (3, 5)),
            ("roberta", None, [CLS, 4, 5, SEP], (3,)),
            ("roberta", "c", [CLS, 4, 5, SEP, SEP, 6, SEP], (3, 4, 6)),
            ("gpt2", None, [4, 5], ()),
            ("gpt2", "c", [4, 5, 6], (1,)),
        ],
    )
    def test_borders_are_the_separators_or_the_joint_where_there_are_none(
        self, style: str, second: str | None, ids: list[int], borders: tuple[int, ...]
    ) -> None:
        encoded = encode_one(style, "a b", second)
        assert encoded.input_ids == ids
        assert encoded.borders == borders

    def test_an_empty_first_text_has_its_separator_too(self) -> None:
        assert encode_one("bert", "", "c").input_ids == [CLS, SEP, 6, SEP]
        assert encode_one("bert", "", "c").borders == (1, 3)

    @pytest.mark.parametrize("style", STYLES)
    @pytest.mark.parametrize("pair", [("a b", ""), ("", "a b"), ("a", " "), ("", ""), ("a b", None)])
    def test_an_empty_text_of_a_pair_is_one_as_in_a_batch(
        self, style: str, pair: tuple[str, str | None]
    ) -> None:
        first, second = pair
        texts = ([first],) if second is None else ([first], [second])
        for max_length in (99, 4):
            wanted = TOKENIZERS[style](*texts, truncation=True, max_length=max_length)
            found = encode_one(style, first, second, max_length)
            assert found.input_ids == wanted["input_ids"][0]
            assert found.token_type_ids == (wanted["token_type_ids"][0] if style == "bert" else None)

    @pytest.mark.parametrize(
        ("known", "fed"), [(None, [0, 0, 0, 1, 1]), (0, None), (1, [0] * 5), (2, [0, 0, 0, 1, 1])]
    )
    def test_segment_ids_are_those_that_the_model_has_embeddings_for(
        self, known: int | None, fed: list[int] | None
    ) -> None:
        (one,) = encode(TOKENIZERS["bert"], [("a", "b")], 99, segments=known)
        assert one.token_type_ids == fed

    def test_more_kinds_of_segments_than_the_model_knows_are_refused(self) -> None:
        tokenizer = tokenizer_like("bert")
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="$A:0", pair="$A:1 $B:2", special_tokens=[]
        )
        with pytest.raises(InputError, match="gives segment id 2, but the model knows 2 kinds of segments"):
            encode(tokenizer, [("a", "b")], 99, segments=2)

    def test_segment_ids_are_the_tokenizers(self) -> None:
        assert encode_one("bert", "a b", "c").token_type_ids == [0, 0, 0, 0, 1, 1]
        assert encode_one("roberta", "a b", "c").token_type_ids is None

    @pytest.mark.parametrize("style", STYLES)
    @quick
    @given(pairs=PAIRS, max_length=st.integers(5, 20))
    def test_too_long_inputs_lose_the_ends_of_the_longer_text_first(
        self, style: str, pairs: list[tuple[str, str | None]], max_length: int
    ) -> None:
        for pair, cut in zip(pairs, encode(TOKENIZERS[style], pairs, max_length), strict=True):
            whole = encode_one(style, *pair)
            assert cut.truncated == (len(whole) > max_length)
            assert len(cut) == min(len(whole), max_length)
            texts = [(text or "").split() for text in pair]
            kept, lengths = words(cut.input_ids).split(), [len(text) for text in texts]
            while sum(lengths) > len(kept):
                lengths[lengths.index(max(lengths))] -= 1
            n = [
                first
                for first in range(len(kept) + 1)
                if kept == texts[0][:first] + texts[1][: len(kept) - first]
            ]
            assert any(abs(first - lengths[0]) <= 1 for first in n)

    @pytest.mark.parametrize(("style", "special"), [("bert", 3), ("roberta", 4)])
    def test_a_length_that_the_special_tokens_fill_alone_is_refused(self, style: str, special: int) -> None:
        for max_length in (-1, 0, 1, special - 1):
            with pytest.raises(InputError, match=f"max_length={max_length} leaves no room"):
                encode_one(style, "a b c", "d", max_length)
        assert len(encode_one(style, "a b c", "d", special + 1)) == special + 1

    def test_the_tokenizer_of_another_model_is_refused(self) -> None:
        largest = VOCABULARY["d"]
        assert len(encode(TOKENIZERS["bert"], [("a d", None)], 99, vocabulary=largest + 1)[0]) == 4
        with pytest.raises(InputError, match=f"token {largest} has no embedding: the model has {largest};"):
            encode(TOKENIZERS["bert"], [("a d", None)], 99, vocabulary=largest)

    @pytest.mark.parametrize("max_length", [99, 5], ids=["whole", "cut"])
    def test_the_tokenizer_is_not_changed(self, max_length: int) -> None:
        tokenizer = tokenizer_like("bert", padding_side="left", truncation_side="left", model_max_length=7)
        tokenizer.backend_tokenizer.enable_truncation(6, stride=1, strategy="only_first", direction="left")
        tokenizer.backend_tokenizer.enable_padding(direction="left", length=9, pad_id=PAD, pad_token="<pad>")

        def state() -> list[Any]:
            backend = tokenizer.backend_tokenizer
            sides = [tokenizer.padding_side, tokenizer.truncation_side, tokenizer.model_max_length]
            return [*sides, backend.truncation, backend.padding, backend.to_str()]

        before = state()
        encoded = encode(tokenizer, [("a b c d e f g h", None), ("a", "b")], max_length)
        assert [len(e) for e in encoded] == [min(10, max_length), 5]
        assert state() == before

    def test_the_tokenizer_is_not_changed_by_a_refusal_either(self) -> None:
        tokenizer = tokenizer_like("bert")
        with pytest.raises(InputError):
            encode(tokenizer, [("a b c", None)], 1)
        with pytest.raises(InputError):
            encode(tokenizer, [("a b c", None)], 4, vocabulary=2)
        assert tokenizer.backend_tokenizer.truncation is None
        assert tokenizer.backend_tokenizer.padding is None

    def test_a_tokenizer_in_pure_python_is_served_without_borders(self) -> None:
        encoded = encode(PythonTokenizer(), [("a b", "c"), ("a b c d", None)], max_length=3)
        assert [e.input_ids for e in encoded] == [[4, 5, 6], [4, 5, 6]]
        assert [e.truncated for e in encoded] == [False, True]
        assert [e.borders for e in encoded] == [(), ()]

    def test_the_real_tokenizer_pads_nothing_though_its_file_says_so(self, minilm: Any) -> None:
        encoded = encode(minilm.tokenizer, [("Hello world", None), ("Hello", "world")], 128)
        assert [len(e) for e in encoded] == [4, 5]
        assert encoded[1].borders == (2, 4)


class TestFeed:
    @pytest.mark.parametrize(
        "family", ["distilbert", "modernbert", "gpt2", "llama", "qwen2", "bert", "electra", "albert"]
    )
    def test_only_families_with_segment_embeddings_get_segment_ids(
        self, all_tiny: Any, tiny_tokenizer: Any, family: str
    ) -> None:
        fed = feed(all_tiny[family].build(), tiny_tokenizer, [("w1 w2", "w3")], 99)
        knows = family in ("bert", "electra", "albert")
        assert (fed.inputs[0].token_type_ids is not None) == knows
        assert fed.record["segments"] == ([0, 1] if knows else None)

    def test_a_model_of_one_segment_is_fed_zeros(self, all_tiny: Any, tiny_tokenizer: Any) -> None:
        model = all_tiny["roberta"].build()
        model.embeddings.token_type_embeddings = torch.nn.Embedding(1, 24)
        fed = feed(model, tiny_tokenizer, [("w1 w2", "w3")], 99)
        assert fed.inputs[0].token_type_ids == [0] * 6

    def test_the_record_says_what_was_fed(self, all_tiny: Any, tiny_tokenizer: Any) -> None:
        fed = feed(all_tiny["bert"].build(), tiny_tokenizer, [(f"{SAID[0]} {SAID[1]}", SAID[2])], 99)
        assert fed.limit == fed.record["max_length"] == 40
        assert fed.record["special_tokens"] == ["[CLS]", "[SEP]", "[SEP]"]
        assert fed.record["example"] == {
            "tokens": ["[CLS]", SAID[0], SAID[1], "[SEP]", SAID[2], "[SEP]"],
            "segments": [0, 0, 0, 0, 1, 1],
            "text": tiny_tokenizer.decode(fed.inputs[0].input_ids),
        }


class TestBatches:
    @pytest.mark.parametrize("style", STYLES)
    @quick
    @given(pairs=PAIRS, batch_size=st.integers(1, 11))
    def test_every_input_comes_back_whole_once_padded_on_the_right(
        self, style: str, pairs: list[tuple[str, str | None]], batch_size: int
    ) -> None:
        encoded = encode(TOKENIZERS[style], pairs, max_length=9)
        seen: list[int] = []
        lengths: list[int] = []
        for positions, inputs in batches(encoded, batch_size, PAD):
            mask = inputs["attention_mask"]
            assert 1 <= len(positions) <= batch_size
            assert {tuple(tensor.shape) for tensor in inputs.values()} == {(len(positions), mask.shape[1])}
            assert mask.shape[1] == len(encoded[positions[0]])
            for row, position in enumerate(positions):
                n = len(encoded[position])
                assert mask[row].tolist() == [1] * n + [0] * (mask.shape[1] - n)
                assert inputs["input_ids"][row, :n].tolist() == encoded[position].input_ids
                assert inputs["input_ids"][row, n:].eq(PAD).all()
                segments = encoded[position].token_type_ids
                assert ("token_type_ids" in inputs) == (segments is not None) == (style == "bert")
                if segments is not None:
                    assert inputs["token_type_ids"][row].tolist() == segments + [0] * (len(mask[row]) - n)
                lengths.append(n)
            seen += positions
        assert sorted(seen) == list(range(len(encoded)))
        assert lengths == sorted(lengths, reverse=True)

    @quick
    @given(order=st.permutations(range(6)))
    def test_the_batches_hold_the_same_inputs_whatever_the_order_of_the_rows(self, order: list[int]) -> None:
        texts = [("a b c", None), ("a b c", None), ("b c d", None), ("a", "b"), ("a b c d", "e"), ("f", None)]
        encoded = encode(TOKENIZERS["bert"], texts, 99)
        shuffled = [encoded[i] for i in order]
        for (_, a), (_, b) in zip(batches(encoded, 4, PAD), batches(shuffled, 4, PAD), strict=True):
            assert all(torch.equal(a[name], b[name]) for name in a)

    def test_without_segment_ids_the_model_gets_none(self) -> None:
        (_, inputs), = batches([Encoded([5, 6], None, (), False)], 4, PAD)  # fmt: skip
        assert sorted(inputs) == ["attention_mask", "input_ids"]

    @pytest.mark.parametrize("pad_token_id", [None, 0, 1, 99])
    def test_the_padding_has_an_embedding_whatever_the_tokenizer_says(self, pad_token_id: int | None) -> None:
        encoded = [Encoded([5, 6, 4], None, (), False), Encoded([7], None, (), False)]
        (_, inputs), = batches(encoded, 4, pad_token_id)  # fmt: skip
        assert inputs["input_ids"][0].tolist() == [5, 6, 4]
        assert inputs["input_ids"][1, 0] == 7
        assert 0 <= int(inputs["input_ids"].max()) <= 7
        if pad_token_id in (0, 1):
            assert inputs["input_ids"][1, 1:].eq(pad_token_id).all()

    def test_an_added_padding_token_without_embedding_does_not_change_the_result(self, all_tiny: Any) -> None:
        model = all_tiny["gpt2"].build()
        encoded = [Encoded([5, 6, 4], None, (), False), Encoded([7, 8], None, (), False)]
        with torch.no_grad():
            (_, inputs), = batches(encoded, 2, pad_token_id=60)  # fmt: skip
            padded = model(**inputs).last_hidden_state[1, :2]
            alone = model(input_ids=torch.tensor([[7, 8]])).last_hidden_state[0]
        torch.testing.assert_close(padded, alone, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("batch_size", [0, -1])
    def test_a_batch_of_nothing_is_refused(self, batch_size: int) -> None:
        with pytest.raises(InputError, match=f"batch_size={batch_size}: give at least 1"):
            list(batches([Encoded([5], None, (), False)], batch_size, PAD))

    def test_no_inputs_give_no_batches(self) -> None:
        assert list(batches([], 4, PAD)) == []
