"""Maps of a model under study as rows to be stored, each with an id that no other map has."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.checkpoints import Checkpoint
from models.families.family import STACKS
from models.tasks.inputs import Encoded

from ..taxonomy import KINDS
from .store import MapRow

_KINDS = tuple(f"_{kind}" for kind in KINDS)


def head_id(start: str, layer: int, head: int) -> str:
    """Return what the ids of one head's maps of one input begin with; then comes the kind."""
    return f"{start}_{layer}_{head}"


def of_one_head(id: str) -> str | None:
    """Return the part of a map's id that the head's maps of other kinds share; None of an id that is not ours."""
    return id.rpartition("_")[0] if id.endswith(_KINDS) else None


@dataclass(frozen=True)
class MapNames:
    """What the maps of one model on one task are called.

    An id is ``<model>_<task>_<example>-<digest>_<layer>_<head>_<kind>``. The digest is of the weights, of the
    precision that they are used in unless it is float32, of the stack unless it is the only one or the encoder, and of
    the input's tokens, so that two models' maps, or two splits', never share an id and can be annotated together, while
    the same map has the same id whenever it is taken.
    """

    checkpoint: Checkpoint
    task: str
    """The task's name."""
    base_model: str = ""
    """What the model was fine-tuned from, which a checkpoint does not say; "" if unknown."""
    stack: str | None = None
    """Of an encoder-decoder, whose maps."""

    def example(self, example: int, encoded: Encoded) -> str:
        """Return the first part of the ids of one input's maps."""
        weights = self.checkpoint.sha256 or self.checkpoint.revision or self.checkpoint.name
        if (precision := str(self.checkpoint.model.dtype)) != "torch.float32":
            weights += f" {precision}"
        if self.stack not in (None, STACKS[0]):
            weights += f" {self.stack}"
        digest = hashlib.sha256(f"{weights} {encoded.input_ids}".encode()).hexdigest()[:6]
        name = re.sub(r"[^\w.-]+", "-", Path(self.checkpoint.name).name)
        return f"{name}_{self.task}_{example}-{digest}"

    def row(
        self,
        example: int,
        encoded: Encoded,
        layer: int,
        head: int,
        kind: str,
        values: npt.NDArray[np.float32],
    ) -> MapRow:
        """Return one map ``[n, n]`` with what is known of it; InputError if it is no map."""
        return MapRow(
            id=f"{head_id(self.example(example, encoded), layer, head)}_{kind}",
            kind=kind,
            base_model=self.base_model,
            model=self.checkpoint.name,
            task=self.task,
            example=example,
            layer=layer,
            head=head,
            n_tokens=len(encoded),
            segment_borders=encoded.borders,
            map=values,
        )
