"""An encoder-decoder's three groups of layers are told apart, and each is what the library says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conformance import FAMILIES, batch_of, build

from models import InputError, TapError, UnsupportedModelError, anatomy_of, gated, load_checkpoint, observe
from patterns import attention_maps, classify_checkpoint, classify_heads
from patterns.cli import classify_heads as command

BY_TYPE = {family.model_type: family for family in FAMILIES}
ENCODER_DECODERS = ("bart", "t5")
TEXTS = "the film was good but so long\nit really was so bad and the plot is long\n"


@pytest.fixture(params=ENCODER_DECODERS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_model_without_stacks_has_none_to_choose_from(tiny_bert: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="--stack decoder: a BERT model has none to choose from"):
        anatomy_of(tiny_bert, "decoder")


def test_an_encoder_alone_has_no_decoder() -> None:
    from transformers import T5EncoderModel

    model = T5EncoderModel(build(BY_TYPE["t5"]).config).eval()
    assert anatomy_of(model).n_layers == 3
    with pytest.raises(UnsupportedModelError, match="--stack decoder: a T5EncoderModel has none"):
        anatomy_of(model, "decoder")


def test_a_decoder_without_an_encoders_input_says_what_cross_attention_needs() -> None:
    from transformers import BartForCausalLM

    model = BartForCausalLM(build(BY_TYPE["bart"]).config).eval()
    with (
        pytest.raises(TapError, match="0 of 3 attention layers; cross-attention needs an encoder's input"),
        observe(model, lambda *_: None, stack="cross"),
    ):
        model(input_ids=torch.tensor([[2, 5, 6]]))


def test_what_the_decoder_reads_is_what_the_library_would_give_it(kind: str) -> None:
    from transformers import T5ForConditionalGeneration

    model = build(BY_TYPE[kind])
    batch = {name: batch_of(BY_TYPE[kind])[name] for name in ("input_ids", "attention_mask")}
    fed = anatomy_of(model, "decoder").fed(batch)
    if kind == "bart":
        with torch.no_grad():
            expected, found = model(**batch).last_hidden_state, model(**fed).last_hidden_state
        real = batch["attention_mask"].bool()
        torch.testing.assert_close(found[real], expected[real], rtol=1e-4, atol=1e-5)
    else:
        shifted = T5ForConditionalGeneration(model.config)._shift_right(batch["input_ids"])
        assert torch.equal(fed["decoder_input_ids"], shifted)
    assert torch.equal(fed["decoder_attention_mask"], batch["attention_mask"])
    assert anatomy_of(model).fed(batch)["decoder_input_ids"].shape == (4, 1)
    own = {**batch, "decoder_input_ids": batch["input_ids"][:, :3]}
    assert anatomy_of(model, "cross").fed(own) == own


@pytest.mark.parametrize("start", [None, 60])
def test_a_start_token_that_is_none_of_the_models_is_refused(start: int | None) -> None:
    model, ids = build(BY_TYPE["t5"]), torch.tensor([[5, 6, 7, 8]])
    model.config.decoder_start_token_id = start
    with pytest.raises(InputError, match="names no token of its vocabulary as decoder_start_token_id"):
        attention_maps(model, {"input_ids": ids}, stack="decoder")
    assert len(attention_maps(model, {"input_ids": ids}, kinds=("raw",))) == 3  # the encoder's need none


def test_cross_maps_have_the_decoders_tokens_as_rows_and_the_encoders_as_columns(kind: str) -> None:
    family = BY_TYPE[kind]
    batch, eager = batch_of(family), build(family, "eager")
    with torch.no_grad():
        expected = eager(**batch, output_attentions=True).cross_attentions
    found = attention_maps(build(family), batch, kinds=("raw", "norm"), stack="cross")
    assert [(layer, of) for layer, of, _, _ in found] == [(i, of) for i in range(3) for of in ("raw", "norm")]
    for layer, of, maps, lengths in found:
        assert maps.shape == (4, 4, 11, 17)
        assert lengths.tolist() == [11, 4, 7, 3]
        for i, (n, m) in enumerate(zip((11, 4, 7, 3), (17, 9, 5, 2), strict=True)):
            assert maps[i, :, n:].abs().sum() == 0
            assert maps[i, :, :, m:].abs().sum() == 0
            if of == "raw":
                torch.testing.assert_close(
                    maps[i, :, :n, :m], expected[layer][i, :, :n, :m], rtol=1e-3, atol=1e-3
                )


def test_the_decoders_mlps_are_not_gated_with_cross_attention(kind: str) -> None:
    model = build(BY_TYPE[kind])
    with pytest.raises(InputError, match="stack='decoder'"), gated(model, mlps=torch.ones(3), stack="cross"):
        pass


@pytest.fixture
def saved(kind: str, tmp_path: Path, tiny_tokenizer: Any) -> Path:
    model = build(BY_TYPE[kind])
    model.save_pretrained(tmp_path / kind)
    tiny_tokenizer.save_pretrained(tmp_path / kind)
    (tmp_path / "texts.txt").write_text(TEXTS)
    return tmp_path


class TestClassifyHeads:
    def test_each_stack_is_classified_and_named(self, kind: str, saved: Path, run_command: Any) -> None:
        words = ("--model", saved / kind, "--text", saved / "texts.txt", "--json")
        for stack in (None, "decoder"):
            chosen = () if stack is None else ("--stack", stack)
            code, out, err = run_command(command, *words, *chosen)
            assert code == 0, err
            summary = json.loads(out)
            assert summary["stack"] == (stack or "encoder")
            assert summary["heads"] == {"counted": 12, "all": 12}
            said = " ".join(summary["maps"]["raw"]["warnings"])
            assert f"heads of the {stack or 'encoder'}'s self-attention" in said
            assert ("is causal" in said) == (stack == "decoder")

    @pytest.mark.parametrize("kind", ["bart"], indirect=True)
    def test_saved_maps_of_a_decoder_are_its_own(self, kind: str, saved: Path, run_command: Any) -> None:
        from patterns.maps.store import read_maps

        out = saved / "out"
        words = ("--model", saved / kind, "--text", saved / "texts.txt", "--save-maps", "--output", out)
        code, _, err = run_command(command, *words, "--stack", "decoder")
        assert code == 0, err
        rows = list(read_maps(out / "maps"))
        assert len(rows) == 2 * 12 * 2
        for row in rows:
            assert not torch.triu(torch.tensor(row.map), diagonal=1).any()

    @pytest.mark.parametrize("kind", ["bart"], indirect=True)
    def test_cross_attention_is_not_classified(self, kind: str, saved: Path, run_command: Any) -> None:
        words = ("--model", saved / kind, "--text", saved / "texts.txt")
        with pytest.raises(InputError, match="no diagonal to speak of, so it is not classified"):
            classify_checkpoint(str(saved / kind), text=saved / "texts.txt", stack="cross")
        loaded = load_checkpoint(str(saved / kind))
        with pytest.raises(InputError, match="no diagonal to speak of, so it is not classified"):
            classify_heads(loaded.model, loaded.tokenizer, [("the film", None)], stack="cross")
        code, _, err = run_command(command, *words, "--stack", "both")
        assert code == 2
        assert "--stack both: give one of encoder, decoder, cross" in err


def test_a_stack_that_the_model_does_not_have_ends_with_code_2(
    minilm_folder: str, tmp_path: Path, run_command: Any
) -> None:
    (tmp_path / "texts.txt").write_text(TEXTS)
    words = ("--model", minilm_folder, "--text", tmp_path / "texts.txt", "--stack", "decoder")
    code, out, err = run_command(command, *words)
    assert (code, out) == (2, "")
    assert "--stack decoder: a BERT model has none to choose from" in err
