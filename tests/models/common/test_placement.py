"""Models whose weights are elsewhere, or are no plain numbers, are seen as they are, or refused in a sentence."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models import InputError, Subnetwork, UnsupportedModelError, compact, gated, observe, save
from models.anatomy import anatomy_of
from models.common.placement import home_of, is_placed, numbers_of
from models.weights import prunable_weights
from patterns import attention_maps, redrawn
from pruning import head_importance

CPU = torch.device("cpu")


def to_memory(model: Any, _: Path) -> None:
    from accelerate import cpu_offload

    cpu_offload(model, execution_device=CPU)


def to_disk(model: Any, folder: Path) -> None:
    from accelerate import disk_offload

    disk_offload(model, str(folder), execution_device=CPU)


def to_both(model: Any, folder: Path) -> None:
    """The last layer on the disk."""
    from accelerate import dispatch_model

    path = anatomy_of(model).family.layers
    parts = {f"{path}.{i}": where for i, where in enumerate(("cpu", "cpu", "disk"))}
    holder = path.rpartition(".")[0]
    parts |= {name: "cpu" for name, _ in model.named_children() if name not in (path, holder)}
    parts |= {
        f"{holder}.{name}": "cpu"
        for name, _ in (model.get_submodule(holder).named_children() if holder else ())
        if f"{holder}.{name}" != path
    }
    dispatch_model(model, parts, main_device="cpu", offload_dir=str(folder), force_hooks=True)


WAYS: dict[str, Callable[[Any, Path], None]] = {"memory": to_memory, "disk": to_disk, "both": to_both}


@pytest.fixture(params=WAYS)
def offload(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Any], Any]:
    def offloaded(model: Any) -> Any:
        WAYS[request.param](model, tmp_path / "weights")
        assert is_placed(model)
        assert any(parameter.is_meta for parameter in model.parameters())
        return model

    return offloaded


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "modernbert"])
def test_maps_of_an_offloaded_model_are_those_of_the_same_model_in_one_place(
    all_tiny: Any, ragged_batch: Any, offload: Any, name: str
) -> None:
    right = attention_maps(all_tiny[name].build(), ragged_batch)
    model = offload(all_tiny[name].build())
    assert home_of(model) == CPU
    found = attention_maps(model, ragged_batch)
    assert len(found) == len(right) == 6
    for (layer, kind, maps, _), (_, _, expected, _) in zip(found, right, strict=True):
        torch.testing.assert_close(maps, expected, rtol=1e-5, atol=1e-6, msg=f"layer {layer}, {kind}")
    assert any(parameter.is_meta for parameter in model.parameters())  # nothing stays fetched


def test_an_offloaded_model_is_watched_in_blocks_and_gated(
    all_tiny: Any, ragged_batch: Any, offload: Any, in_blocks: Any
) -> None:
    gates = torch.rand(3, 4, generator=torch.Generator().manual_seed(1))

    def hidden(model: Any) -> torch.Tensor:
        with torch.no_grad(), gated(model, heads=gates), observe(model, lambda *_: None, layers=[1]):
            return model(**ragged_batch).last_hidden_state

    right = hidden(all_tiny["llama"].build())
    in_blocks(5)
    torch.testing.assert_close(hidden(offload(all_tiny["llama"].build())), right, rtol=1e-4, atol=1e-4)


def test_what_changes_copies_or_writes_weights_refuses_an_offloaded_model(
    all_tiny: Any, offload: Any, tmp_path: Path
) -> None:
    model = offload(all_tiny["bert"].build())
    refused = {
        "compact()": lambda: compact(model, Subnetwork.full(model)),
        "save()": lambda: save(model, tmp_path / "out"),
        "Pruning weights": lambda: prunable_weights(model),
        "A control": lambda: redrawn(model),
    }
    for what, call in refused.items():
        with pytest.raises(InputError, match="load it without device_map") as error:
            call()
        assert str(error.value).startswith(what)
    assert not (tmp_path / "out").exists()


def test_a_model_without_weights_is_refused(all_tiny: Any) -> None:
    from transformers import AutoModel

    with torch.device("meta"):
        model = AutoModel.from_config(copy.deepcopy(all_tiny["bert"].config)).eval()
    with pytest.raises(InputError, match="has no weights"):
        home_of(model)


def test_importance_is_measured_where_the_inputs_go(all_tiny: Any, offload: Any, ragged_batch: Any) -> None:
    from transformers import AutoModelForSequenceClassification

    def build() -> Any:
        torch.manual_seed(0)
        return AutoModelForSequenceClassification.from_config(
            copy.deepcopy(all_tiny["distilbert"].config)
        ).eval()

    batch = ragged_batch | {"labels": torch.tensor([0, 1, 0, 1])}
    right = head_importance(build(), [batch]).heads
    model = build()
    to_memory(model, Path())
    torch.testing.assert_close(head_importance(model, [batch]).heads, right)


def quantised(tiny: Any, how: str, folder: Path) -> Any:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    from transformers import AutoModel, BitsAndBytesConfig

    config = copy.deepcopy(tiny.config)
    config.hidden_size, config.intermediate_size = 64, 128  # kernels for 4 bits work on blocks
    if hasattr(config, "head_dim"):
        config.head_dim = 16
    dataclasses.replace(tiny, config=config).build().save_pretrained(folder)
    options: dict[str, Any] = {"4": {"load_in_4bit": True}, "8": {"load_in_8bit": True}}[how]
    try:
        model = AutoModel.from_pretrained(folder, quantization_config=BitsAndBytesConfig(**options)).eval()
        model(input_ids=torch.tensor([[5, 6, 7]]))
    except (RuntimeError, ImportError, NotImplementedError) as error:
        pytest.skip(f"bitsandbytes {bitsandbytes.__version__} does not run here: {error}")
    return model


@pytest.mark.parametrize(("how", "bits"), [("4", 4), ("8", 8)])
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_norm_maps_of_a_quantised_model_are_made_of_the_weights_it_computes_with(
    all_tiny: Any, ragged_batch: Any, tmp_path: Path, name: str, how: str, bits: int
) -> None:
    from transformers import AutoModel

    model = quantised(all_tiny[name], how, tmp_path)
    whole = AutoModel.from_pretrained(tmp_path)
    rounding = {4: 0.2, 8: 0.02}[bits]  # what quantisation changes, in parts of the norm
    for module, plain in zip(anatomy_of(model).outputs, anatomy_of(whole).outputs, strict=True):
        weight = numbers_of(module, torch.float32)
        assert float((weight - plain.weight).norm() / plain.weight.norm()) < rounding
    maps = {(layer, kind): found for layer, kind, found, _ in attention_maps(model, ragged_batch)}
    seen: dict[int, torch.Tensor] = {}
    outputs: list[torch.Tensor] = []
    hooks = [
        module.register_forward_hook(
            lambda module, inputs, output: outputs.append(
                output - module.bias if module.bias is not None else output
            )
        )
        for module in anatomy_of(model).outputs
    ]
    with torch.no_grad(), observe(model, lambda layer, P, V: seen.update({layer: V.float()})):
        model(**ragged_batch)
    for hook in hooks:
        hook.remove()
    for layer, values in seen.items():
        slices = (
            numbers_of(anatomy_of(model).outputs[layer], torch.float32).unflatten(1, (4, -1)).transpose(0, 1)
        )
        moved = torch.einsum("bhjd,hod->bhjo", values, slices)
        expected = maps[layer, "raw"] * moved.norm(dim=-1)[:, :, None]
        torch.testing.assert_close(maps[layer, "norm"], expected, rtol=1e-3, atol=1e-3)
        # And the weighted vectors add up to what the model's own layer puts out.
        total = torch.einsum("bhij,bhjo->bio", maps[layer, "raw"], moved)
        real = ragged_batch["attention_mask"].bool()
        gap = (total - outputs[layer])[real].norm() / outputs[layer][real].norm()
        assert float(gap) < 0.03


def test_a_quantised_model_is_not_cut(all_tiny: Any, tmp_path: Path) -> None:
    model = quantised(all_tiny["bert"], "4", tmp_path)
    half = Subnetwork.full(model).heads.copy()
    half[:, :2] = False
    with pytest.raises(UnsupportedModelError, match="Linear4bit"):
        compact(model, Subnetwork(half, Subnetwork.full(model).mlps))
    with pytest.raises(UnsupportedModelError):
        prunable_weights(model)


def test_layers_that_pytorch_quantises_give_their_numbers(all_tiny: Any, ragged_batch: Any) -> None:
    model = all_tiny["bert"].build()
    if not torch.backends.quantized.supported_engines:
        pytest.skip("PyTorch has no kernels for it here")
    dynamic = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)
    for module, plain in zip(anatomy_of(dynamic).outputs, anatomy_of(model).outputs, strict=True):
        weight = plain.weight.detach()
        assert float((numbers_of(module, torch.float32) - weight).abs().max()) < 0.02 * float(
            weight.abs().max()
        )
    assert len(attention_maps(dynamic, ragged_batch)) == 6


class HQQLinear(nn.Linear):
    """Stands for a layer that is no linear one, whatever it says."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) * (1 + input.square().sum(dim=-1, keepdim=True))


HQQLinear.__module__ = "hqq.core.quantize"


def test_raw_maps_of_a_quantised_model_whose_weights_cannot_be_found_out(
    all_tiny: Any, ragged_batch: Any
) -> None:
    model = all_tiny["bert"].build()
    for layer in model.encoder.layer:
        layer.attention.output.dense = HQQLinear(24, 24)
    assert len(attention_maps(model, ragged_batch, kinds=["raw"])) == 3
    with pytest.raises(
        UnsupportedModelError, match=r"those of a HQQLinear \(hqq.core.quantize\) cannot be found out"
    ):
        attention_maps(model, ragged_batch)
