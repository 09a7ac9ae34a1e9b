"""Loading the model under study, refusing what is not one, and saying where a result comes from."""

from __future__ import annotations

import json
import platform
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from models import InputError, Subnetwork, UnsupportedModelError, compact, load_checkpoint, save
from models.anatomy import supported_families
from models.checkpoints import count_parameters, model_record, pick_device
from models.common.hub import hub_answers
from models.common.provenance import PACKAGES, headscope_version, provenance
from models.tasks.rows import load_rows
from models.tasks.task import task_named

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
WEIGHTS = "model.safetensors"


def linked(source: str | Path, target: Path, without: tuple[str, ...] = ()) -> Path:
    """A copy of a model's folder that costs no room."""
    target.mkdir()
    for path in Path(source).iterdir():
        if path.is_file() and path.name not in without:
            (target / path.name).symlink_to(path)
    return target


def configured(folder: Path, **values: Any) -> Path:
    """Change entries of a linked folder's config; None takes one away."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | values
    path.unlink()
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return folder


def refusal(folder: Path | str, **options: Any) -> str:
    """The one sentence with which loading is refused."""
    with pytest.raises(InputError) as error:
        load_checkpoint(str(folder), **options)
    message = str(error.value)
    assert message.startswith(f"--model {folder}")
    assert message.endswith(".")
    assert "\n" not in message
    return message


@pytest.fixture
def tiny_folder(tmp_path: Path, tiny_bert: Any, minilm_folder: str) -> Path:
    """A tiny BERT of its own with MiniLM's tokenizer."""
    tiny_bert.save_pretrained(tmp_path / "tiny")
    for name in TOKENIZER:
        (tmp_path / "tiny" / name).symlink_to(Path(minilm_folder) / name)
    return tmp_path / "tiny"


@pytest.fixture
def nobody_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


class TestLoading:
    def test_it_is_float32_in_evaluation_mode_and_named(self, minilm: Any, minilm_folder: str) -> None:
        assert {p.dtype for p in minilm.model.parameters()} == {torch.float32}
        assert not minilm.model.training
        assert minilm.name == minilm_folder
        assert minilm.revision is None
        assert minilm.tokenizer("hello")["input_ids"] == [101, 7592, 102]

    def test_half_precision_weights_become_float32(self, tiny_folder: Path) -> None:
        weights = {name: tensor.half() for name, tensor in load_file(tiny_folder / WEIGHTS).items()}
        save_file(weights, tiny_folder / WEIGHTS, metadata={"format": "pt"})
        model = load_checkpoint(str(configured(tiny_folder, dtype="float16"))).model
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert all(torch.equal(tensor, weights[name].float()) for name, tensor in model.state_dict().items())

    @pytest.mark.parametrize(
        ("dtype", "stored", "right"),
        [
            ("bfloat16", "float32", torch.bfloat16),
            ("float16", "bfloat16", torch.float16),
            ("auto", "bfloat16", torch.bfloat16),
            ("auto", "float32", torch.float32),
            ("float32", "bfloat16", torch.float32),
        ],
    )
    @pytest.mark.parametrize("compacted", [False, True])
    def test_weights_have_the_precision_that_was_asked_for(
        self, tiny_folder: Path, tmp_path: Path, dtype: str, stored: str, right: torch.dtype, compacted: bool
    ) -> None:
        whole = load_checkpoint(str(tiny_folder))
        kept = Subnetwork.full(whole.model)
        if compacted:
            heads = kept.heads.copy()
            heads[1, 0] = False
            kept = Subnetwork(heads, kept.mlps)
        folder = tmp_path / "stored"
        save(compact(whole.model, kept).to(getattr(torch, stored)), folder, tokenizer=whole.tokenizer)
        model = load_checkpoint(str(folder), dtype=dtype).model
        assert {parameter.dtype for parameter in model.parameters()} == {right}
        assert Subnetwork.full(model) == kept

    def test_accelerate_places_a_model_where_there_is_room(self, tiny_folder: Path) -> None:
        model = load_checkpoint(str(tiny_folder), device_map="auto").model
        right = load_checkpoint(str(tiny_folder)).model.state_dict()
        assert all(torch.equal(values.cpu(), right[name]) for name, values in model.state_dict().items())

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"dtype": "float64"}, "--dtype float64: give one of float32, bfloat16, float16, auto"),
            ({"device_map": "balanced"}, "--device-map balanced: give auto, or leave it out"),
        ],
    )
    def test_precisions_and_maps_that_there_are_not_are_refused(
        self, tiny_folder: Path, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(InputError, match=message):
            load_checkpoint(str(tiny_folder), **options)

    def test_a_compacted_model_is_not_spread(self, tiny_folder: Path, tmp_path: Path) -> None:
        whole = load_checkpoint(str(tiny_folder))
        heads = Subnetwork.full(whole.model).heads.copy()
        heads[0, 0] = False
        small = compact(whole.model, Subnetwork(heads, Subnetwork.full(whole.model).mlps))
        save(small, tmp_path / "small", tokenizer=whole.tokenizer)
        with pytest.raises(InputError, match="compacted model, read onto one device"):
            load_checkpoint(str(tmp_path / "small"), device_map="auto")

    @pytest.mark.parametrize("head", ["BertForSequenceClassification", "BertForMaskedLM"])
    def test_a_task_head_is_left_out_and_the_rest_is_the_same(
        self, tiny_folder: Path, tiny_bert: Any, tmp_path: Path, head: str
    ) -> None:
        import transformers

        with_head = getattr(transformers, head)(tiny_bert.config)
        with_head.bert.load_state_dict(tiny_bert.state_dict(), strict=False)
        with_head.save_pretrained(tmp_path / "head")
        for name in TOKENIZER:
            (tmp_path / "head" / name).symlink_to(tiny_folder / name)
        loaded, plain = (load_checkpoint(str(folder)).model for folder in (tmp_path / "head", tiny_folder))
        weights = {k: v for k, v in loaded.state_dict().items() if "pooler" not in k}
        assert type(loaded) is type(tiny_bert)
        assert len(weights) > 30
        assert all(torch.equal(weights[name], plain.state_dict()[name]) for name in weights)

    def test_a_folder_asks_nobody(self, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import huggingface_hub

        def ask(*args: Any, **kwargs: Any) -> None:
            raise AssertionError("asked the Hub")

        monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", ask)
        monkeypatch.setattr(huggingface_hub.utils._http, "get_session", ask)
        assert load_checkpoint(str(tiny_folder)).model.config.num_hidden_layers == 3

    def test_the_digest_is_that_of_the_weights(self, tiny_folder: Path, tmp_path: Path) -> None:
        first = load_checkpoint(str(tiny_folder)).sha256
        copy = linked(tiny_folder, tmp_path / "copy", without=("README.md",))
        assert first is not None
        assert load_checkpoint(str(copy)).sha256 == first
        weights = load_file(tiny_folder / WEIGHTS)
        weights["encoder.layer.2.output.dense.bias"][0] += 1e-3
        save_file(weights, tiny_folder / WEIGHTS, metadata={"format": "pt"})
        assert load_checkpoint(str(tiny_folder)).sha256 != first

    def test_the_record_names_the_model_and_counts_its_parameters(self, tiny_folder: Path) -> None:
        checkpoint = load_checkpoint(str(tiny_folder))
        record = model_record(checkpoint)
        assert record["parameters"] == count_parameters(checkpoint.model)
        assert record["parameters"] == sum(t.numel() for t in load_file(tiny_folder / WEIGHTS).values())
        assert record["type"] == "bert"
        assert record["name"] == str(tiny_folder)
        assert json.loads(json.dumps(record)) == record


class TestRefusals:
    def test_a_missing_folder(self, tmp_path: Path) -> None:
        assert "is neither a folder on this machine nor" in refusal(tmp_path / "nope")

    def test_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "model.bin").touch()
        assert "is a file; give the model's folder or its Hub id" in refusal(tmp_path / "model.bin")

    def test_a_folder_without_config(self, tmp_path: Path) -> None:
        assert "is not a model folder: it has no config.json" in refusal(tmp_path)

    @pytest.mark.parametrize("content", ["{nope", "[1]", "", "{}"])
    def test_a_config_that_is_none(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "config.json").write_text(content)
        assert "cannot be loaded: " in refusal(tmp_path)

    @pytest.mark.parametrize(
        "values", [{"hidden_size": "many"}, {"num_attention_heads": 7}, {"vocab_size": -1}], ids=str
    )
    def test_a_config_of_no_model(self, tiny_folder: Path, values: dict[str, Any]) -> None:
        assert len(refusal(configured(tiny_folder, **values))) > len(
            f"--model {tiny_folder} cannot be loaded: ."
        )

    @pytest.mark.parametrize(
        "without", [TOKENIZER, ("tokenizer.json", "vocab.txt")], ids=["none", "vocabulary"]
    )
    def test_a_folder_without_tokenizer_rather_than_one_that_knows_no_word(
        self, tiny_folder: Path, tmp_path: Path, without: tuple[str, ...]
    ) -> None:
        folder = linked(tiny_folder, tmp_path / "without", without)
        assert "has no tokenizer: there is no vocabulary" in refusal(folder)

    @pytest.mark.parametrize(
        "family", ["roberta", "xlm-roberta", "electra", "distilbert", "albert", "gpt2", "llama"]
    )
    def test_no_family_gets_a_tokenizer_out_of_nothing(
        self, tmp_path: Path, all_tiny: Any, family: str
    ) -> None:
        all_tiny[family].build().save_pretrained(tmp_path / family)
        assert "has no tokenizer" in refusal(tmp_path / family)

    @pytest.mark.parametrize("content", ["{broken", "{}", "[]"])
    def test_a_corrupt_tokenizer(self, tiny_folder: Path, tmp_path: Path, content: str) -> None:
        folder = linked(tiny_folder, tmp_path / "corrupt", ("tokenizer.json", "vocab.txt"))
        (folder / "tokenizer.json").write_text(content)
        assert "has no tokenizer" in refusal(folder)

    @pytest.mark.parametrize("share", [0.0, 0.00001, 0.5, 0.999])
    def test_truncated_weights(self, minilm_folder: str, tmp_path: Path, share: float) -> None:
        folder = linked(minilm_folder, tmp_path / "truncated", (WEIGHTS,))
        source = Path(minilm_folder) / WEIGHTS
        with source.open("rb") as file:
            (folder / WEIGHTS).write_bytes(file.read(int(share * source.stat().st_size)))
        assert "truncated or corrupt" in refusal(folder)

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            (b"", "its weights file is truncated or corrupt"),
            (b"garbage" * 99, "its weights file is truncated or corrupt"),
            (b"PK\x03\x04", "cannot be loaded: "),
        ],
    )
    def test_corrupt_weights_of_the_older_kind(
        self, tiny_folder: Path, tmp_path: Path, content: bytes, problem: str
    ) -> None:
        folder = linked(tiny_folder, tmp_path / "corrupt", (WEIGHTS,))
        (folder / "pytorch_model.bin").write_bytes(content)
        assert problem in refusal(folder)

    def test_no_weights(self, tiny_folder: Path, tmp_path: Path) -> None:
        assert "model.safetensors" in refusal(linked(tiny_folder, tmp_path / "empty", (WEIGHTS,)))

    def test_missing_weights_of_one_layer(self, tiny_folder: Path) -> None:
        weights = load_file(tiny_folder / WEIGHTS)
        some = {name: tensor for name, tensor in weights.items() if "layer.1.attention" not in name}
        save_file(some, tiny_folder / WEIGHTS, metadata={"format": "pt"})
        message = refusal(tiny_folder)
        assert f"lacks {len(weights) - len(some)} of the weights that its config asks for" in message
        assert "e.g. encoder.layer.1.attention." in message

    def test_a_config_with_more_layers_than_there_are_weights(self, tiny_folder: Path) -> None:
        assert "e.g. encoder.layer.3." in refusal(configured(tiny_folder, num_hidden_layers=4))

    def test_a_config_with_fewer_layers_than_there_are_weights(self, tiny_folder: Path) -> None:
        message = refusal(configured(tiny_folder, num_hidden_layers=1))
        assert "has weights of layer 2, but its config has 1 layers" in message

    def test_weights_under_a_prefix_that_fits_nothing(self, tiny_folder: Path) -> None:
        weights = {f"my.{name}": tensor for name, tensor in load_file(tiny_folder / WEIGHTS).items()}
        save_file(weights, tiny_folder / WEIGHTS, metadata={"format": "pt"})
        assert f"lacks {len(weights) - 2} of the weights" in refusal(tiny_folder)  # the pooler is not missed

    def test_a_missing_pooler_does_not_matter(self, tiny_folder: Path) -> None:
        weights = {k: v for k, v in load_file(tiny_folder / WEIGHTS).items() if "pooler" not in k}
        save_file(weights, tiny_folder / WEIGHTS, metadata={"format": "pt"})
        assert load_checkpoint(str(tiny_folder)).model.config.num_hidden_layers == 3

    def test_weights_of_another_shape_are_named_with_both_shapes(self, tiny_folder: Path) -> None:
        message = refusal(configured(tiny_folder, vocab_size=50))
        assert message.endswith(
            "embeddings.word_embeddings.weight has the shape [60, 24], but its config asks for [50, 24]."
        )

    @pytest.mark.parametrize("model_type", ["deberta", "fnet", "a-type-from-next-year"])
    def test_an_unsupported_architecture_before_any_weights_are_read(
        self, tiny_folder: Path, tmp_path: Path, model_type: str
    ) -> None:
        folder = configured(linked(tiny_folder, tmp_path / "other", (WEIGHTS,)), model_type=model_type)
        (folder / WEIGHTS).write_bytes(b"nobody may read this")
        with pytest.raises(UnsupportedModelError) as error:
            load_checkpoint(str(folder))
        assert repr(model_type) in str(error.value)
        assert supported_families() in str(error.value)

    def test_code_from_a_folder_is_neither_run_nor_offered(
        self, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tiny_folder / "mine.py").write_text("raise SystemExit('was run')")
        auto_map = {"AutoConfig": "mine.Config", "AutoTokenizer": ["mine.T", None]}
        monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question on the terminal"))
        folder = configured(tiny_folder, auto_map=auto_map)
        assert load_checkpoint(str(folder)).model.config.num_hidden_layers == 3
        with pytest.raises(UnsupportedModelError):
            load_checkpoint(str(configured(folder, model_type="mine")))
        assert "cannot be loaded: " in refusal(configured(folder, model_type=None, architectures=None))

    @pytest.mark.parametrize("method", ["bitsandbytes", "no-such-method"])
    def test_a_quantized_model_that_is_not_only_looked_at(self, tiny_folder: Path, method: str) -> None:
        quantized = {"quant_method": method, "load_in_8bit": True}
        folder = configured(tiny_folder, quantization_config=quantized)
        assert "is quantized; give the model in full precision" in refusal(folder)
        assert "neither pruned nor trained" in refusal(folder, task="qqp", quantised=True)

    @pytest.mark.parametrize("method", ["no-such-method", None, 3])
    def test_a_quantized_model_that_no_library_reads_as_one(self, tiny_folder: Path, method: Any) -> None:
        """The library itself takes its weights for plain numbers."""
        folder = configured(tiny_folder, quantization_config={"quant_method": method, "bits": 4})
        message = refusal(folder, quantised=True)
        assert "cannot be loaded: " in message or "have read it as if it were not" in message

    @pytest.mark.parametrize("name", ["no-such-org/no-such-model", "no-such-model"])
    @pytest.mark.usefixtures("nobody_to_ask")
    def test_a_hub_model_without_network(self, name: str) -> None:
        message = refusal(name, revision="abc")
        assert (
            "is neither a folder on this machine nor in the cache, and the Hub cannot be reached" in message
        )
        assert message.endswith("check the name and the network.")

    @pytest.mark.usefixtures("nobody_to_ask")
    def test_a_hub_model_whose_files_do_not_come_after_all(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("models.checkpoints.hub_answers", lambda *_: True)
        assert "cannot be loaded from the Hub (OSError: " in refusal("me/there")


class Hub(BaseHTTPRequestHandler):
    """What the Hub answers to a question about a repository."""

    asked: list[str]

    def do_GET(self) -> None:
        if self.path.startswith(
            ("/api/models", "/api/datasets")
        ):  # the library asks for other things once a day
            type(self).asked.append(self.path)
        status, error = {
            "there": (200, ""),
            "gone": (404, "RepoNotFound"),
            "private": (401, "RepoNotFound"),
            "gated": (403, "GatedRepo"),
            "broken": (500, ""),
        }[self.path.split("/")[4]]
        if "/revision/nope" in self.path:
            status, error = 404, "RevisionNotFound"
        body = json.dumps({"id": "me/there", "sha": "1a2b"}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


class TestHubAnswers:
    @pytest.fixture
    def hub(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
        """A Hub on this machine; yields what it was asked."""
        import huggingface_hub

        Hub.asked = []
        server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        huggingface_hub.close_session()
        yield Hub.asked
        huggingface_hub.close_session()
        server.shutdown()
        server.server_close()

    @pytest.fixture
    def no_hub(self, hub: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        """Nobody listens there."""
        import huggingface_hub

        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")

    def test_it_is_asked_once(self, hub: list[str]) -> None:
        assert hub_answers("me/there", "model", "--model")
        assert hub_answers("me/there", "dataset", "--data", "v1")
        assert hub == ["/api/models/me/there", "/api/datasets/me/there/revision/v1"]

    def test_an_error_of_its_own_is_an_answer_too(self, hub: list[str]) -> None:
        assert hub_answers("me/broken", "model", "--model")
        assert len(hub) == 1

    @pytest.mark.parametrize("name", ["me/gone", "me/private"])
    def test_a_repository_that_nobody_may_see_is_refused(self, hub: list[str], name: str) -> None:
        message = refusal(name)
        assert "is neither a folder on this machine nor a public model on the Hub; check the name" in message
        with pytest.raises(InputError, match=f"--data {name} is neither a folder .* nor a public dataset"):
            load_rows(task_named("qqp"), name)
        assert len(hub) == 2

    @pytest.mark.usefixtures("hub")
    def test_a_gated_repository_says_how_to_get_in(self) -> None:
        assert "grants access to this model on request only" in refusal("me/gated")

    @pytest.mark.usefixtures("hub")
    def test_a_revision_that_is_not_there_is_named(self) -> None:
        assert "has no revision 'nope' on the Hub" in refusal("me/there", revision="nope")

    def test_a_name_that_cannot_be_one_is_refused_without_asking(self, hub: list[str]) -> None:
        assert "is neither a folder on this machine nor a public model" in refusal("../a/b/c")
        assert hub == []

    @pytest.mark.usefixtures("no_hub")
    def test_without_an_answer_nobody_waits_half_a_minute(self) -> None:
        started = time.monotonic()
        assert not hub_answers("me/there", "model", "--model")
        assert "the Hub cannot be reached; check the name and the network" in refusal("me/there")
        with pytest.raises(InputError, match="give --data DIR with DIR/qqp/"):
            load_rows(task_named("qqp"))
        assert time.monotonic() - started < 10  # the libraries alone: 25 seconds for each of the two


class TestDevice:
    @pytest.mark.parametrize("name", ["auto", "cpu"])
    def test_there_is_always_one(self, name: str) -> None:
        assert torch.zeros(1, device=pick_device(name)).sum() == 0

    @pytest.mark.parametrize("name", ["gpu", "cuda:99", "cpu:one", "CPU", "", "meta", "cuda:-1"])
    def test_one_that_is_not_there_is_answered_with_those_that_are(self, name: str) -> None:
        with pytest.raises(InputError, match=rf"^--device {name} is not available .*; available: auto, cpu"):
            pick_device(name)

    def test_auto_prefers_cuda_then_mps(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert pick_device().type == "mps"
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        assert pick_device().type == "cuda"
        assert pick_device("cuda:1").index == 1
        with pytest.raises(InputError, match="cuda:2"):
            pick_device("cuda:2")


class TestProvenance:
    def test_it_says_what_ran_where_and_when(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "argv", ["/somewhere/bin/classify-heads", "--task", "qqp"])
        record = provenance()
        assert record["command"] == ["classify-heads", "--task", "qqp"]
        assert record["packages"] == {name: version(name) for name in PACKAGES}
        assert record["python"] == platform.python_version()
        assert record["threads"] == torch.get_num_threads()
        assert record["headscope"] == headscope_version()
        assert (
            timedelta() <= datetime.now(UTC) - datetime.fromisoformat(record["time"]) < timedelta(minutes=1)
        )
        assert json.loads(json.dumps(record)) == record

    def test_a_package_that_is_not_installed_is_left_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("models.common.provenance.PACKAGES", ("torch", "no-such-package"))
        assert list(provenance()["packages"]) == ["torch"]
