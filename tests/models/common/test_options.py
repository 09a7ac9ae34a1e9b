"""What a command takes is what its job's fields say: names, types, defaults and help."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
import typing
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import typer.main

import annotations.functions
import models.finetuning.functions
import patterns.functions
import pruning.functions
from models import InputError
from models.common.options import REQUIRED, SHARED, Options, options_of

ROOT = Path(__file__).parents[3]
SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
ALL: dict[str, Options] = {
    f"{module.__name__}.{name}": options
    for module in (annotations.functions, models.finetuning.functions, patterns.functions, pruning.functions)
    for name, options in vars(module).items()
    if isinstance(options, Options)
}
OPTIONS = pytest.mark.parametrize("options", ALL.values(), ids=ALL)


def commands() -> dict[str, Any]:
    """Every command and sub-command, as Click has it."""
    found = {}
    for name, where in SCRIPTS.items():
        module, function = where.split(":")
        click: Any = typer.main.get_command(getattr(importlib.import_module(module), function).app)
        found |= {f"{name} {word}": one for word, one in getattr(click, "commands", {}).items()} or {
            name: click
        }
    return found


def loaded(where: str) -> Any:
    module, name = where.split(":")
    return getattr(importlib.import_module(module), name)


def parts(options: Options) -> list[str]:
    return [options.where, *(part.where for part in options.parts.values())]


@OPTIONS
def test_what_is_read_from_the_source_is_what_python_has(options: Options) -> None:
    for where in parts(options):
        read = {option.name: option for option in options_of(where)}
        there = dataclasses.fields(loaded(where))
        assert list(read) == [field.name for field in there]
        for field in there:
            assert read[field.name].type == field.type
            if field.default_factory is not dataclasses.MISSING:
                assert read[field.name].default is None
            else:
                missing = field.default is dataclasses.MISSING
                assert read[field.name].default == (REQUIRED if missing else field.default)


@OPTIONS
def test_every_option_says_what_it_is_and_has_a_type_that_a_command_reads(options: Options) -> None:
    for one in options.parameters():
        kind, declared = typing.get_args(one.annotation)
        assert declared.help.endswith((".", "..."))
        assert not set(declared.help) & {"`", "\n"}
        assert kind in (str, str | None, int, int | None, float, float | None, bool, Path, Path | None) or (
            typing.get_origin(kind) is list
        )


@OPTIONS
def test_what_is_hidden_renamed_or_given_by_position_is_a_field(options: Options) -> None:
    names = [option.name for where in parts(options) for option in options_of(where)]
    assert len(set(names)) == len(names)  # or one of two would be given to both
    for part in options.parts.values():
        assert set(part.shown) <= {option.name for option in options_of(part.where)}
    assert set(names) >= {
        *(*options.hidden, *options.named, *options.arguments, *options.parts),
        *(*options.described, *options.environment),
    }


def test_a_default_is_stated_once_and_shown() -> None:
    for name, command in commands().items():
        shown = {parameter.name: parameter.default for parameter in command.params}
        if name == "classify-heads":
            assert shown["examples"] == 100
            assert shown["maps"] == "raw,norm"
            assert shown["output"] is None
        if name == "finetune-glue":
            assert shown["learning_rate"] == 2e-5
            assert shown["max_examples"] is None


def test_every_command_but_one_is_made_of_a_dataclass() -> None:
    own = {"job", "help", "as_json", "raw_classifier", "norm_classifier", "annotator", "words", "dry_run"}
    own |= {"quiet", "verbose", "version", "install_completion", "show_completion"}
    fields = {
        option.name for options in ALL.values() for where in parts(options) for option in options_of(where)
    }
    for name, command in commands().items():
        if name != "annotate-maps status":
            assert {parameter.name for parameter in command.params} - own <= fields, name


def test_options_are_read_as_what_their_fields_are() -> None:
    sample = annotations.functions.SAMPLE
    given = {"model": "m", "task": "qqp", "output": Path("o")}
    job = sample.job("f", {"maps": "raw, norm", "exclude": "a", "data": Path("d")}, **given)
    assert (job.maps, job.exclude, job.data) == (("raw", "norm"), (Path("a"),), "d")
    job = sample.job("f", {"maps": ["raw"], "exclude": ["a", Path("b")]}, **given)
    assert (job.maps, job.exclude) == (("raw",), (Path("a"), Path("b")))
    job = patterns.functions.CLASSIFY_HEADS.job("f", {"output": "o", "data": None}, model="m", task="qqp")
    assert (job.output, job.data) == (Path("o"), None)
    tuned = models.finetuning.functions.FINETUNE.job(
        "f", {"epochs": 1, "seeds": "3,4", "report_to": "a,b"}, model="m", task="qqp", output=Path("o")
    )
    assert (tuned.settings.epochs, tuned.seeds, tuned.settings.report_to) == (1, (3, 4), ("a", "b"))


def test_an_option_that_nothing_has_is_named_with_those_that_there_are() -> None:
    with pytest.raises(
        InputError, match=r"^f\(\) has no option 'exmaples'; it has annotations, batch_size, classifiers, "
    ):
        patterns.functions.CLASSIFY_HEADS.job("f", {"exmaples": 3}, model="m")
    with pytest.raises(InputError, match="no option 'search'"):
        pruning.functions.PRUNE_HEADS.job("f", {"search": 3}, model="m", task="qqp", output=Path("o"))


def test_shared_help_is_used() -> None:
    silent = {
        option.name
        for options in ALL.values()
        for where in parts(options)
        for option in options_of(where)
        if option.help == SHARED.get(option.name)
    }
    assert silent == SHARED.keys()


SHOWS = {"typer", "rich", "lazy-loader"}
"""What help is shown with."""


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_imports_nothing_that_headscope_needs_for_its_work(script: str) -> None:
    """Which is why it is there at once. Held for every package that headscope asks for, and not by a clock."""
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[^\w-]", one)[0].replace("_", "-") for one in asked}
    assert names > SHOWS
    of_package = metadata.packages_distributions()
    heavy = {
        top
        for top, owners in of_package.items()
        if {one.replace("_", "-") for one in owners} & (names - SHOWS)
    }
    assert heavy > {"torch", "transformers", "numpy", "pandas", "sklearn", "joblib", "pyarrow", "tqdm"}
    module, function = SCRIPTS[script].split(":")
    code = (
        f"import sys; from {module} import {function} as main; sys.argv = ['{script}', '--help']\n"
        "try:\n    main()\n"
        f"finally:\n    print([one for one in {sorted(heavy)} if one in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stderr == "[]\n", script
    assert "Usage" in done.stdout


def test_the_signature_is_typers_alone() -> None:
    for options in ALL.values():
        kinds = {one.kind for one in options.parameters()}
        assert kinds == {inspect.Parameter.KEYWORD_ONLY}
