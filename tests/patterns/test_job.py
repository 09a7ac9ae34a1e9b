"""The command ``classify-heads`` as its users meet it: files, summary, messages, exit codes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from models import InputError, Subnetwork, compact, save
from models.isolating import SUBNETWORK_MODES
from patterns import cli
from patterns import job as stage
from patterns.job import ClassifyHeads
from patterns.taxonomy import PATTERNS

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def command(run_command: Any) -> Any:
    return partial(run_command, cli.classify_heads)


@pytest.fixture(scope="module")
def options(minilm_folder: str) -> dict[str, Any]:
    return {"model": minilm_folder, "task": "QQP", "data": str(EXAMPLES), "examples": 6, "device": "cpu"}


@pytest.fixture(scope="module")
def done(options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("run") / "out"
    return ClassifyHeads(**options, output=folder, save_maps=True).run(), folder


def test_everything_is_written(done: Any) -> None:
    _, folder = done
    assert {path.name for path in folder.iterdir()} == {
        ".headscope.json", "summary.json", "heads.parquet", "maps.parquet", "distribution.csv", "heads.png",
        "distribution.png", "maps", "heads.csv", "heads.tex", "distribution.tex", "distribution_bars.csv",
        "distribution_bars.tex",
        "report.html",
    }  # fmt: skip
    assert not list(folder.parent.glob(".*"))


def test_the_summary_says_what_was_done_and_from_where(done: Any, minilm: Any) -> None:
    result, folder = done
    summary = json.loads((folder / "summary.json").read_text())
    assert summary == json.loads(json.dumps(result.summary))
    assert (summary["task"], summary["split"], summary["examples"], summary["seed"]) == (
        "qqp",
        "validation",
        6,
        0,
    )
    assert summary["model"] == minilm.name
    for kind in ("raw", "norm"):
        part = summary["maps"][kind]
        assert list(part["distribution"]) == list(PATTERNS)
        assert sum(part["distribution"].values()) == pytest.approx(1)
        assert part["interpretable_ratio"] == pytest.approx(part["distribution"]["heterogeneous"])
        low, high = part["interpretable_ratio_ci95"]
        assert low <= part["interpretable_ratio"] <= high
        assert part["classified_maps"] == 6 * 72
        assert part["warnings"] == list(result.patterns.warnings)
    origin = summary["provenance"]
    assert origin["inputs"]["special_tokens"][0] == "[CLS]"
    assert origin["inputs"]["segments"] == [0, 1]
    assert len(origin["inputs"]["example"]["tokens"]) == len(origin["inputs"]["example"]["segments"])
    assert origin["model"]["sha256"] == minilm.sha256
    assert origin["model"]["parameters"] == 22_713_216
    assert origin["data"]["source"].endswith("examples/qqp/validation.jsonl")
    assert len(origin["data"]["sha256"]) == 64
    assert origin["packages"].keys() >= {"torch", "transformers", "numpy"}
    assert {len(c["version"]) for c in origin["classifiers"].values()} == {12}


def test_the_tables_agree_with_each_other(done: Any) -> None:
    result, folder = done
    heads, maps = pd.read_parquet(folder / "heads.parquet"), pd.read_parquet(folder / "maps.parquet")
    pd.testing.assert_frame_equal(heads, result.patterns.to_frame())
    pd.testing.assert_frame_equal(maps, result.patterns.maps_frame())
    shares = pd.read_csv(folder / "distribution.csv").set_index(["kind", "pattern"])
    for (kind, pattern), row in shares.iterrows():
        assert row["count"] == (maps[maps.kind == kind].label == pattern).sum()
        assert row["share"] == pytest.approx(result.patterns.distribution(kind)[pattern])


def test_figures_are_pictures(done: Any) -> None:
    from PIL import Image

    for name in ("heads.png", "distribution.png"):
        with Image.open(done[1] / name) as image:
            image.verify()
            assert min(image.size) > 300


def test_saved_maps_are_those_that_were_classified(done: Any) -> None:
    from annotations import AnnotatedMaps
    from patterns import load_classifier

    result, folder = done
    saved = AnnotatedMaps.load(folder / "maps")
    assert len(saved) == 2 * 6 * 72
    labels = result.patterns.maps_frame().set_index(["kind", "example", "layer", "head"])
    chosen = np.random.default_rng(0).choice(len(saved), 40, replace=False)
    for row, values in ((saved.info.iloc[i], saved.maps[i]) for i in chosen):
        expected = labels.loc[(row["kind"], row["example"], row["layer"], row["head"])]
        assert row["n_tokens"] == expected["n_tokens"] == len(values)
        assert row["segment_borders"][-1] == len(values) - 1
        found = load_classifier(row["kind"]).predict_proba([values])[0]
        np.testing.assert_allclose(found, [expected[f"prob_{p}"] for p in PATTERNS], atol=0.02)


def test_the_same_seed_gives_the_same_numbers_and_another_seed_other_rows(options: Any, done: Any) -> None:
    again = ClassifyHeads(**options).run().patterns
    pd.testing.assert_frame_equal(again.maps_frame(), done[0].patterns.maps_frame())
    other = ClassifyHeads(**options, seed=1).run().patterns
    assert set(other.examples) != set(again.examples)


def test_the_order_of_the_file_does_not_matter(options: Any, done: Any, tmp_path: Path) -> None:
    lines = (EXAMPLES / "qqp" / "validation.jsonl").read_text().splitlines()
    np.random.default_rng(0).shuffle(lines)
    (tmp_path / "dev.jsonl").write_text("\n".join(lines))
    again = ClassifyHeads(**(options | {"data": str(tmp_path)})).run().patterns
    first = done[0].patterns
    assert sorted(again.examples) == sorted(first.examples)
    assert again.interpretable_ratio_ci95("raw") == pytest.approx(
        first.interpretable_ratio_ci95("raw"), abs=5e-3
    )


def test_examples_keep_their_place_in_data_without_idx(options: Any, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (EXAMPLES / "qqp" / "validation.jsonl").read_text().splitlines()]
    pd.DataFrame(rows).drop(columns="idx").to_csv(tmp_path / "validation.csv", index=False)
    found = ClassifyHeads(**(options | {"data": str(tmp_path), "maps": ("raw",)})).run().patterns
    full = ClassifyHeads(**(options | {"maps": ("raw",)})).run().patterns  # there, idx is the position
    assert found.examples.tolist() == full.examples.tolist()


def test_an_earlier_output_can_be_overwritten(options: Any, tmp_path: Path) -> None:
    for kinds in (("raw",), ("norm",)):
        ClassifyHeads(
            **(options | {"examples": 1, "maps": kinds}), output=tmp_path / "o", overwrite=True
        ).run()
        assert list(json.loads((tmp_path / "o" / "summary.json").read_text())["maps"]) == list(kinds)


def test_the_table_is_printed_and_the_figures_are_named(command: Any, options: Any, tmp_path: Path) -> None:
    code, out, err = command(
        "--model",
        options["model"],
        "--task",
        "qqp",
        "--data",
        EXAMPLES,
        "--examples",
        3,
        "--output",
        tmp_path / "o",
    )
    assert code == 0
    assert f"on 3 examples of {EXAMPLES / 'qqp' / 'validation.jsonl'} (qqp), 72 of 72 heads" in out
    assert "interpretable ratio" in out
    assert "heterogeneous" in out
    assert str(tmp_path / "o" / "heads.png") in err


def test_the_data_lie_beside_the_figures(done: Any) -> None:
    result, folder = done
    heads = pd.read_csv(folder / "heads.csv")
    pd.testing.assert_frame_equal(
        heads, pd.read_parquet(folder / "heads.parquet"), check_dtype=False, check_exact=False
    )
    bars = pd.read_csv(folder / "distribution_bars.csv").set_index("bar")
    for kind in ("raw", "norm"):
        low, high = result.patterns.interpretable_ratio_ci95(kind)
        assert bars.loc[kind, ["interpretable_ratio", "low", "high"]].tolist() == pytest.approx(
            [result.patterns.interpretable_ratio(kind), low, high]
        )
        assert bars.loc[kind, list(PATTERNS)].sum() == pytest.approx(1)
    for name in ("heads", "distribution", "distribution_bars"):
        assert "\\toprule" in (folder / f"{name}.tex").read_text()


def test_figures_are_written_in_the_format_and_width_asked_for(
    command: Any, options: Any, tmp_path: Path
) -> None:
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    code, _, err = command(
        *words, "--output", tmp_path / "o", "--figure-format", "svg,pdf", "--figure-width", "3.3"
    )
    assert code == 0, err
    assert not list((tmp_path / "o").glob("*.png"))
    assert str(tmp_path / "o" / "heads.svg") in err
    for name in ("heads", "distribution"):
        assert 'width="237.6pt"' in (tmp_path / "o" / f"{name}.svg").read_text()  # 3.3 inches
        assert (tmp_path / "o" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    page = (tmp_path / "o" / "report.html").read_text()
    assert "--figure-format svg,pdf --figure-width 3.3" in page


def test_json_is_the_summary_alone_and_nothing_is_written(
    command: Any, options: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = command(
        *("--model", options["model"], "--task", "qqp", "--data", EXAMPLES, "--examples", 1),
        *("--maps", "norm", "--json"),
    )
    assert code == 0
    summary = json.loads(out)
    assert list(summary["maps"]) == ["norm"]
    assert summary["maps"]["norm"]["interpretable_ratio_ci95"] == [None, None]
    assert not list(tmp_path.iterdir())


def test_fewer_examples_than_asked_for_is_a_warning_with_both_numbers(
    command: Any, options: Any, tmp_path: Path
) -> None:
    lines = (EXAMPLES / "qqp" / "validation.jsonl").read_text().splitlines()[:4]
    (tmp_path / "validation.jsonl").write_text("\n".join(lines))
    code, out, err = command(
        "--model", options["model"], "--task", "qqp", "--data", tmp_path, "--examples", 999, "--json"
    )
    assert code == 0
    assert "999 examples were asked for, but" in err
    assert "has 4" in err
    assert "999 examples" in json.loads(out)["maps"]["raw"]["warnings"][0]


def test_a_subnetwork_is_counted_in_the_full_model(options: Any, done: Any, tmp_path: Path) -> None:
    heads = np.zeros((6, 12), dtype=bool)
    heads[2, 3:6] = True
    Subnetwork(heads, np.ones(6, dtype=bool)).save(tmp_path / "s.safetensors")
    result = ClassifyHeads(**options, subnetwork=str(tmp_path / "s.safetensors")).run()
    assert result.summary["heads"] == {"counted": 3, "all": 72}
    assert result.summary["maps"]["raw"]["classified_maps"] == 18
    full = done[0].patterns.to_frame().set_index(["kind", "layer", "head"])
    mine = result.patterns.to_frame().set_index(["kind", "layer", "head"])
    pd.testing.assert_frame_equal(mine, full.loc[mine.index])


@pytest.fixture(scope="module")
def subnetwork(tmp_path_factory: pytest.TempPathFactory) -> str:
    """No head in layer 2, no MLP in layer 1."""
    heads = np.random.default_rng(0).random((6, 12)) < 0.4
    heads[2] = False
    path = tmp_path_factory.mktemp("kept") / "s.safetensors"
    Subnetwork(heads, np.arange(6) != 1).save(path)
    return str(path)


@pytest.fixture(scope="module")
def by_mode(options: dict[str, Any], subnetwork: str) -> dict[str, Any]:
    return {
        mode: ClassifyHeads(**options, subnetwork=subnetwork, subnetwork_mode=mode).run()
        for mode in SUBNETWORK_MODES
    }


def test_closing_and_removing_the_rest_give_the_same_patterns(by_mode: Any, subnetwork: str) -> None:
    frames = {mode: done.patterns.maps_frame() for mode, done in by_mode.items()}
    gate, compacted = frames["gate"], frames["compact"]
    number = Subnetwork.load(subnetwork).n_heads
    columns = [f"prob_{p}" for p in PATTERNS]
    np.testing.assert_allclose(gate[columns], compacted[columns], atol=1e-3)
    assert (gate.label != compacted.label).mean() < 0.01
    assert np.abs(frames["select"][columns] - gate[columns]).to_numpy().max() > 0.1
    for mode, done in by_mode.items():
        assert done.summary["subnetwork_mode"] == mode
        assert done.summary["subnetwork"] == subnetwork
        assert done.summary["heads"] == {"counted": number, "all": 72}
        assert done.summary["provenance"]["model"]["parameters"] == 22_713_216  # of the model that was given
        assert not any("zero" in warning for warning in done.patterns.warnings)


def test_a_compacted_folder_is_a_model(
    options: Any, by_mode: Any, subnetwork: str, minilm: Any, command: Any, tmp_path: Path
) -> None:
    from annotations import AnnotatedMaps

    kept = Subnetwork.load(subnetwork)
    save(compact(minilm.model, kept), tmp_path / "small", tokenizer=minilm.tokenizer)
    found = ClassifyHeads(
        **(options | {"model": str(tmp_path / "small")}), output=tmp_path / "o", save_maps=True
    ).run()
    pd.testing.assert_frame_equal(found.patterns.maps_frame(), by_mode["compact"].patterns.maps_frame())
    assert found.summary["heads"] == {"counted": kept.n_heads, "all": 72}
    assert found.summary["subnetwork_mode"] is None
    assert found.summary["provenance"]["model"]["parameters"] < 22_713_216
    saved = AnnotatedMaps.load(tmp_path / "o" / "maps").info
    assert set(zip(saved["layer"], saved["head"], strict=True)) == set(
        zip(*np.nonzero(kept.heads), strict=True)
    )

    full = tmp_path / "full.safetensors"
    Subnetwork.full(minilm.model).save(full)
    code, out, err = command(
        *(
            "--model",
            tmp_path / "small",
            "--task",
            "qqp",
            "--data",
            EXAMPLES,
            "--examples",
            1,
            "--maps",
            "raw",
        ),
        *("--subnetwork", full, "--subnetwork-mode", "compact", "--json"),
    )
    assert code == 0, err
    assert json.loads(out)["heads"] == {"counted": kept.n_heads, "all": 72}
    assert f"{72 - kept.n_heads} heads and 1 MLPs of the subnetwork were removed" in err


def test_causal_models_say_so_in_output_and_summary(
    command: Any, all_tiny: Any, minilm_folder: str, tmp_path: Path
) -> None:
    model = all_tiny["gpt2"].build()
    model.resize_token_embeddings(30522)
    model.save_pretrained(tmp_path / "gpt2")
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copy(Path(minilm_folder) / name, tmp_path / "gpt2")
    code, out, err = command(
        "--model",
        tmp_path / "gpt2",
        "--task",
        "qqp",
        "--data",
        EXAMPLES,
        "--examples",
        2,
        "--max-length",
        30,
        "--json",
    )
    assert code == 0, err
    for text in (err, " ".join(json.loads(out)["maps"]["norm"]["warnings"])):
        assert "GPT-2 model is causal" in text
        assert "its maps are lower triangular" in text


class TestBadInput:
    """One sentence on stderr, exit code 2, nothing on stdout, nothing written."""

    def refused(self, command: Any, tmp_path: Path, match: str, *words: Any, code: int = 2) -> None:
        before = sorted(tmp_path.rglob("*"))
        got, out, err = command(*words)
        assert got == code
        assert out == ""
        assert match in err
        assert "Traceback" not in err
        assert len(err.strip().splitlines()) == 1
        assert sorted(tmp_path.rglob("*")) == before

    @pytest.fixture
    def good(self, minilm_folder: str, tmp_path: Path) -> list[Any]:
        return ["--model", minilm_folder, "--task", "qqp", "--data", EXAMPLES, "--output", tmp_path / "new"]

    @pytest.mark.parametrize(
        ("words", "match"),
        [
            (["--task", "quora"], "cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte, wnli"),
            (["--data", "no/such/folder/here"], "is not a folder"),
            (["--task", "mnli"], "no mnli/validation.*"),
            (["--split", "train"], "no qqp/train.*"),
            (["--maps", "raw,attention"], "raw, norm"),
            (["--examples", "0"], "at least 1"),
            (["--batch-size", "0"], "at least 1"),
            (["--max-length", "2"], "at least 4"),
            (["--device", "tpu"], "not available"),
            (["--model", "no/such/folder/at/all"], "neither a folder"),
            (["--raw-classifier", str(EXAMPLES)], "not a pattern classifier"),
            (["--subnetwork", "missing.safetensors"], "does not exist"),
            (["--subnetwork-mode", "gate"], "--subnetwork-mode gate needs --subnetwork FILE"),
            (["--subnetwork-mode", "prune"], "give one of select, gate, compact"),
        ],
    )
    def test_options(
        self, command: Any, tmp_path: Path, good: list[Any], words: list[str], match: str, monkeypatch: Any
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        self.refused(command, tmp_path, match, *good, *words)

    def test_an_output_folder_that_holds_something(
        self, command: Any, tmp_path: Path, good: list[Any]
    ) -> None:
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "precious.txt").write_text("x")
        self.refused(command, tmp_path, "is not empty", *good)
        assert (tmp_path / "new" / "precious.txt").read_text() == "x"

    def test_overwriting_what_is_no_earlier_output(
        self, command: Any, tmp_path: Path, good: list[Any]
    ) -> None:
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "thesis.tex").write_text("years of work")
        self.refused(command, tmp_path, "is no earlier output of classify-heads", *good, "--overwrite")
        assert (tmp_path / "new" / "thesis.tex").read_text() == "years of work"

    @pytest.mark.parametrize(
        ("shape", "match"),
        [((12, 12), "has 12 x 12 heads, but the model has 6 x 12"), ((6, 12), "keeps no head")],
    )
    def test_a_subnetwork_that_is_not_of_the_model(
        self, command: Any, tmp_path: Path, good: list[Any], shape: tuple[int, int], match: str
    ) -> None:
        file = tmp_path / "s.safetensors"
        Subnetwork(np.full(shape, shape[0] == 12), np.ones(shape[0], dtype=bool)).save(file)
        self.refused(command, tmp_path, match, *good, "--subnetwork", file)

    def test_seeds_out_of_range(self, command: Any, tmp_path: Path, good: list[Any]) -> None:
        self.refused(command, tmp_path, "--seed -1", *good, "--seed", "-1")

    def test_save_maps_without_output(self, command: Any, tmp_path: Path, good: list[Any]) -> None:
        self.refused(command, tmp_path, "--save-maps needs --output", *good[:-2], "--save-maps")

    def test_a_row_without_the_tasks_columns(self, command: Any, tmp_path: Path, good: list[Any]) -> None:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "validation.jsonl").write_text(
            '{"question1": "a", "question2": "b"}\n{"question1": "c"}\n'
        )
        self.refused(command, tmp_path, "row 2 has no column 'question2'", *good, "--data", tmp_path / "data")

    def test_an_empty_data_folder(self, command: Any, tmp_path: Path, good: list[Any]) -> None:
        (tmp_path / "data").mkdir()
        self.refused(command, tmp_path, "it holds no data files", *good, "--data", tmp_path / "data")

    def test_an_unsupported_architecture(self, command: Any, tmp_path: Path, good: list[Any]) -> None:
        from transformers import FNetConfig

        FNetConfig().save_pretrained(tmp_path / "fnet")
        self.refused(
            command, tmp_path, "families are, from BERT to GPT-Neo", *good, "--model", tmp_path / "fnet"
        )

    def test_a_truncated_model(
        self, command: Any, tmp_path: Path, good: list[Any], minilm_folder: str
    ) -> None:
        (tmp_path / "model").mkdir()
        for path in Path(minilm_folder).iterdir():
            if path.is_file() and path.suffix != ".safetensors":
                shutil.copy(path, tmp_path / "model")
        whole = (Path(minilm_folder) / "model.safetensors").read_bytes()
        (tmp_path / "model" / "model.safetensors").write_bytes(whole[: len(whole) // 2])
        self.refused(command, tmp_path, "truncated or corrupt", *good, "--model", tmp_path / "model")

    def test_a_classifier_of_the_wrong_kind(self, command: Any, tmp_path: Path, good: list[Any]) -> None:
        from patterns.classifier.network import SHIPPED

        self.refused(command, tmp_path, "for norm maps", *good, "--raw-classifier", SHIPPED / "norm")

    def test_interrupted_half_way_nothing_is_left(
        self, command: Any, tmp_path: Path, good: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(stage, "write_results", interrupt)
        self.refused(command, tmp_path, "interrupted", *good, "--examples", 2, code=130)

    def test_a_disk_error_half_way_leaves_nothing(
        self, options: Any, tmp_path: Path, monkeypatch: Any
    ) -> None:
        def full(*_: Any, **__: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(stage, "write_results", full)
        with pytest.raises(OSError, match="No space left"):
            ClassifyHeads(**options, output=tmp_path / "new").run()
        assert not list(tmp_path.iterdir())

    def test_without_network_and_local_data_it_says_how_to_give_data(
        self, command: Any, tmp_path: Path, good: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unreachable(*_: Any, **__: Any) -> None:
            raise ConnectionError("Couldn't reach the Hub")

        monkeypatch.setattr("datasets.load_dataset", unreachable)
        monkeypatch.setattr("datasets.get_dataset_config_names", unreachable)
        without = [word for word in good if word not in ("--data", EXAMPLES)]
        self.refused(command, tmp_path, "give --data DIR with DIR/qqp/validation.jsonl", *without)


def test_help_is_quick_and_shows_an_example() -> None:
    """Quick because nothing heavy is imported; that is what is tested, not a time."""
    code = (
        "import sys\n"
        "sys.argv = ['classify-heads', '--help']\n"
        "from patterns.cli import classify_heads\n"
        "try:\n    classify_heads()\n"
        "finally:\n    print({'torch', 'transformers', 'pandas', 'datasets'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("set()")
    assert "Example: classify-heads --model bert-base-uncased" in " ".join(done.stdout.split())


def test_unknown_options_are_refused_by_the_stage_itself() -> None:
    with pytest.raises(InputError, match="nine GLUE tasks"):
        ClassifyHeads(model="x", task="nope")


class TestTexts:
    """--text: what lies in a plain file, without a task."""

    def run(self, run_command: Any, folder: str, file: Path, *more: Any) -> tuple[int, str, str]:
        words = ["--model", folder, "--text", file, "--maps", "raw", "--device", "cpu", *more]
        found: tuple[int, str, str] = run_command(cli.classify_heads, *words)
        return found

    def test_lines_are_looked_at_as_the_same_rows_of_a_task_are(
        self, run_command: Any, minilm_folder: str, tmp_path: Path
    ) -> None:
        pairs = [
            ("Where is the sun?", "What is the sun?"),
            ("Who are you?", "Who is she?"),
            ("Is it so?", "It is."),
        ]
        (tmp_path / "pairs.txt").write_text("".join(f"{a}\t{b}\r\n" for a, b in pairs) + "\n")
        (tmp_path / "rows").mkdir()
        rows = [{"question1": a, "question2": b} for a, b in pairs]
        (tmp_path / "rows" / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        code, out, err = self.run(
            run_command, minilm_folder, tmp_path / "pairs.txt", "--json", "--output", tmp_path / "o"
        )
        assert code == 0, err
        found = json.loads(out)
        assert (found["task"], found["split"], found["examples"]) == ("pairs.txt", None, 3)
        assert "1 empty lines of" in " ".join(found["maps"]["raw"]["warnings"])
        words = ["--model", minilm_folder, "--task", "qqp", "--data", tmp_path / "rows", "--maps", "raw"]
        code, out, err = run_command(cli.classify_heads, *words, "--device", "cpu", "--json")
        assert code == 0, err
        assert found["maps"]["raw"]["distribution"] == json.loads(out)["maps"]["raw"]["distribution"]
        page = (tmp_path / "o" / "report.html").read_text()
        assert "on pairs.txt" in page
        assert f"--text {tmp_path / 'pairs.txt'}" in page[page.index("annotate-maps sample") :]

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "holds no text"),
            ("a\tb\tc\n", "line 1 has 2 tabs"),
            ("a\tb\n\nc\n", "line 3 has one text, but line 1 two texts"),
            ("a\n\udcff", "cannot be read as a file with one text a line"),
        ],
    )
    def test_what_is_wrong_is_one_sentence(
        self, run_command: Any, minilm_folder: str, tmp_path: Path, text: str, said: str
    ) -> None:
        (tmp_path / "a.txt").write_bytes(text.encode(errors="surrogateescape"))
        code, out, err = self.run(run_command, minilm_folder, tmp_path / "a.txt")
        assert (code, out) == (2, "")
        assert said in err
        assert len(err.splitlines()) == 1

    def test_it_stands_in_the_place_of_a_task(
        self, run_command: Any, minilm_folder: str, tmp_path: Path
    ) -> None:
        (tmp_path / "a.txt").write_text("a b c\n")
        for more in (("--task", "qqp"), ("--data", tmp_path), ("--split", "train")):
            code, _, err = self.run(run_command, minilm_folder, tmp_path / "a.txt", *more)
            assert code == 2
            assert "--text" in err
        code, _, err = run_command(cli.classify_heads, "--model", minilm_folder)
        assert code == 2
        assert "Give either --task" in err


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_result_says_in_which_precision_the_model_was(
    done: Any, options: dict[str, Any], dtype: str
) -> None:
    assert done[0].summary["provenance"]["dtype"] == "float32"
    assert not [said for said in done[0].patterns.warnings if "computes in" in said]
    found = ClassifyHeads(**options, dtype=dtype, control=dtype == "bfloat16").run()
    assert found.summary["provenance"]["dtype"] == dtype
    (said,) = [said for said in found.patterns.warnings if "computes in" in said]
    assert said.startswith(f"The model computes in {dtype}, which moves")
    right = done[0].patterns
    for kind in right.kinds:
        assert found.patterns.distribution(kind) == pytest.approx(right.distribution(kind), abs=0.05)
        assert not np.array_equal(found.patterns.probabilities[kind], right.probabilities[kind])


def test_a_model_that_accelerate_placed_has_the_same_patterns(done: Any, options: dict[str, Any]) -> None:
    found = ClassifyHeads(**options | {"device": "auto"}, device_map="auto").run()
    for kind in found.patterns.kinds:
        right = done[0].patterns.probabilities[kind]
        np.testing.assert_allclose(found.patterns.probabilities[kind], right, atol=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--dtype", "half"), "--dtype half: give one of float32, bfloat16, float16, auto."),
        (("--device-map", "cuda"), "--device-map cuda: give auto, or leave it out."),
        (("--device", "cpu", "--device-map", "auto"), "--device cpu --device-map auto: the map chooses"),
    ],
)
def test_a_precision_or_a_map_that_there_is_not_is_refused(
    command: Any, words: tuple[str, ...], message: str
) -> None:
    code, _, said = command("--model", "nowhere", "--task", "qqp", *words)
    assert code == 2
    assert message in said


class TestAnnotations:
    """``--annotations``: shares from labels of a random sample, and what begins them."""

    @pytest.fixture
    def texts(self, tmp_path: Path) -> Path:
        rng = np.random.default_rng(0)
        words = ["good", "film", "bad", "the", "a", "swift", "sea"]
        path = tmp_path / "texts.txt"
        path.write_text("\n".join(" ".join(rng.choice(words, rng.integers(5, 12))) for _ in range(40)))
        return path

    @pytest.fixture
    def options(self, texts: Path, save_tiny: Any) -> dict[str, Any]:
        return {
            "model": str(save_tiny("bert")),
            "text": texts,
            "device": "cpu",
            "maps": ("raw",),
            "examples": 30,
        }

    @pytest.fixture
    def sample(self, options: dict[str, Any], tmp_path: Path) -> Path:
        """Forty maps, every one labelled as heterogeneous but each fifth."""
        from annotations import AnnotatedMaps, sample_maps
        from annotations.dataset import add_annotations

        folder = tmp_path / "my-maps"
        sample_maps(**options, task=None, count=40, output=folder)
        rows = AnnotatedMaps.load(folder).rows
        labels = ["vertical" if i % 5 == 0 else "heterogeneous" for i in range(len(rows))]
        add_annotations(
            folder,
            pd.DataFrame(
                {"id": one.id, "annotator": "ann", "label": label}
                for one, label in zip(rows, labels, strict=True)
            ),
        )
        return folder

    def test_the_estimate_leads_everywhere(
        self, command: Any, options: dict[str, Any], sample: Path, tmp_path: Path
    ) -> None:
        shown = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        shown[shown.index("('raw',)")] = "raw"
        code, out, _ = command(*shown, "--annotations", str(sample), "--output", str(tmp_path / "out"))
        assert code == 0
        summary = json.loads((tmp_path / "out" / "summary.json").read_text())
        part = summary["maps"]["raw"]
        found = part["estimate"]
        assert (found["labels"], summary["to_estimate"]) == (40, None)
        assert found["predictions"] == part["classified_maps"] == 30 * 12
        assert sum(found["distribution"].values()) == pytest.approx(1)
        assert found["labels_alone"]["interpretable_ratio"] == 32 / 40
        assert abs(found["interpretable_ratio"] - 0.8) < 0.1  # whatever the classifier says
        low, high = found["interpretable_ratio_ci95"]
        alone = found["labels_alone"]["interpretable_ratio_ci95"]
        assert high - low <= alone[1] - alone[0]
        assert summary["annotations"]["files"] == ["annotations.parquet", "maps-00000.parquet", "sample.json"]
        lines = out.splitlines()
        assert lines[1].startswith("Interpretable ratio of raw maps, from 40 labels and 360 predictions: ")
        assert "--strategy random" not in out
        assert "The 95% interval of an estimate covers which maps were labelled" in out.replace("\n", " ")
        page = (tmp_path / "out" / "report.html").read_text()
        assert lines[1] in page
        assert page.index("raw maps, estimate") < page.index("estimated share")
        assert "--strategy random" not in page

    def test_without_labels_the_command_that_begins_it_leads(
        self, command: Any, options: dict[str, Any], tmp_path: Path
    ) -> None:
        shown = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        shown[shown.index("('raw',)")] = "raw"
        code, out, _ = command(*shown, "--output", str(tmp_path / "out"))
        assert code == 0
        summary = json.loads((tmp_path / "out" / "summary.json").read_text())
        begin = summary["to_estimate"]
        assert begin.startswith("annotate-maps sample ")
        assert "--strategy random --count 60 --output my-maps" in begin
        assert out.splitlines()[2].strip() == begin
        assert summary["maps"]["raw"]["estimate"] is None
        page = (tmp_path / "out" / "report.html").read_text()
        assert page.index("--strategy random") < page.index("--strategy uncertain-diverse")

    def test_maps_in_another_precision_have_other_ids(self, options: dict[str, Any], tmp_path: Path) -> None:
        for name, dtype in (("half", "bfloat16"), ("whole", "float32")):
            done = ClassifyHeads(**options, dtype=dtype, output=tmp_path / name, save_maps=True).run()
            assert done.summary["to_estimate"]
        ids = [
            {id for path in (tmp_path / name / "maps").glob("maps-*") for id in pd.read_parquet(path)["id"]}
            for name in ("half", "whole")
        ]
        assert len(ids[0]) == len(ids[1]) == 30 * 12
        assert not ids[0] & ids[1]  # a label of one map is none of the other

    def test_of_a_subnetwork_only_its_heads_labels_count(
        self, options: dict[str, Any], sample: Path, tmp_path: Path
    ) -> None:
        from annotations import AnnotatedMaps
        from models import load_checkpoint

        full = Subnetwork.full(load_checkpoint(options["model"]).model)
        heads = full.heads.copy()
        heads[0] = False
        Subnetwork(heads, full.mlps).save(tmp_path / "kept")
        done = ClassifyHeads(**options, annotations=sample, subnetwork=str(tmp_path / "kept")).run()
        info = AnnotatedMaps.load(sample).info
        assert done.patterns.estimates["raw"].labels == (info["layer"] > 0).sum()
        assert done.patterns.estimates["raw"].predictions == 30 * heads.sum()

    def test_labels_of_the_model_are_not_those_of_a_gated_one_nor_of_another(
        self, options: dict[str, Any], sample: Path, save_tiny: Any
    ) -> None:
        with pytest.raises(InputError, match="not of one with --subnetwork-mode gate"):
            ClassifyHeads(**options, annotations=sample, subnetwork="x", subnetwork_mode="gate")
        other = options | {"model": str(save_tiny("bert", labels=2))}
        with pytest.raises(InputError, match="is a sample of another model"):
            ClassifyHeads(**other, annotations=sample).run()

    def test_too_few_labels_are_no_estimate(self, options: dict[str, Any], sample: Path) -> None:
        table = pd.read_parquet(sample / "annotations.parquet")
        table.iloc[:6].to_parquet(sample / "annotations.parquet")
        with pytest.raises(
            InputError, match=r"6 raw maps of the heads that are counted, .* takes 10 at least"
        ):
            ClassifyHeads(**options, annotations=sample).run()
