"""Gates multiply exactly what heads and MLPs add, in every family, and leave no trace."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from models import InputError, TapError, anatomy_of, gated, observe

INPUT = {"input_ids": torch.arange(5, 17).view(2, 6)}

MLP_OUTPUTS = {  # written out by hand
    "bert": "encoder.layer.{i}.output.dense",
    "roberta": "encoder.layer.{i}.output.dense",
    "xlm-roberta": "encoder.layer.{i}.output.dense",
    "electra": "encoder.layer.{i}.output.dense",
    "distilbert": "transformer.layer.{i}.ffn.lin2",
    "modernbert": "layers.{i}.mlp.Wo",
    "gpt2": "h.{i}.mlp.c_proj",
    "llama": "layers.{i}.mlp.down_proj",
    "qwen2": "layers.{i}.mlp.down_proj",
}


def hidden(model: Any, batch: Any = INPUT) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch).last_hidden_state


def shape_of(model: Any) -> tuple[int, int]:
    anatomy = anatomy_of(model)
    return anatomy.n_layers, anatomy.n_heads


def test_gates_of_one_change_nothing(tiny: Any, ragged_batch: Any) -> None:
    model = tiny.build()
    layers, heads = shape_of(model)
    before = hidden(model, ragged_batch)
    with gated(model, heads=np.ones((layers, heads)), mlps=np.ones(layers, dtype=bool)):
        assert torch.equal(hidden(model, ragged_batch), before)
    assert torch.equal(hidden(model, ragged_batch), before)


@pytest.mark.parametrize("name", MLP_OUTPUTS)  # ALBERT's layers share weights: see below
def test_a_closed_head_is_one_whose_slice_of_the_projection_is_zero(all_tiny: Any, name: str) -> None:
    tiny = all_tiny[name]
    model = tiny.build()
    layers, heads = shape_of(model)
    closed = (1, 2)
    gates = torch.ones(layers, heads)
    gates[closed] = 0
    with gated(model, heads=gates):
        found = hidden(model)
    module = model.get_submodule(tiny.output.format(i=closed[0]))
    weight = module.weight.data if isinstance(module, torch.nn.Linear) else module.weight.data.T
    width = weight.shape[1] // heads
    weight[:, closed[1] * width : (closed[1] + 1) * width] = 0
    torch.testing.assert_close(found, hidden(model), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MLP_OUTPUTS)
def test_a_closed_mlp_adds_nothing_not_even_its_bias(all_tiny: Any, name: str) -> None:
    tiny = all_tiny[name]
    model = tiny.build()
    layers, _ = shape_of(model)
    gates = torch.ones(layers)
    gates[1] = 0
    with gated(model, mlps=gates):
        found = hidden(model)
    module = model.get_submodule(MLP_OUTPUTS[name].format(i=1))
    module.weight.data.zero_()
    if module.bias is not None:
        module.bias.data.zero_()
    torch.testing.assert_close(found, hidden(model), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, hidden(tiny.build()), atol=1e-3)


def test_layers_that_share_weights_are_gated_apart(all_tiny: Any) -> None:
    model = all_tiny["albert"].build()
    layers, heads = shape_of(model)
    seen = []
    for layer in range(layers):
        gates = torch.ones(layers, heads)
        gates[layer] = 0
        with gated(model, heads=gates):
            seen.append(hidden(model))
        gates = torch.ones(layers)
        gates[layer] = 0
        with gated(model, mlps=gates):
            seen.append(hidden(model))
    for i, one in enumerate(seen):
        assert not any(torch.allclose(one, other, atol=1e-4) for other in seen[:i])


def test_gates_of_each_example_equal_those_of_examples_alone(tiny: Any) -> None:
    model = tiny.build()
    layers, heads = shape_of(model)
    generator = torch.Generator().manual_seed(3)
    h = torch.rand(2, layers, heads, generator=generator)
    m = torch.rand(2, layers, generator=generator)
    with gated(model, heads=h, mlps=m):
        together = hidden(model)
    for i in range(2):
        with gated(model, heads=h[i], mlps=m[i]):
            alone = hidden(model, {"input_ids": INPUT["input_ids"][i : i + 1]})
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-5)


def test_gradients_of_each_example_are_its_own(tiny: Any) -> None:
    model = tiny.build().double()
    layers, heads = shape_of(model)
    at = 0.5

    def loss(rows: slice, h: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
        with gated(model, heads=h, mlps=m):
            return model(input_ids=INPUT["input_ids"][rows]).last_hidden_state.square().sum()

    h = torch.full((2, layers, heads), at, dtype=torch.float64, requires_grad=True)
    m = torch.full((2, layers), at, dtype=torch.float64, requires_grad=True)
    loss(slice(None), h, m).backward()
    for i in range(2):
        alone = h[i].detach().clone().requires_grad_(), m[i].detach().clone().requires_grad_()
        loss(slice(i, i + 1), *alone).backward()
        torch.testing.assert_close(h.grad[i], alone[0].grad, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(m.grad[i], alone[1].grad, rtol=1e-4, atol=1e-4)
    step = torch.zeros(layers, heads, dtype=torch.float64)
    step[1, 2] = 1e-2
    with torch.no_grad():  # and the gradient is the slope
        same = m[0].detach()
        slope = loss(slice(0, 1), at + step, same) - loss(slice(0, 1), at - step, same)
    assert float(h.grad[0, 1, 2]) == pytest.approx(float(slope) / 2e-2, rel=0.02)


def test_it_nests_with_itself_and_with_observing(minilm: Any) -> None:
    model, batch = minilm.model, minilm.tokenizer("Why is the sea salty?", return_tensors="pt")
    one, other = torch.rand(2, 6, 12, generator=torch.Generator().manual_seed(0))
    seen: dict[int, torch.Tensor] = {}
    with gated(model, heads=one * other):
        expected = hidden(model, batch)
    with (
        gated(model, heads=one),
        observe(model, lambda i, P, V: seen.update({i: P})),
        gated(model, heads=other),
    ):
        found = hidden(model, batch)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert sorted(seen) == list(range(6))
    torch.testing.assert_close(seen[5].sum(-1), torch.ones(1, 12, seen[5].shape[-1]))


def test_the_model_is_given_back_as_it_was_even_after_an_error(tiny: Any) -> None:
    model = tiny.build()
    layers, heads = shape_of(model)
    before = hidden(model)

    def interrupted() -> None:
        with gated(model, heads=np.zeros((layers, heads)), mlps=np.zeros(layers)):
            assert not torch.allclose(hidden(model), before, atol=1e-3)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert torch.equal(hidden(model), before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_site_that_does_not_run_once_is_noticed(all_tiny: Any) -> None:
    model = all_tiny["bert"].build()
    for layer in model.encoder.layer:
        layer.chunk_size_feed_forward = 3
    with gated(model, mlps=np.ones(3)), pytest.raises(TapError, match="MLP of layer 0 ran 2 times"):
        hidden(model)
    model = all_tiny["gpt2"].build()
    model.h[1].forward = lambda hidden_states, *_, **__: hidden_states
    with (
        gated(model, heads=np.ones((3, 4))),
        pytest.raises(TapError, match="attention of layer 1 ran 0 times"),
    ):
        hidden(model)


@pytest.mark.parametrize(
    ("gates", "match"),
    [
        ({"heads": np.ones((3, 5))}, r"heads has shape \(3, 5\); this model's gates are \[3, 4\]"),
        ({"heads": np.ones((1, 2, 3, 4))}, "heads has shape"),
        ({"mlps": np.ones(4)}, r"mlps has shape \(4,\)"),
        ({"mlps": np.array([1, 1, 1.5])}, "from 0 to 1"),
        ({"mlps": np.array([1, 1, np.nan])}, "from 0 to 1"),
        ({"heads": "all"}, "heads must be an array"),
        ({"heads": np.ones((3, 3, 4))}, "gates for 3 examples, but the batch has 2"),
    ],
)
def test_bad_gates_are_named(all_tiny: Any, gates: dict[str, Any], match: str) -> None:
    model = all_tiny["bert"].build()
    with pytest.raises(InputError, match=match), gated(model, **gates):
        hidden(model)


def test_gradient_checkpointing_is_refused(all_tiny: Any) -> None:
    model = all_tiny["bert"].build()
    model.gradient_checkpointing_enable()
    with pytest.raises(InputError, match="gradient_checkpointing_disable"), gated(model, mlps=np.ones(3)):
        pass
