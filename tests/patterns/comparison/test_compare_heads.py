"""compare-heads: transitions and distances against slow definitions, whole runs on tiny models, bad input."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from models import InputError, Subnetwork
from models.checkpoints import load_checkpoint
from models.compaction import compact
from models.saving import save
from models.tasks.rows import select_rows
from models.tasks.source import RowSource
from patterns import HeadPatterns, classify_heads, compare_heads
from patterns.cli import compare_heads as command
from patterns.comparison.job import CompareHeads, weights_digest
from patterns.comparison.paired import Pair, crossed_ci95, js_distance
from patterns.taxonomy import PATTERNS

TEXT = "\n".join(
    f"the film was {word} but {word} so long and it is the plot" for word in ("good", "bad", "really")
)


def made_up(
    labels: np.ndarray, examples: list[int] | None = None, heads: np.ndarray | None = None
) -> HeadPatterns:
    """Labels ``[E, L, H]``."""
    labels = labels.astype(np.int8)
    return HeadPatterns(
        {"raw": labels},
        {"raw": np.where((labels >= 0)[..., None], 0.2, np.nan).repeat(5, axis=-1).astype(np.float32)},
        np.array(examples or range(len(labels))),
        np.full(len(labels), 9),
        np.ones(labels.shape[1:], dtype=bool) if heads is None else heads,
    )


@pytest.fixture
def labels() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 5, (12, 2, 3))
    b = np.where(rng.random(a.shape) < 0.6, a, rng.integers(0, 5, a.shape))
    a[3, 0, 1] = b[4, 1, 2] = -1
    return a, b


def test_transitions_count_every_map_that_has_a_pattern_in_both(labels: Any) -> None:
    a, b = labels
    found = Pair(made_up(a), made_up(b), ("a", "b")).changes("raw")
    pairs = [(int(x), int(y)) for x, y in zip(a.ravel(), b.ravel(), strict=True) if x >= 0 and y >= 0]
    assert found["maps"] == len(pairs) == 70
    for i, one in enumerate(PATTERNS):
        for j, other in enumerate(PATTERNS):
            cell = found["transitions"][one][other]
            assert cell["maps"] == pairs.count((i, j))
            assert cell["share"] == pytest.approx(pairs.count((i, j)) / 70)
            low, high = cell["ci95"]
            assert low is not None
            assert high is not None
            assert low <= cell["share"] <= high
        change = found["patterns"][one]
        assert change["a"] == pytest.approx(sum(x == i for x, _ in pairs) / 70)
        assert change["b"] == pytest.approx(sum(y == i for _, y in pairs) / 70)
        assert change["change"] == pytest.approx(change["b"] - change["a"])  # type: ignore[operator]
    assert found["agreement"] == pytest.approx(sum(x == y for x, y in pairs) / 70)


def test_each_heads_agreement_distance_and_dominant_patterns(labels: Any) -> None:
    a, b = labels
    frame = Pair(made_up(a), made_up(b), ("a", "b")).frame("raw")
    assert len(frame) == 6
    for row in frame.itertuples():
        x, y = a[:, row.layer, row.head], b[:, row.layer, row.head]
        both = (x >= 0) & (y >= 0)
        assert row.maps == both.sum()
        assert row.agreement == pytest.approx((x == y)[both].mean())
        p, q = (np.array([(of[of >= 0] == i).mean() for i in range(5)]) for of in (x, y))
        middle = (p + q) / 2
        divergence = sum(
            0.5 * (of * np.log2(of / middle, where=of > 0, out=np.zeros(5))).sum() for of in (p, q)
        )
        assert row.js_distance == pytest.approx(np.sqrt(max(divergence, 0)), abs=1e-6)
        assert row.dominant_a == PATTERNS[int(np.argmax(p))]
        assert row.changed == (np.argmax(p) != np.argmax(q))
        assert row.dominant_share_change == pytest.approx(q.max() - p.max())
    found = Pair(made_up(a), made_up(b), ("a", "b")).changes("raw")
    assert found["changed"] == [[row.layer, row.head] for row in frame.itertuples() if row.changed]
    assert found["js_distance"] == pytest.approx(frame["js_distance"].mean())
    assert sum(sum(row.values()) for row in found["dominant"].values()) == 6


def test_distances_go_from_0_to_1() -> None:
    one, other = np.eye(5)[[0, 0]], np.eye(5)[[0, 3]]
    assert js_distance(one, other).tolist() == [0.0, 1.0]
    assert np.isnan(js_distance(np.full((1, 5), np.nan), one[:1]))


def test_intervals_resample_heads_and_inputs() -> None:
    """Of values that differ by head alone the interval is that of a mean of heads; likewise of inputs."""
    rng = np.random.default_rng(1)
    for axis in (0, 1):
        values = np.zeros((1, 40, 40)) + np.expand_dims(rng.normal(size=40), (0, 2 - axis))
        low, high = crossed_ci95(values, seed=2)[0]
        spread = values[0].mean(axis=1 - axis).std() / np.sqrt(40)
        assert (high - low) / 2 == pytest.approx(1.96 * spread, rel=0.15)
        assert low < values.mean() < high
    both = rng.normal(size=(40, 1)) + rng.normal(size=(1, 40))
    low, high = crossed_ci95(both[None])[0]
    spread = np.hypot(both.mean(axis=1).std(), both.mean(axis=0).std()) / np.sqrt(40)
    assert (high - low) / 2 == pytest.approx(1.96 * spread, rel=0.15)
    weights = np.ones((40, 40))
    weights[0] = 0
    values = np.ones((1, 40, 40))
    values[0, 0] = np.nan
    assert crossed_ci95(values, weights).tolist() == [[1.0, 1.0]]
    assert np.isnan(crossed_ci95(np.ones((1, 1, 9)))).all()


def test_inputs_and_heads_are_matched_by_their_numbers() -> None:
    a, b = np.zeros((3, 1, 2)), np.ones((3, 1, 2))
    b[1] = 0
    one = made_up(a, [4, 7, 9])
    other = made_up(b, [9, 4, 11], np.array([[True, False]]))
    pair = Pair(one, other, ("a", "b"))
    assert pair.heads.tolist() == [[True, False]]
    found = pair.changes("raw")
    assert found["maps"] == 2  # inputs 4 and 9
    assert found["transitions"]["vertical"]["vertical"]["maps"] == 1  # input 4
    assert found["transitions"]["vertical"]["diagonal"]["maps"] == 1
    with pytest.raises(InputError, match="a and b have no usable input in common"):
        Pair(one, made_up(b, [1, 2, 3]), ("a", "b"))
    with pytest.raises(InputError, match="no head in common"):
        Pair(replace(one, heads=np.array([[False, True]])), other, ("a", "b"))
    with pytest.raises(InputError, match=r"a has 1 x 2 heads .*, but b has 2 x 2"):
        Pair(one, made_up(np.zeros((3, 2, 2))), ("a", "b"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, all_tiny: Any, tiny_tokenizer: Any) -> Path:
    """Folders ``one``, ``other`` (its last layer's queries turned round), ``same``, ``smaller``, ``shallow``."""
    folder = tmp_path_factory.mktemp("models")
    model = all_tiny["bert"].build()
    model.save_pretrained(folder / "one")
    model.save_pretrained(folder / "same")
    save(compact(model, Subnetwork(np.array([[True] * 4, [True, False, True, True], [False] * 4]),
                                   np.array([True, True, False])), unshare=True),
         folder / "smaller", tokenizer=tiny_tokenizer, plain=True)  # fmt: skip
    with torch.no_grad():
        model.encoder.layer[2].attention.self.query.weight.mul_(-3)
    model.save_pretrained(folder / "other")
    from transformers import AutoModel

    config = all_tiny["bert"].config.__class__(**all_tiny["bert"].config.to_diff_dict())
    config.num_hidden_layers = 2
    AutoModel.from_config(config).save_pretrained(folder / "shallow")
    for name in ("one", "same", "other", "shallow"):
        tiny_tokenizer.save_pretrained(folder / name)
    (folder / "texts.txt").write_text(TEXT)
    return folder


def compared(home: Path, *names: str, **options: Any) -> Any:
    given = {"text": home / "texts.txt", "examples": 3, "device": "cpu"} | options
    return compare_heads(*(home / name for name in names), **given)


def test_only_the_layer_that_was_changed_differs(home: Path, tmp_path: Path) -> None:
    done = compared(home, "one", "other", output=tmp_path / "out")
    frame = done.to_frame()
    pd.testing.assert_frame_equal(done.to_dataset().to_pandas(), frame, check_dtype=False)
    below = frame[frame["layer"] < 2]
    assert (below["agreement"] == 1).all()
    assert (below["js_distance"] == 0).all()
    assert not below["changed"].any()
    assert (below["previous_change"].abs() < 1e-6).all()
    last = frame[frame["layer"] == 2]
    assert (last["attention_entropy_change"].abs() > 1e-3).any()
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary == done.summary
    (pair,) = summary["pairs"]
    assert (pair["heads"], pair["only_a"], pair["only_b"], pair["other_tokens"]) == (12, 0, 0, 0)
    assert list(pair["maps"]) == ["raw", "norm"]
    measured = pair["maps"]["raw"]["measurements"]["entropy"]
    layer = frame[(frame["kind"] == "raw")]
    assert measured["change"] == pytest.approx(layer["attention_entropy_change"].mean(), abs=1e-6)
    saved = pd.read_parquet(tmp_path / "out" / "changes.parquet")
    pd.testing.assert_frame_equal(saved, frame)
    transitions = pd.read_csv(tmp_path / "out" / "transitions.csv")
    assert transitions.groupby("kind")["maps"].sum().tolist() == [36, 36]
    html = (tmp_path / "out" / "report.html").read_text()
    assert "The same heads side by side" in html
    assert "compare-heads " in html
    assert (tmp_path / "out" / "grids.png").read_bytes().startswith(b"\x89PNG")
    assert len({one["weights"] for one in summary["provenance"]["models"]}) == 2


def test_the_same_weights_are_said_and_nothing_differs(home: Path) -> None:
    done = compared(home, "one", "same", "other", maps="raw")
    assert any(
        "one and " in message and "same hold the same weights" in message
        for message in done.summary["warnings"]
    )
    names = [(Path(one["a"]).name, Path(one["b"]).name) for one in done.summary["pairs"]]
    assert names == [("one", "same"), ("same", "other"), ("one", "other")]
    first = done.summary["pairs"][0]["maps"]["raw"]
    assert first["agreement"] == 1
    assert first["changed"] == []
    assert {one["change"] for one in first["measurements"].values()} <= {0.0, None}
    assert done.summary["pairs"][1]["maps"] == done.summary["pairs"][2]["maps"]


def test_a_compacted_model_is_compared_by_the_heads_that_it_has_left(home: Path) -> None:
    done = compared(home, "one", "smaller", maps="raw")
    (pair,) = done.summary["pairs"]
    assert (pair["heads"], pair["only_a"], pair["only_b"]) == (7, 5, 0)
    frame = done.to_frame()
    places = set(zip(frame["layer"], frame["head"], strict=True))
    assert places == {(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 2), (1, 3)}
    # The first layer reads what it read before.
    assert (frame[frame["layer"] == 0]["agreement"] == 1).all()
    assert any("5 heads that" in message and "left out" in message for message in done.summary["warnings"])


def test_models_of_different_shape_are_refused_by_name(home: Path, tmp_path: Path, run_command: Any) -> None:
    code, _, err = run_command(
        command, home / "one", home / "shallow", "--text", home / "texts.txt", "--output", tmp_path / "out"
    )
    assert code == 2
    assert f"{home / 'one'} has 3 x 4 heads (layers x heads), but {home / 'shallow'} has 2 x 4" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("models", "options", "told"),
    [
        (("a",), {}, "Give two models or more"),
        (("a", "b"), {"revisions": "step1,step2"}, "--revisions are of one model"),
        (("a",), {"revisions": "step1"}, "--revisions step1: give two or more"),
        (("a",), {"revisions": ("step1", "step1")}, "give each model or revision once"),
        (("a", "a"), {}, "give each model or revision once"),
        (("a", "b"), {"examples": 0}, "--examples 0"),
        (("a", "b"), {"stack": "middle"}, "--stack middle"),
        (("a", "b"), {"text": None}, "Give either --task"),
    ],
)
def test_what_cannot_be_compared_is_refused(models: Any, options: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=told):
        compare_heads(*models, **{"text": tmp_path / "t.txt", **options})


def test_revisions_are_of_one_model_with_commas_or_without() -> None:
    for given in (("step1,step2", "main"), ("step1", "step2", "main")):
        job = CompareHeads(("org/model",), given, text=Path("t.txt"))
        assert job.sources == [("org/model", one, one) for one in ("step1", "step2", "main")]


def test_revisions_are_loaded_one_by_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from patterns.comparison import job as module

    asked = []

    def load(name: str, revision: str | None, device: Any, **options: Any) -> Any:
        asked.append((name, revision))
        checkpoint = original(str(home / {"step1": "one", "step2": "same", "step3": "other"}[str(revision)]))
        return replace(checkpoint, name=name, revision=revision)

    original = module.load_checkpoint
    monkeypatch.setattr(module, "load_checkpoint", load)
    done = compare_heads(
        "org/model",
        revisions="step1,step2,step3",
        text=home / "texts.txt",
        examples=3,
        maps="raw",
        device="cpu",
    )
    assert asked == [("org/model", f"step{i}") for i in (1, 2, 3)]
    assert done.summary["models"] == ["step1", "step2", "step3"]
    assert any("step1 and step2 hold the same weights" in message for message in done.summary["warnings"])


def test_precision_and_placement_are_those_of_classify_heads(
    home: Path, tmp_path: Path, run_command: Any
) -> None:
    """In bfloat16 the numbers are those of models cast by hand; spread by accelerate they are as before."""
    plain = compared(home, "one", "other", maps="raw")
    cast = compared(home, "one", "other", maps="raw", dtype="bfloat16")
    placed = compared(home, "one", "other", maps="raw", device="auto", device_map="auto")
    said = [one.summary["provenance"]["models"][0] for one in (plain, cast, placed)]
    assert [one["dtype"] for one in said] == ["float32", "bfloat16", "float32"]
    assert [one["device_map"] for one in said] == [None] * 3  # all fits on one device
    assert said[0]["weights"] == said[2]["weights"] != said[1]["weights"]
    assert placed.summary["pairs"] == plain.summary["pairs"]
    checkpoint = load_checkpoint(str(home / "one"))
    task, lines = RowSource(None, None, "validation", home / "texts.txt").load()
    rows = select_rows(lines.numbered(), task, 3, 0)
    found = classify_heads(
        checkpoint.model.bfloat16(), checkpoint.tokenizer, rows, task=task, kinds=("raw",), seed=0
    )
    np.testing.assert_array_equal(cast.patterns[0].labels["raw"], found.labels["raw"])
    assert any("computes in bfloat16" in message for message in cast.summary["warnings"])
    code, out, err = run_command(
        command, home / "one", home / "other", "--text", home / "texts.txt", "--dtype", "bfloat16", "--json",
        "--maps", "raw", "--examples", 3, "--device", "cpu", "--output", tmp_path / "out",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["pairs"] == cast.summary["pairs"]
    assert "--dtype bfloat16" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"dtype": "float64"}, "--dtype float64: give one of float32, bfloat16, float16, auto"),
        ({"device_map": "balanced"}, "--device-map balanced: give auto, or leave it out"),
        ({"device_map": "auto", "device": "cpu"}, "--device cpu --device-map auto: the map chooses devices"),
    ],
)
def test_precisions_and_placements_that_there_are_not_are_refused(options: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        CompareHeads(("a", "b"), text=Path("t.txt"), **options)


def test_weights_that_accelerate_left_on_the_disk_are_known_by_their_numbers(
    home: Path, tmp_path: Path
) -> None:
    from accelerate import disk_offload
    from transformers import AutoModel

    model = AutoModel.from_pretrained(home / "one")
    before = weights_digest(model)
    disk_offload(model, tmp_path, execution_device="cpu")
    assert any(weight.is_meta for weight in model.parameters())
    assert weights_digest(model) == before
    assert weights_digest(AutoModel.from_pretrained(home / "other")) != before


def test_models_of_two_precisions_are_warned_of(home: Path, tmp_path: Path) -> None:
    from transformers import AutoModel

    AutoModel.from_pretrained(home / "one").half().save_pretrained(tmp_path / "half")
    for file in home.joinpath("one").glob("token*"):
        shutil.copy(file, tmp_path / "half")
    done = compared(home, "one", str(tmp_path / "half"), maps="raw", dtype="auto")
    assert any(
        "computes in float32 and" in message and "computes in float16: what differs may be" in message
        for message in done.summary["warnings"]
    )
    assert not any("computes in float32 and" in m for m in compared(home, "one", "other").summary["warnings"])


def test_the_command_prints_and_repeats_byte_by_byte(home: Path, tmp_path: Path, run_command: Any) -> None:
    given = (home / "one", home / "other", "--text", home / "texts.txt", "--examples", 3, "--maps", "raw",
             "--device", "cpu")  # fmt: skip
    for name in "ab":
        code, out, err = run_command(command, *given, "--output", tmp_path / name)
        assert code == 0, err
    assert "raw maps: pattern in" in out
    assert "previous" in out
    for file in ("changes.parquet", "transitions.csv", "grids.png"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    shutil.rmtree(tmp_path / "b")
    code, out, _ = run_command(command, *given, "--json")
    assert code == 0
    found = json.loads(out)
    assert {**found, "provenance": 0} == {
        **json.loads((tmp_path / "a" / "summary.json").read_text()),
        "provenance": 0,
    }


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_heads_of_an_encoder_decoder_are_compared_by_stack(
    stack: str, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    from tiny import redraw
    from transformers import AutoModel, BartConfig

    config = BartConfig(
        vocab_size=60, d_model=24, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=40,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=2,
    )  # fmt: skip
    model = redraw(AutoModel.from_config(config))
    for name in ("one", "other"):
        model.save_pretrained(tmp_path / name)
        tiny_tokenizer.save_pretrained(tmp_path / name)
        with torch.no_grad():
            model.encoder.layers[1].self_attn.q_proj.weight.mul_(-3)
    (tmp_path / "texts.txt").write_text(TEXT)
    done = compared(tmp_path, "one", "other", stack=stack, maps="raw")
    changed = done.to_frame().groupby("layer")["attention_entropy_change"].apply(lambda of: of.abs().max())
    assert changed[0] < 1e-5
    assert changed[1] > 1e-3  # of the decoder, since its first layer reads the encoder
    types = {one["type"] for one in done.summary["provenance"]["models"]}
    assert types == {"bart"}
    assert any(f"heads of the {stack}" in message for message in done.summary["warnings"])
