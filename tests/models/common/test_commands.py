"""How a command ends: exit code, one sentence on stderr, and a stdout that holds only what was asked for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

from models import HeadscopeError, InputError, TapError, UnsupportedModelError
from models.common.commands import JsonOption, command, quiet_libraries, say

QUIETED = (
    "HF_HUB_DISABLE_PROGRESS_BARS",
    "TQDM_MININTERVAL",
    "TRANSFORMERS_VERBOSITY",
    "HF_HUB_VERBOSITY",
    "DATASETS_VERBOSITY",
)
ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def environment_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command sets variables for the libraries that it loads; another test must not see them."""
    for name in QUIETED:
        monkeypatch.setenv(name, "")  # so that it is put back afterwards, whoever deletes or sets it
        monkeypatch.delenv(name)


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[Any, str, str]]:
    """Run a console script: exit code, stdout, stderr."""

    def call(main: Callable[[], None], *arguments: str) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", ["the-command", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        return (stopped.value.code or 0, *capfd.readouterr())

    return call


PRINTING = """
import json, sys
from rich.console import Console
from models.common.commands import command, say

def the_command(how: str) -> None:
    if how == "much":
        print("x" * 100_000)
    elif how == "rich":
        Console().print("a table")
    elif how == "bad":
        from models import InputError
        print("so far")
        raise InputError("bad input")
    elif how == "progress":
        from tqdm import tqdm
        for _ in tqdm(range(3), mininterval=0):
            pass
        print("done")
    else:
        print("little")
    say("a note")

command(the_command)()
"""
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


def printing(*words: str, to: str, note: str = "pipe", unbuffered: str = "") -> tuple[int, str]:
    """Run Python with a stdout that is full, closed, or read by nobody; return the code and what stderr says."""
    command = [sys.executable, "-c", *words]
    if to == "closed":
        command = ["sh", "-c", 'exec "$@" >&-', "sh", *command]
    read, write = os.pipe()
    os.close(read)
    with Path("/dev/full").open("w") as full:
        streams = {"full": full, "pipe": write, "closed": None}
        done = subprocess.run(
            command, stdout=streams[to], stderr=full if note == "full" else subprocess.PIPE, text=True, cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        )  # fmt: skip
    os.close(write)
    return done.returncode, done.stderr or ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, could not import")
class TestWhereNobodyReads:
    """``| head -1``, a full disk behind ``>``, and ``>&-``: a sentence or silence, and never a traceback."""

    @pytest.mark.parametrize("unbuffered", ["", "1"])
    @pytest.mark.parametrize("how", ["little", "much", "rich"])
    def test_a_pipe_that_was_closed_is_silence(self, how: str, unbuffered: str) -> None:
        code, err = printing(PRINTING, how, to="pipe", unbuffered=unbuffered)
        assert code == 1
        assert err in ("", "a note\n")

    @pytest.mark.parametrize("unbuffered", ["", "1"])
    @pytest.mark.parametrize("how", ["little", "much", "rich"])
    def test_a_full_disk_is_a_sentence(self, how: str, unbuffered: str) -> None:
        code, err = printing(PRINTING, how, to="full", unbuffered=unbuffered)
        assert code == 2
        *_, last = err.splitlines()
        assert last == "What was to be printed could not be written: No space left on device."
        assert "Traceback" not in err
        assert "nothing was written" not in err

    @pytest.mark.parametrize("to", ["pipe", "full", "closed"])
    def test_an_error_keeps_its_code_and_sentence(self, to: str) -> None:
        code, err = printing(PRINTING, "bad", to=to)
        assert code == 2
        assert err.splitlines()[0] == "bad input"
        assert "Traceback" not in err

    def test_without_a_stdout_it_is_done(self) -> None:
        assert printing(PRINTING, "little", to="closed") == (0, "a note\n")

    @pytest.mark.parametrize(("how", "code"), [("little", 2), ("bad", 2), ("progress", 2)])
    def test_with_both_full_the_code_says_it(self, how: str, code: int) -> None:
        assert printing(PRINTING, how, to="full", note="full") == (code, "")

    @pytest.mark.parametrize("script", SCRIPTS)
    @pytest.mark.parametrize("words", [["--help"], pytest.param([], marks=pytest.mark.slow)])
    def test_every_command(self, script: str, words: list[str]) -> None:
        room, name = SCRIPTS[script].split(":")
        start = f"import sys; sys.argv[0] = {script!r}; from {room} import {name}; {name}()"
        for to, expected in (("pipe", 1), ("full", 2)):
            code, err = printing(start, *words, to=to)
            assert code == (expected if words else 2), (
                err
            )  # without options, the usage error on stderr stands
            assert "Traceback" not in err
            assert "Exception ignored" not in err


def failing(error: BaseException) -> Callable[[], None]:
    @command
    def the_command() -> None:
        """Fail."""
        raise error

    return the_command


@command
def count_heads(
    model: Annotated[str, typer.Option("--model")],
    task: Annotated[str, typer.Option("--task")],
    data: Annotated[str | None, typer.Option("--data")] = None,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    times: Annotated[int, typer.Option("--times", help="How often [once: 1].")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Count heads.

    This paragraph stands on two lines in the source, although a terminal of two hundred columns has room
    for it on one [as it is].

    Example: count-heads --model bert-base-uncased --task qqp
    """
    say(f"counting the heads of {model}")
    print([task, data, seed, times, as_json])


def test_done_is_0_and_stdout_holds_what_was_printed(run: Any) -> None:
    code, out, err = run(count_heads, "--model", "bert", "--task", "qqp", "--times", "3", "--json")
    assert code == 0
    assert out == "['qqp', None, 0, 3, True]\n"
    assert err == "counting the heads of bert\n"


@pytest.mark.parametrize("kind", [HeadscopeError, InputError, UnsupportedModelError, TapError])
def test_an_error_of_ours_is_2_and_its_sentence_on_stderr(run: Any, kind: type[HeadscopeError]) -> None:
    code, out, err = run(failing(kind("x.jsonl, row 3 has [no] column 'sentence': <give> one.")))
    assert code == 2
    assert out == ""
    assert err == "x.jsonl, row 3 has [no] column 'sentence': <give> one.\n"


def test_a_path_that_cannot_be_looked_at_is_2_and_named(run: Any) -> None:
    for path, why in (("a" * 300, "File name too long"), ("secret/m", "Permission denied")):
        code, out, err = run(failing(OSError(13 if why.startswith("P") else 36, why, path)))
        assert (code, out) == (2, "")
        assert err.startswith(f"{path}: {why}")
        assert err.count("\n") == 1


def test_an_interrupt_is_130_and_says_so(run: Any) -> None:
    code, out, err = run(failing(KeyboardInterrupt()))
    assert code == 130
    assert out == ""
    assert err == "interrupted; nothing was written.\n"


def test_a_fault_of_the_program_is_not_dressed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["the-command"])
    with pytest.raises(ZeroDivisionError):
        failing(ZeroDivisionError("ours"))()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((), "--model"),
        (("--model", "bert"), "--task"),
        (("--model", "bert", "--task", "qqp", "--seed", "many"), "--seed"),
        (("--model", "bert", "--task", "qqp", "--no-such-option"), "--no-such-option"),
    ],
)
def test_a_wrong_option_is_2_and_named_on_stderr(run: Any, arguments: tuple[str, ...], named: str) -> None:
    code, out, err = run(count_heads, *arguments)
    assert code == 2
    assert out == ""
    assert named in err


def test_help_shows_the_example_and_the_shared_options(run: Any) -> None:
    code, out, _ = run(count_heads, "--help")
    assert code == 0
    assert "Example: count-heads --model bert-base-uncased --task qqp" in " ".join(out.split())
    for option in ("--model", "--task", "--data", "--seed", "--times", "--json"):
        assert option in out


def test_what_a_file_holds_reaches_the_terminal_as_one_line_of_text(run: Any) -> None:
    code, out, err = run(failing(InputError("map 'a\x1b[31m\nb\u202e' " + "x" * 10_000 + " is none.")))
    assert (code, out) == (2, "")
    assert err.startswith("map 'a")
    assert err.endswith("xxx is none.\n")
    assert err[:-1].isprintable()
    assert len(err) < 2100


def test_help_flows_with_the_terminal_and_keeps_its_brackets(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 200)
    _, out, _ = run(count_heads, "--help")
    assert "columns has room for it on one [as it is]." in out
    assert "How often [once: 1]." in out
    assert "[default: 1]" in out


def test_help_lists_options_in_groups(run: Any) -> None:
    _, out, _ = run(count_heads, "--help")
    titles = [line.split("─ ")[1].split(" ─")[0] for line in out.splitlines() if "─ " in line]
    assert titles == ["Options", "Model and data", "Running", "Output", "Every command"]
    groups = dict(zip(titles, out.split("╭─")[1:], strict=True))
    assert "--times" in groups["Options"]
    assert all(name in groups["Model and data"] for name in ("--model", "--task", "--data"))
    assert "--seed" in groups["Running"]
    assert "--json" in groups["Output"]
    assert all(name in groups["Every command"] for name in ("--quiet", "--verbose", "--version", "--help"))


def test_an_error_names_options_and_not_arguments_of_python(run: Any) -> None:
    @command
    def the_command(
        batch_size: Annotated[int, typer.Option("--batch-size")] = 0,
        seed: Annotated[int, typer.Option("--seed")] = 1,
    ) -> None:
        """Fail."""
        raise InputError(
            f"batch_size={batch_size}: give one as with seed=3; draws=2, size==3, x.seed=4 stay."
        )

    _, _, err = run(the_command)
    assert err == "--batch-size 0: give one as with --seed 3; draws=2, size==3, x.seed=4 stay.\n"
    _, _, err = run(failing(InputError("batch_size=0: give one.")))
    assert err == "batch_size=0: give one.\n"


def test_the_script_keeps_the_name_and_text_of_the_function() -> None:
    assert count_heads.__name__ == "count_heads"
    assert (count_heads.__doc__ or "").startswith("Count heads.")


def test_what_the_user_set_for_the_libraries_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_VERBOSITY", "debug")
    quiet_libraries()
    assert os.environ["HF_HUB_VERBOSITY"] == "debug"
    assert os.environ["TRANSFORMERS_VERBOSITY"] == "error"


def test_a_command_is_ready_without_torch() -> None:
    code = "import models.common.commands, sys; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_warnings_of_the_libraries_are_not_shown_and_others_are(run: Any) -> None:
    @command
    def the_command() -> None:
        """Warn."""
        for module in ("torch.optim.lr_scheduler", "joblib.externals.loky.process_executor", "torchless"):
            warnings.warn_explicit(f"from {module}", UserWarning, f"{module}.py", 1, module)

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        run(the_command)
    assert [str(one.message) for one in seen] == ["from torchless"]


def test_the_libraries_are_told_to_be_quiet(run: Any) -> None:
    run(count_heads, "--model", "bert", "--task", "qqp")
    assert os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] == "1"
    for library in ("TRANSFORMERS", "HF_HUB", "DATASETS"):
        assert os.environ[f"{library}_VERBOSITY"] == "error"


@pytest.mark.slow
def test_the_libraries_add_nothing_to_the_sentence(tmp_path: Path, tiny_bert: Any) -> None:
    """In a process of its own: loading weights that lack a layer, of which transformers prints a table."""
    tiny_bert.save_pretrained(tmp_path)
    tiny_bert.config.num_hidden_layers += 1
    tiny_bert.config.save_pretrained(tmp_path)
    code = """
from typing import Annotated

import typer

from models.common.commands import command

@command
def load(model: Annotated[str, typer.Option("--model")]) -> None:
    from models import load_checkpoint

    load_checkpoint(model)

load()
"""
    environment = {key: value for key, value in os.environ.items() if key not in QUIETED}
    done = subprocess.run(
        [sys.executable, "-c", code, "--model", str(tmp_path)],
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        f"--model {tmp_path} lacks 16 of the weights that its config asks for, "
        "e.g. encoder.layer.3.attention.output.LayerNorm.bias.\n"
    )


def test_a_current_folder_that_was_deleted_is_one_sentence(
    run_command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from models.finetuning.cli import finetune_glue

    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    code, out, err = run_command(finetune_glue, "--help")
    assert (code, out) == (2, "")
    assert err == "The current folder was deleted; change into another, and run the command again.\n"


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="could not import SIGHUP: another system")
@pytest.mark.parametrize("ignored", [False, True])
def test_a_closed_terminal_cleans_up_unless_it_was_to_be_outlived(ignored: bool, tmp_path: Path) -> None:
    """As Ctrl-C does; under nohup the command goes on."""
    code = f"""
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGHUP, signal.SIG_IGN if {ignored} else signal.SIG_DFL)
from models.common.commands import command
from models.common.outputs import Output
def work() -> None:
    with Output(Path("out"), "work").making() as folder:
        print("writing", flush=True)
        for _ in range(20):
            time.sleep(0.05)
        (folder / "a").write_text("x")
sys.argv = ["work"]
command(work)()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGHUP)
    assert process.wait() == (0 if ignored else 129)
    assert [path.name for path in tmp_path.iterdir()] == (["out"] if ignored else [])
