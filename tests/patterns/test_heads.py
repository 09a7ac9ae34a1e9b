"""Patterns of every head of the real model, checked against the slow way: one input, one head at a time."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from models import InputError, Subnetwork, UnsupportedModelError, compact, gated, observe
from models.anatomy import anatomy_of
from patterns import PatternClassifier, attention_maps, classify_heads, load_classifier
from patterns.heads import Classification
from patterns.maps.examples import SIDE, ExampleMaps
from patterns.result import errors_elsewhere
from patterns.taxonomy import PATTERNS

ROWS = [
    {
        "question1": "Why does my cat sleep on the keyboard?",
        "question2": "Why do cats like laptops?",
        "idx": 30,
    },
    {
        "question1": "How long does paint need to dry",
        "question2": "when can i paint the second coat?",
        "idx": 11,
    },
    {
        "question1": "Our village choir lost its conductor in spring, and since then nobody can agree on who should "
        "lead the rehearsals. How do other amateur choirs decide?",
        "question2": "How is a new conductor chosen?",
        "idx": 42,
    },
    {"question1": "Is seven prime?", "question2": "Are all odd numbers prime?", "idx": 7},
    {
        "question1": "What is a good first telescope?",
        "question2": "Which telescope for a child of nine?",
        "idx": 5,
    },
]


@pytest.fixture(scope="module")
def found(minilm: Any) -> Any:
    return classify_heads(minilm.model, minilm.tokenizer, ROWS, task="QQP", batch_size=3)


def test_every_map_is_classified_as_on_its_own(minilm: Any, found: Any) -> None:
    classifiers = {kind: load_classifier(kind) for kind in ("raw", "norm")}
    for e, row in enumerate(ROWS):
        batch = minilm.tokenizer(row["question1"], row["question2"], return_tensors="pt")
        assert found.n_tokens[e] == batch["input_ids"].shape[1]
        for layer, kind, maps, _ in attention_maps(minilm.model, batch):
            alone = classifiers[kind].predict_proba(list(maps[0]))
            np.testing.assert_allclose(found.probabilities[kind][e, layer], alone, atol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_batch_size_does_not_matter(minilm: Any, found: Any, batch_size: int) -> None:
    again = classify_heads(minilm.model, minilm.tokenizer, ROWS, task="qqp", batch_size=batch_size)
    for kind in found.kinds:
        same(again, found, kind)


def test_row_order_does_not_matter(minilm: Any, found: Any) -> None:
    order = [3, 0, 4, 2, 1]
    again = classify_heads(minilm.model, minilm.tokenizer, [ROWS[i] for i in order], task="qqp", batch_size=2)
    assert again.examples.tolist() == [ROWS[i]["idx"] for i in order]
    back = np.argsort(order)
    for kind in found.kinds:
        np.testing.assert_allclose(again.probabilities[kind][back], found.probabilities[kind], atol=1e-4)
        assert again.distribution(kind) == pytest.approx(found.distribution(kind), abs=2e-3)
        assert again.interpretable_ratio_ci95(kind) == pytest.approx(
            found.interpretable_ratio_ci95(kind), abs=3e-3
        )


def same(one: Any, other: Any, kind: str) -> None:
    np.testing.assert_allclose(one.probabilities[kind], other.probabilities[kind], atol=1e-4)
    differ = one.labels[kind] != other.labels[kind]
    top = np.sort(one.probabilities[kind], axis=-1)
    assert ((top[..., -1] - top[..., -2])[differ] < 2e-4).all()  # labels differ only where two are tied


def test_the_same_call_gives_the_same_numbers(minilm: Any, found: Any) -> None:
    again = classify_heads(minilm.model, minilm.tokenizer, ROWS, task="qqp", batch_size=3)
    for kind in found.kinds:
        assert np.array_equal(again.probabilities[kind], found.probabilities[kind])
        assert again.interpretable_ratio_ci95(kind) == found.interpretable_ratio_ci95(kind)


def test_the_model_and_the_tokenizer_are_left_as_they_were(minilm: Any, found: Any) -> None:
    assert minilm.model.config._attn_implementation == "sdpa"
    whole = minilm.tokenizer("word " * 300)["input_ids"]
    classify_heads(minilm.model, minilm.tokenizer, [("word " * 300, None)], max_length=20)
    assert minilm.tokenizer("word " * 300)["input_ids"] == whole


def test_frames_say_the_same_as_the_arrays(found: Any) -> None:
    maps, heads = found.maps_frame(), found.to_frame()
    assert list(maps.columns) == [
        "kind", "example", "layer", "head", "n_tokens", "label", *(f"prob_{p}" for p in PATTERNS),
    ]  # fmt: skip
    assert len(maps) == 2 * len(ROWS) * 72
    pd.testing.assert_frame_equal(found.to_dataset().to_pandas(), maps, check_dtype=False)
    assert len(heads) == 2 * 72
    for row in maps.sample(60, random_state=0).to_dict("records"):
        e = [r["idx"] for r in ROWS].index(row["example"])
        where = (e, row["layer"], row["head"])
        assert row["label"] == PATTERNS[found.labels[row["kind"]][where]]
        assert row["n_tokens"] == found.n_tokens[e]
        expected = found.probabilities[row["kind"]][where]
        np.testing.assert_array_equal([row[f"prob_{p}"] for p in PATTERNS], expected)
    counted = maps.groupby(["kind", "layer", "head"]).label.apply(lambda labels: (labels == "vertical").sum())
    assert counted.to_dict() == heads.set_index(["kind", "layer", "head"]).count_vertical.to_dict()
    for kind in found.kinds:
        shares = maps[maps.kind == kind].label.value_counts(normalize=True)
        assert found.distribution(kind) == pytest.approx(
            {p.value: shares.get(p.value, 0.0) for p in PATTERNS}
        )
        assert found.interpretable_ratio(kind) == pytest.approx(shares.get("heterogeneous", 0.0))
        low, high = found.interpretable_ratio_ci95(kind)
        assert low <= found.interpretable_ratio(kind) <= high


def test_selecting_a_subnetwork_counts_its_heads_only(found: Any) -> None:
    heads = np.zeros((6, 12), dtype=bool)
    heads[0, 3] = heads[5, [0, 11]] = True
    some = found.select(Subnetwork(heads, np.ones(6, dtype=bool)))
    assert list(zip(some.to_frame().layer, some.to_frame()["head"], strict=True)) == 2 * [
        (0, 3),
        (5, 0),
        (5, 11),
    ]
    assert set(zip(some.maps_frame().layer, some.maps_frame()["head"], strict=True)) == {
        (0, 3),
        (5, 0),
        (5, 11),
    }
    labels = found.labels["raw"][:, heads]
    assert some.interpretable_ratio("raw") == pytest.approx((labels == 4).mean())
    everything = found.select(Subnetwork(np.ones((6, 12), dtype=bool), np.ones(6, dtype=bool)))
    assert everything.distribution("norm") == found.distribution("norm")


def test_a_subnetwork_of_another_model_or_without_heads_is_refused(found: Any) -> None:
    with pytest.raises(InputError, match="12 x 12 heads, but the model has 6 x 12"):
        found.select(Subnetwork(np.ones((12, 12), dtype=bool), np.ones(12, dtype=bool)))
    with pytest.raises(InputError, match="keeps no head"):
        found.select(Subnetwork(np.zeros((6, 12), dtype=bool), np.ones(6, dtype=bool)))


def test_one_kind_can_be_asked_for(minilm: Any, found: Any) -> None:
    norm = classify_heads(minilm.model, minilm.tokenizer, ROWS, task="qqp", kinds=["norm"], batch_size=3)
    assert norm.kinds == ("norm",)
    same(norm, found, "norm")
    with pytest.raises(InputError, match="only norm"):
        norm.distribution("raw")


def test_plain_texts_and_pairs_need_no_task(minilm: Any, found: Any) -> None:
    pairs = [(row["question1"], row["question2"]) for row in ROWS]
    again = classify_heads(minilm.model, minilm.tokenizer, pairs, batch_size=3)
    assert again.examples.tolist() == [0, 1, 2, 3, 4]
    same(again, found, "raw")
    single = classify_heads(minilm.model, minilm.tokenizer, [("Only one sentence here.", None)])
    assert np.isnan(single.interpretable_ratio_ci95("raw")).all()


def test_too_long_and_too_short_inputs_are_counted_and_said(minilm: Any) -> None:
    rows = [
        ("word " * 40, None),
        ("", None),
        ("two words", None),
        ("some more words than the others have", None),
    ]
    found = classify_heads(minilm.model, minilm.tokenizer, rows, max_length=16)
    assert found.examples.tolist() == [0, 2, 3]
    assert found.n_tokens.tolist() == [16, 4, 9]
    said = " ".join(found.warnings)
    assert "1 of 4 examples had more than 16 tokens and were cut to 16" in said
    assert "1 of 4 examples had fewer than 4 tokens" in said
    assert "2 of 4 examples have fewer than 14 tokens" in said


def test_inputs_longer_than_the_model_can_read_are_cut_to_its_limit(minilm: Any) -> None:
    found = classify_heads(
        minilm.model, minilm.tokenizer, [("word " * 900, None)], kinds=["raw"], max_length=4000
    )
    assert found.n_tokens.tolist() == [512]
    assert "cut to 512" in found.warnings[0]


def test_attention_that_is_not_finite_is_refused(tiny_bert: Any, minilm: Any) -> None:
    tiny_bert.resize_token_embeddings(30522)
    with torch.no_grad():
        tiny_bert.encoder.layer[1].attention.self.query.weight[0, 0] = float("nan")
    with pytest.raises(InputError, match="maps are not finite, first layer 1, head 0 on example 30"):
        classify_heads(tiny_bert, minilm.tokenizer, ROWS, task="qqp", max_length=30)


@pytest.fixture(scope="module")
def without_one(minilm: Any) -> Any:
    """The real model with a head that puts nothing out: layer 2, head 0."""
    model = copy.deepcopy(minilm.model)
    with torch.no_grad():
        model.encoder.layer[2].attention.output.dense.weight[:, :32] = 0
    return model


def test_maps_of_a_head_without_weights_have_no_pattern_and_do_not_count(
    without_one: Any, minilm: Any
) -> None:
    examples = ExampleMaps()
    found = classify_heads(without_one, minilm.tokenizer, ROWS, task="qqp", examples=examples)
    said = " ".join(found.warnings)
    assert "5 norm maps, all maps of 1 heads among them, are zero in every cell" in said
    assert "raw maps are zero" not in said
    assert (found.labels["norm"] == -1).sum() == (found.labels["norm"][:, 2, 0] == -1).sum() == 5
    assert np.isnan(found.probabilities["norm"][:, 2, 0]).all()
    assert (found.empty_maps("raw"), found.empty_maps("norm")) == (0, 5)
    kept = np.ones((6, 12), dtype=bool)
    kept[2, 0] = False
    rest = found.select(Subnetwork(kept, np.ones(6, dtype=bool)))
    assert found.distribution("norm") == rest.distribution("norm")
    assert found.interpretable_ratio_ci95("norm") == rest.interpretable_ratio_ci95("norm")
    maps = found.maps_frame()
    gone = maps[(maps["kind"] == "norm") & (maps["layer"] == 2) & (maps["head"] == 0)]
    assert gone["label"].isna().all()
    assert gone["prob_block"].isna().all()
    assert maps["label"].isna().sum() == 5
    assert not [one for one, _ in examples.of_heads() if (one.kind, one.layer, one.head) == ("norm", 2, 0)]
    with pytest.raises(InputError, match="All norm maps of the 1 heads counted are zero"):
        found.select(Subnetwork(~kept, np.ones(6, dtype=bool))).distribution("norm")


def test_few_examples_come_with_a_warning_of_what_the_interval_covers(minilm: Any) -> None:
    def said(number: int) -> str:
        rows = [(f"sentence number {i} of several", None) for i in range(number)]
        return " ".join(classify_heads(minilm.model, minilm.tokenizer, rows, kinds=["raw"]).warnings)

    assert "29 examples are few" in said(29)
    assert "which examples were drawn, alone" in said(29)
    assert "are few" not in said(30)


def half(layers: int, heads: int) -> Subnetwork:
    """No head in layer 1, about half of the others, and no MLP in layer 0."""
    kept = np.random.default_rng(4).random((layers, heads)) < 0.5
    kept[1] = False
    return Subnetwork(kept, np.arange(layers) > 0)


def same_where_counted(one: Any, other: Any) -> None:
    """Of what is counted, and nothing else is: what stands elsewhere means nothing."""
    assert np.array_equal(one.heads, other.heads)
    for kind in one.kinds:
        a, b = (found.probabilities[kind][:, found.heads] for found in (one, other))
        np.testing.assert_allclose(a, b, atol=1e-3)
        top = np.sort(a, axis=-1)
        tied = top[..., -1] - top[..., -2] < 2e-3
        assert (one.labels[kind][:, one.heads] == other.labels[kind][:, one.heads])[~tied].all()
        assert tied.mean() < 0.1


def test_the_heads_left_in_a_compacted_model_are_those_of_the_gated_one(minilm: Any, found: Any) -> None:
    kept = half(6, 12)
    small = classify_heads(compact(minilm.model, kept), minilm.tokenizer, ROWS, task="qqp", batch_size=3)
    with gated(minilm.model, heads=kept.heads, mlps=kept.mlps):
        closed = classify_heads(minilm.model, minilm.tokenizer, ROWS, task="qqp", batch_size=3)
    same_where_counted(small, closed.select(kept))
    assert small.warnings == closed.warnings  # no empty maps
    for frame in (small.to_frame(), small.maps_frame()):
        assert set(zip(frame["layer"], frame["head"], strict=True)) == set(
            zip(*np.nonzero(kept.heads), strict=True)
        )
    assert small.interpretable_ratio("norm") == pytest.approx(
        closed.select(kept).interpretable_ratio("norm"), abs=0.03
    )
    assert not np.allclose(
        small.probabilities["raw"][:, kept.heads], found.probabilities["raw"][:, kept.heads], atol=0.1
    )


@pytest.mark.parametrize("name", ["bert", "albert", "modernbert", "gpt2", "llama"])
def test_compacted_and_gated_agree_in_other_families(all_tiny: Any, minilm: Any, name: str) -> None:
    model = all_tiny[name].build()
    model.resize_token_embeddings(30522)
    layers, heads = Subnetwork.full(model).heads.shape
    kept = half(layers, heads)
    options: Any = {"task": "qqp", "kinds": ["norm"], "max_length": 30}
    small = classify_heads(compact(model, kept, unshare=True), minilm.tokenizer, ROWS, **options)
    with gated(model, heads=kept.heads, mlps=kept.mlps):
        closed = classify_heads(model, minilm.tokenizer, ROWS, **options)
    same_where_counted(small, closed.select(kept))


def test_a_model_without_heads_is_refused(minilm: Any) -> None:
    nothing = Subnetwork(np.zeros((6, 12), dtype=bool), np.ones(6, dtype=bool))
    with pytest.raises(InputError, match="no attention head left"):
        classify_heads(compact(minilm.model, nothing), minilm.tokenizer, ROWS, task="qqp")


def test_a_model_of_one_segment_type_is_fed_zeros(all_tiny: Any, minilm: Any) -> None:
    config = copy.deepcopy(all_tiny["bert"].config)
    config.type_vocab_size, config.vocab_size = 1, 30522
    model = dataclasses.replace(all_tiny["bert"], config=config).build()
    found = classify_heads(model, minilm.tokenizer, ROWS, task="qqp", max_length=30)
    tokenizer = copy.deepcopy(minilm.tokenizer)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]  # the library then takes zeros
    plain = classify_heads(model, tokenizer, ROWS, task="qqp", max_length=30)
    for kind in ("raw", "norm"):
        np.testing.assert_array_equal(found.probabilities[kind], plain.probabilities[kind])


def test_nothing_usable_is_refused(minilm: Any) -> None:
    with pytest.raises(InputError, match="None of the 2 rows"):
        classify_heads(minilm.model, minilm.tokenizer, [("", None), ("", None)])
    with pytest.raises(InputError, match="None of the 0 rows"):
        classify_heads(minilm.model, minilm.tokenizer, [])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"task": "qqqp"}, "nine GLUE tasks"),
        ({"task": "mnli"}, "premise"),
        ({"kinds": ["rollout"]}, "raw, norm"),
        ({"batch_size": 0}, "at least 1"),
        ({"max_length": 3}, "at least 4"),
        ({"task": "qqp", "seed": -1}, "seed=-1"),
        ({"task": "qqp", "classifiers": {"rwa": None}}, "keys \\['rwa'\\]"),
        ({}, "give \\(text, text or None\\)"),
    ],
)
def test_bad_arguments_are_refused(minilm: Any, options: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        classify_heads(minilm.model, minilm.tokenizer, ROWS, **options)


def test_a_classifier_of_the_wrong_kind_is_refused(minilm: Any) -> None:
    with pytest.raises(InputError, match="for norm maps"):
        classify_heads(
            minilm.model,
            minilm.tokenizer,
            ROWS,
            task="qqp",
            classifiers={"raw": PatternClassifier("norm").eval()},
        )


def test_a_model_in_training_mode_is_refused(tiny_bert: Any, minilm: Any) -> None:
    tiny_bert.resize_token_embeddings(30522)
    with pytest.raises(InputError, match=r"model.eval\(\)"):
        classify_heads(tiny_bert.train(), minilm.tokenizer, ROWS, task="qqp")


def test_a_tokenizer_of_another_model_is_refused(tiny_bert: Any, minilm: Any) -> None:
    with pytest.raises(InputError, match="the model has 60"):
        classify_heads(tiny_bert, minilm.tokenizer, ROWS, task="qqp")


def test_an_unsupported_model_is_refused(minilm: Any) -> None:
    with pytest.raises(UnsupportedModelError, match=r"families are.*docs/families\.md"):
        classify_heads(torch.nn.Linear(1, 1), minilm.tokenizer, ROWS, task="qqp")  # type: ignore[arg-type]


def test_every_family_is_classified_and_one_sided_ones_say_so(tiny: Any, minilm: Any) -> None:
    model = tiny.build()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model.resize_token_embeddings(30522)
    found = classify_heads(model, minilm.tokenizer, ROWS, task="qqp", max_length=30)
    frame = found.to_frame()
    assert len(frame) == 2 * found.heads.size
    assert (frame.n == len(ROWS)).all()
    said = " ".join(found.warnings)
    assert ("is causal" in said) == (tiny.name in ("gpt2", "llama", "qwen2"))
    assert found.causal == ("is causal" in said)
    assert ("causal" if found.causal else "two-sided") in errors_elsewhere(found)
    assert "was off by" in errors_elsewhere(found)
    assert ("layers are local" in said) == (tiny.name == "modernbert")


def test_maps_can_be_had_on_the_way_without_their_padding(minilm: Any) -> None:
    got: dict[tuple[int, int, str], Any] = {}

    def sink(example: int, layer: int, encoded: Any, kind: str, maps: Any) -> None:
        got[example, layer, kind] = maps

    found = classify_heads(minilm.model, minilm.tokenizer, ROWS, task="qqp", sink=sink)
    assert len(got) == len(ROWS) * 6 * 2
    for e, row in enumerate(ROWS):
        batch = minilm.tokenizer(row["question1"], row["question2"], return_tensors="pt")
        for layer, kind, maps, _ in attention_maps(minilm.model, batch, layers=[2]):
            kept = got[row["idx"], layer, kind]
            assert kept.shape == (12, found.n_tokens[e], found.n_tokens[e])
            np.testing.assert_allclose(kept, maps[0], rtol=1e-3, atol=1e-5)


LONG = [
    (text * 9, None)
    for text in ("the film was long and so good ", "nobody left before it ended ", "bad plot, ")
]
"""Longer than what is kept of a map to look at; :data:`ROWS` are shorter."""
TEXTS = [(row["question1"], row["question2"]) for row in ROWS] + LONG


@pytest.mark.parametrize("rows", [7, 40])
def test_long_inputs_in_blocks_have_the_patterns_of_whole_maps(
    minilm: Any, in_blocks: Any, rows: int
) -> None:
    def look() -> tuple[Any, list[Any]]:
        examples = ExampleMaps()
        found = classify_heads(minilm.model, minilm.tokenizer, TEXTS, batch_size=4, examples=examples)
        return found, examples.of_heads()

    found, maps = look()
    in_blocks(rows)
    again, maps_again = look()
    assert max(found.n_tokens) > SIDE > min(found.n_tokens)
    for kind in found.kinds:
        np.testing.assert_allclose(again.probabilities[kind], found.probabilities[kind], atol=2e-5)
        assert again.distribution(kind) == pytest.approx(found.distribution(kind), abs=2e-3)
    alike = 0
    for (one, why), (other, other_why) in zip(maps, maps_again, strict=True):
        a, b = ((m.kind, m.layer, m.head, m.pattern, m.input.example) for m in (one, other))
        if a == b:
            assert why == other_why
            assert one.peak == pytest.approx(other.peak, rel=1e-4)
            assert np.abs(one.cells.astype(int) - other.cells).max() <= 1
            alike += 1
    assert alike > 0.98 * len(maps)  # the surest of two that are equally sure may be the other


@pytest.mark.parametrize("name", ["llama", "modernbert"])
def test_images_in_blocks_are_those_of_whole_maps_where_not_all_is_seen(
    all_tiny: Any, ragged_batch: Any, in_blocks: Any, name: str
) -> None:
    model = all_tiny[name].build()
    lengths = ragged_batch["attention_mask"].sum(dim=1)

    def images() -> list[torch.Tensor]:
        seen: list[torch.Tensor] = []

        class Keeper(PatternClassifier):
            def classify_images(self, images: torch.Tensor) -> torch.Tensor:
                seen.append(images)
                return torch.full((*images.shape[:-2], 5), 0.2)

        kinds = {kind: Keeper(kind).eval() for kind in ("raw", "norm")}
        kept = {kind: np.zeros((4, 3, 4, 5), dtype=np.float32) for kind in kinds}
        looking = Classification(anatomy_of(model), kinds, kept)
        looking.start([0, 1, 2, 3], lengths)
        with torch.no_grad(), observe(model, looking):
            model(**ragged_batch)
        return seen

    whole = images()
    in_blocks(5)
    for found, right in zip(images(), whole, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)


def test_whole_maps_are_there_for_a_sink_however_long_the_input(minilm: Any, in_blocks: Any) -> None:
    in_blocks(7)
    seen: dict[tuple[int, int, str], Any] = {}

    def sink(example: int, layer: int, encoded: Any, kind: str, maps: Any) -> None:
        seen[example, layer, kind] = maps

    classify_heads(minilm.model, minilm.tokenizer, LONG[:1], sink=sink)
    batch = minilm.tokenizer(LONG[0][0], return_tensors="pt")
    for layer, kind, maps, _ in attention_maps(minilm.model, batch):
        np.testing.assert_allclose(seen[0, layer, kind], maps[0], atol=1e-6)
