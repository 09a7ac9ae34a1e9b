"""Small transformers whose heads are set by hand, so that what each head does is known without any label.

    python benchmarks/planted.py --output benchmarks/planted.json --figure docs/planted.png

A two-sided model (BERT) and a causal one (GPT-2) of 2 layers x 8 heads. Every token's hidden state is a sum of features
of equal size (which token, which place, which segment), each in two dimensions of its own, +1 and -1, so that layer
norms scale all tokens alike; queries and keys read features, and so each head attends as its role says. Noise is drawn
into all query and key weights, as a multiple of their root mean square. Scored are the roles that are measured,
the patterns that the classifier sees, and, since the label of a row is a word that only two heads carry to where it is
read, whether these two are the most important ones, whether ``prune-heads`` keeps them, and whether they and no others
are the super-survivors: the heads that it keeps under every draw of the noise.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from models import Subnetwork
from models.common.files import write_json
from models.common.provenance import provenance
from patterns import classify_heads
from patterns.measures.measured import ROLES
from patterns.taxonomy import PATTERNS, Pattern

LAYERS, HEADS = 2, 8
SIZE = 64  # of the vocabulary, and of the longest input
WIDTH = 2 * SIZE  # of a head: tokens, then places
HIDDEN = HEADS * WIDTH
SORTS = ("two-sided", "causal")
SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")
MARKS = (".", ",")
LABELS = ("bad", "good")
WORDS = tuple(f"word{i}" for i in range(SIZE - len(SPECIAL) - len(MARKS) - len(LABELS)))
VOCABULARY = (*SPECIAL, *MARKS, *LABELS, *WORDS)
NOISE = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
GAIN = 40.0  # of the score of a key that a head looks for, above that of all others

TOKEN, PLACE, SEGMENT, COPY, COPIED, BEFORE, OWN = 0, SIZE, 2 * SIZE, 140, 140 + SIZE, 140 + 2 * SIZE, 340
"""Where the features begin: an input's tokens, places and segments; the token that a head of the first layer has
copied, and that a head of the second has copied from there; the previous token; and one of each head's own."""


def read(first: int, number: int = SIZE) -> torch.Tensor:
    """Return ``[number, hidden]``, which reads features: 1 where one is there."""
    matrix = torch.zeros(number, HIDDEN)
    at = torch.arange(number)
    matrix[at, 2 * (first + at)], matrix[at, 2 * (first + at) + 1] = 0.5, -0.5
    return matrix


def write(first: int, number: int = SIZE) -> torch.Tensor:
    """Return ``[hidden, number]``, which writes features."""
    return 2 * read(first, number).T


@dataclass
class Head:
    """How one head is set: queries and keys, by what they read, and what it writes."""

    roles: frozenset[str]
    """All roles that it has by its making."""
    look: Pattern | None = None
    """The pattern that its maps show, where that is beyond doubt."""
    q: torch.Tensor = field(default_factory=lambda: torch.zeros(WIDTH, HIDDEN))
    k: torch.Tensor = field(default_factory=lambda: torch.zeros(WIDTH, HIDDEN))
    q_bias: torch.Tensor = field(default_factory=lambda: torch.zeros(WIDTH))
    copies: tuple[int, int] | None = None
    """Features that it copies from the key, and where to; else it writes a feature of its own, always the same."""
    strength: float = 1.0
    needed: bool = False
    """Whether the label depends on it."""


def at_distance(distance: int, role: str, **more: Any) -> Head:
    """Attend to the token so many places later."""
    head = Head(frozenset({role}), Pattern.DIAGONAL, **more)
    here = read(PLACE)
    for place in range(SIZE):
        if 0 <= place + distance < SIZE:
            head.q[SIZE + place + distance] = here[place]
    head.k[SIZE:] = here
    return head


def at_feature(feature: int, *roles: str, also: int | None = None, **more: Any) -> Head:
    """Attend to all keys that have a feature."""
    head = Head(frozenset(roles), Pattern.VERTICAL, **more)
    head.q_bias[0] = 1
    head.k[0] = read(feature, 1)[0] + (0 if also is None else read(also, 1)[0])
    return head


def at_copies(tokens: int, role: str, **more: Any) -> Head:
    """Attend to earlier keys whose token, as told by these features, is the query's."""
    head = Head(frozenset({role}), **more)
    text = slice(len(SPECIAL), SIZE)
    head.q[text] = read(TOKEN)[text]
    head.k[text] = read(tokens)[text]
    here = read(PLACE)
    for place in range(SIZE):  # a key at this place is not for queries up to it
        head.q[SIZE + place] = -2 * here[: place + 1].sum(dim=0)
    head.k[SIZE:] = here
    return head


def in_segment(**more: Any) -> Head:
    """Attend to all tokens of the text of the same segment."""
    head = Head(frozenset({"own_segment"}), Pattern.BLOCK, **more)
    head.q[:2] = read(SEGMENT, 2)
    head.k[:2] = read(SEGMENT, 2) - read(TOKEN)[1:3].sum(dim=0)
    return head


def word(token: str) -> int:
    """Return a token's number."""
    return VOCABULARY.index(token)


def heads_of(sort: str) -> list[list[Head]]:
    """Return the heads of each layer."""
    even = lambda: Head(frozenset({"even"}))  # noqa: E731
    if sort == "two-sided":
        first = lambda **more: at_feature(PLACE, "first", "cls", **more)  # noqa: E731
        rest = [
            lambda: first(),
            lambda: at_feature(TOKEN + word("[SEP]"), "separator"),
            lambda: at_copies(TOKEN, "duplicate"),
            lambda: in_segment(),
            even,
        ]
        return [
            [
                at_distance(1, "next", copies=(TOKEN, COPY), needed=True),
                at_distance(-1, "previous", copies=(TOKEN, BEFORE)),
                *(make() for make in rest),
                at_distance(-1, "previous", strength=1e-3),
            ],
            [
                at_distance(1, "next", copies=(COPY, COPIED), needed=True),
                at_copies(BEFORE, "induction"),
                *(make() for make in rest),
                first(strength=1e-3),
            ],
        ]
    marks = lambda: at_feature(TOKEN + word("."), "punctuation", also=TOKEN + word(","))  # noqa: E731
    rest = [
        lambda: at_feature(PLACE, "first"),
        marks,
        lambda: at_copies(TOKEN, "duplicate"),
        lambda: at_distance(0, "self"),
        even,
    ]
    return [
        [
            at_distance(-1, "previous", copies=(TOKEN, COPY), needed=True),
            at_distance(-1, "previous"),
            *(make() for make in rest),
            at_distance(-1, "previous", strength=1e-3),
        ],
        [
            at_distance(-1, "previous", copies=(COPY, COPIED), needed=True),
            at_copies(COPY, "induction"),
            *(make() for make in rest),
            at_feature(PLACE, "first", strength=1e-3),
        ],
    ]


@dataclass
class Planted:
    """A model with planted heads."""

    model: Any
    tokenizer: Any
    heads: list[list[Head]]
    sort: str

    def roles(self, role: str) -> np.ndarray:
        """``[L, H]``: which heads have a role."""
        return np.array(
            [
                [role in one.roles or (role == "inactive" and one.strength < 0.1) for one in layer]
                for layer in self.heads
            ]
        )

    @property
    def needed(self) -> np.ndarray:
        """``[L, H]``: the heads on which the label depends."""
        return np.array([[one.needed for one in layer] for layer in self.heads])


def plant(sort: str, noise: float = 0.0, seed: int = 0) -> Planted:
    """Build a model, with noise in its query and key weights as a multiple of their root mean square."""
    heads = heads_of(sort)
    model = _bert(heads) if sort == "two-sided" else _gpt2(heads)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in _queries_and_keys(model, sort):
            weight += noise * weight.square().mean().sqrt() * torch.randn(weight.shape, generator=generator)
    return Planted(model.eval(), tokenizer(sort), heads, sort)


def _set(head: Head, layer: int, number: int) -> dict[str, torch.Tensor]:
    """Return a head's weights as ``[outputs, inputs]``: q, q_bias, k, v, v_bias and its slice of o."""
    scale = (GAIN * WIDTH**0.5) ** 0.5
    values, bias, out = torch.zeros(WIDTH, HIDDEN), torch.zeros(WIDTH), torch.zeros(HIDDEN, WIDTH)
    if head.copies:
        source, target = head.copies
        values[:SIZE], out[:, :SIZE] = read(source), write(target)
    else:
        bias[0] = 1
        out[:, :1] = head.strength * write(OWN + HEADS * layer + number, 1)
    return {
        "q": scale * head.q,
        "q_bias": scale * head.q_bias,
        "k": scale * head.k,
        "v": values,
        "v_bias": bias,
        "o": out,
    }


def _scale(features: int) -> float:
    """Return the weight of a layer norm that leaves so many features as large as they were."""
    return float((2 * features / HIDDEN) ** 0.5)


def _embeddings(tokens: Any, places: Any) -> None:
    tokens.weight.copy_(write(TOKEN).T)
    places.weight.copy_(write(PLACE).T)


def _bert(heads: list[list[Head]]) -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=SIZE,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=8,
        max_position_embeddings=SIZE,
        num_labels=2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = BertForSequenceClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        base = model.bert
        _embeddings(base.embeddings.word_embeddings, base.embeddings.position_embeddings)
        base.embeddings.token_type_embeddings.weight.copy_(write(SEGMENT, 2).T)
        features = 3
        base.embeddings.LayerNorm.weight.fill_(_scale(features))
        for number, (layer, some) in enumerate(zip(base.encoder.layer, heads, strict=True)):
            attention = layer.attention
            parts = [_set(head, number, place) for place, head in enumerate(some)]
            for name, module in (
                ("q", attention.self.query),
                ("k", attention.self.key),
                ("v", attention.self.value),
            ):
                module.weight.copy_(torch.cat([part[name] for part in parts]))
                if name != "k":
                    module.bias.copy_(torch.cat([part[f"{name}_bias"] for part in parts]))
            attention.output.dense.weight.copy_(torch.cat([part["o"] for part in parts], dim=1))
            features += sum(head.strength == 1 for head in some)
            attention.output.LayerNorm.weight.fill_(_scale(features))
            layer.output.LayerNorm.weight.fill_(_scale(features))
        base.pooler.dense.weight.copy_(_label_reader())
        model.classifier.weight.copy_(torch.tensor([-4.0, 4.0])[:, None] * torch.eye(1, HIDDEN))
    return model


def _gpt2(heads: list[list[Head]]) -> Any:
    from transformers import GPT2Config, GPT2ForSequenceClassification

    config = GPT2Config(
        vocab_size=SIZE,
        n_embd=HIDDEN,
        n_layer=LAYERS,
        n_head=HEADS,
        n_inner=8,
        n_positions=SIZE,
        num_labels=2,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    model = GPT2ForSequenceClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        base = model.transformer
        _embeddings(base.wte, base.wpe)
        features = 2
        for number, (layer, some) in enumerate(zip(base.h, heads, strict=True)):
            parts = [_set(head, number, place) for place, head in enumerate(some)]
            layer.ln_1.weight.fill_(_scale(features))
            layer.attn.c_attn.weight.copy_(torch.cat([part[name] for name in "qkv" for part in parts]).T)
            zeros = torch.zeros(HIDDEN)
            biases = [torch.cat([part[f"{name}_bias"] for part in parts]) for name in "qv"]
            layer.attn.c_attn.bias.copy_(torch.cat((biases[0], zeros, biases[1])))
            layer.attn.c_proj.weight.copy_(torch.cat([part["o"] for part in parts], dim=1).T)
            layer.ln_2.weight.fill_(1)
            features += sum(head.strength == 1 for head in some)
        base.ln_f.weight.fill_(_scale(features))
        model.score.weight.copy_(torch.tensor([-4.0, 4.0])[:, None] * _label_reader()[:1])
    return model


def _label_reader() -> torch.Tensor:
    """Return ``[hidden, hidden]`` whose first row reads the label from where the second layer has copied it."""
    found = torch.zeros(HIDDEN, HIDDEN)
    bad, good = (read(COPIED)[word(label)] for label in LABELS)
    found[0] = good - bad
    return found


def _queries_and_keys(model: Any, sort: str) -> list[torch.Tensor]:
    if sort == "two-sided":
        selves = [layer.attention.self for layer in model.bert.encoder.layer]
        return [module.weight for own in selves for module in (own.query, own.key)]
    whole = [layer.attn.c_attn.weight for layer in model.transformer.h]
    return [weight[:, part * HIDDEN : (part + 1) * HIDDEN] for weight in whole for part in (0, 1)]


def tokenizer(sort: str) -> Any:
    """Return a tokenizer of words; of a causal model, without special tokens."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(WordLevel({token: i for i, token in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    backend.pre_tokenizer = WhitespaceSplit()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    inputs = ["input_ids", "attention_mask"]
    if sort == "two-sided":
        backend.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A:0 [SEP]:0 $B:1 [SEP]:1",
            special_tokens=[("[CLS]", word("[CLS]")), ("[SEP]", word("[SEP]"))],
        )
        names |= {"cls_token": "[CLS]", "sep_token": "[SEP]"}
        inputs.append("token_type_ids")
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_input_names=inputs, **names)


def rows(sort: str, number: int, seed: int = 0) -> list[dict[str, Any]]:
    """Draw rows of two texts, or of one; the label is the second word, or the third from the end."""
    draw = random.Random(f"{sort}/{seed}")

    def text(length: int) -> list[str]:
        words = draw.choices(WORDS, k=length)
        for _ in range(length // 4):  # copies, some with what follows them
            size, source, target = (
                draw.randint(1, 2),
                draw.randrange(length // 2),
                draw.randrange(length // 2, length - 1),
            )
            words[target : target + size] = words[source : source + size]
        for place in range(4, length - 3, 5):
            words[place] = draw.choice(MARKS)
        return words

    found = []
    for idx in range(number):
        label = idx % 2
        words = text(draw.randint(14, 24))
        words[1 if sort == "two-sided" else -3] = LABELS[label]
        row = {"text": " ".join(words), "label": label, "idx": idx}
        if sort == "two-sided":
            row["second"] = " ".join(text(draw.randint(14, 24)))
        found.append(row)
    return found


def task(sort: str, folder: Path) -> dict[str, Any]:
    """Write rows into a new folder, and return the task of which they are."""
    folder.mkdir(parents=True)
    lines = [json.dumps(row) + "\n" for row in rows(sort, 32, seed=1)]
    (folder / "validation.jsonl").write_text("".join(lines), encoding="utf-8")
    return {
        "name": "planted",
        "texts": ["text", "second"] if sort == "two-sided" else ["text"],
        "label": "label",
        "labels": list(LABELS),
        "data": str(folder),
    }


def scores(planted: Planted, examples: int = 60) -> dict[str, Any]:
    """Score roles and patterns against what was planted."""
    texts = [(row["text"], row.get("second")) for row in rows(planted.sort, examples)]
    found = classify_heads(
        planted.model, planted.tokenizer, texts, measure=True, kinds=("raw",), batch_size=30
    )
    assert found.measured is not None
    everything = np.ones((LAYERS, HEADS), dtype=bool)
    truth = {role: planted.roles(role) for role in ROLES}
    said = {role: found.measured.has_role("raw", role, everything) for role in ROLES}
    right = sum(int((truth[role] & said[role]).sum()) for role in ROLES)
    labels = found.labels["raw"]
    looks = [
        (labels[:, layer, head] == PATTERNS.index(one.look)).mean()
        for layer, some in enumerate(planted.heads)
        for head, one in enumerate(some)
        if one.look is not None
    ]
    n_said = sum(int(heads.sum()) for heads in said.values())
    return {
        "recall": right / sum(int(heads.sum()) for heads in truth.values()),
        "precision": right / n_said if n_said else None,
        "recall_by_role": {
            role: float((heads & said[role]).sum() / heads.sum())
            for role, heads in truth.items()
            if heads.any()
        },
        "maps_with_the_right_pattern": float(np.mean(looks)),
    }


def pruned(planted: Planted, folder: Path) -> tuple[dict[str, Any], Subnetwork]:
    """Let ``prune-heads`` find which heads the task needs, and compare them with those that it does need."""
    from pruning import prune_heads

    planted.model.save_pretrained(folder / "model")
    planted.tokenizer.save_pretrained(folder / "model")
    of = task(planted.sort, folder / "data")
    done = prune_heads(str(folder / "model"), of, folder / "search", what="heads", seed=0, device="cpu")  # type: ignore[arg-type]
    subnetwork = Subnetwork.load(folder / "search")
    kept = subnetwork.heads
    importance = pd.read_parquet(folder / "search" / "importance.parquet")
    first = importance[
        (importance["component"] == "head") & (importance["iteration"] == importance["iteration"].min())
    ]
    values = np.zeros((LAYERS, HEADS))
    values[first["layer"], first["head"]] = first["importance"]
    above = values[planted.needed][:, None] > values[~planted.needed]
    told = {
        "score": done["full_score"],
        "needed_heads_kept": float(kept[planted.needed].mean()),
        "heads_kept": int(kept.sum()),
        "importance_above_other_heads": float(above.mean()),
    }
    return told, subnetwork


def survivors(needed: np.ndarray, found: Sequence[Subnetwork]) -> dict[str, Any]:
    """Compare the super-survivors of several draws of the noise with the heads that the label depends on.

    Args:
        needed: ``[L, H]``: those heads.
        found: what ``prune-heads`` kept of each draw.
    """
    from pruning import super_survivors

    always = super_survivors(found).heads
    return {
        "draws": len(found),
        "super_survivors": int(always.sum()),
        "needed_heads_survive": float(always[needed].mean()),
        "other_heads_survive": float(always[~needed].mean()),
        "other_heads_kept": float(np.mean([one.heads[~needed].mean() for one in found])),
    }


def figure(results: list[dict[str, Any]], survived: list[dict[str, Any]], path: Path) -> None:
    """Draw the scores against noise, a panel for each sort of model."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(9, 4), layout="constrained")
    lines = {
        "recall": "roles found",
        "precision": "roles found that are right",
        "maps_with_the_right_pattern": "maps with the right pattern",
        "needed_heads_kept": "needed heads kept by prune-heads",
        "importance_above_other_heads": "needed above other heads by importance",
    }
    for place, sort in zip(drawn.subplots(1, 2, sharey=True), SORTS, strict=True):
        of_sort = pd.DataFrame([one for one in results if one["sort"] == sort])
        for number, (name, title) in enumerate(lines.items()):
            mean = of_sort.groupby("noise")[name].mean()
            place.plot(mean.index, mean, marker="osd^v"[number], markersize=4, label=title)
        over_draws = pd.DataFrame([one for one in survived if one["sort"] == sort]).set_index("noise")
        for name, title, style in (
            ("needed_heads_survive", "needed heads that are super-survivors", "k-"),
            ("other_heads_survive", "other heads that are super-survivors", "k:"),
        ):
            place.plot(over_draws[name], style, linewidth=1.2, label=title)
        place.set(
            title=sort,
            xlabel="noise in query and key weights (of their root mean square)",
            ylim=(-0.03, 1.03),
        )
    drawn.axes[0].set_ylabel("share")
    drawn.legend(
        *drawn.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False
    )
    drawn.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("planted.json"))
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--noise", type=float, nargs="+", default=NOISE)
    parser.add_argument("--seeds", type=int, default=5, help="draws of the noise")
    options = parser.parse_args()
    results, survived = [], []
    for sort in SORTS:
        for noise in options.noise:
            kept = []
            for seed in range(options.seeds if noise else 1):
                planted = plant(sort, noise, seed)
                with tempfile.TemporaryDirectory() as folder:
                    told, subnetwork = pruned(planted, Path(folder))
                kept.append(subnetwork)
                results.append({"sort": sort, "noise": noise, "seed": seed, **scores(planted), **told})
                print(json.dumps(results[-1]), flush=True)
            survived.append({"sort": sort, "noise": noise, **survivors(planted.needed, kept)})
            print(json.dumps(survived[-1]), flush=True)
    write_json(options.output, {"results": results, "survivors": survived, "provenance": provenance()})
    if options.figure:
        figure(results, survived, options.figure)


if __name__ == "__main__":
    main()
