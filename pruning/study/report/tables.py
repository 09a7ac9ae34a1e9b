"""What the finished steps of a study left, as tidy tables, which are all that its report is made of."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from models.common.errors import InputError
from models.common.files import read_json, write_json
from models.common.pages import short_name
from models.common.reading import check_fields, file_digest, read_frame
from models.tasks.task import MISMATCHED
from patterns.report.summary import MAPS
from patterns.taxonomy import PATTERNS

from ...ablation.folder import DRAWS, SINGLE
from ...ablation.folder import GROUPS as ABLATED_GROUPS
from ...comparison.consistency import kept_frame, subnetwork_in
from ...search.folder import IMPORTANCE, IMPORTANCE_COLUMNS, SURVIVAL, SURVIVAL_COLUMNS
from ...search.runs import find_groups
from ..config import Reference, Study
from ..folder import REPORT, STUDY, StudyFolder
from ..job import plan_in, read_plan
from ..plan import JOINT, WEIGHTS, Plan, Step, search_step
from ..records import PrunedStepResult, ScoredResult, TunedResult

if TYPE_CHECKING:
    import pandas as pd

TABLES, RECORD = "tables", "study.json"
"""The folder of a report in which they lie, and what says there which study they are of."""
SEARCH, SEARCH_WEIGHTS = search_step(JOINT), search_step(WEIGHTS)
FORMAT = 1
"""Of these tables; a change that headscope cannot read both sides of raises it."""
_OF_MODEL = {"task": "O", "seed": "iu"}
_OF_ABLATED = {**_OF_MODEL, "of": "O"}
COLUMNS: Mapping[str, Mapping[str, str]] = {
    "steps": {
        **dict.fromkeys(("path", "metric"), "O"),
        **dict.fromkeys(("score", "mismatched_score"), "f"),
        **dict.fromkeys(("majority", "guessing", "mismatched_majority", "mismatched_guessing"), "f"),
        **dict.fromkeys(("encoder_share", "heads", "mlps", "topped_up_heads", "topped_up_mlps"), "f"),
        "below_majority": "b",
    },
    "times": {"path": "O", "seconds": "f", "cpu_seconds": "f"},
    "warnings": {"path": "O", "message": "O"},
    "kept": {**dict.fromkeys(("path", "method", "what"), "O"), "layer": "iu", "head": "iu", "kept": "b"},
    "importance": {
        **_OF_MODEL,
        **{name: of for name, of in IMPORTANCE_COLUMNS.items() if name not in ("iteration", "kept")},
    },
    "kept_weights": {"path": "O", **SURVIVAL_COLUMNS},
    "maps": {"path": "O", "example": "iu", "kind": "O", "layer": "iu", "head": "iu", "label": "O"},
    "ablation": {**_OF_ABLATED, "kind": "O", "sort": "O", "name": "O", "drop": "f"},
    "ablation_draws": {**_OF_ABLATED, **dict.fromkeys(("kind", "sort", "name", "heads"), "O"), "drop": "f"},
    "ablation_heads": {**_OF_ABLATED, "kind": "O", "layer": "iu", "dominant": "O", "drop": "f"},
}
"""By table the columns that are read of it, and the kinds of their numpy types."""
_WHOLE = ("ablation",)
"""Tables of which every column is kept, not those alone that are read."""


def is_report(folder: Path | str) -> bool:
    """Whether a folder holds a report rather than a study: tables to make the report of again.

    Raises:
        InputError: it is that of a study which lies around it, and has more to report; or its tables are a link.
    """
    folder = Path(folder)
    if not (folder / TABLES / RECORD).is_file() or (folder / STUDY).exists():
        return False
    around = folder.resolve().parent
    if folder.resolve().name == REPORT and (around / STUDY).is_file():
        raise InputError(f"{folder} is the report of the study in {around}; give that folder.")
    if (folder / TABLES).is_symlink():
        raise InputError(
            f"{folder / TABLES} is a link, which headscope does not follow; put the tables in its place."
        )
    return True


def plan_at(folder: Path | str) -> Plan:
    """Return the plan of the study that a folder holds, or the report of.

    Raises:
        InputError: it holds neither.
    """
    if not is_report(folder):
        return read_plan(Path(folder))
    file = Path(folder) / TABLES / RECORD
    return plan_in(file, read_json(file, "a study's record"))


@dataclass(frozen=True)
class StudyTables:
    """What the finished steps of a study say, a row each; a table that no step says anything of is empty.

    ``path`` is a step's, ``qqp/seed_42/search-heads``; where there is none, ``task`` and ``seed`` say whose row it is.
    """

    plan: Plan
    steps: pd.DataFrame
    """Every finished step, and of one that scores a model its score and what is left of that model."""
    times: pd.DataFrame
    """How long each took: the one table that is another one whenever the study is done anew."""
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

    def of_same_study(self, other: Plan) -> bool:
        """Whether another plan has steps of this study: the same model, data and settings, of more or fewer seeds."""
        own, others = ({plan.identity(step) for step in plan.steps} for plan in (self.plan, other))
        return bool(own & others)

    def beside(self, references: Sequence[Reference]) -> StudyTables:
        """Return the same, with these published scores to stand beside the study's."""
        study = replace(self.plan.study, references=tuple(references))
        return replace(self, plan=replace(self.plan, study=study))

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
        about = {"study": asdict(_without_folders(self.plan.study)), "materials": asdict(self.plan.materials)}
        write_json(folder / RECORD, {**about, "format": FORMAT, "tables": written})

    @classmethod
    def load(cls, folder: Path) -> StudyTables:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: a table is missing or is not what was written, or a row is of no step of the study.
        """
        file = folder / RECORD
        about = check_fields(
            file, read_json(file, "a study's record"), {"tables": "texts by name", "format": "count"}
        )
        if about["format"] > FORMAT:
            raise InputError(f"{file} is of a newer version of headscope; install that one.")
        plan, known = plan_in(file, about), about["tables"]
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
        _check(found, plan, folder)
        return cls(plan, **found)


def _check(tables: Mapping[str, pd.DataFrame], plan: Plan, folder: Path) -> None:
    """Compare the rows of tables with the steps that they should be of.

    Raises:
        InputError: a step is there twice or not of the study, or lacks its rows; or a pattern is unknown.
    """
    paths = tables["steps"]["path"]
    if (strange := set(paths) - set(plan.by_path)) or paths.duplicated().any():
        what = f"has {min(strange)!r}, which is no step of the study" if strange else "has a step twice"
        raise InputError(f"{folder / 'steps.parquet'} {what} in {folder / RECORD}.")
    done = [plan.by_path[path] for path in paths]
    for name, (of, _) in _READ.items():
        file, keys = (
            folder / f"{name}.parquet",
            [key for key in ("path", *_OF_ABLATED) if key in COLUMNS[name]],
        )
        wanted = {tuple(_told(step)[key] for key in keys) for step in done if of(step)}
        there = set(tables[name][keys].itertuples(index=False, name=None))
        if odd := there - wanted:
            raise InputError(f"{file} has rows of {_words(odd)}, a step that is not done.")
        if name not in _PERHAPS and (lost := wanted - there):
            raise InputError(f"{file} lacks the rows of {_words(lost)}.")
    if unknown := set(tables["maps"]["label"].dropna()) - {pattern.value for pattern in PATTERNS}:
        raise InputError(
            f"{folder / 'maps.parquet'} has {min(unknown)!r}, which is none of the five patterns."
        )
    for path, kept in tables["kept"].groupby("path", sort=False):
        try:
            subnetwork_in(kept)
        except InputError as error:
            raise InputError(f"{folder / 'kept.parquet'}, {path}: {error}") from error


def _words(keys: Collection[tuple[object, ...]]) -> str:
    return ", ".join(map(str, min(keys, key=str)))


def _told(step: Step) -> dict[str, Any]:
    """What tables call a step."""
    return {"path": step.path, "task": step.task, "seed": step.seed, "of": step.settings.get("of")}


def _without_folders(study: Study) -> Study:
    """Return a study that names model and data without the folders that they lie in."""
    own = [
        {**record, "data": short_name(record["data"])} if record.get("data") else record
        for record in study.own_tasks
    ]
    named = replace(
        study, model=short_name(study.model), data=study.data and short_name(study.data), output=None
    )
    return replace(named, own_tasks=tuple(own))


def read_steps(home: StudyFolder) -> StudyTables:
    """Read the finished steps of a study.

    Raises:
        InputError: the folder holds no study, or a file is missing or is not what was written.
    """
    plan = read_plan(home.path)
    done = [step for step in plan.steps if home.is_done(step)]
    found = {
        name: _joined([read(home, step) for step in done if of(step)], name)
        for name, (of, read) in _READ.items()
    }
    study = plan.study
    for folder in (study.model, study.data, *(record.get("data") for record in study.own_tasks)):
        if folder and Path(folder).is_absolute():
            told = found["warnings"]["message"].str.replace(folder, short_name(folder), regex=False)
            found["warnings"] = found["warnings"].assign(message=told)
    return StudyTables(plan, steps=_frame([_row(home, step) for step in done], "steps"), **found)


def _row(home: StudyFolder, step: Step) -> dict[str, object]:
    """What is told of a step, and of the model that it scores if it does."""
    found = home.read(step)
    row: dict[str, object] = {"path": step.path, "below_majority": found.get("testable") is False}
    row["metric"] = found.get("metric", "")
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


def _times(home: StudyFolder, step: Step) -> pd.DataFrame:
    return _frame([{"path": step.path, **home.read(step)["step"]}], "times")


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
    if file == SINGLE and file not in home.read(step)["step"]["files"]:  # no head was closed alone
        return _frame([], table)
    columns = {name: of for name, of in COLUMNS[table].items() if name not in _OF_ABLATED}
    return _of_model(step, read_frame(home.file(step, file), columns))


def _of_step(step: Step, table: pd.DataFrame) -> pd.DataFrame:
    """Put a step's path before the columns of its table."""
    table.insert(0, "path", step.path)
    return table


def _of_model(step: Step, table: pd.DataFrame) -> pd.DataFrame:
    """Put task and seed, and which model the heads of an ablation are closed in, before the columns of a table."""
    keys = [key for key, told in _told(step).items() if key != "path" and told is not None]
    return table.assign(**{key: _told(step)[key] for key in keys})[[*keys, *table.columns]]


_PERHAPS = ("warnings", "ablation_draws", "ablation_heads")
"""Tables that a step may say nothing of."""
_Reader = Callable[[StudyFolder, Step], "pd.DataFrame"]
_READ: Mapping[str, tuple[Callable[[Step], bool], _Reader]] = {
    "times": (lambda step: True, _times),
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
    """Return tables below each other, with the types that they have once they were written and read."""
    import pandas as pd
    import pyarrow as pa

    tables = [table for table in tables if len(table)]
    if not tables:
        return _frame([], name)
    found: pd.DataFrame = pa.Table.from_pandas(pd.concat(tables), preserve_index=False).to_pandas(
        ignore_metadata=True
    )
    return found


_DTYPES = {"iu": "int64", "f": "float64", "b": "bool"}
"""Text is what pandas takes it for, as it is when a table is read."""


def _frame(rows: Sequence[Mapping[str, object]], name: str) -> pd.DataFrame:
    """Return a table of these rows; None is no number."""
    import pandas as pd

    columns = COLUMNS[name]
    frame = pd.DataFrame(rows, columns=list(columns))
    return frame.astype({column: _DTYPES[kinds] for column, kinds in columns.items() if kinds in _DTYPES})
