"""The second tap refuses what it cannot vouch for, leaves no trace, and its families can do what others can."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from conformance import FAMILIES, Family, batch_of, build, config_of, redraw

from models import InputError, LibraryError, TapError, anatomy_of, compact, gated, observe
from models.families.modules import WithoutHeads
from patterns import attention_maps
from pruning import head_importance

BY_TYPE = {family.model_type: family for family in FAMILIES}
BY_HOOKS = [pytest.param(family, id=family.model_type) for family in FAMILIES if family.tap == "module"]


def hidden(model: Any, batch: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch).last_hidden_state[batch["attention_mask"].bool()]


@pytest.mark.parametrize("family", BY_HOOKS)
def test_the_model_is_as_before_afterwards(family: Family) -> None:
    model, batch = build(family), batch_of(family)
    before, how = hidden(model, batch), model.config._attn_implementation
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    with observe(model, lambda *_: None), observe(model, lambda *_: None, layers=[1]):
        torch.testing.assert_close(hidden(model, batch), before, rtol=1e-4, atol=1e-5)
        assert set(model(**batch)) == {"last_hidden_state", *model(**batch)}
    assert torch.equal(hidden(model, batch), before)
    assert model.config._attn_implementation == how
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == hooks


def test_values_that_are_changed_before_they_are_summed_are_noticed() -> None:
    """MPT may clip them after its projection; maps of what the projection gives would be wrong without a word."""
    family = BY_TYPE["mpt"]
    config = config_of(family)
    config.attn_config.clip_qkv = 0.5
    model = redraw(type(build(family))(config))
    with (
        pytest.raises(LibraryError, match="MptAttention hands on is not its values summed by its attention"),
        torch.no_grad(),
        observe(model, lambda *_: None),
    ):
        model(**batch_of(family))


@pytest.mark.parametrize("share", [0.99, 1.01])
def test_probabilities_that_are_not_those_used_are_noticed(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = BY_TYPE["deberta-v2"]
    model = build(family)
    kind = type(anatomy_of(model).attentions[0])
    original = kind.forward

    @functools.wraps(original)
    def changed(self: Any, *inputs: Any, **named: Any) -> Any:
        context, probabilities = original(self, *inputs, **named)
        return context, None if probabilities is None else probabilities * share

    monkeypatch.setattr(kind, "forward", changed)
    with pytest.raises(LibraryError, match="is not its values summed"):
        attention_maps(model, batch_of(family))


def test_attention_that_is_not_returned_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    family = BY_TYPE["mpnet"]
    model = build(family)
    kind = type(anatomy_of(model).attentions[0])
    original = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, *a, **k: original(self, *a, **k)[:1])
    with pytest.raises(LibraryError, match="does not return its attention"):
        attention_maps(model, batch_of(family))


@pytest.mark.parametrize("name", ["deberta-v2", "nomic_bert"])  # one of each tap
@pytest.mark.parametrize(("layer", "times"), [(2, 0), (1, 0), (1, 2)])
def test_more_or_fewer_attention_calls_than_layers_are_refused(
    name: str, layer: int, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(BY_TYPE[name])
    module = anatomy_of(model).layers[layer]
    original = module.forward

    def run(hidden: Any, *inputs: Any, **named: Any) -> Any:
        found = (hidden, None) if name == "deberta-v2" else hidden
        for _ in range(times):
            found = original(hidden, *inputs, **named)
        return found

    monkeypatch.setattr(module, "forward", run)
    with pytest.raises(TapError, match=r"went through 2 of 3|call [23] .* was not made by layer"):
        attention_maps(model, batch_of(BY_TYPE[name]))


def test_a_model_in_training_mode_is_refused() -> None:
    model = build(BY_TYPE["deberta-v2"])
    with pytest.raises(InputError, match="training mode"), observe(model.train(), lambda *_: None):
        pass


def test_tokens_in_a_cache_are_refused() -> None:
    model = build(BY_TYPE["bloom"])
    first = model(input_ids=torch.tensor([[5, 6, 7]]), use_cache=True)
    name = next(key for key in ("cache", "past_key_values") if key in first)
    with (
        pytest.raises(InputError, match="BloomAttention cannot be observed"),
        observe(model, lambda *_: None),
    ):
        model(input_ids=torch.tensor([[8]]), past_key_values=first[name])


@pytest.mark.parametrize("name", ["deberta-v2", "mpnet"])
def test_importance_of_a_classifier_is_that_of_a_loop_over_examples(name: str) -> None:
    from transformers import AutoModelForSequenceClassification

    config = config_of(BY_TYPE[name])
    config.num_labels = 3
    model = redraw(AutoModelForSequenceClassification.from_config(config))
    batch = batch_of(BY_TYPE[name]) | {"labels": torch.tensor([0, 1, 2, 1])}
    found = head_importance(model, [batch])
    slow = torch.zeros(3, 4)
    for i, n in enumerate(batch["attention_mask"].sum(dim=1).tolist()):
        gates = torch.ones(3, 4, requires_grad=True)
        with gated(model, gates):
            loss = model(input_ids=batch["input_ids"][i : i + 1, :n], labels=batch["labels"][i : i + 1]).loss
        slow += torch.autograd.grad(loss, gates)[0].abs() / 4
    np.testing.assert_allclose(found.heads, slow.numpy(), rtol=2e-3, atol=2e-6)
    assert slow.min() > 0


@pytest.mark.parametrize("shared", [True, False])
def test_debertas_projections_of_positions_are_cut_with_its_heads(shared: bool) -> None:
    """DeBERTa-v3 uses those of queries and keys for positions too; v2 has some of their own."""
    from transformers import AutoModel

    from models import Subnetwork

    family = BY_TYPE["deberta-v2"]
    config = config_of(family)
    config.share_att_key = shared
    model, batch = redraw(AutoModel.from_config(config)), batch_of(family)
    heads = np.array([[1, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]], dtype=bool)
    subnetwork = Subnetwork(heads, np.array([True, False, True]))
    small = compact(model, subnetwork)
    assert [len(modules) for modules in anatomy_of(model).by_head] == [0 if shared else 2] * 3
    assert isinstance(anatomy_of(small).attentions[1], WithoutHeads)
    with gated(model, subnetwork.heads, subnetwork.mlps):
        expected = hidden(model, batch)
    torch.testing.assert_close(hidden(small, batch), expected, rtol=1e-4, atol=1e-5)
