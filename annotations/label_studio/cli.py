"""The sub-commands ``push``, ``pull``, ``import`` and ``export`` of ``annotate-maps``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from models.common.commands import JsonOption, printable, say
from models.common.errors import InputError
from models.common.options import Maker, takes

from ..functions import EXPORT, IMPORT, PULL, PUSH

if TYPE_CHECKING:
    from .import_export import Export, Import
    from .push_pull import Pull, Push
    from .server import Token


@takes(PUSH)
def push(make: Maker, as_json: JsonOption = False) -> None:
    """Send maps to a Label Studio project to be labelled.

    Each map becomes a task with its picture, five choices (keys 1 to 5) and, unless --blind, what the classifier
    says, with its margin as score: the least certain come first. Maps that the project has are not sent again, so
    a push that was cut off is just repeated. The token is read from LABEL_STUDIO_API_KEY, or asked for.

    Example: annotate-maps push my-maps --project "heads of my model" --annotators-per-map 2
    """
    job: Push = make(token=_token())
    done = job.run(progress=not as_json)
    for note in done["notes"]:
        say(f"warning: {note}")
    if done["duplicates"]:
        say(f"warning: {done['duplicates']} maps are in the project more than once, since before this push.")
    if as_json:
        print(json.dumps(done, indent=2))
        return
    from models.common.terminal import print_text

    where = done["project"]
    print_text(
        f"{done['added']} maps added to {'the new ' if where['new'] else ''}project {where['id']}, "
        f"{where['title']!r}; {done['there']} were there"
    )
    if done["predictions"]:
        print_text(f"{done['predictions']} with what the classifier says")
    if done["lost_replies"]:
        print_text(f"{done['lost_replies']} replies were lost on the way; nothing was sent twice")
    say(f"label them: {where['url']}, then Label All Tasks")


@takes(PULL)
def pull(make: Maker, as_json: JsonOption = False) -> None:
    """Bring the labels of a Label Studio project back into the folder of the maps.

    Can be repeated at any time: each label counts once, and an annotator's later label of a map replaces the
    earlier. Labels that were deleted or skipped there since are withdrawn; those of deleted tasks stay, and that is
    said. What is not taken (skips, drafts, unknown choices, tasks of other maps) is counted, with the reason.

    Example: annotate-maps pull my-maps --project "heads of my model"
    """
    job: Pull = make(token=_token())
    _report(job.run(progress=not as_json), as_json)


@takes(IMPORT)
def import_(
    make: Maker,
    annotator: Annotated[
        list[str] | None,
        typer.Option("--annotator", help="Who a number is, as 3=ann@example.org; can be repeated."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Read labels from a file: an export of Label Studio, or maps and labels in a published layout.

    A task is matched to a map by the id that push gave it, by --id-field, or by the name of its picture's file;
    pictures are never opened. A folder (or its labels.txt or attention_norm_annotated.tsv) brings its maps along,
    and DIR is made if it is not there. JSON is the only export with skips, drafts and who changed what.

    Example: annotate-maps import project-3.json my-maps
    """
    names = {}
    for text in annotator or ():
        number, equals, name = text.partition("=")
        if not (number.strip().isdecimal() and equals and name.strip()):
            raise InputError(f"--annotator {text!r}: give a number and a name, as 3=ann@example.org.")
        names[number.strip()] = name.strip()
    job: Import = make(annotators=names)
    _report(job.run(progress=not as_json), as_json)


@takes(EXPORT)
def export(make: Maker, as_json: JsonOption = False) -> None:
    """Write maps and labels in another format.

    label-studio, json-min, csv and tsv are files that import reads back; published is the layout of the paper's
    data, one label per map (the majority's); dataset is a folder for datasets.load_dataset, which --push-to-hub
    publishes too.

    Example: annotate-maps export my-maps labels.json --format label-studio
    """
    job: Export = make()
    done = job.run()
    if "published" in done:
        say(f"published: {done['published']}")
    if as_json:
        print(json.dumps(done, indent=2))
        return
    from models.common.terminal import print_text

    print_text(f"{done['maps']} maps and {done['labels']} labels written to {done['output']}")
    for why, number in done["left"].items():
        print_text(f"left out: {number} {why}")


COMMANDS: dict[str, Callable[..., None]] = {
    "push": push,
    "pull": pull,
    "import": import_,
    "export": export,
}
"""Name and Typer function of each."""


def _token() -> Token:
    from .server import VARIABLE, Token, check_client, token_of

    check_client()
    if not os.environ.get(VARIABLE, "").strip() and sys.stdin.isatty():
        return Token(typer.prompt("Label Studio token", hide_input=True, err=True))
    return token_of()


def _report(done: Mapping[str, Any], as_json: bool) -> None:
    from models.common.terminal import print_text

    from .matching import NO_ID

    if as_json:
        print(json.dumps(done, indent=2))
        return
    if "project" in done:
        print_text(f"project {done['project']['id']}, {done['project']['title']!r}: {done['tasks']} tasks")
    if done["new_maps"]:
        print_text(f"{done['new_maps']} maps added")
    print_text(f"{done['taken']} labels: {done['added']} new, {done['known']} known before")
    if done["replaced"]:
        print_text(f"  {done['replaced']} in place of an earlier label of the same annotator")
    if done.get("withdrawn"):
        print_text(f"withdrawn: {done['withdrawn']} labels that are deleted there")
    if done.get("deleted_tasks"):
        print_text(f"{done['deleted_tasks']} tasks that had labels are deleted there; the labels stay")
    for what, number in done["notes"].items():
        print_text(printable(f"  {number} {what}"))
    for why, number in done["left"].items():
        about = ", ".join(done["about"].get(why, ()))
        print_text(printable(f"left: {number} {why}" + (f" ({about})" if about else "")))
    if NO_ID in done["left"]:
        say("if another field of the tasks' data holds the maps' ids, name it with --id-field.")
    if done["unlabelled"]:
        print_text(f"{done['unlabelled']} tasks are not labelled yet")
