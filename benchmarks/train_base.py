"""Pre-train a small BERT on GLUE sentences: another base model to label and to test on.

    python benchmarks/train_base.py --data GLUE --output bases/bert-small --steps 3000 --seed 1 --bf16

The pattern classifier must work on models that it has never seen, and heads of one base model look alike
over its checkpoints. Six layers of eight heads, hidden size 256 and an 8,000-piece vocabulary are enough for
all five patterns to appear (block too: sentence pairs carry segments). It learns masked tokens (Devlin et al.
2019: 15%, of those 80% masked, 10% random, 10% kept), texts of like length together.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertTokenizerFast,
    DataCollatorForLanguageModeling,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    get_linear_schedule_with_warmup,
)

from models.common.files import write_json
from models.common.outputs import Output
from models.common.provenance import provenance
from models.tasks.rows import load_rows, texts_of
from models.tasks.task import TASKS

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
END = "<|end|>"
CAUSAL = ("gpt2", "llama")


def sentences(data: Path) -> list[tuple[str, str | None]]:
    """Every text or text pair of the training rows of all nine tasks."""
    return [texts_of(row, task) for task in TASKS.values() for row in load_rows(task, data, "train").rows]


def word_pieces(texts: list[tuple[str, str | None]], size: int, length: int) -> PreTrainedTokenizerFast:
    """Learn a lower-casing WordPiece vocabulary."""
    from tokenizers import BertWordPieceTokenizer

    learner = BertWordPieceTokenizer(lowercase=True)
    lines = (text for pair in texts for text in pair if text)
    learner.train_from_iterator(lines, vocab_size=size, show_progress=False, special_tokens=SPECIAL)
    return BertTokenizerFast(
        vocab=learner.get_vocab(),
        tokenizer_object=learner._tokenizer,
        model_max_length=length,
        do_lower_case=True,
    )


def byte_pairs(texts: list[tuple[str, str | None]], size: int, length: int) -> PreTrainedTokenizerFast:
    """Learn byte-level byte pairs, of which nothing is added to a text but, for padding, an end."""
    from tokenizers import ByteLevelBPETokenizer

    learner = ByteLevelBPETokenizer()
    lines = (text for pair in texts for text in pair if text)
    learner.train_from_iterator(lines, vocab_size=size, show_progress=False, special_tokens=[END])
    return PreTrainedTokenizerFast(
        tokenizer_object=learner._tokenizer, eos_token=END, pad_token=END, model_max_length=length
    )


def build(tokens: PreTrainedTokenizerFast, options: argparse.Namespace) -> PreTrainedModel:
    """A model with random weights."""
    shape: dict[str, Any] = {
        "vocab_size": len(tokens),
        "max_position_embeddings": 512,
        "hidden_size": options.hidden,
        "num_hidden_layers": options.layers,
        "num_attention_heads": options.heads,
    }
    ends = {"bos_token_id": None, "eos_token_id": tokens.eos_token_id, "pad_token_id": tokens.pad_token_id}
    wide = {"intermediate_size": 4 * options.hidden}
    match options.architecture:
        case "gpt2":
            return GPT2LMHeadModel(GPT2Config(**shape, **ends, n_inner=4 * options.hidden))
        case "llama":
            return LlamaForCausalLM(LlamaConfig(**shape, **ends, **wide, tie_word_embeddings=True))
        case _:
            return BertForMaskedLM(BertConfig(**shape, **wide, pad_token_id=tokens.pad_token_id))


def batches(
    tokens: PreTrainedTokenizerFast, texts: list[Any], options: argparse.Namespace
) -> DataLoader[Any]:
    """Texts of like length together, so that little is padding; the order of batches is drawn from the seed."""
    limits: dict[str, Any] = {"truncation": True, "max_length": options.length}
    rows = []
    if options.architecture in CAUSAL:
        joined = [a if b is None else f"{a}\n{b}" for a, b in texts]
        rows = [{"input_ids": row} for row in tokens(joined, **limits)["input_ids"] if len(row) > 1]
    else:
        ids = tokens([a for a, _ in texts], [b or "" for _, b in texts], return_token_type_ids=True, **limits)
        for (_, second), row, segments in zip(texts, ids["input_ids"], ids["token_type_ids"], strict=True):
            if second is None:  # an empty second text leaves one [SEP] too many
                row, segments = row[:-1], segments[:-1]
            rows.append({"input_ids": row, "token_type_ids": segments})
    draw = torch.Generator().manual_seed(options.seed)
    chosen = []
    while len(chosen) < options.steps:
        order = torch.randperm(len(rows), generator=draw).tolist()
        pools = [
            order[i : i + 50 * options.batch_size] for i in range(0, len(order), 50 * options.batch_size)
        ]
        epoch = []
        for pool in pools:
            pool.sort(key=lambda i: len(rows[i]["input_ids"]))
            epoch += [pool[i : i + options.batch_size] for i in range(0, len(pool), options.batch_size)]
        chosen += [epoch[i] for i in torch.randperm(len(epoch), generator=draw).tolist()]
    collate = DataCollatorForLanguageModeling(tokens, mlm=options.architecture not in CAUSAL)
    return DataLoader(rows, batch_sampler=chosen[: options.steps], collate_fn=collate)


def loss_of(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Cross-entropy of the next token; or of masked ones, and the vocabulary is only scored where one is masked."""
    if not isinstance(model, BertForMaskedLM):
        return model(**batch).loss
    labels = batch.pop("labels")
    masked = labels != -100
    scores = model.cls(model.bert(**batch).last_hidden_state[masked])
    return torch.nn.functional.cross_entropy(scores.float(), labels[masked])


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with <task>/train.jsonl of the nine tasks"
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--architecture", choices=("bert", *CAUSAL), default="bert")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--vocabulary", type=int, default=8000)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--bf16", action="store_true", help="mixed precision: twice as fast where the CPU has it"
    )
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    texts = sentences(options.data)
    learn = byte_pairs if options.architecture in CAUSAL else word_pieces
    tokens = learn(texts, options.vocabulary, 512)
    model = build(tokens, options).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, weight_decay=0.01)
    schedule = get_linear_schedule_with_warmup(optimizer, options.steps // 20, options.steps)
    losses: list[float] = []
    bar = tqdm(batches(tokens, texts, options), mininterval=5)
    for batch in bar:
        with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
            loss = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if len(losses) % 100 == 0:
            bar.set_postfix(loss=f"{sum(losses[-100:]) / 100:.3f}")
    record = {
        **{name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()},
        "texts": len(texts),
        "loss": sum(losses[-100:]) / len(losses[-100:]),
        "provenance": provenance(),
    }
    record.pop("data"), record.pop("output")
    with Output(options.output, "benchmarks/train_base.py").making() as folder:
        model.eval().save_pretrained(folder)
        tokens.save_pretrained(folder)
        write_json(folder / "training.json", record)


if __name__ == "__main__":
    main()
