"""What the finished steps of a study left, as tidy tables, which are all that its report is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from models.common.errors import InputError
from models.common.files import read_json, write_json
from models.common.pages import short_name
from models.common.reading import check_fields, file_digest, read_frame
from models.tasks.task import MISMATCHED
from patterns.report.summary import MAPS

from ...ablation.folder import DRAWS, SINGLE
from ...ablation.folder import GROUPS as ABLATED_GROUPS
from ...comparison.consistency import kept_frame
from ...search.folder import IMPORTANCE, IMPORTANCE_COLUMNS, SURVIVAL, SURVIVAL_COLUMNS
from ...search.runs import find_groups
from ..folder import STUDY, StudyFolder
from ..job import plan_in, read_plan
from ..plan import JOINT, WEIGHTS, Plan, Step, search_step
from ..records import PrunedStepResult, ScoredResult, TunedResult

if TYPE_CHECKING:
    import pandas as pd

TABLES, RECORD = "tables", "study.json"
"""The folder of a report in which they lie, and what says there which study they are of."""
SEARCH, SEARCH_WEIGHTS = search_step(JOINT), search_step(WEIGHTS)
_OF_MODEL = {"task": "O", "seed": "iu", "of": "O"}
COLUMNS: Mapping[str, Mapping[str, str]] = {
    "steps": {
        **dict.fromkeys(("path", "metric"), "O"),
        **dict.fromkeys(("seconds", "cpu_seconds", "score", "mismatched_score"), "f"),
        **dict.fromkeys(("majority", "guessing", "mismatched_majority", "mismatched_guessing"), "f"),
        **dict.fromkeys(("encoder_share", "heads", "mlps", "topped_up_heads", "topped_up_mlps"), "f"),
        "below_majority": "b",
    },
    "warnings": {"path": "O", "message": "O"},
    "kept": {**dict.fromkeys(("path", "method", "what"), "O"), "layer": "iu", "head": "iu", "kept": "b"},
    "importance": {
        **{"task": "O", "seed": "iu"},
        **{name: of for name, of in IMPORTANCE_COLUMNS.items() if name not in ("iteration", "kept")},
    },
    "kept_weights": {"path": "O", **SURVIVAL_COLUMNS},
    "maps": {"path": "O", "example": "iu", "kind": "O", "layer": "iu", "head": "iu", "label": "O"},
    "ablation": {**_OF_MODEL, "kind": "O", "sort": "O", "name": "O", "drop": "f"},
    "ablation_draws": {**_OF_MODEL, **dict.fromkeys(("kind", "sort", "name", "heads"), "O"), "drop": "f"},
    "ablation_heads": {**_OF_MODEL, "kind": "O", "layer": "iu", "dominant": "O", "drop": "f"},
}
"""By table the columns that are read of it, and the kinds of their numpy types."""
_WHOLE = ("ablation",)
"""Tables of which every column is kept, not those alone that are read."""


def is_report(folder: Path | str) -> bool:
    """Whether a folder holds a report rather than a study: tables to make the report of again."""
    folder = Path(folder)
    return (folder / TABLES / RECORD).is_file() and not (folder / STUDY).exists()


def plan_at(folder: Path | str) -> Plan:
    """Return the plan of the study that a folder holds, or the report of.

    Raises:
        InputError: it holds neither.
    """
    return plan_in(Path(folder) / TABLES / RECORD) if is_report(folder) else read_plan(Path(folder))


@dataclass(frozen=True)
class StudyTables:
    """What the finished steps of a study say, a row each; a table that no step says anything of is empty.

    ``path`` is a step's, ``qqp/seed_42/search-heads``; where there is none, ``task`` and ``seed`` say whose row it is.
    """

    plan: Plan
    steps: pd.DataFrame
    """Every finished step: seconds, and of one that scores a model its score and what is left of that model."""
    warnings: pd.DataFrame
    kept: pd.DataFrame
    """Every head and MLP of every search for these: whether it is kept."""
    importance: pd.DataFrame
    """Of heads and MLPs in the full models, which decide what goes first."""
    kept_weights: pd.DataFrame
    """Share of the weights of each head and MLP that magnitude pruning keeps."""
    maps: pd.DataFrame
    """The pattern of every map."""
    ablation: pd.DataFrame
    """What closing each group of heads costs."""
    ablation_draws: pd.DataFrame
    """What closing random sets of as many costs."""
    ablation_heads: pd.DataFrame
    """What closing each head alone costs."""

    @cached_property
    def done(self) -> list[Step]:
        """The finished steps, in the plan's order."""
        return [self.plan.by_path[path] for path in self.steps["path"]]

    def save(self, folder: Path) -> None:
        """Write the tables that have rows to a folder of their own, from which :meth:`load` reads them.

        Model and data are named there without the folders that they lie in on this machine: what they are is told by
        their digests.
        """
        folder.mkdir(parents=True, exist_ok=True)
        written = {}
        for name in COLUMNS:
            table: pd.DataFrame = getattr(self, name)
            if len(table):
                table.to_parquet(folder / f"{name}.parquet", index=False, write_page_checksum=True)
                written[name] = file_digest(folder / f"{name}.parquet")
        study = self.plan.study
        named = replace(
            study, model=short_name(study.model), data=study.data and short_name(study.data), output=None
        )
        about = {"study": asdict(named), "materials": asdict(self.plan.materials), "tables": written}
        write_json(folder / RECORD, about)

    @classmethod
    def load(cls, folder: Path) -> StudyTables:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: a table is missing or is not what was written, or a row is of no step of the study.
        """
        file = folder / RECORD
        plan = plan_in(file)
        known = check_fields(file, read_json(file, "a study's record"), {"tables": "texts by name"})["tables"]
        if unknown := set(known) - set(COLUMNS):
            raise InputError(f"{file} names {min(unknown)!r}, which is no table of a study's steps.")
        found: dict[str, pd.DataFrame] = {}
        for name, columns in COLUMNS.items():
            path = folder / f"{name}.parquet"
            if name not in known:
                found[name] = _frame([], name)
                continue
            if not path.is_file() or file_digest(path) != known[name]:
                raise InputError(
                    f"{path} is {'not what was written there' if path.is_file() else 'missing'}; "
                    "run-study report STUDY writes it again from the study's folder."
                )
            found[name] = read_frame(path, columns, others=name in _WHOLE)
            if "path" in columns and (strange := set(found[name]["path"]) - set(plan.by_path)):
                raise InputError(f"{path} has {min(strange)!r}, which is no step of the study in {file}.")
        return cls(plan, **found)


def read_steps(home: StudyFolder) -> StudyTables:
    """Read the finished steps of a study.

    Raises:
        InputError: the folder holds no study, or a file is missing or is not what was written.
    """
    plan = read_plan(home.path)
    done = [step for step in plan.steps if home.is_done(step)]
    found = {name: [read(home, step) for step in done if of(step)] for name, (of, read) in _READ.items()}
    return StudyTables(
        plan,
        steps=_frame([_row(home, step, plan) for step in done], "steps"),
        **{name: _joined(tables, name) for name, tables in found.items()},
    )


def _row(home: StudyFolder, step: Step, plan: Plan) -> dict[str, object]:
    """What is told of a step, and of the model that it scores if it does."""
    found = home.read(step)
    row: dict[str, object] = {"path": step.path, "below_majority": found.get("testable") is False}
    row["metric"] = found.get("metric", "")
    row |= {name: found["step"].get(name) for name in ("seconds", "cpu_seconds")}
    if step.kind not in ("fine-tune", "pruned", "fine-tuned"):
        return row
    scored = cast("ScoredResult", found)  # by its kind, it was looked at when it was read
    metric = scored["metric"]
    row["score"] = scored["score"]
    row["mismatched_score"] = (
        scored["scores"][MISMATCHED + metric] if step.settings.get("mismatched") else None
    )
    if step.kind == "fine-tune":
        always = cast("TunedResult", found)["baselines"]
        for prefix in ("", MISMATCHED):
            row[f"{prefix}majority"] = always["majority"].get(prefix + metric)
            row[f"{prefix}guessing"] = always["random"].get(prefix + metric)
    elif step.kind == "pruned":
        about = cast("PrunedStepResult", found)["subnetwork"]
        row |= {name: about.get(name) for name in ("encoder_share", "topped_up_heads", "topped_up_mlps")}
        row |= {"heads": about["heads"]["kept"] if "heads" in about else None}
        row |= {"mlps": about["mlps"]["kept"] if "mlps" in about else None}
    return row


def _warnings(home: StudyFolder, step: Step) -> pd.DataFrame:
    told = home.read(step).get("warnings", ())
    return _frame([{"path": step.path, "message": message} for message in told], "warnings")


def _kept(home: StudyFolder, step: Step) -> pd.DataFrame:
    return _of_step(step, kept_frame(find_groups([home.verified(step)])[0][0]))


def _importance(home: StudyFolder, step: Step) -> pd.DataFrame:
    frame = read_frame(home.file(step, IMPORTANCE), IMPORTANCE_COLUMNS)
    return _of_model(step, frame[frame["iteration"] == 0].drop(columns=["iteration", "kept"]))


def _kept_weights(home: StudyFolder, step: Step) -> pd.DataFrame:
    return _of_step(step, read_frame(home.file(step, SURVIVAL), SURVIVAL_COLUMNS))


def _maps(home: StudyFolder, step: Step) -> pd.DataFrame:
    columns = {name: of for name, of in COLUMNS["maps"].items() if name != "path"}
    return _of_step(step, read_frame(home.file(step, MAPS), columns))


def _ablated(home: StudyFolder, step: Step) -> pd.DataFrame:
    import pandas as pd

    return _of_model(step, pd.read_csv(home.file(step, ABLATED_GROUPS)))


def _closed(file: str, table: str, home: StudyFolder, step: Step) -> pd.DataFrame:
    if file not in home.read(step)["step"]["files"]:  # no head was closed alone
        return _frame([], table)
    columns = {name: of for name, of in COLUMNS[table].items() if name not in _OF_MODEL}
    return _of_model(step, read_frame(home.file(step, file), columns))


def _of_step(step: Step, table: pd.DataFrame) -> pd.DataFrame:
    """Put a step's path before the columns of its table."""
    table.insert(0, "path", step.path)
    return table


def _of_model(step: Step, table: pd.DataFrame) -> pd.DataFrame:
    """Put task and seed, and which model the heads of an ablation are closed in, before the columns of a table."""
    told = {"task": step.task, "seed": step.seed}
    if step.kind == "ablation":
        told["of"] = str(step.settings["of"])
    return table.assign(**told)[[*told, *table.columns]]


_Reader = Callable[[StudyFolder, Step], "pd.DataFrame"]
_READ: Mapping[str, tuple[Callable[[Step], bool], _Reader]] = {
    "warnings": (lambda step: step.kind != "fine-tuned", _warnings),
    "kept": (lambda step: step.kind == "search", _kept),
    "importance": (lambda step: step.name == SEARCH, _importance),
    "kept_weights": (lambda step: step.name == SEARCH_WEIGHTS, _kept_weights),
    "maps": (lambda step: step.kind == "patterns", _maps),
    "ablation": (lambda step: step.kind == "ablation", _ablated),
    "ablation_draws": (lambda step: step.kind == "ablation", partial(_closed, DRAWS, "ablation_draws")),
    "ablation_heads": (lambda step: step.kind == "ablation", partial(_closed, SINGLE, "ablation_heads")),
}
"""By table the steps that it is of, and how it is read of one."""


def _joined(tables: Sequence[pd.DataFrame], name: str) -> pd.DataFrame:
    import pandas as pd

    tables = [table for table in tables if len(table)]
    return pd.concat(tables, ignore_index=True) if tables else _frame([], name)


_DTYPES = {"iu": "int64", "f": "float64", "b": "bool"}
"""Text is what pandas takes it for, as it is when a table is read."""


def _frame(rows: Sequence[Mapping[str, object]], name: str) -> pd.DataFrame:
    """Return a table of these rows; None is no number."""
    import pandas as pd

    columns = COLUMNS[name]
    frame = pd.DataFrame(rows, columns=list(columns))
    return frame.astype({column: _DTYPES[kinds] for column, kinds in columns.items() if kinds in _DTYPES})
