"""A model reads the tokens that its tokenizer.json says, whatever the library makes of the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from models import InputError, load_checkpoint
from models.tasks.inputs import encode, feed
from models.tasks.token_text import shown_tokens
from patterns import classify_heads

TEXTS = [
    "In 2023 there were 14161 people.",
    "in the year 1984, ① and more",
    "Paris is not paris",
    "nothing special here at all",
]
BERTISH = {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "pad_token": "[PAD]"}


def byte_level() -> Tokenizer:
    """GPT-2's way of splitting, where Qwen2's class puts its own in place."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    years = [f"In {year} there were {year * 7} people" for year in range(1900, 2030)]
    tokenizer.train_from_iterator(
        [*TEXTS, *years],
        trainers.BpeTrainer(vocab_size=400, special_tokens=["<|end|>", "<pad>"], initial_alphabet=alphabet),
    )
    return tokenizer


def word_pieces(minilm_folder: str, normalizer: Any, *more: str) -> Tokenizer:
    content = json.loads((Path(minilm_folder) / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    for word in more:
        vocabulary.setdefault(word, len(vocabulary))
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.normalizer = normalizer
    return tokenizer


def model_with(save_tiny: Any, tokenizer: Tokenizer, family: str, name: str, **special: str) -> Path:
    """A tiny model whose folder holds this tokenizer.json, and a config that names one of the library's classes."""
    folder: Path = save_tiny(family, vocab_size=tokenizer.get_vocab_size())
    for file in folder.glob("*token*"):
        file.unlink()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name, **special}))
    return folder


@pytest.fixture(params=["other splitting", "NFKC first", "cased"])
def overridden(request: pytest.FixtureRequest, save_tiny: Any, minilm_folder: str) -> Path:
    if request.param == "other splitting":
        special = {"eos_token": "<|end|>", "pad_token": "<pad>"}
        return model_with(save_tiny, byte_level(), "qwen2", "Qwen2Tokenizer", **special)
    bert = normalizers.BertNormalizer
    normalizer = normalizers.Sequence([normalizers.NFKC(), bert()])
    more: tuple[str, ...] = ()
    if request.param == "cased":
        normalizer, more = bert(lowercase=False), ("In", "Paris", "people")
    tokenizer = word_pieces(minilm_folder, normalizer, *more)
    return model_with(save_tiny, tokenizer, "bert", "BertTokenizer", **BERTISH)


def test_every_token_is_that_of_the_file_and_the_difference_is_said(overridden: Path) -> None:
    checkpoint = load_checkpoint(str(overridden))
    stored = Tokenizer.from_file(str(overridden / "tokenizer.json"))
    pairs = [(text, None) for text in TEXTS]
    found = [one.input_ids for one in encode(checkpoint.tokenizer, pairs, 99)]
    assert found == [stored.encode(text).ids for text in TEXTS]
    result = classify_heads(checkpoint.model, checkpoint.tokenizer, pairs, kinds=("raw",), max_length=30)
    assert any("inputs have other tokens by the library's" in said for said in result.warnings)
    ids = stored.encode(TEXTS[0]).ids[:30]
    assert result.inputs["example"]["tokens"] == shown_tokens(checkpoint.tokenizer, ids)


def test_a_tokenizer_that_a_caller_loaded_is_used_and_the_difference_said(overridden: Path) -> None:
    from transformers import AutoTokenizer

    model, tokenizer = load_checkpoint(str(overridden)).model, AutoTokenizer.from_pretrained(overridden)
    pairs = [(text, None) for text in TEXTS]
    fed = feed(model, tokenizer, pairs, 30)
    assert [one.input_ids for one in fed.inputs] == [tokenizer(text)["input_ids"] for text in TEXTS]
    (message,) = fed.warnings
    assert f"by the {type(tokenizer).__name__} given than by the model's tokenizer.json" in message


def test_pairs_and_special_tokens_are_those_of_the_file(save_tiny: Any, minilm_folder: str) -> None:
    tokenizer = word_pieces(minilm_folder, normalizers.BertNormalizer(lowercase=False), "Paris")
    checkpoint = load_checkpoint(str(model_with(save_tiny, tokenizer, "bert", "BertTokenizer", **BERTISH)))
    (one,) = encode(checkpoint.tokenizer, [("Paris is", "not paris")], 99)
    wanted = tokenizer.encode("Paris is", "not paris")
    assert (one.input_ids, one.token_type_ids) == (wanted.ids, wanted.type_ids)
    assert checkpoint.tokenizer.pad_token == "[PAD]"
    assert checkpoint.tokenizer.sep_token_id == wanted.ids[-1]


def test_where_no_row_at_hand_differs_nothing_is_said(save_tiny: Any, minilm_folder: str) -> None:
    tokenizer = word_pieces(
        minilm_folder, normalizers.Sequence([normalizers.NFKC(), normalizers.BertNormalizer()])
    )
    checkpoint = load_checkpoint(str(model_with(save_tiny, tokenizer, "bert", "BertTokenizer", **BERTISH)))
    assert not feed(checkpoint.model, checkpoint.tokenizer, [("all the same", None)], 30).warnings
    assert feed(
        checkpoint.model, checkpoint.tokenizer, [("all the same", None), ("① not", None)], 30
    ).warnings


def test_the_librarys_tokenizer_stays_where_it_is_the_files(minilm: Any) -> None:
    assert type(minilm.tokenizer).__name__.startswith("Bert")
    assert not feed(minilm.model, minilm.tokenizer, [(text, None) for text in TEXTS], 30).warnings


def test_tokens_by_code_of_its_own_are_refused_unless_a_file_says_them(save_tiny: Any) -> None:
    folder = save_tiny("bert")
    config = folder / "tokenizer_config.json"
    own = {"auto_map": {"AutoTokenizer": ["tokenization_mine.Mine", None]}}
    config.write_text(json.dumps(json.loads(config.read_text()) | own))
    assert load_checkpoint(str(folder)).tokenizer("w1 w2")["input_ids"][0] == 1
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"makes tokens with code of its own \(auto_map: AutoTokenizer\)"):
        load_checkpoint(str(folder))
