"""Importance equals a loop over single examples, in every family, and leaves no trace."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import InputError, Subnetwork, anatomy_of, compact, gated
from pruning import head_importance

LENGTHS = (9, 4, 7, 5, 6)


def classifier_of(tiny: Any, num_labels: int = 3) -> Any:
    """A tiny model of the family with a classification head, every parameter redrawn."""
    import copy

    from transformers import AutoModelForSequenceClassification

    config = copy.deepcopy(tiny.config)
    config.num_labels = num_labels
    if config.pad_token_id is None:
        config.pad_token_id = 0
    model = AutoModelForSequenceClassification.from_config(config)
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
            parameter.copy_(centre + torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def examples(num_labels: int = 3) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(5)
    ids = [torch.randint(5, 60, (n,), generator=generator) for n in LENGTHS]
    labels = [torch.tensor(i % num_labels) for i in range(len(ids))]
    return [{"input_ids": i, "labels": label} for i, label in zip(ids, labels, strict=True)]


def batched(rows: list[dict[str, torch.Tensor]], size: int) -> list[dict[str, torch.Tensor]]:
    found = []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        ids = torch.nn.utils.rnn.pad_sequence([r["input_ids"] for r in part], batch_first=True)
        lengths = torch.tensor([len(r["input_ids"]) for r in part])
        found.append(
            {
                "input_ids": ids,
                "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long(),
                "labels": torch.stack([r["labels"] for r in part]),
            }
        )
    return found


def slow_importance(model: Any, rows: list[dict[str, torch.Tensor]]) -> tuple[np.ndarray, np.ndarray, float]:
    """One example and one pass at a time, with the library's own loss."""
    anatomy = anatomy_of(model)
    heads = np.zeros((anatomy.n_layers, anatomy.n_heads))
    mlps = np.zeros(anatomy.n_layers)
    loss = 0.0
    for row in rows:
        a = torch.ones(heads.shape, requires_grad=True)
        b = torch.ones(mlps.shape, requires_grad=True)
        with gated(model, a, b):
            out = model(input_ids=row["input_ids"][None], labels=row["labels"][None])
        one, other = torch.autograd.grad(out.loss, (a, b))
        heads += one.abs().numpy() / len(rows)
        mlps += other.abs().numpy() / len(rows)
        loss += float(out.loss.detach()) / len(rows)
    return heads, mlps, loss


def test_importance_equals_a_loop_over_single_examples_in_every_family(tiny: Any) -> None:
    model = classifier_of(tiny)
    heads, mlps, loss = slow_importance(model, examples())
    found = head_importance(model, batched(examples(), 3))
    np.testing.assert_allclose(found.heads, heads, rtol=2e-3, atol=2e-6)
    np.testing.assert_allclose(found.mlps, mlps, rtol=2e-3, atol=2e-6)
    assert found.loss == pytest.approx(loss, rel=1e-4)
    assert found.examples == len(LENGTHS)
    assert heads.min() > 0  # so that the comparison says something
    assert not any(p.grad is not None for p in model.parameters())
    assert all(p.requires_grad for p in model.parameters())


def test_the_gradient_is_that_of_the_loss_by_finite_differences(all_tiny: Any) -> None:
    model = classifier_of(all_tiny["bert"]).double()
    rows, step = examples()[:1], 1e-4
    found = head_importance(model, batched(rows, 1))

    def loss(gates: torch.Tensor) -> float:
        with torch.no_grad(), gated(model, gates):
            return float(model(input_ids=rows[0]["input_ids"][None], labels=rows[0]["labels"][None]).loss)

    for layer, head in ((0, 1), (1, 3), (2, 0)):
        low, high = torch.ones(3, 4, dtype=torch.float64), torch.ones(3, 4, dtype=torch.float64)
        low[layer, head] -= step
        middle = loss(high)
        slope = (middle - loss(low)) / step
        assert found.heads[layer, head] == pytest.approx(abs(slope), rel=1e-2)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_batch_size_changes_nothing(all_tiny: Any, size: int) -> None:
    model = classifier_of(all_tiny["bert"])
    one, other = (head_importance(model, batched(examples(), n)) for n in (size, 3))
    np.testing.assert_allclose(one.heads, other.heads, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(one.mlps, other.mlps, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(one.logits, other.logits, rtol=1e-4, atol=1e-5)


def test_the_logits_of_the_same_pass_are_the_models_own(all_tiny: Any) -> None:
    model = classifier_of(all_tiny["bert"])
    batch = batched(examples(), 5)[0]
    with torch.no_grad():
        expected = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    np.testing.assert_allclose(head_importance(model, [batch]).logits, expected.numpy(), rtol=1e-5, atol=1e-6)


def test_one_output_is_a_regression(all_tiny: Any) -> None:
    model = classifier_of(all_tiny["bert"], num_labels=1)
    rows = [{**row, "labels": torch.tensor(float(i))} for i, row in enumerate(examples())]
    heads, _, loss = slow_importance(model, rows)
    found = head_importance(model, batched(rows, 2))
    np.testing.assert_allclose(found.heads, heads, rtol=2e-3, atol=1e-5)
    assert found.loss == pytest.approx(loss, rel=1e-4)


@given(st.integers(0, 2**12 - 1), st.integers(0, 7))
@settings(max_examples=15, deadline=None)
def test_a_compacted_model_and_one_gated_to_zero_have_the_same_importances(
    all_tiny: Any, heads: int, mlps: int
) -> None:
    model = classifier_of(all_tiny["bert"])
    kept = Subnetwork(
        np.array([heads >> i & 1 for i in range(12)], dtype=bool).reshape(3, 4),
        np.array([mlps >> i & 1 for i in range(3)], dtype=bool),
    )
    batches = batched(examples(), 5)
    masked = head_importance(model, batches, subnetwork=kept)
    smaller = head_importance(compact(model, kept), batches)
    np.testing.assert_allclose(masked.logits, smaller.logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(masked.of(kept).heads, smaller.heads, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(masked.of(kept).mlps, smaller.mlps, rtol=1e-3, atol=1e-6)
    assert np.isfinite(masked.heads).all()  # what is gated to zero has its gradient all the same


def test_as_released_sums_absolute_running_sums_of_batch_means(all_tiny: Any) -> None:
    model = classifier_of(all_tiny["bert"])
    batches = batched(examples(), 2)
    running, total = torch.zeros(3, 4), torch.zeros(3, 4)
    for batch in batches:  # the mask's gradient is never zeroed between batches
        gates = torch.ones(3, 4, requires_grad=True)
        with gated(model, gates):
            model(**batch).loss.backward()
        running += gates.grad
        total += running.abs()
    found = head_importance(model, batches, protocol="as-released")
    np.testing.assert_allclose(found.heads, total.numpy(), rtol=1e-3, atol=1e-6)
    corrected = head_importance(model, batches)
    assert not np.allclose(corrected.heads * len(batches), total.numpy(), rtol=1e-2)


def test_normalising_divides_each_layer_by_its_norm_and_scales_to_one() -> None:
    from pruning import Importance

    heads = np.array([[3.0, 4.0], [0.5, np.nan]])
    found = Importance(heads, np.array([2.0, 6.0]), 1, 0.0, np.zeros((1, 2), np.float32)).normalized()
    np.testing.assert_allclose(found.heads, [[0.0, 0.5], [1.0, np.nan]])
    np.testing.assert_allclose(found.mlps, [0.0, 1.0])
    alike = Importance(np.ones((2, 2)), np.ones(2), 1, 0.0, np.zeros((1, 2), np.float32)).normalized()
    assert (alike.heads == 0).all()
    assert (alike.mlps == 0).all()


def test_normalised_scores_have_the_published_identity(all_tiny: Any) -> None:
    """Before they are scaled, the squares of each layer's scores sum to 1."""
    found = head_importance(classifier_of(all_tiny["bert"]), batched(examples(), 5))
    layers = found.heads / np.linalg.norm(found.heads, axis=1, keepdims=True)
    expected = (layers - layers.min()) / (layers.max() - layers.min())
    np.testing.assert_allclose(found.normalized().heads, expected, rtol=1e-9)


def test_weights_that_asked_for_no_gradients_still_ask_for_none(all_tiny: Any) -> None:
    model = classifier_of(all_tiny["bert"])
    frozen = next(iter(model.parameters()))
    frozen.requires_grad_(False)
    with pytest.raises(InputError):
        head_importance(model, [{"input_ids": torch.ones(1, 4, dtype=torch.long)}])
    head_importance(model, batched(examples(), 5))
    assert [p.requires_grad for p in model.parameters()].count(False) == 1


def test_bad_input_is_named(all_tiny: Any, tiny_bert: Any) -> None:
    model, batches = classifier_of(all_tiny["bert"]), batched(examples(), 5)
    with pytest.raises(InputError, match="classification head"):
        head_importance(tiny_bert, batches)
    with pytest.raises(InputError, match="labels"):
        head_importance(model, [{k: v for k, v in batches[0].items() if k != "labels"}])
    with pytest.raises(InputError, match="at least one example"):
        head_importance(model, [])
    with pytest.raises(InputError, match="protocol"):
        head_importance(model, batches, protocol="released")
    with pytest.raises(InputError, match=r"\(2, 4\) heads"):
        head_importance(model, batches, subnetwork=Subnetwork(np.ones((2, 4), bool), np.ones(2, bool)))
    with pytest.raises(InputError, match="training mode"):
        head_importance(model.train(), batches)
    model.eval()
    with torch.no_grad():
        model.classifier.bias.fill_(float("nan"))
    with pytest.raises(InputError, match="not finite"):
        head_importance(model, batches)
