"""Every family in the table is exact, and the table that users read is that of the families there are."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import conformance
import numpy as np
import pytest
import torch
from conformance import (
    CLOSE,
    FAMILIES,
    Family,
    check_compaction,
    check_gates,
    check_maps,
    installed,
    stacks_of,
)

import models.anatomy
import models.tap
from models import HeadscopeError, Subnetwork, anatomy_of, compact, gated
from models.anatomy import STRUCTURE
from models.compaction import whole_weights
from models.tap import Block, observe

GROUPS = [
    pytest.param(
        family,
        stack,
        id="-".join(filter(None, (family.model_type, stack))),
        marks=pytest.mark.skipif(not installed(family), reason="could not import: not in this transformers"),
    )
    for family in FAMILIES
    for stack in stacks_of(family)
]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Tiny vocabularies make the library warn of special tokens."""
    from transformers import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity(before)


@pytest.mark.parametrize(("family", "stack"), GROUPS)
def test_maps_and_what_is_closed_or_cut_out_are_exact(family: Family, stack: str | None) -> None:
    raw, sums = check_maps(family, stack)
    assert raw < 1e-5
    assert sums < CLOSE
    compaction = check_compaction(family) if stack in (None, "encoder") else None
    assert (check_gates(family, stack) if compaction is None else compaction) < CLOSE


@pytest.mark.slow
@pytest.mark.parametrize(("family", "stack"), GROUPS)
def test_everything_is_exact(family: Family, stack: str | None) -> None:
    found = conformance.check(family, stack)
    assert found.importance < 1e-6
    assert found.gates < CLOSE
    # The library multiplies the experts of a model that it has loaded in groups, of one made anew one by one.
    assert (found.saving or 0) <= (1e-5 if family.experts else 0)


BY_TYPE = {family.model_type: family for family in FAMILIES}


def error(check: Callable[[Family], Any], family: Family) -> float:
    """The largest error that a check finds, infinite if it finds more than a number."""
    try:
        found = check(family)
    except (AssertionError, HeadscopeError, RuntimeError, AttributeError):
        return float("inf")
    return max(found) if isinstance(found, tuple) else found or 0.0


def maps(family: Family) -> tuple[float, float]:
    return check_maps(family, None)


def gates(family: Family) -> float:
    return check_gates(family, None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "check", "changes"),
    [
        ("gpt_neox", check_compaction, {"fused": "side by side"}),
        ("gpt2", check_compaction, {"fused": "by group"}),
        ("gpt_bigcode", check_compaction, {"widths": ()}),
        ("mpt", maps, {"fused": "by group"}),
        ("falcon", maps, {"fused": "side by side"}),
        ("bloom", maps, {"fused": "side by side"}),
        ("deberta-v2", check_compaction, {"by_head": ()}),
        ("olmo2", check_compaction, {"uncuttable": lambda config: None}),
        ("stablelm", check_compaction, {"kv_counts": ()}),
        ("opt", check_compaction, {"replaced_when_empty": False}),
        ("eurobert", maps, {"causal": True}),
        ("mistral", maps, {"window": "nothing"}),
        ("gpt_neo", maps, {"local": None}),
        ("gpt_oss", maps, {"sinks": False}),
        ("mixtral", gates, {"mlp": "mlp.gate"}),
        ("phi", gates, {"output": "mlp.fc2"}),
        ("glm4", gates, {"mlp": "self_attn.o_proj", "mlp_end": None}),
        ("mpnet", maps, {"projections": tuple(f"attention.attn.{part}" for part in "vkq")}),
    ],
)
def test_a_mistake_in_an_entry_is_noticed(
    name: str, check: Any, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert error(check, BY_TYPE[name]) < CLOSE
    wrong = dataclasses.replace(BY_TYPE[name], **changes)
    monkeypatch.setattr(models.anatomy, "FAMILIES", (wrong,))
    assert error(check, wrong) > 10 * CLOSE


@pytest.mark.parametrize(
    ("name", "stack", "dropped"),
    [("gemma2", None, "softcap"), ("gpt_oss", None, "s_aux"), ("t5", "encoder", "position_bias")],
)
def test_what_changes_the_scores_is_at_work_in_the_tiny_models(
    name: str, stack: str | None, dropped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = models.tap._attention

    def without(*inputs: Any, **named: Any) -> Any:
        assert named[dropped] is not None
        return original(*inputs, **named | {dropped: None})

    monkeypatch.setitem(models.tap.AttentionInterface._global_mapping, models.tap.IMPLEMENTATION, without)
    assert error(lambda family: check_maps(family, stack), BY_TYPE[name]) > 10 * CLOSE


@pytest.mark.parametrize("family", [pytest.param(f, id=f.model_type) for f in FAMILIES if f.mlp_end])
def test_an_mlps_gate_acts_on_what_is_added_to_the_residual_stream(family: Family) -> None:
    """A norm undoes a factor before it: the MLP would seem to matter to nothing."""
    model, batch = conformance.build(family), conformance.batch_of(family)
    with torch.no_grad(), gated(model, mlps=torch.full((3,), 0.5)):
        found = conformance.hidden(model, batch)
    for layer in anatomy_of(model).layers:
        layer.get_submodule(str(family.mlp_end)).register_forward_hook(lambda *said: said[-1] / 2)
    with torch.no_grad():
        torch.testing.assert_close(found, conformance.hidden(model, batch))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("bert", {"is_decoder": True}),
        ("llama", {"num_key_value_heads": 1}),
        ("gpt_bigcode", {"multi_query": False}),
        ("falcon", {"new_decoder_architecture": False, "multi_query": True, "num_kv_heads": None}),  # 7B
        (
            "falcon",
            {"new_decoder_architecture": False, "alibi": True, "parallel_attn": False, "num_kv_heads": None},
        ),
        ("esm", {"position_embedding_type": "absolute", "token_dropout": True}),
        ("stablelm", {"qk_layernorm": True, "use_parallel_residual": True}),
        ("cohere", {"use_qk_norm": True}),
        ("t5", {"feed_forward_proj": "gated-gelu"}),
        ("qwen3_moe", {"mlp_only_layers": [1]}),
        ("phi3", {"num_key_value_heads": 4}),
        ("deberta-v2", {"share_att_key": True, "position_biased_input": False, "type_vocab_size": 0}),  # v3
        ("mistral", {"sliding_window": None}),
        ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 12}),  # 350m
        ("bloom", {"apply_residual_connection_post_layernorm": True}),
    ],
)
def test_the_kinds_that_a_family_comes_in_are_exact_too(name: str, changes: dict[str, Any]) -> None:
    family = dataclasses.replace(BY_TYPE[name], tiny={**BY_TYPE[name].tiny, **changes})
    stack = family.stack
    raw, sums = check_maps(family, stack)
    assert raw < 1e-5
    assert sums < CLOSE
    assert check_gates(family, stack) < CLOSE
    assert (check_compaction(family) or 0.0) < CLOSE


def test_gemma_that_sees_both_ways_is_not_causal() -> None:
    """EmbeddingGemma; its windows are as wide to both sides."""
    family = BY_TYPE["gemma3_text"]
    both = dataclasses.replace(family, tiny={**family.tiny, "use_bidirectional_attention": True})
    assert not anatomy_of(conformance.build(both)).causal
    raw, sums = check_maps(both, None)
    assert raw < 1e-5
    assert sums < CLOSE


def test_a_family_is_added_by_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """As CONTRIBUTING says: nothing else knows families by name."""
    assert all(family.model_type != "seed_oss" for family in FAMILIES)
    entry = dataclasses.replace(
        BY_TYPE["llama"], name="Seed-OSS", model_type="seed_oss", tiny={"head_dim": 6}
    )
    monkeypatch.setattr(models.anatomy, "FAMILIES", (*FAMILIES, entry))
    found = conformance.check(entry)
    assert max(found.raw, found.sums, found.importance, found.gates, found.compaction or 1.0) < CLOSE
    assert not found.saving


@pytest.mark.skipif(not all(map(installed, FAMILIES)), reason="could not import: not in this transformers")
def test_the_table_that_users_read_is_of_the_families_there_are() -> None:
    """``make families`` writes it anew."""
    assert conformance.written_rows() == conformance.known_rows()
    assert conformance.written_count() == len(FAMILIES)
    assert f"{len(FAMILIES)} families, each proven" in conformance.TABLE.read_text(encoding="utf-8")


WHOLE = [
    pytest.param(
        family,
        id=family.model_type,
        marks=pytest.mark.skipif(not installed(family), reason="could not import: not in this transformers"),
    )
    for family in FAMILIES
]


def cuttable(family: Family) -> bool:
    """Whether there is anything to cut; that the rest is refused, the first test here shows."""
    return family.uncuttable(conformance.config_of(family)) is None


@pytest.mark.slow
@pytest.mark.parametrize("family", [param for param in WHOLE if param.values[0].causal])
def test_a_decoder_that_lost_all_heads_of_a_layer_goes_on_from_its_cache(family: Family) -> None:
    if not cuttable(family):
        return
    model = conformance.build(family)
    heads = np.ones((3, 4), dtype=bool)
    heads[0], heads[1, :2] = False, False
    small = compact(model, Subnetwork(heads, np.ones(3, dtype=bool)))
    ids = torch.randint(5, 60, (2, 9), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        whole, first = small(input_ids=ids).last_hidden_state, small(input_ids=ids[:, :5], use_cache=True)
        name = next((name for name in ("cache", "past_key_values") if name in first), None)
        if name is None:  # CLIP keeps none
            assert family.model_type == "clip_text_model"
            return
        rest = small(input_ids=ids[:, 5:], past_key_values=first[name]).last_hidden_state
    assert conformance.off(rest, whole[:, 5:]) < CLOSE


@pytest.mark.slow
@pytest.mark.parametrize("family", WHOLE)
def test_a_compacted_model_is_pickled_and_filled_up_with_zeros(family: Family) -> None:
    if not cuttable(family):
        return
    model, batch = conformance.build(family), conformance.batch_of(family)
    small = compact(model, conformance.subnetwork_of(anatomy_of(model)), unshare=True)
    config = copy.deepcopy(small.config)
    delattr(config, STRUCTURE)
    whole = type(model)(config).eval()
    weights = whole_weights(small)
    assert weights is not None
    whole.load_state_dict(weights)
    with torch.no_grad():
        expected = conformance.hidden(small, batch)
        assert conformance.off(conformance.hidden(whole, batch), expected) < CLOSE
        assert torch.equal(conformance.hidden(pickle.loads(pickle.dumps(small)), batch), expected)


@pytest.mark.slow
@pytest.mark.parametrize("family", WHOLE)
def test_what_is_cut_twice_is_what_is_cut_at_once(family: Family) -> None:
    if not cuttable(family):
        return
    model, batch = conformance.build(family), conformance.batch_of(family)
    anatomy, rng = anatomy_of(model), np.random.default_rng(1)
    mlps = np.ones(anatomy.n_layers, dtype=bool)
    one = Subnetwork(rng.random((anatomy.n_layers, anatomy.n_heads)) < 0.8, mlps)
    other = one & Subnetwork(rng.random(one.heads.shape) < 0.6, mlps)
    first = compact(model, one, unshare=True)
    with torch.no_grad(), gated(model, other.heads):
        expected = conformance.hidden(model, batch)
    for small in (compact(first, other), compact(model, other, unshare=True)):
        with torch.no_grad():
            assert conformance.off(conformance.hidden(small, batch), expected) < CLOSE
    with torch.no_grad(), gated(first, other.heads):
        assert conformance.off(conformance.hidden(first, batch), expected) < CLOSE


@pytest.mark.slow
@pytest.mark.parametrize(("family", "stack"), GROUPS)
def test_the_longest_input_is_one_that_the_model_takes(family: Family, stack: str | None) -> None:
    """And one token more is one too many, where positions are looked up."""
    model = conformance.build(family)
    anatomy = anatomy_of(model, stack)
    limit = min(anatomy.max_tokens, 100)
    with torch.no_grad():
        for n in (limit, limit + 1):
            batch = {"input_ids": torch.full((1, n), 7), "decoder_input_ids": torch.full((1, n), 7)}
            if not family.stack:
                batch.pop("decoder_input_ids")
            try:
                assert model(**batch).last_hidden_state.isfinite().all()
            except (IndexError, RuntimeError, ValueError):
                assert n > limit


class _Rows:
    """An observer that puts blocks of queries together again."""

    in_blocks = True

    def __init__(self) -> None:
        self.maps: dict[int, torch.Tensor] = {}
        self.blocks = 0

    def __call__(self, layer: int, probabilities: torch.Tensor, values: torch.Tensor) -> None:
        self.maps[layer] = probabilities.clone()

    def block(self, layer: int, block: Block, values: torch.Tensor) -> None:
        self.blocks += 1
        n = values.shape[2]
        if block.rows.start == 0:
            self.maps[layer] = torch.zeros(*block.probabilities.shape[:2], n, n)
        self.maps[layer][:, :, block.rows, block.keys] = block.probabilities


@pytest.mark.parametrize("model_type", ["gemma2", "gpt_oss", "t5"])
def test_caps_sinks_and_position_biases_are_the_same_in_blocks_of_queries(
    model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = BY_TYPE[model_type]
    model, batch = conformance.build(family), conformance.batch_of(family)
    whole, parts = _Rows(), _Rows()
    with torch.no_grad(), observe(model, whole):
        right = conformance.hidden(model, batch)
    for name, cells in (("_WHOLE", 1), ("_CELLS", 64), ("_LEAST_ROWS", 3)):
        monkeypatch.setattr(models.tap, name, cells)
    with torch.no_grad(), observe(model, parts):
        found = conformance.hidden(model, batch)
    assert whole.blocks == 0 < parts.blocks
    for layer, maps in whole.maps.items():
        torch.testing.assert_close(parts.maps[layer], maps, atol=1e-4, rtol=0)  # scores here are large
    assert conformance.off(found, right) < 1e-4
    with torch.no_grad(), observe(model, parts, layers=[0]):  # layers that nobody observes are in blocks, too
        assert conformance.off(conformance.hidden(model, batch), right) < 1e-4
