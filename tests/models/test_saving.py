"""A folder gives back exactly the model that was saved, compacted or not, or one sentence on what is wrong."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models import (
    InputError,
    Subnetwork,
    UnsupportedModelError,
    anatomy_of,
    compact,
    kept_of,
    load,
    load_checkpoint,
    save,
)
from models.common.outputs import MARKER
from models.saving import COMPACTED, WHOLE, read_model

IDS = torch.tensor([[5, 6, 7, 8]])


def smaller(model: Any) -> Any:
    """Without any head in layer 0, one in layer 1, and without the last MLP."""
    anatomy = anatomy_of(model)
    heads = np.ones((anatomy.n_layers, anatomy.n_heads), dtype=bool)
    heads[0], heads[1, 2] = False, False
    return compact(model, Subnetwork(heads, np.arange(anatomy.n_layers) < anatomy.n_layers - 1), unshare=True)


def with_head(tiny: Any) -> Any:
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)
    config = copy.deepcopy(tiny.config)
    config.num_labels = 3
    return AutoModelForSequenceClassification.from_config(config).eval()


def outputs(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS)[0]


def check_same(found: Any, model: Any) -> None:
    assert type(found) is type(model)
    assert not found.training
    one, other = found.state_dict(), model.state_dict()
    assert list(one) == list(other)
    assert all(torch.equal(one[name], other[name].float()) for name in other)
    assert kept_of(found) == kept_of(model)


class TestRoundTrip:
    def test_every_family_compacted_or_not_with_or_without_head(self, tiny: Any, tmp_path: Path) -> None:
        for number, whole in enumerate((tiny.build(), with_head(tiny))):
            for name, model in (("whole", whole), ("compacted", smaller(whole))):
                folder = tmp_path / f"{name}-{number}"
                save(model, folder)
                weights = WHOLE if name == "whole" else COMPACTED
                assert sorted(path.name for path in folder.iterdir()) == [MARKER, "config.json", weights]
                found = load(folder)
                check_same(found, model)
                assert torch.equal(outputs(found), outputs(model))

    def test_the_library_reads_a_whole_model_and_refuses_a_compacted_one(
        self, tiny: Any, tmp_path: Path
    ) -> None:
        model = with_head(tiny)
        save(model, tmp_path / "whole")
        check_same(type(model).from_pretrained(tmp_path / "whole").eval(), model)
        save(smaller(model), tmp_path / "compacted")
        with pytest.raises(OSError, match="no file named"):
            type(model).from_pretrained(tmp_path / "compacted")

    @pytest.mark.parametrize("keep", ["ragged", "same number in each layer", "no heads", "no MLPs"])
    def test_a_plain_copy_gives_the_same_outputs_in_the_library_itself(
        self, tiny: Any, keep: str, tmp_path: Path
    ) -> None:
        from transformers import AutoModel, AutoModelForSequenceClassification

        whole = with_head(tiny)
        with torch.no_grad():  # biases that are 0 would hide what is left of them
            for name, parameter in whole.named_parameters():
                if name.endswith("bias"):
                    parameter.normal_(generator=torch.Generator().manual_seed(3))
        anatomy = anatomy_of(whole)
        heads = np.ones((anatomy.n_layers, anatomy.n_heads), dtype=bool)
        mlps = np.ones(anatomy.n_layers, dtype=bool)
        if keep == "ragged":
            heads[0], heads[1, 2], mlps[1] = False, False, False
        elif keep == "same number in each layer":
            heads[:, 1] = False
        elif keep == "no heads":
            heads[:] = False
        else:
            mlps[:] = False
        model = compact(whole, Subnetwork(heads, mlps), unshare=True)
        save(model, tmp_path / "m", plain=True)
        found, told = AutoModelForSequenceClassification.from_pretrained(
            tmp_path / "m", output_loading_info=True
        )
        assert type(found) is type(model)
        assert not any(told.values()), told
        torch.testing.assert_close(outputs(found.eval()), outputs(model), rtol=0, atol=1e-5)
        base = AutoModel.from_pretrained(tmp_path / "m").eval()
        torch.testing.assert_close(
            outputs(base), outputs(getattr(model, model.base_model_prefix)), rtol=0, atol=1e-5
        )
        check_same(load(tmp_path / "m"), model)  # the small one, for headscope
        assert torch.equal(outputs(load(tmp_path / "m")), outputs(model))

    def test_a_plain_copy_that_was_trained_is_not_taken_for_the_compacted_model(
        self, all_tiny: Any, tmp_path: Path
    ) -> None:
        from transformers import AutoModelForSequenceClassification

        save(smaller(with_head(all_tiny["bert"])), tmp_path / "m", plain=True)
        plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "m")
        plain.save_pretrained(tmp_path / "m")
        with pytest.raises(InputError, match=r"holds two models.*model\.safetensors was written by another"):
            load(tmp_path / "m")

    def test_what_has_no_plain_copy_is_refused_by_the_library(self, all_tiny: Any, tmp_path: Path) -> None:
        """Two query heads shared keys and values, and were trained apart from each other."""
        from transformers import AutoModelForSequenceClassification

        whole = with_head(all_tiny["llama"])
        heads = np.ones((3, 4), dtype=bool)
        heads[0, 3] = False  # heads 0 and 1 get keys of their own
        model = compact(whole, Subnetwork(heads, np.ones(3, dtype=bool)))
        with torch.no_grad():
            anatomy_of(model).projections[0][1].weight[0] += 1
        save(model, tmp_path / "m", plain=True)
        assert not (tmp_path / "m" / WHOLE).exists()
        with pytest.raises(OSError, match="no file named"):
            AutoModelForSequenceClassification.from_pretrained(tmp_path / "m")
        check_same(load(tmp_path / "m"), model)

    def test_what_the_library_wrote_of_a_compacted_model_is_read(self, tiny: Any, tmp_path: Path) -> None:
        """As the Trainer does; the library itself cannot read it back."""
        model = smaller(with_head(tiny))
        model.save_pretrained(tmp_path)
        check_same(load(tmp_path), model)
        with pytest.raises(RuntimeError, match=r"size mismatch|mismatched"):
            type(model).from_pretrained(tmp_path)

    def test_tied_weights_are_saved_once_and_stay_tied(self, all_tiny: Any, tmp_path: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

        for auto, name in ((AutoModelForCausalLM, "gpt2"), (AutoModelForMaskedLM, "bert")):
            config = copy.deepcopy(all_tiny[name].config)
            config.tie_word_embeddings = True
            model = smaller(auto.from_config(config)).eval()
            save(model, tmp_path / name)
            found = load(tmp_path / name)
            check_same(found, model)
            assert found.get_output_embeddings().weight is found.get_input_embeddings().weight
            assert len(load_file(tmp_path / name / COMPACTED)) < len(model.state_dict())

    def test_a_model_without_pooler_stays_without(self, all_tiny: Any, tmp_path: Path) -> None:
        from transformers import BertModel

        model = BertModel(copy.deepcopy(all_tiny["bert"].config), add_pooling_layer=False).eval()
        save(model, tmp_path / "m")
        check_same(load(tmp_path / "m"), model)

    def test_half_precision_comes_back_as_float32(self, tiny_bert: Any, tmp_path: Path) -> None:
        model = smaller(tiny_bert.bfloat16())
        save(model, tmp_path / "m")
        assert {tensor.dtype for tensor in load_file(tmp_path / "m" / COMPACTED).values()} == {torch.bfloat16}
        found = load(tmp_path / "m")
        assert found.dtype == torch.float32
        check_same(found, model)

    def test_compacting_goes_on_after_loading(self, tiny_bert: Any, tmp_path: Path) -> None:
        small = smaller(tiny_bert)
        save(small, tmp_path / "m")
        less = Subnetwork.full(small) & Subnetwork(np.eye(3, 4, dtype=bool), np.zeros(3, dtype=bool))
        assert torch.equal(outputs(compact(load(tmp_path / "m"), less)), outputs(compact(small, less)))


class TestOtherHeads:
    def test_a_head_is_dropped_kept_or_new(self, tiny: Any, tmp_path: Path) -> None:
        from transformers import AutoModel, AutoModelForSequenceClassification

        model = smaller(with_head(tiny))
        save(model, tmp_path / "head")
        same, new = read_model(tmp_path / "head", AutoModelForSequenceClassification)
        check_same(same, model)
        assert new == []
        base, new = read_model(tmp_path / "head", AutoModel)
        assert torch.equal(outputs(base), outputs(getattr(model, model.base_model_prefix)))

        save(base, tmp_path / "base")
        other, new = read_model(tmp_path / "base", AutoModelForSequenceClassification, num_labels=5)
        assert outputs(other).shape == (1, 5)
        assert torch.equal(outputs(getattr(other, other.base_model_prefix)), outputs(base))
        assert new
        assert all(torch.isfinite(other.state_dict()[name]).all() for name in new)
        wider, new = read_model(tmp_path / "head", AutoModelForSequenceClassification, num_labels=5)
        assert outputs(wider).shape == (1, 5)
        assert new

    def test_a_compacted_folder_is_a_model_to_study(self, minilm: Any, tmp_path: Path) -> None:
        small = smaller(minilm.model)
        save(small, tmp_path / "m", tokenizer=minilm.tokenizer)
        found = load_checkpoint(str(tmp_path / "m"))
        check_same(found.model, small)
        assert found.tokenizer("sea salt")["input_ids"] == minilm.tokenizer("sea salt")["input_ids"]
        assert found.sha256
        assert found.sha256 != minilm.sha256


@pytest.fixture
def folder(tiny_bert: Any, tmp_path: Path) -> Path:
    save(smaller(tiny_bert), tmp_path / "m")
    return tmp_path / "m"


def reconfigure(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def reweigh(folder: Path, change: Any) -> None:
    weights = load_file(folder / COMPACTED)
    change(weights)
    save_file(weights, folder / COMPACTED)


OUTPUT = "encoder.layer.1.attention.output.dense.weight"
DAMAGE: dict[str, tuple[Any, str]] = {
    "no folder": (shutil.rmtree, "is not a folder; give one that models.save wrote"),
    "no config": (lambda f: (f / "config.json").unlink(), "does not exist; it should be the configuration"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "cannot be read as the configuration"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "it has no model_type"),
    "no number": (lambda f: reconfigure(f, hidden_size="many"), "is not the configuration of a model"),
    "odd heads": (
        lambda f: reconfigure(f, num_attention_heads=5),
        "holds no model that can be built: The hidden size .24. is not a multiple",
    ),
    "no class": (lambda f: reconfigure(f, architectures=None), "names nothing, not a bert model's class"),
    "odd class": (lambda f: reconfigure(f, architectures=["pipeline"]), "names pipeline, not a bert model"),
    "other class": (lambda f: reconfigure(f, architectures=["GPT2Model"]), "names GPT2Model, not a bert"),
    "odd structure": (lambda f: reconfigure(f, headscope=[]), "describes no compacted model: 'headscope' in"),
    "fewer layers": (
        lambda f: reconfigure(f, headscope={"heads": [[0]], "mlps": [True]}),
        "describes no compacted model: .*1 x 4 heads, but the model has 3 x 4",
    ),
    "other heads": (
        lambda f: reconfigure(f, headscope={"heads": [[], [0], [0]], "mlps": [True, True, False]}),
        r"attention.* has the shape \[.*\], but the config asks for \[",
    ),
    "no weights": (
        lambda f: (f / COMPACTED).unlink(),
        "has no weights: there is no model.safetensors or",
    ),
    "empty": (
        lambda f: (f / COMPACTED).write_bytes(b""),
        "headscope.safetensors is not a readable safetensors file",
    ),
    "truncated": (
        lambda f: (f / COMPACTED).write_bytes((f / COMPACTED).read_bytes()[:-9]),
        "headscope.safetensors is not a readable safetensors file",
    ),
    "a pickle": (lambda f: torch.save({"a": 1}, f / COMPACTED), "is not a readable safetensors file"),
    "lacking": (
        lambda f: reweigh(f, lambda w: w.pop(OUTPUT)),
        f"lacks 1 of the model's weights, e.g. {OUTPUT}",
    ),
    "foreign": (lambda f: reweigh(f, lambda w: w.update(x=torch.ones(1))), "holds 1 weights .* e.g. x"),
    "misshapen": (
        lambda f: reweigh(f, lambda w: w.update({OUTPUT: w[OUTPUT].T.contiguous()})),
        rf"{OUTPUT} has the shape \[18, 24\], but the config asks for \[24, 18\]",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_refused_with_one_sentence(folder: Path, damage: str) -> None:
    change, match = DAMAGE[damage]
    change(folder)
    with pytest.raises(InputError, match=match) as error:
        load(folder)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_weights_of_a_whole_model_do_not_pass_for_a_compacted_ones(folder: Path, tiny_bert: Any) -> None:
    (folder / COMPACTED).unlink()
    tiny_bert.save_pretrained(folder.parent / "whole")
    shutil.copy(folder.parent / "whole" / WHOLE, folder / WHOLE)
    with pytest.raises(InputError, match=r"weights that are none of the model's|has the shape"):
        load(folder)


def test_an_unsupported_family_is_refused(folder: Path) -> None:
    reconfigure(folder, model_type="deberta")
    with pytest.raises(UnsupportedModelError, match="'deberta'"):
        load(folder)


def test_a_compacted_models_damage_is_told_by_the_checkpoint_loader_too(folder: Path) -> None:
    (folder / COMPACTED).write_bytes(b"")
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_checkpoint(str(folder))


def test_an_earlier_model_is_replaced_only_if_told_so(folder: Path, tiny_bert: Any) -> None:
    with pytest.raises(InputError, match="is not empty"):
        save(tiny_bert, folder)
    assert kept_of(load(folder)) is not None
    save(tiny_bert, folder, overwrite=True)
    assert sorted(path.name for path in folder.iterdir()) == [MARKER, "config.json", WHOLE]
    (folder / MARKER).unlink()
    with pytest.raises(InputError, match=r"is no earlier output of models\.save"):
        save(tiny_bert, folder, overwrite=True)


def test_nothing_is_left_of_a_failure(
    tiny_bert: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safetensors.torch.save_file", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(tiny_bert, tmp_path / "deep" / "m")
    assert list(tmp_path.iterdir()) == []


def test_parametrised_weights_are_refused(tiny_bert: Any, tmp_path: Path) -> None:
    torch.nn.utils.parametrizations.weight_norm(tiny_bert.encoder.layer[0].intermediate.dense)
    with pytest.raises(InputError, match="remove_parametrizations"):
        save(tiny_bert, tmp_path / "m")
