"""The tokenizer of a model as its ``tokenizer.json`` says, which the library does not always follow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ..common.errors import InputError
from ..common.files import read_json, reason
from ..common.hub import stored_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FILE = "tokenizer.json"
_PARTS = ("normalizer", "pre_tokenizer", "post_processor", "model")
_OTHERS: WeakKeyDictionary[Any, tuple[Any, str] | None] = WeakKeyDictionary()
"""By tokenizer, the one of the same model that reads otherwise, if there is one, and what to say of the two."""
_MENDED = (
    "by the library's {other} than tokenizer.json says, on which the model was trained; the file's are used"
)
_GIVEN = (
    "by the {used} given than by the model's tokenizer.json, on which it was trained; load_checkpoint gives a "
    "tokenizer that follows the file"
)


def load_tokenizer(name: str, config: Any, **source: Any) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer.

    Some of the library's classes build a tokenizer anew from its vocabulary and drop what ``tokenizer.json`` says of
    normalisation and splitting. The model was trained on what the file says, so where the two differ the file counts.

    Args:
        name: folder or Hub id.
        config: the content of the model's ``config.json``.
        source: how the library reads the model.

    Raises:
        InputError: there is none, it is damaged, or it is code of its own that nothing stands in for.
    """
    from transformers import AutoTokenizer

    file = stored_file(name, _FILE, **source)
    settings = stored_file(name, "tokenizer_config.json", **source)
    said = read_json(settings, "the config of a tokenizer") if settings else {}
    said = said if isinstance(said, dict) else {}
    own = [(one.get("auto_map") or {}).get("AutoTokenizer") for one in (said, config or {})]
    if any(own) and file is None:
        raise InputError(
            f"--model {name} makes tokens with code of its own (auto_map: AutoTokenizer), which headscope does not "
            f"run; save the tokenizer as {_FILE} beside it."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **source)
    except Exception as error:
        raise InputError(f"--model {name} has no tokenizer that can be loaded: {reason(error)}.") from error
    # Without any vocabulary file the library makes a tokenizer that reads every text as unknown.
    if len(tokenizer.get_vocab()) <= len(set(tokenizer.all_special_tokens)):
        raise InputError(
            f"--model {name} has no tokenizer: there is no vocabulary; add the tokenizer's files ({_FILE})."
        )
    found = tokenizer if file is None else _as_stored(tokenizer, file, said)
    _OTHERS[found] = None if found is tokenizer else (tokenizer, _MENDED)
    return found


def _as_stored(tokenizer: Any, file: Path, said: dict[str, Any]) -> PreTrainedTokenizerBase:
    """Return `tokenizer` if it is what the file says, else one that is, with the same special tokens."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    try:
        stored = json.loads(Tokenizer.from_file(str(file)).to_str())
    except Exception as error:  # what the Rust library raises is of no common type
        raise InputError(f"{file} is no tokenizer that can be read: {reason(error)}.") from error
    backend = getattr(tokenizer, "backend_tokenizer", None)
    made = json.loads(backend.to_str()) if backend else {}
    known = made.get("added_tokens", [])
    if all(made.get(part) == stored[part] for part in _PARTS) and all(
        token in known for token in stored["added_tokens"]
    ):
        return tokenizer
    found = PreTrainedTokenizerFast(
        tokenizer_file=str(file),
        model_input_names=list(tokenizer.model_input_names),
        model_max_length=tokenizer.model_max_length,
        padding_side=tokenizer.padding_side,
        **tokenizer.special_tokens_map,
    )
    found.name_or_path = tokenizer.name_or_path
    # Llama's class alone is told by its settings, not by the file, which special tokens to add.
    if (
        backend
        and said.keys() & {"add_bos_token", "add_eos_token"}
        and type(tokenizer).__name__[:5] == "Llama"
    ):
        found.backend_tokenizer.post_processor = backend.post_processor
    return found


def other_reading(tokenizer: PreTrainedTokenizerBase) -> tuple[PreTrainedTokenizerBase, str] | None:
    """Return the tokenizer that may read texts otherwise, and words for the two; None if there is none.

    What :func:`load_tokenizer` gave reads as ``tokenizer.json`` says, and the library's own class perhaps otherwise;
    one that a caller loaded is used as it is, and the file perhaps says otherwise.
    """
    if tokenizer not in _OTHERS:
        file = Path(tokenizer.name_or_path) / _FILE
        stored = _as_stored(tokenizer, file, {}) if tokenizer.name_or_path and file.is_file() else tokenizer
        _OTHERS[tokenizer] = None if stored is tokenizer else (stored, _GIVEN)
    return _OTHERS[tokenizer]
