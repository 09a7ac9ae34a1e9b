"""The tap watches every layer once and leaves no trace."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models import InputError, TapError, gated, observe
from models.common.row_mask import RowMask
from models.tap import _TAPS, Block

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


class Blocks:
    """An observer that takes blocks, and puts the maps together again."""

    in_blocks = True

    def __init__(self) -> None:
        self.maps: dict[int, torch.Tensor] = {}
        self.keys: dict[int, list[slice]] = {}
        self.ended: list[int] = []

    def __call__(self, layer: int, P: torch.Tensor, V: torch.Tensor) -> None:
        self.maps[layer] = P

    def block(self, layer: int, block: Block, V: torch.Tensor) -> None:
        b, h, m, _ = block.probabilities.shape
        if block.rows.start == 0:
            self.maps[layer], self.keys[layer] = torch.zeros(b, h, 0, V.shape[2]), []
        rows = torch.zeros(b, h, m, V.shape[2])
        rows[..., block.keys] = block.probabilities
        assert block.rows == slice(self.maps[layer].shape[2], self.maps[layer].shape[2] + m)
        self.maps[layer] = torch.cat([self.maps[layer], rows], dim=2)
        self.keys[layer].append(block.keys)
        if block.last:
            self.ended.append(layer)


def watched(model: Any, batch: Any, observer: Any, layers: Any = None) -> torch.Tensor:
    with torch.no_grad(), observe(model, observer, layers):
        return model(**batch).last_hidden_state


@pytest.mark.parametrize("rows", [1, 5, 16])
def test_blocks_put_together_are_the_whole_maps(
    tiny: Any, ragged_batch: Any, in_blocks: Any, rows: int
) -> None:
    model = tiny.build()
    whole, blocks = Blocks(), Blocks()
    right = watched(model, ragged_batch, whole)
    assert not whole.keys  # short inputs are not cut
    in_blocks(rows)
    found = watched(model, ragged_batch, blocks)
    assert blocks.ended == list(whole.maps)
    assert len(blocks.keys[0]) == -(-17 // rows)
    torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-4)
    for layer, maps in whole.maps.items():
        # Scores of these models are large: a product of thinner matrices rounds them otherwise.
        torch.testing.assert_close(blocks.maps[layer], maps, rtol=0, atol=2e-5)


def test_a_block_has_only_the_keys_that_its_queries_see(all_tiny: Any, in_blocks: Any) -> None:
    batch = {"input_ids": torch.arange(5, 35)[None]}
    seen = {name: Blocks() for name in ("llama", "modernbert", "bert")}
    in_blocks(8)
    for name, observer in seen.items():
        watched(all_tiny[name].build(), batch, observer)
    assert seen["llama"].keys[0] == [slice(0, 8), slice(0, 16), slice(0, 24), slice(0, 30)]
    assert seen["modernbert"].keys[0] == 4 * [slice(0, 30)]
    assert seen["modernbert"].keys[1] == [slice(0, 11), slice(5, 19), slice(13, 27), slice(21, 30)]
    assert seen["bert"].keys[0] == 4 * [slice(0, 30)]


def test_a_query_that_sees_nothing_attends_evenly_in_blocks_too(all_tiny: Any, in_blocks: Any) -> None:
    """As the first tokens of an input that is padded on the left do in eager attention."""
    model = all_tiny["llama"].build()
    batch = {"input_ids": torch.arange(5, 17)[None], "attention_mask": (torch.arange(12) > 5).long()[None]}
    whole, blocks = Blocks(), Blocks()
    watched(model, batch, whole)
    in_blocks(5)
    watched(model, batch, blocks)
    assert float(whole.maps[0][0, 0, 0, -1]) == pytest.approx(1 / 12)
    torch.testing.assert_close(blocks.maps[0], whole.maps[0], rtol=0, atol=1e-6)


def test_observers_that_take_no_blocks_get_whole_maps(
    tiny_bert: Any, ragged_batch: Any, in_blocks: Any
) -> None:
    in_blocks(4)
    blocks, seen = Blocks(), []
    with torch.no_grad(), observe(tiny_bert, lambda layer, P, V: seen.append(P), layers=[1]):
        watched(tiny_bert, ragged_batch, blocks)
    assert set(blocks.keys) == {0, 2}
    assert torch.equal(seen[0], blocks.maps[1])
    blocks.in_blocks = False
    watched(tiny_bert, ragged_batch, blocks)
    assert set(blocks.maps) == {0, 1, 2}


def test_layers_that_nobody_watches_compute_the_same_in_blocks(
    tiny: Any, ragged_batch: Any, in_blocks: Any
) -> None:
    model = tiny.build()
    real = ragged_batch["attention_mask"].bool()
    right = watched(model, ragged_batch, Blocks())
    in_blocks(5)
    found = watched(model, ragged_batch, Blocks(), layers=[1])
    torch.testing.assert_close(found[real], right[real], rtol=1e-4, atol=1e-4)


def test_later_tokens_of_a_cache_are_seen_in_blocks(all_tiny: Any, in_blocks: Any) -> None:
    model = all_tiny["qwen2"].build()
    ids = torch.arange(5, 25)[None]
    whole, blocks = Blocks(), Blocks()
    watched(model, {"input_ids": ids}, whole)
    in_blocks(3)
    with torch.no_grad():
        cache = model(input_ids=ids[:, :9]).past_key_values
    watched(model, {"input_ids": ids[:, 9:], "past_key_values": cache}, blocks)
    torch.testing.assert_close(blocks.maps[2], whole.maps[2][:, :, 9:], rtol=0, atol=2e-5)


def test_gates_act_and_gradients_flow_in_blocks(tiny_bert: Any, ragged_batch: Any, in_blocks: Any) -> None:
    def gradient() -> torch.Tensor:
        gates = torch.full((3, 4), 0.5, requires_grad=True)
        with observe(tiny_bert, Blocks()), gated(tiny_bert, heads=gates):
            tiny_bert(**ragged_batch).last_hidden_state[:, 0].square().sum().backward()
        assert gates.grad is not None
        return gates.grad

    right = gradient()
    in_blocks(6)
    torch.testing.assert_close(gradient(), right, rtol=1e-4, atol=1e-4)


class Largest(TorchDispatchMode):
    """The most numbers that any tensor has that is made meanwhile."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor) and not isinstance(t, RowMask)]
        # A view, such as a mask expanded to the batch, takes no memory of its own.
        self.numbers = max([self.numbers, *(t.untyped_storage().nbytes() // t.element_size() for t in made)])
        return result


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", ["bert", "modernbert", "llama"])
def test_no_tensor_grows_with_the_square_of_a_long_input(
    all_tiny: Any, monkeypatch: pytest.MonkeyPatch, name: str, padded: bool
) -> None:
    config = copy.deepcopy(all_tiny[name].config)
    config.max_position_embeddings = 1024
    model = dataclasses.replace(all_tiny[name], config=config).build()

    def largest(n: int, observer: Any) -> int:
        ids = torch.ones(2, n, dtype=torch.long)
        mask = (torch.arange(n) < torch.tensor([[n], [n - 7 * padded]])).long()
        with Largest() as mode:
            watched(model, {"input_ids": ids, "attention_mask": mask}, observer)
        return mode.numbers

    for constant in ("_WHOLE", "_CELLS"):
        monkeypatch.setattr(f"models.tap.{constant}", 2**12)
    quiet = Blocks()
    quiet.block = lambda layer, block, values: None  # type: ignore[method-assign]
    assert largest(1024, quiet) <= 2.1 * largest(512, quiet)
    assert largest(1024, lambda *_: None) >= 2 * 4 * 1024 * 1024
