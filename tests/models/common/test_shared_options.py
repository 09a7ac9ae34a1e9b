"""What all commands take: --version, --quiet, --verbose, variables of the environment, and completion in shells."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
import typer.main

from models import InputError
from models.common.commands import NO_VARIABLE, JsonOption, command, say
from models.common.options import Maker, Options, takes
from models.common.progress import part, timed
from models.common.provenance import headscope_version, provenance
from models.common.session import SESSION

ROOT = Path(__file__).parents[3]
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
STUDY = {"--model", "--data", "--output"}
"""Options of run-study that its file says."""
BY_HAND = {"--overwrite", "--force", "--dry-run", "--push-to-hub", "--version", "--help"}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("HEADSCOPE_"):
            monkeypatch.delenv(name)


def mains() -> dict[str, Any]:
    places = {name: where.split(":") for name, where in SCRIPTS.items()}
    return {name: getattr(importlib.import_module(one[0]), one[1]) for name, one in places.items()}


def parsers() -> Iterator[tuple[str, Any]]:
    for name, main in mains().items():
        parser: Any = typer.main.get_command(main.app)
        for word, one in getattr(parser, "commands", {"": parser}).items():
            yield f"{name} {word}".strip(), one


@command
def work(
    batch_size: Annotated[int, typer.Option("--batch-size")] = 4,
    seeds: Annotated[list[str] | None, typer.Option("--seeds")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite")] = False,
    of_file: Annotated[str | None, typer.Option("--of-file", envvar=NO_VARIABLE)] = None,
    fast: Annotated[bool, typer.Option("--fast/--no-fast")] = True,
    as_json: JsonOption = False,
) -> None:
    """Work."""
    with part("a part") as found:
        found.append("from a file")
    say("a note")
    say("warning: a warning")
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size}: give at least 1.")
    if batch_size > 9:
        raise InputError(f"--batch-size {batch_size}: give less, and no --batch-size-of-all.")
    print(json.dumps([batch_size, seeds, overwrite, of_file, fast, provenance().get("environment")]))


def result(out: str) -> list[Any]:
    found: list[Any] = json.loads(out)
    return found


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_command_says_its_version_and_does_nothing_else(script: str, run_command: Any) -> None:
    assert run_command(mains()[script], "--version") == (0, f"headscope {headscope_version()}\n", "")


def test_sub_commands_say_it_too(run_command: Any) -> None:
    code, out, err = run_command(mains()["annotate-maps"], "status", "--version")
    assert (code, out, err) == (0, f"headscope {headscope_version()}\n", "")


def test_quiet_keeps_errors_warnings_and_the_result(run_command: Any) -> None:
    assert run_command(work)[2] == "a note\nwarning: a warning\n"
    code, out, err = run_command(work, "--quiet")
    assert (code, err) == (0, "warning: a warning\n")
    assert result(out)[0] == 4
    code, _, err = run_command(work, "--quiet", "--batch-size", "0")
    assert (code, err) == (2, "warning: a warning\n--batch-size 0: give at least 1.\n")


def test_verbose_says_what_each_part_took_on_stderr_alone(run_command: Any) -> None:
    code, out, err = run_command(work, "--verbose", "--json")
    assert code == 0
    assert result(out)[0] == 4
    first, of_part, *_, last = err.splitlines()
    assert first.startswith(f"headscope {headscope_version()}, Python 3.")
    assert of_part.split() == [of_part.split()[0], "s", "a", "part,", "from", "a", "file"]
    assert last.split()[1:] == ["s", "in", "all"]
    assert 0 <= float(of_part.split()[0]) <= float(last.split()[0]) + 0.01


def test_a_function_that_is_a_part_says_what_it_gave(run_command: Any) -> None:
    @command
    def the_command() -> None:
        """Work."""
        assert double(2) == 4

    @timed(lambda found: f"doubled to {found}")
    def double(number: int) -> int:
        return 2 * number

    assert run_command(the_command)[2] == ""
    assert "s  doubled to 4\n" in run_command(the_command, "--verbose")[2]


def test_how_one_command_talks_is_not_how_the_next_does(run_command: Any) -> None:
    run_command(work, "--quiet")
    run_command(work, "--verbose", "--batch-size", "0")
    assert (SESSION.quiet, SESSION.verbose, dict(SESSION.variables)) == (False, False, {})


def test_quiet_and_verbose_exclude_each_other_and_what_is_given_goes_before_a_variable(
    run_command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_command(work, "--quiet", "--verbose") == (2, "", "--quiet and --verbose: give one of them.\n")
    monkeypatch.setenv("HEADSCOPE_QUIET", "1")
    assert run_command(work)[2] == "warning: a warning\n"
    assert "in all" in run_command(work, "--verbose")[2]
    monkeypatch.setenv("HEADSCOPE_VERBOSE", "1")
    code, _, err = run_command(work)
    assert code == 2
    assert "--quiet is taken from HEADSCOPE_QUIET=1. --verbose is taken from HEADSCOPE_VERBOSE=1." in err


def test_a_variable_is_the_default_of_an_option_and_is_on_record(
    run_command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSCOPE_BATCH_SIZE", "7")
    monkeypatch.setenv("HEADSCOPE_SEEDS", "1 2")
    monkeypatch.setenv("HEADSCOPE_FAST", "no")
    given = {"HEADSCOPE_BATCH_SIZE": "7", "HEADSCOPE_SEEDS": "1 2", "HEADSCOPE_FAST": "no"}
    assert result(run_command(work)[1]) == [7, ["1", "2"], False, None, False, given]
    del given["HEADSCOPE_BATCH_SIZE"]  # the command line goes before it
    assert result(run_command(work, "--batch-size", "8")[1]) == [8, ["1", "2"], False, None, False, given]
    monkeypatch.setenv("HEADSCOPE_BATCH_SIZE", "")  # as if it were not set
    assert result(run_command(work)[1])[0] == 4


def test_without_variables_a_record_is_as_it_was(run_command: Any) -> None:
    assert result(run_command(work)[1])[-1] is None


def test_verbose_says_what_was_taken_from_where(run_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSCOPE_BATCH_SIZE", "7")
    assert "--batch-size is taken from HEADSCOPE_BATCH_SIZE=7\n" in run_command(work, "--verbose")[2]


@pytest.mark.parametrize("value", ["0", "10", "many", "\udcff"])
def test_a_variable_is_checked_as_the_option_is_and_named(
    value: str, run_command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSCOPE_BATCH_SIZE", value)
    code, out, err = run_command(work)
    assert (code, out) == (2, "")
    assert "HEADSCOPE_BATCH_SIZE" in err
    assert "Traceback" not in err


def test_an_error_of_an_option_that_was_given_names_no_variable(
    run_command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSCOPE_BATCH_SIZE", "7")
    assert "HEADSCOPE" not in run_command(work, "--batch-size", "0")[2]


def test_what_deletes_is_asked_for_by_hand_and_what_a_file_says_is_no_variables(
    run_command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSCOPE_OVERWRITE", "1")
    monkeypatch.setenv("HEADSCOPE_OF_FILE", "x")
    _, out, err = run_command(work)
    assert result(out)[2:4] == [False, None]
    assert "warning: HEADSCOPE_OVERWRITE is ignored, since --overwrite is given by hand alone.\n" in err


def test_a_misspelt_variable_is_named_and_others_are_not(
    run_command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BATCHSIZE", "LEARNING_RATE", "CHROMIUM", "NO_SKIP"):  # of another command, and of our tests
        monkeypatch.setenv(f"HEADSCOPE_{name}", "1")
    monkeypatch.setenv("HEADSCOPE_EMPTY", "")
    warned = [line for line in run_command(work)[2].splitlines() if "HEADSCOPE" in line]
    assert warned == [
        "warning: HEADSCOPE_BATCHSIZE is ignored, since it is the variable of no option; perhaps "
        "HEADSCOPE_BATCH_SIZE was meant."
    ]


def test_help_says_where_defaults_come_from(run_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    out = " ".join(run_command(work, "--help")[1].split())
    assert "HEADSCOPE_BATCH_SIZE=8 for --batch-size 8" in out
    assert "env var" not in out
    monkeypatch.setenv("HEADSCOPE_SEEDS", "1")  # only what is set is shown beside its option
    command_again: Any = command(work_again)
    assert "env var: HEADSCOPE_SEEDS" in " ".join(run_command(command_again, "--help")[1].split())


def work_again(seeds: Annotated[list[str] | None, typer.Option("--seeds", help="Some.")] = None) -> None:
    """Work."""


def test_every_option_of_every_command_has_its_variable() -> None:
    for name, parser in parsers():
        for parameter in parser.params:
            option = parameter.opts[0]
            if parameter.param_type_name != "option" or "completion" in option:
                continue
            alone = option in BY_HAND or (name == "run-study" and option in STUDY)
            variable = f"HEADSCOPE_{option[2:].replace('-', '_').upper()}"
            names = parameter.envvar if isinstance(parameter.envvar, list) else [parameter.envvar]
            assert (variable in names) == (not alone), (name, option)


def test_functions_of_python_read_no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSCOPE_EXAMPLES", "7")
    job = Options("patterns.job:ClassifyHeads").job("f", {"task": "qqp"}, model="m")
    assert job.examples == 100


def test_a_required_option_may_come_from_a_variable(
    run_command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}

    @command
    @takes(Options("patterns.job:ClassifyHeads", hidden=("classifiers",)))
    def classify(make: Maker) -> None:
        """Classify."""
        seen["job"] = make()

    monkeypatch.setenv("HEADSCOPE_MODEL", "m")
    monkeypatch.setenv("HEADSCOPE_MAPS", "norm")
    code, _, err = run_command(classify, "--task", "qqp")
    assert (code, err) == (0, "")
    assert (seen["job"].model, seen["job"].maps) == ("m", ("norm",))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_options(shell: str) -> None:
    """What the script that --show-completion prints asks the command."""
    asked = {
        "bash": {"COMP_WORDS": "classify-heads --ex", "COMP_CWORD": "1"},
        "zsh": {"_TYPER_COMPLETE_ARGS": "classify-heads --ex"},
        "fish": {"_TYPER_COMPLETE_ARGS": "classify-heads --ex", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    start = "import sys; sys.argv[0] = 'classify-heads'; from patterns.cli import classify_heads; classify_heads()"
    done = subprocess.run(
        [sys.executable, "-c", start],
        cwd=ROOT,
        env={**os.environ, "_CLASSIFY_HEADS_COMPLETE": f"complete_{shell}", **asked},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "--examples" in done.stdout
    assert "--device" not in done.stdout
    assert done.stderr == ""
