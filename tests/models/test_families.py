"""What the tap sees is what the library and plain algebra say, in the families whose paths are written out by hand.

``test_conformance.py`` checks every family there is.
"""

from __future__ import annotations

import copy
import dataclasses
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import models.anatomy
import models.tap
from models.anatomy import Anatomy, anatomy_of
from models.families.table import FAMILIES
from patterns import attention_maps

TEN = tuple(family.model_type for family in FAMILIES[:10])


def reference(tiny: Any, batch: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """Per layer: eager attentions, the full tensor of weighted vectors, and the block's true output."""
    model = tiny.build("eager")
    config = model.config
    calls: dict[str, list[torch.Tensor]] = {}
    groups = getattr(config, "num_hidden_groups", 1)
    inner = getattr(config, "inner_group_num", 1)
    n_layers = config.num_hidden_layers * inner
    paths = []
    for i in range(n_layers):
        where = {"i": i, "group": (i // inner) // (config.num_hidden_layers // groups), "inner": i % inner}
        paths.append((tiny.output.format(**where), tiny.value.format(**where)))
    hooks = [
        model.get_submodule(path).register_forward_hook(
            lambda module, inputs, output, path=path: calls.setdefault(path, []).append(output)
        )
        for path in {path for pair in paths for path in pair}
    ]
    with torch.no_grad():
        attentions = model(**batch, output_attentions=True).attentions
    for hook in hooks:
        hook.remove()

    layers = []
    for (output_path, value_path), attention in zip(paths, attentions, strict=True):
        output = calls[output_path].pop(0)
        projection = model.get_submodule(output_path)
        weight = projection.weight.T if type(projection).__name__ == "Conv1D" else projection.weight
        h, d = config.num_attention_heads, config.hidden_size // config.num_attention_heads
        values = calls[value_path].pop(0)
        if "qkv" in value_path or "c_attn" in value_path:
            values = values.chunk(3, dim=-1)[2]
        b, n, width = values.shape
        values = values.view(b, n, width // d, d).transpose(1, 2).repeat_interleave(h * d // width, dim=1)
        # f(x_j) = (x_j W_V + b_V) W_O per head, then P_ij f(x_j): the tensor that norm maps do without.
        slices = torch.stack([weight[:, k * d : (k + 1) * d] for k in range(h)])
        transformed = torch.einsum("bhjd,hod->bhjo", values, slices)
        weighted = attention[..., None] * transformed[:, :, None]
        bias = 0 if projection.bias is None else projection.bias
        layers.append(
            {
                "raw": attention,
                "norm": weighted.norm(dim=-1),
                "sum": weighted.sum(dim=(1, 3)),
                "output": output - bias,
            }
        )
    return layers


def check_maps(tiny: Any, batch: dict[str, torch.Tensor], attention: str = "sdpa") -> None:
    expected = reference(tiny, batch)
    found = attention_maps(tiny.build(attention), batch)
    assert [(layer, kind) for layer, kind, _, _ in found] == [
        (layer, kind) for layer in range(len(expected)) for kind in ("raw", "norm")
    ]
    for layer, kind, maps, lengths in found:
        assert maps.dtype == torch.float32
        tolerance = {"rtol": 0, "atol": 1e-6} if kind == "raw" else {"rtol": 1e-4, "atol": 1e-6}
        for i, n in enumerate(lengths.tolist()):
            real = maps[i, :, :n, :n]
            torch.testing.assert_close(real, expected[layer][kind][i, :, :n, :n], **tolerance)
            assert maps[i, :, n:].abs().sum() == 0
            assert maps[i, :, :, n:].abs().sum() == 0


def test_raw_and_norm_maps_equal_the_obvious_computation(tiny: Any, ragged_batch: Any) -> None:
    check_maps(tiny, ragged_batch)


def test_a_model_loaded_with_eager_attention_gives_the_same_maps(tiny: Any, ragged_batch: Any) -> None:
    check_maps(tiny, ragged_batch, attention="eager")


def test_albert_groups_of_several_layers_run_in_the_right_order(all_tiny: Any, ragged_batch: Any) -> None:
    config = copy.deepcopy(all_tiny["albert"].config)
    config.num_hidden_layers, config.num_hidden_groups, config.inner_group_num = 2, 1, 2
    check_maps(dataclasses.replace(all_tiny["albert"], config=config), ragged_batch)


def test_weighted_vectors_sum_to_the_attention_output_without_its_bias(tiny: Any, ragged_batch: Any) -> None:
    """Of the tap's own P, V and output slices, not of the reference's."""
    expected = reference(tiny, ragged_batch)
    real = ragged_batch["attention_mask"].bool()
    model = tiny.build()
    seen = []

    def look(layer: int, probabilities: torch.Tensor, values: torch.Tensor) -> None:
        slices = anatomy_of(model).output_slices(layer, values.shape[1])
        total = torch.einsum("bhij,bhjd,hod->bio", probabilities, values, slices)
        torch.testing.assert_close(total[real], expected[layer]["output"][real], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            expected[layer]["sum"][real], expected[layer]["output"][real], rtol=1e-4, atol=1e-5
        )
        seen.append(layer)

    with torch.no_grad(), models.tap.observe(model, look):
        model(**ragged_batch)
    assert seen == list(range(len(expected)))


def test_the_tiny_models_are_not_degenerate(tiny: Any, ragged_batch: Any) -> None:
    """Else the tests above could pass on wrong code: attention far from uniform, heads that differ."""
    for layer in reference(tiny, ragged_batch):
        longest = layer["raw"][0]
        assert longest.max() > 3 / longest.shape[-1]
        assert (layer["norm"][0, 0] - layer["norm"][0, 1]).abs().max() > 1e-3


def _lose_part_of_the_value_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    original = models.tap._attention

    def mutant(module: Any, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any) -> Any:
        return original(module, query, key, value - 0.1, mask, **kwargs)

    monkeypatch.setitem(models.tap.AttentionInterface._global_mapping, models.tap.IMPLEMENTATION, mutant)


def _transpose_output(monkeypatch: pytest.MonkeyPatch) -> None:
    def mutant(self: Anatomy, layer: int, n_heads: int) -> torch.Tensor:
        weight = self.outputs[layer].weight
        weight = weight if type(self.outputs[layer]).__name__ == "Conv1D" else weight.T
        return weight.unflatten(1, (n_heads, -1)).transpose(0, 1)

    monkeypatch.setattr(Anatomy, "output_slices", mutant)


def _swap_two_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Anatomy.output_slices
    monkeypatch.setattr(
        Anatomy, "output_slices", lambda self, layer, n: original(self, layer, n)[[1, 0, *range(2, n)]]
    )


def _forget_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    original = models.tap._attention

    def mutant(module: Any, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any) -> Any:
        mask = None if mask is None else torch.zeros_like(mask)
        return original(module, query, key, value, mask, **kwargs)

    monkeypatch.setitem(models.tap.AttentionInterface._global_mapping, models.tap.IMPLEMENTATION, mutant)


def _expand_groups_in_the_wrong_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models.tap, "_expanded", lambda states, groups: states.repeat(1, groups, 1, 1))


@pytest.mark.parametrize(
    ("mutate", "family"),
    [
        (mutate, family)
        for mutate in (_lose_part_of_the_value_bias, _transpose_output, _swap_two_heads, _forget_the_mask)
        for family in TEN
    ]
    + [(_expand_groups_in_the_wrong_order, "llama"), (_expand_groups_in_the_wrong_order, "qwen2")],
)
def test_a_mutation_of_the_code_is_noticed(
    mutate: Any, family: str, monkeypatch: pytest.MonkeyPatch, ragged_batch: Any, all_tiny: Any
) -> None:
    mutate(monkeypatch)
    with pytest.raises(AssertionError):
        check_maps(all_tiny[family], ragged_batch)


def test_longest_input_is_where_position_embeddings_end(all_tiny: Any) -> None:
    """One token more must fail, or the limit is too low."""
    for name, tiny in all_tiny.items():
        model = tiny.build()
        limit = anatomy_of(model).max_tokens
        assert limit == (38 if "roberta" in name else 40)
        with torch.no_grad():
            model(input_ids=torch.full((1, limit), 7))
            if name not in ("modernbert", "llama", "qwen2"):  # rotary positions have no hard end
                with pytest.raises((IndexError, RuntimeError)):
                    model(input_ids=torch.full((1, limit + 1), 7))


def test_causal_and_local_models_are_known_as_such(all_tiny: Any) -> None:
    anatomies = {name: anatomy_of(tiny.build()) for name, tiny in all_tiny.items()}
    assert {name for name, anatomy in anatomies.items() if anatomy.causal} == {"gpt2", "llama", "qwen2"}
    assert anatomies["modernbert"].local_layers == (1, 2)
    assert anatomies["modernbert"].window == 3
    assert all(not a.local_layers for name, a in anatomies.items() if name != "modernbert")


def test_a_local_layer_sees_no_further_than_its_window(all_tiny: Any, ragged_batch: Any) -> None:
    model = all_tiny["modernbert"].build()
    anatomy = anatomy_of(model)
    for layer, _, maps, _ in attention_maps(model, ragged_batch, kinds=("raw",)):
        query, key = torch.nonzero(maps[0, 0] > 0, as_tuple=True)
        reach = int((query - key).abs().max())
        assert (reach == anatomy.window) if layer in anatomy.local_layers else (reach == 16)


def test_anatomy_is_found_below_any_task_head(all_tiny: Any) -> None:
    from transformers import AutoModelForSequenceClassification

    for name, tiny in all_tiny.items():
        head = AutoModelForSequenceClassification.from_config(copy.deepcopy(tiny.config))
        assert anatomy_of(head).n_layers == anatomy_of(tiny.build()).n_layers, name


def test_a_layout_that_is_not_the_familys_is_refused(tiny_bert: Any) -> None:
    del tiny_bert.encoder.layer[1].attention.output.dense
    with pytest.raises(models.UnsupportedModelError, match="not laid out like a BERT model"):
        anatomy_of(tiny_bert)


def test_an_unknown_model_is_refused_with_how_many_families_are_known_and_where_their_list_is() -> None:
    from transformers import FNetConfig, FNetModel

    config = FNetConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, intermediate_size=8)
    with pytest.raises(models.UnsupportedModelError) as caught:
        anatomy_of(FNetModel(config))
    assert "'fnet'" in str(caught.value)
    assert f"{len(FAMILIES)} families are" in str(caught.value)
    assert "docs/families.md" in str(caught.value)
    with pytest.raises(models.UnsupportedModelError, match="not a transformers model"):
        anatomy_of(torch.nn.Linear(2, 2))  # type: ignore[arg-type]


def test_an_output_projection_that_is_wrapped_is_refused(tiny_bert: Any) -> None:
    """An adapter's ``weight`` is not what it computes, so norm maps would be wrong without a word."""

    class Adapted(torch.nn.Linear):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return super().forward(inputs) * 2

    tiny_bert.encoder.layer[0].attention.output.dense = Adapted(24, 24)
    with pytest.raises(models.UnsupportedModelError, match="merge_and_unload"):
        anatomy_of(tiny_bert)


def test_a_decoder_of_an_encoder_family_is_causal(all_tiny: Any, ragged_batch: Any) -> None:
    config = copy.deepcopy(all_tiny["bert"].config)
    config.is_decoder = True
    decoder = dataclasses.replace(all_tiny["bert"], config=config)
    check_maps(decoder, ragged_batch)
    assert anatomy_of(decoder.build()).causal


def test_a_familys_own_scaling_is_kept(all_tiny: Any, ragged_batch: Any) -> None:
    config = copy.deepcopy(all_tiny["gpt2"].config)
    config.scale_attn_by_inverse_layer_idx = True
    check_maps(dataclasses.replace(all_tiny["gpt2"], config=config), ragged_batch)


def test_an_anatomy_is_immutable(tiny_bert: Any) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        anatomy_of(tiny_bert).causal = True  # type: ignore[misc]


def test_a_fused_projection_of_unknown_order_is_not_cut(
    all_tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPT-NeoX orders it head by head: cut as if side by side, outputs were 84% off without an error."""
    model = all_tiny["gpt2"].build()
    family = dataclasses.replace(anatomy_of(model).family, fused=None)
    monkeypatch.setattr(models.anatomy, "FAMILIES", (family,))
    heads = torch.ones(3, 4, dtype=torch.bool).numpy()
    heads[1, 2] = False
    with pytest.raises(models.UnsupportedModelError, match=r"which outputs of attn\.c_attn are which head's"):
        models.compact(model, models.Subnetwork(heads, heads[:, 0] | True))


def test_a_model_without_a_limit_to_its_positions_has_none() -> None:
    """T5, BLOOM and models of images have no such setting."""
    assert models.anatomy._positions(SimpleNamespace()) == sys.maxsize  # type: ignore[arg-type]
