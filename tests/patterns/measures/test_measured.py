"""Measurements of heads, against plain loops over every pair of tokens of whole maps, one input at a time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from models import InputError, Subnetwork, anatomy_of, compact, observe
from models.tasks.inputs import Encoded
from patterns import attention_maps
from patterns.heads import classify_heads
from patterns.measures.measured import LEAST, OFFSETS, HeadMeasurements
from patterns.measures.observing import Measuring
from patterns.measures.pairs import CONTENT, MEASURES, TokenKinds

PAIRS = [
    ("the film was long and the film was good", "so the plot is rather good and the plot is long"),
    ("bad film", "the film was bad but so long"),
    ("it was good and it was long and it was bad", None),
    ("really really really good", "bad"),
    ("plot", None),
]


def measured(model: Any, tokenizer: Any, pairs: Any = PAIRS, **options: Any) -> HeadMeasurements:
    found = classify_heads(model, tokenizer, pairs, measure=True, batch_size=3, **options).measured
    assert found is not None
    return found


def is_of(name: str, i: int, j: int, ids: list[int], segments: list[int], special: set[int]) -> bool:
    """Whether a pair of a query i and a key j is of a measurement."""
    text = [token not in special for token in ids]
    two = len({s for s, t in zip(segments, text, strict=True) if t}) > 1
    match name:
        case "self":
            return i == j
        case "previous":
            return j == i - 1
        case "next":
            return j == i + 1
        case "first":
            return j == 0 and i != 0
        case "cls":
            return ids[j] == 1
        case "separator":
            return ids[j] == 2 and j > 0
        case "punctuation":
            return False
        case "own_segment":
            return two and text[i] and text[j] and i != j and segments[i] == segments[j]
        case "other_segment":
            return two and text[i] and text[j] and segments[i] != segments[j]
        case "duplicate":
            return text[i] and text[j] and j < i and ids[i] == ids[j]
        case "induction":
            return text[i] and 0 < j < i and text[j - 1] and ids[i] == ids[j - 1]
    raise AssertionError(name)


def might_be_of(name: str, i: int, j: int, ids: list[int], segments: list[int], special: set[int]) -> bool:
    if name == "duplicate":
        return j < i and ids[i] not in special and ids[j] not in special
    if name == "induction":
        return 0 < j < i and ids[i] not in special and ids[j - 1] not in special
    return any(is_of(one, i, j, ids, segments, special) for one in ("own_segment", "other_segment"))


def band(i: int, j: int) -> int:
    """About how far a key is: 0, 1, 2 to 3, 4 to 7, ... tokens, to either side."""
    far = abs(j - i)
    return 0 if not far else int(math.copysign(len(bin(far)) - 2, j - i))


def slowly(
    maps: Any, ids: list[int], segments: list[int], causal: bool, window: int | None
) -> dict[str, Any]:
    """By measurement, of one input and head: attention, queries, chance, and the two permuted ones."""
    n, special = len(ids), {0, 1, 2}
    sees = [
        [j for j in range(n) if (j <= i or not causal) and (window is None or abs(i - j) <= window)]
        for i in range(n)
    ]
    found: dict[str, Any] = {}
    for name in MEASURES:
        of = [[j for j in sees[i] if is_of(name, i, j, ids, segments, special)] for i in range(n)]
        chosen = [i for i in range(n) if 0 < len(of[i]) < len(sees[i])]
        pairs = {(i, j) for i in chosen for j in of[i]}
        entry = [
            sum(float(maps[i, j]) for i, j in pairs),
            len(chosen),
            sum(len(of[i]) / len(sees[i]) for i in chosen),
        ]
        if name in CONTENT:
            might = [
                (i, j) for i in range(n) for j in sees[i] if might_be_of(name, i, j, ids, segments, special)
            ]
            for group in (lambda i, j: j, band):
                total = 0.0
                for key in {group(i, j) for i, j in might}:
                    alike = [(i, j) for i, j in might if group(i, j) == key]
                    rate = sum(pair in pairs for pair in alike) / len(alike)
                    total += rate * sum(float(maps[i, j]) for i, j in alike)
                entry.append(total)
        found[name] = entry
    rows = [i for i in range(n) if len(sees[i]) > 1]
    entropies = []
    for i in rows:
        p = maps[i].double() / maps[i].double().sum()
        entropies.append(float(-(p * p.clamp_min(1e-300).log()).sum()) / math.log(len(sees[i])))
    found["entropy"] = [sum(entropies), len(rows)]
    return found


def by_rows(maps: torch.Tensor) -> torch.Tensor:
    return maps / maps.sum(dim=-1, keepdim=True)


@pytest.mark.parametrize("blocks", [None, 3], ids=["whole", "in blocks"])
@pytest.mark.parametrize("name", ["bert", "gpt2", "modernbert", "llama"])
def test_measurements_are_those_of_loops_over_every_pair(
    all_tiny: Any, tiny_tokenizer: Any, in_blocks: Any, name: str, blocks: int | None
) -> None:
    model = all_tiny[name].build()
    anatomy = anatomy_of(model)
    if blocks:
        in_blocks(blocks)
    found = measured(model, tiny_tokenizer)
    assert len(found.tokens) == 4  # the last has too few tokens for a pattern
    for e, (first, second) in enumerate(PAIRS[:4]):
        inputs = tiny_tokenizer(*filter(None, (first, second)), return_tensors="pt")
        ids = inputs["input_ids"][0].tolist()
        segments = inputs["token_type_ids"][0].tolist()
        batch = {key: value for key, value in inputs.items() if key != "token_type_ids" or anatomy.segments}
        for layer, kind, maps, _ in attention_maps(model, batch):
            window = anatomy.window if layer in anatomy.local_layers else None
            for head in range(4):
                map_ = maps[0, head] if kind == "raw" else by_rows(maps[0, head])
                slow = slowly(map_, ids, segments, anatomy.causal, window)
                view = found.views[layer]
                for k, measure in enumerate(MEASURES):
                    total, number, chance, *permuted = slow[measure]
                    where = f"{name} {kind} {layer} {head} {measure}"
                    assert found.sums[kind][e, layer, head, k] == pytest.approx(total, abs=1e-4), where
                    assert found.counts[e, view, k] == number, where
                    assert found.chance[e, view, k] == pytest.approx(chance, abs=1e-5), where
                    if permuted:
                        ours = found.permuted[kind][e, layer, head, CONTENT.index(measure)]
                        assert ours.tolist() == pytest.approx(permuted, abs=1e-4), where
                total, number = slow["entropy"]
                assert found.queries[e, view] == number
                assert found.entropy[kind][e, layer, head] == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_offsets_are_means_over_all_queries(all_tiny: Any, tiny_tokenizer: Any, name: str) -> None:
    model = all_tiny[name].build()
    found = measured(model, tiny_tokenizer, PAIRS[:2])
    sums, queries = np.zeros((2, 3, 4, len(OFFSETS) + 1)), 0
    for first, second in PAIRS[:2]:
        batch = tiny_tokenizer(first, second, return_tensors="pt")
        if name == "gpt2":
            del batch["token_type_ids"]
        n = batch["input_ids"].shape[1]
        queries += n
        for layer, kind, maps, _ in attention_maps(model, batch):
            rows = by_rows(maps[0]).numpy()
            for i in range(n):
                for j in range(n):
                    place = OFFSETS.index(j - i) if j - i in OFFSETS else -1
                    sums[int(kind == "norm"), layer, :, place] += rows[:, i, j]
    for of, kind in enumerate(("raw", "norm")):
        shares, rest = found.offset_shares(kind)
        np.testing.assert_allclose(shares, sums[of, ..., :-1] / queries, atol=1e-5)
        np.testing.assert_allclose(rest, sums[of, ..., -1] / queries, atol=1e-5)


def test_what_heads_write_is_what_their_part_of_the_output_projection_gives(
    all_tiny: Any, tiny_tokenizer: Any
) -> None:
    model = all_tiny["bert"].build()
    found = measured(model, tiny_tokenizer)
    for e, (first, second) in enumerate(PAIRS[:4]):
        batch = tiny_tokenizer(*filter(None, (first, second)), return_tensors="pt")
        seen: list[tuple[torch.Tensor, torch.Tensor]] = []
        with torch.no_grad(), observe(model, lambda layer, P, V: seen.append((P[0], V[0]))):  # noqa: B023
            streams = model(**batch, output_hidden_states=True).hidden_states
        for layer, (P, V) in enumerate(seen):
            weight = model.encoder.layer[layer].attention.output.dense.weight.detach()
            for head in range(4):
                written = P[head] @ V[head] @ weight[:, 6 * head : 6 * head + 6].T
                right = (written.norm(dim=-1) / streams[layer][0].norm(dim=-1)).mean()
                assert found.writes[e, layer, head] == pytest.approx(float(right), rel=1e-4)


def test_shares_are_means_over_the_queries_of_all_inputs(tiny_bert: Any, tiny_tokenizer: Any) -> None:
    found = measured(tiny_bert, tiny_tokenizer)
    for kind in found.kinds:
        for k, name in enumerate(MEASURES):
            if name == "punctuation":
                assert np.isnan(found.share(kind, name)).all()  # these words have none
                continue
            right = found.sums[kind][..., k].sum(axis=0) / found.counts[:, 0, k].sum()
            np.testing.assert_allclose(found.share(kind, name), right, rtol=1e-4)
    single = found.per_input("raw", "own_segment")[2]
    assert np.isnan(single).all()  # one text has no other segment


@pytest.mark.parametrize("name", sorted(CONTENT))
def test_permuted_shares_are_means_over_random_permutations(
    all_tiny: Any, tiny_tokenizer: Any, name: str
) -> None:
    """For each key, which of the queries that might match it do; and which of the pairs about as far apart do."""
    model = all_tiny["bert"].build()
    found = measured(model, tiny_tokenizer, PAIRS[:1])
    batch = tiny_tokenizer(*PAIRS[0], return_tensors="pt")
    ids, segments = batch["input_ids"][0].tolist(), batch["token_type_ids"][0].tolist()
    maps = attention_maps(model, batch, ["raw"])[0][2][0, 0].numpy()
    n, draw = len(ids), np.random.default_rng(0)
    might = np.array(
        [[might_be_of(name, i, j, ids, segments, {0, 1, 2}) for j in range(n)] for i in range(n)]
    )
    match = np.array([[is_of(name, i, j, ids, segments, {0, 1, 2}) for j in range(n)] for i in range(n)])
    i, j = np.nonzero(might)
    for of, group in enumerate((j, np.array([band(*pair) for pair in zip(i, j, strict=True)]))):
        totals = []
        for _ in range(400):
            total = 0.0
            for key in np.unique(group):
                alike = group == key
                total += (maps[i[alike], j[alike]] * draw.permutation(match[i[alike], j[alike]])).sum()
            totals.append(total)
        ours = found.permuted["raw"][0, 0, 0, CONTENT.index(name), of]
        assert ours == pytest.approx(np.mean(totals), abs=float(5 * np.std(totals) / 20) + 1e-6)


def test_p_values_are_t_tests_over_inputs_adjusted_over_counted_heads(
    tiny_bert: Any, tiny_tokenizer: Any
) -> None:
    found = measured(tiny_bert, tiny_tokenizer)
    heads = np.ones((3, 4), dtype=bool)
    heads[0, 0] = False
    k = list(MEASURES).index("previous")
    apart = found.sums["raw"][..., k] - found.chance[:, 0, k][:, None, None]
    p = stats.ttest_1samp(apart, 0, alternative="greater").pvalue
    np.testing.assert_allclose(found.p_values("raw", "previous"), p, rtol=1e-3, atol=1e-9)
    q = found.q_values("raw", "previous", heads)
    assert np.isnan(q[0, 0])
    np.testing.assert_allclose(q[heads], stats.false_discovery_control(p[heads]), rtol=1e-3)
    r = CONTENT.index("duplicate")
    k = list(MEASURES).index("duplicate")
    there = found.counts[:, 0, k] > 0
    largest = np.zeros((3, 4))
    for chance in (
        found.chance[:, 0, k][:, None, None],
        found.permuted["raw"][..., r, 0],
        found.permuted["raw"][..., r, 1],
    ):
        apart = (found.sums["raw"][..., k] - chance)[there]
        largest = np.maximum(largest, stats.ttest_1samp(apart, 0, alternative="greater").pvalue)
    np.testing.assert_allclose(found.p_values("raw", "duplicate"), largest, rtol=2e-3, atol=1e-9)


def test_one_input_is_measured_and_tested_in_nothing(tiny_bert: Any, tiny_tokenizer: Any) -> None:
    found = measured(tiny_bert, tiny_tokenizer, PAIRS[:1])
    heads = np.ones((3, 4), dtype=bool)
    assert np.isnan(found.p_values("raw", "previous")).all()
    assert not found.has_role("raw", "previous", heads).any()
    assert not np.isnan(found.share("raw", "previous")).any()


def test_the_batch_changes_nothing_but_rounding(tiny_bert: Any, tiny_tokenizer: Any) -> None:
    one, all_ = (
        classify_heads(tiny_bert, tiny_tokenizer, PAIRS, measure=True, batch_size=size).measurements()
        for size in (1, 4)
    )
    assert one.columns.tolist() == all_.columns.tolist()
    assert one["roles"].tolist() == all_["roles"].tolist()
    numbers = one.select_dtypes("number").columns
    np.testing.assert_allclose(one[numbers], all_[numbers], rtol=1e-3, atol=1e-5)
    again = classify_heads(tiny_bert, tiny_tokenizer, PAIRS, measure=True, batch_size=4).measurements()
    assert again.equals(all_)


def test_inputs_of_two_tokens_and_of_one_can_be_measured(tiny_bert: Any, tiny_tokenizer: Any) -> None:
    measuring = Measuring(anatomy_of(tiny_bert), tiny_tokenizer, ("raw", "norm"), 2)
    measuring_inputs = [Encoded([4, 5], [0, 0], (), False), Encoded([4], [0], (), False)]
    with torch.no_grad(), measuring.watching(tiny_bert):
        measuring.start([0, 1], measuring_inputs)
        tiny_bert(input_ids=torch.tensor([[4, 5], [4, 0]]), attention_mask=torch.tensor([[1, 1], [1, 0]]))
    found = measuring.found
    previous = found.per_input("raw", "previous")
    assert np.isnan(previous[1]).all()
    maps = attention_maps(tiny_bert, {"input_ids": torch.tensor([[4, 5]])}, ["raw"])
    for layer, _, of_layer, _ in maps:
        np.testing.assert_allclose(previous[0, layer], of_layer[0, :, 1, 0], rtol=1e-4)
    assert np.isfinite(found.entropy["norm"]).all()


def test_a_smaller_model_is_measured_under_the_numbers_its_heads_had(
    tiny_bert: Any, tiny_tokenizer: Any
) -> None:
    heads = np.ones((3, 4), dtype=bool)
    heads[0, 1] = heads[1] = False
    small = compact(tiny_bert, Subnetwork(heads, np.ones(3, dtype=bool)))
    found = classify_heads(small, tiny_tokenizer, PAIRS, measure=True)
    whole = measured(tiny_bert, tiny_tokenizer)
    left = (slice(None), 0, [0, 2, 3])
    np.testing.assert_allclose(found.measured.sums["raw"][left], whole.sums["raw"][left], atol=1e-5)
    frame = found.measurements()
    assert sorted(set(zip(frame["layer"], frame["head"], strict=True))) == [
        (0, 0), (0, 2), (0, 3), (2, 0), (2, 1), (2, 2), (2, 3)
    ]  # fmt: skip
    assert not frame["writes"].isna().any()


def test_a_head_that_puts_nothing_out_has_raw_shares_alone_and_is_inactive(
    tiny_bert: Any, tiny_tokenizer: Any
) -> None:
    values = tiny_bert.encoder.layer[1].attention.self.value
    with torch.no_grad():
        values.weight[6:12], values.bias[6:12] = 0, 0
    found = classify_heads(tiny_bert, tiny_tokenizer, PAIRS, measure=True)
    frame = found.to_frame().set_index(["kind", "layer", "head"])
    assert (
        frame.loc[("norm", 1, 1)].filter(like="share_").drop("dominant_share", errors="ignore").isna().all()
    )
    assert np.isnan(frame.loc[("norm", 1, 1), "attention_entropy"])
    assert frame.loc[("raw", 1, 1), "writes"] == 0
    assert "inactive" in frame.loc[("raw", 1, 1), "roles"]
    assert frame.loc[("raw", 1, 1), "share_self"] > 0
    assert (frame["writes"].drop([("raw", 1, 1), ("norm", 1, 1)]) > 0).all()


def test_a_decoder_is_measured_on_the_tokens_that_it_reads(tiny_tokenizer: Any) -> None:
    from transformers import T5Config, T5Model

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=60, d_model=24, d_kv=6, d_ff=32, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    model = T5Model(config).eval()
    found = measured(model, tiny_tokenizer, PAIRS[:1], stack="decoder")
    inputs = tiny_tokenizer(*PAIRS[0], return_tensors="pt")
    del inputs["token_type_ids"]
    ids = [0, *inputs["input_ids"][0].tolist()[:-1]]
    segments = [0, *tiny_tokenizer(*PAIRS[0])["token_type_ids"][:-1]]
    for layer, _, maps, _ in attention_maps(model, inputs, ["raw"], stack="decoder"):
        slow = slowly(maps[0, 2], ids, segments, True, None)
        for k, name in enumerate(MEASURES):
            assert found.sums["raw"][0, layer, 2, k] == pytest.approx(slow[name][0], abs=2e-5), name
            assert found.counts[0, 0, k] == slow[name][1], name


def test_a_model_without_special_tokens_has_no_separators(all_tiny: Any, tiny_tokenizer: Any) -> None:
    from transformers import PreTrainedTokenizerFast

    plain = PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer.backend_tokenizer.__class__.from_str(
            tiny_tokenizer.backend_tokenizer.to_str()
        ),
        unk_token="[UNK]",
        model_input_names=["input_ids", "attention_mask"],
    )
    plain.backend_tokenizer.post_processor = None
    frame = classify_heads(all_tiny["gpt2"].build(), plain, PAIRS[:2], measure=True).measurements()
    for name in ("cls", "separator"):
        assert frame[f"share_{name}"].isna().all()
        assert frame[f"q_{name}"].isna().all()
    assert frame["share_own_segment"].between(0, 1).all()  # the joint tells where the second text begins
    assert frame["share_duplicate"].between(0, 1).all()
    assert not frame["share_next"].notna().any()  # a causal model sees no next token


def test_roles_take_their_part_of_what_chance_leaves(tiny_bert: Any, tiny_tokenizer: Any) -> None:
    """A head that attends to the previous token alone, and no other, by its probabilities."""
    measuring = Measuring(anatomy_of(tiny_bert), tiny_tokenizer, ("raw",), 6)
    inputs = [Encoded([1, *range(4, 4 + n), 2], None, (n + 1,), False) for n in range(4, 10)]
    for place, encoded in enumerate(inputs):
        n = len(encoded)
        P = torch.full((1, 4, n, n), 1 / n)
        P[0, 1] = torch.eye(n).roll(-1, dims=1)
        P[0, 1, 0] = 1 / n
        P[0, 2] = 0.9 * P[0, 0] + 0.1 * P[0, 1]
        measuring.start([place], [encoded])
        measuring(0, P, torch.zeros(1, 4, n, 6))
    found, heads = measuring.found, np.ones((3, 4), dtype=bool)
    assert found.share("raw", "previous")[0, 1] == pytest.approx(1)
    assert found.has_role("raw", "previous", heads)[0].tolist() == [False, True, False, False]
    taken = found.share("raw", "previous")[0, 2] - found.chance_of("raw", "previous")[0, 2]
    assert 0 < taken < LEAST  # significant, and too little for a role
    assert found.q_values("raw", "previous", heads)[0, 2] < 0.001
    assert found.has_role("raw", "even", heads)[0].tolist() == [True, False, True, True]
    with pytest.raises(InputError, match="no role 'sideways'"):
        found.has_role("raw", "sideways", heads)
    with pytest.raises(InputError, match="no measurement 'even'"):
        found.share("raw", "even")


def test_measurements_have_to_be_asked_for(tiny_bert: Any, tiny_tokenizer: Any) -> None:
    found = classify_heads(tiny_bert, tiny_tokenizer, PAIRS)
    assert "share_self" not in found.to_frame()
    with pytest.raises(InputError, match="measure=True"):
        found.measurements()


@pytest.mark.parametrize(
    ("text", "plain"),
    [(".", True), ("##!", True), ("...", True), ("a", False), ("[SEP]", False), ("+", False)],
)
def test_punctuation_is_tokens_of_punctuation_alone(text: str, plain: bool) -> None:
    class OneToken:
        all_special_ids = (7,)
        unk_token_id = cls_token_id = sep_token_id = eos_token_id = None

        def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
            return [text for _ in ids]

    kinds = TokenKinds(OneToken())  # type: ignore[arg-type]
    assert kinds.is_punctuation([7 if text == "[SEP]" else 3]) == [plain]
