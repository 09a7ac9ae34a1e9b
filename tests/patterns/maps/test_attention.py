"""Maps of the real model: equal to the library's and to the obvious computation, whatever the batch."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from models import InputError, observe
from models.anatomy import anatomy_of
from patterns import attention_maps, for_bertviz
from patterns.maps.attention import ValueNorms, lengths_of

SENTENCES = [
    ("Where do swifts sleep during the months that they never land?", "Do swifts sleep while they fly?"),
    ("My sourdough tastes of nothing at all.", None),
    ("Is a tenant liable for rent when the flat burns down?", "Who pays the rent after a fire?"),
    ("Why?", None),
]


@pytest.fixture(scope="module")
def batch(minilm: Any) -> Any:
    first, second = zip(*SENTENCES, strict=True)
    inputs = [minilm.tokenizer(a, b) for a, b in zip(first, second, strict=True)]
    return minilm.tokenizer.pad(inputs, padding_side="right", return_tensors="pt")


@pytest.fixture(scope="module")
def maps(minilm: Any, batch: Any) -> Any:
    return {
        (layer, kind): (values, lengths)
        for layer, kind, values, lengths in attention_maps(minilm.model, batch)
    }


def test_raw_maps_of_minilm_equal_eager_attentions(minilm: Any, batch: Any, maps: Any) -> None:
    eager = copy.deepcopy(minilm.model)
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        expected = eager(**batch, output_attentions=True).attentions
    for layer, attention in enumerate(expected):
        values, lengths = maps[layer, "raw"]
        for i, n in enumerate(lengths.tolist()):
            assert float((values[i, :, :n, :n] - attention[i, :, :n, :n]).abs().max()) <= 1e-6


def test_norm_maps_of_minilm_equal_the_full_tensor_and_add_up_to_the_output(
    minilm: Any, batch: Any, maps: Any
) -> None:
    """Norms from the [n, n, hidden] tensor, whose sum over keys and heads is W_O's output less its bias."""
    model, caught = minilm.model, {}
    hooks = []
    for i, layer in enumerate(model.encoder.layer):
        for name, module in (("v", layer.attention.self.value), ("o", layer.attention.output.dense)):
            hooks.append(
                module.register_forward_hook(
                    lambda module, inputs, output, key=(name, i): caught.__setitem__(key, output)
                )
            )
    with torch.no_grad():
        model(**batch)
    for hook in hooks:
        hook.remove()
    for i, layer in enumerate(model.encoder.layer):
        raw, lengths = maps[i, "raw"]
        norm, _ = maps[i, "norm"]
        dense = layer.attention.output.dense
        slices = dense.weight.detach().view(384, 12, 32).permute(1, 0, 2)  # [H, hidden, d_head]
        values = caught["v", i].view(len(raw), -1, 12, 32).transpose(1, 2)
        weighted = raw[..., None] * torch.einsum("bhjd,hod->bhjo", values, slices)[:, :, None]
        torch.testing.assert_close(norm, weighted.norm(dim=-1), rtol=1e-4, atol=1e-6)
        output = (caught["o", i] - dense.bias).detach()
        for b, n in enumerate(lengths.tolist()):
            torch.testing.assert_close(weighted[b].sum(dim=(0, 2))[:n], output[b, :n], rtol=1e-4, atol=1e-5)


def test_batch_size_and_padding_do_not_matter(minilm: Any, batch: Any, maps: Any) -> None:
    for i, (first, second) in enumerate(SENTENCES):
        alone = minilm.tokenizer(first, second, return_tensors="pt")
        for layer, kind, values, lengths in attention_maps(minilm.model, alone):
            together, n = maps[layer, kind][0][i], int(lengths[0])
            assert float((together[:, :n, :n] - values[0]).abs().max()) <= 1e-5 * max(1, float(values.max()))


def test_segment_ids_are_used(minilm: Any, batch: Any, maps: Any) -> None:
    without = {k: v for k, v in batch.items() if k != "token_type_ids"}
    changed = attention_maps(minilm.model, without, kinds=("raw",), layers=[0])[0][2]
    assert float((changed[0] - maps[0, "raw"][0][0]).abs().max()) > 0.01


def test_kinds_and_layers_can_be_chosen(minilm: Any, batch: Any, maps: Any) -> None:
    found = attention_maps(minilm.model, batch, kinds=("norm",), layers=(4, 1))
    assert [(layer, kind) for layer, kind, _, _ in found] == [(1, "norm"), (4, "norm")]
    torch.testing.assert_close(found[0][2], maps[1, "norm"][0])


class OneLayer:
    """As much of an anatomy as norms need: the output slices ``[H, hidden, d_head]`` of one layer."""

    outputs = (None,)

    def __init__(self, slices: torch.Tensor) -> None:
        self.slices = slices

    def output_slices(self, layer: int, n_heads: int) -> torch.Tensor:
        return self.slices


@pytest.mark.parametrize("spread", [1.0, 1e-2, 1e-4, 0.0])
def test_the_norm_is_exact_for_slices_that_are_nearly_or_wholly_null(spread: float) -> None:
    """Values in the (nearly) null space of W_O; a Gram matrix in float32 loses them in rounding."""
    random = torch.Generator().manual_seed(0)
    slices = torch.randn(2, 64, 8, generator=random, dtype=torch.float64)
    slices[0, :, 1:] = slices[0, :, :1] + spread * slices[0, :, 1:]
    slices = slices.float()
    values = torch.randn(3, 2, 50, 8, generator=random, dtype=torch.float64)
    values[:, 0] -= values[:, 0].mean(-1, keepdim=True)
    exact = torch.einsum("bhnd,hod->bhno", values.float().double(), slices.double()).norm(dim=-1)
    found = ValueNorms(OneLayer(slices))(0, values.float())  # type: ignore[arg-type]
    torch.testing.assert_close(found.double(), exact, rtol=2e-3, atol=2e-5)


def test_a_removed_heads_slice_has_norm_nought() -> None:
    slices = torch.zeros(2, 16, 4)
    slices[1] = torch.randn(16, 4)
    found = ValueNorms(OneLayer(slices))(0, torch.ones(1, 2, 5, 4))  # type: ignore[arg-type]
    assert float(found[:, 0].abs().max()) == 0
    torch.testing.assert_close(found[0, 1], slices[1].sum(dim=1).norm().expand(5))


def test_left_padding_is_refused() -> None:
    with pytest.raises(InputError, match="padded on the right"):
        lengths_of(torch.tensor([[0, 1, 1], [1, 1, 1]]))
    with pytest.raises(InputError, match="padded on the right"):
        lengths_of(torch.tensor([[1, 0, 1]]))
    with pytest.raises(InputError, match="without tokens"):
        lengths_of(torch.tensor([[0, 0, 0], [1, 1, 1]]))


def test_an_unknown_kind_is_refused(minilm: Any, batch: Any) -> None:
    with pytest.raises(InputError, match="raw, norm"):
        attention_maps(minilm.model, batch, kinds=("rollout",))
    with pytest.raises(InputError, match="raw, norm"):
        attention_maps(minilm.model, batch, kinds=())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_a_model_in_half_precision_has_maps_in_float32_from_its_own_scores(
    all_tiny: Any, ragged_batch: Any, name: str, dtype: torch.dtype
) -> None:
    with torch.no_grad():
        eager = all_tiny[name].build("eager").to(dtype)(**ragged_batch, output_attentions=True).attentions
    model = all_tiny[name].build().to(dtype)
    values: list[torch.Tensor] = []
    with torch.no_grad(), observe(model, lambda layer, P, V: values.append(V)):
        model(**ragged_batch)
    found = {(layer, kind): maps for layer, kind, maps, _ in attention_maps(model, ragged_batch)}
    real = ragged_batch["attention_mask"].bool()
    pairs = (real[:, None, :, None] & real[:, None, None, :]).expand(-1, 4, -1, -1)
    for layer, expected in enumerate(eager):
        raw, norm = found[layer, "raw"], found[layer, "norm"]
        assert raw.dtype == norm.dtype == torch.float32
        assert torch.equal(raw[pairs].to(dtype), expected[pairs])  # the library rounds what it shows
        sums = raw.sum(dim=-1)[real[:, None].expand(-1, 4, -1)]
        torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=1e-5)
        slices = anatomy_of(model).output_slices(layer, 4).float()
        norms = torch.einsum("bhjd,hod->bhjo", values[layer].float(), slices).norm(dim=-1)
        torch.testing.assert_close(norm, raw * norms[:, :, None], rtol=1e-4, atol=1e-6)


def test_maps_for_bertviz_are_of_one_input_and_its_tokens(minilm: Any, batch: Any, maps: Any) -> None:
    found = attention_maps(minilm.model, batch)
    for example, n in enumerate(batch["attention_mask"].sum(dim=1).tolist()):
        shown = for_bertviz(found, example=example)
        assert [tuple(one.shape) for one in shown] == [(1, 12, n, n)] * 6
        for layer, kind, values, _ in found:
            if kind == "raw":
                assert torch.equal(shown[layer][0], values[example, :, :n, :n])
                assert torch.allclose(shown[layer].sum(dim=-1), torch.ones(()))
    own = for_bertviz(found, "norm", 0)
    n = own[0].shape[-1]
    for layer, kind, values, _ in found:
        if kind == "norm":
            head = values[0, 3, :n, :n]
            assert torch.allclose(own[layer][0, 3], head / head.max())
            assert head.max() > 0


def test_what_bertviz_cannot_show_is_refused(minilm: Any, batch: Any) -> None:
    found = attention_maps(minilm.model, batch, kinds=("raw",))
    with pytest.raises(InputError, match=r"^kind='norm': there are no such maps"):
        for_bertviz(found, "norm")
    for example in (-1, len(batch["input_ids"])):
        with pytest.raises(InputError, match=rf"^example={example}: the batch has"):
            for_bertviz(found, example=example)
    (layer, kind, values, lengths), *others = found
    with pytest.raises(InputError, match="different numbers of heads"):
        for_bertviz([(layer, kind, values[:, :5], lengths), *others])
    with pytest.raises(InputError, match="stack='cross'"):
        for_bertviz([(layer, kind, values[..., :-1], lengths)])


def test_bertvizs_own_function_takes_them(minilm: Any, batch: Any) -> None:
    """Where it is installed; headscope does not need it."""
    head_view = pytest.importorskip("bertviz").head_view
    shown = for_bertviz(attention_maps(minilm.model, batch), "norm")
    tokens = minilm.tokenizer.convert_ids_to_tokens(batch["input_ids"][0].tolist())[: shown[0].shape[-1]]
    page = head_view(attention=shown, tokens=tokens, html_action="return").data
    assert "left_text" in page
    assert tokens[1] in page
