"""Magnitude pruning removes the smallest weights of the right tensors, exactly as many as it says, in every family."""

from __future__ import annotations

import copy
import dataclasses
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from safetensors.numpy import load_file, save_file
from torch import nn
from torch.nn.utils import prune

from models import InputError, Subnetwork, UnsupportedModelError, compact, gated
from pruning.magnitude import (
    Iteration,
    MagnitudeOrder,
    WeightMasks,
    magnitude_masks,
    magnitude_search,
    masks_at,
    prunable_weights,
    random_masks,
    survival,
)

quick = settings(deadline=None, max_examples=30)
INPUT = {"input_ids": torch.arange(5, 17).view(2, 6)}

_BOTH = ("weight", "bias")
_BERT = {
    "layer": "encoder.layer.{i}.",
    "qkv": ["attention.self.query", "attention.self.key", "attention.self.value"],
    "output": "attention.output.dense",
    "first": ["intermediate.dense"],
    "last": "output.dense",
}
_LLAMA = {
    "layer": "layers.{i}.",
    "qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "output": "self_attn.o_proj",
    "first": ["mlp.gate_proj", "mlp.up_proj"],
    "last": "mlp.down_proj",
    "kv_heads": 2,
}
PARTS: dict[str, dict[str, Any]] = {  # written out by hand
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "electra": _BERT,
    "distilbert": {
        "layer": "transformer.layer.{i}.",
        "qkv": ["attention.q_lin", "attention.k_lin", "attention.v_lin"],
        "output": "attention.out_lin",
        "first": ["ffn.lin1"],
        "last": "ffn.lin2",
    },
    "albert": {
        "layer": "encoder.albert_layer_groups.{i}.albert_layers.0.",
        "qkv": ["attention.query", "attention.key", "attention.value"],
        "output": "attention.dense",
        "first": ["ffn"],
        "last": "ffn_output",
        "modules": [0, 0, 1, 1],
    },
    "modernbert": {
        "layer": "layers.{i}.",
        "qkv": ["attn.Wqkv"],
        "output": "attn.Wo",
        "first": ["mlp.Wi"],
        "last": "mlp.Wo",
    },
    "gpt2": {
        "layer": "h.{i}.",
        "qkv": ["attn.c_attn"],
        "output": "attn.c_proj",
        "first": ["mlp.c_fc"],
        "last": "mlp.c_proj",
        "transposed": True,
    },
    "llama": _LLAMA,
    "qwen2": _LLAMA,
}
H, D = 4, 6  # of the tiny models


def modules_of(name: str) -> list[int]:
    """Which module each layer is; ALBERT's are shared."""
    return list(PARTS[name].get("modules", range(3)))


def expected_names(tiny: Any, last_bias: bool = False) -> list[str]:
    parts = PARTS[tiny.name]
    there = dict(tiny.build().named_parameters())
    names = []
    for i in dict.fromkeys(modules_of(tiny.name)):
        prefix = parts["layer"].format(i=i)
        for path in [*parts["qkv"], parts["output"], *parts["first"]]:
            names += [f"{prefix}{path}.{kind}" for kind in _BOTH]
        names += [f"{prefix}{parts['last']}.{kind}" for kind in (_BOTH if last_bias else _BOTH[:1])]
    return [name for name in names if name in there]  # Llama's MLPs, for one, have no bias


def smallest(seed: int = 0, values: int | None = None) -> Any:
    """A BERT with 244 prunable weights; `values`: of so few different magnitudes."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=9, hidden_size=6, num_hidden_layers=1, num_attention_heads=2, intermediate_size=6
    )
    model = BertModel(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if values is None:
                weight.copy_(torch.randn(weight.shape, generator=generator))
            else:
                sign = torch.randint(0, 2, weight.shape, generator=generator) * 2 - 1
                weight.copy_(torch.randint(0, values, weight.shape, generator=generator) * sign * 0.25)
    return model


def flat(values: dict[str, Any]) -> npt.NDArray[Any]:
    return np.concatenate([np.asarray(value).reshape(-1) for value in values.values()])


def magnitudes(model: Any, last_bias: bool = False) -> npt.NDArray[Any]:
    return flat({name: w.detach().abs() for name, w in prunable_weights(model, last_bias).items()})


def state(model: Any) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


def hidden(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(**INPUT).last_hidden_state


def some_masks(model: Any, share: float = 0.6, seed: int = 0, **options: Any) -> WeightMasks:
    return random_masks(model, share=share, seed=seed, **options)


class TestPrunableWeights:
    @pytest.mark.parametrize("last_bias", [False, True])
    def test_they_are_those_of_attention_and_mlp_once_each_in_every_family(
        self, tiny: Any, last_bias: bool
    ) -> None:
        model = tiny.build()
        found = prunable_weights(model, last_bias)
        assert list(found) == expected_names(tiny, last_bias)
        parameters = dict(model.named_parameters())
        assert all(parameters[name] is weight for name, weight in found.items())

    def test_a_task_head_changes_neither_names_nor_tensors(self, all_tiny: Any) -> None:
        from transformers import AutoModelForSequenceClassification

        config = copy.deepcopy(all_tiny["roberta"].config)
        model = AutoModelForSequenceClassification.from_config(config)
        found = prunable_weights(model)
        assert list(found) == expected_names(all_tiny["roberta"])
        assert (
            found["encoder.layer.1.output.dense.weight"] is model.roberta.encoder.layer[1].output.dense.weight
        )

    def test_there_are_85_million_in_bert_base(self) -> None:
        from transformers import BertConfig, BertModel

        with torch.device("meta"):
            model = BertModel(BertConfig())
        weights = 12 * (4 * (768 * 768 + 768) + 2 * 768 * 3072 + 3072)
        assert sum(w.numel() for w in prunable_weights(model).values()) == weights == 85_008_384
        assert sum(w.numel() for w in prunable_weights(model, True).values()) == weights + 12 * 768

    @pytest.mark.parametrize("kind", _BOTH)
    @pytest.mark.parametrize("where", ["attention.self.value", "intermediate.dense", "output.dense"])
    def test_a_layer_that_computes_something_else_than_its_weight_says_is_refused(
        self, tiny_bert: Any, where: str, kind: str
    ) -> None:
        prune.random_unstructured(tiny_bert.encoder.layer[1].get_submodule(where), kind, amount=0.1)
        with pytest.raises(
            UnsupportedModelError, match=r"Layer 1 of this BertModel has a Linear that is not a plain"
        ):
            prunable_weights(tiny_bert)

    def test_a_model_that_lost_heads_or_an_mlp_is_refused_and_one_that_lost_nothing_is_not(
        self, tiny_bert: Any
    ) -> None:
        full = Subnetwork.full(tiny_bert)
        assert list(prunable_weights(compact(tiny_bert, full))) == list(prunable_weights(tiny_bert))
        for part in ("heads", "mlps"):
            mask = getattr(full, part).copy()
            mask[(1,) * mask.ndim] = False
            with pytest.raises(
                InputError, match="removed from this model; weights are pruned in a whole model"
            ):
                prunable_weights(compact(tiny_bert, dataclasses.replace(full, **{part: mask})))


class TestOrder:
    @pytest.mark.parametrize(("fraction", "steps"), [(0.05, 14), (0.37, 12)])
    @pytest.mark.parametrize("name", ["gpt2", "albert"])
    def test_it_equals_torch_pruning_step_by_step(
        self, all_tiny: Any, name: str, fraction: float, steps: int
    ) -> None:
        model, pruned = all_tiny[name].build(), all_tiny[name].build()
        order = MagnitudeOrder(model, fraction)
        weights = prunable_weights(model)
        targets = [
            (pruned.get_submodule(weight.rpartition(".")[0]), weight.rpartition(".")[2]) for weight in weights
        ]
        for step in range(steps + 1):
            masks = order.masks(step)
            for (weight, mask), (module, kind) in zip(masks.masks.items(), targets, strict=True):
                theirs = getattr(module, f"{kind}_mask", torch.ones(mask.shape))
                assert np.array_equal(mask, theirs.numpy() == 1), (step, weight)
            assert order.kept[step] == masks.kept
            prune.global_unstructured(targets, prune.L1Unstructured, amount=fraction)

    def test_it_ends_where_torch_would_remove_nothing_more(self) -> None:
        model = smallest()
        order = MagnitudeOrder(model)
        assert order.kept[0] == 246 == order.masks(0).total
        assert order.kept[-1] == 10  # round(0.05 * 10) == 0, and 0.05 * 11 rounds to 1
        assert len(set(order.kept)) == order.n_steps + 1
        assert order.masks(order.n_steps + 5) == order.masks(order.n_steps)
        assert order.masks(0).share == order.shares[0] == 1

    def test_a_fraction_of_one_removes_everything_at_once(self) -> None:
        order = MagnitudeOrder(smallest(), fraction=1)
        assert order.n_steps == 1
        assert order.masks(1).kept == 0

    @quick
    @given(st.integers(0, 10**6), st.integers(1, 6), st.floats(0.02, 1))
    def test_of_equal_magnitudes_the_earlier_goes_first_and_counts_are_exact(
        self, seed: int, values: int, fraction: float
    ) -> None:
        model = smallest(seed, values)
        order, sizes = MagnitudeOrder(model, fraction), magnitudes(model)
        left = list(range(len(sizes)))
        for step in range(1, order.n_steps + 1):
            for _ in range(round(fraction * len(left))):
                least = min(sizes[i] for i in left)
                left.remove(next(i for i in left if sizes[i] == least))
            assert np.flatnonzero(flat(order.masks(step).masks)).tolist() == left
            assert order.kept[step] == len(left)

    @given(st.integers(0, 10**6), st.integers(1, 6) | st.none(), st.floats(0.02, 1))
    def test_uniform_magnitude_takes_the_same_share_of_every_tensor(
        self, seed: int, values: int | None, fraction: float
    ) -> None:
        model = smallest(seed, values)
        order = MagnitudeOrder(model, fraction, criterion="uniform-magnitude")
        masks = order.masks(2)
        assert sum(int(mask.sum()) for mask in masks.masks.values()) == order.kept[min(2, order.n_steps)]
        share = order.shares[min(2, order.n_steps)]
        for name, weight in prunable_weights(model).items():
            kept = masks.masks[name].ravel()
            assert abs(kept.sum() - share * kept.size) < 2
            least = np.argsort(weight.detach().abs().numpy().ravel(), kind="stable")
            assert not kept[least[: kept.size - kept.sum()]].any()  # of equals, the earlier

    def test_the_bad_masks_of_a_criterion_are_the_other_end_of_its_order(self) -> None:
        model = smallest()
        good = magnitude_masks(model, kept=122, criterion="uniform-magnitude")
        bad = magnitude_masks(model, kept=122, criterion="uniform-magnitude", largest=True)
        for name, kept in good.masks.items():
            assert int((kept & bad.masks[name]).sum()) < 2
            assert abs(int(kept.sum()) - kept.size / 2) < 2

    def test_an_unknown_criterion_is_refused(self) -> None:
        with pytest.raises(InputError, match="criterion='largest': give one of magnitude, uniform-magnitude"):
            MagnitudeOrder(smallest(), criterion="largest")

    def test_masks_only_shrink_and_keep_what_is_larger_in_every_family(self, tiny: Any) -> None:
        model = tiny.build()
        order, sizes = MagnitudeOrder(model, last_bias=True), magnitudes(model, True)
        before = np.ones(len(sizes), dtype=bool)
        for step in range(1, order.n_steps + 1, 7):
            mask = flat(order.masks(step).masks)
            assert not (mask & ~before).any()
            assert mask.sum() == order.kept[step] < before.sum()
            assert sizes[mask].min() >= sizes[~mask].max()
            before = mask

    def test_minus_zero_is_as_small_as_zero_and_half_precision_is_ranked(self) -> None:
        model = smallest().half()
        with torch.no_grad():
            model.encoder.layer[0].attention.self.query.weight.fill_(-0.0)
        assert not masks_at(model, 1).masks["encoder.layer.0.attention.self.query.weight"][0].any()

    def test_it_does_not_change_with_the_model(self) -> None:
        model = smallest()
        order = MagnitudeOrder(model)
        before = order.masks(4)
        with order.masks(30).applied(model), torch.no_grad():
            assert order.masks(4) == before
            model.encoder.layer[0].attention.self.query.weight.fill_(9)
        assert order.masks(4) == before == masks_at(model, 4)

    def test_many_steps_are_told_apart(self) -> None:
        order = MagnitudeOrder(smallest(), fraction=1 / 300)  # more than 0, fewer than 2 a step
        assert [order.masks(step).kept for step in range(order.n_steps + 1)] == list(order.kept)
        model = smallest()
        order = MagnitudeOrder(model, fraction=0.0025)
        assert order.n_steps == 46
        assert [order.masks(step).kept for step in range(47)] == list(range(246, 199, -1))

    @pytest.mark.parametrize("fraction", [0, -0.1, 1.01, math.nan])
    def test_an_impossible_fraction_is_refused(self, fraction: float) -> None:
        with pytest.raises(InputError, match=r"fraction=.*: give the share that a step removes, above 0"):
            MagnitudeOrder(smallest(), fraction)

    def test_negative_steps_are_refused(self) -> None:
        with pytest.raises(InputError, match="step=-1: steps are counted from 0"):
            masks_at(smallest(), -1)

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_weights_that_are_not_finite_are_named(self, value: float) -> None:
        model = smallest()
        with torch.no_grad():
            model.encoder.layer[0].output.dense.weight[0, 0] = value
        with pytest.raises(
            InputError, match=r"'encoder\.layer\.0\.output\.dense\.weight' holds weights that are not"
        ):
            MagnitudeOrder(model)


class TestOneShot:
    @quick
    @given(st.integers(0, 10**6), st.integers(1, 6), st.integers(0, 246), st.booleans())
    def test_it_keeps_exactly_so_many_and_prunes_from_the_right_end(
        self, seed: int, values: int, kept: int, largest: bool
    ) -> None:
        model = smallest(seed, values)
        mask = flat(magnitude_masks(model, kept=kept, largest=largest).masks)
        sizes = magnitudes(model)
        ranked = sorted(range(len(sizes)), key=lambda i: (-sizes[i] if largest else sizes[i], i))
        assert np.flatnonzero(~mask).tolist() == sorted(ranked[: len(sizes) - kept])

    def test_the_smallest_in_one_shot_are_those_of_the_steps(self, tiny: Any) -> None:
        model = tiny.build()
        order = MagnitudeOrder(model)
        assert magnitude_masks(model, kept=order.kept[13]) == order.masks(13)
        assert magnitude_masks(model, share=order.shares[13]) == order.masks(13)

    def test_bad_masks_are_the_same_size_and_keep_nothing_that_is_larger(self, tiny: Any) -> None:
        model = tiny.build()
        good = masks_at(model, 13)
        bad = flat(magnitude_masks(model, kept=good.kept, largest=True).masks)
        sizes = magnitudes(model)
        assert bad.sum() == good.kept
        assert sizes[bad].max() <= sizes[~bad].min()

    @pytest.mark.parametrize("draw", [magnitude_masks, random_masks])
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({}, "either kept"),
            ({"kept": 1, "share": 0.5}, "either kept"),
            ({"kept": -1}, "kept=-1: give a number from 0 to the 246"),
            ({"kept": 247}, "kept=247: "),
            ({"share": 1.5}, r"share=1\.5: give a share from 0 to 1"),
            ({"share": math.nan}, "share=nan: "),
        ],
    )
    def test_an_impossible_size_is_refused(
        self, draw: Callable[..., WeightMasks], options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(InputError, match=message):
            draw(smallest(), **options)


class TestRandom:
    @quick
    @given(st.integers(0, 246), st.integers(0, 10**6))
    def test_it_keeps_exactly_so_many_and_the_seed_decides_which(self, kept: int, seed: int) -> None:
        masks = random_masks(MODEL, kept=kept, seed=seed)
        assert masks.kept == kept
        assert masks == random_masks(MODEL, kept=kept, seed=seed)
        assert random_masks(MODEL, share=masks.share, seed=seed) == masks

    def test_every_weight_of_every_tensor_is_as_likely(self) -> None:
        draws = 600
        masks = [random_masks(MODEL, share=0.3, seed=seed) for seed in range(draws)]
        counts = sum(flat(one.masks).astype(int) for one in masks)
        spread = math.sqrt(draws * 0.3 * 0.7)
        assert np.abs(counts - 0.3 * draws).max() < 4.5 * spread
        biases = [one.masks["encoder.layer.0.attention.self.key.bias"].sum() for one in masks]
        assert np.std(biases) > 0.8  # not a fixed number a tensor: sqrt(6 * 0.3 * 0.7) = 1.12

    def test_it_takes_the_same_tensors_in_every_family(self, tiny: Any) -> None:
        model = tiny.build()
        assert list(random_masks(model, share=0.5).masks) == expected_names(tiny)
        assert list(random_masks(model, share=0.5, last_bias=True).masks) == expected_names(tiny, True)


MODEL = smallest()


class TestApplied:
    def test_pruned_weights_are_zero_inside_and_every_bit_is_back_afterwards(self, tiny: Any) -> None:
        model = tiny.build()
        masks = some_masks(model)
        before, output = state(model), hidden(model)
        originals = {name: weight.detach().clone() for name, weight in prunable_weights(model).items()}
        with masks.applied(model):
            for name, weight in prunable_weights(model).items():
                assert torch.equal(weight, originals[name] * torch.tensor(masks.masks[name]))
            inside = hidden(model)
        assert state(model) == before
        assert torch.equal(hidden(model), output)
        assert not torch.allclose(inside, output, atol=1e-2)
        masks.apply_(model)
        assert torch.equal(hidden(model), inside)
        pruned = {name for name, value in state(model).items() if value != before[name]}
        assert pruned <= set(masks.masks)

    def test_it_is_undone_after_an_exception_and_after_what_the_block_wrote(self) -> None:
        model = smallest()
        with torch.no_grad():
            model.encoder.layer[0].output.dense.weight[0, :3] = torch.tensor([-0.0, math.nan, math.inf])
        before = state(model)
        masks = some_masks(model)

        def fail_inside() -> None:
            with masks.applied(model), torch.no_grad():
                model.encoder.layer[0].output.dense.weight.fill_(3)
                raise KeyError

        with pytest.raises(KeyError):
            fail_inside()
        assert state(model) == before
        with masks.applied(model):
            weight = model.encoder.layer[0].output.dense.weight
            mask = torch.tensor(masks.masks["encoder.layer.0.output.dense.weight"])
            assert (weight[~mask] == 0).all()  # what was not a number, too

    def test_a_fault_half_way_leaves_no_trace(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = smallest()
        before, calls = state(model), []

        def fail(self: WeightMasks, name: str, parameter: Any) -> Any:
            calls.append(name)
            if len(calls) == 4:
                raise MemoryError
            return torch.ones(parameter.shape, dtype=torch.bool)

        monkeypatch.setattr(WeightMasks, "pruned", fail)
        with pytest.raises(MemoryError), some_masks(model).applied(model):
            pass
        assert state(model) == before

    def test_blocks_nest(self) -> None:
        model = smallest()
        before = state(model)
        a, b = some_masks(model, seed=1), some_masks(model, seed=2)
        with a.applied(model):
            outer = state(model)
            with b.applied(model):
                kept = flat({name: weight.detach() != 0 for name, weight in prunable_weights(model).items()})
                assert (kept == (flat(a.masks) & flat(b.masks))).all()
            assert state(model) == outer
        assert state(model) == before

    def test_gradients_and_a_task_head_are_left_alone(self, all_tiny: Any) -> None:
        from transformers import AutoModelForSequenceClassification

        config = copy.deepcopy(all_tiny["bert"].config)
        model = AutoModelForSequenceClassification.from_config(config).eval()
        masks = some_masks(model.bert)  # those of the model without its head
        weight = model.bert.encoder.layer[0].intermediate.dense.weight
        with masks.applied(model):
            model(**INPUT).logits.sum().backward()
            assert model.bert.encoder.layer[0].intermediate.dense.weight is weight
        assert weight.grad is not None
        assert weight.requires_grad

    def test_masks_of_another_model_are_refused_before_anything_changes(self, all_tiny: Any) -> None:
        masks = some_masks(all_tiny["bert"].build())
        model = smallest()
        before = state(model)
        with pytest.raises(
            InputError, match=r"not for this BertModel: 'encoder\.layer\.1\..* is not one of its"
        ):
            masks.apply_(model)
        assert state(model) == before
        with pytest.raises(
            InputError, match=r"not for this GPT2Model: they lack 'h\.0\.attn\.c_attn\.weight'"
        ):
            masks.check(all_tiny["gpt2"].build())
        fewer = dict(list(masks.masks.items())[:-1])
        with pytest.raises(InputError, match=r"they lack 'encoder\.layer\.2\.output\.dense\.weight'"):
            WeightMasks(fewer).check(all_tiny["bert"].build())
        wide = {name: np.ones((*mask.shape, 2), dtype=bool) for name, mask in masks.masks.items()}
        with pytest.raises(
            InputError, match=r"query\.weight' has shape \[24, 24, 2\], the model's weight \[24, 24\]"
        ):
            WeightMasks(wide).check(all_tiny["bert"].build())

    def test_the_last_biases_may_be_in_all_together_or_not_at_all(self, tiny_bert: Any) -> None:
        without, masks = some_masks(tiny_bert), some_masks(tiny_bert, last_bias=True)
        assert list(without.check(tiny_bert)) == list(without.masks)
        assert list(masks.check(tiny_bert)) == list(masks.masks)
        some = {
            name: mask for name, mask in masks.masks.items() if name != "encoder.layer.1.output.dense.bias"
        }
        with pytest.raises(InputError, match="biases of some MLPs' last layers but not of all"):
            WeightMasks(some).check(tiny_bert)


def owner(name: str, weight: str, index: tuple[int, ...]) -> tuple[str, set[int]]:
    """What one weight belongs to: ``("mlp", {})``, or ``("head", heads)``, from names written out by hand."""
    parts = PARTS[name]
    path, kind = weight.rpartition(".")[::2]
    for first in [*parts["first"], parts["last"]]:
        if path.endswith("." + first) and not path.endswith("." + parts["output"]):
            return "mlp", set()
    if len(index) == 2 and parts.get("transposed"):
        index = index[::-1]
    if path.endswith("." + parts["output"]):
        return "head", {index[1] // D} if kind == "weight" else set()
    row = index[0]
    if len(parts["qkv"]) == 1:
        return "head", {row % (H * D) // D}
    heads = H if path.endswith("." + parts["qkv"][0]) else parts.get("kv_heads", H)
    return "head", {h for h in range(H) if h // (H // heads) == row // D}


class TestSurvival:
    @pytest.mark.parametrize("last_bias", [False, True])
    def test_it_equals_a_loop_over_every_single_weight(self, tiny: Any, last_bias: bool) -> None:
        model = tiny.build()
        masks = some_masks(model, last_bias=last_bias)
        found = survival(masks, model)
        layers = modules_of(tiny.name)
        kept, size = np.zeros((2, len(layers), H)), np.zeros((2, len(layers), H))
        for layer, i in enumerate(layers):
            for weight, mask in masks.masks.items():
                if not weight.startswith(PARTS[tiny.name]["layer"].format(i=i)):
                    continue
                for index in np.ndindex(mask.shape):
                    what, heads = owner(tiny.name, weight, index)
                    for head in heads if what == "head" else {0}:
                        size[int(what == "mlp"), layer, head] += 1
                        kept[int(what == "mlp"), layer, head] += mask[index]
        assert found.heads == pytest.approx(kept[0] / size[0], abs=1e-12)
        assert found.mlps == pytest.approx(kept[1, :, 0] / size[1, :, 0], abs=1e-12)

    @pytest.mark.parametrize("name", [name for name in PARTS if name != "albert"])
    def test_a_head_without_any_weight_is_a_head_that_is_gated_off(self, all_tiny: Any, name: str) -> None:
        model = all_tiny[name].build()
        full = random_masks(model, share=1)
        masks = {weight: mask.copy() for weight, mask in full.masks.items()}
        layer = PARTS[name]["layer"].format(i=1)
        for weight, mask in masks.items():
            if weight.startswith(layer):
                for index in np.ndindex(mask.shape):
                    mask[index] = 2 not in owner(name, weight, index)[1]
        removed = WeightMasks(masks)
        heads, mlps = survival(removed, model)
        assert heads[1, 2] == 0
        assert (mlps == 1).all()
        if "kv_heads" not in PARTS[name]:
            assert (heads != 1).sum() == 1
        else:  # head 3 lost the keys and values that it shares with head 2
            assert (heads != 1).sum() == 2
            masks = {w: m if ".self_attn.o_" in w else full.masks[w] for w, m in masks.items()}
            removed = WeightMasks(masks)
        gates = np.ones((3, H))
        gates[1, 2] = 0
        with gated(model, heads=gates):
            expected = hidden(model)
        with removed.applied(model):
            assert torch.allclose(hidden(model), expected, atol=1e-5)

    def test_all_is_one_and_nothing_is_zero(self, tiny: Any) -> None:
        model = tiny.build()
        for share in (0.0, 1.0):
            heads, mlps = survival(random_masks(model, share=share), model)
            assert heads.shape == (len(modules_of(tiny.name)), H)
            assert (heads == share).all()
            assert (mlps == share).all()

    def test_masks_of_another_model_are_refused(self, tiny_bert: Any) -> None:
        with pytest.raises(InputError, match="not for this BertModel"):
            survival(some_masks(smallest()), tiny_bert)


MASKS = st.dictionaries(
    st.text("abc.", min_size=1, max_size=5),
    array_shapes(max_dims=2, max_side=9).flatmap(lambda shape: arrays(np.bool_, shape)),
    min_size=1,
    max_size=4,
)
METADATA = st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3)


class TestFile:
    @quick
    @given(MASKS, METADATA)
    def test_what_is_saved_is_loaded(self, masks: dict[str, Any], metadata: dict[str, str]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "deep" / "masks.safetensors"
            saved = WeightMasks(masks, metadata)
            saved.save(path)
            loaded = WeightMasks.load(path)
            assert loaded == saved
            assert loaded.metadata == metadata
            assert list(loaded.masks) == list(masks)
            assert loaded.kept == sum(mask.sum() for mask in masks.values())
            assert [one.name for one in path.parent.iterdir()] == [path.name]

    def test_a_weight_takes_one_bit(self, tmp_path: Path, tiny_bert: Any) -> None:
        masks = some_masks(tiny_bert)
        masks.save(tmp_path / "m.safetensors")
        packed = load_file(tmp_path / "m.safetensors")
        assert sum(one.nbytes for one in packed.values()) == masks.total // 8
        assert WeightMasks.load(tmp_path / "m.safetensors", tiny_bert) == masks

    @quick
    @given(st.data())
    def test_a_damaged_file_is_refused_in_one_sentence_or_read_as_masks(self, data: st.DataObject) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "m.safetensors"
            some_masks(MODEL).save(path)
            content = bytearray(path.read_bytes())
            if data.draw(st.booleans()):
                content = content[: data.draw(st.integers(0, len(content) - 1))]
            for place in data.draw(st.lists(st.integers(0, max(len(content) - 1, 0)), min_size=1)):
                content[place : place + 1] = bytes([data.draw(st.integers(0, 255))])
            path.write_bytes(content)
            try:
                outcome = WeightMasks.load(path, MODEL).total
            except InputError as error:
                outcome = str(error)
            assert outcome == 246 or (str(path) in outcome and "\n" not in outcome)

    @pytest.mark.parametrize(
        ("shapes", "message"),
        [
            (None, "its metadata tells no shapes"),
            ("{", "its metadata tells no shapes"),
            ("[" * 100_000, "its metadata tells no shapes"),
            ('{"a": [3, true]}', "its metadata tells no shapes"),
            ('{"a": [0]}', "its metadata tells no shapes"),
            ('{"a": [-3, -3]}', "its metadata tells no shapes"),
            ('{"a": [3, 3], "b": [2]}', "a mask without a shape: 'b'"),
            ('{"a": [3, 6]}', r"the mask 'a' of shape \[3, 6\] should be 3 bytes, got uint8\[2\]"),
            ('{"a": [11]}', "bits beyond its 11 weights are set"),
            ('{"a": [3, 3]}', "the mask 'a' is damaged: bits beyond its 9 weights are set"),
        ],
    )
    def test_shapes_that_do_not_fit_are_refused(
        self, tmp_path: Path, shapes: str | None, message: str
    ) -> None:
        path = tmp_path / "m.safetensors"
        packed = {"a": np.packbits(np.ones(12, dtype=bool))}
        save_file(packed, path, metadata={"shapes": '{"a": [3, 4]}'})
        assert WeightMasks.load(path).kept == 12
        save_file(packed, path, metadata=shapes and {"shapes": shapes})
        with pytest.raises(InputError, match=message) as error:
            WeightMasks.load(path)
        assert str(path) in str(error.value)

    def test_other_files_are_refused(self, tmp_path: Path, tiny_bert: Any) -> None:
        with pytest.raises(InputError, match="nope does not exist; it should be a"):
            WeightMasks.load(tmp_path / "nope")
        with pytest.raises(InputError, match="is a folder; it should be a"):
            WeightMasks.load(tmp_path)
        save_file({"a": np.ones(2, dtype=np.float32)}, tmp_path / "f", metadata={"shapes": '{"a": [16]}'})
        with pytest.raises(
            InputError, match=r"f: the mask 'a' of shape \[16\] should be 2 bytes, got float32\[2\]"
        ):
            WeightMasks.load(tmp_path / "f")
        some_masks(smallest()).save(tmp_path / "m")
        with pytest.raises(InputError, match="m: These weight masks are not for this BertModel"):
            WeightMasks.load(tmp_path / "m", tiny_bert)


class TestValidation:
    @pytest.mark.parametrize(
        ("masks", "message"),
        [
            ({}, "at least one mask"),
            ({"a": np.ones(3)}, r"The mask 'a' must be a non-empty boolean array, got float64\[3\]"),
            ({"a": np.ones((0, 2), dtype=bool)}, r"got bool\[0, 2\]"),
            ({"a": [True]}, "got list"),
        ],
    )
    def test_what_is_no_mask_is_refused(self, masks: Any, message: str) -> None:
        with pytest.raises(InputError, match=message):
            WeightMasks(masks)

    @pytest.mark.parametrize("metadata", [{"seed": 1}, {"shapes": "mine"}])
    def test_metadata_is_text_and_leaves_our_own_key_alone(self, metadata: Any) -> None:
        with pytest.raises(InputError, match="metadata must be text under names other than 'shapes'"):
            WeightMasks({"a": np.ones(3, dtype=bool)}, metadata)

    def test_masks_cannot_be_changed_afterwards(self) -> None:
        mask = np.ones(3, dtype=bool)
        masks = WeightMasks({"a": mask})
        mask[:] = False
        assert masks.kept == 3
        with pytest.raises(ValueError, match="read-only"):
            masks.masks["a"][0] = False

    def test_equality_is_of_names_and_masks(self) -> None:
        one = WeightMasks({"a": np.array([True, False])})
        assert one == WeightMasks({"a": np.array([True, False])}, {"seed": "1"})
        assert one != WeightMasks({"a": np.array([True, True])})
        assert one != WeightMasks({"b": np.array([True, False])})
        assert one != WeightMasks({"a": np.array([[True, False]])})
        assert one != "masks"


SHARES = tuple(0.95**k for k in range(9))


def search(scores: list[float], **options: Any) -> Any:
    return magnitude_search(scores.__getitem__, SHARES, **options)


class TestSearch:
    @quick
    @given(st.lists(st.floats(0, 1), min_size=9, max_size=9), st.floats(0.01, 1), st.floats(0.01, 1))
    def test_the_result_is_the_last_step_before_the_first_that_fails(
        self, scores: list[float], full: float, threshold: float
    ) -> None:
        scores[0] = full
        result = search(scores, threshold=threshold)
        expected = 0
        while expected < 8 and scores[expected + 1] >= threshold * full:
            expected += 1
        assert result.found == (expected, expected, SHARES[expected], scores[expected], True)
        assert result.full_score == full
        assert result.ended == ("exhausted" if expected == 8 else "threshold")
        assert [one.score for one in result.history] == scores[: expected + 2]
        assert [one.accepted for one in result.history] == [True] * (expected + 1) + [False] * (expected < 8)

    def test_a_score_equal_to_the_threshold_passes(self) -> None:
        assert search([1, 0.5, 0.25], threshold=0.5).found.step == 1
        assert search([0.8, 0.8, 0.8, 0.79], threshold=1).found.step == 2

    def test_a_score_that_is_undefined_ends_it(self) -> None:
        result = search([0.5, 0.5, math.nan, 0.5])
        assert result.found.step == 1
        assert result.ended == "threshold"

    def test_it_measures_each_step_once_in_order_and_records_at_once(self) -> None:
        events: list[Any] = []

        def measure(step: int) -> float:
            events.append(step)
            return 1.0

        result = magnitude_search(measure, SHARES, max_steps=2, record=events.append)
        assert events[0::2] == [0, 1, 2]
        assert tuple(events[1::2]) == result.history
        assert result.history[1] == Iteration(1, 1, 0.95, 1.0, True)
        assert result.ended == "max-steps"
        assert magnitude_search(measure, SHARES, max_steps=8).ended == "exhausted"

    def test_where_no_step_removes_anything_the_whole_model_is_the_result(self) -> None:
        result = magnitude_search(lambda step: 1.0, (1.0,))
        assert result.found.step == 0
        assert result.ended == "exhausted"

    @pytest.mark.parametrize("full", [0, -0.1, math.nan, math.inf])
    def test_a_full_score_that_allows_no_relative_threshold_is_refused(self, full: float) -> None:
        with pytest.raises(
            InputError, match=r"The whole model's Matthews .* is .*; pruning needs a model whose Matt"
        ):
            search([full, 1], metric="Matthews correlation")

    @pytest.mark.parametrize("threshold", [0, -1, 1.01, math.nan])
    def test_an_impossible_threshold_is_refused(self, threshold: float) -> None:
        with pytest.raises(InputError, match=r"threshold=.*: give a share of the full score"):
            search([1], threshold=threshold)

    def test_an_impossible_cap_is_refused(self) -> None:
        with pytest.raises(InputError, match="max_steps=0: give at least 1"):
            search([1], max_steps=0)


def test_the_real_model_after_the_published_number_of_steps(minilm: Any, tmp_path: Path) -> None:
    model = minilm.model
    order = MagnitudeOrder(model)
    masks = order.masks(13)
    assert masks.share == order.shares[13] == pytest.approx(0.95**13, abs=1e-6)
    sizes, mask = magnitudes(model), flat(masks.masks)
    assert sizes[mask].min() >= sizes[~mask].max()
    heads, mlps = survival(masks, model)
    assert heads.shape == (6, 12)
    assert 0 < heads.min() < heads.max() < 1
    assert mlps.shape == (6,)
    assert mlps.min() < masks.share < heads.max()
    masks.save(tmp_path / "m.safetensors")
    assert (tmp_path / "m.safetensors").stat().st_size < masks.total / 8 + 20_000
    before = hidden(model)
    with WeightMasks.load(tmp_path / "m.safetensors", model).applied(model):
        assert 0.01 < (hidden(model) - before).abs().max() < 10
    assert torch.equal(hidden(model), before)
    assert isinstance(next(iter(prunable_weights(model).values())), nn.Parameter)
