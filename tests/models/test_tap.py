"""The tap watches every layer once and leaves no trace."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from models import InputError, TapError, observe
from models.tap import _TAPS

INPUT = {"input_ids": torch.arange(5, 17).view(2, 6)}


def layers_seen(model: Any, batch: Any = INPUT, **options: Any) -> list[int]:
    seen: list[int] = []
    with torch.no_grad(), observe(model, lambda layer, P, V: seen.append(layer), **options):
        model(**batch)
    return seen


def test_every_layer_is_seen_once_and_in_order_in_every_forward(tiny: Any) -> None:
    model = tiny.build()
    n = len(layers_seen(model))
    seen: list[int] = []
    with torch.no_grad(), observe(model, lambda layer, P, V: seen.append(layer)) as anatomy:
        model(**INPUT)
        model(**INPUT)
    assert seen == 2 * list(range(n))
    assert anatomy.n_layers == n


def test_observing_does_not_change_what_the_model_computes(tiny: Any, ragged_batch: Any) -> None:
    model = tiny.build()
    real = ragged_batch["attention_mask"].bool()
    with torch.no_grad():
        before = model(**ragged_batch).last_hidden_state[real]
        with observe(model, lambda *_: None):
            during = model(**ragged_batch).last_hidden_state[real]
        after = model(**ragged_batch).last_hidden_state[real]
    torch.testing.assert_close(during, before, rtol=1e-4, atol=1e-5)
    assert torch.equal(after, before)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_model_is_given_back_as_it_was(all_tiny: Any, attention: str) -> None:
    for tiny in all_tiny.values():
        model = tiny.build(attention)
        state = copy.deepcopy(model.state_dict())
        layers_seen(model)
        assert model.config._attn_implementation == attention
        assert not model._forward_hooks
        assert not model._forward_pre_hooks
        assert not any(module in _TAPS for module in model.modules())
        assert all(
            torch.equal(a, b) for a, b in zip(state.values(), model.state_dict().values(), strict=True)
        )


def test_the_model_is_given_back_as_it_was_when_the_observer_raises(tiny_bert: Any) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"), observe(tiny_bert, fail):
        tiny_bert(**INPUT)
    assert tiny_bert.config._attn_implementation == "sdpa"
    assert layers_seen(tiny_bert) == [0, 1, 2]


def test_a_forward_that_failed_half_way_does_not_disturb_the_next(tiny_bert: Any) -> None:
    seen: list[int] = []

    def fail_once(layer: int, *_: Any) -> None:
        seen.append(layer)
        if seen == [0, 1]:
            raise RuntimeError("once")

    with torch.no_grad(), observe(tiny_bert, fail_once):
        with pytest.raises(RuntimeError, match="once"):
            tiny_bert(**INPUT)
        tiny_bert(**INPUT)
    assert seen == [0, 1, 0, 1, 2]


def test_only_the_layers_asked_for_are_shown(tiny_bert: Any) -> None:
    assert layers_seen(tiny_bert, layers=[2, 0]) == [0, 2]
    assert layers_seen(tiny_bert, layers=[]) == []


def test_blocks_nest_and_end_in_any_order(tiny_bert: Any) -> None:
    seen: list[str] = []
    outer = observe(tiny_bert, lambda *_: seen.append("outer"), layers=[0])
    inner = observe(tiny_bert, lambda *_: seen.append("inner"), layers=[0])
    with torch.no_grad():
        outer.__enter__()
        inner.__enter__()
        tiny_bert(**INPUT)
        outer.__exit__(None, None, None)
        tiny_bert(**INPUT)
        inner.__exit__(None, None, None)
        tiny_bert(**INPUT)
    assert seen == ["outer", "inner", "inner"]
    assert tiny_bert.config._attn_implementation == "sdpa"


def test_two_models_that_share_a_config_do_not_mix(all_tiny: Any) -> None:
    """The implementation is named in the config: the other model must still compute the same."""
    first, second = all_tiny["bert"].build(), all_tiny["bert"].build()
    second.config = first.config
    for module in second.modules():
        if hasattr(module, "config"):
            module.config = first.config
    with torch.no_grad():
        before = second(**INPUT).last_hidden_state
        seen: list[int] = []
        with observe(first, lambda layer, P, V: seen.append(layer)):
            during = second(**INPUT).last_hidden_state
    assert seen == []
    torch.testing.assert_close(during, before, rtol=1e-4, atol=1e-5)


def test_a_model_with_a_task_head_is_watched_below_it(all_tiny: Any) -> None:
    from transformers import AutoModelForSequenceClassification

    for tiny in all_tiny.values():
        model = AutoModelForSequenceClassification.from_config(copy.deepcopy(tiny.config)).eval()
        model.config.pad_token_id = 0
        assert layers_seen(model) == layers_seen(tiny.build())


def test_gradients_flow_through_an_observed_forward(tiny_bert: Any) -> None:
    with observe(tiny_bert, lambda *_: None):
        tiny_bert(**INPUT).last_hidden_state.sum().backward()
    assert all(p.grad is not None for n, p in tiny_bert.named_parameters() if "pooler" not in n)


def test_a_model_in_training_mode_is_refused(tiny_bert: Any) -> None:
    with pytest.raises(InputError, match=r"call model.eval\(\)"), observe(tiny_bert.train(), lambda *_: None):
        pass


def test_a_model_put_into_training_mode_inside_is_refused_too(tiny_bert: Any) -> None:
    with observe(tiny_bert, lambda *_: None):
        tiny_bert.train()
        with pytest.raises(InputError, match="after dropout"):
            tiny_bert(**INPUT)


def test_a_layer_that_does_not_exist_is_refused(tiny_bert: Any) -> None:
    with (
        pytest.raises(InputError, match="3 attention layers, numbered 0 to 2"),
        observe(tiny_bert, lambda *_: None, layers=[3]),
    ):
        pass


def test_a_forward_that_skips_a_layer_is_not_trusted(tiny_bert: Any) -> None:
    with torch.no_grad(), observe(tiny_bert, lambda *_: None):
        tiny_bert.encoder.layer[1].forward = lambda hidden, *args, **kwargs: hidden
        with pytest.raises(TapError, match="not made by layer 1"):
            tiny_bert(**INPUT)
        tiny_bert.encoder.layer[2].forward = lambda hidden, *args, **kwargs: hidden
        with pytest.raises(TapError, match="1 of 3 attention layers"):
            tiny_bert(**INPUT)


def test_a_forward_that_goes_round_the_tap_is_not_trusted(tiny_bert: Any) -> None:
    with torch.no_grad(), observe(tiny_bert, lambda *_: None):
        tiny_bert.set_attn_implementation("eager")
        with pytest.raises(TapError, match="0 of 3 attention layers"):
            tiny_bert(**INPUT)


def test_a_layer_run_on_its_own_is_not_mistaken_for_another(tiny_bert: Any) -> None:
    with torch.no_grad(), observe(tiny_bert, lambda *_: None):
        tiny_bert(**INPUT)
        with pytest.raises(TapError, match="outside the model's forward"):
            tiny_bert.encoder.layer[0](torch.zeros(1, 3, 24))


def test_probabilities_sum_to_one_and_padding_gets_nothing(tiny: Any, ragged_batch: Any) -> None:
    model = tiny.build()
    padded = ~ragged_batch["attention_mask"].bool()

    def look(layer: int, probabilities: torch.Tensor, values: torch.Tensor) -> None:
        torch.testing.assert_close(probabilities.sum(-1), torch.ones(probabilities.shape[:-1]))
        attended = probabilities.masked_fill(~padded[:, None, None, :], 0)[
            ~padded[:, None, :].expand(-1, 4, -1)
        ]
        assert float(attended.max()) == 0

    with torch.no_grad(), observe(model, look):
        model(**ragged_batch)
