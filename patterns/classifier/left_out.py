"""How far off the interpretable ratio was on real models that a shipped classifier had not learned from.

``benchmarks/left_out.py --cards`` measures it on fair samples of labelled maps, and writes the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median

from models.common.reading import check_fields, read_json

FILE = Path(__file__).parents[1] / "weights" / "left_out.json"
_FIELDS = {
    "base": "text", "causal": "flag", "kind": "text", "classifier": "text", "maps": "count", "true": "number",
    "said": "number",
}  # fmt: skip


@dataclass(frozen=True)
class LeftOut:
    """One kind of maps of one model, a fair sample of them labelled."""

    base: str
    causal: bool
    kind: str
    classifier: str
    """The version of the classifier that was tried."""
    maps: int
    true: float
    """Interpretable ratio by the labels."""
    said: float
    """The same by the classifier."""

    @property
    def error(self) -> float:
        """By how much the ratio was off, 0 to 1."""
        return abs(self.said - self.true)


@cache
def left_out() -> tuple[LeftOut, ...]:
    """Return what was measured."""
    return tuple(LeftOut(**check_fields(FILE, one, _FIELDS)) for one in read_json(FILE))


def tried(kind: str, classifier: str, causal: bool) -> list[LeftOut]:
    """Return the models of this sort that a classifier was tried on.

    Args:
        kind: of maps.
        classifier: its version; of one of the user's own nothing is known.
        causal: whether the models are.
    """
    return [one for one in left_out() if (one.kind, one.classifier, one.causal) == (kind, classifier, causal)]


def errors_in_words(classifiers: Mapping[str, str], causal: bool) -> str:
    """Say in a sentence how far off the interpretable ratio was on models of this sort that were never learned from.

    Args:
        classifiers: by kind of maps, the version of the classifier.
        causal: of the model at hand.
    """
    sort = "causal" if causal else "two-sided"
    found = {kind: tried(kind, version, causal) for kind, version in classifiers.items()}
    known = {kind: some for kind, some in found.items() if some}
    if not known:
        return f"How far off its ratio is on {sort} models that it never saw was not measured."
    bases = sorted({one.base for some in known.values() for one in some})
    models = (
        f"{len(bases)} real {sort} models" if len(bases) > 1 else f"the one real {sort} model tried that was"
    )
    errors = " and ".join(f"{_off_by(some)} on {kind} maps" for kind, some in known.items())
    return f"On {models} left out of training ({', '.join(bases)}), the ratio was off by {errors}."


def _off_by(some: Sequence[LeftOut]) -> str:
    errors = [100 * one.error for one in some]
    if len(errors) == 1:
        return _points(errors[0])
    return f"{_points(median(errors))} at the median and {max(errors):.0f} at most"


def _points(number: float) -> str:
    return {0: "less than 1 point", 1: "1 point"}.get(round(number), f"{number:.0f} points")
