"""A model while only a subnetwork of it is at work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .common.errors import InputError
from .compaction import compact, why_not_cut
from .gating import gated
from .subnetwork import Subnetwork

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SUBNETWORK_MODES = ("select", "gate", "compact")
"""What happens to the rest of the model while a subnetwork is looked at: it stays; its gates are closed; it is
removed. The last two give the same maps, the last one faster."""


def check_mode(mode: str) -> None:
    """Refuse what is none of :data:`SUBNETWORK_MODES`.

    Raises:
        InputError: saying which there are.
    """
    if mode not in SUBNETWORK_MODES:
        raise InputError(f"--subnetwork-mode {mode}: give one of {', '.join(SUBNETWORK_MODES)}.")


@contextmanager
def isolated(model: PreTrainedModel, subnetwork: Subnetwork, mode: str) -> Iterator[PreTrainedModel]:
    """Yield the model to look at: itself, itself with the other gates closed, or a smaller copy.

    Raises:
        HeadscopeError: the mode is unknown, or as :func:`models.gated` and :func:`models.compact`.
    """
    check_mode(mode)
    if mode == "compact":
        yield compact(model, subnetwork, unshare=True)
    elif mode == "gate":
        with gated(model, heads=subnetwork.heads, mlps=subnetwork.mlps):
            yield model
    else:
        yield model


@contextmanager
def without_the_rest(model: PreTrainedModel, subnetwork: Subnetwork) -> Iterator[PreTrainedModel]:
    """Yield a model of which only a subnetwork is at work: a smaller copy, or itself with the other gates closed.

    The latter is slower, and done where nothing can be cut out exactly.

    Raises:
        HeadscopeError: as :func:`models.gated` and :func:`models.compact`.
    """
    with isolated(model, subnetwork, "gate" if why_not_cut(model, subnetwork) else "compact") as left:
        yield left
