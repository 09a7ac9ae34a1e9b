"""The jobs of ``train-classifier`` and ``evaluate-classifier``: from annotated folders to weights and scores."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.errors import InputError
from models.files import atomic_folder, check_output, read_json, write_json
from models.provenance import provenance
from patterns.taxonomy import KINDS, PATTERNS, Pattern

from .dataset import HEADS, AnnotatedMaps

if TYPE_CHECKING:
    from patterns.training import Training


def load_labelled(folders: Sequence[Path]) -> AnnotatedMaps:
    """Read and merge annotated folders and keep what has a label.

    Raises:
        InputError: no folder, a folder that is not one, or nothing labelled.
    """
    if not folders:
        raise InputError("--annotations: give at least one folder of annotated maps.")
    first, *rest = (AnnotatedMaps.load(folder) for folder in folders)
    maps = first.merge(*rest).labelled()
    if not len(maps):
        raise InputError(f"{', '.join(str(folder) for folder in folders)}: no map has a label.")
    return maps


def digests(maps: AnnotatedMaps) -> list[str]:
    """Return eight hexadecimal digits per map, by which a map is recognised again wherever it lies."""
    return [
        hashlib.sha256(np.ascontiguousarray(values, dtype=np.float16).tobytes()).hexdigest()[:8]
        for values in maps.maps
    ]


def _labels(maps: AnnotatedMaps) -> list[Pattern]:
    return [label for label in maps.labels if label is not None]


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise InputError(f"--maps {kind}: give {' or '.join(KINDS)}, one kind a classifier.")


def _training() -> Training:
    from patterns.training import Training  # here and not above, so that importing this room stays light

    return Training()


@dataclass(frozen=True)
class TrainClassifier:
    """One run of ``train-classifier``.

    Raises:
        InputError: an option is out of range, or the output folder is not empty.
    """

    annotations: tuple[Path, ...]
    """Folders of annotated maps."""
    maps: str
    """The kind of maps that the classifier is for: raw or norm."""
    output: Path
    """Folder for the classifier."""
    other_kind: float = 1.0
    """How often a map of the other kind is drawn in training, relative to one of this kind; 0 for never.
    They help because an annotator sees one sort of picture, whatever the kind."""
    folds: int = 5
    """Parts of the cross-validation over heads that scores the classifier; 0 for none."""
    training: Training = field(default_factory=_training)
    """How it is trained."""
    note: str = ""
    """Who labelled the maps and how, for the card."""
    overwrite: bool = False
    """Whether a non-empty output folder may be replaced."""

    def __post_init__(self) -> None:
        _check_kind(self.maps)
        if not 0 <= self.other_kind < float("inf"):
            raise InputError(f"--other-kind {self.other_kind}: give 0 for never, or more.")
        if self.folds == 1 or self.folds < 0:
            raise InputError(f"--folds {self.folds}: give 0 for none, or at least 2.")
        check_output(self.output, self.overwrite, marker="training.json")

    def run(self, progress: bool = False) -> dict[str, Any]:
        """Score by cross-validation over heads, train on everything, and write weights, scores and card.

        Returns:
            What ``training.json`` holds.
        """
        from scipy.special import softmax

        from patterns.evaluation import score
        from patterns.training import cross_validate, fit_temperature, train

        annotated = load_labelled(self.annotations)
        kinds = annotated.info["kind"].to_numpy()
        if self.maps not in kinds:
            raise InputError(f"The annotations hold no labelled {self.maps} maps.")
        if not self.other_kind:
            annotated = annotated.select(np.flatnonzero(kinds == self.maps))
        info = annotated.info
        own = (info["kind"] == self.maps).to_numpy()
        weights = np.where(own, 1.0, self.other_kind)
        maps, labels = annotated.maps, _labels(annotated)
        heads = ["/".join(map(str, head)) for head in zip(*(info[column] for column in HEADS), strict=True)]

        with atomic_folder(self.output, self.overwrite) as folder:
            temperature, scores = 1.0, None
            if self.folds:
                logits, _ = cross_validate(
                    self.maps, maps, labels, heads, self.training, self.folds, own, weights, progress
                )
                own_labels = [label for label, mine in zip(labels, own, strict=True) if mine]
                temperature = fit_temperature(logits, own_labels)
                scores = score(own_labels, softmax(logits / temperature, axis=1))
            classifier = train(self.maps, maps, labels, self.training, temperature, weights, progress)
            report = {
                "kind": self.maps,
                "version": classifier.version,
                "maps": {kind: int((info["kind"] == kind).sum()) for kind in KINDS},
                "labels": {p.value: sum(label == p for label in labels) for p in PATTERNS},
                "heads": len(set(heads)),
                "base_models": sorted(set(info["base_model"])),
                "annotators": sorted(set(annotated.annotations["annotator"])),
                "note": self.note,
                "folds": self.folds,
                "out_of_fold": scores,
                "temperature": temperature,
                "training": {**dataclasses.asdict(self.training), "other_kind": self.other_kind},
                "provenance": provenance(),
                "map_digests": sorted(set(digests(annotated))),
            }
            classifier.save_pretrained(folder)
            write_json(folder / "training.json", report)
            (folder / "README.md").write_text(card(report), encoding="utf-8")
        return report


@dataclass(frozen=True)
class EvaluateClassifier:
    """One run of ``evaluate-classifier``."""

    annotations: tuple[Path, ...]
    """Folders of annotated maps."""
    classifier: str
    """``raw``, ``norm`` (shipped), a folder or a Hub id."""
    maps: str | None = None
    """Kind of maps to score on; the classifier's own if None."""

    def run(self) -> dict[str, Any]:
        """Score the classifier on every labelled map of its kind.

        Returns:
            The scores, ``trained_on`` (how many of the maps it was trained on; None if it does not say) and
            provenance.

        Raises:
            InputError: the classifier or the annotations are not what they should be.
        """
        from patterns.classifier import SHIPPED, load_classifier
        from patterns.evaluation import score

        if self.maps is not None:
            _check_kind(self.maps)
        classifier = load_classifier(self.classifier, self.maps)
        annotated = load_labelled(self.annotations)
        kinds = annotated.info["kind"].to_numpy()
        annotated = annotated.select(np.flatnonzero(kinds == classifier.kind))
        if not len(annotated):
            raise InputError(f"The annotations hold no labelled {classifier.kind} maps.")
        folder = SHIPPED / self.classifier if self.classifier in KINDS else Path(self.classifier)
        known = None
        if (folder / "training.json").is_file():
            record = read_json(folder / "training.json", "a training record")
            seen = record.get("map_digests") if isinstance(record, dict) else None
            if not isinstance(seen, list):
                raise InputError(f"{folder / 'training.json'} is no training record: it has no map_digests.")
            known = sum(map(set(seen).__contains__, digests(annotated)))
        return {
            "kind": classifier.kind,
            "classifier": self.classifier,
            "version": classifier.version,
            "trained_on": known,
            **score(_labels(annotated), classifier.predict_proba(annotated.maps)),
            "provenance": provenance(),
        }


def card(report: dict[str, Any]) -> str:
    """Return the model card of a trained classifier."""
    kind, scores = report["kind"], report["out_of_fold"]
    lines = [
        "---",
        "library_name: headscope",
        "tags: [attention, interpretability, pytorch_model_hub_mixin]",
        "---",
        f"# Attention pattern classifier for {kind} maps",
        "",
        "Sorts the attention map of a transformer head into vertical, diagonal, vertical_diagonal, block or",
        "heterogeneous (Kovaleva et al. 2019). Load it with `patterns.load_classifier(path of this folder)`; the one",
        f'that comes with headscope is `patterns.load_classifier("{kind}")`.',
        "",
        "## Trained on",
        f"{' and '.join(f'{n} {k}' for k, n in report['maps'].items() if n)} maps of {report['heads']} heads of "
        f"{', '.join(filter(None, report['base_models'])) or 'unnamed models'}, labelled by "
        f"{', '.join(report['annotators'])}. Labels: "
        + ", ".join(f"{n} {label}" for label, n in report["labels"].items())
        + ".",
        *(["", report["note"]] if report["note"] else []),
        "",
        "## Scores",
    ]
    if scores is None:
        lines.append("It was not cross-validated.")
    else:
        lines += [
            f"{report['folds']}-fold cross-validation over heads (no head is on both sides) on {scores['maps']} {kind} "
            f"maps: accuracy {scores['accuracy']:.3f} (always the commonest label: {scores['majority_accuracy']:.3f}), "
            f"macro-F1 {scores['macro_f1']:.3f}, log-loss {scores['log_loss']:.3f}.",
            "The temperature was fitted on the same out-of-fold predictions.",
            "",
            "| pattern | maps | F1 |",
            "|---|---|---|",
            *(f"| {p} | {scores['support'][p]} | {scores['f1'][p]:.2f} |" for p in map(str, PATTERNS)),
        ]
    lines += [
        "",
        "## Not for",
        "Maps of fewer tokens than it was trained on, causal or local attention (its maps were two-sided), and any",
        "claim about a single map. Whole-model shares carry the error above.",
        "",
    ]
    return "\n".join(lines)
