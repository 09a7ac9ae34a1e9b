"""A forward pass that is not what the family says ends a command in a sentence, with nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers.models.bert.modeling_bert import BertSelfAttention

from annotations.cli import app as annotate_maps
from patterns.cli import classify_heads

_AS_IT_IS = BertSelfAttention.forward


def twice(self: Any, *args: Any, **options: Any) -> Any:
    """Attend once more than the family says."""
    _AS_IT_IS(self, *args, **options)
    return _AS_IT_IS(self, *args, **options)


def not_in_the_last(self: Any, hidden_states: Any, *args: Any, **options: Any) -> Any:
    """Attend in fewer layers than the family says."""
    if self.layer_idx == 2:
        return hidden_states, None
    return _AS_IT_IS(self, hidden_states, *args, **options)


def with_something_else(self: Any, *args: Any, **options: Any) -> Any:
    """Hand the attention function something that nobody has heard of."""
    return _AS_IT_IS(self, *args, **options, tree_bias=3)


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (twice, "Attention call 2 of this forward pass was not made by layer 1 of 3"),
        (not_in_the_last, "The forward pass went through 2 of 3 attention layers."),
        (with_something_else, "computes its attention with 'tree_bias', which headscope does not know"),
    ],
)
@pytest.mark.parametrize("command", [classify_heads, annotate_maps], ids=["classify-heads", "annotate-maps"])
def test_a_forward_that_is_not_what_the_family_says(
    command: Any,
    forward: Callable[..., Any],
    message: str,
    save_tiny: Any,
    run_command: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = save_tiny("bert")
    (tmp_path / "texts.txt").write_text("the film was rather long\n")
    monkeypatch.setattr(BertSelfAttention, "forward", forward)
    words = ["sample"] if command is annotate_maps else []
    words += ["--model", folder, "--text", tmp_path / "texts.txt", "--output", tmp_path / "out"]
    before = sorted(tmp_path.iterdir())
    code, out, err = run_command(command, *words, "--device", "cpu")
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert sorted(tmp_path.iterdir()) == before
