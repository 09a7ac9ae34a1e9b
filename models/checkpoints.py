"""Load the model under study: any Hub id or folder of a supported family, with or without a task head."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .anatomy import family_of
from .errors import HeadscopeError, InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Checkpoint:
    """A model and what is needed to feed and to name it."""

    model: PreTrainedModel
    """Without its task head, float32, in evaluation mode."""
    tokenizer: PreTrainedTokenizerBase
    name: str
    """Hub id or folder, as given."""
    revision: str | None
    """Commit of a Hub model; None for a folder."""
    sha256: str | None
    """Digest of a folder's weight files; None for a Hub model, whose commit says as much."""


def load_checkpoint(name: str, revision: str | None = None, device: str | torch.device = "cpu") -> Checkpoint:
    """Load a base model and its tokenizer.

    The precision is float32: bfloat16 moves attention probabilities by up to 0.09.

    Raises:
        UnsupportedModelError: the model's family is not supported (found out before any weights are read).
        InputError: there is no such model, it is incomplete or corrupt, or it has no tokenizer.
    """
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    folder = Path(name) if Path(name).is_dir() else None
    if folder is None and Path(name).exists():
        raise InputError(f"--model {name} is a file; give the model's folder or its Hub id.")
    try:
        config = AutoConfig.from_pretrained(name, revision=revision)
        family_of(config)
        model, report = AutoModel.from_pretrained(
            name, config=config, revision=revision, dtype=torch.float32, output_loading_info=True
        )
    except HeadscopeError:
        raise
    except SafetensorError as error:
        raise InputError(
            f"--model {name}: its safetensors file is truncated or corrupt ({error})."
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(_no_model(name, folder, error)) from error
    # A wrong prefix would leave weights at random without a word; a missing pooler does not matter here.
    missing = sorted(key for key in report["missing_keys"] if "pooler" not in key)
    if missing or report["mismatched_keys"]:
        wrong = missing or sorted(str(key) for key in report["mismatched_keys"])
        raise InputError(
            f"--model {name} lacks {len(wrong)} of the weights that its config asks for, e.g. {wrong[0]}."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"--model {name} has no tokenizer that can be loaded: {_first_line(error)}"
        ) from error
    model.eval()
    return Checkpoint(
        model=model.to(device),
        tokenizer=tokenizer,
        name=name,
        revision=getattr(model.config, "_commit_hash", None) or revision,
        sha256=_digest(folder) if folder else None,
    )


def pick_device(name: str = "auto") -> torch.device:
    """Return the device called `name`; ``auto`` takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        InputError: no such device here.
    """
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if name == "auto":
        name = next(device for device in ("cuda", "mps", "cpu") if available[device])
    if not available.get(name.split(":")[0], False):
        here = ", ".join(device for device, there in available.items() if there)
        raise InputError(f"--device {name} is not available on this machine; available: auto, {here}.")
    return torch.device(name)


def _no_model(name: str, folder: Path | None, error: Exception) -> str:
    if folder is not None:
        if not (folder / "config.json").exists():
            return f"--model {name} is not a model folder: it has no config.json."
        return f"--model {name} cannot be loaded: {_first_line(error)}"
    return (
        f"--model {name} is neither a folder on this machine nor a model that can be had from the Hub now; "
        f"check the name, the revision and the network ({type(error).__name__})."
    )


def _first_line(error: Exception) -> str:
    return (
        str(error).strip().splitlines()[0].rstrip(".") + "." if str(error).strip() else type(error).__name__
    )


def _digest(folder: Path) -> str | None:
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest() if files else None


def count_parameters(model: PreTrainedModel) -> int:
    """Return the number of parameters, embeddings included."""
    return sum(parameter.numel() for parameter in model.parameters())


def model_record(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what a result must say about the model that it is about."""
    return {
        "name": checkpoint.name,
        "revision": checkpoint.revision,
        "sha256": checkpoint.sha256,
        "type": checkpoint.model.config.model_type,
        "parameters": count_parameters(checkpoint.model),
    }
