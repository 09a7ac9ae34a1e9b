"""The command ``run-study``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from models.common.commands import NO_VARIABLE, JsonOption, resumable, say, say_error
from models.common.options import Maker, takes

from ..functions import RUN_STUDY

if TYPE_CHECKING:
    from models.common.papers import Figures

    from .config import Reference
    from .job import RunStudy


@resumable
@takes(RUN_STUDY)
def run_study(
    make: Maker,
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[report] STUDY",
            help="The study's TOML file, or the folder of a study that was begun.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            envvar=NO_VARIABLE,
            help="Folder of the study, or of its report. Default: as the file says, or the folder given.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            envvar=NO_VARIABLE,
            help="Hub id or folder of the pre-trained model, instead of the file's.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", envvar=NO_VARIABLE, help="Folder or Hub data set, instead of the file's."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Show what there is to do, what is done, and how long the rest takes."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a whole lottery study: a grid of tasks, seeds, searches and subnetworks.

    Each model is fine-tuned, searched for the heads, MLPs and weights that it needs, and compared with good, random,
    bad and super subnetworks, pruned and fine-tuned again; then the patterns of its heads are looked at. In the end,
    tables, figures and what they support go to the folder report. If it is stopped, the same command goes on with
    the steps that are left; so does 'run-study FOLDER'. With another --output, that repeats the whole study.

    'run-study report STUDY' writes the report again, from the steps that are done, or from the tables of a report that
    somebody published; with --output, elsewhere.

    Example: run-study examples/studies/smoke.toml --output out/smoke --jobs 2
    """
    from .config import read_study
    from .job import study_folder, study_of

    if words[0] == "report" and len(words) == 2:
        from .report.tables import plan_at

        folder, references = Path(words[1]), None
        if not folder.is_dir():
            study = read_study(folder)
            references = study.references
            if study.output is None:
                output, folder = None, study_folder(study, output)
            else:
                folder = Path(study.output)
        asked: RunStudy = make(study=plan_at(folder).study, output=folder)
        _report(folder, as_json, asked.figures, output, references)
        return
    if len(words) != 1:
        raise _usage(words)
    study, folder = study_of(words[0], output, model=model, data=data)
    source = Path(words[0]) if Path(words[0]).is_file() else None
    job: RunStudy = make(study=study, output=folder, source=source)
    if dry_run:
        _show_plan(job, as_json)
        return
    done = job.run()
    if not as_json:
        say(f"{done['done']} of {done['steps']} steps are done")
    if not done["failed"] and not done["left"] and not job.only:
        _report(job.output, as_json, job.figures)
    elif as_json:
        print(json.dumps(done, indent=2))
    for path, error in done["failed"].items():
        say_error(f"{path}: {error}")
    if done["failed"]:
        waiting = f"; {len(done['left'])} others were not begun" if done["left"] else ""
        say_error(f"{len(done['failed'])} steps failed{waiting}; the same command tries them again.")
        raise typer.Exit(1)


def _usage(words: list[str]) -> Exception:
    from models.common.errors import InputError

    return InputError(f"run-study {' '.join(words)}: give one study's TOML file or folder, or: report STUDY.")


def _show_plan(job: Any, as_json: bool) -> None:
    from dataclasses import asdict

    from .estimate import estimates
    from .folder import StudyFolder

    plan, folder = job.plan(), StudyFolder(job.output)
    steps = plan.matching(job.only, needed=True) if job.only else list(plan.steps)
    again = {step.path for step in plan.matching(job.force)} if job.force else set()
    found = estimates(plan, steps, folder, again)
    damaged = [damage for step in steps if (damage := folder.damage(plan, step))]
    if as_json:
        told = [{"step": damage.step.path, "what": damage.what} for damage in damaged]
        print(
            json.dumps({"steps": [asdict(one) for one in found], "damaged": told, "jobs": job.jobs}, indent=2)
        )
        return
    from .terminal import print_plan

    print_plan(found, job.jobs)
    if any(folder.is_done(step) for step in steps if step.path in again):
        print("--force: what was made from these steps is done again too if they come out otherwise")
    for damage in damaged:
        say(f"{damage.step.path}: {damage.what}")


def _report(
    folder: Path,
    as_json: bool,
    figures: Figures,
    output: Path | None = None,
    references: Sequence[Reference] | None = None,
) -> None:
    from .report.pages import write_report

    found = write_report(folder, figures, output, references)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    from .terminal import print_report

    print_report(found.record)
    say(f"tables and figures: {found.place}")
