"""Every file that headscope did not write, and that a result was made from, is known by its SHA-256 in the result."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from annotations import AnnotatedMaps
from annotations.agreement.job import MeasureAgreement
from annotations.label_studio.import_export import Export, Import
from annotations.training.job import EvaluateClassifier
from models import Subnetwork
from models.common.provenance import source_record
from models.common.reading import file_digest
from models.subnetwork import mask_files
from patterns.classifier.network import SHIPPED
from patterns.job import ClassifyHeads
from pruning.comparison.job import CompareSurvivors
from pruning.study.config import read_study
from pruning.study.job import RunStudy

EXAMPLES = Path(__file__).parents[2] / "examples"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def of_all(folder: Path, *names: str) -> str:
    """As a shell would say it."""
    lines = "".join(f"{sha256(folder / name)}  {name}\n" for name in sorted(names))
    return hashlib.sha256(lines.encode()).hexdigest()


def masks(folder: Path) -> Path:
    folder.mkdir(parents=True)
    np.save(folder / "head_mask.npy", np.ones((6, 12)))
    np.save(folder / "mlp_mask.npy", np.ones(6))
    return folder


def test_a_digest_can_be_repeated_in_a_shell(tmp_path: Path) -> None:
    masks(tmp_path / "m")
    told = source_record(tmp_path / "m", mask_files(tmp_path / "m"))
    shell = "sha256sum head_mask.npy mlp_mask.npy | sha256sum"
    said = subprocess.run(["sh", "-c", shell], cwd=tmp_path / "m", capture_output=True, text=True).stdout
    assert told["sha256"] == said.split()[0] == of_all(tmp_path / "m", "head_mask.npy", "mlp_mask.npy")
    assert told["files"] == ["head_mask.npy", "mlp_mask.npy"]
    (tmp_path / "a").write_bytes(b"abc")
    assert source_record(tmp_path / "a") == {"source": str(tmp_path / "a"), "sha256": sha256(tmp_path / "a")}


def test_classify_heads_knows_its_model_data_masks_and_classifier(minilm_folder: str, tmp_path: Path) -> None:
    home = masks(tmp_path / "masks")
    shutil.copytree(SHIPPED / "raw", tmp_path / "classifier")
    done = ClassifyHeads(
        model=minilm_folder,
        task="qqp",
        data=str(EXAMPLES),
        examples=2,
        maps="raw",
        subnetwork=str(home),
        classifiers={"raw": str(tmp_path / "classifier")},
        device="cpu",
    ).run()
    origin = json.loads(json.dumps(done.summary["provenance"]))
    model = Path(minilm_folder)
    weights = b"".join(bytes.fromhex(sha256(path)) for path in sorted(model.glob("*.safetensors")))
    assert origin["model"]["sha256"] == hashlib.sha256(weights).hexdigest()
    for name in ("config.json", "tokenizer.json"):
        assert origin["model"]["files"][name] == sha256(model / name)
    assert origin["data"]["sha256"] == sha256(EXAMPLES / "qqp/validation.jsonl")
    assert origin["subnetwork"]["sha256"] == of_all(home, "head_mask.npy", "mlp_mask.npy")
    assert origin["classifiers"]["raw"]["sha256"] == of_all(
        tmp_path / "classifier", "config.json", "model.safetensors"
    )


def test_compare_survivors_knows_its_masks(tmp_path: Path) -> None:
    home = masks(tmp_path / "QQP" / "seed_1")
    file = tmp_path / "one.safetensors"
    Subnetwork.load(home).save(file)
    Subnetwork(np.ones((6, 12), bool), np.ones(6, bool), {"task": "qqp", "seed": "2"}).save(file)
    runs = CompareSurvivors((home, file)).run().summary["tasks"]
    told = {run["source"]: run["sha256"] for task in runs.values() for run in task["runs"]}
    assert told == {str(home): of_all(home, "head_mask.npy", "mlp_mask.npy"), str(file): sha256(file)}


@pytest.fixture
def annotated(annotated_rows: Any, tmp_path: Path) -> Path:
    annotated_rows.save(tmp_path / "maps")
    return tmp_path / "maps"


@pytest.fixture
def annotated_rows() -> AnnotatedMaps:
    from annotations.formats import Annotation
    from patterns import Pattern
    from patterns.maps.store import MapRow

    rows = [
        MapRow(f"m_{i}", "raw", "b", "m", "qqp", i, 0, 1, 6, (2, 5), np.eye(6, dtype=np.float32))
        for i in range(4)
    ]
    return AnnotatedMaps(rows, [Annotation(row.id, "ann", Pattern.DIAGONAL, None, "x") for row in rows])


def test_results_of_annotations_know_them(annotated: Path, tmp_path: Path) -> None:
    expected = of_all(
        annotated, "annotations.parquet", *(path.name for path in annotated.glob("maps-*.parquet"))
    )
    for job in (MeasureAgreement((annotated,)), EvaluateClassifier((annotated,), "raw")):
        (told,) = job.run()["provenance"]["annotations"]
        assert told["sha256"] == expected
    labels = tmp_path / "labels.csv"
    Export(annotated, labels, "csv").run()
    assert Import(labels, annotated).run()["source"] == {"source": str(labels), "sha256": sha256(labels)}
    assert Import(annotated, tmp_path / "copy").run()["source"]["files"]


def test_a_search_and_a_study_know_their_model_data_and_file(
    study_materials: Path, finished_study: Path
) -> None:
    file = study_materials / "study.toml"
    job = RunStudy(read_study(file), finished_study, source=file)
    job.run()
    told = json.loads((finished_study / "study.json").read_text())
    assert told["provenance"]["file"] == {"source": str(file), "sha256": sha256(file)}
    data = study_materials / "data" / "sst2"
    assert told["materials"]["data"]["sst2"] == {
        "train": sha256(data / "train.jsonl"),
        "validation": sha256(data / "validation.jsonl"),
    }
    found = json.loads(
        next(finished_study.glob("sst2/seed_1/search-heads-and-mlps/summary.json")).read_text()
    )
    assert found["provenance"]["data"]["sha256"] == found["data_sha256"] == sha256(data / "validation.jsonl")
    assert found["provenance"]["model"]["sha256"] == found["model_sha256"]
    assert "tokenizer.json" in found["provenance"]["model"]["files"]


def test_half_a_gigabyte_takes_a_moment(tmp_path: Path) -> None:
    with (tmp_path / "w.safetensors").open("wb") as file:
        file.truncate(500_000_000)
    started = time.process_time()
    file_digest(tmp_path / "w.safetensors")
    assert time.process_time() - started < 5  # 0.3 s where the processor has instructions for it
