"""What a compacted model computes is what the whole one computes with gates at 0, in every family."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch.utils.flop_counter import FlopCounterMode

import models.compaction
from models import (
    InputError,
    SizeShare,
    Subnetwork,
    UnsupportedModelError,
    anatomy_of,
    compact,
    gated,
    kept_of,
    observe,
    size_share,
)
from patterns import attention_maps


def shape_of(model: Any) -> tuple[int, int]:
    anatomy = anatomy_of(model)
    return anatomy.n_layers, anatomy.n_heads


def hidden(model: Any, batch: Any) -> torch.Tensor:
    """Of real tokens: those of padding mean nothing, and implementations differ in them."""
    with torch.no_grad():
        return model(**batch).last_hidden_state[batch["attention_mask"].bool()]


def some_subnetworks(model: Any) -> dict[str, Subnetwork]:
    layers, heads = shape_of(model)
    rng = np.random.default_rng(5)
    all_heads, all_mlps = np.ones((layers, heads), dtype=bool), np.ones(layers, dtype=bool)
    ragged = rng.random((layers, heads)) < 0.6
    ragged[0], ragged[1, :2] = False, (True, False)
    return {
        "everything": Subnetwork(all_heads, all_mlps),
        "nothing": Subnetwork(~all_heads, ~all_mlps),
        "no heads": Subnetwork(~all_heads, all_mlps),
        "no MLPs": Subnetwork(all_heads, ~all_mlps),
        "a first layer without heads": Subnetwork(ragged, rng.random(layers) < 0.5),
        "the second of each pair of heads": Subnetwork(all_heads & np.array([False, True] * 2), all_mlps),
    }


def check_outputs(model: Any, subnetwork: Subnetwork, batch: Any) -> Any:
    """Return the compacted model."""
    small = compact(model, subnetwork, unshare=True)
    whole, cut, spread = model, small, {"rtol": 0.0, "atol": 5e-5}  # of values up to 4
    # In float64, if the library's ModernBERT can: what norms make of float32's rounding depends on the subnetwork.
    if model.config._attn_implementation != "eager":
        whole, cut, spread = copy.deepcopy(model).double(), copy.deepcopy(small).double(), {}
    with gated(whole, heads=subnetwork.heads, mlps=subnetwork.mlps):
        expected = hidden(whole, batch)
    torch.testing.assert_close(hidden(cut, batch), expected, **spread)
    return small


class TestOutputs:
    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    def test_they_are_those_of_the_gated_model(self, tiny: Any, attention: str, ragged_batch: Any) -> None:
        model = tiny.build(attention)
        chosen = some_subnetworks(model)
        if attention == "eager":
            chosen = {name: chosen[name] for name in ("nothing", "a first layer without heads")}
        for subnetwork in chosen.values():
            small = check_outputs(model, subnetwork, ragged_batch)
            assert small.config._attn_implementation == attention
            with observe(small, lambda *_: None):
                tapped = hidden(small, ragged_batch)
            torch.testing.assert_close(tapped, hidden(small, ragged_batch), rtol=0, atol=5e-5)

    @settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    @given(data=st.data())
    def test_for_any_subnetwork(self, tiny: Any, ragged_batch: Any, data: st.DataObject) -> None:
        model = tiny.build()
        layers, heads = shape_of(model)
        masks = (data.draw(arrays.arrays(bool, shape)) for shape in ((layers, heads), layers))
        check_outputs(model, Subnetwork(*masks), ragged_batch)

    def test_gradients_are_those_of_the_gated_model(self, tiny: Any, ragged_batch: Any) -> None:
        model = tiny.build()
        real = ragged_batch["attention_mask"].bool()
        for which in ("nothing", "a first layer without heads"):
            subnetwork = some_subnetworks(model)[which]
            small = compact(model, subnetwork, unshare=True).double()
            whole = copy.deepcopy(model).double()
            with gated(whole, heads=subnetwork.heads, mlps=subnetwork.mlps):
                whole(**ragged_batch).last_hidden_state[real].square().sum().backward()
            small(**ragged_batch).last_hidden_state[real].square().sum().backward()
            expected, found = (m.get_input_embeddings().weight.grad for m in (whole, small))
            torch.testing.assert_close(found, expected)
            assert all(p.grad is not None for p in anatomy_of(small).layers[-1].parameters() if p.numel())

    def test_no_kernel_is_asked_for_attention_without_heads(
        self, tiny: Any, ragged_batch: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """On CUDA, such a call ends the process (a division by zero)."""
        original = torch.nn.functional.scaled_dot_product_attention
        heads: list[int] = []

        def watched(query: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            heads.append(query.shape[1])
            return original(query, *args, **kwargs)

        model = tiny.build("sdpa")
        small = compact(model, some_subnetworks(model)["a first layer without heads"], unshare=True)
        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
        hidden(pickle.loads(pickle.dumps(small)), ragged_batch)
        assert len(heads) == anatomy_of(small).n_layers - 1
        assert all(heads)

    def test_the_real_model(self, minilm: Any) -> None:
        rows = ["Why is the sea salty?", "Rivers carry minerals to the sea, and they stay when water goes."]
        batch = minilm.tokenizer(rows, padding=True, return_tensors="pt")
        rng = np.random.default_rng(0)
        heads = rng.random((6, 12)) < 0.5
        heads[2] = False
        small = check_outputs(minilm.model, Subnetwork(heads, np.array([1, 0, 1, 1, 0, 1], bool)), batch)
        assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in minilm.model.parameters())


class TestTheCopy:
    def test_the_model_given_is_not_changed(self, tiny: Any, ragged_batch: Any) -> None:
        model = tiny.build()
        before, config = copy.deepcopy(model.state_dict()), model.config.to_dict()
        small = compact(model, some_subnetworks(model)["nothing"], unshare=True)
        with torch.no_grad():
            for parameter in small.parameters():
                parameter.zero_()
        assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
        assert model.config.to_dict() == config
        assert kept_of(model) is None

    def test_it_has_the_same_class_head_mode_precision_and_frozen_weights(self, all_tiny: Any) -> None:
        from transformers import AutoModelForSequenceClassification

        for name, tiny in all_tiny.items():
            config = copy.deepcopy(tiny.config)
            config.num_labels = 3
            model = AutoModelForSequenceClassification.from_config(config).bfloat16().train()
            anatomy_of(model).outputs[0].requires_grad_(False)
            small = compact(model, some_subnetworks(model)["a first layer without heads"], unshare=True)
            assert type(small) is type(model), name
            assert all(module.training for module in small.modules())
            assert {p.dtype for p in small.parameters()} == {torch.bfloat16}
            assert not any(p.requires_grad for p in anatomy_of(small).outputs[0].parameters())
            with torch.no_grad():
                logits = small.eval()(input_ids=torch.tensor([[5, 6, 7]])).logits
            assert logits.shape == (1, 3)
            assert logits.isfinite().all()

    def test_nothing_of_what_is_gone_is_left(self, tiny: Any) -> None:
        model = tiny.build()
        anatomy = anatomy_of(compact(model, some_subnetworks(model)["nothing"], unshare=True))
        for layer in range(anatomy.n_layers):
            output = anatomy.outputs[layer]
            gone = [*anatomy.projections[layer], *anatomy.mlp_inputs[layer], anatomy.mlps[layer]]
            assert sum(p.numel() for module in gone for p in module.parameters()) == 0
            assert output.weight.numel() == 0
            before = anatomy_of(model).outputs[layer].bias
            assert (output.bias is None) if before is None else torch.equal(output.bias, before)

    def test_the_modules_say_how_many_heads_they_have(self, all_tiny: Any) -> None:
        for name, count, width in (
            ("bert", "num_attention_heads", "all_head_size"),
            ("albert", "num_attention_heads", "all_head_size"),
            ("distilbert", "n_heads", None),
            ("gpt2", "num_heads", "split_size"),
        ):
            model = all_tiny[name].build()
            subnetwork = some_subnetworks(model)["the second of each pair of heads"]
            for attention in anatomy_of(compact(model, subnetwork, unshare=True)).attentions:
                assert getattr(attention, count) == 2, name
                assert width is None or getattr(attention, width) == 12, name

    def test_it_can_be_copied_and_pickled(self, tiny: Any, ragged_batch: Any) -> None:
        model = tiny.build()
        small = compact(model, some_subnetworks(model)["a first layer without heads"], unshare=True)
        expected = hidden(small, ragged_batch)
        for again in (copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
            assert torch.equal(hidden(again, ragged_batch), expected)

    def test_no_full_size_copy_is_made(self, tiny_bert: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        copied: list[torch.Size] = []
        original = torch.nn.Parameter.__deepcopy__
        monkeypatch.setattr(
            torch.nn.Parameter,
            "__deepcopy__",
            lambda self, memo: copied.append(self.shape) or original(self, memo),
        )
        compact(tiny_bert, some_subnetworks(tiny_bert)["nothing"])
        assert torch.Size([32, 24]) not in copied
        assert copied.count(torch.Size([24, 24])) == 1  # the pooler


class TestWhatIsLeft:
    def test_it_is_known(self, tiny: Any) -> None:
        model = tiny.build()
        whole = anatomy_of(model)
        assert whole.kept == (tuple(range(4)),) * whole.n_layers
        assert whole.kept_mlps == (True,) * whole.n_layers
        for subnetwork in some_subnetworks(model).values():
            small = compact(model, subnetwork, unshare=True)
            anatomy = anatomy_of(small)
            assert anatomy.n_heads == whole.n_heads
            assert anatomy.kept == tuple(tuple(np.flatnonzero(heads).tolist()) for heads in subnetwork.heads)
            assert anatomy.kept_mlps == tuple(subnetwork.mlps.tolist())
            assert Subnetwork.full(small) == subnetwork
            gone = subnetwork != Subnetwork.full(model)
            assert kept_of(small) == kept_of(small.config) == (subnetwork if gone else None)

    def test_compacting_again_counts_as_in_the_whole_model(self, tiny: Any, ragged_batch: Any) -> None:
        model = tiny.build()
        layers, heads = shape_of(model)
        rng = np.random.default_rng(1)
        one = Subnetwork(rng.random((layers, heads)) < 0.8, rng.random(layers) < 0.8)
        other = one & Subnetwork(rng.random((layers, heads)) < 0.5, rng.random(layers) < 0.5)
        at_once = compact(model, other, unshare=True)
        first = compact(model, one, unshare=True)
        in_two = compact(first, other)
        assert kept_of(in_two) == other
        assert {n: t.shape for n, t in in_two.state_dict().items()} == {
            n: t.shape for n, t in at_once.state_dict().items()
        }
        torch.testing.assert_close(hidden(in_two, ragged_batch), hidden(at_once, ragged_batch))
        assert kept_of(compact(first, Subnetwork.full(first))) == one

    @pytest.mark.parametrize(
        ("what", "match"), [("heads", "head 2 of layer 1"), ("mlps", "the MLP of layer 2")]
    )
    def test_what_was_removed_does_not_come_back(self, tiny_bert: Any, what: str, match: str) -> None:
        heads, mlps = np.ones((3, 4), dtype=bool), np.ones(3, dtype=bool)
        full = Subnetwork(heads, mlps)
        if what == "heads":
            heads[1, 2] = False
        else:
            mlps[2] = False
        small = compact(tiny_bert, Subnetwork(heads, mlps))
        with pytest.raises(InputError, match=f"keeps {match}.* removed from this model before"):
            compact(small, full)

    def test_a_config_that_describes_another_model_is_noticed(self, tiny_bert: Any) -> None:
        from transformers import AutoModel

        small = compact(tiny_bert, some_subnetworks(tiny_bert)["no heads"])
        with pytest.raises(
            UnsupportedModelError, match=r"have \[4, 4, 4\] heads, but its config says \[0, 0, 0\]"
        ):
            anatomy_of(AutoModel.from_config(small.config))

    @pytest.mark.parametrize(
        "said",
        [
            {},
            [],
            {"heads": [[0]], "mlps": [True, True]},
            {"heads": [[4], [0], [0]], "mlps": [True] * 3},
            {"heads": [[-1], [0], [0]], "mlps": [True] * 3},
            {"heads": [[1, 0], [0], [0]], "mlps": [True] * 3},
            {"heads": [[0, 0], [0], [0]], "mlps": [True] * 3},
            {"heads": [[True], [0], [0]], "mlps": [True] * 3},
            {"heads": [["0"], [0], [0]], "mlps": [True] * 3},
            {"heads": [[0], [0], [0]], "mlps": [1, 1, 1]},
            {"heads": 3, "mlps": 3},
        ],
        ids=str,
    )
    def test_a_damaged_config_is_refused(self, tiny_bert: Any, said: Any) -> None:
        tiny_bert.config.headscope = said
        with pytest.raises(InputError, match="'headscope' in the model's config must give"):
            kept_of(tiny_bert)


class TestWatchingAndGating:
    @pytest.mark.parametrize("which", ["nothing", "a first layer without heads"])
    def test_maps_are_those_of_the_gated_model(self, tiny: Any, which: str, ragged_batch: Any) -> None:
        """In layers without heads there are none; norms use each remaining head's own slice."""
        model = tiny.build()
        subnetwork = some_subnetworks(model)[which]
        with gated(model, heads=subnetwork.heads, mlps=subnetwork.mlps):
            expected = [
                (layer, kind, maps[:, np.flatnonzero(subnetwork.heads[layer])], lengths)
                for layer, kind, maps, lengths in attention_maps(model, ragged_batch)
                if subnetwork.heads[layer].any()
            ]
        found = attention_maps(compact(model, subnetwork, unshare=True), ragged_batch)
        assert [one[:2] for one in found] == [one[:2] for one in expected]
        for (*_, maps, lengths), (*_, wanted, _) in zip(found, expected, strict=True):
            for one, other, n in zip(maps, wanted, lengths.tolist(), strict=True):
                torch.testing.assert_close(one[:, :n, :n], other[:, :n, :n], rtol=1e-4, atol=1e-4)

    def test_a_layer_without_heads_is_not_observed_and_the_others_are_counted(self, tiny: Any) -> None:
        model = tiny.build()
        subnetwork = some_subnetworks(model)["a first layer without heads"]
        small = compact(model, subnetwork, unshare=True)
        seen: list[int] = []
        with observe(small, lambda layer, P, V: seen.append(layer)), torch.no_grad():
            small(input_ids=torch.tensor([[5, 6, 7]]))
            small(input_ids=torch.tensor([[5, 6]]))
        assert seen == np.flatnonzero(subnetwork.heads.any(axis=1)).tolist() * 2

    def test_gates_keep_their_shape_and_act_on_what_is_left(self, tiny: Any, ragged_batch: Any) -> None:
        model = tiny.build()
        layers, heads = shape_of(model)
        subnetwork = some_subnetworks(model)["a first layer without heads"]
        small = compact(model, subnetwork, unshare=True)
        hooks = [len(module._forward_hooks) for module in small.modules()]
        generator = torch.Generator().manual_seed(2)
        for batch in ((), (4,)):  # one for all examples, or one for each
            h = torch.rand(*batch, layers, heads, generator=generator)
            m = torch.rand(*batch, layers, generator=generator)
            with gated(small, heads=h, mlps=m):
                found = hidden(small, ragged_batch)
            kept_h, kept_m = torch.as_tensor(subnetwork.heads.copy()), torch.as_tensor(subnetwork.mlps.copy())
            with gated(model, heads=h * kept_h, mlps=m * kept_m):
                expected = hidden(model, ragged_batch)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert [len(module._forward_hooks) for module in small.modules()] == hooks

    def test_gradients_of_gates_are_zero_where_nothing_is_left(self, tiny: Any, ragged_batch: Any) -> None:
        model = tiny.build().double()
        subnetwork = some_subnetworks(model)["a first layer without heads"]
        small = compact(model, subnetwork, unshare=True)
        gradients = []
        for one in (small, model):
            h = torch.tensor(subnetwork.heads, dtype=torch.float64).requires_grad_()
            m = torch.tensor(subnetwork.mlps, dtype=torch.float64).requires_grad_()
            with gated(one, heads=h, mlps=m):
                real = ragged_batch["attention_mask"].bool()
                one(**ragged_batch).last_hidden_state[real].square().sum().backward()
            gradients.append((h.grad, m.grad))
        (h, m), (wanted_h, wanted_m) = gradients
        kept = torch.as_tensor(subnetwork.heads.copy()), torch.as_tensor(subnetwork.mlps.copy())
        torch.testing.assert_close(h, wanted_h * kept[0])
        torch.testing.assert_close(m, wanted_m * kept[1])

    @pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "bert"])
    @pytest.mark.parametrize("which", ["nothing", "a first layer without heads"])
    def test_a_decoder_goes_on_from_its_cache(self, all_tiny: Any, name: str, which: str) -> None:
        """The library finds out from the first layer's keys how many tokens there were."""
        from transformers import AutoModel

        config = copy.deepcopy(all_tiny[name].config)
        config.is_decoder = True
        torch.manual_seed(0)
        model = AutoModel.from_config(config).eval()
        small = compact(model, some_subnetworks(model)[which])
        ids = torch.arange(5, 14)[None]
        with torch.no_grad():
            at_once = small(input_ids=ids, use_cache=False).last_hidden_state
            begun = small(input_ids=ids[:, :6], use_cache=True)
            rest = small(input_ids=ids[:, 6:], past_key_values=begun.past_key_values, use_cache=True)
        torch.testing.assert_close(begun.last_hidden_state, at_once[:, :6], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(rest.last_hidden_state, at_once[:, 6:], rtol=1e-4, atol=1e-5)

    def test_the_librarys_own_attentions_have_what_is_left(self, tiny: Any) -> None:
        model = tiny.build("eager")
        subnetwork = some_subnetworks(model)["a first layer without heads"]
        model(
            input_ids=torch.tensor([[5, 6, 7]]), output_attentions=True
        )  # after which it has hooks of its own
        small = compact(model, subnetwork, unshare=True)
        with torch.no_grad():
            attentions = small(input_ids=torch.tensor([[5, 6, 7]]), output_attentions=True).attentions
        assert [a.shape[1] for a in attentions] == subnetwork.heads.sum(axis=1).tolist()


class TestSharedLayers:
    def test_they_cannot_differ(self, all_tiny: Any, ragged_batch: Any) -> None:
        model = all_tiny["albert"].build()
        subnetworks = some_subnetworks(model)
        with pytest.raises(InputError, match=r"ALBERT model share their modules.* unshare=True"):
            compact(model, subnetworks["no MLPs"])
        small = compact(model, subnetworks["everything"])
        assert len(set(anatomy_of(small).attentions)) == 2
        apart = compact(model, subnetworks["everything"], unshare=True)
        assert len(set(anatomy_of(apart).attentions)) == 4
        assert torch.equal(hidden(apart, ragged_batch), hidden(model, ragged_batch))

    def test_groups_of_several_layers(self, all_tiny: Any, ragged_batch: Any) -> None:
        import dataclasses

        config = copy.deepcopy(all_tiny["albert"].config)
        config.num_hidden_layers, config.num_hidden_groups, config.inner_group_num = 2, 1, 2
        model = dataclasses.replace(all_tiny["albert"], config=config).build()
        for subnetwork in some_subnetworks(model).values():
            check_outputs(model, subnetwork, ragged_batch)


class TestSize:
    def test_parameters_are_those_of_the_compacted_model(self, tiny: Any) -> None:
        model = tiny.build()

        def encoder(one: Any) -> int:
            return sum(p.numel() for layer in anatomy_of(one).layers for p in layer.parameters())

        for subnetwork in some_subnetworks(model).values():
            small = compact(model, subnetwork, unshare=True)
            expected = encoder(small) / encoder(model)
            assert size_share(model, subnetwork).parameters == pytest.approx(expected, rel=1e-12)
            assert size_share(small, subnetwork).parameters == 1

    @pytest.mark.parametrize("name", ["bert", "modernbert", "gpt2", "llama"])
    def test_flops_are_those_that_a_profiler_counts(self, all_tiny: Any, name: str) -> None:
        model = all_tiny[name].build("eager")

        def encoder(one: Any, n: int) -> int:
            layers = {id(layer): i for i, layer in enumerate(anatomy_of(one).layers)}
            paths = [path for path, module in one.named_modules() if id(module) in layers]
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                one(input_ids=torch.full((1, n), 7))
            counts = counter.get_flop_counts()
            return sum(sum(counts[f"{type(one).__name__}.{path}"].values()) for path in paths)

        n = 30
        whole = encoder(model, n)
        for which in ("nothing", "a first layer without heads"):
            subnetwork = some_subnetworks(model)[which]
            expected = encoder(compact(model, subnetwork), n) / whole
            assert size_share(model, subnetwork, n).flops == pytest.approx(expected, abs=1e-12)

    def test_a_layer_of_bert_written_out(self, tiny_bert: Any) -> None:
        """Hidden 24, 4 heads of 6, intermediate 32; without head 0 of layer 0 and the MLP of layer 2."""
        heads, mlps = np.ones((3, 4), dtype=bool), np.ones(3, dtype=bool)
        heads[0, 0] = mlps[2] = False
        layer = 4 * (24 * 24 + 24) + (24 * 32 + 32) + (32 * 24 + 24) + 2 * 2 * 24
        head, mlp = 3 * (24 * 6 + 6) + 6 * 24, 24 * 32 + 32 + 32 * 24 + 24
        products = 4 * 24 * 24 + 2 * 24 * 32 + 2 * 128 * 24
        left = 3 * products - (4 * 24 * 6 + 2 * 128 * 6) - 2 * 24 * 32
        found = size_share(tiny_bert, Subnetwork(heads, mlps))
        assert found == SizeShare((3 * layer - head - mlp) / (3 * layer), left / (3 * products))

    def test_grouped_queries_can_grow(self, all_tiny: Any) -> None:
        model = all_tiny["llama"].build()
        heads = np.ones((3, 4), dtype=bool)
        heads[0, 0] = False  # three query heads then have three key and value heads instead of two
        subnetwork = Subnetwork(heads, np.ones(3, dtype=bool))
        assert size_share(model, subnetwork).parameters > 1
        assert size_share(model, subnetwork).flops < 1 + 1e-12

    def test_an_input_without_tokens_is_refused(self, tiny_bert: Any) -> None:
        with pytest.raises(InputError, match="n_tokens=0"):
            size_share(tiny_bert, Subnetwork.full(tiny_bert), 0)


@pytest.mark.parametrize("call", [compact, size_share])
def test_a_subnetwork_of_another_model_is_refused(tiny_bert: Any, call: Any) -> None:
    with pytest.raises(InputError, match="has 3 x 5 heads, but the model has 3 x 4"):
        call(tiny_bert, Subnetwork(np.ones((3, 5), dtype=bool), np.ones(3, dtype=bool)))
    with pytest.raises(InputError, match="must be a Subnetwork, not a tuple"):
        call(tiny_bert, (np.ones((3, 4)), np.ones(3)))


def test_a_model_that_is_gated_or_observed_is_refused(tiny_bert: Any) -> None:
    """Its copy would stay so for ever."""
    full = Subnetwork.full(tiny_bert)
    for block in (gated(tiny_bert, mlps=np.ones(3)), observe(tiny_bert, lambda *_: None)):
        with block, pytest.raises(InputError, match=r"outside of gated\(\) and observe\(\)"):
            compact(tiny_bert, full)
    compact(tiny_bert, full)


def test_a_wrapped_projection_is_refused(tiny_bert: Any) -> None:
    class Adapted(torch.nn.Linear):
        pass

    tiny_bert.encoder.layer[1].attention.self.query = Adapted(24, 24)
    compact(tiny_bert, Subnetwork.full(tiny_bert))
    with pytest.raises(UnsupportedModelError, match="is a Adapted, of which nothing can be cut"):
        compact(tiny_bert, some_subnetworks(tiny_bert)["no heads"])


def _cut_the_first_biases(monkeypatch: pytest.MonkeyPatch) -> None:
    original = models.compaction._smaller

    def mutant(module: Any, cut: Any) -> Any:
        small = original(module, cut)
        if module.bias is not None and cut.bias:
            small.bias.data = module.bias.data[: len(small.bias)].clone()
        return small

    monkeypatch.setattr(models.compaction, "_smaller", mutant)


def _drop_biases_of_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    original = models.compaction._smaller

    def mutant(module: Any, cut: Any) -> Any:
        small = original(module, cut)
        if cut.bias and len(cut.outputs) == module.weight.shape[0]:
            small.bias.data.zero_()
        return small

    monkeypatch.setattr(models.compaction, "_smaller", mutant)


def _keep_biases_of_mlps(monkeypatch: pytest.MonkeyPatch) -> None:
    original = models.compaction._smaller

    def mutant(module: Any, cut: Any) -> Any:
        if not len(cut.inputs) and module.bias is not None:
            cut = models.compaction._Cut(cut.outputs, cut.inputs, True)
        return original(module, cut)

    monkeypatch.setattr(models.compaction, "_smaller", mutant)


def _take_the_next_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    original = models.compaction._features
    monkeypatch.setattr(
        models.compaction, "_features", lambda heads, width: original(heads.flip(0), width).sort().values
    )
    searched = models.compaction.np.searchsorted
    monkeypatch.setattr(models.compaction.np, "searchsorted", lambda a, v: (searched(a, v) + 1) % len(a))


@pytest.mark.parametrize(
    ("mutate", "name"),
    [
        (mutate, name)
        for mutate in (_cut_the_first_biases, _drop_biases_of_outputs, _take_the_next_heads)
        for name in ("bert", "gpt2", "modernbert")
    ]
    + [(_keep_biases_of_mlps, "bert"), (_keep_biases_of_mlps, "gpt2")],
)
def test_a_mutation_of_the_code_is_noticed(
    mutate: Any, name: str, all_tiny: Any, ragged_batch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = all_tiny[name].build()
    subnetwork = some_subnetworks(model)["a first layer without heads"]
    check_outputs(model, subnetwork, ragged_batch)
    mutate(monkeypatch)
    with pytest.raises(AssertionError):
        check_outputs(model, subnetwork, ragged_batch)
