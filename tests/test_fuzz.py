"""Damaged files, by the thousand: whatever is done to a valid file, a reader reads it or says in a line what is wrong.

HEADSCOPE_FUZZ is how many damaged files each reader gets; ``make fuzz`` gives many. What is found becomes an example
in the tests of the reader.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from tiny import write_rows
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from annotations.dataset import AnnotatedMaps
from annotations.formats import find_published, read_published, write_published
from annotations.label_studio.matching import MapIndex
from annotations.label_studio.reading import read_export
from annotations.label_studio.tasks import read_predictions, read_tokens
from annotations.status import status
from models import HeadscopeError, Subnetwork, compact, load, load_checkpoint, save
from models.common.files import read_json, write_json
from models.common.reading import json_digest, save_safetensors
from models.tasks.inputs import feed
from models.tasks.rows import load_rows, row_ids, targets_of
from models.tasks.task import task_named
from models.weights import WeightMasks, load_masks, prunable_weights, survival
from patterns.classifier.network import PatternClassifier, load_classifier
from patterns.maps.store import MapRow, read_maps, write_maps
from patterns.report.heads import read_importance
from pruning.importance import Importance
from pruning.search.folder import SearchFolder
from pruning.search.heads_job import Recall, importance_frame
from pruning.search.runs import find_groups
from pruning.structured import Measurement, Step
from pruning.study.config import read_study
from pruning.study.job import read_plan

BUDGET = int(os.environ.get("HEADSCOPE_FUZZ", "150"))
SECONDS = 10.0  # of one file
MEMORY = 2**30  # bytes, that the largest may take
FULL = Subnetwork(np.ones((2, 4), bool), np.ones(2, bool), {"task": "qqp", "seed": "1"})
SEARCH: dict[str, Any] = {"command": "prune-heads", "task": "qqp", "seed": 1}
ROWS = [
    MapRow(f"{kind}_{i}", kind, "b", "m", "qqp", i, 0, 1, 6, (2, 5), np.eye(6, dtype=np.float32) + i / 9)
    for kind in ("raw", "norm")
    for i in range(3)
]


@dataclass(frozen=True)
class Reader:
    """What writes valid files into a folder, and what reads that folder again."""

    write: Callable[[Path], Any]
    read: Callable[[Path], Any]
    share: float = 1.0
    """Of the budget: some take long."""


def masks_without_checksum(at: Path) -> None:
    save_file({"heads": FULL.heads, "mlps": FULL.mlps}, at / "s.safetensors", metadata=FULL.metadata)


def published_masks(at: Path) -> None:
    np.save(at / "head_mask.npy", FULL.heads.astype(float))
    np.save(at / "mlp_mask.npy", FULL.mlps)


def weight_masks(at: Path) -> None:
    packed = {"a": np.packbits(np.ones(12, bool)), "b": np.packbits(np.ones(3, bool))}
    save_file(packed, at / "w.safetensors", metadata={"shapes": '{"a": [3, 4], "b": [3]}'})


@cache
def model() -> Any:
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 8}
    return BertModel(BertConfig(vocab_size=9, max_position_embeddings=9, **sizes)).eval()


def masks_of_a_model(at: Path) -> None:
    """With a checksum, and without, as headscope 0.1 wrote them."""
    masks = {
        name: np.arange(w.numel()).reshape(w.shape) % 3 > 0 for name, w in prunable_weights(model()).items()
    }
    WeightMasks(masks, {"task": "qqp"}).save(at / "sealed.safetensors")
    packed = {name: np.packbits(mask.reshape(-1)) for name, mask in masks.items()}
    told = {"shapes": json.dumps({name: mask.shape for name, mask in masks.items()})}
    save_file(packed, at / "plain.safetensors", metadata=told)


def read_masks_of_a_model(at: Path) -> None:
    for name in ("sealed", "plain"):
        with contextlib.suppress(HeadscopeError):
            found = WeightMasks.load(at / f"{name}.safetensors", model())
            survival(found, model())
            with found.applied(model()):
                pass


def model_folder(at: Path) -> None:
    """As the library writes it, without checksums; one whole, one in shards; and a compacted one."""
    words = {word: i for i, word in enumerate(("[PAD]", "[CLS]", "[SEP]", "[UNK]", *"abcde"))}
    stored = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "cls", "sep", "unk")}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=stored, **special)
    for name, options in (("whole", {}), ("shards", {"max_shard_size": 2000})):
        model().save_pretrained(at / name, **options)
        tokenizer.save_pretrained(at / name)
    kept = Subnetwork(np.array([[True, False, True, True], [False] * 4]), np.array([True, False]))
    save(compact(model(), kept), at / "small", tokenizer=tokenizer)
    plain = load_file(at / "small" / "headscope.safetensors")
    save_file(plain, at / "small" / "headscope.safetensors", metadata={"format": "pt"})


def read_models(at: Path) -> None:
    ids = torch.tensor([[1, 4, 5, 2]])
    for name in ("whole", "shards", "small"):
        with contextlib.suppress(HeadscopeError):
            load(at / name)
        with contextlib.suppress(HeadscopeError):
            found = load_checkpoint(str(at / name))
            fed = feed(found.model, found.tokenizer, [("a b", None), ("a", "c d")], 9)
            assert fed.inputs
            if found.model.config.num_hidden_layers == 2 and found.model.config.vocab_size == 9:
                found.model(input_ids=ids)


def maps(at: Path) -> None:
    write_maps(at, ROWS)
    table = pd.read_parquet(at / "maps-00000.parquet")
    table.to_parquet(at / "maps-00001.parquet")  # without checksums, with what pandas adds


def annotated(at: Path) -> None:
    labels = [(row.id, who, "block") for row in ROWS for who in "AB"]
    AnnotatedMaps(ROWS, pd.DataFrame(labels, columns=["id", "annotator", "label"])).save(at / "maps")
    for file in (at / "maps").iterdir():
        shutil.move(file, at / file.name)
    pd.read_parquet(at / "annotations.parquet").to_parquet(at / "annotations.parquet")
    ids = [row.id for row in ROWS]
    said = pd.DataFrame({"id": ids, "label": "block", "margin": 0.5, "classifier_version": "v"})
    said.to_parquet(at / "predictions.parquet")
    pd.DataFrame({"id": ids, "tokens": [["a", "b"]] * len(ids)}).to_parquet(at / "texts.parquet")


def read_annotated(at: Path) -> None:
    AnnotatedMaps.load(at)
    read_predictions(at)
    read_tokens(at)
    status(at)


def annotated_without_checksums(at: Path) -> None:
    """As headscope 0.1 wrote them; other tools write maps in larger lists."""
    annotated(at)
    for name in ("maps-00000.parquet", "annotations.parquet"):
        pq.write_table(pq.read_table(at / name), at / name, compression="NONE")
    wide = pq.read_table(at / "maps-00000.parquet")
    columns = {name: wide[name] for name in wide.column_names}
    columns["id"] = pa.chunked_array([[f"wide_{i}" for i in range(len(wide))]], pa.large_string())
    columns["kind"] = wide["kind"].dictionary_encode()
    columns["map"] = wide["map"].cast(pa.large_list(pa.large_list(pa.float32())))
    pq.write_table(pa.table(columns), at / "maps-00001.parquet")


def published(at: Path) -> None:
    write_published(at / "p", ROWS, {row.id: "block" for row in ROWS})  # type: ignore[dict-item]
    for kind in ("raw", "norm"):
        lines = [f"{row.id},m,1,2,6,[2],block" for row in ROWS if row.kind == kind]
        header = "map,model,layer,head,n_tokens,sep,label"
        (at / "p" / kind / "index.csv").write_text("\n".join([header, *lines, ""]))


def exports(at: Path) -> None:
    write_maps(at, ROWS)
    choice = {"from_name": "pattern", "type": "choices", "value": {"choices": ["Block"]}}
    tasks = [
        {"id": i, "data": {"headscope_id": row.id}, "annotations": [{"completed_by": 1, "result": [choice]}]}
        for i, row in enumerate(ROWS)
    ]
    (at / "e.json").write_text(json.dumps(tasks))
    lines = [f"{row.id},Block,1,{i},{i}" for i, row in enumerate(ROWS)]
    (at / "e.csv").write_text("\n".join(["headscope_id,pattern,annotator,annotation_id,id", *lines, ""]))


def read_exports(at: Path) -> None:
    for name in ("e.json", "e.csv"):
        read_export(at / name, MapIndex({row.id: "" for row in ROWS}), control="pattern")


def classifier(at: Path) -> None:
    torch.manual_seed(0)
    PatternClassifier("raw", 8, ((2,), (3,))).save_pretrained(at)
    from safetensors.torch import load_file
    from safetensors.torch import save_file as save_torch

    save_torch(load_file(at / "model.safetensors"), at / "model.safetensors")  # without a checksum


def search(at: Path) -> None:
    folder = SearchFolder(at / "s", SEARCH, {})
    importance = Importance(np.ones((2, 4)), np.ones(2), 60, 0.5, np.zeros((0, 0), np.float32))
    frame = importance_frame(Step(0, "full", FULL, Measurement(0.9, importance), True))
    folder.write_importance(frame)
    frame.to_parquet(at / "s" / "importance.parquet")
    record = {"iteration": 0, "phase": "full", "heads": 8, "mlps": 2, "score": 0.9, "loss": 0.5}
    (at / "s" / "history.jsonl").write_text(json.dumps({**record, "examples": 60, "accepted": True}) + "\n")
    FULL.save(at / "s" / "subnetwork.safetensors")
    summary: dict[str, Any] = {
        **SEARCH,
        "model": "m",
        "split": "validation",
        "metric": "f1",
        "threshold": 0.9,
    }
    summary |= {"full_score": 1.0, "score": 0.95, "examples": 60, "iterations": 2, "warnings": ["w"]}
    summary |= {"heads": {"kept": 3, "all": 8}, "mlps": {"kept": 1, "all": 2}}
    summary |= {"encoder_share": {"parameters": 0.2, "flops": 0.3}}
    write_json(at / "s" / "summary.json", {**summary, "reported_on": {"held_out": False, "note": "all"}})


def read_search(at: Path) -> None:
    folder = SearchFolder(at / "s", SEARCH, {})
    if folder.finished:
        folder.read_summary()
    find_groups([at])
    read_importance(at / "s" / "importance.parquet", (2, 4))
    Recall(folder, model()).next(FULL)


TOML = """
model = "m"
tasks = ["sst2", "qqp"]
seeds = [1, 2]
max_length = 16
searches = ["heads-and-mlps", "weights"]
[fine_tuning]
epochs = 6
learning_rate = 3e-3
[structured]
head_step = 0.3
[subnetworks]
structured = ["good", "random"]
[patterns]
maps = ["raw"]
"""


def study(at: Path) -> None:
    from dataclasses import asdict

    (at / "s.toml").write_text(TOML)
    data = {task: {"train": "x", "validation": "y"} for task in ("sst2", "qqp")}
    told = {"study": asdict(read_study(at / "s.toml")), "materials": {"model": {"sha256": "x"}, "data": data}}
    write_json(at / "study.json", told)


def read_studies(at: Path) -> None:
    with contextlib.suppress(HeadscopeError):
        read_study(at / "s.toml")
    read_plan(at)


def checkpoint(at: Path) -> None:
    at = at / "checkpoint-4"
    at.mkdir()
    (at / "optimizer.pt").write_bytes(bytes(99))
    state = {"history": [{"epoch": 1, "loss": 0.5}], "seconds": 1.5, "loss": 0.5, "steps": 2, "best": None}
    write_json(at / "headscope.json", {**state, "resumed": [], "sizes": {"optimizer.pt": 99}})


def read_checkpoint(at: Path) -> None:
    from models.finetuning.loop import _newest

    _newest(at)


def rows(at: Path) -> None:
    write_rows(at, "sst2", "qqp", "mrpc", "rte", dev=8, train=0)
    frames = {
        task: pd.read_json(at / task / "validation.jsonl", lines=True) for task in ("qqp", "mrpc", "rte")
    }
    frames["qqp"].to_parquet(at / "qqp" / "validation.parquet")
    frames["mrpc"].to_csv(at / "mrpc" / "validation.csv", index=False)
    frames["rte"].to_csv(at / "rte" / "validation.tsv", index=False, sep="\t")
    for task in frames:
        (at / task / "validation.jsonl").unlink()
    for file in at.rglob("train.jsonl"):
        file.unlink()


def read_rows(at: Path) -> None:
    from types import SimpleNamespace

    for name in ("sst2", "qqp", "mrpc", "rte"):
        task = task_named(name)
        found = load_rows(task, at)
        np.array(row_ids(found.rows), dtype=np.int64)
        config: Any = SimpleNamespace(id2label=dict(enumerate(task.labels)))
        with contextlib.suppress(HeadscopeError):
            targets_of(found.rows, task, config)


def numbers(at: Path) -> None:
    save_safetensors(save_file, {"heads": FULL.heads, "mlps": FULL.mlps}, at / "s.safetensors", {"a": "b"})
    write_json(at / "j.json", {"a": [1, 2.5, None, {"b": "c"}]})


def read_numbers(at: Path) -> None:
    with contextlib.suppress(HeadscopeError):
        Subnetwork.load(at / "s.safetensors")
    json_digest(read_json(at / "j.json"))


READERS = {
    "masks": Reader(masks_without_checksum, lambda at: load_masks(at / "s.safetensors").digest()),
    "sealed masks, JSON": Reader(numbers, read_numbers),
    "published masks": Reader(published_masks, lambda at: Subnetwork.load(at).digest()),
    "weight masks of a model": Reader(masks_of_a_model, read_masks_of_a_model, 0.5),
    "models": Reader(model_folder, read_models, 0.2),
    "weight masks": Reader(weight_masks, lambda at: WeightMasks.load(at / "w.safetensors").digest()),
    "maps": Reader(maps, read_maps),
    "annotations": Reader(annotated, read_annotated),
    "annotations without checksums": Reader(annotated_without_checksums, read_annotated),
    "published annotations": Reader(
        published, lambda at: [read_published(folder, kind) for kind, folder in find_published(at / "p")]
    ),
    "exports": Reader(exports, read_exports),
    "classifier": Reader(classifier, load_classifier, 0.5),
    "search": Reader(search, read_search, 0.5),
    "study": Reader(study, read_studies),
    "checkpoint": Reader(checkpoint, read_checkpoint),
    "rows": Reader(rows, read_rows),
}

# What parsers stumble on, in place of a number, a word, or anything.
WORDS = [
    *(
        b"NaN",
        b"Infinity",
        b"-1",
        b"0",
        b"1e999",
        b"1.5",
        b"true",
        b"null",
        b'""',
        b"[]",
        b"{}",
        b"2000-01-01",
    ),
    *(
        b"9" * 30,
        b"9" * 5000,
        b"[" * 3000,
        b'{"a":' * 500,
        b"\x00",
        b"\xff\xfe",
        b"\n",
        b'"',
        b",",
        b"\\ud800",
    ),
    *(b"\xff\xff\xff\x7f", b"\xff" * 8, b"\x00" * 64, b"\x80", "é\u202e\x1b[31m".encode()),
]
EDIT = st.tuples(
    st.sampled_from(["flip", "word", "cut", "drop", "twice", "zero", "swap"]),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 400),
    st.sampled_from(WORDS),
)


def damaged(whole: bytes, edits: list[tuple[str, float, int, bytes]]) -> bytes:
    for how, where, size, word in edits:
        at = int(where * len(whole))
        end = min(at + 1 + size // 8, len(whole))
        if how == "flip" and whole:
            whole = whole[:at] + bytes([whole[at] ^ 1 << size % 8]) + whole[at + 1 :]
        elif how == "word":
            token = end if size % 2 else at  # replaces some bytes, or stands between them
            whole = whole[:at] + word + whole[token:]
        elif how == "swap":  # a number, wherever the next one is
            digits = [i for i in range(at, min(at + 200, len(whole))) if whole[i : i + 1].isdigit()]
            if digits:
                whole = whole[: digits[0]] + word + whole[digits[0] + 1 :]
        elif how == "cut":
            whole = whole[:at]
        elif how == "drop":
            whole = whole[:at] + whole[end:]
        elif how == "twice":
            whole = whole[:end] + whole[at:]
        elif how == "zero":
            whole = whole[:at] + bytes(end - at) + whole[end:]
    return whole


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_file_is_read_or_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    reader = READERS[name]
    reader.write(tmp_path)
    reader.read(tmp_path)
    whole = {file: file.read_bytes() for file in sorted(tmp_path.rglob("*")) if file.is_file()}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @settings(
        max_examples=max(1, int(BUDGET * reader.share)),
        deadline=None,
        database=None,
        derandomize="HEADSCOPE_FUZZ" not in os.environ,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(list(whole)), st.lists(EDIT, min_size=1, max_size=3))
    def attack(file: Path, edits: list[tuple[str, float, int, bytes]]) -> None:
        file.write_bytes(damaged(whole[file], edits))
        started, said = time.monotonic(), ""
        try:
            reader.read(tmp_path)
        except HeadscopeError as error:
            said = str(error)
        finally:
            file.write_bytes(whole[file])
        assert time.monotonic() - started < SECONDS
        assert said.isprintable()
        assert len(said) <= 2000

    attack()
    assert 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) < MEMORY
