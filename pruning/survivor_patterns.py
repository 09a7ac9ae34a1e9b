"""The patterns of survivors beside those of all heads, in each seed's own checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from models.anatomy import anatomy_of
from models.checkpoints import Checkpoint
from models.errors import InputError
from models.files import known
from models.glue import Row
from models.isolating import isolated
from models.subnetwork import Mask
from patterns import HeadPatterns, PatternClassifier, classify_heads
from patterns.distribution import distribution
from patterns.examples import ExampleMaps
from patterns.taxonomy import INTERPRETABLE, PATTERNS

from .permutation import PermutationTest, difference_test, holm, paired_ci95
from .runs import Group, Run
from .survivors import super_survivors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SIDES = ("super_survivors", "all", "non_survivors")
"""Whose patterns are compared: the heads that all seeds keep, all heads, and all but the first."""

_TESTS = ("test", "test_each_seed")
_P_VALUES = ("p_layers", "p_free")


class Source(NamedTuple):
    """A checkpoint to look at."""

    name: str
    """Hub id or folder."""
    revision: str | None = None


@dataclass(frozen=True)
class Measured:
    """The patterns of all heads of the full model on the same examples, for each run of a group."""

    labels: Mapping[str, npt.NDArray[np.int8]]
    """By kind, ``[S, E, L, H]``: index into ``PATTERNS``."""
    alone: Mapping[str, npt.NDArray[np.int8]]
    """Likewise where all but the super-survivors is gone; only their places mean something. Empty if not asked for."""
    models: tuple[Source, ...]
    """The checkpoint of each run, by seed."""
    patterns: tuple[HeadPatterns, ...]
    """What was found in each of these, before examples that another lacks were left out."""
    warnings: tuple[str, ...]
    """What :func:`patterns.classify_heads` warned of, once each; checkpoints changed since they were pruned."""

    @property
    def n_models(self) -> int:
        """Number of different checkpoints."""
        return len(set(self.models))


def measure(
    group: Group,
    models: Sequence[Source],
    load: Callable[[Source], Checkpoint],
    rows: Sequence[Row],
    classifiers: Mapping[str, PatternClassifier],
    cache: dict[tuple[Source, str], HeadPatterns],
    *,
    batch_size: int = 16,
    seed: int = 0,
    announce: Callable[[str], None] | None = None,
    mode: str = "select",
    examples: ExampleMaps | None = None,
) -> Measured:
    """Classify the heads of each run's checkpoint; a checkpoint that was seen on this task is not run again.

    With ``mode="gate"`` or ``"compact"``, super-survivors are looked at a second time, in a model of which the rest
    is silenced or removed, as Prasanna et al. (2020) did.

    Args:
        group: the runs of one task.
        models: the checkpoint of each.
        load: loads one.
        rows: the task's, the same for each; examples that one tokenizer makes too short are left out for all.
        classifiers: by kind.
        cache: what was classified so far, by checkpoint and task; added to.
        batch_size: inputs per forward pass.
        seed: goes into the result of each.
        announce: called with a line about each checkpoint before it is run, and then there is a progress bar.
        mode: one of :data:`models.isolating.SUBNETWORK_MODES`.
        examples: keeps a few maps of the full models to look at.

    Raises:
        HeadscopeError: a checkpoint cannot be loaded, is of another size than the subnetwork, or shares no
            example with the others.
    """
    found: list[HeadPatterns] = []
    alone: dict[Source, HeadPatterns] = {}
    warnings: list[str] = []
    survivors = super_survivors(group.subnetworks)
    separately = mode != "select" and survivors.n_heads > 0

    def classified(
        run: Run, model: PreTrainedModel, tokenizer: Any, keep: ExampleMaps | None = None
    ) -> HeadPatterns:
        return classify_heads(
            model,
            tokenizer,
            rows,
            task=run.task,
            kinds=tuple(classifiers),
            classifiers=classifiers,
            batch_size=batch_size,
            seed=seed,
            progress=announce is not None,
            examples=keep,
        )

    for run, model in zip(group.runs, models, strict=True):
        key = model, run.task
        if key not in cache or (separately and model not in alone):
            if announce:
                announce(f"{group.name}, seed {run.seed}: {model.name}")
            checkpoint = load(model)
            _check_size(run, checkpoint)
            warnings += checkpoint.warnings
            if model.name == run.model and run.sha256 not in (None, checkpoint.sha256):
                warnings.append(f"{model.name} has other weights now than when {run.source} pruned it.")
            if key not in cache:
                if examples is not None and len(set(models)) > 1:
                    examples.source = f"seed {run.seed}"
                cache[key] = classified(run, checkpoint.model, checkpoint.tokenizer, examples)
            if separately:
                with isolated(checkpoint.model, survivors, mode) as left:
                    alone[model] = classified(run, left, checkpoint.tokenizer)
        found.append(cache[key])
    common = set.intersection(*(set(patterns.examples.tolist()) for patterns in found))
    if not common:
        raise InputError(f"The checkpoints of {group.name} have no usable example in common.")

    def labels(of: Sequence[HeadPatterns]) -> dict[str, npt.NDArray[np.int8]]:
        chosen = [[i for i, example in enumerate(p.examples.tolist()) if example in common] for p in of]
        return {
            kind: np.stack([p.labels[kind][places] for p, places in zip(of, chosen, strict=True)])
            for kind in classifiers
        }

    return Measured(
        labels=labels(found),
        alone=labels([alone[model] for model in models]) if separately else {},
        models=tuple(models),
        patterns=tuple(found),
        warnings=(
            *warnings,
            *dict.fromkeys(f"{group.name}: {message}" for p in found for message in p.warnings),
        ),
    )


def compare(
    group: Group,
    labels: npt.NDArray[np.int8],
    permutations: int = 9999,
    seed: int = 0,
    alone: npt.NDArray[np.int8] | None = None,
) -> dict[str, Any]:
    """Return, ready for JSON, the patterns of super-survivors, of all heads, and of the heads between.

    The intervals resample seeds and examples together, the set of super-survivors as it is. ``difference`` is the
    interpretable ratio of super-survivors less that of all heads, ``test`` compares them with the other heads,
    ``test_each_seed`` each seed's own survivors with its own pruned heads. None: there is no such head, or it
    cannot be tested.

    Args:
        group: the runs.
        labels: ``[S, E, L, H]`` of one kind of maps.
        permutations: of each test.
        seed: of the resampling and the permutations.
        alone: the labels of super-survivors where the rest is gone; shares and ``difference`` are of these then. The
            tests are always of the full model, the only one in which the other heads have maps.
    """
    survivors = super_survivors(group.subnetworks).heads
    heterogeneous = labels == PATTERNS.index(INTERPRETABLE)
    masks: dict[str, Mask] = {
        "super_survivors": survivors,
        "all": np.ones_like(survivors),
        "non_survivors": ~survivors,
    }
    seen = dict.fromkeys(masks, labels) | ({} if alone is None else {"super_survivors": alone})
    sides = {
        name: (seen[name][:, :, mask] == PATTERNS.index(INTERPRETABLE)).mean(axis=2)
        for name, mask in masks.items()
        if mask.any()
    }
    intervals, apart = paired_ci95(list(sides.values()), seed)
    bounds = dict(zip(sides, intervals, strict=True))
    result: dict[str, Any] = dict.fromkeys(SIDES)
    for name in sides:
        result[name] = {
            "heads": int(masks[name].sum()),
            "distribution": distribution(seen[name][:, :, masks[name]].ravel()),
            "interpretable_ratio": float(sides[name].mean()),
            "interpretable_ratio_ci95": [known(bound) for bound in bounds[name]],
        }
    result["difference"] = result["super_survivors"] and {
        "value": float(sides["super_survivors"].mean() - sides["all"].mean()),
        "ci95": [known(bound) for bound in apart],
    }
    shares = heterogeneous.mean(axis=1)  # [S, L, H]
    own = np.stack([one.heads for one in group.subnetworks])
    for name, kept, values in (("test", survivors, shares.mean(axis=0)), ("test_each_seed", own, shares)):
        result[name] = _test_record(difference_test(kept, values, permutations, seed))
    return result


def adjust(comparisons: Sequence[dict[str, Any]]) -> None:
    """Add to each comparison's tests the p-values adjusted by Holm over all comparisons, each test by itself."""
    for test in _TESTS:
        for p_value in _P_VALUES:
            adjusted = holm([one[test][p_value] for one in comparisons])
            for one, p in zip(comparisons, adjusted, strict=True):
                one[test][f"{p_value}_holm"] = p


def _test_record(test: PermutationTest) -> dict[str, Any]:
    return {
        "difference": test.difference,
        "expected_by_layers": test.expected,
        "p_layers": test.p_layers,
        "p_free": test.p_free,
        "permutations": test.permutations,
    }


def _check_size(run: Run, checkpoint: Checkpoint) -> None:
    anatomy = anatomy_of(checkpoint.model)
    shape = (anatomy.n_layers, anatomy.n_heads)
    if shape != run.subnetwork.heads.shape:
        one, other = (" x ".join(map(str, of)) for of in (run.subnetwork.heads.shape, shape))
        raise InputError(
            f"{run.source} is of a model of {one} heads (layers x heads), but --model {checkpoint.name} has {other}."
        )
