"""A closed head's output is what is said of it: against weights set by hand, two-sided and causal."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import redraw

from models import InputError
from models.checkpoints import load_checkpoint
from models.evaluation import Examples, predict
from models.gating import head_outputs
from models.tasks.inputs import Encoded
from models.tasks.task import task_named
from pruning.ablation.closing import WAYS, Closing, _aligned, _derangement

FAMILIES = {  # the path of the output projection of layer {i}, written out by hand
    "bert": "bert.encoder.layer.{i}.attention.output.dense",
    "gpt2": "transformer.h.{i}.attn.c_proj",
    "llama": "model.layers.{i}.self_attn.o_proj",
}
LENGTHS = (7, 5, 9, 6, 9, 4)


def headed(tiny: Any) -> Any:
    from transformers import AutoModelForSequenceClassification

    config = copy.deepcopy(tiny.config)
    config.num_labels, config.pad_token_id = 2, 0
    return redraw(AutoModelForSequenceClassification.from_config(config))


def examples_for(lengths: tuple[int, ...] = LENGTHS) -> Examples:
    generator = torch.Generator().manual_seed(3)
    encoded = [
        Encoded(torch.randint(5, 50, (n,), generator=generator).tolist(), None, (n - 1,), False)
        for n in lengths
    ]
    return Examples(task_named("sst2"), encoded, np.arange(len(lengths)) % 2, (0, 1), 0)


@pytest.fixture(params=FAMILIES)
def family(request: Any, all_tiny: Any) -> tuple[Any, str]:
    return headed(all_tiny[request.param]), FAMILIES[request.param]


def rewritten(model: Any, path: str, layer: int, head: int, value: torch.Tensor | None) -> Any:
    """The model with a head's columns of W_O set to zero, and what `value` would have added put into the bias."""
    changed = copy.deepcopy(model)
    module = changed.get_submodule(path.format(i=layer))
    weight = module.weight.data if isinstance(module, torch.nn.Linear) else module.weight.data.T
    width = weight.shape[1] // 4
    columns = slice(head * width, (head + 1) * width)
    if value is not None:
        added = weight[:, columns] @ value
        bias = torch.zeros(weight.shape[0]) if module.bias is None else module.bias.data
        module.bias = torch.nn.Parameter(bias + added)
    weight[:, columns] = 0
    return changed


def sets_of(*heads: tuple[int, int]) -> np.ndarray:
    found = np.zeros((len(heads), 3, 4), dtype=bool)
    for number, (layer, head) in enumerate(heads):
        found[number, layer, head] = True
    return found


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_zero_is_a_head_whose_columns_of_the_projection_are_zero(family: Any, batch_size: int) -> None:
    model, path = family
    examples = examples_for()
    places = [(0, 1), (1, 2), (2, 0)]
    answers = Closing(model, examples, "zero", batch_size).answers(sets_of(*places))
    for place, found in zip(places, answers, strict=True):
        wanted = predict(rewritten(model, path, *place, None), examples)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
        assert np.abs(found - predict(model, examples)).max() > 1e-3


def test_mean_is_that_of_all_real_tokens_of_all_inputs(family: Any) -> None:
    model, path = family
    examples = examples_for()
    rows: dict[int, list[torch.Tensor]] = {}
    for one in examples.encoded:  # one by one, so that there is no padding
        with torch.no_grad(), head_outputs(model, lambda layer, z: rows.setdefault(layer, []).append(z[0])):
            model(input_ids=torch.tensor([one.input_ids]))
    places = [(0, 1), (1, 3), (2, 0)]
    answers = Closing(model, examples, "mean", 4).answers(sets_of(*places))
    for (layer, head), found in zip(places, answers, strict=True):
        whole = torch.cat(rows[layer])
        assert len(whole) == sum(LENGTHS)
        width = whole.shape[1] // 4
        mean = whole[:, head * width : (head + 1) * width].mean(dim=0)
        wanted = predict(rewritten(model, path, layer, head, mean), examples)
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)


def test_resampled_outputs_are_those_of_another_input_of_the_same_length(family: Any) -> None:
    """With all heads of the first layer closed, what its attention adds is the other input's: by a hook of our own."""
    model, path = family
    examples = examples_for((6, 6, 6, 6))
    closed = np.zeros((1, 3, 4), dtype=bool)
    closed[0, 0] = True
    (found,) = Closing(model, examples, "resample", 3, seed=5).answers(closed)
    donors = _derangement(4, np.random.default_rng([5, 4]))
    module = model.get_submodule(path.format(i=0))
    added: list[torch.Tensor] = []
    for one in examples.encoded:
        hook = module.register_forward_hook(lambda _, __, output: added.append(output.detach().clone()))
        with torch.no_grad():
            model(input_ids=torch.tensor([one.input_ids]))
        hook.remove()
    for i, one in enumerate(examples.encoded):
        assert donors[i] != i
        hook = module.register_forward_hook(lambda _, __, ___, donor=donors[i]: added[donor])
        with torch.no_grad():
            wanted = model(input_ids=torch.tensor([one.input_ids])).logits[0]
        hook.remove()
        np.testing.assert_allclose(found[i], wanted.numpy(), rtol=1e-4, atol=1e-5)


def test_tokens_of_inputs_of_other_lengths_stand_for_each_other_in_proportion() -> None:
    places = _aligned(torch.tensor([5, 3, 1]), torch.tensor([3, 5, 4]), 5)
    assert places[0].tolist() == [0, 0, 1, 2, 2]  # .5 and 1.5 go to the even neighbour
    assert places[1, :3].tolist() == [0, 2, 4]
    assert places[2, 0].item() == 0
    assert int(places[1].max()) <= 4


def test_every_input_gets_those_of_another_and_gives_its_own_once() -> None:
    for number in (2, 3, 10):
        found = _derangement(number, np.random.default_rng(number))
        assert sorted(found) == list(range(number))
        assert (found != np.arange(number)).all()


@pytest.mark.parametrize("how", WAYS)
def test_nothing_closed_is_the_model_itself_whatever_the_batch(how: str, all_tiny: Any) -> None:
    model, examples = headed(all_tiny["bert"]), examples_for()
    several = np.zeros((5, 3, 4), dtype=bool)
    several[3, 1] = True
    wanted = predict(model, examples)
    for batch_size in (1, 2, 7, 100):
        found = Closing(model, examples, how, batch_size).answers(several)
        for place in (0, 1, 2, 4):
            np.testing.assert_allclose(found[place], wanted, rtol=1e-4, atol=1e-5)
        if batch_size == 1:
            closed = found[3]
        np.testing.assert_allclose(found[3], closed, rtol=1e-4, atol=1e-5)
    assert np.abs(closed - wanted).max() > 1e-3


def test_what_is_no_way_is_refused(tuned: Path, all_tiny: Any) -> None:
    model = headed(all_tiny["bert"])
    with pytest.raises(InputError, match="--how nothing: give one of zero, mean, resample"):
        Closing(model, examples_for(), "nothing")
    with pytest.raises(InputError, match="--how resample takes outputs from another input"):
        Closing(model, examples_for((5,)), "resample")
    with pytest.raises(InputError, match="sets have"):
        Closing(model, examples_for(), "zero").answers(np.zeros((1, 2, 4), dtype=bool))
    assert load_checkpoint(str(tuned / "model")).model.config.num_hidden_layers == 3
