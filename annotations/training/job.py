"""The jobs of ``train-classifier`` and ``evaluate-classifier``: from annotated folders to weights and scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt

from models.common.errors import InputError
from models.common.files import read_json, write_json
from models.common.hub import check_repository, publish
from models.common.outputs import Output
from models.common.provenance import Provenance, SourceRecord, provenance
from patterns.classifier.scores import GroupedScores, Metric
from patterns.distribution import by_pattern
from patterns.maps.store import is_causal
from patterns.taxonomy import KINDS, PATTERNS, Pattern

from ..dataset import AnnotatedMaps, digests, groups_of, load_labelled, records_of
from ..labellers import passes_among, who_labelled

if TYPE_CHECKING:
    from patterns.classifier.training import Training


RECORD = "training.json"
"""What a trained classifier's folder says of its training."""
OTHER_KIND = {"raw": 1.0, "norm": 0.33}
"""By kind, how often a map of the other kind is drawn in training: what cross-validation favoured."""


def fold_sizes(maps: AnnotatedMaps, folds: int, seed: int) -> list[int]:
    """Return how many maps the smallest and the largest training part of a cross-validation have."""
    from patterns.classifier.training import split_folds

    targets = np.array([PATTERNS.index(label) for label in _labels(maps)])
    sizes = [len(seen) for seen, _ in split_folds(targets, *groups_of(maps), folds, seed)]
    return [min(sizes), max(sizes)]


def _labels(maps: AnnotatedMaps) -> list[Pattern]:
    return [label for label in maps.labels if label is not None]


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise InputError(f"--maps {kind}: give {' or '.join(KINDS)}, one kind a classifier.")


def _training() -> Training:
    from patterns.classifier.training import (
        Training,  # here and not above, so that importing this room stays light
    )

    return Training()


_SCORES: dict[Metric, str] = {
    "macro_f1": "macro-F1",
    "log_loss": "log-loss",
    "brier": "Brier score (0 to 2)",
    "ece": "expected calibration error",
}
"""What the card shows besides the accuracy."""


class TrainingProvenance(Provenance):
    """Where a classifier comes from."""

    annotations: list[SourceRecord]


class BaseScores(TypedDict):
    """How good the classifier is on the maps of one base model, of heads and inputs that it had not seen."""

    base_model: str
    causal: bool
    """Whether nothing lies above the diagonal of these maps."""
    maps: int
    accuracy: float
    macro_f1: float
    ci95: dict[str, list[float | None]]
    """Of both, over heads."""


class TrainingReport(TypedDict):
    """What ``training.json`` holds."""

    kind: str
    """Of maps."""
    version: str
    maps: dict[str, int]
    """By kind."""
    labels: dict[str, int]
    """By pattern."""
    heads: int
    base_models: list[str]
    annotators: list[str]
    passes: dict[str, list[str]]
    note: str
    folds: int
    fold_sizes: list[int] | None
    out_of_fold: GroupedScores | None
    by_base: list[BaseScores]
    """The same by base model, causal maps apart."""
    temperature: float
    training: dict[str, object]
    provenance: TrainingProvenance
    map_digests: list[str]
    published: NotRequired[str]
    """Address of the commit on the Hub; not in the file."""


class EvaluationProvenance(TrainingProvenance):
    """What was scored, and on what."""

    classifier: dict[str, str]


class Evaluation(GroupedScores):
    """What ``evaluate-classifier`` finds."""

    kind: str
    classifier: str
    version: str
    trained_on: int | None
    """How many of the maps it was trained on; None if it does not say."""
    provenance: EvaluationProvenance


@dataclass(frozen=True)
class TrainClassifier:
    """One run of ``train-classifier``.

    Raises:
        InputError: an option is out of range, or the output folder is not empty.
    """

    annotations: tuple[Path, ...]
    """Folders of annotated maps, ours or as published: DIR1 DIR2 ..."""
    output: Path
    """New or empty folder for the classifier."""
    maps: str = "raw"
    """Kind of maps it is for: raw or norm."""
    other_kind: float | None = None
    """How often maps of the other kind are learned from too, relative to one of this kind; 0 for never. Default: 1 for
    raw, 0.33 for norm.

    They help because an annotator sees one sort of picture, whatever the kind.
    """
    folds: int = 5
    """Parts of the cross-validation over heads; 0 for none."""
    training: Training = field(default_factory=_training)
    """How it is trained."""
    note: str = ""
    """Who labelled the maps and how; goes into the card."""
    overwrite: bool = False
    push_to_hub: str | None = None
    """ORG/NAME: publish the classifier in this model repository of the Hub, which load_classifier reads."""

    def __post_init__(self) -> None:
        _check_kind(self.maps)
        if self.other_kind is not None and not 0 <= self.other_kind < float("inf"):
            raise InputError(f"--other-kind {self.other_kind}: give 0 for never, or more.")
        if self.folds == 1 or self.folds < 0:
            raise InputError(f"--folds {self.folds}: give 0 for none, or at least 2.")
        self._output.check()

    @property
    def _output(self) -> Output:
        return Output(self.output, "train-classifier", self.overwrite, self.annotations)

    def run(self, progress: bool = False) -> TrainingReport:
        """Score by cross-validation over heads, train on everything, and write weights, scores and card.

        Returns:
            What ``training.json`` holds, and the address of what was published.
        """
        from patterns.classifier.scores import score
        from patterns.classifier.training import calibrated, cross_validate, fit_temperature, train

        if self.push_to_hub is not None:
            check_repository(self.push_to_hub, "--push-to-hub")
        annotated = load_labelled(self.annotations)
        kinds = annotated.info["kind"].to_numpy()
        if self.maps not in kinds:
            raise InputError(f"The annotations hold no labelled {self.maps} maps.")
        other_kind = OTHER_KIND[self.maps] if self.other_kind is None else self.other_kind
        if not other_kind:
            annotated = annotated.select(np.flatnonzero(kinds == self.maps))
        info = annotated.info
        own = (info["kind"] == self.maps).to_numpy()
        weights = np.where(own, 1.0, other_kind)
        maps, labels = annotated.maps, _labels(annotated)
        heads, inputs = groups_of(annotated)

        with self._output.making() as folder:
            temperature, scores, sizes = 1.0, None, None
            by_base: list[BaseScores] = []
            if self.folds:
                logits, fold = cross_validate(
                    self.maps, maps, labels, heads, self.training, self.folds, own, weights, inputs, progress
                )
                own_labels = [label for label, mine in zip(labels, own, strict=True) if mine]
                temperature = fit_temperature(logits, own_labels)
                found = calibrated(logits, own_labels, fold)
                scores = score(own_labels, found, heads[own], self.training.seed)
                by_base = _by_base(annotated.select(np.flatnonzero(own)), found, self.training.seed)
                sizes = fold_sizes(annotated, self.folds, self.training.seed)
            classifier = train(self.maps, maps, labels, self.training, temperature, weights, progress)
            report: TrainingReport = {
                "kind": self.maps,
                "version": classifier.version,
                "maps": {kind: int((info["kind"] == kind).sum()) for kind in KINDS},
                "labels": by_pattern(labels),
                "heads": len(set(heads)),
                "base_models": sorted(set(info["base_model"])),
                "annotators": (names := sorted(set(annotated.annotations["annotator"]))),
                "passes": passes_among(names, annotated.passes),
                "note": self.note,
                "folds": self.folds,
                "fold_sizes": sizes,
                "out_of_fold": scores,
                "by_base": by_base,
                "temperature": temperature,
                "training": {**dataclasses.asdict(self.training), "other_kind": other_kind},
                "provenance": {**provenance(), "annotations": records_of(self.annotations)},
                "map_digests": sorted(set(digests(annotated))),
            }
            classifier.save_pretrained(folder)
            write_json(folder / RECORD, report)
            (folder / "README.md").write_text(card(report), encoding="utf-8")
        if self.push_to_hub is not None:
            report["published"] = publish(self.output, self.push_to_hub, "model", "--push-to-hub")
        return report


@dataclass(frozen=True)
class EvaluateClassifier:
    """One run of ``evaluate-classifier``."""

    annotations: tuple[Path, ...]
    """Folders of annotated maps, ours or as published: DIR1 DIR2 ..."""
    classifier: str = "raw"
    """raw or norm (shipped), a folder, or a Hub id."""
    maps: str | None = None
    """Kind of maps to score on. Default: the classifier's own."""

    def run(self) -> Evaluation:
        """Score the classifier on every labelled map of its kind.

        Raises:
            InputError: the classifier or the annotations are not what they should be.
        """
        from patterns.classifier.network import SHIPPED, classifier_digest, load_classifier
        from patterns.classifier.scores import score

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
        if (folder / RECORD).is_file():
            record = read_json(folder / RECORD, "a training record")
            seen = record.get("map_digests") if isinstance(record, dict) else None
            if not (isinstance(seen, list) and all(isinstance(digest, str) for digest in seen)):
                raise InputError(f"{folder / RECORD} is no training record: it has no map_digests.")
            known = sum(map(set(seen).__contains__, digests(annotated)))
        return {
            "kind": classifier.kind,
            "classifier": self.classifier,
            "version": classifier.version,
            "trained_on": known,
            **score(_labels(annotated), classifier.predict_proba(annotated.maps), groups_of(annotated)[0]),
            "provenance": {
                **provenance(),
                "annotations": records_of(self.annotations),
                "classifier": {"source": self.classifier, "version": classifier.version}
                | classifier_digest(self.classifier),
            },
        }


def _by_base(annotated: AnnotatedMaps, found: npt.NDArray[np.float64], seed: int) -> list[BaseScores]:
    """Score probabilities ``[N, 5]`` of maps by their base models."""
    from patterns.classifier.scores import score

    bases = annotated.info["base_model"].to_numpy(dtype=str)
    causal = np.array([is_causal(values) for values in annotated.maps])
    labels, heads = _labels(annotated), groups_of(annotated)[0]
    rows: list[BaseScores] = []
    for base, of_causal in sorted({(str(base), bool(one)) for base, one in zip(bases, causal, strict=True)}):
        at = np.flatnonzero((bases == base) & (causal == of_causal))
        scores = score([labels[i] for i in at], found[at], heads[at], seed)
        rows.append(
            {
                "base_model": base,
                "causal": of_causal,
                "maps": len(at),
                "accuracy": scores["accuracy"],
                "macro_f1": scores["macro_f1"],
                "ci95": {name: scores["ci95"][name] for name in ("accuracy", "macro_f1")},
            }
        )
    return rows


def card(report: TrainingReport) -> str:
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
        f"{who_labelled(report['annotators'], report['passes'])}. Labels: "
        + ", ".join(f"{n} {label}" for label, n in report["labels"].items())
        + ".",
        *(["", report["note"]] if report["note"] else []),
        "",
        "## Scores",
    ]
    if scores is None:
        lines.append("It was not cross-validated.")
    else:
        within = scores["ci95"]

        def cell(value: float | None, bounds: Sequence[float | None]) -> str:
            if value is None or bounds[0] is None:
                return "-" if value is None else f"{value:.3f}"
            return f"{value:.3f} [{bounds[0]:.3f}, {bounds[1]:.3f}]"

        least, most = report["fold_sizes"] or (0, 0)
        lines += [
            f"{report['folds']}-fold cross-validation on {scores['maps']} {kind} maps of {scores['groups']} heads: "
            "each map is predicted by a classifier that has seen neither its head nor, where that is known, its input "
            f"({least} to {most} maps to learn from, where the classifier that is "
            f"kept had {sum(report['maps'].values())} and should err less). Intervals (95%) "
            "resample heads; the temperature of each fold was fitted on the others.",
            "",
            "| | value [95% interval] |",
            "|---|---|",
            f"| accuracy (always the commonest label: {scores['majority_accuracy']:.3f}) | "
            f"{cell(scores['accuracy'], within['accuracy'])} |",
            *(f"| {name} | {cell(scores[key], within[key])} |" for key, name in _SCORES.items()),
            *(
                f"| F1 of {p} ({scores['support'][p]} maps) | {cell(scores['f1'][p], within['f1'][p])} |"
                for p in map(str, PATTERNS)
            ),
            "",
            "Confusion (rows: label, columns: prediction):",
            "",
            "| | " + " | ".join(map(str, PATTERNS)) + " |",
            "|---|" + "---|" * len(PATTERNS),
            *(
                f"| {p} | " + " | ".join(map(str, row)) + " |"
                for p, row in zip(PATTERNS, scores["confusion"], strict=True)
            ),
            "",
            "| base model | maps | accuracy | macro-F1 |",
            "|---|---|---|---|",
            *(
                f"| {one['base_model'] or 'unnamed'}{', causal maps' if one['causal'] else ''} | {one['maps']} | "
                + " | ".join(cell(one[key], one["ci95"][key]) for key in ("accuracy", "macro_f1"))
                + " |"
                for one in report["by_base"]
            ),
        ]
    lines += [
        "",
        "## Not for",
        "Maps of fewer tokens than it was trained on, local attention, causal or two-sided maps if it was trained on",
        "none of them, and any claim about a single map. Whole-model shares carry the error above.",
        "",
    ]
    return "\n".join(lines)
