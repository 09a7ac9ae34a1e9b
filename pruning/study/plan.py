"""The plan of a lottery study: steps with explicit inputs and outputs, each known by a hash of all that decides it.

The waves are: fine-tune and search, per task and seed; then controls, evaluated pruned and fine-tuned again; then
the same for super-survivors, which are of all seeds; then patterns. Where each step lies on disk stands in
:attr:`Step.path` and :class:`pruning.study.folder.StudyFolder`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property

from models.common.errors import InputError
from models.saving import WHOLE
from models.weights import SUBNETWORK_FILE, WEIGHT_MASKS_FILE

from .config import Study, non_defaults

PROTOCOL = 1
"""Version of what the steps do. It is raised when the same config would lead to another result."""
WAVES = ("fine-tune and search", "controls", "supers", "patterns")
PRETRAINED = "pretrained"
"""Stands in a path where a seed would, for what is of no seed."""
JOINT, WEIGHTS = "heads-and-mlps", "weights"
"""The searches that subnetworks are made from."""
_SUPER = "super-"


def search_step(search: str) -> str:
    """Return the name of the step that is one of :data:`pruning.study.config.SEARCHES`."""
    return f"search-{search}"


@dataclass(frozen=True)
class Drawn:
    """Which subnetwork a step is of."""

    method: str
    """``structured`` or ``magnitude``."""
    kind: str
    """One of :data:`pruning.study.config.STRUCTURED`, or of ``MAGNITUDE``."""
    draw: int = 0
    """Counted from 1; 0 where there is only one."""

    @property
    def of_all_seeds(self) -> bool:
        """Whether it is made from what the searches of all seeds keep."""
        return self.kind.startswith(_SUPER)

    @property
    def role(self) -> str:
        """``good``, ``random`` or ``bad``, of one seed or of all."""
        return self.kind.removeprefix(_SUPER)

    def name(self, counted: bool = True) -> str:
        """Return the beginning of its steps' names; with * for the number of the draw if that does not count."""
        prefix = "weights-" if self.method == "magnitude" else ""
        return f"{prefix}{self.kind}" + (f"-{self.draw if counted else '*'}" if self.draw else "")


@dataclass(frozen=True)
class Step:
    """One cell of a study: a folder that is whole or absent."""

    name: str
    """``fine-tune``, ``search-heads``, ``random-1-pruned``, ``weights-bad-fine-tuned``, ``patterns``, ..."""
    kind: str
    """Which job it is: one of :data:`pruning.study.steps.JOBS`."""
    task: str
    seed: int | None
    """None for what is of the pre-trained model."""
    wave: str
    """One of :data:`WAVES`."""
    inputs: tuple[str, ...] = ()
    """Paths of the steps whose outputs are read."""
    outputs: tuple[str, ...] = ()
    """Files that other steps read."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """What of the study decides the result, but for model, data, task, seed and threads; ready for JSON."""
    drawn: Drawn | None = None
    """Of a step that prunes or fine-tunes again: which subnetwork."""

    @property
    def place(self) -> str:
        """``seed_42``."""
        return PRETRAINED if self.seed is None else f"seed_{self.seed}"

    @property
    def path(self) -> str:
        """Folder within the study's: ``qqp/seed_42/fine-tune``."""
        return f"{self.task}/{self.place}/{self.name}"

    @property
    def alike(self) -> str:
        """The name, with * for the number of a draw: draws are counted together."""
        if self.drawn is None:
            return self.name
        return self.drawn.name(counted=False) + self.name.removeprefix(self.drawn.name())


@dataclass(frozen=True)
class Materials:
    """What the model and the data are as they lie there now."""

    model: Mapping[str, str | None]
    """``revision`` and ``name`` of a Hub model, ``sha256`` of a folder's weights."""
    data: Mapping[str, Mapping[str, str | None]]
    """By task, digests of the splits that are read: ``train``, ``validation``, ..."""


@dataclass(frozen=True)
class Plan:
    """All steps of a study, in an order in which each comes after its inputs."""

    study: Study
    materials: Materials
    steps: tuple[Step, ...]

    @cached_property
    def by_path(self) -> dict[str, Step]:
        """The steps by their paths."""
        return {step.path: step for step in self.steps}

    @cached_property
    def configs(self) -> dict[str, dict[str, object]]:
        """By path, everything that decides a step's result; the identities of its inputs stand for theirs."""
        found: dict[str, dict[str, object]] = {}
        identities: dict[str, str] = {}
        for step in self.steps:
            task = self.study.task(step.task)
            config: dict[str, object] = {
                "protocol": PROTOCOL,
                "step": step.name,
                "task": step.task,
                **({"task_definition": task.meaning()} if task.own else {}),
                "seed": step.seed,
                "model": dict(self.materials.model),
                "data": dict(self.materials.data[step.task]),
                "threads": self.study.threads,
                "device": self.study.device,
                "settings": dict(step.settings),
                "inputs": {path: identities[path] for path in step.inputs},
            }
            found[step.path] = config
            identities[step.path] = identity_of(config)
        return found

    def identity(self, step: Step) -> str:
        """Return the hash that a step is known by."""
        return identity_of(self.configs[step.path])

    def levels(self, steps: Sequence[Step]) -> Iterator[list[Step]]:
        """Yield those steps wave by wave, and within a wave in groups whose steps do not wait for each other."""
        for wave in WAVES:
            left = {step.path: step for step in steps if step.wave == wave}
            while left:
                ready = [step for step in left.values() if not any(path in left for path in step.inputs)]
                yield ready
                for step in ready:
                    del left[step.path]

    def matching(self, patterns: Sequence[str], needed: bool = False) -> list[Step]:
        """Return the steps that one of the patterns names, in the plan's order.

        Args:
            patterns: names of steps (``fine-tune``), or paths (``qqp/seed_42/*``), with wildcards.
            needed: add the steps that these need, directly or not.

        Raises:
            InputError: a pattern names no step.
        """
        chosen: set[str] = set()
        for pattern in patterns:
            found = {
                step.path
                for step in self.steps
                if fnmatchcase(step.name, pattern)
                or fnmatchcase(step.path, pattern)
                or fnmatchcase(step.path, f"{pattern.rstrip('/')}/*")
            }
            if not found:
                names = ", ".join(dict.fromkeys(step.name for step in self.steps))
                raise InputError(
                    f"{pattern!r} is no step of this study; give a name ({names}) or a path such as "
                    f"{self.steps[0].path}, * for anything."
                )
            chosen |= found
        if needed:
            for step in reversed(self.steps):
                if step.path in chosen:
                    chosen |= set(step.inputs)
        return [step for step in self.steps if step.path in chosen]


def identity_of(config: Mapping[str, object]) -> str:
    """Return the SHA-256 of a config's canonical JSON: keys sorted, no white space."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def plan_of(study: Study, materials: Materials) -> Plan:
    """Return all steps of a study."""
    steps: list[Step] = []
    for task in study.tasks:
        for seed in study.seeds:
            steps += _fine_tune_and_search(study, task, seed)
        for seed in study.seeds:
            steps += _subnetworks(study, task, seed)
        if study.patterns.maps:
            steps += _patterns(study, task)
        for of in study.ablation.models:
            steps += (_ablation(study, task, seed, of) for seed in study.seeds)
    return Plan(study, materials, tuple(steps))


def _fine_tune_and_search(study: Study, task: str, seed: int) -> Iterator[Step]:
    wave = WAVES[0]
    tuned = Step(
        "fine-tune", "fine-tune", task, seed, wave, outputs=(WHOLE,), settings=_fine_tuning(study, task)
    )
    yield tuned
    for search in study.searches:
        weights = search == WEIGHTS
        how = study.magnitude if weights else study.structured
        yield Step(
            search_step(search),
            "search-weights" if weights else "search",
            task,
            seed,
            wave,
            inputs=(tuned.path,),
            outputs=(WEIGHT_MASKS_FILE if weights else SUBNETWORK_FILE,),
            settings=_rows(study)
            | {"threshold": study.threshold, **non_defaults(how)}
            | ({} if weights else {"what": search}),
        )


def _subnetworks(study: Study, task: str, seed: int) -> Iterator[Step]:
    """Yield the steps of good, random, bad and super subnetworks of one seed."""

    def path(name: str, of: int = seed) -> str:
        return f"{task}/seed_{of}/{name}"

    for method, search in (("structured", JOINT), ("magnitude", WEIGHTS)):
        for kind in getattr(study.subnetworks, method):
            draws = study.subnetworks.random_draws if (kind, method) == ("random", "structured") else 0
            for draw in range(1, draws + 1) if draws else [0]:
                drawn = Drawn(method, kind, draw)
                seeds = list(study.seeds) if drawn.of_all_seeds else [seed]
                settings: dict[str, object] = {"method": method, "subnetwork": kind, "seeds": seeds}
                if draw:
                    settings["draw"] = draw
                if drawn.role != "good":
                    settings["draw_seed"] = study.seed
                if method == "magnitude":
                    of_masks = non_defaults(study.magnitude)
                    settings |= {k: v for k, v in of_masks.items() if k in ("last_bias", "criterion")}
                wave = WAVES[2 if drawn.of_all_seeds else 1]
                masks = WEIGHT_MASKS_FILE if method == "magnitude" else SUBNETWORK_FILE
                pruned = Step(
                    f"{drawn.name()}-pruned",
                    "pruned",
                    task,
                    seed,
                    wave,
                    inputs=(path("fine-tune"), *(path(search_step(search), of) for of in seeds)),
                    outputs=(masks,),
                    settings=_rows(study) | _mismatched(study, task) | settings,
                    drawn=drawn,
                )
                yield pruned
                if study.subnetworks.fine_tune:
                    yield Step(
                        f"{drawn.name()}-fine-tuned",
                        "fine-tuned",
                        task,
                        seed,
                        wave,
                        inputs=(pruned.path,),
                        settings=_fine_tuning(study, task) | settings,
                        drawn=drawn,
                    )


def _patterns(study: Study, task: str) -> Iterator[Step]:
    how: dict[str, object] = {"maps": list(study.patterns.maps), "examples": study.patterns.examples}
    how |= {"draw_seed": study.seed, "max_length": study.max_length}
    for seed in (*study.seeds, *([None] if study.patterns.pretrained else [])):
        tuned = () if seed is None else (f"{task}/seed_{seed}/fine-tune",)
        yield Step("patterns", "patterns", task, seed, WAVES[3], tuned, settings=how)


def _ablation(study: Study, task: str, seed: int, of: str) -> Step:
    """Return the step that closes the heads of each pattern in a full model, or in the subnetwork found in it."""
    how = {name: value for name, value in non_defaults(study.ablation).items() if name != "models"}
    how |= {"of": of, "pattern_examples": study.patterns.examples, "draw_seed": study.seed}
    needed = ("fine-tune", *([search_step(JOINT)] if of == "good" else []))
    return Step(
        "ablation" if of == "full" else f"{of}-ablation",
        "ablation",
        task,
        seed,
        WAVES[3],
        tuple(f"{task}/seed_{seed}/{name}" for name in needed),
        settings=_rows(study) | how,
    )


def _rows(study: Study) -> dict[str, object]:
    """What decides which dev rows are scored, and how they are read."""
    found: dict[str, object] = {"max_length": study.max_length}
    if study.dev_examples is not None:
        found["dev_examples"] = study.dev_examples
    if study.holdout:
        found["holdout"] = study.holdout
    return found


def _mismatched(study: Study, task: str) -> dict[str, object]:
    """What says that a model is scored on rows of other genres too; nothing where it is not."""
    return {"mismatched": True} if study.mismatched and study.task(task).mismatched else {}


def _fine_tuning(study: Study, task: str) -> dict[str, object]:
    how = non_defaults(study.fine_tuning)
    for name in ("checkpoint_steps", "report_to"):  # they do not decide the result
        how.pop(name, None)
    return _rows(study) | _mismatched(study, task) | how
