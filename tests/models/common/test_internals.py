"""A change inside the library is noticed: an error that names the version, never a wrong number."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from models import LibraryError, Subnetwork, UnsupportedModelError, compact, observe
from models.common.internals import IMMATERIAL, check_call, conv1d, loading_report, rows_of_mask

ROOT = Path(__file__).parents[3]
INPUT = {"input_ids": torch.tensor([[5, 6, 7, 8]])}


def imports_of_the_library(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.ImportFrom(module=str(module), level=0):
                yield module
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.Attribute(value=ast.Name(id="transformers"), attr=attr):
                yield (
                    f"transformers.{attr}"
                    if attr.startswith("_") and attr != "__version__"
                    else "transformers"
                )


def test_one_module_alone_reaches_into_the_library() -> None:
    rooms = [ROOT / room for room in ("models", "patterns", "annotations", "pruning", "benchmarks")]
    inside = {
        path.relative_to(ROOT).as_posix()
        for room in rooms
        for path in room.rglob("*.py")
        if any(name.startswith("transformers.") for name in imports_of_the_library(path))
    }
    assert inside == {"models/common/internals.py"}


def call(module: Any = None, mask: Any = None, kv: int = 4, **others: Any) -> None:
    query, key = torch.zeros(2, 4, 5, 6), torch.zeros(2, kv, 5, 6)
    check_call(module or torch.nn.Identity(), query, key, key, mask, others)


def test_a_mask_of_some_queries_that_is_not_part_of_the_whole_one_is_noticed(monkeypatch: Any) -> None:
    from transformers import AttentionMaskInterface

    library = AttentionMaskInterface()["eager"]

    def without_offsets(**given: Any) -> torch.Tensor:
        return library(**given | {"q_offset": 0})

    monkeypatch.setattr("models.common.internals.eager_mask", lambda: without_offsets)
    rows_of_mask.cache_clear()
    with pytest.raises(LibraryError, match="the mask of some queries"):
        rows_of_mask()
    monkeypatch.undo()
    rows_of_mask()


class TestAttentionCall:
    def test_what_models_hand_over_is_accepted(self) -> None:
        call()
        call(kv=2, mask=torch.zeros(2, 1, 5, 5))
        call(mask=torch.zeros(1, 1, 5, 5), position_bias=None, softcap=None, **dict.fromkeys(IMMATERIAL, 1))

    @pytest.mark.parametrize("name", ["position_bias", "softcap", "s_aux", "something_new"])
    def test_an_argument_that_changes_attention_is_refused_by_name(self, name: str) -> None:
        with pytest.raises(UnsupportedModelError, match=rf"Identity .*'{name}'.*transformers \d"):
            call(**{name: torch.zeros(1)})

    @pytest.mark.parametrize(
        "mask",
        [
            torch.ones(2, 1, 5, 5, dtype=torch.bool),
            torch.zeros(2, 5),
            torch.zeros(2, 1, 5, 6),
            torch.zeros(3, 1, 5, 5),
        ],
        ids=str,
    )
    def test_another_kind_of_mask_is_noticed(self, mask: torch.Tensor) -> None:
        with pytest.raises(
            LibraryError, match=rf"transformers {transformers.__version__}: the mask of Identity"
        ):
            call(mask=mask)

    def test_a_causal_module_without_a_mask_is_noticed(self) -> None:
        module = torch.nn.Identity()
        module.is_causal = True
        with pytest.raises(LibraryError, match="is causal and has no mask"):
            call(module)
        with pytest.raises(LibraryError, match="is causal and has no mask"):
            call(is_causal=True)

    @pytest.mark.parametrize("kv", [3, 0])
    def test_heads_that_do_not_fit_are_noticed(self, kv: int) -> None:
        with pytest.raises(LibraryError, match=r"shapes \[2, 4, 5, 6\]"):
            call(kv=kv)

    @pytest.mark.parametrize("watched", [[0, 1, 2], []])
    def test_a_model_that_hands_over_more_is_refused_watched_or_not(
        self, all_tiny: Any, watched: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As some model may do with a bias on its scores, which Llama's attention passes on too."""
        model = all_tiny["llama"].build()
        with (
            torch.no_grad(),
            observe(model, lambda *_: None, layers=watched),
            pytest.raises(UnsupportedModelError, match=r"LlamaAttention .*'alibi'"),
        ):
            model.layers[0].self_attn(
                torch.zeros(1, 3, 24),
                model.rotary_emb(torch.zeros(1, 3, 24), torch.arange(3)[None]),
                alibi=torch.zeros(1, 4, 3, 3),
            )


def emptied(all_tiny: Any, name: str) -> tuple[Any, Any]:
    """A decoder and its copy whose first layer has no heads."""
    model = all_tiny[name].build()
    heads = np.ones((3, 4), dtype=bool)
    heads[0] = False
    return model, compact(model, Subnetwork(heads, np.ones(3, dtype=bool)))


class TestTheCache:
    """The library may call it as it likes; positions of later tokens depend on it."""

    @pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2"])
    def test_an_empty_layer_counts_tokens_whatever_the_cache_is_called(
        self, all_tiny: Any, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from models import anatomy_of

        _, small = emptied(all_tiny, name)
        ids = torch.randint(5, 60, (2, 9), generator=torch.Generator().manual_seed(1))
        seen = []
        anatomy_of(small).attentions[0].register_forward_pre_hook(
            lambda module, args, named: seen.append([*args, *named.values()]), with_kwargs=True
        )
        with torch.no_grad():
            whole = small(input_ids=ids).last_hidden_state
            cache = transformers.DynamicCache(config=small.config)
            first = small(input_ids=ids[:, :4], past_key_values=cache, use_cache=True)
            second = small(input_ids=ids[:, 4:], past_key_values=cache, use_cache=True)
        assert [cache.get_seq_length(layer) for layer in range(3)] == [9, 9, 9]
        found = torch.cat([first.last_hidden_state, second.last_hidden_state], dim=1)
        torch.testing.assert_close(found, whole, rtol=0, atol=1e-4)

    @pytest.mark.parametrize("place", ["keyword", "position"])
    def test_it_is_found_by_its_type(self, all_tiny: Any, place: str) -> None:
        from models.common.internals import count_tokens

        _, small = emptied(all_tiny, "llama")
        cache = transformers.DynamicCache(config=small.config)
        hidden, mask = torch.zeros(2, 5, 24), torch.zeros(2, 1, 5, 5)
        args, named = ((hidden, cache), {}) if place == "position" else ((), {"new": cache, "states": hidden})
        args, named = count_tokens(small.layers[0].self_attn, args, {**named, "attention_mask": mask})
        assert cache.get_seq_length(0) == 5
        assert not any(isinstance(value, transformers.Cache) for value in (*args, *named.values()))
        assert named["attention_mask"] is None

    def test_what_may_be_a_cache_is_not_passed_over(self, all_tiny: Any) -> None:
        from models.common.internals import count_tokens

        class Memory:
            pass

        _, small = emptied(all_tiny, "llama")
        with pytest.raises(LibraryError, match=r"'memory' \(Memory\), which may be a key/value cache"):
            count_tokens(small.layers[0].self_attn, (torch.zeros(1, 2, 24),), {"memory": Memory()})

    def test_layers_that_count_differently_are_noticed(self, all_tiny: Any) -> None:
        for name in ("gpt2", "llama"):
            _, small = emptied(all_tiny, name)
            from models import anatomy_of

            anatomy_of(small).attentions[0]._forward_pre_hooks.clear()
            with torch.no_grad(), pytest.raises(LibraryError, match=r"have cached \[0, 4, 4\] tokens"):
                small(**INPUT, use_cache=True)

    def test_generation_is_that_of_the_gated_model(self, all_tiny: Any) -> None:
        from transformers import AutoModelForCausalLM

        from models import gated

        for name in ("gpt2", "llama", "qwen2"):
            torch.manual_seed(3)
            config = copy.deepcopy(all_tiny[name].config)
            config.eos_token_id = None
            model = AutoModelForCausalLM.from_config(config).eval()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.copy_(torch.randn(parameter.shape) * 0.4)
            heads = np.ones((3, 4), dtype=bool)
            heads[0] = False
            small = compact(model, Subnetwork(heads, np.ones(3, dtype=bool)))
            settings: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
            with torch.no_grad(), gated(model, heads=heads):
                expected = model.generate(**INPUT, **settings, use_cache=False)
            assert torch.equal(small.generate(**INPUT, **settings), expected), name


def test_a_linear_layer_that_computes_something_else_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers.pytorch_utils

    class Other(transformers.pytorch_utils.Conv1D):
        def forward(self, x: Any) -> Any:
            return super().forward(x) * 2

    conv1d.cache_clear()
    monkeypatch.setattr(transformers.pytorch_utils, "Conv1D", Other)
    with pytest.raises(LibraryError, match="Conv1D computes something else"):
        conv1d()
    monkeypatch.undo()
    assert conv1d() is transformers.pytorch_utils.Conv1D


def test_looking_at_the_library_draws_no_random_numbers() -> None:
    """Done once a process: a step of a study run in a process of its own would end with other weights."""
    before = torch.get_rng_state()
    conv1d.cache_clear()
    conv1d()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_report_of_other_words_is_noticed() -> None:
    assert loading_report(
        {"missing_keys": {"b", "a"}, "unexpected_keys": set(), "mismatched_keys": set()}
    ) == {
        "missing_keys": ["a", "b"],
        "unexpected_keys": [],
        "mismatched_keys": [],
    }
    with pytest.raises(LibraryError, match="which weights were missing"):
        loading_report({"missing": [], "unexpected_keys": [], "mismatched_keys": []})


def test_a_model_that_takes_no_other_attention_function_is_noticed(
    tiny_bert: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(tiny_bert), "set_attn_implementation", lambda *_: None)
    with (
        pytest.raises(LibraryError, match="does not take another attention function"),
        observe(tiny_bert, print),
    ):
        pass


def test_a_trainer_without_a_place_for_a_sampler_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from models.common.internals import one_gpu, ordering_trainer

    monkeypatch.delattr(transformers.Trainer, "_get_train_sampler")
    with pytest.raises(LibraryError, match="takes no sampler"):
        ordering_trainer([])
    with pytest.raises(LibraryError, match="count GPUs"):
        one_gpu(object())
