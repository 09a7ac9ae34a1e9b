"""A loaded model is what its files say, or it is refused by name."""

from __future__ import annotations

import json
import resource
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models import (
    HeadscopeError,
    InputError,
    Subnetwork,
    anatomy_of,
    compact,
    gated,
    kept_of,
    load,
    load_checkpoint,
    observe,
    save,
)
from models.finetuning.run import with_head
from patterns import redrawn

WEIGHTS = "model.safetensors"
SST2 = ["negative", "positive"]
WRAPPINGS = (
    "_orig_mod.",
    "module.",
    "model.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "model._orig_mod.",
    "_orig_mod.model.",
    "module.model._orig_mod.module.",
    "model.model.",
)


def change(folder: Path, name: str, edit: Any) -> Path:
    """A copy of a model whose weights are edited, in place or by returning others."""
    target = folder.with_name(name)
    shutil.copytree(folder, target)
    weights = load_file(target / WEIGHTS)
    save_file(edit(weights) or weights, target / WEIGHTS, metadata={"format": "pt"})
    return target


def configure(folder: Path, **values: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


def same(one: Any, other: Any) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def refusal(folder: Path, task: str | None = None) -> str:
    with pytest.raises(HeadscopeError) as error:
        load_checkpoint(str(folder), task=task)
    message = str(error.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


class TestWrappers:
    @pytest.mark.parametrize(
        ("family", "wrapping"),
        [(family, one) for one in WRAPPINGS for family in ("bert", "gpt2")]
        + [(family, WRAPPINGS[-1]) for family in ("llama", "modernbert", "distilbert")],
    )
    def test_what_wrappers_put_before_names_is_taken_off(
        self, save_tiny: Any, family: str, wrapping: str
    ) -> None:
        for labels, task in ((SST2, "sst2"), (SST2, None), (None, None)):
            folder = save_tiny(family, labels)
            wrapped = change(
                folder,
                f"{folder.name}-w",
                lambda weights: {wrapping + name: w for name, w in weights.items()},
            )
            found, right = (load_checkpoint(str(one), task=task).model for one in (wrapped, folder))
            assert same(found, right)

    @pytest.mark.parametrize("form", ["bin", "state_dict", "sharded"])
    def test_in_every_form_of_file(self, save_tiny: Any, form: str) -> None:
        folder = save_tiny("bert", SST2)
        right = load_checkpoint(str(folder), task="sst2").model
        weights = {f"module.model.{name}": w for name, w in load_file(folder / WEIGHTS).items()}
        (folder / WEIGHTS).unlink()
        if form == "sharded":
            names = sorted(weights)
            places = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
            for file in set(places.values()):
                part = {name: weights[name] for name in names if places[name] == file}
                save_file(part, folder / file, metadata={"format": "pt"})
            (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
        else:
            content = weights if form == "bin" else {"state_dict": weights, "epoch": 3}
            torch.save(content, folder / "pytorch_model.bin")
        assert same(load_checkpoint(str(folder), task="sst2").model, right)

    def test_a_file_that_holds_more_than_weights_is_not_unpickled(self, save_tiny: Any) -> None:
        folder = save_tiny("bert")
        weights = load_file(folder / WEIGHTS)
        (folder / WEIGHTS).unlink()
        torch.save({"state_dict": weights, "settings": Path("x")}, folder / "pytorch_model.bin")
        assert "truncated or corrupt, or holds more than weights" in refusal(folder)

    def test_a_shard_that_is_missing_is_named(self, save_tiny: Any) -> None:
        folder = save_tiny("bert")
        (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")
        places = {
            name: f"model-0000{1 + i % 2}-of-00002.safetensors"
            for i, name in enumerate(load_file(folder / "model-00001-of-00002.safetensors"))
        }
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
        assert "lacks model-00002-of-00002.safetensors" in refusal(folder)

    def test_two_models_in_one_folder_are_refused(self, save_tiny: Any) -> None:
        folder = save_tiny("bert")
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": {}}))
        assert "which may be two models; remove one" in refusal(folder)


QUERY = "bert.encoder.layer.0.attention.self.query"
KINDS = {
    "loralib": ({f"{QUERY}.lora_A": torch.ones(2, 24)}, "LoRA weights that were never merged"),
    "ia3": ({f"{QUERY}.ia3_l.default": torch.ones(24)}, "PEFT's weights that were never merged"),
    "adapter": (
        {"bert.encoder.layer.1.output.adapters.sst.adapter_up.weight": torch.ones(2, 2)},
        "adapter weights",
    ),
    "prefix": ({"prefix_encoder.embedding.weight": torch.ones(2, 2)}, "prefix or prompt weights"),
    "movement": ({f"{QUERY}.mask_scores": torch.ones(24, 24)}, "scores of movement pruning"),
    "relative": (
        {"bert.encoder.layer.0.attention.self.distance_embedding.weight": torch.ones(79, 6)},
        "relative positions",
    ),
    "relative of all layers": (
        {"bert.encoder.relative_attention_bias.weight": torch.ones(32, 4)},
        "relative positions",
    ),
    "unknown in a layer": ({"bert.encoder.layer.0.gate": torch.ones(3)}, "that Bert"),
    "unknown in the base": ({"bert.extra.weight": torch.ones(3)}, "that Bert"),
}


class TestWeightsWithoutAPlace:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("task", [None, "sst2"])
    def test_one_that_changes_what_is_computed_is_refused_by_kind(
        self, save_tiny: Any, kind: str, task: str | None
    ) -> None:
        more, words = KINDS[kind]
        folder = change(save_tiny("bert", SST2), "more", lambda weights: weights | more)
        message = refusal(folder, task)
        assert words in message
        assert next(iter(more)).removeprefix("bert.") in message

    @pytest.mark.parametrize("kind", ["loralib", "relative", "unknown in a layer"])
    def test_of_a_model_saved_without_head_too(self, save_tiny: Any, kind: str) -> None:
        more = {name.removeprefix("bert."): w for name, w in KINDS[kind][0].items()}
        assert KINDS[kind][1] in refusal(change(save_tiny("bert"), "more", lambda weights: weights | more))

    @pytest.mark.parametrize(
        ("old", "new", "words"),
        [
            ("query.weight", "query.base_layer.weight", "a layer as PEFT wraps it"),
            ("query.weight", "query.weight_orig", "masks of torch.nn.utils.prune"),
            ("query.weight", "query.parametrizations.weight.original0", "parametrised weights"),
        ],
    )
    def test_one_that_stands_in_for_another(self, save_tiny: Any, old: str, new: str, words: str) -> None:
        def rename(weights: Any) -> Any:
            return {name.replace(old, new): w for name, w in weights.items()}

        assert words in refusal(change(save_tiny("bert", SST2), "renamed", rename))

    @pytest.mark.parametrize("prefix", ["ema.", "delta.", "teacher.bert.", "module.", "module.bert."])
    def test_another_version_of_the_same_weights_is_refused(self, save_tiny: Any, prefix: str) -> None:
        def both(weights: Any) -> Any:
            more = {name.removeprefix("bert."): w + 1 for name, w in weights.items()}
            return weights | {prefix + name: w for name, w in more.items()}

        for labels, task in ((None, None), (SST2, "sst2"), (SST2, None)):
            folder = save_tiny("bert", labels)
            message = refusal(change(folder, f"{folder.name}-both", both), task)
            assert f"another version of a weight ({prefix}encoder.layer." in message

    def test_two_versions_behind_wrappers_are_refused(self, save_tiny: Any) -> None:
        def both(weights: Any) -> Any:
            wrapped = {f"module.{name}": w for name, w in weights.items()}
            return wrapped | {f"_orig_mod.{name}": w + 1 for name, w in weights.items()}

        folder = change(save_tiny("bert"), "both", both)
        assert "two versions of the weight" in refusal(folder)
        with pytest.raises(InputError, match="two versions of the weight"):
            load(folder)

    def test_other_heads_and_old_buffers_are_left_out_in_peace(self, save_tiny: Any) -> None:
        folder = save_tiny("bert", SST2)
        right = load_checkpoint(str(folder)).model
        more = {
            "cls.predictions.bias": torch.ones(60),
            "bert.embeddings.position_ids": torch.arange(40)[None],
        }
        assert same(load_checkpoint(str(change(folder, "more", lambda weights: weights | more))).model, right)


class TestConfigs:
    @pytest.mark.parametrize("kind", ["relative_key", "relative_key_query", "rotary"])
    def test_other_positions_are_refused(self, save_tiny: Any, kind: str) -> None:
        folder = configure(save_tiny("bert"), position_embedding_type=kind)
        assert f"position_embedding_type {kind!r}" in refusal(folder)
        with pytest.raises(InputError, match="position_embedding_type"):
            load(folder)
        assert load_checkpoint(str(configure(folder, position_embedding_type="absolute")))
        assert "position_embedding_type 'relative'" in refusal(
            configure(folder, relative_attention=True, position_embedding_type=None)
        )

    @pytest.mark.parametrize("alone", [True, False])
    def test_an_adapter_is_refused_with_what_to_do(self, save_tiny: Any, alone: bool) -> None:
        folder = save_tiny("bert")
        said = {"peft_type": "LORA", "base_model_name_or_path": "some/base"}
        (folder / "adapter_config.json").write_text(json.dumps(said))
        if alone:
            (folder / "config.json").unlink()
        message = refusal(folder)
        assert "adapter_config.json: LORA, for some/base" in message
        assert "merge_and_unload()" in message

    def test_code_of_its_own_is_refused_where_it_would_be_used(self, save_tiny: Any) -> None:
        folder = save_tiny("qwen2", SST2)
        own = "modeling_two_sided.TwoSided"
        for entries, task in (
            ({"AutoModel": own}, None),
            ({"AutoModel": own}, "sst2"),
            ({"AutoModelForSequenceClassification": own}, "sst2"),
            ({"AutoModelForCausalLM": "m.Qwen2ForSequenceClassification"}, None),  # as `architectures` says
            ({"AutoModel": ["other/repo--m.Qwen2Model"]}, None),
        ):
            message = refusal(configure(folder, auto_map=entries), task)
            assert "computes with code of its own (auto_map: AutoModel" in message
        for entries in (
            {"AutoConfig": "m.C"},
            {"AutoModelForCausalLM": "m.Other"},
            {"AutoModel": "transformers.models.qwen2.modeling_qwen2.Qwen2Model"},
        ):
            assert load_checkpoint(str(configure(folder, auto_map=entries)))

    def test_a_class_of_its_own_without_code_is_said(self, save_tiny: Any) -> None:
        folder = save_tiny("bert")
        assert load_checkpoint(str(folder)).warnings == ()
        (message,) = load_checkpoint(str(configure(folder, architectures=["MyBert"]))).warnings
        assert "MyBert; it is computed as the library's BertModel" in message

    @pytest.mark.parametrize(
        "left",
        [
            {"output_attentions": True},
            {"output_hidden_states": True},
            {"return_dict": False},
            {"gradient_checkpointing": True},
            {"attn_implementation": "flash_attention_2"},
            {"attn_implementation": "some-owner/some-kernel"},
            {"_attn_implementation": "flex_attention"},
            {"chunk_size_feed_forward": 8},
            {"torchscript": True},
        ],
        ids=str,
    )
    def test_settings_of_the_session_it_was_saved_in_change_nothing(
        self, save_tiny: Any, left: dict[str, Any], ragged_batch: Any
    ) -> None:
        folder = save_tiny("bert", SST2)
        right = load_checkpoint(str(folder), task="sst2").model
        found = load_checkpoint(str(configure(folder, **left)), task="sst2").model
        again = load(folder)
        with torch.no_grad():
            wanted = right(**ragged_batch).logits
            assert torch.equal(found(**ragged_batch).logits, wanted)
            assert torch.equal(again(**ragged_batch).logits, wanted)
        assert not found.training
        assert not any(getattr(module, "gradient_checkpointing", False) for module in found.modules())


GONE = {"0": [0, 2], "2": [3]}


class TestPrunedHeads:
    """Heads that version 4 of the library pruned: their rows are gone from the weights, the config names them."""

    def pruned(self, folder: Path, prefix: str, names: dict[str, int]) -> Path:
        """Cut as `prune_heads` did; `names` maps modules of layer {i} to the axis of their weight that is cut."""

        def cut(weights: dict[str, torch.Tensor]) -> None:
            for layer, gone in GONE.items():
                keep = [h * 6 + j for h in range(4) if h not in gone for j in range(6)]
                for name, axis in names.items():
                    key = prefix + name.format(i=layer)
                    weights[f"{key}.weight"] = weights[f"{key}.weight"].index_select(axis, torch.tensor(keep))
                    if axis == 0:
                        weights[f"{key}.bias"] = weights[f"{key}.bias"][keep]

        return configure(change(folder, f"{folder.name}-pruned", cut), pruned_heads=GONE)

    @pytest.mark.parametrize(
        ("family", "stored", "names"),
        [
            (
                "bert",
                "bert.",
                {f"encoder.layer.{{i}}.attention.self.{n}": 0 for n in ("query", "key", "value")}
                | {"encoder.layer.{i}.attention.output.dense": 1},
            ),
            (
                "distilbert",
                "distilbert.",
                {f"transformer.layer.{{i}}.attention.{n}_lin": 0 for n in "qkv"}
                | {"transformer.layer.{i}.attention.out_lin": 1},
            ),
        ],
    )
    def test_the_compacted_model_computes_what_gating_does(
        self, save_tiny: Any, family: str, stored: str, names: dict[str, int], ragged_batch: Any
    ) -> None:
        for labels, task, prefix in ((SST2, "sst2", stored), (SST2, None, stored), (None, None, "")):
            folder = save_tiny(family, labels)
            whole = load_checkpoint(str(folder), task=task).model
            small = load_checkpoint(str(self.pruned(folder, prefix, names)), task=task).model
            heads = np.ones((3, 4), dtype=bool)
            heads[0, [0, 2]] = heads[2, 3] = False
            kept = Subnetwork(heads, np.ones(3, dtype=bool))
            assert kept_of(small) == kept
            with torch.no_grad(), gated(whole, heads=torch.tensor(heads).float()):
                wanted = whole(**ragged_batch)[0]
            with torch.no_grad():
                torch.testing.assert_close(small(**ragged_batch)[0], wanted)

    def test_behind_a_wrapper_and_with_the_old_names_of_norms(self, save_tiny: Any) -> None:
        names = {f"encoder.layer.{{i}}.attention.self.{n}": 0 for n in ("query", "key", "value")}
        names |= {"encoder.layer.{i}.attention.output.dense": 1}
        folder = self.pruned(save_tiny("bert", SST2), "bert.", names)
        right = load_checkpoint(str(folder), task="sst2").model

        def wrap(weights: Any) -> Any:
            old = {
                n.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                    "LayerNorm.bias", "LayerNorm.beta"
                ): w
                for n, w in weights.items()
            }
            return {f"model._orig_mod.{name}": w for name, w in old.items()}

        assert same(load_checkpoint(str(change(folder, "wrapped", wrap)), task="sst2").model, right)

    @pytest.mark.parametrize("said", [{"9": [0]}, {"0": [4]}, {"x": [0]}, [1], {"0": 1}])
    def test_heads_that_are_none_are_refused(self, save_tiny: Any, said: Any) -> None:
        assert "pruned_heads in its config must name heads 0 to 3" in refusal(
            configure(save_tiny("bert"), pruned_heads=said)
        )

    def test_layers_that_share_modules_are_refused(self, save_tiny: Any) -> None:
        message = refusal(configure(save_tiny("albert"), pruned_heads={"0": [1]}))
        assert "in modules that several layers share" in message

    def test_none_pruned_is_a_whole_model_and_weights_that_are_whole_are_refused(
        self, save_tiny: Any
    ) -> None:
        folder = save_tiny("bert")
        assert kept_of(load_checkpoint(str(configure(folder, pruned_heads={"0": []}))).model) is None
        assert "has the shape" in refusal(configure(folder, pruned_heads={"0": [1]}))


class TestDirections:
    @pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2", "bert", "distilbert", "modernbert"])
    @pytest.mark.parametrize(
        "said",
        [{}, {"is_causal": False}, {"is_decoder": True}, {"is_decoder": True, "is_causal": False}],
        ids=str,
    )
    def test_a_model_is_called_causal_exactly_if_its_maps_are(
        self, save_tiny: Any, family: str, said: dict[str, bool], ragged_batch: Any
    ) -> None:
        model = load_checkpoint(str(configure(save_tiny(family), **said))).model
        for rows in (slice(0, 1), slice(None)):  # without padding, and with some
            later: list[float] = []
            with (
                torch.no_grad(),
                observe(model, lambda layer, p, v, later=later: later.append(float(p.triu(1).sum()))),
            ):
                model(**{name: tensor[rows] for name, tensor in ragged_batch.items()})
            assert all((share == 0) == anatomy_of(model).causal for share in later)

    @pytest.mark.parametrize("family", ["bert", "modernbert"])
    def test_an_encoder_that_says_it_is_causal_is_refused(self, save_tiny: Any, family: str) -> None:
        assert "says is_causal" in refusal(configure(save_tiny(family), is_causal=True))
        assert load_checkpoint(str(configure(save_tiny(family), is_causal=False)))

    @pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2"])
    def test_a_two_sided_decoder_computes_the_same_padded_or_not(
        self, save_tiny: Any, family: str, ragged_batch: Any
    ) -> None:
        model = load_checkpoint(str(configure(save_tiny(family), is_causal=False))).model
        alone = {name: tensor[:1] for name, tensor in ragged_batch.items()}
        with torch.no_grad():
            torch.testing.assert_close(
                model(**alone).last_hidden_state, model(**ragged_batch).last_hidden_state[:1]
            )

    @pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2"])
    def test_so_does_one_with_a_new_head_or_with_new_weights(
        self, save_tiny: Any, family: str, ragged_batch: Any
    ) -> None:
        folder = str(configure(save_tiny(family), is_causal=False))
        ids = ragged_batch["input_ids"][:1]
        alone = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        padded = {name: torch.nn.functional.pad(tensor, (0, 3)) for name, tensor in alone.items()}
        for new in (with_head(folder, None, "sst2")[0].model, redrawn(load_checkpoint(folder).model)):
            anatomy = anatomy_of(new.eval())
            assert not any(attention.is_causal for attention in anatomy.attentions)
            base = anatomy.base
            with torch.no_grad():
                found = base(**alone).last_hidden_state
                torch.testing.assert_close(found, base(**padded).last_hidden_state[:, : ids.shape[1]])
                first = base(**{name: tensor[:, :5] for name, tensor in alone.items()}).last_hidden_state
            assert not torch.allclose(found[:, :5], first)  # what stands later is seen


class TestSizes:
    """A config is compared with the weights before anything is made of it: in seconds, and in less than a gigabyte."""

    @pytest.mark.parametrize("form", ["safetensors", "bin", "compacted"])
    @pytest.mark.parametrize(
        ("setting", "value"),
        [
            ("vocab_size", 10**9),
            ("vocab_size", 10**18),
            ("hidden_size", 4 * 10**6),
            ("intermediate_size", 10**10),
            ("max_position_embeddings", 10**10),
            ("type_vocab_size", 10**9),
            ("num_hidden_layers", 5000),
            ("num_hidden_layers", 10**9),
            ("num_attention_heads", 10**9),
            ("num_labels", 10**9),
            ("hidden_size", -24),
            ("vocab_size", 1e300),
        ],
    )
    def test_a_config_that_asks_for_more_than_there_is(
        self, save_tiny: Any, form: str, setting: str, value: float
    ) -> None:
        folder = save_tiny("bert")
        if form == "bin":
            torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
            (folder / WEIGHTS).unlink()
        elif form == "compacted":
            kept = Subnetwork(np.ones((3, 4), dtype=bool), np.array([True, False, True]))
            small = compact(load_checkpoint(str(folder)).model, kept)
            save(small, folder.with_name("small"), tokenizer=load_checkpoint(str(folder)).tokenizer)
            folder = folder.with_name("small")
        configure(folder, **{setting: value})
        before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
        message = refusal(folder)
        assert str(folder) in message
        assert time.monotonic() - started < 10
        assert 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < 2**30

    def test_groups_of_layers_count_too(self, save_tiny: Any) -> None:
        for setting in ("num_hidden_groups", "inner_group_num"):
            assert f"({setting})" in refusal(configure(save_tiny("albert"), **{setting: 10**8}))

    def test_positions_that_are_computed_are_no_weights(self, save_tiny: Any) -> None:
        folder = configure(save_tiny("llama"), max_position_embeddings=10**9)
        assert anatomy_of(load_checkpoint(str(folder)).model).max_tokens == 10**9


class TestTypes:
    @pytest.mark.parametrize("form", ["safetensors", "bin"])
    @pytest.mark.parametrize(
        "kind", [torch.int8, torch.uint8, torch.int64, torch.complex64, torch.float8_e4m3fn]
    )
    def test_weights_that_are_no_plain_numbers_are_refused(
        self, save_tiny: Any, kind: torch.dtype, form: str
    ) -> None:
        folder = save_tiny("bert")
        weights = load_file(folder / WEIGHTS)
        name = "encoder.layer.1.attention.self.query.weight"
        weights[name] = weights[name].to(kind)
        if form == "bin":
            (folder / WEIGHTS).unlink()
            torch.save(weights, folder / "pytorch_model.bin")
        else:
            try:
                save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
            except KeyError:
                pytest.skip("could not import: this safetensors knows no such numbers")
        assert f"({name}), as quantised models do" in refusal(folder)
        with pytest.raises(InputError, match="as quantised models do"):
            load(folder)

    @pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16])
    def test_those_of_any_precision_are_read(self, save_tiny: Any, kind: torch.dtype) -> None:
        folder = change(
            save_tiny("bert"), "cast", lambda weights: {n: w.to(kind) for n, w in weights.items()}
        )
        assert {p.dtype for p in load_checkpoint(str(folder)).model.parameters()} == {torch.float32}
